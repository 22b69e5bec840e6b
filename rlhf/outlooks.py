"""What the form of a run says before the start: its estimate, what that costs, or why there is none."""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

from django.forms import Form

from annotator.models import Project
from rlhf import rounds, suites
from rlhf.costs import price_of
from rlhf.estimates import free_memory_mib
from rlhf.expecting import Expected, as_json, expect
from rlhf.forms import RunForm
from rlhf.inputs import Order, RunRefused, check_suite_to_come, config_of
from rlhf.models import MAKE_POLICIES, ModelKind, ModelVersion, Run, RunKind, Status
from rlhf.text_lengths import Unknown
from rlhf.training.suite_config import SuiteConfig

INCOMPLETE = "The estimate appears when the settings are complete."
# Runs that end with a new policy, which the evaluation suite then measures.
FOLLOWED = (*MAKE_POLICIES, RunKind.SUPERVISED, RunKind.DOMAIN, RunKind.COMBINE)
ALIKE = 5  # earlier runs that say how far estimates are off


class Experience(NamedTuple):
    """How estimates of such runs have turned out."""

    n: int
    ratio: float  # what they took, by what was estimated


def order_of(project: Project, form: RunForm) -> Order:
    """What a valid form asks for."""
    named = {name: value for name, value in form.named_arguments.items() if name != "token"}
    named["datasets"] = tuple(named.pop("datasets", ()))
    return Order(project, form.kind, rounds.current_number(project), form.settings, **named)


def outlook_of(project: Project, form: RunForm) -> dict[str, Any]:
    """For rlhf/_estimate.html: the estimate for what the form holds, or a sentence why there is none."""
    # A form of its own: that a run was refused says nothing about the settings.
    form = type(form)(project, form.data) if form.is_bound else form.as_sent()
    if not form.is_valid():
        return incomplete(form)
    order = order_of(project, form)
    return {**outlook_of_order(order), "suite": suite_after(order)}


def outlook_of_order(order: Order) -> dict[str, Any]:
    """The same of a run without a form of its own."""
    try:
        expected = expect(order, config_of(order))
    except RunRefused as refusal:
        return {"problem": str(refusal)}
    except Unknown as unknown:
        return {"problem": str(unknown), "unmeasured": unknown.version}
    return _as_context(order, expected)


def figures_of(form: RunForm) -> dict[str, Any]:
    """For programs, of a valid form: what a run keeps as its estimate, and what that costs; or `reason`, why
    there is none. Raises RunRefused."""
    order = order_of(form.project, form)
    suite = suite_after(order)
    try:
        expected = expect(order, config_of(order))
    except Unknown as unknown:
        return {"reason": str(unknown), "suite": suite}
    context = _as_context(order, expected)
    experience = context["experience"]
    return {
        **as_json(expected),
        "money": context["money"],
        "currency": context["price"].currency,
        "earlier_took": experience.ratio if experience else None,
        "assumes": expected.assumes,
        "notes": list(expected.notes),
        "suite": suite,
    }


def suite_after(order: Order) -> dict[str, Any] | None:
    """Of the evaluation suite that follows a training run by itself; None if none follows. Its time and its money
    are None if nobody can say, or nothing has a price; `elsewhere` names the endpoints that it asks, and `problem`
    says why it will not start as things are."""
    policy = order.policy
    if order.kind not in FOLLOWED or policy is None:
        return None
    if not suites.runs_after_training(order.project):
        return None
    to_come = ModelVersion(project=order.project, kind=ModelKind.POLICY, parent=policy)
    settings, versions = suites.after_training(to_come)
    suite = Order(
        order.project, RunKind.SUITE, order.round_number, settings, policy=policy, **versions
    )
    return {
        "max_prompts": versions["max_prompts"],
        "elsewhere": [
            version.name
            for version in suite.versions.values()
            if version.writer.kind == ModelKind.ENDPOINT
        ],
        "problem": _problem_with(suite),
        "currency": price_of(order.project).currency,
        **_figures_of_suite(suite, settings),
    }


def _figures_of_suite(suite: Order, settings: dict[str, Any]) -> dict[str, float | None]:
    assert suite.policy is not None
    try:
        config = SuiteConfig.from_dict({**settings, "model": suite.policy.reference()})
        expected = expect(suite, config)
    except (Unknown, RunRefused, ValueError, TypeError):
        return dict.fromkeys(("seconds", "money", "spent"))
    seconds = expected.estimate.seconds
    return {"seconds": seconds, "money": _money(suite, expected), "spent": expected.spent}


def _problem_with(suite: Order) -> str:
    try:
        check_suite_to_come(suite)
    except RunRefused as refusal:
        return str(refusal)
    return ""


def incomplete(form: Form) -> dict[str, Any]:
    """What is said of a form that is not filled in rightly yet."""
    return {"problem": INCOMPLETE, "mistakes": _mistakes(form)}


def _mistakes(form: Form) -> list[str]:
    """Example: "Temperature: Enter a number."."""
    return [
        f"{form[name].label if name in form.fields else 'All'}: {' '.join(map(str, said))}"
        for name, said in form.errors.items()
    ]


def _as_context(order: Order, expected: Expected) -> dict[str, Any]:
    found, policy, price = expected.estimate, order.policy, price_of(order.project)
    free_mib = free_memory_mib(expected.measured)
    seconds = found.seconds
    # What rests on no probe goes by earlier runs already.
    experience = experience_of(order) if seconds is not None and expected.measured else None
    return {
        "estimate": found,
        "assumes": expected.assumes,
        "notes": expected.notes,
        "measured": expected.measured,
        "policy": policy.writer if policy and policy.is_asked_here else None,
        "price": price,
        "money": _money(order, expected),
        "spent": expected.spent,
        "free_mib": free_mib,
        "is_too_large": bool(free_mib and found.memory_mib > free_mib),
        "experience": experience,
        "by_experience": seconds * experience.ratio if seconds and experience else None,
    }


def _money(order: Order, expected: Expected) -> float | None:
    """All of it, with the hours if these are known; None if nothing has a price."""
    price, seconds = price_of(order.project), expected.estimate.seconds
    hours = price.of_seconds(seconds) if seconds is not None and price.per_hour else 0.0
    return hours + expected.spent + expected.charged or None


def experience_of(order: Order) -> Experience | None:
    """Of the latest runs of the kind that went through without a break and began from a policy as large;
    None if there are none."""
    policy = order.policy
    if policy is None:
        return None
    ended = order.project.runs.filter(kind=order.kind, status=Status.SUCCEEDED, attempts=0)
    rows = ended.exclude(estimate={}).select_related("policy")[: 2 * ALIKE]
    ratios = [ratio for run in rows if (ratio := _ratio(run, policy.root())) is not None][:ALIKE]
    return Experience(len(ratios), median(ratios)) if ratios else None


def _ratio(run: Run, root: ModelVersion) -> float | None:
    estimated = run.estimate.get("minutes")
    if not estimated or not run.started or not run.finished or run.policy is None:
        return None
    if run.policy.root() != root:
        return None
    return (run.finished - run.started).total_seconds() / 60 / estimated

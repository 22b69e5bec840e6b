"""Where a project stands in the loop: the strip of the current round, and the table of rounds.

prompts → comparisons → judgments → export → reward model → PPO → new policy → blind evaluation

`facts_of` reads the rows in a fixed number of queries, each of bounded cost; everything after
it is pure. Exactly one step is current: the first that is not done, and its action comes next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from django.db import models
from django.db.models import Count, F, Max, Q, Sum
from django.urls import reverse

from annotator.models import (
    COUNTED,
    Comparison,
    Export,
    Judgment,
    Project,
    Prompt,
    Purpose,
    Role,
    Split,
)
from rlhf.models import (
    FROM_PAIRS,
    MAKE_POLICIES,
    ModelKind,
    ModelVersion,
    Run,
    RunKind,
    Status,
)
from rlhf.rounds import current_round, promoted_policy
from rlhf.templatetags.quantities import COUNT_CAP, counted, decimals, percent, remaining


class State(models.TextChoices):
    DONE = "done", "Done"
    CURRENT = "current", "Next"
    TODO = "todo", "Later"


class Action(NamedTuple):
    label: str
    url: str
    is_post: bool = False  # a form with a button instead of a link
    is_primary: bool = False  # the one that comes next


class Step(NamedTuple):
    key: str
    label: str
    state: State
    summary: str  # its count, or how it stands
    url: str = ""  # where one sees more
    action: Action | None = None


class Strip(NamedTuple):
    number: int  # of the round
    steps: list[Step]
    is_active: bool  # a run is queued or running, so the strip is about to change


class Votes(NamedTuple):
    """How far the comparisons of a round and purpose are judged."""

    comparisons: int = 0  # that are asked, or have been
    places: int = 0  # judgments asked for
    votes: int = 0  # judgments in force
    held: int = 0  # comparisons that are held back: nobody is asked them

    @property
    def are_complete(self) -> bool:
        return self.places > 0 and self.votes >= self.places

    def __str__(self) -> str:
        return f"{counted(self.votes)} of {counted(self.places)} votes"


@dataclass(frozen=True)
class Facts:
    """All that the strip depends on."""

    slug: str
    number: int
    policy: ModelVersion | None  # the policy that the round starts from
    n_prompts: int
    training: Votes
    evaluation: Votes
    export: Export | None  # the newest one with votes of this round
    n_newer_votes: int  # given or withdrawn since that export
    latest: Mapping[str, Run]  # by kind, whatever its status
    succeeded: Mapping[str, Run]  # by kind; searches of which a trial was promoted by what they try
    new_policy: ModelVersion | None  # the newest that was made from votes, by whatever route
    promoted: ModelVersion | None = None  # what gates left current, if another

    @property
    def made(self) -> Run | None:
        """The run that the new policy is of: PPO is the one that the strip suggests."""
        return self.new_policy.run if self.new_policy else None


def strip_of(project: Project, role: str) -> Strip:
    """The strip as somebody with this role may see it."""
    return strip(facts_of(project), role)


def strip(facts: Facts, role: str) -> Strip:
    drafts = [
        _prompts(facts),
        _comparisons(facts),
        _judgments(facts),
        _export(facts),
        _reward_model(facts),
        _ppo(facts),
        _new_policy(facts),
        _evaluation(facts),
    ]
    open_steps = [i for i, step in enumerate(drafts) if step.state != State.DONE]
    current = open_steps[0] if open_steps else len(drafts) - 1
    drafts[current] = _as_current(drafts[current])
    if role != Role.ADMIN:
        drafts = _without_admin_actions(drafts, facts, role)
    if role == Role.ANNOTATOR:
        drafts = [_without_name(step) for step in drafts]
    is_active = any(run.is_active for run in facts.latest.values())
    return Strip(facts.number, drafts, is_active)


def _as_current(step: Step) -> Step:
    action = step.action and step.action._replace(is_primary=True)
    return step._replace(state=State.CURRENT, action=action)


def _without_admin_actions(steps: list[Step], facts: Facts, role: str) -> list[Step]:
    """Annotators may open nothing but the queue; reviewers may look at everything."""
    to_queue = [step.key for step in steps if step.action and step.action.url == _queue(facts)]
    compare = _compare(facts)._replace(is_primary=True)
    return [
        step._replace(
            url=step.url if role == Role.REVIEWER else "",
            action=compare if step.key in to_queue[:1] else None,
        )
        for step in steps
    ]


def _without_name(step: Step) -> Step:
    """Whoever judges the policy blind should not know that there is a "more-polite" one."""
    is_named = step.key == "new_policy" and step.state == State.DONE
    return step._replace(summary="made") if is_named else step


# --- reading the rows --------------------------------------------------------------------------
def facts_of(project: Project) -> Facts:
    """Fourteen queries at most, whatever the project holds."""
    current = current_round(project)
    number = current.number if current else 1
    latest, succeeded = _runs_by_kind(project, number)
    export = project.exports.filter(round_number__gte=number).order_by("-pk").first()
    policies = project.model_versions.filter(kind=ModelKind.POLICY)
    made = project.runs.that_made(MAKE_POLICIES).filter(round_number=number)
    new_policy = policies.filter(run__in=made).select_related("run__project").first()
    prompts = Prompt.objects.filter(project=project).exclude(split=Split.GOLD)
    return Facts(
        slug=project.slug,
        number=number,
        policy=current.policy if current else policies.order_by("-pk").first(),
        n_prompts=prompts.order_by()[: COUNT_CAP + 1].count(),
        training=_votes(project, number, Purpose.TRAINING),
        evaluation=_votes(project, number, Purpose.EVALUATION),
        export=export,
        n_newer_votes=_newer_votes(project, number, export) if export else 0,
        latest=latest,
        succeeded=succeeded,
        new_policy=new_policy,
        promoted=promoted_policy(current),
    )


def _runs_by_kind(project: Project, number: int) -> tuple[dict[str, Run], dict[str, Run]]:
    """The latest run of each kind in the round, and the latest that succeeded; a search of which a trial was
    promoted as a run of the kind that it tries."""
    of_round = project.runs.without_best_of().filter(
        Q(round_number=number) | Q(kind=RunKind.IMPORT_MODEL)
    )
    newest = (
        of_round.order_by()
        .values_list("kind")
        .annotate(latest=Max("pk"), succeeded=Max("pk", filter=Q(status=Status.SUCCEEDED)))
    )
    by_kind = list(newest)
    runs = project.runs.in_bulk([pk for _, *pks in by_kind for pk in pks if pk])
    latest = {kind: runs[pk] for kind, pk, _ in by_kind}
    done = [runs[pk] for kind, _, pk in by_kind if pk and kind != RunKind.SEARCH]
    done += project.runs.promoted().filter(round_number=number).prefetch_related("outputs")
    return latest, {run.makes: run for run in sorted(done, key=lambda run: run.pk)}


def _votes(project: Project, number: int, purpose: Purpose) -> Votes:
    asked = Comparison.objects.filter(project=project, round_number=number, purpose=purpose)
    if purpose == Purpose.EVALUATION:  # the round is over when its new policy has been judged
        others = project.runs.filter(round_number=number, config__best_of__gt=1)
        asked = asked.exclude(origin__in=[run.origin for run in others.only("pk")])
    asked = asked.order_by()[: COUNT_CAP + 1]
    is_asked = Q(hold="") | Q(taken__gte=F("overlap"))  # or has been
    total = asked.aggregate(
        rows=Count("pk", filter=is_asked),
        places=Sum("overlap", filter=is_asked),
        held=Count("pk", filter=~is_asked),
    )
    votes = Judgment.objects.counted().filter(
        Q(comparison__hold="") | Q(comparison__taken__gte=F("comparison__overlap")),
        comparison__in=asked.values("pk"),
    )
    return Votes(total["rows"], total["places"] or 0, votes.count(), total["held"])


def _newer_votes(project: Project, number: int, export: Export) -> int:
    """Among the newest judgments, those that the export does not have or has but should not."""
    newest = Judgment.objects.filter(project=project).order_by("-pk").values("pk")[:COUNT_CAP]
    given = Q(created__gt=export.created, voided=None, verdict__in=COUNTED)
    withdrawn = Q(created__lte=export.created, voided__gt=export.created, verdict__in=COUNTED)
    return Judgment.objects.filter(
        given | withdrawn,
        pk__in=newest,
        is_repeat=False,
        comparison__round_number__lte=number,
        comparison__purpose=Purpose.TRAINING,
    ).count()


# --- the eight steps ---------------------------------------------------------------------------
def _prompts(facts: Facts) -> Step:
    step = Step("prompts", "Prompts", State.TODO, "none yet", _annotator_url("prompts", facts))
    if not facts.n_prompts:
        return step._replace(action=Action("Import prompts", _annotator_url("import_file", facts)))
    return step._replace(state=State.DONE, summary=counted(facts.n_prompts))


def _comparisons(facts: Facts) -> Step:
    url = _annotator_url("comparisons", facts)
    step = Step("comparisons", "Comparisons", State.TODO, "none yet", url)
    if facts.training.comparisons or facts.training.held:
        held = f", {counted(facts.training.held)} held back" if facts.training.held else ""
        return step._replace(
            state=State.DONE, summary=f"{counted(facts.training.comparisons)} to rank{held}"
        )
    if facts.policy is None:
        return _needs_model(step, facts)
    return _of_run(step, facts, RunKind.GENERATE, "Generate", is_ready=facts.n_prompts > 0)


def _judgments(facts: Facts) -> Step:
    votes = facts.training
    is_done = votes.are_complete or facts.export is not None
    step = Step(
        "judgments",
        "Judgments",
        State.DONE if is_done else State.TODO,
        str(votes) if votes.comparisons else "none yet",
        _annotator_url("quality", facts),
    )
    return step if votes.votes >= votes.places else step._replace(action=_compare(facts))


def _export(facts: Facts) -> Step:
    url = _annotator_url("exports", facts)
    step = Step("export", "Export", State.TODO, "none yet", url)
    if facts.export is None:
        return step._replace(action=Action("Export", url) if facts.training.votes else None)
    summary = counted(facts.export.n_rows, "pair")
    if not facts.n_newer_votes:
        return step._replace(state=State.DONE, summary=summary)
    # People go on voting while a model is trained: that alone does not send the loop back.
    trained = facts.latest.get(RunKind.REWARD_MODEL)
    is_used = trained is not None and _is_for_export(trained, facts.export)
    return step._replace(
        state=State.DONE if is_used else State.TODO,
        summary=f"{summary}, {counted(facts.n_newer_votes, 'newer vote')}",
        action=Action("Export again", url),
    )


def _reward_model(facts: Facts) -> Step:
    step = Step("reward_model", "Reward model", State.TODO, "not trained")
    if facts.policy is None:
        return _needs_model(step, facts) if facts.export else step
    done = facts.succeeded.get(RunKind.REWARD_MODEL)
    if done and not _is_for_export(done, facts.export):
        step = step._replace(summary="of an older export")
        done = None
    if done:
        step = step._replace(state=State.DONE, summary=_accuracy(done), url=done.get_absolute_url())
    return _of_run(
        step, facts, RunKind.REWARD_MODEL, "Train reward model", is_ready=facts.export is not None
    )


def _ppo(facts: Facts) -> Step:
    step = Step("ppo", "PPO", State.TODO, "not started")
    reward_model = facts.succeeded.get(RunKind.REWARD_MODEL)
    done = facts.made
    if done and _is_of_newest_votes(done, facts):
        step = step._replace(label=done.makes.label)
        kl = facts.new_policy.outcome.get("kl") if facts.new_policy else None
        summary = f"KL {decimals(kl, 1)} nats"
        step = step._replace(state=State.DONE, summary=summary, url=done.get_absolute_url())
    return _of_run(
        step, facts, RunKind.PPO, "Run PPO", is_ready=reward_model is not None, after=reward_model
    )


def _new_policy(facts: Facts) -> Step:
    step = Step("new_policy", "New policy", State.TODO, "none yet")
    shown = facts.new_policy if _has_new_policy(facts) else facts.promoted
    if shown is None:
        return step
    is_judged = _evaluation(facts).state == State.DONE  # there the next round is offered then
    return step._replace(
        state=State.DONE,
        summary=shown.name,
        url=shown.get_absolute_url(),
        action=None if is_judged else _next_round(facts),
    )


def _has_new_policy(facts: Facts) -> bool:
    return facts.new_policy is not None and _ppo(facts).state == State.DONE


def _evaluation(facts: Facts) -> Step:
    step = Step("evaluation", "Blind evaluation", State.TODO, "not started")
    made = facts.made
    done = facts.succeeded.get(RunKind.EVALUATE)
    if done is None or not _is_after(done, made) or facts.latest[RunKind.EVALUATE].is_active:
        is_ready = _has_new_policy(facts)
        return _of_run(step, facts, RunKind.EVALUATE, "Evaluate", is_ready=is_ready, after=made)
    held = f", {counted(facts.evaluation.held, 'pair')} held back" if facts.evaluation.held else ""
    step = step._replace(summary=f"{facts.evaluation}{held}", url=done.get_absolute_url())
    if facts.evaluation.votes < facts.evaluation.places:
        return step._replace(action=_compare(facts))
    starts = _has_new_policy(facts) or facts.promoted is not None
    return step._replace(state=State.DONE, action=_next_round(facts) if starts else None)


def _of_run(
    step: Step,
    facts: Facts,
    kind: RunKind,
    label: str,
    *,
    is_ready: bool,
    after: Run | None = None,
) -> Step:
    """The step as its latest run makes it stand.

    A run older than `after`, the run it would build on, no longer counts.
    """
    run = facts.latest.get(kind)
    if run and run.is_active:
        action = Action("Watch", run.get_absolute_url())
        return step._replace(
            state=State.TODO, summary=progress_of(run), url=action.url, action=action
        )
    if step.state == State.DONE:
        return step
    if run and run.is_resumable and _is_after(run, after) and is_ready:
        action = Action("Open the run", run.get_absolute_url())
        return step._replace(summary=run.get_status_display(), url=action.url, action=action)
    url = reverse("rlhf:new_run", args=[facts.slug, kind])
    return step._replace(action=Action(label, url) if is_ready else None)


def _needs_model(step: Step, facts: Facts) -> Step:
    return _of_run(step, facts, RunKind.IMPORT_MODEL, "Import model", is_ready=True)


def _accuracy(run: Run) -> str:
    accuracy = run.outcome.get("accuracy")
    if accuracy is None:
        return "trained, no vote held out"
    return f"{percent(accuracy)} right, held out"


def _is_after(run: Run, other: Run | None) -> bool:
    return other is None or run.pk > other.pk


def _is_of_newest_votes(made: Run, facts: Facts) -> bool:
    if made.makes in FROM_PAIRS:
        return _is_for_export(made, facts.export)
    return _is_after(made, facts.succeeded.get(RunKind.REWARD_MODEL))


def _is_for_export(run: Run, export: Export | None) -> bool:
    return export is None or (run.export_id or 0) >= export.pk


def _compare(facts: Facts) -> Action:
    return Action("Compare", _queue(facts))


def _queue(facts: Facts) -> str:
    return _annotator_url("compare", facts)


def _next_round(facts: Facts) -> Action:
    url = reverse("rlhf:next_round", args=[facts.slug])
    return Action(f"Start round {facts.number + 1}", url, is_post=True)


def _annotator_url(name: str, facts: Facts) -> str:
    return reverse(f"annotator:{name}", args=[facts.slug])


# --- words ------------------------------------------------------------------------------------
def progress_of(run: Run) -> str:
    """Example: "running, 12 of 40, about 3 minutes left"."""
    parts = [run.get_status_display()]
    if run.total_steps:
        parts.append(f"{run.step} of {run.total_steps}")
    if left := remaining(run.eta_seconds):
        parts.append(left)
    return ", ".join(parts)

"""What a run that is about to start will take: the database's part of an estimate.

`expect` finds how many prompts, pairs and rows there are and how long they are, and gives them to the arithmetic
of work.py (PPO, RLOO and GRPO: estimates.py). Runs that no measured model computes are expected to go as earlier
ones went. What is not known raises Unknown: no number is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

from django.db.models import Count, Q

from annotator.models import Comparison, Completion, Export, Project, Prompt, Purpose, Split
from rlhf import screening, work
from rlhf.costs import charged_for
from rlhf.estimates import (
    START_SECONDS,
    Estimate,
    Probe,
    answer_tokens,
    estimate_run,
    needs_second_model,
    probe_of,
    prompt_tokens,
    reward_models,
)
from rlhf.generation import prompts_lacking_completions
from rlhf.inputs import Order, collection_of, config_of, tried_by
from rlhf.models import Dataset, ModelKind, ModelVersion, Run, RunKind, Status
from rlhf.text_lengths import (
    Unknown,
    count_prompts,
    general_characters,
    pairs_of,
    rows_of,
    texts_for,
    tokens_around,
)
from rlhf.training.combine_config import CombineConfig
from rlhf.training.config import (
    Config,
    ConverseConfig,
    EvaluateConfig,
    GenerateConfig,
    ImportModelConfig,
    MergeConfig,
    OrderQueueConfig,
    PPOConfig,
    ProbeConfig,
    RewardModelConfig,
)
from rlhf.training.distill_config import DistillConfig
from rlhf.training.index_config import IndexConfig
from rlhf.training.preference_config import PreferenceConfig
from rlhf.training.screen_config import ScreenConfig
from rlhf.training.search_config import SearchConfig
from rlhf.training.suite_config import SuiteConfig
from rlhf.training.supervised_config import SupervisedConfig
from rlhf.work import Elsewhere, Parts, Scorer, Texts, Writer

RECENT = 5  # earlier runs that are asked
NOT_MEASURED = "How fast {} is has not been measured yet on the machine that trains."
# MiB that the libraries of a kind take beside those of the process that was measured: TRL, and what a suite
# measures with. As measured before anything is loaded.
LIBRARIES_MIB = {
    **dict.fromkeys((RunKind.REWARD_MODEL, RunKind.DPO, RunKind.KTO), 115),
    **dict.fromkeys((RunKind.SUPERVISED, RunKind.DOMAIN), 91),
    RunKind.SUITE: 143,
}
SECOND_MODEL = (
    "A reward model with weights of its own comes on top, with memory and time of its own."
)
SEVERAL_PROCESSES = "This is what one process would take. Several share the time, and each of them needs the memory."


class Expected(NamedTuple):
    estimate: Estimate
    assumes: str  # a sentence: of how much text
    spent: float = 0.0  # what endpoints would be paid
    charged: float = 0.0  # for tokens of models here that have a price
    notes: tuple[str, ...] = ()  # what is left out, a sentence each
    measured: Mapping[str, Any] = {}  # the probe that it rests on; empty: none

    @property
    def device(self) -> str:
        return self.measured.get("device", "CPU")


class Plan(NamedTuple):
    """A run as parts, before they are added up."""

    parts: Parts
    texts: Texts
    assumes: str
    notes: tuple[str, ...] = ()
    start_seconds: float = START_SECONDS


def expect(order: Order, config: Config) -> Expected:
    """Raises Unknown, and RunRefused where a search's trials cannot work."""
    if isinstance(config, PPOConfig):
        return _online(order, config)
    if isinstance(config, SearchConfig):
        return _search(order, config)
    if order.kind not in PLANS:
        raise Unknown("Runs of this kind have no estimate.")
    plan = PLANS[order.kind](order, config)
    estimate = work.estimate_of(plan.parts, plan.texts, plan.start_seconds)
    measured = _measured(order)
    if estimate.memory_mib and measured.get("device", "CPU") == "CPU":
        libraries = LIBRARIES_MIB.get(RunKind(order.kind), 0)
        estimate = estimate._replace(memory_mib=estimate.memory_mib + libraries)
    return Expected(
        estimate,
        plan.assumes,
        spent=sum(_paid(order, role, part) for role, part in plan.parts.items()),
        charged=sum(
            charged_for(order.versions.get(role), part.written + part.learned)
            for role, part in plan.parts.items()
        ),
        notes=plan.notes,
        measured=measured,
    )


def as_json(expected: Expected) -> dict[str, Any]:
    """As a run keeps it."""
    return {
        **expected.estimate._asdict(),
        "spent": expected.spent,
        "charged": expected.charged,
        "device": expected.device,
    }


def _measured(order: Order) -> dict[str, Any]:
    """The probe of the first model that computes here."""
    named = [order.versions.get(name) for name in ("policy", "rival", "judge")]
    for version in filter(None, named):
        if version.is_asked_here and (found := probe_of(version.writer)):
            return found
    of_reward = order.reward_model
    return probe_of(of_reward) if of_reward is not None and order.policy is None else {}


def _paid(order: Order, role: str, part: work.Work) -> float:
    """By the prices of an endpoint; 0 for a model here."""
    version = order.versions.get(role)
    if version is None or version.writer.kind != ModelKind.ENDPOINT:
        return 0.0
    endpoint = version.writer.endpoint
    paid = part.read * endpoint.prompt_price + part.written * endpoint.completion_price
    return paid / 1e6


# --- who computes -----------------------------------------------------------------------------
def probe_for(version: ModelVersion) -> Probe:
    """Raises Unknown."""
    if version.kind == ModelKind.BASE:
        raise Unknown(
            f"{version} writes no text, and only what writes text can be measured: there is no estimate."
        )
    probe = Probe.from_json(probe_of(version))
    if probe is None:
        raise Unknown(NOT_MEASURED.format(version), version)
    return probe


def writer_for(version: ModelVersion) -> Writer:
    """Raises Unknown."""
    writer = version.writer
    return _elsewhere(writer) if writer.kind == ModelKind.ENDPOINT else probe_for(writer)


def _elsewhere(version: ModelVersion) -> Elsewhere:
    """As fast as it was when runs asked nobody else, and no faster than it may be asked."""
    asked = Run.objects.filter(_ended_well(), kind=RunKind.GENERATE, policy=version)
    recent = asked.annotate(n=Count("endpoint_uses")).filter(n=1)[:RECENT]
    paces = [
        _seconds(run) / use.requests
        for run in recent
        for use in run.endpoint_uses.all()
        if use.requests
    ]
    if not paces:
        return Elsewhere(None)
    per_minute = version.endpoint.requests_per_minute
    return Elsewhere(max(median(paces), 60 / per_minute if per_minute else 0.0))


def scorer_for(reward_model: ModelVersion | None) -> tuple[Scorer | None, tuple[str, ...]]:
    """With a note where nobody knows how fast it is."""
    if reward_model is None:
        return None, ()
    base = reward_model.base or reward_model.parent
    if reward_model.is_whole_model or base is None or base.kind != ModelKind.POLICY:
        return None, (SECOND_MODEL,)
    probe = Probe.from_json(probe_of(base))
    if probe is None:
        return None, (SECOND_MODEL,)
    return Scorer(probe, reward_model.details.get("members", 1)), ()


def _scorers(
    policy: ModelVersion, reward_model: ModelVersion | None, config: EvaluateConfig | DistillConfig
) -> tuple[list[Scorer], tuple[str, ...]]:
    """Of all that a run asks, those that its lines of rewards name included."""
    found = [scorer_for(version) for version in reward_models(policy, reward_model, config)]
    notes = tuple(dict.fromkeys(note for _, notes in found for note in notes))
    return [scorer for scorer, _ in found if scorer], notes


# --- kinds ------------------------------------------------------------------------------------
def _many(number: float, noun: str) -> str:
    """Example: 1234, "prompt" -> "1,234 prompts"."""
    return f"{number:,.0f} {noun}{'' if round(number) == 1 else 's'}"


def _of_prompts(n: float, texts: Texts) -> str:
    return (
        f"With {_many(n, 'prompt')} of {texts.prompt:.0f} and answers of {texts.answer:.0f} tokens."
    )


def _online(order: Order, config: PPOConfig) -> Expected:
    assert order.policy is not None
    found = estimate_run(order.policy, order.reward_model, config)
    if found is None:
        raise Unknown(NOT_MEASURED.format(order.policy), order.policy)
    asked = reward_models(order.policy, order.reward_model, config)
    is_second = any(needs_second_model(order.policy, version) for version in asked)
    notes = [SECOND_MODEL] if is_second else []
    if config.accelerate_config:
        notes.append(SEVERAL_PROCESSES)
    return Expected(
        found,
        f"With prompts of {found.prompt_tokens:.0f} and answers of {found.answer_tokens:.0f} tokens.",
        charged=charged_for(order.policy, found.tokens_generated + found.tokens_trained),
        notes=tuple(notes),
        measured=probe_of(order.policy),
    )


def _search(order: Order, config: SearchConfig) -> Expected:
    """All its trials as the first one, up to the longest time and one trial more."""
    trial = tried_by(order)
    one = expect(trial, config_of(trial))
    n, each = config.trials, one.estimate
    if config.max_hours is not None and each.minutes:
        n = min(n, int(60 * config.max_hours / each.minutes) + 1)
    return one._replace(
        charged=n * one.charged,
        estimate=each._replace(
            minutes=None if each.minutes is None else n * each.minutes,
            tokens_generated=n * each.tokens_generated,
            tokens_trained=n * each.tokens_trained,
            tokens_read=n * each.tokens_read,
        ),
        assumes=f"{_many(n, 'trial')} with the settings of the first. {one.assumes}",
        notes=(*one.notes, "Trials that are ended early take less, larger settings more."),
    )


def _generate(order: Order, config: GenerateConfig) -> Plan:
    assert order.policy is not None
    policy = writer_for(order.policy)
    texts = texts_for(
        order.policy, policy, config.max_prompt_tokens, config.max_new_tokens, Split.TRAIN, Split.TEST
    )  # fmt: skip
    wanted = config.completions_per_prompt
    n = prompts_lacking_completions(order.project, order.round_number, wanted).count()
    n = min(n, order.max_prompts or n)
    return Plan(work.generating(config, policy, texts, n), texts, _of_prompts(n, texts))


def _evaluate(order: Order, config: EvaluateConfig) -> Plan:
    assert order.policy is not None
    assert order.rival is not None
    policy, rival = writer_for(order.policy), writer_for(order.rival)
    longest = (config.max_prompt_tokens, config.max_new_tokens)
    texts = texts_for(order.policy, policy, *longest, Split.TEST)
    of_rival = texts_for(order.rival, rival, *longest, Split.TEST)
    scorers, notes = _scorers(order.policy, order.reward_model, config)
    n = count_prompts(order.project, Split.TEST, order.max_prompts)
    parts = work.evaluating(config, policy, rival, texts, of_rival, n, scorers)
    return Plan(parts, texts, _of_prompts(n, texts), notes)


def _distill(order: Order, config: DistillConfig) -> Plan:
    assert order.policy is not None
    teacher = writer_for(order.policy)
    student = writer_for(order.rival) if order.rival else None
    texts = texts_for(order.policy, teacher, config.max_prompt_tokens, config.max_new_tokens)
    scorers, notes = _scorers(order.policy, order.reward_model, config)
    n = count_prompts(order.project, Split.TRAIN, order.max_prompts)
    if config.eval_prompts:
        n += count_prompts(order.project, Split.TEST, config.eval_prompts)
    parts = work.distilling(config, teacher, student, texts, n, scorers)
    return Plan(parts, texts, _of_prompts(n, texts), notes)


def _suite(order: Order, config: SuiteConfig) -> Plan:
    assert order.policy is not None
    policy = writer_for(order.policy)
    rival = writer_for(order.rival) if order.rival else None
    judge = writer_for(order.judge) if order.judge else None
    texts = texts_for(
        order.policy, policy, config.max_prompt_tokens, config.max_new_tokens, Split.TEST
    )
    scorer, notes = scorer_for(order.reward_model)
    if config.tasks:
        notes = (*notes, "Tasks of lm-evaluation-harness come on top.")
    general = policy.tokens_of(general_characters(order.project, config.text))
    n = count_prompts(order.project, Split.TEST, order.max_prompts)
    asked = work.judged_tokens(texts)
    around = tokens_around(order.judge, judge, asked) if order.judge and judge else 0.0
    parts = work.measuring(
        config, policy, rival, judge, texts, n, general, config.judged_pairs, scorer, around
    )
    return Plan(parts, texts, _of_prompts(n, texts), notes)


def _reward_model(order: Order, config: RewardModelConfig) -> Plan:
    assert order.policy is not None
    assert order.export is not None
    policy = probe_for(order.policy)
    is_apart = order.base is not None and order.base != order.policy
    base = probe_for(order.base) if order.base and is_apart else None
    pairs = pairs_of(order.export, base or policy, config.max_tokens)
    notes = ("Comparing the arms comes on top.",) if config.compare_arms else ()
    parts = work.rewarding(config, policy, pairs, base)
    return Plan(parts, pairs.texts, _of_pairs(pairs.train, pairs.texts), notes)


def _preference(order: Order, config: PreferenceConfig) -> Plan:
    assert order.policy is not None
    assert order.export is not None
    policy = probe_for(order.policy)
    pairs = pairs_of(order.export, policy, config.max_tokens)
    said = _of_pairs(pairs.train - pairs.tied, pairs.texts)
    return Plan(work.preferring(config, policy, pairs), pairs.texts, said)


def _of_pairs(n: float, texts: Texts) -> str:
    return (
        f"With {_many(n, 'pair')} to learn from, prompts of {texts.prompt:.0f} and answers of "
        f"{texts.answer:.0f} tokens."
    )


def _tune(order: Order, config: SupervisedConfig) -> Plan:
    assert order.policy is not None
    policy = probe_for(order.policy)
    datasets = [rows_of(dataset, policy, config) for dataset in order.datasets]
    n = sum(rows.train for rows in datasets)
    mean = sum(rows.train * rows.tokens for rows in datasets) / max(1.0, n)
    notes = ("In 4 bits the model needs less memory than this.",) if config.four_bit else ()
    return Plan(
        work.tuning(config, policy, datasets),
        Texts(0.0, mean),
        f"With {_many(n, 'row')} of {mean:.0f} tokens in an epoch.",
        notes,
    )


def _order_queue(order: Order, config: OrderQueueConfig) -> Plan:
    assert order.reward_model is not None
    scorer, notes = scorer_for(order.reward_model)
    if scorer is None:
        raise Unknown(
            f"{order.reward_model} has weights of its own, and only policies can be measured: there is "
            "no estimate."
        )
    comparisons = Comparison.objects.open().filter(project=order.project, purpose=Purpose.TRAINING)
    n_answers = comparisons.aggregate(n=Count("entries"))["n"]
    prompt = prompt_tokens(order.project.pk, scorer.probe)
    parent = order.reward_model.parent
    answer = answer_tokens(parent, scorer.probe) if parent else float("inf")
    texts = Texts(prompt, min(answer, max(1.0, config.max_tokens - prompt)))
    parts = {"reward_model": work.score(scorer, n_answers * texts.both)}
    return Plan(parts, texts, f"With {_many(n_answers, 'answer')} to score.", notes)


def _merge(order: Order, config: MergeConfig | CombineConfig) -> Plan:
    assert order.policy is not None
    is_half = isinstance(config, MergeConfig) and config.dtype != "float32"
    parts = work.adding_up(probe_for(order.policy), 2 if is_half else 4)
    return Plan(parts, Texts(0.0, 0.0), "The model is read and written once.")


def _converse(order: Order, config: ConverseConfig) -> Plan:
    raise Unknown(
        f"It lasts as long as people talk, and ends {config.idle_minutes:g} minutes after the last "
        "question; an hour costs what an hour costs."
    )


# --- as earlier runs went ---------------------------------------------------------------------
def _ended_well() -> Q:
    """Runs that went through without a break, so that it is known what they took."""
    times = Q(started__isnull=False, finished__isnull=False)
    return times & Q(status=Status.SUCCEEDED, attempts=0)


def _seconds(run: Run) -> float:
    assert run.started is not None
    assert run.finished is not None
    return max((run.finished - run.started).total_seconds(), 0.0)


def _as_before(rows: Any, units_of: Callable[[Run], float], units: float, unit: str) -> Plan:
    """The median pace of the latest runs among `rows`. Raises Unknown if there are none."""
    recent = [run for run in rows.filter(_ended_well()).order_by("-pk")[:RECENT] if units_of(run)]
    if not recent:
        raise Unknown(
            "No run like this has come to its end yet, so nobody can say what it will take. Once one has, "
            "the next are expected to take as long."
        )
    pace = median(_seconds(run) / units_of(run) for run in recent)
    memory = max(run.result.get("peak_mib") or 0 for run in recent)
    n = f"the last {len(recent)} like it" if len(recent) > 1 else "the last one like it"
    assumes = f"As {n} went, for {_many(units, unit)}." if unit else f"As {n} went."
    return Plan(work.paced(units, pace, memory), Texts(0.0, 0.0), assumes, start_seconds=0.0)


def _once(run: Run) -> float:
    return 1.0


def _import_model(order: Order, config: ImportModelConfig) -> Plan:
    """Whichever project imported it."""
    same = Run.objects.filter(
        kind=RunKind.IMPORT_MODEL, config__source=config.source, config__location=config.location
    )
    return _as_before(same, _once, 1, "")


def _probe(order: Order, config: ProbeConfig) -> Plan:
    assert order.policy is not None
    alike = [order.policy.pk, order.policy.root().pk]
    rows = order.project.runs.filter(kind=RunKind.PROBE, policy__in=alike)
    return _as_before(rows, _once, 1, "")


def _index(order: Order, config: IndexConfig) -> Plan:
    rows = order.project.runs.filter(kind=RunKind.INDEX, config__encoder=config.encoder)
    n = collection_of(order).n_passages
    return _as_before(rows, lambda run: run.result.get("n_passages", 0), n, "passage")


def _screen(order: Order, config: ScreenConfig) -> Plan:
    try:
        screened = screening.find(order.project, config.screened)
    except screening.CannotScreen as problem:
        raise Unknown(str(problem)) from None
    kind = config.screened.partition("-")[0]
    rows = order.project.runs.filter(
        kind=RunKind.SCREEN, config__screened__startswith=kind, config__classifier=config.classifier
    )
    n = _n_screened(screened)
    return _as_before(rows, lambda run: run.result.get("n_rows", 0), n, "text")


def _n_screened(screened: Project | Export | Dataset) -> int:
    """As screen_rows.n_rows_at_most counts them."""
    if isinstance(screened, Project):
        prompts = Prompt.objects.filter(project=screened).exclude(split=Split.GOLD)
        return prompts.count() + Completion.objects.filter(prompt__in=prompts).count()
    return screened.n_rows * (3 if isinstance(screened, Export) else 1)


PLANS: dict[str, Callable[[Order, Any], Plan]] = {
    RunKind.IMPORT_MODEL: _import_model,
    RunKind.GENERATE: _generate,
    RunKind.REWARD_MODEL: _reward_model,
    RunKind.EVALUATE: _evaluate,
    RunKind.PROBE: _probe,
    RunKind.ORDER_QUEUE: _order_queue,
    RunKind.CONVERSE: _converse,
    RunKind.MERGE: _merge,
    RunKind.COMBINE: _merge,
    RunKind.SUPERVISED: _tune,
    RunKind.DOMAIN: _tune,
    RunKind.DPO: _preference,
    RunKind.KTO: _preference,
    RunKind.DISTILL: _distill,
    RunKind.INDEX: _index,
    RunKind.SUITE: _suite,
    RunKind.SCREEN: _screen,
}

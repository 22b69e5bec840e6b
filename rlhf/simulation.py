"""The loop proves itself: simulated annotators whose taste is known go through all of it.

They are handed comparisons by the same queue as people, their votes are exported and learnt from
by the same runs, and they judge the new policy blind against the old one. Since their taste is a
formula, we can say afterwards what nobody can say of people: whether the policy really became
better. A simulation has a project of its own, with the prompts of the project it was asked for, so
that no simulated vote ever stands among real ones.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import QuerySet

from annotator import assignment as queue
from annotator.agreement import alpha, annotator_statistics
from annotator.exporting import create_export
from annotator.models import (
    Assignment,
    Completion,
    Membership,
    Project,
    Prompt,
    Purpose,
    QueueOrder,
    Split,
    User,
    Verdict,
)
from annotator.screening import default_checks
from rlhf import suites
from rlhf.alarms import Level
from rlhf.evaluation import win_rate
from rlhf.models import GeneratedCompletion, ModelVersion, Run, RunKind, Status
from rlhf.runs import launch, next_round, run_to_end
from rlhf.taste import Manner, draw_manner, judge, taste


class Annotator(NamedTuple):
    """A simulated person: somebody who can be handed comparisons, and how they judge."""

    user: User
    manner: Manner


# --- settings ---------------------------------------------------------------------------------
class Preset(NamedTuple):
    """What the runs are told, by model: enough to learn the taste on two cores."""

    source: str
    max_prompts: int
    generate: dict[str, Any]
    reward_model: dict[str, Any]
    ppo: dict[str, Any]
    evaluate: dict[str, Any]


PRESETS = {
    "tiny": Preset(
        source="tiny",
        max_prompts=120,
        generate={"completions_per_prompt": 8, "max_new_tokens": 32, "batch_size": 64},
        reward_model={
            "epochs": 3, "learning_rate": 3e-3, "batch_size": 16, "micro_batch_tokens": 2048,
            "policy_samples": 64, "max_new_tokens": 32,
        },
        ppo={
            "steps": 15, "batch_size": 64, "micro_batch_tokens": 4096, "max_new_tokens": 32,
            "learning_rate": 3e-3, "value_learning_rate": 3e-3, "kl_coefficient": 0.02,
            "evaluate_every": 5,
        },
        evaluate={"completions_per_prompt": 6, "max_new_tokens": 32, "batch_size": 64},
    ),
    "smollm2": Preset(
        source="embedded",
        max_prompts=128,
        generate={"completions_per_prompt": 2, "max_new_tokens": 64, "batch_size": 32},
        reward_model={
            "epochs": 2, "learning_rate": 3e-4, "batch_size": 8,
            "policy_samples": 32, "max_new_tokens": 64, "adapter_layers": 10,
        },
        ppo={
            "steps": 8, "batch_size": 32, "max_new_tokens": 64, "epochs": 1, "minibatches": 4,
            "learning_rate": 8e-4, "value_learning_rate": 8e-4, "kl_coefficient": 0.02,
            "adapter_layers": 10, "evaluate_every": 8,
        },
        evaluate={"completions_per_prompt": 1, "max_new_tokens": 64, "batch_size": 32},
    ),
}  # fmt: skip


class SimulationFailed(Exception):
    """A run of the simulation did not succeed. The message is a sentence."""


class Report(NamedTuple):
    """The last line of `manage.py simulate --json`; docs/simulation.md defines each value.

    None stands where there was nothing to measure.
    """

    project: str
    judgments: int
    alpha: float | None
    saboteur_rank: int | None  # 1: agrees least with the others
    reward_accuracy: float | None
    reward_accuracy_low: float | None
    taste_before: float | None
    taste_after: float | None
    kl: float | None
    alarms: list[str]
    win_rate: float | None
    win_rate_low: float | None
    seconds: dict[str, float]
    peak_mib: int


class Simulation:
    """One simulation: its project, its people and what it has taken so far."""

    def __init__(
        self, project: Project, people: list[Annotator], preset: Preset, seed: int,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.project = project
        self.people = people
        self.preset = preset
        self.rng = random.Random(seed)
        self.seed = seed
        self.say = say
        self.seconds: dict[str, float] = {}
        self.peak_mib = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.say(f"{name} …")
        began = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 1)

    def run(self, kind: RunKind, round_number: int, settings: dict[str, Any], **models: Any) -> Run:
        """Launch a run as an admin would, and wait for its end."""
        with self.phase(kind):
            run = launch(self.project, kind, settings, round_number=round_number, **models)
            return self.finish(run)

    def finish(self, run: Run) -> Run:
        run = run_to_end(run)
        self.peak_mib = max(self.peak_mib, round(run.result.get("peak_mib", 0)))
        if run.status != Status.SUCCEEDED:
            raise SimulationFailed(f"{run} {run.get_status_display().lower()}: {run.error}")
        return run

    def order_questions(self) -> None:
        """Carry out the order that has followed a run by itself, if the project's questions have one."""
        for run in self.project.runs.active().filter(kind=RunKind.ORDER_QUEUE):
            with self.phase(RunKind.ORDER_QUEUE):
                self.finish(run)

    def vote(self) -> None:
        """Everybody in turn takes the next comparison and judges it, until none is left."""
        with self.phase("votes"):
            active = list(self.people)
            while active:
                active = [person for person in active if self.vote_once(person)]

    def vote_once(self, person: Annotator) -> bool:
        """False if there is nothing for this person."""
        assignment = queue.claim(self.project, person.user)
        if assignment is None:
            return False
        answer(assignment, judge(person.manner, texts_of(assignment), self.rng))
        return True


def texts_of(assignment: Assignment) -> list[str]:
    return [completion.text for completion in queue.shown(assignment)]


def answer(assignment: Assignment, ranking: list[list[int]] | None) -> None:
    """Send the verdict in, as the comparing page would."""
    if ranking is None:
        queue.record(assignment, Verdict.SKIPPED, payload_hash=assignment.payload_hash)
        return
    ids = [[assignment.order[place] for place in group] for group in ranking]
    queue.record(assignment, Verdict.RANKING, ids, payload_hash=assignment.payload_hash)


# --- the whole loop -----------------------------------------------------------------------------
def simulate(
    original: Project,
    *,
    rounds: int = 1,
    annotators: int = 5,
    seed: int = 0,
    model: str = "smollm2",
    order: str = QueueOrder.DRAWN,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Go through the loop `rounds` times on the prompts of `original`; the last round's figures.

    `order` is the project's order of questions, for which there is a reward model from the second
    round on. Raises SimulationFailed if prompts are lacking or a run does not succeed, RunRefused
    if one cannot start, NotExported if there is nothing to learn from.
    """
    preset = PRESETS[model]
    project = make_project(original, preset.max_prompts, order)
    people = make_people(project, annotators, seed)
    simulation = Simulation(project, people, preset, seed, say)
    began = time.monotonic()
    # Its speed is for the estimates of forms, which nobody here fills in.
    simulation.run(RunKind.IMPORT_MODEL, 1, {"source": preset.source, "measure_speed": False})
    policy = project.rounds.get(number=1).policy
    for number in range(1, rounds + 1):
        reward_run, ppo_run, evaluation = turn(simulation, number, policy)
        policy = ppo_run.outputs.get()
    simulation.seconds["total"] = round(time.monotonic() - began, 1)
    return report(simulation, reward_run, ppo_run, evaluation)


def turn(simulation: Simulation, number: int, policy: ModelVersion) -> tuple[Run, Run, Run]:
    """One round: generate, vote, export, reward model, PPO, evaluate, vote."""
    preset, project, seed = simulation.preset, simulation.project, {"seed": simulation.seed}
    if number == 1:
        simulation.run(RunKind.GENERATE, 1, preset.generate | seed, policy=policy)
    else:
        with simulation.phase(RunKind.GENERATE):
            next_round(project, None, policy)
            simulation.finish(project.runs.get(kind=RunKind.GENERATE, round_number=number))
    simulation.order_questions()
    simulation.vote()
    with simulation.phase("export"):
        export = create_export(project, round_number=number)
    has_arms = number > 1 and project.queue_order == QueueOrder.INFORMATIVE
    reward_run = simulation.run(
        RunKind.REWARD_MODEL,
        number,
        preset.reward_model | seed | {"compare_arms": has_arms},
        policy=policy,
        export=export,
    )
    simulation.order_questions()  # of what nobody was left to judge: the next round waits for it
    reward_model = reward_run.outputs.get()
    ppo_run = simulation.run(
        RunKind.PPO, number, preset.ppo | seed, policy=policy, reward_model=reward_model
    )
    evaluation = simulation.run(
        RunKind.EVALUATE,
        number,
        preset.evaluate | seed,
        policy=ppo_run.outputs.get(),
        rival=policy,
        reward_model=reward_model,
    )
    simulation.vote()
    return reward_run, ppo_run, evaluation


@transaction.atomic
def make_project(original: Project, max_prompts: int, order: str = QueueOrder.DRAWN) -> Project:
    """A project of the simulation's own, with (some of) the original's prompts."""
    number = (
        Project.objects.filter(slug__startswith=f"{original.slug[:40]}-simulation-").count() + 1
    )
    while Project.objects.filter(slug=f"{original.slug[:40]}-simulation-{number}").exists():
        number += 1
    askable = original.prompts.exclude(split=Split.GOLD)
    prompts: QuerySet[Prompt] = askable.order_by("key")[:max_prompts]
    _check_splits(prompts)
    project = Project.objects.create(
        name=f"{original.name[:90]}, simulation {number}",
        slug=f"{original.slug[:40]}-simulation-{number}",
        guidelines="Simulated annotators vote here; see the command `simulate`.",
        overlap=3,
        held_out_percent=original.held_out_percent,
        queue_order=order,
        # Their taste is for words, wherever an answer ends.
        screening=[name for name in default_checks() if name != "truncated"],
    )
    suites.run_after_training(project, wanted=False)
    Prompt.objects.bulk_create(
        Prompt(project=project, messages=each.messages, key=each.key, split=each.split)
        for each in prompts
    )
    return project


def _check_splits(prompts: Iterable[Prompt]) -> None:
    """Raise before hours are spent on a loop that cannot be closed."""
    splits = {prompt.split for prompt in prompts}
    for split, complaint in ((Split.TRAIN, "to learn from"), (Split.TEST, "held out")):
        if split not in splits:
            raise SimulationFailed(
                f"None of the prompts that the simulation would take is {complaint}: import more."
            )


def make_people(project: Project, number: int, seed: int) -> list[Annotator]:
    """Members with noise and bias of their own; the last one is the saboteur."""
    rng = random.Random(seed)
    people = []
    for index in range(1, number + 1):
        user, created = User.objects.get_or_create(username=f"simulated-{index}")
        if created:
            user.set_unusable_password()
            user.save()
        Membership.objects.create(project=project, user=user)
        people.append(Annotator(user, draw_manner(rng, is_saboteur=index == number)))
    return people


# --- the figures --------------------------------------------------------------------------------
def report(simulation: Simulation, reward_run: Run, ppo_run: Run, evaluation: Run) -> Report:
    project = simulation.project
    rate = win_rate(evaluation)
    ranked = [row.user.pk for row in annotator_statistics(project)]
    saboteur = next(person.user.pk for person in simulation.people if person.manner.is_saboteur)
    return Report(
        project=project.slug,
        judgments=project.judgments.filter(voided=None).count(),
        alpha=rounded(alpha(project, purpose=Purpose.TRAINING).value, 3),
        saboteur_rank=ranked.index(saboteur) + 1 if saboteur in ranked else None,
        reward_accuracy=rounded(reward_run.result["accuracy"], 3),
        reward_accuracy_low=rounded(reward_run.result["accuracy_low"], 3),
        taste_before=rounded(mean_taste(evaluation, evaluation.rival), 3),
        taste_after=rounded(mean_taste(evaluation, evaluation.policy), 3),
        kl=rounded(ppo_run.result["kl"], 2),
        alarms=serious_alarms(ppo_run),
        win_rate=rounded(rate.rate, 3),
        win_rate_low=rounded(rate.low, 3),
        seconds=simulation.seconds,
        peak_mib=simulation.peak_mib,
    )


def serious_alarms(ppo_run: Run) -> list[str]:
    """Those which say that the score can no longer be trusted."""
    return [
        alarm["name"]
        for alarm in ppo_run.alarms
        if alarm["level"] == Level.RED and alarm["name"] in ("KL", "reward hacking")
    ]


def rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def mean_taste(evaluation: Run, version: ModelVersion | None) -> float | None:
    """Of that version's fresh answers to the held-out prompts; None if there are none."""
    written = GeneratedCompletion.objects.filter(run=evaluation, model_version=version)
    texts = Completion.objects.filter(generated__in=written).values_list("text", flat=True)
    values = [taste(text) for text in texts]
    return sum(values) / len(values) if values else None

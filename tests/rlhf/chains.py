"""A loop that has gone round: real votes, exports and files; models by name, trained by nobody."""

from pathlib import Path
from typing import NamedTuple

from annotator.exporting import create_export
from annotator.models import Export, Project, User
from rlhf.generation import Answer, add_completions, compare
from rlhf.models import ModelVersion, Run, RunKind, Status
from rlhf.training.hashes import files_in
from tests.factories import MembershipFactory, PromptFactory, make_judgment
from tests.rlhf.factories import (
    SAMPLING,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
)


class Turn(NamedTuple):
    """One round: answers of its policy, votes on them, and what was made of these."""

    generate: Run
    export: Export
    reward: ModelVersion
    policy: ModelVersion  # the new one


class Chain(NamedTuple):
    project: Project
    anna: User  # votes in all rounds
    ben: User  # votes from round 2 on
    base: ModelVersion
    turns: list[Turn]


def make_chain(project: Project, n_rounds: int) -> Chain:
    anna, ben = (
        MembershipFactory(project=project, user__username=name).user for name in ("anna", "ben")
    )
    imported = RunFactory(project=project, status=Status.SUCCEEDED)
    base = PolicyFactory(project=project, name="base", run=imported)
    chain = Chain(project, anna, ben, base, [])
    policy = base
    for number in range(1, n_rounds + 1):
        voters = [anna] if number == 1 else [anna, ben]
        chain.turns.append(make_turn(project, number, policy, voters))
        policy = chain.turns[-1].policy
    return chain


def make_turn(project: Project, number: int, policy: ModelVersion, voters: list[User]) -> Turn:
    generate = _done(project, RunKind.GENERATE, number, policy=policy, config=SAMPLING)
    prompt = PromptFactory(project=project)
    answers = [Answer(prompt.pk, f"{letter} of round {number}.", False) for letter in "AB"]
    compare(generate, add_completions(generate, policy, answers), "training")
    comparison = project.comparisons.get(round_number=number)
    for voter in voters:
        make_judgment(comparison, voter, [0], [1])
    export = create_export(project)
    run = _done(project, RunKind.REWARD_MODEL, number, policy=policy, export=export)
    reward = RewardModelFactory(project=project, name=f"reward-r{number}", parent=policy, run=run)
    run = _done(project, RunKind.PPO, number, policy=policy, reward_model=reward, config={})
    new = PolicyFactory(project=project, name=f"policy-r{number}", parent=policy, run=run)
    return Turn(generate, export, reward, new)


def with_files(*versions: ModelVersion) -> None:
    """Give each two files, and have their hashes recorded."""
    for version in versions:
        folder = Path(version.path)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(version.name.encode())
        version.files = files_in(folder)
        version.save()


def _done(project: Project, kind: RunKind, number: int, **fields: object) -> Run:
    return RunFactory(
        project=project, kind=kind, round_number=number, status=Status.SUCCEEDED, **fields
    )

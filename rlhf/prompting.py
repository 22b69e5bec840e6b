"""Prompt versions: examples from what people judged best, and what becomes of a draft.

A prompt version is a policy with instructions, examples and passages around each question. It is a model
version like any other, so it writes answers, is judged blind, and stands in the lineage; what it says lies
frozen in its folder (rlhf/training/prompting.py).
"""

from __future__ import annotations

import json
import random
import shutil
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection as Several
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import BigIntegerField

from annotator.audit import Action, record
from annotator.differences import Piece, word_changes
from annotator.models import (
    ComparisonCompletion,
    Completion,
    Judgment,
    Project,
    Purpose,
    Split,
    User,
    Verdict,
)
from rlhf.collecting import unused_name
from rlhf.evaluation import WinRate, win_rates
from rlhf.events import load_line
from rlhf.integrity import HASHED_AT_LAUNCH
from rlhf.models import (
    DocumentCollection,
    GeneratedCompletion,
    ModelKind,
    ModelVersion,
    Run,
    RunKind,
    Status,
)
from rlhf.quarantine import out_among
from rlhf.training.artifacts import RunError, write_json
from rlhf.training.config import GenerateConfig
from rlhf.training.config_base import is_one_line
from rlhf.training.hashes import files_in, find_problems, in_a_sentence
from rlhf.training.prompting import PROMPTING, QUESTION, SIDES, Prompting, read_prompting
from rlhf.training.screen_rows import answer_key, prompt_key

VOTES_READ = 20_000  # the newest; older ones choose no examples
POOL = 200  # examples that “most similar” chooses from
SHOWN = 40  # in the lab, to choose from by hand
PUT_AROUND = (ModelKind.POLICY, ModelKind.ENDPOINT)
RUNS_READ = 200  # the newest evaluations of prompt versions


class PromptRefused(Exception):
    """A prompt version cannot be made. The message is a sentence for the admin."""


class Judged(NamedTuple):
    """An answer to a training prompt, and how it fared."""

    completion: Completion
    wins: int  # votes that put it first
    n_votes: int
    annotators: frozenset[int]  # who put it first

    @property
    def origin(self) -> dict[str, int]:
        return {
            "prompt": self.completion.prompt_id,
            "completion": self.completion.pk,
            "wins": self.wins,
            "votes": self.n_votes,
        }


@dataclass(frozen=True)
class Draft:
    """What a prompt version is to be, before it is one."""

    policy: ModelVersion
    system: str = ""
    template: str = QUESTION
    selection: str = "hand"
    examples: Sequence[int] = field(default_factory=tuple)  # completions chosen by hand
    shots: int = 4
    seed: int = 0
    budget_tokens: int | None = None  # None: as suggested for the policy
    collection: DocumentCollection | None = None
    passages: int = 3

    @property
    def budget(self) -> int:
        said = self.budget_tokens
        return suggested_budget(self.policy) if said is None else said


def suggested_budget(policy: ModelVersion) -> int:
    """Tokens of a whole prompt: the usual number, or what leaves room for an answer where the model reads less."""
    reads = policy.root().details.get("context_tokens")
    if not reads:
        return Prompting.budget_tokens
    return min(Prompting.budget_tokens, reads - min(GenerateConfig.max_new_tokens, reads // 2))


# --- examples ---------------------------------------------------------------------------------
def best_judged(project: Project, limit: int, only: Several[int] | None = None) -> list[Judged]:
    """The answers to training prompts that people liked best, one for each prompt, the best first.

    By the share of votes that put an answer first, drawn towards a half where votes are few:
    (wins + 1) / (votes + 2). Never answers to held-out prompts, which evaluations ask, nor any that was
    cut off or flagged, or that is in quarantine, as its prompt may be. `only` these completions, if they
    are named.
    """
    wins, losses, flagged, voters = _tally(project)
    asked = wins.keys() - flagged if only is None else set(only) - flagged

    def standing(pk: int) -> tuple[float, int, int]:
        return -(wins[pk] + 1) / (wins[pk] + losses[pk] + 2), -wins[pk], pk

    best: dict[int, Judged] = {}  # by prompt
    ordered = sorted(asked, key=standing)
    for start in range(0, len(ordered), POOL):
        if len(best) >= limit:
            break
        batch = ordered[start : start + POOL]
        rows = Completion.objects.filter(
            prompt__project=project, prompt__split=Split.TRAIN, is_truncated=False
        )
        found = rows.select_related("prompt").in_bulk(batch)
        keys = {pk: _keys_of(completion) for pk, completion in found.items()}
        out = out_among(project, {key for both in keys.values() for key in both})
        usable = [pk for pk in batch if pk in found and out.isdisjoint(keys[pk])]
        for completion in (found[pk] for pk in usable if found[pk].text.strip()):
            pk = completion.pk
            judged = Judged(completion, wins[pk], wins[pk] + losses[pk], frozenset(voters[pk]))
            best.setdefault(completion.prompt_id, judged)
    return list(best.values())[:limit]


def _keys_of(completion: Completion) -> set[str]:
    """By which it, or its prompt, may be in quarantine."""
    of_prompt = completion.prompt.key
    return {prompt_key(of_prompt), answer_key(of_prompt, completion.text)}


def _tally(
    project: Project,
) -> tuple[Counter[int], Counter[int], set[int], dict[int, set[int]]]:
    """By completion: votes that put it first, votes that did not, whether it was flagged, and who put it
    first. A tie of all is neither."""
    newest = (
        Judgment.objects.counted()
        .filter(
            project=project,
            comparison__purpose=Purpose.TRAINING,
            comparison__prompt__split=Split.TRAIN,
        )
        .order_by("-pk")
        .values_list("comparison_id", "annotator_id", "verdict", "ranking", "flags")[:VOTES_READ]
    )
    wins: Counter[int] = Counter()
    losses: Counter[int] = Counter()
    all_bad: Counter[int] = Counter()  # by comparison
    flagged: set[int] = set()
    voters: dict[int, set[int]] = defaultdict(set)
    for comparison, annotator, verdict, ranking, flags in newest:
        flagged.update(int(pk) for pk, marks in flags.items() if marks)
        if verdict == Verdict.ALL_BAD:
            all_bad[comparison] += 1
        elif len(ranking) > 1:
            wins.update(ranking[0])
            losses.update(pk for group in ranking[1:] for pk in group)
            for pk in ranking[0]:
                voters[pk].add(annotator)
    entries = ComparisonCompletion.objects.filter(comparison__in=list(all_bad))
    for comparison, pk in entries.values_list("comparison_id", "completion_id"):
        losses[pk] += all_bad[comparison]
    return wins, losses, flagged, voters


def _chosen(project: Project, draft: Draft) -> list[Judged]:
    """The examples of a draft. Raises PromptRefused."""
    if draft.selection == "hand":
        return _by_hand(project, draft.examples)
    pool = best_judged(project, POOL)
    if not pool:
        raise PromptRefused(
            "Nobody has preferred an answer to a training prompt yet, so there are no examples to draw: "
            "judge some comparisons, or choose “by hand” and no example."
        )
    if draft.selection == "random":
        return random.Random(draft.seed).sample(pool, min(draft.shots, len(pool)))
    return pool


def _by_hand(project: Project, chosen: Sequence[int]) -> list[Judged]:
    """In the order chosen. Raises PromptRefused for an answer that may be no example."""
    if not chosen:
        return []
    known = [pk for pk in chosen if 0 < pk <= BigIntegerField.MAX_BIGINT]
    rows = Completion.objects.filter(prompt__project=project, pk__in=known)
    splits = dict(rows.values_list("pk", "prompt__split"))
    for pk in chosen:
        if pk not in splits:
            raise PromptRefused(f"This project has no answer {pk}.")
        if splits[pk] != Split.TRAIN:
            raise PromptRefused(
                f"Answer {pk} is to a held-out prompt, which evaluations ask: as an example it would give "
                "the answer away. Choose answers to training prompts."
            )
    found = {each.completion.pk: each for each in best_judged(project, len(chosen), only=chosen)}
    if missing := [pk for pk in chosen if pk not in found]:
        raise PromptRefused(
            f"Answer {missing[0]} can be no example: it is empty, was cut off or flagged, it or its prompt is in "
            "quarantine, or another answer to the same prompt is an example already."
        )
    return [found[pk] for pk in chosen]


# --- drafts -----------------------------------------------------------------------------------
def prompting_of(project: Project, draft: Draft) -> tuple[Prompting, list[Judged]]:
    """What the draft says, with its examples. Raises PromptRefused."""
    _check(project, draft)
    judged = _chosen(project, draft)
    examples = [
        {"messages": j.completion.prompt.messages, "answer": j.completion.text, "origin": j.origin}
        for j in judged
    ]
    try:
        prompting = Prompting(
            system=_plain(draft.system) if draft.system.strip() else "",
            template=_plain(draft.template),
            selection=draft.selection,
            examples=examples,
            shots=draft.shots,
            budget_tokens=draft.budget,
            collection=draft.collection.path if draft.collection else "",
            passages=draft.passages,
        )
    except ValueError as error:
        raise PromptRefused(f"This prompt does not work: {error}.") from error
    return prompting, judged


def _plain(text: str) -> str:
    """With line ends as models know them: browsers send others."""
    return text.replace("\r\n", "\n")


def _check(project: Project, draft: Draft) -> None:
    policy = draft.policy
    if policy.project_id != project.pk:
        raise PromptRefused(f"{policy} is no policy of this project.")
    if problem := why_not_around(policy):
        raise PromptRefused(problem)
    if draft.collection is not None and draft.collection.project_id != project.pk:
        raise PromptRefused(f"{draft.collection} is no collection of this project.")
    if draft.collection is not None and (changed := _problems_with(draft.collection)):
        raise PromptRefused(f"{draft.collection} is not what was frozen: {in_a_sentence(changed)}.")
    reads = policy.root().details.get("context_tokens")
    if reads and draft.budget >= reads:
        raise PromptRefused(
            f"A budget of {draft.budget} tokens leaves no room for an answer: {policy} reads "
            f"{reads} with its answer. Take {suggested_budget(policy)}, or fewer."
        )


def why_not_around(version: ModelVersion) -> str:
    """Why nothing can be put around a version of the project, and what to choose instead; empty if it can."""
    if version.kind == ModelKind.PROMPT:
        return f"{version} is a prompt version itself. Choose {version.writer} instead, and say all of it anew."
    return "" if version.kind in PUT_AROUND else f"{version} is no policy of this project."


def _problems_with(collection: DocumentCollection) -> list[str]:
    folder, expected = Path(collection.path), collection.files
    return list(find_problems(folder, expected, hash_up_to=HASHED_AT_LAUNCH))


def create_prompt_version(
    project: Project,
    draft: Draft,
    *,
    name: str = "",
    user: User | None = None,
    token: uuid.UUID | None = None,
) -> ModelVersion:
    """Freeze the draft as a version of its policy. The same draft with the same token again gives back the
    version that it made. Raises PromptRefused, and leaves nothing behind then."""
    name = name.strip()
    longest = ModelVersion._meta.get_field("name").max_length or 0
    if not is_one_line(name, longest):
        raise PromptRefused(
            f"The name of a prompt version is one line of at most {longest} characters."
        )
    folder = Path(settings.PROMPTS_DIR) / str(_key(draft, name, token or uuid.uuid4()))
    prompting, judged = prompting_of(project, draft)
    if _changes_nothing(prompting):
        raise PromptRefused(
            f"This is {draft.policy} as it is: write an instruction, choose examples or a collection."
        )
    try:
        with transaction.atomic():
            # Of two at once the second finds what the first has made.
            Project.objects.select_for_update().get(pk=project.pk)
            if known := project.model_versions.filter(path=str(folder)).first():
                return known
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / PROMPTING, prompting.to_dict())
            version = ModelVersion.objects.create(
                project=project,
                name=name or _next_name(project, draft.policy),
                kind=ModelKind.PROMPT,
                parent=draft.policy,
                path=str(folder),
                details=_details(draft, judged),
                files=files_in(folder),
            )
            record(user, Action.CREATED, version, project=project, policy=str(draft.policy))
            return version
    except IntegrityError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise PromptRefused(
            f"This project has a model version “{name or 'of that name'}” already: choose another name."
        ) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _changes_nothing(prompting: Prompting) -> bool:
    is_bare = not (prompting.system or prompting.examples or prompting.collection)
    return is_bare and prompting.template.strip() == QUESTION


def _key(draft: Draft, name: str, token: uuid.UUID) -> uuid.UUID:
    """The same for what is the same of one form: whoever changes it after going back makes another version."""
    collection = draft.collection and draft.collection.pk
    said = {**vars(draft), "policy": draft.policy.pk, "collection": collection, "name": name}
    return uuid.uuid5(token, json.dumps(said))


def _next_name(project: Project, policy: ModelVersion) -> str:
    number = policy.children.filter(kind=ModelKind.PROMPT).count() + 1
    return unused_name(project, f"{policy.name[:100]}-prompt-{number}")


def _details(draft: Draft, judged: Sequence[Judged]) -> dict[str, Any]:
    collection = draft.collection
    return {
        "selection": draft.selection,
        "examples": len(judged),
        "shots": draft.shots,
        "seed": draft.seed,
        "budget_tokens": draft.budget,
        "annotators": sorted({pk for each in judged for pk in each.annotators}),
        **(
            {
                "collection": str(collection),
                "collection_id": collection.pk,
                "collection_folder": collection.path,
                "passages": draft.passages,
            }
            if collection
            else {}
        ),
    }


def draft_like(version: ModelVersion) -> dict[str, Any]:
    """Initial values of the lab's form: what the version was made from."""
    prompting, details = prompting_in(version), version.details
    chosen = [each["origin"].get("completion") for each in prompting.examples]
    return {
        "policy": version.parent,
        "system": prompting.system,
        "template": prompting.template,
        "selection": prompting.selection,
        "examples": chosen if prompting.selection == "hand" else [],
        "shots": prompting.shots,
        "seed": details.get("seed", 0),
        "budget_tokens": prompting.budget_tokens,
        "collection": details.get("collection_id"),
        "passages": prompting.passages,
    }


def prompting_in(version: ModelVersion) -> Prompting:
    """Raises RunError if its file is gone, or is not what was made."""
    if problems := list(find_problems(Path(version.path), version.files)):
        raise RunError(f"{version} is not what was made: {in_a_sentence(problems)}.")
    return read_prompting(str(Path(version.path) / PROMPTING))


def changes_between(before: ModelVersion, after: ModelVersion) -> dict[str, list[Piece]]:
    """What is different, part by part: texts by their words, examples one by one. Raises RunError."""
    first, second = prompting_in(before), prompting_in(after)
    old, new = _texts(before, first), _texts(after, second)
    return {
        **{part: word_changes(old[part], new[part]) for part in old},
        "Examples": list(_example_changes(_examples(first), _examples(second))),
    }


def _texts(version: ModelVersion, prompting: Prompting) -> dict[str, str]:
    n = len(prompting.examples)
    how = {
        "similar": f"the {prompting.shots} most similar of {n}",
        "hand": f"all {n}, chosen by hand",
        "random": f"all {n}, drawn at random",
    }
    chosen = how[prompting.selection] if n else "none"
    documents = version.details.get("collection")
    found = f"{prompting.passages} per question, of {documents}" if documents else "none"
    budget = f"{prompting.budget_tokens} tokens"
    return {
        "System message": prompting.system,
        "Template": prompting.template,
        "Settings": f"Examples: {chosen}. Passages: {found}. Budget: {budget}.",
    }


def _examples(prompting: Prompting) -> list[str]:
    return [
        "\n".join(f"{message['role']}: {message['content']}" for message in example["messages"])
        + f"\nassistant: {example['answer']}\n\n"
        for example in prompting.examples
    ]


def _example_changes(before: list[str], after: list[str]) -> Iterator[Piece]:
    matching = SequenceMatcher(None, before, after, autojunk=False)
    for kind, i, i_end, j, j_end in matching.get_opcodes():
        if kind == "equal":
            yield Piece("same", "".join(after[j:j_end]))
            continue
        if i < i_end:
            yield Piece("removed", "".join(before[i:i_end]))
        if j < j_end:
            yield Piece("added", "".join(after[j:j_end]))


# --- what was put around a question ---------------------------------------------------------------
def put_around(project: Project, completion: int) -> dict[str, Any] | None:
    """What a prompt version had put around the question when this answer was written, as the run kept it.

    None for answers of anybody else, and where the run's folder has been cleared away.
    """
    rows = GeneratedCompletion.objects.select_related("run", "completion").filter(
        completion=completion, run__project=project, model_version__kind=ModelKind.PROMPT
    )
    generated = rows.first()
    if generated is None:
        return None
    run = generated.run
    side = "new" if generated.model_version_id == run.policy_id else "old"
    file = run.folder / SIDES[side if run.kind == RunKind.EVALUATE else ""]
    if not file.is_file():
        return None
    asked = generated.completion.prompt_id
    with file.open("rb") as lines:
        found = (row for row in map(load_line, lines) if row["id"] == asked)
        return next(found, None)


# --- how good they are --------------------------------------------------------------------------
class Tried(NamedTuple):
    """A prompt version and the evaluation of it that decided most comparisons, if there was one."""

    version: ModelVersion
    run: Run | None
    win_rate: WinRate | None


def tried(project: Project, versions: Iterable[ModelVersion]) -> list[Tried]:
    """How these versions fared against other ones, as people judged blind."""
    versions = list(versions)
    runs = list(
        project.runs.evaluations()
        .filter(status=Status.SUCCEEDED, policy__in=versions)
        .select_related("rival")[:RUNS_READ]
    )
    rates = win_rates(runs) if runs else {}
    best: dict[int, Run] = {}
    for run in runs:
        known = best.get(run.policy_id or 0)
        if known is None or _decided(rates[run.pk]) > _decided(rates[known.pk]):
            best[run.policy_id or 0] = run
    found = []
    for version in versions:
        run_of = best.get(version.pk)
        found.append(Tried(version, run_of, rates[run_of.pk] if run_of else None))
    return found


def _decided(rate: WinRate) -> int:
    return rate.wins + rate.losses


def best_tried(project: Project) -> Tried | None:
    """The prompt version with examples that has the highest win rate, or the newest while none has been
    judged; None without any. An instruction alone is no few-shot prompting."""
    prompts = project.model_versions.filter(kind=ModelKind.PROMPT, details__examples__gt=0)
    versions = prompts.select_related("parent")
    found = tried(project, versions[:RUNS_READ])
    judged = [each for each in found if _rate(each) is not None]
    return max(judged, key=lambda each: _rate(each) or 0.0) if judged else next(iter(found), None)


def _rate(each: Tried) -> float | None:
    return each.win_rate.rate if each.win_rate else None

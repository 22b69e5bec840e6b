"""Screenings of a project's prompts and answers, of an export, of a dataset: what they read, what they found.

What can be screened has a name: "project", "export-3", "dataset-7". The newest screening of that name counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from django.db.models import Count, Q, QuerySet

from annotator.models import Completion, Export, Project, Prompt, Split
from rlhf.dataset_inputs import link_or_copy
from rlhf.generation import write_prompts
from rlhf.integrity import HASHED_AT_LAUNCH, FilesChanged, files_of_export, refuse_changed
from rlhf.models import Dataset, ModelKind, ModelVersion, QuarantinedRow, Run, RunKind, Status
from rlhf.training.artifacts import write_json
from rlhf.training.hashes import HASHES, Files, find_problems, in_a_sentence
from rlhf.training.screen_config import CLASSES, FindingClass, is_as_severe
from rlhf.training.screen_rows import (
    ANSWER,
    DATASET_FOLDER,
    EXPORT_FOLDER,
    FILES_OF_EXPORT,
    HELD_OUT,
    PROMPT,
    ROWS,
    TEST,
)

BATCH = 500  # rows
PROJECT = "project"
FINDINGS = "findings.jsonl"
INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
READ_OF_EXPORT = (*FILES_OF_EXPORT, "manifest.json")


class CannotScreen(Exception):
    """There is nothing to screen. The message is a sentence for the admin."""


# --- what can be screened ---------------------------------------------------------------------
def name_of(thing: Export | Dataset) -> str:
    """Example: "export-3"."""
    return f"{thing._meta.model_name}-{thing.pk}"


def find(project: Project, name: str) -> Project | Export | Dataset:
    """Raises CannotScreen if the project has nothing of that name."""
    kind, _, number = name.partition("-")
    rows: dict[str, QuerySet[Any]] = {
        "export": project.exports.all(),
        "dataset": project.datasets.all(),
    }
    if name == PROJECT:
        return project
    is_number = number.isdecimal() and len(number) < 10
    if kind in rows and is_number and (found := rows[kind].filter(pk=number).first()):
        return found
    raise CannotScreen(
        f"{project} has no “{name}” to screen: name “project”, or one of its exports or datasets, "
        "such as “export-3”."
    )


def in_words(name: str) -> str:
    """Example: "export 3"; "prompts and answers" of a project."""
    return "prompts and answers" if name == PROJECT else name.replace("-", " ")


def newest(project: Project, name: str) -> Run | None:
    """The screening that counts: the last one that has come to its end."""
    screenings = project.runs.filter(kind=RunKind.SCREEN, config__screened=name)
    return screenings.filter(status=Status.SUCCEEDED).order_by("-pk").first()


def outdated_by(run: Run) -> str:
    """What it would look at, or look for, by now and could not then; empty if nothing. Exports and datasets never
    change, and what is looked for in them does: the held-out prompts, and the tokenizers' control tokens.

    Example: "the held-out prompts have changed since"
    """
    checks = run.config.get("checks", ["leakage", "tokens"])
    is_of_project = run.config["screened"] == PROJECT
    if (is_of_project or "leakage" in checks) and _have_prompts_changed(run):
        return f"{'the' if is_of_project else 'the held-out'} prompts have changed since"
    if "tokens" in checks and "tokenizers" in run.config:
        asked = run.config["tokenizers"]
        if any(folder not in asked for folder in policy_folders(run.project)):
            return "a policy has been imported since, with control tokens of its own"
    return ""


def _have_prompts_changed(run: Run) -> bool:
    prompts = _prompts_that_matter(run.project, run.config["screened"])
    if seen := run.result.get("prompts_sha256"):
        return bool(seen != _digest(prompts.values_list("pk", flat=True)))
    return prompts.filter(created__gt=run.created).exists()  # a screening from before that was kept


def _prompts_that_matter(project: Project, name: str) -> QuerySet[Prompt]:
    """Those that are looked at, or whose leaks are looked for."""
    prompts = Prompt.objects.filter(project=project)
    if name == PROJECT:
        return prompts.exclude(split=Split.GOLD)
    return prompts.filter(split=Split.TEST)


def _digest(numbers: Iterable[int]) -> str:
    return hashlib.sha256(json.dumps(sorted(numbers)).encode()).hexdigest()


def is_screened(project: Project, name: str) -> bool:
    run = newest(project, name)
    return run is not None and not outdated_by(run)


def settings_for(project: Project, name: str) -> dict[str, Any]:
    """To screen this again: as its newest screening was; without one, the usual ones."""
    before = newest(project, name)
    chosen = {} if before is None else before.config
    return {**{key: chosen[key] for key in chosen if key != "tokenizers"}, "screened": name}


def active(project: Project, name: str) -> Run | None:
    return project.runs.active().filter(kind=RunKind.SCREEN, config__screened=name).first()


def policy_folders(project: Project) -> list[str]:
    """Of the imported policies, whose tokenizers say which special tokens there are."""
    return sorted({policy.path for policy in _imported(project)})


def _imported(project: Project) -> list[ModelVersion]:
    policies = project.model_versions.filter(kind=ModelKind.POLICY, parent=None)
    return [policy for policy in policies if Path(policy.path).is_dir()]


def _check_tokenizers(project: Project) -> None:
    """They are small, so a look at the files before the run starts covers them."""
    for policy in _imported(project):
        try:
            refuse_changed(policy, hash_up_to=HASHED_AT_LAUNCH)
        except FilesChanged as changed:
            raise CannotScreen(str(changed)) from changed


# --- what a screening reads -------------------------------------------------------------------
def write_input(project: Project, name: str, folder: Path) -> None:
    """Fill the run's folder. Raises CannotScreen if there is nothing, or files are not what they were."""
    thing = find(project, name)
    _check_tokenizers(project)
    held_out = Prompt.objects.filter(project=project, split=Split.TEST)
    write_prompts(folder / HELD_OUT, held_out)
    if isinstance(thing, Project):
        if not _write_rows(folder / ROWS, project):
            raise CannotScreen("This project has no prompts yet: import some first.")
    elif isinstance(thing, Export):
        files = files_of_export(thing)
        known = {file: files[file] for file in READ_OF_EXPORT if file in files}
        _link_files(thing.folder, folder, EXPORT_FOLDER, known, str(thing))
    else:
        _link_files(Path(thing.path), folder, DATASET_FOLDER, thing.files, f"dataset “{thing}”")


def _write_rows(path: Path, project: Project) -> int:
    """Of prompts and answers that something may be learned from: no known answers."""
    prompts = Prompt.objects.filter(project=project).exclude(split=Split.GOLD).order_by("pk")
    answers = Completion.objects.filter(prompt__in=prompts).order_by("pk")
    n = 0
    with path.open("w", encoding="utf-8") as file:
        for pk, key, split, messages in prompts.values_list(
            "pk", "key", "split", "messages"
        ).iterator(BATCH):
            row = {"kind": PROMPT, "id": pk, "prompt_key": key, "split": split}
            file.write(json.dumps({**row, "messages": messages}) + "\n")
            n += 1
        for pk, key, split, text in answers.values_list(
            "pk", "prompt__key", "prompt__split", "text"
        ).iterator(BATCH):
            row = {"kind": ANSWER, "id": pk, "prompt_key": key, "split": split, "text": text}
            file.write(json.dumps(row) + "\n")
    return n


def _link_files(source: Path, folder: Path, target: str, files: Files, name: str) -> None:
    """With the hashes that the run's process checks before it begins."""
    found = find_problems(source, files, hash_up_to=HASHED_AT_LAUNCH, may_hold_more=True)
    if problems := list(found):
        raise CannotScreen(f"{name} is not what was frozen: {in_a_sentence(problems)}.")
    (folder / target).mkdir()
    for file in files:
        link_or_copy(source / file, folder / target / file)
    write_json(folder / HASHES, {target: files})


# --- what it found ----------------------------------------------------------------------------
class Finding(NamedTuple):
    """A line of findings.jsonl, and what has become of its row."""

    line: Mapping[str, Any]
    row: QuarantinedRow | None = None  # None: it was not severe enough to be left out

    @property
    def about(self) -> FindingClass:
        return CLASSES[self.line["code"]]

    @property
    def is_cut(self) -> bool:
        """Whether more of the text stands before what is shown."""
        return self.line["start"] > len(self.line["before"])

    @property
    def before(self) -> str:
        return visible(self.line["before"])

    @property
    def span(self) -> str:
        return visible(self.line["span"])

    @property
    def after(self) -> str:
        return visible(self.line["after"])

    @property
    def note(self) -> str:
        return visible(self.line["note"])


def visible(text: str) -> str:
    """With what no page can hold, or nobody would see, as its code. Example: NUL -> "\\x00"."""
    whole = text.encode(errors="backslashreplace").decode()
    return INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), whole)


def findings_path(run: Run) -> Path:
    return run.folder / "artifact" / FINDINGS


def read_findings(run: Run) -> Iterator[tuple[int, dict[str, Any]]]:
    """One after another, each with where its line begins in the file; none if the folder has been cleared
    away."""
    place = 0
    try:
        with findings_path(run).open("rb") as file:
            for line in file:
                yield place, json.loads(line)
                place += len(line)
    except FileNotFoundError:
        return


STATES = {"quarantine": "In quarantine", "released": "Released", "noted": "Only noted"}


def places_of(run: Run, code: str = "", state: str = "") -> list[int]:
    """Where the lines of findings.jsonl begin that fit: of a class, and in one of `STATES`."""
    decided = dict[tuple[str, str], bool]()
    if state:
        for key, of_class, is_released in run.quarantined.values_list("key", "code", "is_released"):
            decided[key, of_class] = is_released
    wanted = {"quarantine": False, "released": True, "noted": None}.get(state)
    return [
        place
        for place, line in read_findings(run)
        if (not code or line["code"] == code)
        and (not state or decided.get((line["key"], line["code"])) is wanted)
    ]


def lines_at(run: Run, places: Iterable[int]) -> Iterator[bytes]:
    with findings_path(run).open("rb") as file:
        for place in places:
            file.seek(place)
            yield file.readline()


def findings_at(run: Run, places: Iterable[int]) -> list[Finding]:
    """Those of a page, with what has become of their rows: one query."""
    lines = list(map(json.loads, lines_at(run, places)))
    rows = run.quarantined.filter(key__in={line["key"] for line in lines})
    of = {(row.key, row.code): row for row in rows.select_related("decided_by")}
    return [Finding(line, of.get((line["key"], line["code"]))) for line in lines]


class ClassCount(NamedTuple):
    """How often a class was found, and how many of its rows are in quarantine now."""

    about: FindingClass
    rows: int
    findings: int
    quarantined: int
    released: int
    held_out: int  # of the rows


def counts_of(run: Run) -> list[ClassCount]:
    """In the order of their severity."""
    states = run.quarantined.values_list("code").annotate(
        out=Count("pk", filter=Q(is_released=False)),
        released=Count("pk", filter=Q(is_released=True)),
    )
    of = {code: (out, released) for code, out, released in states.order_by("code")}
    counts = run.result.get("counts", {})
    return [
        ClassCount(
            about,
            counts[code]["rows"],
            counts[code]["findings"],
            *of.get(code, (0, 0)),
            counts[code].get("held_out", 0),  # which screenings once did not count
        )
        for code, about in CLASSES.items()
        if code in counts
    ]


def collect_screen(run: Run) -> dict[str, Any]:
    """Put what is severe enough into quarantine, but what is held out, which nothing learns from. What a
    reviewer has decided of the same finding before, in any screening of the project, still holds."""
    least = run.config["quarantine_from"]
    seen: set[tuple[str, str]] = set()
    found = (
        (line["key"], line["code"])
        for _, line in read_findings(run)
        if line["split"] != TEST and is_as_severe(CLASSES[line["code"]].severity, least)
    )
    n_released = 0
    while batch := list(islice(found, BATCH)):
        new = [pair for pair in dict.fromkeys(batch) if pair not in seen]
        seen.update(new)
        rows = [_row(run, pair, decision) for pair, decision in _decisions(run, new).items()]
        QuarantinedRow.objects.bulk_create(rows)
        n_released += sum(row.is_released for row in rows)
    return {
        "n_quarantined": len({key for key, _ in seen}),
        "n_released_before": n_released,
        "prompts_sha256": _digest(_prompts_seen(run)),
    }


def _prompts_seen(run: Run) -> Iterator[int]:
    """The numbers of those that matter, as they were when it was launched."""
    is_of_project = run.config["screened"] == PROJECT
    path = run.folder / (ROWS if is_of_project else HELD_OUT)
    with path.open("rb") as file:
        lines = map(json.loads, file)
        yield from (line["id"] for line in takewhile(_is_prompt, lines))


def _is_prompt(line: Mapping[str, Any]) -> bool:
    return line.get("kind", PROMPT) == PROMPT  # in rows.jsonl answers follow


def _decisions(
    run: Run, pairs: list[tuple[str, str]]
) -> dict[tuple[str, str], QuarantinedRow | None]:
    """The latest decision on each (key, code), None where there was none."""
    decided = QuarantinedRow.objects.filter(
        run__project=run.project_id, key__in=[key for key, _ in pairs], decided__isnull=False
    )
    latest = {(row.key, row.code): row for row in decided.order_by("decided", "pk")}
    return {pair: latest.get(pair) for pair in pairs}


def _row(run: Run, pair: tuple[str, str], decision: QuarantinedRow | None) -> QuarantinedRow:
    key, code = pair
    row = QuarantinedRow(run=run, key=key, code=code)
    if decision is not None:
        row.is_released, row.reason = decision.is_released, decision.reason
        row.decided_by_id, row.decided = decision.decided_by_id, decision.decided
    return row

"""What is left out of training, and who decides.

A training run's folder gets the rows of an export, of datasets and of the project's prompts without those
in quarantine, and `screening.json` says which screening decided and what was left out. The frozen files
themselves never change: `leave_out` writes new ones beside, and puts them in the place of the links.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from annotator.audit import Action, record
from annotator.models import Export, Project, Prompt, User
from rlhf import screening
from rlhf.dataset_inputs import folder_name, link_or_copy
from rlhf.inputs import Order, RunRefused
from rlhf.integrity import files_of_export
from rlhf.models import Dataset, QuarantinedRow, Run, RunKind, Status
from rlhf.training.artifacts import read_json, write_json
from rlhf.training.demonstrations import split_of
from rlhf.training.hashes import HASHES, Files, find_problems, in_a_sentence, sha256_of
from rlhf.training.screen_config import CLASSES
from rlhf.training.screen_rows import FILES_OF_EXPORT, PROMPT, TEST, keys_of, row_key

SCREENING = "screening.json"
TRAINING = [
    RunKind.REWARD_MODEL, RunKind.PPO, RunKind.SUPERVISED, RunKind.DOMAIN, RunKind.DPO, RunKind.KTO,
    RunKind.RLOO, RunKind.GRPO, RunKind.DISTILL, RunKind.SEARCH,
]  # fmt: skip
ASK_PROMPTS = [
    RunKind.PPO,
    RunKind.RLOO,
    RunKind.GRPO,
    RunKind.DISTILL,
]  # and learn from the answers
BESIDE_PAIRS = ("demonstrations.jsonl", "votes.jsonl")  # of an export: a run can do without
CHUNK = 500  # values of one query

Row = Mapping[str, Any]


# --- leaving out ------------------------------------------------------------------------------
def leave_out(order: Order, folder: Path) -> list[dict[str, Any]]:
    """Take what is in quarantine out of a training run's folder; what it passed, as screening.json has it.

    One entry for each thing that it learns from: {"screened", "screening", "left_out", …}, in which the
    number of the screening is None if there was none; with "first", it is to be screened before the run
    starts. Raises RunRefused if nothing would be left, or a file is not what was frozen.
    """
    if order.kind not in TRAINING:
        return []
    inputs = _inputs_of(order.kind, folder)
    passed = []
    for name in _learned_from(order, inputs):
        if settings.SCREEN_FIRST and not screening.is_screened(order.project, name):
            passed.append({"screened": name, "screening": None, "first": True})
        else:
            passed.append(_leave_out_of(order.project, name, inputs))
    if passed:
        write_json(folder / SCREENING, passed)
    return passed


def to_be_screened(run: Run) -> list[str]:
    """The names of what is to be screened before the run starts."""
    return [each["screened"] for each in run.screening if each.get("first")]


def leave_out_now(run: Run) -> list[dict[str, Any]]:
    """The same as `leave_out` of a queued run, for what has been screened since its launch."""
    inputs = _inputs_of(run.kind, run.folder)
    names = to_be_screened(run)
    things: list[Export | Dataset] = [*([run.export] if run.export else []), *run.datasets.all()]
    for thing in things:
        if screening.name_of(thing) in names:  # a trainer that was killed in between may have taken
            _link_anew(thing, inputs)  # some rows out already, and not said so in the hashes
    passed = [
        _leave_out_of(run.project, each["screened"], inputs) if each["screened"] in names else each
        for each in run.screening
    ]
    write_json(run.folder / SCREENING, passed)
    return passed


def _link_anew(thing: Export | Dataset, inputs: Path) -> None:
    """Its files as they were frozen, whatever has become of those in the run's folder."""
    if isinstance(thing, Dataset):
        where, source, frozen = folder_name(thing), Path(thing.path), thing.files
        names = [thing.data.name]
    else:
        where, source, frozen = "data", thing.folder, files_of_export(thing)
        names = [name for name in FILES_OF_EXPORT if name in _hashes_in(inputs).get(where, {})]
    for name in names:
        path = inputs / where / name
        anew = path.with_name(f".{name}.anew")
        anew.unlink(missing_ok=True)
        try:
            link_or_copy(source / name, anew)
        except OSError as error:
            raise RunRefused(f"{source / name} cannot be read: {error.strerror}.") from error
        anew.replace(path)
        anew.unlink(missing_ok=True)  # it stays where both are names of one file
    again = {name: frozen[name] for name in names if name in frozen}
    _record({where: {**_hashes_in(inputs).get(where, {}), **again}}, inputs)


def _inputs_of(kind: str, folder: Path) -> Path:
    return folder / "inputs" if kind == RunKind.SEARCH else folder  # of each of its trials


def _learned_from(order: Order, inputs: Path) -> list[str]:
    """The names of what can be screened."""
    things: list[Export | Dataset] = [*([order.export] if order.export else []), *order.datasets]
    kind = order.settings.get("tries", order.kind)
    asks = kind in ASK_PROMPTS and _files_of(screening.PROJECT, inputs)
    return [*map(screening.name_of, things), *([screening.PROJECT] if asks else [])]


def _files_of(name: str, inputs: Path) -> list[Path]:
    """Those with the rows of what has this name."""
    kind, _, number = name.partition("-")
    if kind == "export":
        return _there(inputs / "data", *FILES_OF_EXPORT)
    if kind == "dataset":
        return _there(inputs / "datasets" / number, "data.jsonl")
    return _there(inputs, "prompts.jsonl")


def _there(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _leave_out_of(project: Project, name: str, inputs: Path) -> dict[str, Any]:
    run = screening.newest(project, name)
    if run is None:
        return {"screened": name, "screening": None}
    keys = set(in_quarantine(run).values_list("key", flat=True))
    is_out = _test_of(project, name, keys)
    left_out = {
        path.name: _filter(path, is_out, _held_out_test_of(name), inputs) if keys else 0
        for path in _files_of(name, inputs)
    }
    return {
        "screened": name,
        "screening": run.pk,
        "finished": run.finished.isoformat() if run.finished else None,
        "outdated": screening.outdated_by(run),
        "settings": run.config,
        "findings_sha256": run.result.get("findings_sha256"),
        "left_out": left_out,
    }


def _test_of(project: Project, name: str, keys: set[str]) -> Callable[[int, Row], bool]:
    """Whether a row, with its number in the file, is in quarantine."""
    if name.startswith("dataset-"):
        return lambda number, row: row_key(name, number) in keys
    if name == screening.PROJECT:
        prompts = _prompts_among(project, keys)
        return lambda number, row: row["id"] in prompts
    return lambda number, row: not keys.isdisjoint(keys_of(row))


def _held_out_test_of(name: str) -> Callable[[Row], bool]:
    """Whether a row is held out: as a run reads it."""
    if name.startswith("dataset-"):
        return lambda row: split_of(row) == TEST
    return lambda row: row.get("split") == TEST


def _prompts_among(project: Project, keys: Iterable[str]) -> set[int]:
    hashes = [key.removeprefix(f"{PROMPT}-") for key in keys if key.startswith(f"{PROMPT}-")]
    rows = Prompt.objects.filter(project=project)
    found: set[int] = set()
    for start in range(0, len(hashes), CHUNK):
        found.update(
            rows.filter(key__in=hashes[start : start + CHUNK]).values_list("pk", flat=True)
        )
    return found


def _filter(
    path: Path, is_out: Callable[[int, Row], bool], is_held_out: Callable[[Row], bool], inputs: Path
) -> int:
    """Without the rows that are out, unless they are held out: figures are to remain comparable. How many they
    were. The file may be a second name of a frozen one, so another one takes its place, with a hash of
    its own for the run's process to check."""
    where, name = str(path.parent.relative_to(inputs)), path.name
    known = _hashes_in(inputs).get(where, {}).get(name)
    if known and (problems := list(find_problems(path.parent, {name: known}, may_hold_more=True))):
        raise RunRefused(f"Nothing is learned from what has changed: {in_a_sentence(problems)}.")
    kept_path = path.with_name(f".{path.name}.kept")
    n_out = n_to_learn = 0
    with path.open("rb") as file, kept_path.open("wb") as kept:
        for number, line in enumerate(file, 1):
            row = json.loads(line)
            is_measured = is_held_out(row)
            if not is_measured and is_out(number, row):
                n_out += 1
            else:
                n_to_learn += not is_measured
                kept.write(line)
    if not n_out:
        kept_path.unlink()
        return 0
    if not n_to_learn and path.name not in BESIDE_PAIRS:
        kept_path.unlink()
        raise RunRefused(
            f"All {n_out:,} rows to learn from are in quarantine: look at the newest screening, release "
            "what may be learned from, or screen with fewer checks."
        )
    kept_path.replace(path)
    if known:  # who is killed before this is recorded begins with `_link_anew`
        now = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        _record({where: {**_hashes_in(inputs)[where], name: now}}, inputs)
    return n_out


def _hashes_in(inputs: Path) -> dict[str, Files]:
    path = inputs / HASHES
    found: dict[str, Files] = read_json(path) if path.exists() else {}
    return found


def _record(hashes: Mapping[str, Files], inputs: Path) -> None:
    write_json(inputs / HASHES, {**_hashes_in(inputs), **hashes})


def passed_by(folder: Path) -> list[dict[str, Any]]:
    """What `leave_out` has written into the run's folder."""
    return read_json(folder / SCREENING) if (folder / SCREENING).exists() else []


# --- saying so --------------------------------------------------------------------------------
def passed_in_words(run: Run) -> list[str]:
    """What a training run's data passed, or that it was not screened; nothing of other runs.

    Example: ["export 3 passed screening run 12: 4 rows were left out"]
    """
    if run.kind not in TRAINING:
        return []
    return [_in_words(passed) for passed in run.screening] or ["not screened"]


def _in_words(passed: Row) -> str:
    name = screening.in_words(passed["screened"])
    if passed.get("first"):
        return f"{name}: to be screened before the run starts"
    if passed["screening"] is None:
        return f"{name}: not screened"
    # votes.jsonl says once more what is in the pairs.
    n = sum(n for name, n in passed["left_out"].items() if name != "votes.jsonl")
    rows = {0: "nothing was", 1: "1 row was"}.get(n, f"{n:,} rows were")
    outdated = f" ({passed['outdated']})" if passed.get("outdated") else ""
    return f"{name} passed screening run {passed['screening']}{outdated}: {rows} left out"


# --- as examples ------------------------------------------------------------------------------
def out_among(project: Project, keys: Iterable[str]) -> set[str]:
    """Which of these prompts and answers are in quarantine: by the newest screenings of the project and of
    its exports. Of a finding that several have made the latest decision counts."""
    screenings = project.runs.filter(kind=RunKind.SCREEN, status=Status.SUCCEEDED).order_by("pk")
    newest = dict(screenings.values_list("config__screened", "pk")).values()
    rows = QuarantinedRow.objects.filter(run__in=newest, key__in=list(keys))
    by_decision = rows.order_by(F("decided").asc(nulls_first=True), "pk")
    found = by_decision.values_list("key", "code", "is_released")
    released = {(key, code): is_released for key, code, is_released in found}
    return {key for (key, _), is_released in released.items() if not is_released}


# --- deciding ---------------------------------------------------------------------------------
def in_quarantine(run: Run) -> QuerySet[QuarantinedRow]:
    return run.quarantined.filter(is_released=False)


def decide(
    run: Run,
    user: User | None,
    *,
    released: bool,
    reason: str,
    keys: Iterable[str] = (),
    code: str = "",
) -> int:
    """Release rows of a screening, or put them into quarantine again: those with these keys, or all with
    findings of a class; how many findings changed. What is so already is left as it is.

    Raises ValueError, with a sentence, without a reason or if neither keys nor a class is named.
    """
    keys = list(keys)
    if not (reason := reason.strip()):
        raise ValueError("Say why: the reason is kept with the decision.")
    if not keys and code not in CLASSES:
        raise ValueError("Say which rows, or which class of findings.")
    rows = run.quarantined.filter(is_released=not released)
    rows = rows.filter(key__in=keys) if keys else rows.filter(code=code)
    with transaction.atomic():
        n = rows.update(
            is_released=released, reason=reason[:500], decided_by=user, decided=timezone.now()
        )
        if n:
            action = Action.RELEASED if released else Action.HELD
            told = {"rows": len(keys)} if keys else {"class": CLASSES[code].label}
            record(user, action, run, project=run.project, findings=n, reason=reason[:500], **told)
    return n

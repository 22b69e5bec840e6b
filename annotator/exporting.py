"""Freezing the votes of a project as a preference dataset: data.jsonl, votes.jsonl, showings.jsonl,
manifest.json.

docs/data-format.md describes the files. Votes are never flattened to a majority: each row is a
pair with the share of the judgments that prefer `chosen`, votes.jsonl has each judgment, and
showings.jsonl what else was shown.
"""

from __future__ import annotations

import json
import platform
import tempfile
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import django
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Q
from django.utils import timezone

from annotator.audit import Action, record
from annotator.exports.files import Lines, flush_to_disk
from annotator.exports.filters import Filters
from annotator.exports.records import one_moment, other_showings, records
from annotator.exports.schemas import features_of
from annotator.exports.shapes import (
    COLUMNS,
    DEMONSTRATION_COLUMNS,
    REWARD,
    RULING,
    SAYS_SOMETHING,
    Record,
    demonstrations,
    reward_rows,
)
from annotator.models import (
    Comparison,
    Export,
    ExportAnnotator,
    Judgment,
    Project,
    Purpose,
    Split,
    User,
    Verdict,
)
from annotator.taking_back import UNSETTLED, is_unsettled
from annotator.version import code_version
from annotator.webhooks.outbox import tell_export

# 2: with weight and votes. 3: margin from 0 to 1; criteria, flags, and more in votes. 4: beside
# data.jsonl there is votes.jsonl; data.jsonl is as before. 5: and showings.jsonl
FORMAT_VERSION = 5
SOURCES_KEPT = 1000  # in the manifest: an import may name one for each completion
MAX_LICENCE = 500  # characters
NO_LICENCE = (
    "None was stated. What people said belongs to whoever asked them; prompts and completions may be "
    "subject to the terms of their authors and of the models in the list of sources."
)

__all__ = ["RULING", "NotExported", "NothingToExport", "create_export", "preview"]


class NotExported(Exception):
    """No export was made. The message is a sentence for the admin."""


class NothingToExport(NotExported):
    """There are no votes that say which completion is better."""


# --- the files --------------------------------------------------------------------------------
class _Tally:
    """What the manifest says of the records and rows, counted while they are written."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()  # by split
        self.judgments: Counter[str] = Counter()  # by verdict
        self.guideline_versions: Counter[int] = Counter()
        self.annotators: Counter[int] = Counter()  # judgments of each
        self.outcomes: Counter[str] = Counter()  # of the other showings
        self.sources: Counter[str] = Counter()  # completions of each
        self.comparisons = 0
        self.rulings = 0
        self.comparisons_all_bad = 0
        self.demonstrations = 0
        self.ties = 0

    def add(self, record: Record, rows: Sequence[Mapping[str, Any]]) -> None:
        votes = 0
        for judgment in record["judgments"]:
            self.judgments[judgment["verdict"]] += 1
            if judgment["verdict"] not in SAYS_SOMETHING:
                continue
            votes += 1
            self.guideline_versions[judgment["guideline_version"]] += 1
            self.annotators[int(judgment["annotator"])] += 1
        if not votes:
            return
        self.comparisons += 1
        self.comparisons_all_bad += not rows
        if rows:
            self.sources.update(record["sources"])
            self.rulings += len(record["rulings"])
            for ruling in record["rulings"]:
                self.annotators[int(ruling["annotator"].removeprefix(RULING))] += 1
        for row in rows:
            self.rows[row["split"]] += 1
            self.ties += row["p_chosen"] == 0.5

    @property
    def votes(self) -> int:
        return self.judgments[Verdict.RANKING] + self.judgments[Verdict.ALL_BAD]

    def counts(self) -> dict[str, int]:
        return {
            "rows": self.rows.total(),
            "rows_train": self.rows[Split.TRAIN],
            "rows_test": self.rows[Split.TEST],
            "rows_tied": self.ties,
            "comparisons": self.comparisons,
            "comparisons_all_bad": self.comparisons_all_bad,
            "judgments": self.votes,
            "rankings": self.judgments[Verdict.RANKING],
            "all_bad": self.judgments[Verdict.ALL_BAD],
            "rulings": self.rulings,
            "annotators": len(self.annotators),
            "demonstrations": self.demonstrations,
            "unrankable": self.judgments[Verdict.UNRANKABLE],
            "skipped": self.judgments[Verdict.SKIPPED],
        }


def create_export(
    project: Project,
    user: User | None = None,
    *,
    round_number: int | None = None,
    filters: Filters | None = None,
    use_rulings: bool = False,
    licence: str = "",
) -> Export:
    """Freeze the votes in force on training comparisons: all, or those that `filters` keep.

    `round_number` is short for a filter of rounds up to this one. With `use_rulings`, a reviewer's
    ranking counts as one more beside the votes on that comparison. `licence` is a note for whoever
    gets the files.

    The files are written aside and renamed into place within the transaction that stores the row,
    so there is never a row without its files. Raises NothingToExport, or NotExported if the files
    cannot be written or an import is at work, whose votes may still go again; then nothing is left behind.
    """
    filters = filters or Filters()
    if round_number is not None:
        filters = replace(filters, last_round=round_number)
    what = What(filters, use_rulings, licence.strip() or NO_LICENCE)
    exports = Path(settings.EXPORTS_DIR)
    try:
        exports.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=exports) as temporary:
            folder = Path(temporary) / "export"
            folder.mkdir()
            with one_moment():
                if is_unsettled(project):
                    raise NotExported(UNSETTLED)
                manifest, annotators = _write(folder, project, what)
            return _store(folder, manifest, annotators, project, user)
    except OSError as error:
        raise NotExported(
            f"The export could not be written to {exports}: {error.strerror}. "
            "Nothing was kept; make room and try again."
        ) from error


class What(NamedTuple):
    """What an export is asked for."""

    filters: Filters
    use_rulings: bool
    licence: str


def _latest_round(project: Project) -> int:
    """The latest round that has training comparisons."""
    training = Comparison.objects.filter(project=project, purpose=Purpose.TRAINING)
    of_rounds = training.order_by("-round_number").values_list("round_number", flat=True)
    return of_rounds.first() or 1


def _write(folder: Path, project: Project, what: What) -> tuple[dict[str, Any], Counter[int]]:
    """The manifest, and how many judgments each annotator has in the files."""
    tally = _Tally()
    with (
        Lines(folder / "data.jsonl") as pairs,
        Lines(folder / "votes.jsonl") as votes,
        Lines(folder / "showings.jsonl") as showings,
        Lines(folder / "demonstrations.jsonl") as rewrites,
    ):
        for record in records(project, what.filters, use_rulings=what.use_rulings):
            rows = list(reward_rows(record))
            tally.add(record, rows)
            pairs.write(rows)
            votes.write([record])
            rewrites.write(demonstrations(record))
        if tally.rows:
            for row in other_showings(project, what.filters):
                tally.outcomes[row["outcome"]] += 1
                showings.write([row])
    if not tally.rows:
        raise NothingToExport(_why_nothing(project, tally, what.filters))
    tally.demonstrations = rewrites.n
    manifest = _manifest(project, tally, what)
    manifest |= {"sha256": pairs.digest.hexdigest(), "votes": {"sha256": votes.digest.hexdigest()}}
    manifest |= _only_if_any(showings, outcomes=dict(sorted(tally.outcomes.items())))
    manifest |= _only_if_any(rewrites, columns=DEMONSTRATION_COLUMNS)
    with (folder / "manifest.json").open("wb") as file:
        file.write(json.dumps(manifest, ensure_ascii=False, indent=2).encode() + b"\n")
        flush_to_disk(file)
    return manifest, tally.annotators


def _only_if_any(lines: Lines, **said: Any) -> dict[str, Any]:
    """What the manifest says of a file, which is deleted if it is empty."""
    if not lines.n:
        lines.path.unlink()
        return {}
    return {lines.path.stem: {"sha256": lines.digest.hexdigest(), **said}}


def _store(
    folder: Path,
    manifest: dict[str, Any],
    annotators: Counter[int],
    project: Project,
    user: User | None,
) -> Export:
    with transaction.atomic():
        export = Export.objects.create(
            project=project,
            created_by=user,
            sha256=manifest["sha256"],
            round_number=manifest["round_number"],
            n_rows=manifest["counts"]["rows"],
            n_judgments=manifest["counts"]["judgments"],
            manifest=manifest,
        )
        ExportAnnotator.objects.bulk_create(
            ExportAnnotator(export=export, annotator_id=annotator, n_judgments=n)
            for annotator, n in sorted(annotators.items())
        )
        counts = {"pairs": export.n_rows, "judgments": export.n_judgments}
        record(user, Action.CREATED, export, project=project, **counts)
        tell_export(export)
        if export.folder.exists():
            # Left from a crash before the commit below, or from a database that is gone: put
            # aside, as it may be the last copy.
            export.folder.rename(f"{export.folder}.before-{uuid.uuid4().hex[:8]}")
        folder.rename(export.folder)
    return export


def _manifest(project: Project, tally: _Tally, what: What) -> dict[str, Any]:
    """All but the hashes of the files."""
    return {
        "format_version": FORMAT_VERSION,
        "project": {"slug": project.slug, "name": project.name},
        "created": timezone.now().isoformat(timespec="seconds"),
        "round_number": what.filters.last_round or _latest_round(project),
        "sha256": "",
        "votes": {},
        "uses_rulings": what.use_rulings,
        "filters": what.filters.to_json(),
        "counts": tally.counts(),
        "split": (
            f"test if the first 8 hexadecimal digits of prompt_key, modulo 100, are below "
            f"{project.held_out_percent} (the value when the prompt was added counts)"
        ),
        "guideline_versions": {
            str(version): n for version, n in sorted(tally.guideline_versions.items())
        },
        "sources": dict(tally.sources.most_common(SOURCES_KEPT)),
        "licence": what.licence,
        "columns": COLUMNS,
        "features": features_of(REWARD),
        "software": {
            "preferendum": code_version(),
            "python": platform.python_version(),
            "django": django.__version__,
        },
    }


def _why_nothing(project: Project, tally: _Tally, filters: Filters) -> str:
    if tally.comparisons:
        return (
            f"All {tally.votes} judgments in {project} say “all bad”: "
            "none says which completion is better."
        )
    if not project.comparisons.exists():
        return f"{project} has no comparisons yet: import some or generate completions first."
    if filters.to_json() and preview(project)["judgments"]:
        return "The filters leave out every vote: ask for fewer conditions."
    return f"Nobody has judged a training comparison of {project} yet."


# --- what there would be ----------------------------------------------------------------------
def preview(project: Project) -> dict[str, int]:
    """What an export of all rounds would be made from."""
    counted = Judgment.objects.counted().filter(
        project=project, comparison__purpose=Purpose.TRAINING
    )
    return counted.aggregate(
        judgments=Count("pk"),
        rankings=Count("pk", filter=Q(verdict=Verdict.RANKING)),
        all_bad=Count("pk", filter=Q(verdict=Verdict.ALL_BAD)),
        comparisons=Count("comparison", distinct=True),
        annotators=Count("annotator", distinct=True),
    )

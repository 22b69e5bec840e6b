"""Freezing the votes of a project as a preference dataset: data.jsonl and manifest.json.

docs/data-format.md describes both files. Votes are never flattened to a majority: each row is a
pair with the share of the judgments that prefer `chosen`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import django
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Prefetch, Q, QuerySet
from django.utils import timezone

from annotator.audit import Action, record
from annotator.models import (
    Comparison,
    ComparisonCompletion,
    Export,
    ExportAnnotator,
    Judgment,
    Project,
    Purpose,
    Ruling,
    Split,
    User,
    Verdict,
)
from annotator.protocols import picks_best, protocol_shown
from annotator.webhooks.outbox import tell_export

# 2: with weight and votes. 3: margin from 0 to 1; criteria, flags, and more in votes
FORMAT_VERSION = 3
RULING = "ruling-"  # before the number of a reviewer whose ruling is used
BATCH = 500  # comparisons in memory at a time
SOURCES_KEPT = 1000  # of answers, in the manifest: an import may name one for each
COLUMNS = {
    "prompt": "list of messages {role, content}, ending with the user",
    "chosen": "list of one assistant message: the completion preferred by more judgments",
    "rejected": "list of one assistant message: the other completion",
    "p_chosen": "share of the rankings that prefer `chosen`, a tie counting half; 0.5 to 1",
    "n_judgments": "rankings of this pair",
    "weight": (
        "how much the pair counts beside others: n_judgments · 2 / K for one of a comparison of K "
        "completions, whose K (K - 1) / 2 pairs then count as K - 1 choices per ranking; where only "
        "the best of K was picked, 1 / (K - 1) for each pick instead of 2 / K"
    ),
    "margin": (
        "mean strength of preference for `chosen`, as a share of the strongest that could be said: "
        "-1 to 1; a tie, and a ranking that was not asked for strength, counts 0.0"
    ),
    "split": "train or test; the same for all pairs of a prompt",
    "comparison": "number of the comparison; those of 3 or more completions give several pairs",
    "prompt_key": "SHA-256 of the prompt",
    "round": "round of the loop in which the comparison was made",
    "arm": "active: asked by expected information; random: drawn, for comparison; or empty",
    "first_vote": "number of the comparison's first judgment; a lower one was given earlier",
    "tie_share": "share of the rankings that are ties",
    "votes": (
        "list of one {annotator, prefers, first, strength, criteria, reasons, rationale, spans} per "
        "ranking: the annotator's number as text, with ruling- before it for a reviewer's ruling; "
        "chosen, rejected or tie; which of the two was shown first, chosen or rejected; 0.0 to 1.0; "
        "list of {criterion, prefers, strength}; chosen from a list; in words; list of {of, start, "
        "end, label} in characters of chosen or rejected"
    ),
    "criteria": (
        "list of {criterion, p_chosen, n_judgments, margin}: the same shares by what was asked for "
        "besides; below 0.5 where `rejected` is preferred in that respect"
    ),
    "chosen_flags": "list of the flags on `chosen`, as often as judgments put them",
    "rejected_flags": "list of the flags on `rejected`, likewise",
    "n_all_bad": "judgments of the comparison that call all its completions bad; not rankings",
    "chosen_source": "model version or import that `chosen` comes from",
    "rejected_source": "model version or import that `rejected` comes from",
    "chosen_truncated": "true if `chosen` was cut off at the length limit",
    "rejected_truncated": "true if `rejected` was cut off at the length limit",
}


DEMONSTRATION_COLUMNS = {
    "prompt": "list of messages {role, content}, ending with the user",
    "completion": "list of one assistant message: the answer as an annotator wrote it",
    "split": "train or test, as that of the prompt's pairs",
    "comparison": "number of the comparison that it was written at",
    "prompt_key": "SHA-256 of the prompt",
    "round": "round of the loop in which the comparison was made",
    "annotator": "the annotator's number as text",
}


class NotExported(Exception):
    """No export was made. The message is a sentence for the admin."""


class NothingToExport(NotExported):
    """There are no votes that say which completion is better."""


# --- votes to pairs ---------------------------------------------------------------------------
class PairVotes(NamedTuple):
    """What the rankings of a comparison say of two of its completions, `first` and `second`."""

    wins: int  # of first
    losses: int
    ties: int
    strength: float  # sum over the rankings, positive where `first` is preferred

    @property
    def n(self) -> int:
        return self.wins + self.losses + self.ties

    @property
    def p_first(self) -> float:
        """Share of the rankings that prefer `first`, a tie counting half."""
        return (self.wins + self.ties / 2) / self.n

    def swapped(self) -> PairVotes:
        return PairVotes(self.losses, self.wins, self.ties, -self.strength)


class Preference(NamedTuple):
    """What one judgment says of the order of completions, as a whole or by one criterion."""

    ranking: Sequence[Sequence[int]]  # tie groups of completion ids, best first
    strength: float = 0.0  # as a share of the strongest that could be said
    is_pick: bool = False  # one group was picked; the others were not compared with one another

    def outcome(self, first: int, second: int) -> int | None:
        """1 if `first` is preferred, -1 if `second` is, 0 if they are tied; None: nothing is said."""
        place = place_of(self.ranking)
        if self.is_pick and place[first] == place[second] > 0:
            return None
        return (place[second] > place[first]) - (place[second] < place[first])


def preference_of(judgment: Judgment) -> Preference:
    """That of a ranking as a whole."""
    strength = strength_share(judgment.strength, judgment.strength_of)
    return Preference(judgment.ranking, strength, picks_best(judgment.assignment))


def preference_by(criterion: str, judgment: Judgment) -> Preference | None:
    """That by one criterion; None if it was not asked for."""
    said = judgment.criteria.get(criterion)
    if said is None:
        return None
    order = judgment.assignment.order
    steps = len(protocol_shown(judgment.assignment).strengths)
    # Of several completions only the best was asked for.
    return Preference(said["ranking"], strength_share(said["strength"], steps), len(order) > 2)


def strength_share(strength: int | None, strength_of: int | None) -> float:
    """Scales of different length agree at their ends. Example: 2 of 4 steps are 0.5."""
    return strength / strength_of if strength and strength_of else 0.0


def count_votes(first: int, second: int, preferences: Iterable[Preference]) -> PairVotes:
    """Example: [[1], [2, 3]] and [[3], [1], [2]] say of 1 and 3: one win, one loss, no tie."""
    wins = losses = ties = 0
    strength = 0.0
    for preference in preferences:
        outcome = preference.outcome(first, second)
        if outcome is None:
            continue
        wins += outcome > 0
        losses += outcome < 0
        ties += outcome == 0
        strength += preference.strength * outcome
    return PairVotes(wins, losses, ties, strength)


PREFERS = {1: "chosen", 0: "tie", -1: "rejected"}


def list_votes(chosen: int, rejected: int, judgments: Sequence[Judgment]) -> list[dict[str, Any]]:
    """What each ranking says of two of its completions, one by one, in the order of the rankings.

    Example: [{"annotator": "7", "prefers": "chosen", "first": "rejected", "strength": 0.5, …}]
    """
    of = {chosen: "chosen", rejected: "rejected"}
    votes = []
    for judgment in judgments:
        preference = preference_of(judgment)
        outcome = preference.outcome(chosen, rejected)
        if outcome is None:
            continue
        order = judgment.assignment.order
        votes.append(
            {
                "annotator": str(judgment.annotator_id),  # a number: names stay in the database
                "prefers": PREFERS[outcome],
                "first": "chosen" if order.index(chosen) < order.index(rejected) else "rejected",
                "strength": preference.strength,
                "criteria": list(_votes_by_criterion(chosen, rejected, judgment)),
                "reasons": judgment.reasons,
                "rationale": judgment.rationale,
                "spans": [
                    {"of": of[span["completion"]], **{name: span[name] for name in SPAN}}
                    for span in judgment.spans
                    if span["completion"] in of
                ],
            }
        )
    return votes


def _ruling_as_vote(
    chosen: int, rejected: int, entries: Sequence[ComparisonCompletion], ruling: Ruling
) -> dict[str, Any]:
    """A ruling beside the votes. Its author is told apart from the same person as an annotator, so
    that a reward model learns for itself how far rulings can be believed."""
    order = [entry.completion_id for entry in entries]  # reviewers see them as they are stored
    return {
        "annotator": f"{RULING}{ruling.reviewer_id}",
        "prefers": PREFERS[Preference(ruling.ranking).outcome(chosen, rejected) or 0],
        "first": "chosen" if order.index(chosen) < order.index(rejected) else "rejected",
        "strength": 0.0,
        "criteria": [],
        "reasons": [],
        "rationale": "",
        "spans": [],
    }


SPAN = ("start", "end", "label")


def _votes_by_criterion(
    chosen: int, rejected: int, judgment: Judgment
) -> Iterator[dict[str, str | float]]:
    for key in judgment.criteria:
        preference = preference_by(key, judgment)
        outcome = preference.outcome(chosen, rejected) if preference else None
        if preference and outcome is not None:
            prefers = PREFERS[outcome]
            yield {"criterion": key, "prefers": prefers, "strength": preference.strength}


def by_criterion(
    chosen: int, rejected: int, judgments: Sequence[Judgment]
) -> Iterator[dict[str, str | float]]:
    """The shares of a pair, criterion by criterion, in the order in which they were first asked."""
    for key in dict.fromkeys(key for judgment in judgments for key in judgment.criteria):
        preferences = [preference_by(key, judgment) for judgment in judgments]
        votes = count_votes(chosen, rejected, filter(None, preferences))
        if votes.n:
            yield {
                "criterion": key,
                "p_chosen": votes.p_first,
                "n_judgments": votes.n,
                "margin": votes.strength / votes.n,
            }


def flags_on(completion: int, judgments: Iterable[Judgment]) -> list[str]:
    return [flag for judgment in judgments for flag in judgment.flags.get(str(completion), [])]


def pair_weight(n_rankings: int, n_completions: int, n_picks: int = 0) -> float:
    """How much a pair counts, so that a ranking of K completions counts as K - 1 choices.

    That is how many choices it is under Plackett-Luce: the best of K, the best of the others, and
    so on. Its K (K - 1) / 2 pairs are no independent votes. Example: 3 rankings of 2 completions
    weigh 3, and those of 4 completions 1.5 for each of the 6 pairs. To pick the best of K is one
    choice, and K - 1 pairs.
    """
    return n_rankings * 2 / n_completions + n_picks / (n_completions - 1)


def place_of(ranking: Sequence[Sequence[int]]) -> dict[int, int]:
    """Example: [[7], [5, 6]] -> {7: 0, 5: 1, 6: 1}."""
    return {completion: place for place, group in enumerate(ranking) for completion in group}


# --- pairs to rows ----------------------------------------------------------------------------
def _rows_of(comparison: Comparison, judgments: Sequence[Judgment]) -> Iterator[dict[str, Any]]:
    rankings = [judgment for judgment in judgments if judgment.verdict == Verdict.RANKING]
    if not rankings:
        return
    rulings = _rankings_of_reviewers(comparison)
    preferences = [preference_of(judgment) for judgment in rankings]
    preferences += [Preference(ruling.ranking) for ruling in rulings]
    entries = list(comparison.entries.all())
    for first, second in combinations(entries, 2):
        votes = count_votes(first.completion_id, second.completion_id, preferences)
        if not votes.n:
            continue  # each time another one was picked
        picks = [preference for preference in preferences if preference.is_pick]
        n_picks = count_votes(first.completion_id, second.completion_id, picks).n
        chosen, rejected = first.completion, second.completion
        if votes.losses > votes.wins:
            chosen, rejected, votes = rejected, chosen, votes.swapped()
        yield {
            "prompt": comparison.prompt.messages,
            "chosen": [chosen.message()],
            "rejected": [rejected.message()],
            "p_chosen": votes.p_first,
            "n_judgments": votes.n,
            "weight": pair_weight(votes.n - n_picks, len(entries), n_picks),
            "margin": votes.strength / votes.n,
            "split": comparison.prompt.split,
            "comparison": comparison.pk,
            "prompt_key": comparison.prompt.key,
            "round": comparison.round_number,
            "arm": comparison.arm,
            "first_vote": judgments[0].pk,
            "tie_share": votes.ties / votes.n,
            "votes": [
                *list_votes(chosen.pk, rejected.pk, rankings),
                *(_ruling_as_vote(chosen.pk, rejected.pk, entries, ruling) for ruling in rulings),
            ],
            "criteria": list(by_criterion(chosen.pk, rejected.pk, rankings)),
            "chosen_flags": flags_on(chosen.pk, judgments),
            "rejected_flags": flags_on(rejected.pk, judgments),
            "n_all_bad": len(judgments) - len(rankings),
            "chosen_source": chosen.source,
            "rejected_source": rejected.source,
            "chosen_truncated": chosen.is_truncated,
            "rejected_truncated": rejected.is_truncated,
        }


def _demonstrations(
    comparison: Comparison, judgments: Iterable[Judgment]
) -> Iterator[dict[str, Any]]:
    """Answers as annotators rewrote them, in TRL's prompt-completion format for SFT."""
    for judgment in judgments:
        if judgment.rewrite:
            yield {
                "prompt": comparison.prompt.messages,
                "completion": [{"role": "assistant", "content": judgment.rewrite}],
                "split": comparison.prompt.split,
                "comparison": comparison.pk,
                "prompt_key": comparison.prompt.key,
                "round": comparison.round_number,
                "annotator": str(judgment.annotator_id),
            }


def _rankings_of_reviewers(comparison: Comparison) -> list[Ruling]:
    """The ruling in force, if rulings are used and it ranks."""
    rulings: list[Ruling] = getattr(comparison, "rulings_used", [])
    return [ruling for ruling in rulings if ruling.verdict == Verdict.RANKING]


def _judged(
    project: Project, round_number: int, *, use_rulings: bool = False
) -> QuerySet[Comparison]:
    """Comparisons for training that have judgments, with all that their rows need."""
    found = _with_judgments(project, round_number)
    if not use_rulings:
        return found
    in_force = Ruling.objects.filter(voided=None)
    return found.prefetch_related(Prefetch("rulings", in_force, to_attr="rulings_used"))


def _with_judgments(project: Project, round_number: int) -> QuerySet[Comparison]:
    entries = ComparisonCompletion.objects.order_by("position").select_related("completion")
    counted = Judgment.objects.counted().order_by("pk")
    return (
        _training(project, round_number)
        .filter(pk__in=counted.order_by().values("comparison"))
        .select_related("prompt")
        .prefetch_related(
            Prefetch("entries", entries),
            Prefetch("judgments", counted.select_related("assignment"), to_attr="counted"),
        )
        .order_by("pk")
    )


def _training(project: Project, round_number: int) -> QuerySet[Comparison]:
    return Comparison.objects.filter(
        project=project, purpose=Purpose.TRAINING, round_number__lte=round_number
    )


# --- the files --------------------------------------------------------------------------------
class _Tally:
    """What the manifest says of the rows, counted while they are written."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()  # by split
        self.judgments: Counter[str] = Counter()  # by verdict
        self.guideline_versions: Counter[int] = Counter()
        self.annotators: Counter[int] = Counter()  # judgments of each
        self.sources: Counter[str] = Counter()  # answers that were compared, of each
        self.comparisons = 0
        self.rulings = 0
        self.comparisons_all_bad = 0
        self.demonstrations = 0
        self.ties = 0

    def add(
        self,
        judgments: Sequence[Judgment],
        rows: Sequence[Mapping[str, Any]],
        rulings: Sequence[Ruling] = (),
    ) -> None:
        if rows:
            self.rulings += len(rulings)
            self.annotators.update(ruling.reviewer_id for ruling in rulings)
        for judgment in judgments:
            self.judgments[judgment.verdict] += 1
            self.guideline_versions[judgment.guideline_version] += 1
            self.annotators[judgment.annotator_id] += 1
        self.comparisons += 1
        self.comparisons_all_bad += not rows
        for row in rows:
            self.rows[row["split"]] += 1
            self.ties += row["p_chosen"] == 0.5

    def counts(self) -> dict[str, int]:
        return {
            "rows": self.rows.total(),
            "rows_train": self.rows[Split.TRAIN],
            "rows_test": self.rows[Split.TEST],
            "rows_tied": self.ties,
            "comparisons": self.comparisons,
            "comparisons_all_bad": self.comparisons_all_bad,
            "judgments": self.judgments.total(),
            "rankings": self.judgments[Verdict.RANKING],
            "all_bad": self.judgments[Verdict.ALL_BAD],
            "rulings": self.rulings,
            "annotators": len(self.annotators),
            "demonstrations": self.demonstrations,
        }


def create_export(
    project: Project,
    user: User | None = None,
    *,
    round_number: int | None = None,
    use_rulings: bool = False,
) -> Export:
    """Freeze the votes in force on training comparisons, of all rounds or up to `round_number`.

    With `use_rulings`, a reviewer's ranking counts as one more beside the votes on that comparison.

    The files are written aside and renamed into place within the transaction that stores the row,
    so there is never a row without its files. Raises NothingToExport, or NotExported if the files
    cannot be written; then nothing is left behind.
    """
    if round_number is None:
        round_number = _latest_round(project)
    exports = Path(settings.EXPORTS_DIR)
    try:
        exports.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=exports) as temporary:
            folder = Path(temporary) / "export"
            folder.mkdir()
            manifest, annotators = _write(folder, project, round_number, use_rulings)
            return _store(folder, manifest, annotators, project, user)
    except OSError as error:
        raise NotExported(
            f"The export could not be written to {exports}: {error.strerror}. "
            "Nothing was kept; make room and try again."
        ) from error


def _latest_round(project: Project) -> int:
    """The latest round that has training comparisons."""
    of_rounds = _training(project, 2**31 - 1).order_by("-round_number")
    return of_rounds.values_list("round_number", flat=True).first() or 1


def _write(
    folder: Path, project: Project, round_number: int, use_rulings: bool
) -> tuple[dict[str, Any], Counter[int]]:
    """The manifest, and how many judgments each annotator has in the file."""
    tally = _Tally()
    with (
        _Lines(folder / "data.jsonl") as pairs,
        _Lines(folder / "demonstrations.jsonl") as demonstrations,
    ):
        judged = _judged(project, round_number, use_rulings=use_rulings)
        for comparison in judged.iterator(BATCH):
            judgments: list[Judgment] = comparison.counted  # type: ignore[attr-defined]
            rows = list(_rows_of(comparison, judgments))
            if rows:
                entries = comparison.entries.all()
                tally.sources.update(entry.completion.source for entry in entries)
            tally.add(judgments, rows, _rankings_of_reviewers(comparison))
            pairs.write(rows)
            demonstrations.write(_demonstrations(comparison, judgments))
    if not tally.rows:
        raise NothingToExport(_why_nothing(project, tally))
    tally.demonstrations = demonstrations.n
    sha256 = pairs.digest.hexdigest()
    manifest = _manifest(project, round_number, tally, sha256, use_rulings=use_rulings)
    if demonstrations.n:
        manifest["demonstrations"] = {
            "sha256": demonstrations.digest.hexdigest(),
            "columns": DEMONSTRATION_COLUMNS,
        }
    else:
        (folder / "demonstrations.jsonl").unlink()
    with (folder / "manifest.json").open("wb") as file:
        file.write(json.dumps(manifest, ensure_ascii=False, indent=2).encode() + b"\n")
        _flush_to_disk(file)
    return manifest, tally.annotators


class _Lines:
    """A file of JSON lines that is on the disk when the block ends, and its SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.n = 0

    def __enter__(self) -> _Lines:
        self.file = self.path.open("wb")
        return self

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            self.digest.update(line)
            self.file.write(line)
            self.n += 1

    def __exit__(self, *error: object) -> None:
        with self.file:
            _flush_to_disk(self.file)


def _flush_to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


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


def _manifest(
    project: Project, round_number: int, tally: _Tally, sha256: str, *, use_rulings: bool
) -> dict[str, Any]:
    skipped = Judgment.objects.filter(
        comparison__in=_training(project, round_number), voided=None, verdict=Verdict.SKIPPED
    )
    return {
        "format_version": FORMAT_VERSION,
        "project": {"slug": project.slug, "name": project.name},
        "created": timezone.now().isoformat(timespec="seconds"),
        "round_number": round_number,
        "sha256": sha256,
        "uses_rulings": use_rulings,
        "counts": {**tally.counts(), "skipped": skipped.count()},
        "split": (
            f"test if the first 8 hexadecimal digits of prompt_key, modulo 100, are below "
            f"{project.held_out_percent} (the value when the prompt was added counts)"
        ),
        "guideline_versions": {
            str(version): n for version, n in sorted(tally.guideline_versions.items())
        },
        "sources": dict(tally.sources.most_common(SOURCES_KEPT)),
        "columns": COLUMNS,
        "software": {"python": platform.python_version(), "django": django.__version__},
    }


def _why_nothing(project: Project, tally: _Tally) -> str:
    if tally.comparisons:
        return (
            f"All {tally.judgments.total()} judgments in {project} say “all bad”: "
            "none says which completion is better."
        )
    if not project.comparisons.exists():
        return f"{project} has no comparisons yet: import some or generate completions first."
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

"""Which votes an export is made of, and what each condition costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime, time, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from annotator.exports.pairs import count_votes, preference_of
from annotator.models import ComparisonCompletion, Verdict


@dataclass(frozen=True)
class Filters:
    """Conditions that all must hold. What is None or empty is no condition."""

    first_round: int | None = None
    last_round: int | None = None
    since: date | None = None  # the day of a vote, by the server's time zone; both are included
    until: date | None = None
    annotators: tuple[int, ...] = ()  # only votes of these
    without: tuple[int, ...] = ()  # no votes of these
    guideline_versions: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()  # comparisons all of whose completions come from these
    criteria: tuple[str, ...] = ()  # votes that were asked for one of these besides
    min_rankings: int | None = None  # of a comparison
    min_agreement: float | None = None  # of a comparison, 0.5 to 1

    def __post_init__(self) -> None:
        """Raises ValueError with a sentence."""
        if self.first_round and self.last_round and self.first_round > self.last_round:
            raise ValueError(f"Round {self.first_round} does not come before {self.last_round}.")
        if self.since and self.until and self.since > self.until:
            raise ValueError(f"{self.since} does not come before {self.until}.")
        if self.min_agreement is not None and not 0.5 <= self.min_agreement <= 1:
            raise ValueError(f"Agreement is between 0.5 and 1, not {self.min_agreement:g}.")

    @property
    def looks_at_rankings(self) -> bool:
        """Whether a comparison is kept only for what its votes say together."""
        return self.min_rankings is not None or self.min_agreement is not None

    @property
    def ask_what_was_said(self) -> bool:
        """Whether what nobody has answered is left out."""
        return bool(self.criteria) or self.looks_at_rankings

    def to_json(self) -> dict[str, Any]:
        """What is asked for. Example: {"since": "2026-11-01", "guideline_versions": [2]}."""
        return {
            name: _plain(value) for name, value in asdict(self).items() if value not in (None, ())
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Filters:
        """What `to_json` gave. Raises ValueError for what is no filter."""
        if unknown := sorted(set(value) - {field.name for field in fields(cls)}):
            raise ValueError(f"There is no filter {', '.join(unknown)}.")
        read: dict[str, Any] = {}
        for name, given in value.items():
            if name in ("since", "until"):
                read[name] = date.fromisoformat(given)
            else:
                read[name] = tuple(given) if isinstance(given, list | tuple) else given
        return cls(**read)


def _plain(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


# --- as conditions on judgments -------------------------------------------------------------------
def conditions(filters: Filters) -> dict[str, Q]:
    """By name, those that the database can check of a judgment; only what is asked for."""
    found = {
        "rounds": _between("comparison__round_number", filters.first_round, filters.last_round),
        "dates": _within_days(filters.since, filters.until),
        "annotators": _people(filters),
        "guideline_versions": _in("guideline_version", filters.guideline_versions),
        "sources": _from_sources(filters.sources),
        "criteria": _in("criteria__has_any_keys", filters.criteria, ""),
    }
    return {name: condition for name, condition in found.items() if condition}


def _between(field: str, first: Any, last: Any) -> Q:
    condition = Q()
    if first is not None:
        condition &= Q(**{f"{field}__gte": first})
    if last is not None:
        condition &= Q(**{f"{field}__lte": last})
    return condition


def _within_days(since: date | None, until: date | None) -> Q:
    condition = Q()
    if since:
        condition &= Q(created__gte=_midnight(since))
    if until:
        condition &= Q(created__lt=_midnight(until + timedelta(days=1)))
    return condition


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))


def _people(filters: Filters) -> Q:
    condition = _in("annotator", filters.annotators)
    return condition & ~Q(annotator__in=filters.without) if filters.without else condition


def _in(field: str, values: tuple[Any, ...], lookup: str = "__in") -> Q:
    return Q(**{f"{field}{lookup}": list(values)}) if values else Q()


def _from_sources(sources: tuple[str, ...]) -> Q:
    if not sources:
        return Q()
    entries = ComparisonCompletion.objects.filter(comparison=OuterRef("comparison"))
    return Q(~Exists(entries.exclude(completion__source__in=sources)))


def all_conditions(filters: Filters) -> Q:
    condition = Q()
    for part in conditions(filters).values():
        condition &= part
    return condition


# --- agreement ------------------------------------------------------------------------------------
def agreement_of(n_completions: int, rankings: list[Mapping[str, Any]]) -> float:
    """Mean over the pairs of the share that says what most say, a tie counting half: 0.5 to 1.

    Example: two votes for the first of two completions and one for the second: 2/3.
    """
    preferences = [preference_of(judgment) for judgment in rankings]
    shares = []
    for second in range(n_completions):
        for first in range(second):
            votes = count_votes(first, second, preferences)
            if votes.n:
                shares.append(max(votes.p_first, 1 - votes.p_first))
    return sum(shares) / len(shares)


def keeps(record: Mapping[str, Any], filters: Filters) -> bool:
    """Whether the votes on a comparison, those of the other filters, are many and alike enough."""
    if not filters.looks_at_rankings:
        return True
    rankings = [j for j in record["judgments"] if j["verdict"] == Verdict.RANKING]
    if len(rankings) < (filters.min_rankings or 1):
        return False
    least = filters.min_agreement
    return least is None or agreement_of(len(record["completions"]), rankings) >= least - 1e-9

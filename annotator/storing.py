"""Rows for what an import says: prompts, completions, comparisons and votes, some hundred at a time.

Written with `inserting.insert`: a comparison of two answers is six rows, of which a million must
not take hours.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db.models import F, QuerySet
from django.db.models.functions import Greatest
from django.utils import timezone

from annotator.assignment import hash_shown
from annotator.formats.entries import Answer, Entry, Vote
from annotator.gold import ORIGIN as GOLD_ORIGIN
from annotator.inserting import insert
from annotator.models import (
    HANDLED,
    Assignment,
    AssignmentState,
    Comparison,
    ComparisonCompletion,
    Completion,
    Judgment,
    Membership,
    Message,
    Project,
    Prompt,
    Purpose,
    Split,
    User,
    Verdict,
    comparison_key,
    key_of_texts,
)
from annotator.rankings import Ranking


@dataclass(slots=True)
class PromptRow:
    """As much of a prompt as is needed here."""

    key: str
    messages: list[Message]
    split: str
    pk: int = 0
    is_new: bool = True  # so that nothing of the project can be about it


@dataclass(slots=True)
class _Comparison:
    """The same of a comparison."""

    prompt: PromptRow
    key: str
    purpose: str
    origin: str
    overlap: int
    explanation: str = ""
    hold: str = ""
    taken: int = 0
    expected: list[list[int]] = field(default_factory=list)
    pk: int = 0


class Asked(NamedTuple):
    """The comparison that a row is about, and what the row said."""

    comparison: _Comparison
    entry: Entry


class _Shown(NamedTuple):
    """As much of a completion as is needed here."""

    pk: int
    text: str


# Of a comparison, who is not heard on it again; or the number and time of a judgment of it.
Heard = frozenset[tuple[int, ...] | tuple[int, int, str]]


class _Said(NamedTuple):
    """A vote that is not there yet."""

    comparison: _Comparison
    completions: list[_Shown]  # as the vote numbers them
    vote: Vote


@dataclass(slots=True)
class Written:
    """What a batch has put in and changed, by primary keys: by this it can be taken back."""

    prompts: list[int] = field(default_factory=list)
    completions: list[int] = field(default_factory=list)
    comparisons: list[int] = field(default_factory=list)
    assignments: list[int] = field(default_factory=list)
    judgments: list[int] = field(default_factory=list)
    people: list[int] = field(default_factory=list)  # users
    members: list[int] = field(default_factory=list)  # users who were none of the project's before
    no_longer_gold: list[int] = field(default_factory=list)  # prompts
    # of comparisons, before there were votes
    overlaps: dict[int, int] = field(default_factory=dict)
    n_met: int = (
        0  # rows about prompts or comparisons that were there: of these nothing is taken back
    )


def store(
    entries: Sequence[Entry],
    project: Project,
    overlap: int | None,
    round_number: int,
    judge: User | None,
    written: Written | None = None,
) -> Counter[str]:
    """Rows for all that is new in these entries; how many there are of each kind. What they are is noted
    in `written`."""
    written = Written() if written is None else written
    if judge is None:
        entries = [without_anonymous(entry) for entry in entries]
    prompts, n_repeated = _store_prompts(entries, project, written)
    mentioned = all_asked(entries, prompts, overlap or project.overlap)
    asked, repeated = new_ones(mentioned, project)
    written.n_met = n_repeated + sum(not one.comparison.prompt.is_new for one in repeated)
    take_places(asked, repeated)
    shown = _store_completions(asked, written)
    _store_comparisons(asked, shown, project, round_number, written)
    prefix = prefix_of(project, judge)
    people = known_people(mentioned, prefix) | ({"": judge} if judge else {})
    said, n_silent = _unsaid(asked, shown, repeated, people, written)
    _enrol_new(said, people, project, prefix, written)
    _store_judgments(said, people, project, written)
    return Counter(
        prompts=len(written.prompts),
        completions=len(written.completions),
        comparisons=len(asked),
        judgments=len(said),
        duplicates=n_repeated + n_silent,
        known_answers=sum(one.entry.expected is not None for one in asked),
        held=sum(one.comparison.hold != "" for one in asked),
    )


# --- prompts and comparisons --------------------------------------------------------------------
def prompts_there(project: Project, keys: Sequence[str]) -> QuerySet[Prompt]:
    """Those with these keys, in no order: for that, SQLite would go through all of the project."""
    return project.prompts.filter(key__in=keys).order_by()


def _store_prompts(
    entries: Sequence[Entry], project: Project, written: Written
) -> tuple[list[PromptRow], int]:
    """The prompt of each entry; how many rows only repeat a prompt."""
    keys = [key_of_texts(entry.messages) for entry in entries]
    there = prompts_there(project, keys).values_list("key", "split", "pk")
    messages = {key: entry.messages for key, entry in zip(keys, entries, strict=True)}
    prompts = {key: PromptRow(key, messages[key], split, pk, False) for key, split, pk in there}
    no_longer_gold: list[PromptRow] = []
    n_repeated = 0
    for key, entry in zip(keys, entries, strict=True):
        if key in prompts:
            n_repeated += not entry.answers
        else:
            prompts[key] = PromptRow(key, entry.messages, Split.GOLD)
        if entry.expected is None and prompts[key].split == Split.GOLD:
            prompts[key].split = project.split_of(key)
            no_longer_gold.append(prompts[key])
    new = [prompt for prompt in prompts.values() if prompt.is_new]
    for prompt in no_longer_gold:
        if not prompt.is_new:
            Prompt.objects.filter(pk=prompt.pk).update(split=prompt.split)
            written.no_longer_gold.append(prompt.pk)
    rows = [
        {
            "project_id": project.pk,
            "key": prompt.key,
            "messages": prompt.messages,
            "split": prompt.split,
        }
        for prompt in new
    ]
    for prompt, pk in zip(new, insert(Prompt, rows), strict=True):
        prompt.pk = pk
        written.prompts.append(pk)
    return [prompts[key] for key in keys], n_repeated


def _comparison(entry: Entry, prompt: PromptRow, overlap: int) -> _Comparison:
    is_gold = entry.expected is not None
    purpose = Purpose.GOLD if is_gold else Purpose.TRAINING
    return _Comparison(
        prompt,
        comparison_key(prompt.key, purpose, [answer.text for answer in entry.answers]),
        purpose,
        GOLD_ORIGIN if is_gold else "import",
        0 if is_gold else overlap,
        explanation=entry.explanation,
        hold=entry.hold,
    )


def all_asked(entries: Sequence[Entry], prompts: Sequence[PromptRow], overlap: int) -> list[Asked]:
    """What the entries ask for; a prompt alone asks for nothing."""
    return [
        Asked(_comparison(entry, prompt, overlap), entry)
        for entry, prompt in zip(entries, prompts, strict=True)
        if entry.answers
    ]


def new_ones(asked: Sequence[Asked], project: Project) -> tuple[list[Asked], list[Asked]]:
    """Those about comparisons that the project does not have yet, one each; and all others, which
    then are about the one that it has, or about that of the first."""
    keys = {one.comparison.key for one in asked if not one.comparison.prompt.is_new}
    there = dict(project.comparisons.filter(key__in=keys).values_list("key", "pk"))
    new: dict[str, Asked] = {}
    repeated = []
    for one in asked:
        key = one.comparison.key
        if key in there:
            one.comparison.pk = there[key]
            repeated.append(one)
        elif key in new:
            repeated.append(Asked(new[key].comparison, one.entry))
        else:
            new[key] = one
    return list(new.values()), repeated


def _store_completions(asked: Sequence[Asked], written: Written) -> list[list[_Shown]]:
    """The completions of each comparison, in their places.

    The same answer of the same source to the same prompt is one completion, however many
    comparisons it is in.
    """
    prompts = {one.comparison.prompt.pk for one in asked if not one.comparison.prompt.is_new}
    there = Completion.objects.filter(prompt__in=prompts, source__in=_sources(asked))
    fields = ("prompt_id", "text", "source", "is_truncated", "pk")
    keys: dict[tuple[int, Answer], int] = {
        (prompt, Answer(*answer)): pk for prompt, *answer, pk in there.values_list(*fields)
    }
    new = {
        (one.comparison.prompt.pk, answer): None for one in asked for answer in one.entry.answers
    }
    missing = [one for one in new if one not in keys]
    rows = [{"prompt_id": prompt, **answer._asdict()} for prompt, answer in missing]
    written.completions += insert(Completion, rows)
    keys.update(zip(missing, written.completions, strict=True))
    return [
        [
            _Shown(keys[one.comparison.prompt.pk, answer], answer.text)
            for answer in one.entry.answers
        ]
        for one in asked
    ]


def _sources(asked: Sequence[Asked]) -> set[str]:
    return {answer.source for one in asked for answer in one.entry.answers}


def _store_comparisons(
    asked: Sequence[Asked],
    shown: Sequence[Sequence[_Shown]],
    project: Project,
    round_number: int,
    written: Written,
) -> None:
    for (comparison, entry), completions in zip(asked, shown, strict=True):
        if entry.expected is not None:
            comparison.expected = _by_id(entry.expected, completions)
    rows = [
        {
            "project_id": project.pk,
            "prompt_id": comparison.prompt.pk,
            "key": comparison.key,
            "round_number": round_number,
            "purpose": comparison.purpose,
            "origin": comparison.origin,
            "overlap": comparison.overlap,
            "taken": comparison.taken,
            **_rarely(
                hold=comparison.hold,
                expected=comparison.expected,
                explanation=comparison.explanation,
            ),
        }
        for comparison, _ in asked
    ]
    keys = insert(Comparison, rows)
    written.comparisons += keys
    for (comparison, _), pk in zip(asked, keys, strict=True):
        comparison.pk = pk
    insert(
        ComparisonCompletion,
        [
            {"comparison_id": pk, "completion_id": completion.pk, "position": position}
            for pk, completions in zip(keys, shown, strict=True)
            for position, completion in enumerate(completions)
        ],
    )


def _rarely(**values: Any) -> dict[str, Any]:
    """Those that say something: the others are as they are by default, and need not be written for each row."""
    return {name: value for name, value in values.items() if value}


# --- votes ------------------------------------------------------------------------------------
def without_anonymous(entry: Entry) -> Entry:
    return entry._replace(votes=[vote for vote in entry.votes if vote.annotator])


def prefix_of(project: Project, judge: User | None) -> str:
    """What the names of people whom the file names begin with."""
    return (judge.username if judge else project.slug)[:80]


def known_people(asked: Sequence[Asked], prefix: str) -> dict[str, User]:
    """Those who are known already, by what the file calls them.

    Their names begin with that of the judge or the project, and hold a character that names of
    people who sign in cannot have: nobody else's name is ever taken for theirs.
    """
    names = {vote.annotator for one in asked for vote in one.entry.votes if vote.annotator}
    usernames = {f"{prefix}/{name}": name for name in names}
    users = User.objects.filter(username__in=usernames) if usernames else []
    return {usernames[user.username]: user for user in users}


def _enrol_new(
    said: Sequence[_Said],
    people: dict[str, User],
    project: Project,
    prefix: str,
    written: Written,
) -> None:
    """Whoever has a vote that counts is saved, and made an annotator. The judge is one already."""
    names = sorted({one.vote.annotator for one in said} - {""})
    new = [name for name in names if name not in people]
    users = User.objects.bulk_create(nobody(f"{prefix}/{name}") for name in new)
    people.update(zip(new, users, strict=True))
    written.people += [user.pk for user in users]
    ids = {people[name].pk for name in names}
    if ids:
        members = Membership.objects.filter(project=project, user__in=ids)
        strangers = sorted(ids - set(members.values_list("user_id", flat=True)))
        Membership.objects.bulk_create(Membership(project=project, user_id=pk) for pk in strangers)
        written.members += strangers


def nobody(username: str) -> User:
    """A user who cannot sign in; not saved."""
    user = User(username=username)
    user.set_unusable_password()
    return user


def take_places(asked: Sequence[Asked], repeated: Sequence[Asked]) -> None:
    """In comparisons that are not saved yet: one for each who has voted, however many. Of several
    votes of one person, the first is the one that is stored."""
    heard: dict[str, dict[str, bool]] = {}
    for comparison, entry in [*asked, *repeated]:
        people = heard.setdefault(comparison.key, {})
        for vote in entry.votes:
            people.setdefault(vote.annotator, not vote.is_unrankable)
    for comparison, _ in asked:
        comparison.taken = sum(heard[comparison.key].values())
        if comparison.taken >= comparison.overlap and comparison.taken:
            comparison.overlap = comparison.taken
            comparison.hold = ""  # nobody is asked what the file has answered


def _unsaid(
    asked: Sequence[Asked],
    shown: Sequence[Sequence[_Shown]],
    repeated: Sequence[Asked],
    people: Mapping[str, User],
    written: Written,
) -> tuple[list[_Said], int]:
    """The votes that nobody has cast yet, and how many of the repeated rows have none of them.

    Whoever has handled a comparison, or has taken a vote on it back, is not heard on it again.
    """
    texts = {
        one.comparison.pk: {row.text.strip(): row for row in rows}
        for one, rows in zip(asked, shown, strict=True)
    }
    old = {one.comparison.pk for one in repeated if one.entry.votes} - texts.keys()
    texts |= _texts(old)
    heard = heard_on(old)
    cast: set[tuple[int, str]] = set()
    said = [vote for one in asked for vote in _votes(one, texts, people, heard, cast)]
    more: list[_Said] = []
    n_silent = 0
    for one in repeated:
        votes = _votes(one, texts, people, heard, cast)
        n_silent += not votes
        more += votes
    placed = Counter(one.comparison.pk for one in more if not one.vote.is_unrankable)
    _take_more_places({pk: n for pk, n in placed.items() if pk in old}, written)
    return said + more, n_silent


def _votes(
    one: Asked,
    texts: Mapping[int, Mapping[str, _Shown]],
    people: Mapping[str, User],
    heard: Heard,
    cast: set[tuple[int, str]],
) -> list[_Said]:
    """Those of one row, which from then on are cast."""
    votes = []
    for vote in one.entry.votes:
        place = (one.comparison.pk, vote.annotator)
        if place in cast or is_heard(vote, one.comparison, people, heard):
            continue
        cast.add(place)
        rows = [texts[one.comparison.pk][answer.text.strip()] for answer in one.entry.answers]
        votes.append(_Said(one.comparison, rows, vote))
    return votes


def is_heard(
    vote: Vote,
    comparison: _Comparison,
    people: Mapping[str, User],
    heard: Heard,
) -> bool:
    """Whether the database has a vote of this person on the comparison, or has had one."""
    person = people.get(vote.annotator)
    is_known = person is not None and (comparison.pk, person.pk) in heard
    return is_known or _came_from_here(vote, comparison, heard)


def _came_from_here(vote: Vote, comparison: _Comparison, heard: Heard) -> bool:
    """Whether it is the vote that was exported: its number alone may be that of another installation's."""
    return (comparison.pk, vote.judgment, vote.given) in heard


def heard_on(comparisons: set[int]) -> Heard:
    """Comparisons, and who has handled or judged them; and what tells an exported vote on them."""
    if not comparisons:
        return frozenset()
    assignments = Assignment.objects.filter(HANDLED, comparison__in=comparisons)
    judgments = Judgment.objects.filter(comparison__in=comparisons)
    handled = assignments.values_list("comparison_id", "annotator_id")
    heard: set[tuple[int, ...] | tuple[int, int, str]] = set(handled)
    for pk, person, number, given in judgments.values_list(
        "comparison_id", "annotator_id", "pk", "created"
    ):
        heard |= {(pk, person), (pk, number, f"{given:%Y-%m-%dT%H:%M:%S}+00:00")}
    return frozenset(heard)


def _texts(comparisons: set[int]) -> dict[int, dict[str, _Shown]]:
    """The completions of comparisons that are there, by their texts."""
    texts: dict[int, dict[str, _Shown]] = {}
    entries = ComparisonCompletion.objects.filter(comparison__in=comparisons)
    fields = ("comparison_id", "completion_id", "completion__text")
    for comparison, pk, text in entries.values_list(*fields) if comparisons else []:
        texts.setdefault(comparison, {})[text.strip()] = _Shown(pk, text)
    return texts


def _take_more_places(n_votes: Mapping[int, int], written: Written) -> None:
    """As many more as there are new votes; nobody who is comparing loses theirs."""
    before = (
        Comparison.objects.filter(pk__in=n_votes).values_list("pk", "overlap") if n_votes else []
    )
    written.overlaps |= dict(before)
    for pk, n in sorted(n_votes.items()):  # in the order in which everybody locks them
        taken = F("taken") + n
        Comparison.objects.filter(pk=pk).update(taken=taken, overlap=Greatest(F("overlap"), taken))


def _store_judgments(
    said: Sequence[_Said], people: Mapping[str, User], project: Project, written: Written
) -> None:
    """What `claim` and `record` would have left, for comparisons whose places are taken."""
    now = timezone.now()
    orders = [_order(vote) for vote in said]
    assignments = insert(
        Assignment,
        [
            {
                "comparison_id": comparison.pk,
                "project_id": project.pk,
                "annotator_id": people[vote.annotator].pk,
                "order": [completion.pk for completion in order],
                "payload_hash": hash_shown(comparison.prompt.messages, order),
                "protocol": _protocol(vote),
                "state": AssignmentState.JUDGED,
                "guideline_version": project.guideline_version,
                "lease_until": now,
            }
            for (comparison, _, vote), order in zip(said, orders, strict=True)
        ],
    )
    written.assignments += assignments
    written.judgments += insert(
        Judgment,
        [
            {
                "assignment_id": assignment,
                "comparison_id": comparison.pk,
                "project_id": project.pk,
                "annotator_id": people[vote.annotator].pk,
                "verdict": _verdict(vote),
                "ranking": _by_id(vote.ranking, completions),
                "strength": vote.strength,
                "strength_of": vote.strength_of,
                "guideline_version": project.guideline_version,
                **_said_by_id(vote.said, completions),
            }
            for assignment, (comparison, completions, vote) in zip(assignments, said, strict=True)
        ],
    )


def _verdict(vote: Vote) -> Verdict:
    if vote.is_unrankable:
        return Verdict.UNRANKABLE
    return Verdict.RANKING if vote.ranking else Verdict.ALL_BAD


def _order(said: _Said) -> list[_Shown]:
    """As shown. What is not known is drawn, or it would look as if the first were preferred."""
    n = len(said.completions)
    return [said.completions[index] for index in said.vote.order or random.sample(range(n), n)]


def _protocol(vote: Vote) -> dict[str, Any]:
    """As much of what was asked as a vote tells, for those who read what was answered."""
    criteria = vote.said.get("criteria", {}).values()
    steps = max((criterion["strength_of"] or 1 for criterion in criteria), default=1)
    protocol: dict[str, Any] = {"many": "best"} if vote.is_pick else {}
    if steps > 1:
        protocol["strengths"] = [f"better, {step} of {steps}" for step in range(1, steps + 1)]
    return protocol


def _by_id(ranking: Ranking, completions: Sequence[_Shown]) -> list[list[int]]:
    return [[completions[index].pk for index in group] for group in ranking]


def _said_by_id(said: Mapping[str, Any], completions: Sequence[_Shown]) -> dict[str, Any]:
    """What was said besides the ranking, with ids in place of indices."""
    fields = dict(said)
    if "flags" in said:
        fields["flags"] = {
            str(completions[int(index)].pk): labels for index, labels in said["flags"].items()
        }
    if "spans" in said:
        fields["spans"] = [
            span | {"completion": completions[span["completion"]].pk} for span in said["spans"]
        ]
    if "criteria" in said:
        fields["criteria"] = {
            name: {
                "ranking": _by_id(criterion["ranking"], completions),
                "strength": criterion["strength"],
            }
            for name, criterion in said["criteria"].items()
        }
    return fields

"""All figures together: what stands where, and that it is JSON."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from annotator.models import Completion, Purpose
from annotator.quality import report
from annotator.quality.report import (
    KNOWN_OF_THE_WHOLE,
    Said,
    by_criterion,
    by_guideline_version,
    by_source,
    compute,
    disagreements,
    over_time,
)
from annotator.quality.votes import Answer
from tests.factories import (
    ComparisonFactory,
    ProjectFactory,
    UserFactory,
    completion_ids,
    make_judgment,
)

A, B, A13 = [[1], [2]], [[2], [1]], [[1], [3]]
MONDAY = datetime(2026, 3, 2, 12, tzinfo=UTC)


# --- parts ------------------------------------------------------------------------------------
def on(ballot, *days):
    """Two votes that agree on each of the days after a Monday."""
    return [
        ballot(comparison, who, A, created=MONDAY + timedelta(days=day))
        for comparison, day in enumerate(days)
        for who in (1, 2)
    ]


def test_votes_of_a_few_days_are_shown_by_day(ballot):
    votes = on(ballot, 0, 0, 3)

    parts = over_time(Said(votes, [], [])).rows

    assert [(part["name"], part["n_votes"]) for part in parts] == [
        ("2026-03-02", 4), ("2026-03-05", 2),
    ]  # fmt: skip


def test_votes_of_three_weeks_are_shown_by_week(ballot):
    votes = on(ballot, 0, 6, 21)

    parts = over_time(Said(votes, [], [])).rows

    assert [(part["name"], part["n_votes"]) for part in parts] == [
        ("week of 2026-03-02", 4), ("week of 2026-03-23", 2),
    ]  # fmt: skip


def test_a_comparison_belongs_to_the_day_of_its_last_vote(ballot):
    votes = [ballot(1, 1, A, created=MONDAY), ballot(1, 2, A, created=MONDAY + timedelta(days=1))]

    (part,) = over_time(Said(votes, [], [])).rows

    assert (part["name"], part["alpha_ordinal"]["value"]) == ("2026-03-03", 1.0)


def test_a_repeat_belongs_to_the_day_on_which_it_was_said(ballot):
    """The comparison itself was judged a day before, by two people."""
    votes = [ballot(1, who, A, created=MONDAY) for who in (1, 2)]
    again = ballot(1, 1, B, created=MONDAY + timedelta(days=1))

    parts = over_time(Said(votes, [], [(votes[0], again)])).rows

    assert [(part["name"], part["self_agreement"]["n"]) for part in parts] == [
        ("2026-03-02", 0), ("2026-03-03", 1),
    ]  # fmt: skip


def test_versions_of_the_guidelines_are_compared_among_themselves(ballot):
    """In version 1 they disagree; in version 2 nobody shares a comparison."""
    votes = [
        ballot(1, 1, A),
        ballot(1, 2, B),
        ballot(2, 1, A),
        ballot(2, 2, A, guideline_version=2),
    ]

    one, two = by_guideline_version(Said(votes, [], [])).rows

    assert (one["name"], one["alpha_ordinal"]["value"], one["alpha_ordinal"]["n"]) == ("1", -0.5, 1)
    assert (two["name"], two["alpha_ordinal"]["value"]) == ("2", None)


def test_each_criterion_has_its_own_alpha(ballot):
    criteria = [{"honest": A, "kind": A}, {"honest": A, "kind": B}]
    votes = [ballot(1, who, A, criteria=said) for who, said in enumerate(criteria)]

    found = by_criterion(Said(votes, [], [])).rows

    alphas = {part["name"]: part["alpha_ordinal"]["value"] for part in found}
    assert alphas == {"honest": 1.0, "kind": -0.5}
    assert {part["known_answers"]["reason"] for part in found} == {KNOWN_OF_THE_WHOLE}


def test_each_criterion_has_its_own_agreement_with_oneself(ballot):
    before = ballot(1, 1, A, criteria={"honest": A, "kind": A})
    again = ballot(1, 1, A, criteria={"honest": A, "kind": B})

    found = by_criterion(Said([before], [], [(before, again)])).rows

    assert {part["name"]: part["self_agreement"]["value"] for part in found} == {
        "honest": 1.0, "kind": 0.0,
    }  # fmt: skip


def test_a_comparison_counts_for_each_source_in_it(ballot):
    answers = {pk: Answer(source, 5) for pk, source in enumerate("abc", start=1)}
    votes = [ballot(1, who, A) for who in (1, 2)]
    votes += [ballot(2, who, ranking, order=[1, 3]) for who, ranking in [(1, A13), (2, A13[::-1])]]

    rows = by_source(Said(votes, [], []), answers).rows

    found = {part["name"]: part["alpha_ordinal"] for part in rows}
    assert {name: alpha["n"] for name, alpha in found.items()} == {"a": 2, "b": 1, "c": 1}
    assert (found["b"]["value"], found["c"]["value"]) == (1.0, -0.5)


MEASURES = {
    "alpha_ordinal", "alpha_nominal", "cohens_kappa", "fleiss_kappa", "kendall_tau",
    "self_agreement", "known_answers",
}  # fmt: skip


def test_every_part_has_every_measure_or_says_why_not(ballot):
    criteria = {"honest": A}
    votes = [ballot(1, who, A, criteria=criteria) for who in (1, 2)]
    said, answers = Said(votes, [], []), {pk: Answer("a", 5) for pk in (1, 2)}

    for (part,), n_left_out in (
        over_time(said), by_guideline_version(said), by_criterion(said), by_source(said, answers),
    ):  # fmt: skip
        figures = {name: part[name] for name in part.keys() - {"name", "n_votes"}}
        assert figures.keys() == MEASURES
        assert all((of["value"] is None) == bool(of["reason"]) for of in figures.values())
        assert n_left_out == 0


def test_of_very_many_parts_some_are_shown_and_the_others_counted(ballot, monkeypatch):
    monkeypatch.setattr(report, "MOST_GROUPS", 2)
    votes = [ballot(place, 1, A, guideline_version=place) for place in range(5)]
    votes += [ballot(9, 1, A, order=[1, 2]), ballot(8, 1, A13, order=[1, 3])]
    answers = {pk: Answer(source, 5) for pk, source in enumerate("abc", start=1)}

    versions, sources = (
        by_guideline_version(Said(votes, [], [])), by_source(Said(votes, [], []), answers),
    )  # fmt: skip

    assert ([part["name"] for part in versions.rows], versions.n_left_out) == (["3", "4"], 3)
    assert ([part["name"] for part in sources.rows], sources.n_left_out) == (["a", "b"], 1)


def test_known_answers_belong_to_the_version_they_were_asked_in(ballot):
    known = [ballot(1, 1, A, expected=A), ballot(2, 1, A, expected=B, guideline_version=2)]

    found = by_guideline_version(Said([], known, [])).rows

    assert [part["known_answers"]["value"] for part in found] == [1.0, 0.0]


def test_the_most_split_comparisons_come_first(ballots):
    votes = ballots([[A, A, None, None], [A, B, None, None], [A, A, A, B], [A, B, A, B]])

    found = [(row["comparison"], row["n_votes"]) for row in disagreements(votes).rows]

    assert found == [(3, 4), (1, 2), (2, 4)]


# --- of a project -----------------------------------------------------------------------------
@pytest.fixture
def project():
    return ProjectFactory(overlap=10)


@pytest.mark.django_db
def test_a_project_without_votes_has_reasons_instead_of_figures(project):
    figures, consensus = compute(project)

    reasons = {name: figure["reason"] for name, figure in figures["agreement"].items()}
    assert all(reasons.values())
    assert figures["leaderboard"]["rows"] == figures["annotators"] == figures["disagreements"] == []
    assert (figures["over_time"], figures["n_annotators"], consensus) == ([], 0, {})


@pytest.mark.django_db
def test_one_annotator_alone_is_told_what_is_missing(project):
    anna = UserFactory(username="anna")
    for _ in range(3):
        make_judgment(ComparisonFactory(project=project), anna, [0], [1], seconds=9.0)

    figures, _ = compute(project)

    (row,) = figures["annotators"]
    assert figures["agreement"]["alpha_ordinal"]["reason"].startswith("No comparison has been")
    assert row["agreement"]["reason"].startswith("Nobody else")
    assert (row["name"], row["seconds"]["value"], row["signals"]) == ("anna", 9.0, [])


@pytest.mark.django_db
def test_everything_of_a_small_project_is_json(project):
    people = UserFactory.create_batch(3)
    for place in range(12):
        comparison = ComparisonFactory(project=project, texts=["a", "b", "c"])
        Completion.objects.filter(pk=completion_ids(comparison)[0]).update(source="new")
        for user in people:
            make_judgment(
                comparison, user, [0], [1] if place % 3 else [2], [2] if place % 3 else [1]
            )
    make_judgment(ComparisonFactory(project=project), people[0])
    gold = ComparisonFactory(project=project, purpose=Purpose.GOLD)
    gold.expected = [[pk] for pk in completion_ids(gold)]
    gold.save()
    make_judgment(gold, people[0], [1], [0])

    figures, consensus = json.loads(json.dumps(compute(project)))

    assert figures["agreement"]["alpha_ordinal"] | {"reason": ""} == {
        "value": 1.0, "low": 1.0, "high": 1.0, "n": 12, "reason": "",
    }  # fmt: skip
    assert figures["agreement"]["kendall_tau"]["value"] == 1
    assert figures["agreement"]["known_answers"]["value"] == 0
    assert [part["name"] for part in figures["by_source"]] == ["import", "new"]
    assert [row["source"] for row in figures["leaderboard"]["rows"]] == ["new", "import"]
    assert figures["cohens_kappa"]["rows"][0][0] is None
    assert figures["cohens_kappa"]["rows"][0][1]["value"] == 1
    assert len(consensus) == 12


@pytest.mark.django_db
@pytest.mark.parametrize("n", [1, 3])
def test_figures_take_equally_many_queries(project, n, django_assert_num_queries):
    people = UserFactory.create_batch(n)
    for _ in range(n):
        comparison = ComparisonFactory(project=project)
        for user in people:
            make_judgment(comparison, user, [0], [1])

    with django_assert_num_queries(5):
        compute(project)

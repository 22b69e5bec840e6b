"""What was shown and gave no vote, known answers and repetitions: frozen apart, and never votes again."""

import json

import pytest
from django.db import connection

from annotator.assignment import claim, record, release, undo_last
from annotator.exporting import create_export
from annotator.exports.derived import NotDerived, derive
from annotator.exports.filters import Filters
from annotator.exports.records import one_moment, other_showings
from annotator.exports.shapes import VOTES
from annotator.formats.reading import open_rows
from annotator.importing import import_rows
from annotator.models import Assignment, Judgment, Purpose, Verdict
from tests.factories import (
    AssignmentFactory,
    ComparisonFactory,
    GoldFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(overlap=9)


@pytest.fixture
def comparison(project):
    return ComparisonFactory(project=project, texts=["a", "b"])


def showing(comparison, state, **fields):
    return AssignmentFactory(comparison=comparison, state=state, **fields)


def repeat(comparison, annotator, ranking):
    """What the annotator says when asked the same once more."""
    again = AssignmentFactory(comparison=comparison, annotator=annotator, is_repeat=True)
    ids = [[again.order[place] for place in group] for group in ranking]
    return record(again, Verdict.RANKING, ids, payload_hash=again.payload_hash)


def jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def frozen(project, **filters):
    """What became of each showing that is no vote."""
    return [row["outcome"] for row in other_showings(project, Filters(**filters))]


# --- what is frozen -------------------------------------------------------------------------------
def test_what_was_not_answered_is_a_row_that_says_what_was_shown(project, comparison):
    a, b = comparison.completions.order_by("pk").values_list("pk", flat=True)
    left = showing(comparison, "expired", order=[b, a], guideline_version=3)

    (row,) = other_showings(project, Filters())

    assert list(row) == list(VOTES)
    assert row["prompt"] == comparison.prompt.messages
    assert (row["completions"], row["order"], row["flags"]) == (["a", "b"], [1, 0], [[], []])
    assert (row["annotator"], row["showing"]) == (str(left.annotator_id), left.pk)
    assert (row["outcome"], row["guideline_version"]) == ("expired", 3)
    assert row["shown"] == left.created.isoformat(timespec="seconds")
    assert [row[name] for name in ("verdict", "ranking", "given", "judgment")] == [
        None,
        [],
        None,
        None,
    ]


def test_each_way_in_which_a_showing_can_end_is_told(project, comparison):
    for state in ("live", "waiting", "expired", "released", "withdrawn"):
        showing(comparison, state)
    make_judgment(comparison, UserFactory(), [0], [1])
    make_judgment(comparison, UserFactory(), verdict=Verdict.SKIPPED)

    export = create_export(project)

    rows = jsonl(derive(export, "votes", "jsonl"))
    ends = ["judged", "skipped", "live", "expired", "released", "withdrawn"]
    assert [row["outcome"] for row in rows] == ends  # what waits, nobody has seen
    assert export.manifest["showings"]["outcomes"] == dict.fromkeys(sorted(ends[2:]), 1)


def test_a_verdict_that_was_taken_back_is_not_told(project, comparison):
    anna = MembershipFactory(project=project).user
    claim(project, anna)
    held = Assignment.objects.get()
    release(held)
    judgment = make_judgment(comparison, anna, [0], [1])
    undo_last(project, anna)

    rows = list(other_showings(project, Filters()))

    assert [row["outcome"] for row in rows] == ["released", "withdrawn", "live"]
    assert (rows[1]["showing"], rows[1]["verdict"]) == (judgment.assignment_id, None)


def test_a_known_answer_says_that_it_is_one_and_what_was_answered(project):
    known = GoldFactory(project=project, prompt__split="gold", texts=["a", "b"])
    make_judgment(known, UserFactory(), [1], [0])

    (row,) = other_showings(project, Filters())

    assert (row["outcome"], row["expected"], row["ranking"]) == ("judged", [[0], [1]], [[1], [0]])
    assert row["split"] == "gold"


def test_a_repetition_says_that_it_is_one(project, comparison):
    anna = UserFactory()
    make_judgment(comparison, anna, [0], [1])
    repeat(comparison, anna, [[1], [0]])

    (row,) = other_showings(project, Filters())

    assert (row["outcome"], row["is_repeat"], row["ranking"]) == ("judged", True, [[1], [0]])


def test_evaluations_and_other_projects_are_left_out(project):
    showing(ComparisonFactory(project=project, purpose=Purpose.EVALUATION), "expired")
    showing(ComparisonFactory(), "expired")

    assert frozen(project) == []


# --- what is kept -----------------------------------------------------------------------------------
def test_conditions_hold_for_what_was_not_answered_too(project):
    early, late = (ComparisonFactory(project=project, round_number=n) for n in (1, 2))
    showing(early, "expired", guideline_version=1)
    of_anna = showing(late, "released", guideline_version=2)

    assert frozen(project, first_round=2) == ["released"]
    assert frozen(project, annotators=(of_anna.annotator_id,)) == ["released"]
    assert frozen(project, without=(of_anna.annotator_id,)) == ["expired"]
    assert frozen(project, guideline_versions=(1,)) == ["expired"]
    assert frozen(project, sources=("elsewhere",)) == []


@pytest.mark.parametrize(
    "asked", [{"criteria": ("helpful",)}, {"min_rankings": 1}, {"min_agreement": 0.6}]
)
def test_where_it_is_asked_what_was_said_there_are_none(project, comparison, asked):
    showing(comparison, "expired")

    assert frozen(project, **asked) == []


def test_showings_change_neither_the_votes_nor_what_is_counted(project, comparison):
    make_judgment(comparison, UserFactory(), [0], [1])
    before = create_export(project)
    showing(comparison, "expired")
    make_judgment(GoldFactory(project=project), UserFactory(), [1], [0])

    after = create_export(project)

    assert (after.sha256, after.manifest["counts"]) == (before.sha256, before.manifest["counts"])
    assert after.manifest["votes"] == before.manifest["votes"]
    assert "showings" not in before.manifest
    assert not (before.folder / "showings.jsonl").exists()


def test_showings_are_read_in_batches(project, comparison, monkeypatch, django_assert_num_queries):
    monkeypatch.setattr("annotator.exports.records.BATCH", 2)
    for _ in range(3):
        showing(comparison, "expired")

    with django_assert_num_queries(1 + 2 * 4):
        assert len(frozen(project)) == 3


@pytest.mark.django_db(transaction=True)
def test_all_is_read_as_it_was_at_one_time(project, comparison):
    with one_moment():
        assert frozen(project) == []
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert not connection.in_atomic_block or connection.vendor == "postgresql"

    showing(comparison, "expired")  # a transaction of its own can begin again
    assert frozen(project) == ["expired"]


# --- raw votes --------------------------------------------------------------------------------------
@pytest.fixture
def export(project, comparison):
    """Votes of two people, one of whom was shown another comparison before, and left it."""
    other = ComparisonFactory(project=project, texts=["c", "d"])
    known = GoldFactory(project=project, texts=["e", "f"])
    anna, bert = UserFactory.create_batch(2)
    showing(other, "expired", annotator=anna)
    make_judgment(comparison, anna, [0], [1])
    repeat(comparison, anna, [[1], [0]])
    make_judgment(comparison, bert, [1], [0])
    make_judgment(known, bert, [1], [0])
    return create_export(project)


def test_raw_votes_have_all_showings_in_the_order_of_comparisons(export):
    rows = jsonl(derive(export, "votes", "jsonl"))

    assert [(row["completions"][0], row["outcome"], row["is_repeat"]) for row in rows] == [
        ("a", "judged", False),
        ("a", "judged", False),
        ("a", "judged", True),
        ("c", "expired", False),
        ("e", "judged", False),
    ]
    called = [row["annotator"] for row in rows]
    assert (called[0], called[1]) == (called[2], called[4]) == (called[3], called[4])
    assert called[0] != called[1]


@pytest.mark.parametrize("format_name", ["jsonl", "csv", "parquet", "datasets"])
def test_raw_votes_are_read_again_and_only_first_answers_are_votes(export, format_name):
    project = ProjectFactory()

    with open_rows(derive(export, "votes", format_name)) as rows:
        report = import_rows(project, rows)

    assert (report.comparisons, report.known_answers, report.judgments) == (3, 1, 2)
    votes = Judgment.objects.filter(project=project)
    assert {vote.comparison.purpose for vote in votes} == {"training"}
    assert [vote.ranking for vote in votes.order_by("pk")] == [
        [[pk] for pk in order] for order in both_ways(votes[0].comparison)
    ]


def both_ways(comparison):
    first, second = comparison.completions.order_by("pk").values_list("pk", flat=True)
    return [[first, second], [second, first]]


def test_showings_by_themselves_are_no_votes(export):
    project = ProjectFactory()

    with open_rows(export.folder / "showings.jsonl") as rows:
        report = import_rows(project, rows)

    assert (report.comparisons, report.known_answers, report.judgments) == (3, 1, 0)


def test_nothing_is_made_of_showings_that_have_changed(export):
    with (export.folder / "showings.jsonl").open("a") as file:
        file.write("\n")

    with pytest.raises(NotDerived, match=r"showings\.jsonl of export .* has changed since"):
        derive(export, "votes", "jsonl")


def test_an_export_of_before_showings_were_frozen_has_the_answered_ones(export):
    del export.manifest["showings"]

    assert len(jsonl(derive(export, "votes", "jsonl"))) == 2

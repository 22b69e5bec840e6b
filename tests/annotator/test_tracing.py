"""Which exports carry a vote or an answer."""

import json

import pytest

from annotator.assignment import undo_last
from annotator.exporting import create_export
from annotator.models import Completion
from annotator.tracing import exports_with_completion, exports_with_judgment, rows_of
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(overlap=5)


@pytest.fixture
def anna(project):
    return MembershipFactory(project=project).user


def test_rows_are_found_wherever_they_stand_in_the_file(project, anna):
    comparisons = [ComparisonFactory(project=project, texts=list("abc")) for _ in range(7)]
    for comparison in comparisons[1::2]:
        make_judgment(comparison, anna, [0], [1], [2])
    export = create_export(project)
    lines = (export.folder / "data.jsonl").read_text().splitlines()

    for comparison in comparisons:
        wanted = [row for row in map(json.loads, lines) if row["comparison"] == comparison.pk]
        assert rows_of(export, comparison.pk) == wanted

    assert [len(rows_of(export, comparison.pk)) for comparison in comparisons] == [
        0, 3, 0, 3, 0, 3, 0,
    ]  # fmt: skip


def test_a_vote_is_in_the_exports_that_were_made_while_it_counted(project, anna):
    comparison = ComparisonFactory(project=project)
    make_judgment(comparison, UserFactory(), [0], [1])
    create_export(project)
    judgment = make_judgment(comparison, anna, [1], [0])
    two = [create_export(project), create_export(project)]
    undo_last(project, anna, judgment_id=judgment.pk)
    judgment.refresh_from_db()
    create_export(project)

    assert exports_with_judgment(judgment) == two[::-1]


def test_what_the_file_does_not_have_is_not_in_the_export(project, anna):
    judgment = make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    export = create_export(project)
    assert exports_with_judgment(judgment) == [export]

    (export.folder / "data.jsonl").write_text("")
    assert exports_with_judgment(judgment) == []

    (export.folder / "data.jsonl").unlink()  # then its date alone can tell
    assert exports_with_judgment(judgment) == [export]


def test_skips_and_evaluations_are_in_no_export(project, anna):
    skip = make_judgment(ComparisonFactory(project=project), anna, verdict="skipped")
    blind = ComparisonFactory(project=project, purpose="evaluation")
    vote = make_judgment(blind, anna, [0], [1])
    make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    create_export(project)

    assert exports_with_judgment(skip) == exports_with_judgment(vote) == []


def test_that_all_are_bad_is_carried_beside_a_ranking_only(project, anna):
    alone, beside = ComparisonFactory(project=project), ComparisonFactory(project=project)
    judgments = [make_judgment(comparison, anna) for comparison in (alone, beside)]
    make_judgment(beside, UserFactory(), [0], [1])
    export = create_export(project)

    assert [exports_with_judgment(judgment) for judgment in judgments] == [[], [export]]


def test_an_answer_is_in_the_exports_with_votes_on_it(project, anna):
    judged, other = ComparisonFactory(project=project), ComparisonFactory(project=project)
    make_judgment(judged, anna, [0], [1])
    export = create_export(project)

    found = [
        exports_with_completion(completion)
        for comparison in (judged, other)
        for completion in Completion.objects.filter(comparisons=comparison)
    ]
    assert found == [[export], [export], [], []]

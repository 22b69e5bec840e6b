"""Which exports carry a vote or an answer."""

import json

import pytest

from annotator.assignment import undo_last
from annotator.exporting import create_export
from annotator.exports.filters import Filters
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

    assert exports_with_judgment(judgment) == dict.fromkeys(two, "")
    assert list(exports_with_judgment(judgment)) == two[::-1]


def test_a_file_that_is_gone_or_changed_cannot_tell_and_that_is_said(project, anna):
    judgment = make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    export = create_export(project)
    file = export.folder / "votes.jsonl"
    answer = judgment.comparison.completions.first()
    assert exports_with_judgment(judgment) == exports_with_completion(answer) == {export: ""}

    file.write_text("")
    changed = {export: "by its date: votes.jsonl has changed since it was frozen"}
    assert exports_with_judgment(judgment) == exports_with_completion(answer) == changed

    file.unlink()
    missing = {export: "by its date: votes.jsonl is missing"}
    assert exports_with_judgment(judgment) == exports_with_completion(answer) == missing


def test_an_export_of_before_single_votes_is_looked_up_in_its_pairs(project, anna):
    ranked, bad = ComparisonFactory(project=project), ComparisonFactory(project=project)
    judgments = [make_judgment(ranked, anna, [0], [1]), make_judgment(bad, anna)]
    export = create_export(project)
    del export.manifest["votes"]
    export.save()

    assert [exports_with_judgment(judgment) for judgment in judgments] == [{export: ""}, {}]
    answers = [comparison.completions.first() for comparison in (ranked, bad)]
    assert [exports_with_completion(answer) for answer in answers] == [{export: ""}, {}]


def test_skips_and_evaluations_are_in_no_export(project, anna):
    skip = make_judgment(ComparisonFactory(project=project), anna, verdict="skipped")
    blind = ComparisonFactory(project=project, purpose="evaluation")
    vote = make_judgment(blind, anna, [0], [1])
    make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    create_export(project)

    assert exports_with_judgment(skip) == exports_with_judgment(vote) == {}


def test_that_all_are_bad_is_carried_where_nobody_ranked_too(project, anna):
    alone, beside = ComparisonFactory(project=project), ComparisonFactory(project=project)
    judgments = [make_judgment(comparison, anna) for comparison in (alone, beside)]
    make_judgment(beside, UserFactory(), [0], [1])
    export = create_export(project)

    assert [exports_with_judgment(judgment) for judgment in judgments] == [{export: ""}] * 2
    assert exports_with_completion(alone.completions.first()) == {export: ""}


def test_a_filter_leaves_a_vote_out(project, anna):
    comparison = ComparisonFactory(project=project)
    ours, theirs = (make_judgment(comparison, user, [0], [1]) for user in (anna, UserFactory()))
    export = create_export(project, filters=Filters(without=(anna.pk,)))

    assert (exports_with_judgment(ours), exports_with_judgment(theirs)) == ({}, {export: ""})


def test_an_answer_is_in_the_exports_with_votes_on_it(project, anna):
    judged, other = ComparisonFactory(project=project), ComparisonFactory(project=project)
    make_judgment(judged, anna, [0], [1])
    export = create_export(project)

    found = [
        exports_with_completion(completion)
        for comparison in (judged, other)
        for completion in Completion.objects.filter(comparisons=comparison)
    ]
    assert found == [{export: ""}, {export: ""}, {}, {}]

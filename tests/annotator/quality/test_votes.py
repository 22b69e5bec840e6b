"""From rows to tables: which votes count, and what is looked at of answers."""

import pytest

from annotator.models import Judgment, Purpose, Verdict
from annotator.protocols import Protocol, to_json
from annotator.quality.votes import Answer, answer_of, outcomes_of, pair_votes, read_votes
from tests.factories import (
    AssignmentFactory,
    ComparisonFactory,
    ProjectFactory,
    UserFactory,
    completion_ids,
    make_judgment,
)


@pytest.fixture
def project():
    return ProjectFactory(overlap=10)


# --- reading ----------------------------------------------------------------------------------
@pytest.mark.django_db
def test_votes_known_answers_and_repeats_are_kept_apart(project):
    anna = UserFactory()
    asked, known = (
        ComparisonFactory(project=project),
        ComparisonFactory(project=project, purpose=Purpose.GOLD, expected=[[1], [2]]),
    )
    make_judgment(asked, anna, [0], [1])
    make_judgment(known, anna, [1], [0])
    say_again(asked, anna, [1], [0])

    votes = read_votes(project)

    first, second = completion_ids(asked)
    assert [ballot.ranking for ballot in votes.counted] == [[[first], [second]]]
    assert [ballot.expected for ballot in votes.known] == [[[1], [2]]]
    assert [ballot.ranking for ballot in votes.repeats] == [[[second], [first]]]


@pytest.mark.django_db
def test_what_cannot_be_ranked_is_counted_and_is_no_vote_but_on_a_known_answer(project):
    project.protocol = to_json(Protocol(allow_unrankable=True))
    asked = ComparisonFactory(project=project)
    known = ComparisonFactory(project=project, purpose=Purpose.GOLD, expected=[[1], [2]])
    for comparison in (asked, known):
        make_judgment(comparison, UserFactory(), verdict=Verdict.UNRANKABLE)

    votes = read_votes(project)

    assert (votes.counted, votes.n_unrankable) == ([], 1)
    assert [ballot.ranking for ballot in votes.known] == [[]]


def say_again(comparison, user, *groups):
    ids = completion_ids(comparison)
    Judgment.objects.create(
        assignment=AssignmentFactory(comparison=comparison, annotator=user, is_repeat=True),
        comparison=comparison,
        project=comparison.project,
        annotator=user,
        verdict="ranking",
        ranking=[[ids[position] for position in group] for group in groups],
        guideline_version=1,
        is_repeat=True,
    )


@pytest.mark.django_db
def test_skips_and_what_was_taken_back_do_not_count(project):
    make_judgment(ComparisonFactory(project=project), UserFactory(), verdict="skipped")
    voided = make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    voided.voided = voided.created
    voided.save()
    make_judgment(ComparisonFactory(project=project), UserFactory())

    assert [ballot.ranking for ballot in read_votes(project).counted] == [[]]


@pytest.mark.django_db
def test_only_the_newest_judgments_are_read(project):
    for _ in range(3):
        make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])

    votes = read_votes(project, newest=2)

    newest = project.comparisons.order_by("pk").values_list("pk", flat=True)[1:]
    assert [ballot.comparison for ballot in votes.counted] == list(newest)
    assert (len(votes.answers), votes.is_cut) == (4, True)
    assert not read_votes(project, newest=3).is_cut


@pytest.mark.django_db
def test_criteria_are_read_with_their_rankings(project):
    judgment = make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    criteria = {"helpful": {"ranking": judgment.ranking, "strength": 2}, "honest": {"ranking": []}}
    project.judgments.update(criteria=criteria)

    (ballot,) = read_votes(project).counted

    assert ballot.criteria == {"helpful": judgment.ranking}


@pytest.mark.django_db
@pytest.mark.parametrize("n", [1, 3])
def test_reading_takes_equally_many_queries(project, n, django_assert_num_queries):
    for _ in range(n):
        make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])

    with django_assert_num_queries(4):
        read_votes(project)


def test_answers_are_known_by_their_looks():
    text = "# Title\n\n- **one** and __two__\n2) three\n\n```\n# no header\n- no item\n```\n"

    assert answer_of("model", text) == Answer("model", len(text), 1, 2, 2)


# --- pairs ------------------------------------------------------------------------------------
def test_rankings_are_taken_apart_into_pairs():
    assert outcomes_of([[8], [7, 9]]) == {(7, 8): -1, (7, 9): 0, (8, 9): 1}


def test_votes_on_a_pair_stand_together(ballot):
    ballots = [ballot(5, 1, [[1], [2, 3]]), ballot(6, 1, []), ballot(5, 2, [[3], [2], [1]])]

    table = pair_votes(ballots)

    assert table.pair.tolist() == [0, 0, 1, 1, 2, 2]
    assert table.ballot.tolist() == [0, 2, 0, 2, 0, 2]
    assert table.outcome.tolist() == [1, -1, 1, -1, 0, -1]
    assert table.second.tolist() == [2, 2, 3, 3, 3, 3]

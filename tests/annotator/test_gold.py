"""Comparisons whose answer is known, and the qualification by them."""

from importlib import import_module

import pytest
from django.apps import apps
from django.urls import reverse

from annotator.agreement import alpha, annotator_statistics
from annotator.assignment import (
    NotRecorded,
    NotUndone,
    QueueState,
    claim,
    correct,
    queue_state,
    record,
    undo_last,
)
from annotator.exporting import NothingToExport, create_export, preview
from annotator.gold import (
    exempt_who_has_judged,
    make_gold,
    qualification_shares,
    set_qualification,
    share_right,
)
from annotator.models import (
    Assignment,
    Comparison,
    Membership,
    Purpose,
    Qualification,
    Role,
    Verdict,
)
from annotator.quality.votes import read_votes
from tests.factories import (
    ComparisonFactory,
    GoldFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    completion_ids,
    make_judgment,
)

pytestmark = pytest.mark.django_db


# --- making -----------------------------------------------------------------------------------
def test_a_known_answer_is_made_of_a_comparison_that_stays_as_it_is():
    comparison = ComparisonFactory(round_number=3, origin="run 7", priority=10)
    one, other = completion_ids(comparison)

    known = make_gold(comparison, [[other], [one]], "It is shorter.")

    comparison.refresh_from_db()
    assert (comparison.purpose, comparison.expected) == (Purpose.TRAINING, [])
    assert (known.purpose, known.overlap, known.round_number) == (Purpose.GOLD, 0, 3)
    assert known.origin == "known answer"  # not the run's: it is none of its pairs
    assert (known.expected, known.explanation) == ([[other], [one]], "It is shorter.")
    assert completion_ids(known) == [one, other]


def test_a_known_answer_made_twice_is_changed():
    comparison = ComparisonFactory()
    one, other = completion_ids(comparison)
    known = make_gold(comparison, [[other], [one]])

    assert make_gold(comparison, [[one, other]], "Alike.") == known

    known.refresh_from_db()
    assert (known.expected, known.explanation) == ([[one, other]], "Alike.")
    assert known.entries.count() == 2


def test_a_known_answer_made_of_other_rows_of_the_same_texts_expects_its_own():
    comparison = ComparisonFactory(texts=["Long.", "Short."])
    known = make_gold(comparison, [completion_ids(comparison)])
    twin = ComparisonFactory(
        project=comparison.project,
        prompt=comparison.prompt,
        purpose=Purpose.EVALUATION,
        texts=["Short.", "Long."],
    )
    short, long = completion_ids(twin)

    assert make_gold(twin, [[short], [long]]) == known

    known.refresh_from_db()
    of = {entry.completion.text: entry.completion_id for entry in known.entries.all()}
    assert known.expected == [[of["Short."]], [of["Long."]]]


def test_what_does_not_rank_each_answer_once_is_no_known_answer():
    comparison = ComparisonFactory()
    one, _ = completion_ids(comparison)

    with pytest.raises(ValueError, match="must rank each of the answers"):
        make_gold(comparison, [[one]])

    assert Comparison.objects.count() == 1


@pytest.mark.parametrize(
    ("said", "share"),
    [([[1], [2]], 1), ([[2], [1]], 0), ([[1, 2]], 0), ([], 0)],
)
def test_of_two_answers_a_verdict_is_right_or_wrong(said, share):
    assert share_right(said, [[1], [2]]) == share


def test_of_more_answers_the_right_pairs_are_counted():
    assert share_right([[7], [8], [9]], [[7], [8, 9]]) == 2 / 3
    assert share_right([[7], [9, 8]], [[7], [8, 9]]) == 1


def test_of_who_only_picks_the_best_what_was_not_compared_does_not_count():
    assert share_right([[7], [8, 9]], [[7], [8], [9]]) == 2 / 3
    assert share_right([[7], [8, 9]], [[7], [8], [9]], is_pick=True) == 1


# --- what they are kept out of --------------------------------------------------------------------
def test_known_answers_are_in_no_export_no_agreement_and_not_open():
    known = GoldFactory()
    for annotator in UserFactory.create_batch(2):
        make_judgment(known, annotator, [0], [1])

    assert preview(known.project)["judgments"] == 0
    with pytest.raises(NothingToExport):
        create_export(known.project)
    assert alpha(known.project).value is None
    assert annotator_statistics(known.project) == []
    assert not Comparison.objects.open().exists()


# --- qualification ------------------------------------------------------------------------------
@pytest.fixture
def asking():
    """A project in which new annotators have to get two of three known answers right."""
    project = ProjectFactory(qualification_items=3, qualification_percent=60)
    ComparisonFactory(project=project)
    GoldFactory.create_batch(4, project=project)
    return project


def newcomer(project, **fields):
    return MembershipFactory(project=project, **fields)


def answer(project, user, *, is_right):
    assignment = claim(project, user)
    best, worst = (group[0] for group in assignment.comparison.expected)
    ranking = [[best], [worst]] if is_right else [[worst], [best]]
    return record(assignment, Verdict.RANKING, ranking, payload_hash=assignment.payload_hash)


@pytest.mark.parametrize(
    ("verdicts", "outcome", "share"),
    [([True, False, True], "passed", 2 / 3), ([True, False, False], "failed", 1 / 3)],
)
def test_newcomers_answer_known_questions_first_and_are_qualified_by_them(
    asking, verdicts, outcome, share
):
    membership = newcomer(asking)

    for is_right in verdicts:
        assert answer(asking, membership.user, is_right=is_right).comparison.purpose == Purpose.GOLD

    membership.refresh_from_db()
    assert membership.qualification == outcome
    assert membership.qualification_share == pytest.approx(share)
    next_one = claim(asking, membership.user)
    if outcome == "passed":
        assert next_one.comparison.purpose == Purpose.TRAINING
    else:
        assert next_one is None
        assert queue_state(asking, membership.user) == QueueState("qualification_failed")


def test_after_the_last_known_answer_the_same_request_brings_real_work(asking, client):
    user = newcomer(asking).user
    client.force_login(user)
    for _ in range(2):
        answer(asking, user, is_right=True)
    last = claim(asking, user)
    answers = last.comparison.expected[0] == [last.order[0]]
    form = {"assignment": last.pk, "payload_hash": last.payload_hash,
            "choice": "first" if answers else "second"}  # fmt: skip

    client.post(reverse("annotator:judge", args=[asking.slug]), form)

    assert claim(asking, user).comparison.purpose == Purpose.TRAINING


def test_an_admin_decides_otherwise_or_lets_somebody_try_again(asking):
    membership = newcomer(asking)
    for _ in range(3):
        answer(asking, membership.user, is_right=False)
    membership.refresh_from_db()

    set_qualification(membership, Qualification.PENDING)
    assert qualification_shares(membership) == []
    assert claim(asking, membership.user).comparison.purpose == Purpose.GOLD

    set_qualification(membership, Qualification.PASSED)
    assert queue_state(asking, membership.user) == QueueState("available")


def test_reviewers_admins_and_who_has_judged_here_need_no_qualification(asking):
    reviewer = newcomer(asking, role=Role.REVIEWER)
    assert claim(asking, reviewer.user).comparison.purpose == Purpose.TRAINING

    old_hand, new = newcomer(asking), newcomer(asking)
    make_judgment(ComparisonFactory(project=asking), old_hand.user)
    assert exempt_who_has_judged(asking) == 1

    states = dict(Membership.objects.values_list("user", "qualification"))
    assert states[old_hand.user_id] == Qualification.PASSED
    assert states[new.user_id] == Qualification.PENDING


def test_known_answers_of_real_work_are_none_of_a_qualification_that_is_asked_for_later(asking):
    old_hand = newcomer(asking, qualification=Qualification.PASSED)
    judgment = make_judgment(GoldFactory(project=asking), old_hand.user, [0], [1])

    set_qualification(old_hand, Qualification.PENDING)
    assert undo_last(asking, old_hand.user).comparison == judgment.comparison

    make_judgment(GoldFactory(project=asking), newcomer(asking).user, [0], [1])
    assert exempt_who_has_judged(asking) == 2
    assert not Assignment.objects.filter(is_qualification=True).exists()


def test_too_few_known_answers_are_said_so(asking):
    membership = newcomer(asking)
    asking.comparisons.gold().hold_back("Wrong.")

    assert claim(asking, membership.user) is None
    state = queue_state(asking, membership.user)
    assert state == QueueState("qualification_lacks_answers")


@pytest.fixture
def asking_all():
    """A project in which new annotators have to answer all known answers there are."""
    project = ProjectFactory(qualification_items=2)
    ComparisonFactory(project=project)
    GoldFactory.create_batch(2, project=project)
    return project


def test_a_known_answer_that_was_skipped_is_asked_again_after_the_others(asking_all):
    membership = newcomer(asking_all)
    skipped = claim(asking_all, membership.user)
    record(skipped, Verdict.SKIPPED, payload_hash=skipped.payload_hash)

    others = answer(asking_all, membership.user, is_right=True)
    again = answer(asking_all, membership.user, is_right=True)

    assert [others.comparison == skipped.comparison, again.comparison] == [
        False,
        skipped.comparison,
    ]
    membership.refresh_from_db()
    assert membership.qualification == Qualification.PASSED


def test_another_attempt_asks_again_what_was_asked_before_if_there_is_nothing_else(asking_all):
    membership = newcomer(asking_all)
    first = [answer(asking_all, membership.user, is_right=False) for _ in range(2)]
    membership.refresh_from_db()
    set_qualification(membership, Qualification.PENDING)

    second = [answer(asking_all, membership.user, is_right=True) for _ in range(2)]

    assert [one.comparison for one in second] == [one.comparison for one in first]
    membership.refresh_from_db()
    assert (membership.qualification, membership.qualification_share) == ("passed", 1.0)
    votes = read_votes(asking_all)
    assert [ballot.comparison for ballot in votes.known] == [one.comparison_id for one in first]
    assert votes.repeats == []


def test_the_verdicts_of_a_qualification_stand(asking):
    membership = newcomer(asking)
    answer(asking, membership.user, is_right=False)

    with pytest.raises(NotUndone, match="verdicts of a qualification cannot be taken back"):
        undo_last(asking, membership.user)

    set_qualification(membership, Qualification.PASSED)
    with pytest.raises(NotUndone, match="verdicts of a qualification cannot be taken back"):
        undo_last(asking, membership.user)


def test_a_qualification_that_is_turned_off_is_forgotten(asking):
    membership = newcomer(asking, qualification=Qualification.FAILED)
    asking.qualification_items = 0

    assert claim(asking, membership.user).comparison.purpose == Purpose.TRAINING


def test_showings_of_earlier_qualifications_are_found(asking):
    members = [newcomer(asking) for _ in range(3)]
    asked = [make_judgment(GoldFactory(project=asking), each.user, [0], [1]) for each in members]
    passed, exempt = members[1:]
    set_qualification(passed, Qualification.PASSED, share=1.0)
    set_qualification(exempt, Qualification.PASSED)
    make_judgment(GoldFactory(project=asking), passed.user, [0], [1])  # in real work, later

    migration = import_module("annotator.migrations.0014_qualification_showings")
    migration.mark_showings(apps, None)

    found = Assignment.objects.filter(is_qualification=True).order_by("pk")
    assert list(found) == [judgment.assignment for judgment in asked[:2]]


def test_a_verdict_of_a_qualification_cannot_be_changed_either(asking):
    judgment = answer(asking, newcomer(asking).user, is_right=False)
    said = {"verdict": Verdict.RANKING, "ranking": judgment.comparison.expected, "strength": None}
    rest = {"criteria": {}, "rationale": "", "reasons": [], "flags": {}, "spans": [], "rewrite": ""}

    with pytest.raises(NotRecorded, match="verdicts of a qualification cannot be changed"):
        correct(judgment, said | rest, payload_hash=judgment.assignment.payload_hash)

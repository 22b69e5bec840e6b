"""Who is handed what, and what becomes of their verdicts."""

import random
from datetime import timedelta

import pytest
from django.utils import timezone

from annotator.assignment import (
    NotMoved,
    NotRecorded,
    NotUndone,
    Progress,
    QueueState,
    claim,
    claiming,
    correct,
    end_holds,
    forget_order,
    held_by,
    last_judgment,
    leases,
    move,
    payload_hash,
    progress,
    queue_state,
    record,
    release,
    release_expired,
    renew,
    save_draft,
    shown,
    undo_last,
    was_taken_back,
    why_nothing,
)
from annotator.ballots import read
from annotator.gold import make_gold
from annotator.models import (
    Arm,
    Assignment,
    AssignmentState,
    Comparison,
    Judgment,
    Project,
    Purpose,
    Qualification,
    QueueOrder,
    Verdict,
)
from annotator.protocols import Protocol, to_json
from tests.factories import (
    AssignmentFactory,
    ComparisonFactory,
    GoldFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    completion_ids,
    make_judgment,
)

pytestmark = pytest.mark.django_db

FREE = Protocol(allow_unrankable=True)


@pytest.fixture
def project():
    return ProjectFactory()


@pytest.fixture
def anna(project):
    return MembershipFactory(project=project, user__username="anna").user


@pytest.fixture
def ben(project):
    return MembershipFactory(project=project, user__username="ben").user


def say(assignment, verdict=Verdict.ALL_BAD, ranking=(), **fields):
    fields.setdefault("payload_hash", assignment.payload_hash)
    return record(assignment, verdict, ranking, **fields)


def taken(comparison):
    return Comparison.objects.get(pk=comparison.pk).taken


def run_out(assignment):
    Assignment.objects.filter(pk=assignment.pk).update(lease_until=timezone.now())


# --- claim ------------------------------------------------------------------------------------
def test_claim_hands_out_an_open_comparison_with_a_lease(project, anna):
    comparison = ComparisonFactory(project=project)

    assignment = claim(project, anna)

    assert assignment.comparison == comparison
    assert sorted(assignment.order) == completion_ids(comparison)
    assert assignment.payload_hash == payload_hash(comparison, assignment.order)
    assert timedelta(minutes=19) < assignment.lease_until - timezone.now() < project.lease
    assert taken(comparison) == 1


def test_claim_returns_what_is_held_with_a_new_lease(project, anna):
    ComparisonFactory.create_batch(3, project=project)
    first = claim(project, anna)
    run_out(first)

    second = claim(project, anna)

    assert second == first
    assert second.lease_until > timezone.now()
    assert Assignment.objects.count() == 1


def test_claim_never_exceeds_the_overlap(project, anna, ben):
    ComparisonFactory(project=project, overlap=1)

    assert claim(project, anna) is not None
    assert claim(project, ben) is None


def test_claim_takes_the_highest_priority_first(project, anna):
    for priority in (0, 7, -1, 3):
        ComparisonFactory(project=project, priority=priority)

    priorities = []
    while assignment := claim(project, anna):
        priorities.append(assignment.comparison.priority)
        say(assignment)

    assert priorities == [7, 3, 0, -1]


def test_claim_goes_on_to_lower_priorities_when_the_higher_are_handled(project, anna):
    urgent = ComparisonFactory(project=project, overlap=5, priority=9)
    other = ComparisonFactory(project=project)
    make_judgment(urgent, anna)

    assert claim(project, anna).comparison == other


def test_claim_draws_the_order_of_comparisons_and_of_completions(project):
    comparisons = [
        ComparisonFactory(project=project, overlap=100, draw=draw)
        for draw in (0.0, 0.25, 0.5, 0.75)
    ]  # evenly spread: each is as likely as the others

    handed_out = [claim(project, MembershipFactory(project=project).user) for _ in range(60)]

    assert {assignment.comparison for assignment in handed_out} == set(comparisons)
    sorted_first = [assignment.order == sorted(assignment.order) for assignment in handed_out]
    assert set(sorted_first) == {True, False}


def test_claim_finds_the_last_one_wherever_it_lies(project, anna):
    ComparisonFactory.create_batch(20, project=project)

    while assignment := claim(project, anna):
        say(assignment)

    assert Judgment.objects.count() == 20


def test_claim_knows_only_its_own_project(project, anna):
    ComparisonFactory()

    assert claim(project, anna) is None


@pytest.mark.parametrize("is_member", [True, False])
def test_claim_gives_the_unqualified_nothing(project, is_member):
    ComparisonFactory(project=project)
    user = UserFactory()
    if is_member:
        MembershipFactory(project=project, user=user, is_qualified=False)

    assert claim(project, user) is None
    assert queue_state(project, user) == QueueState("not_qualified")


def test_claim_serves_superusers_without_membership(project):
    comparison = ComparisonFactory(project=project)

    assert claim(project, UserFactory(is_superuser=True)).comparison == comparison


@pytest.mark.parametrize("n", [1, 3])
def test_claim_and_record_ask_equally_many_questions(project, anna, n, django_assert_num_queries):
    ComparisonFactory.create_batch(n, project=project, draw=1.0)  # found without wrapping round

    with django_assert_num_queries(6 + 2):  # and a savepoint, where there is a transaction already
        assignment = claim(project, anna)
    with django_assert_num_queries(3 + 2):
        say(assignment, Verdict.RANKING, [[pk] for pk in assignment.order])


def test_claim_asks_a_dozen_questions_at_most_with_everything_on(
    project, anna, django_assert_max_num_queries, monkeypatch
):
    monkeypatch.setattr("annotator.assignment.finding.REPEAT_AFTER", 1)
    project.gold_percent = project.repeat_percent = 50
    anna.memberships.update(quota_total=100)
    ComparisonFactory.create_batch(12, project=project, draw=1.0)  # found without wrapping round
    GoldFactory.create_batch(2, project=project)
    random.seed(1)

    for _ in range(12):  # with a known answer, a repetition, neither; or none left of either
        with django_assert_max_num_queries(13):
            assignment = claim(project, anna)
        say(assignment)

    shown = Assignment.objects.filter(annotator=anna)
    assert shown.filter(comparison__purpose=Purpose.GOLD).count() == 2
    assert shown.filter(is_repeat=True).count() > 2


# --- the order of questions ---------------------------------------------------------------------
@pytest.fixture
def in_order():
    """A project that asks the most informative questions first, and one in five at random."""
    return ProjectFactory(queue_order=QueueOrder.INFORMATIVE, random_percent=20)


def order_now(project):
    project.ordered = timezone.now()
    project.save(update_fields=["ordered"])


def placed(project, place, **fields):
    return ComparisonFactory(project=project, arm=Arm.ACTIVE, place=place, **fields)


def handed_out(project, annotator):
    """The places of all that this person is handed, in order."""
    places = []
    while assignment := claim(project, annotator):
        places.append(assignment.comparison.place)
        say(assignment)
    return places


def test_claim_asks_the_lowest_place_first(in_order):
    anna = MembershipFactory(project=in_order).user
    for place in (0.9, 0.2, 1.3, 0.5):
        placed(in_order, place)

    assert handed_out(in_order, anna) == [0.2, 0.5, 0.9, 1.3]


def test_claim_asks_higher_priorities_before_lower_places(in_order):
    anna = MembershipFactory(project=in_order).user
    placed(in_order, 0.2)
    ComparisonFactory(project=in_order, priority=10)

    assert handed_out(in_order, anna) == [None, 0.2]


def test_claim_draws_one_in_five_and_the_rest_when_one_side_is_done(in_order):
    anna = MembershipFactory(project=in_order).user
    for place in range(80):
        placed(in_order, float(place))
    ComparisonFactory.create_batch(20, project=in_order, arm=Arm.RANDOM)
    random.seed(1)

    places = handed_out(in_order, anna)

    assert sorted(place for place in places if place is not None) == list(range(80))
    assert places.count(None) == 20
    assert 4 <= places[:50].count(None) <= 16  # of 10 expected, ± 2 standard deviations


def test_each_of_several_people_is_asked_the_best_question_they_may_get(in_order):
    anna, ben = (MembershipFactory(project=in_order).user for _ in range(2))
    best, second = placed(in_order, 0.1, overlap=2), placed(in_order, 0.2, overlap=2)
    make_judgment(best, anna)

    assert claim(in_order, anna).comparison == second
    assert claim(in_order, ben).comparison == best


def test_claim_goes_on_where_the_person_is_and_begins_anew_with_a_new_order(in_order):
    anna = MembershipFactory(project=in_order).user
    order_now(in_order)
    make_judgment(placed(in_order, 0.2, overlap=2), anna)
    before, behind = placed(in_order, 0.1), placed(in_order, 0.3)

    held = claim(in_order, anna)
    release(held)
    order_now(in_order)

    assert held.comparison == behind
    assert claim(in_order, anna).comparison == before


def test_a_vote_on_what_was_held_when_the_order_was_made_is_no_place_in_it(in_order):
    anna = MembershipFactory(project=in_order).user
    held = AssignmentFactory(comparison=placed(in_order, 0.9, overlap=2), annotator=anna)
    order_now(in_order)
    best = placed(in_order, 0.1)
    placed(in_order, 0.95)

    record(held, Verdict.ALL_BAD, payload_hash=held.payload_hash)

    assert claim(in_order, anna).comparison == best


def test_claim_in_order_comes_back_to_what_others_have_given_back(in_order):
    anna = MembershipFactory(project=in_order).user
    order_now(in_order)
    make_judgment(placed(in_order, 0.2, overlap=2), anna)
    placed(in_order, 0.1)

    assert handed_out(in_order, anna) == [0.1]


def test_claim_in_order_asks_no_more_questions_of_the_database(in_order, django_assert_num_queries):
    anna = MembershipFactory(project=in_order).user
    order_now(in_order)
    placed(in_order, 0.1)
    random.seed(1)  # the second number is above 0.2

    with django_assert_num_queries(6 + 2):
        claim(in_order, anna)


def test_an_order_that_is_off_is_not_followed_but_loses_nothing(project, anna):
    placed(project, 0.1)
    ComparisonFactory.create_batch(2, project=project)

    assert handed_out(project, anna) == [None, None, 0.1]


def test_forgetting_the_order_keeps_the_arms_of_what_was_asked(in_order):
    comparison, other = placed(in_order, 0.1, overlap=2, taken=1), placed(ProjectFactory(), 0.1)
    waiting = placed(in_order, 0.2)

    forget_order(in_order)

    comparison.refresh_from_db()
    other.refresh_from_db()
    waiting.refresh_from_db()
    assert (comparison.place, comparison.arm) == (None, Arm.ACTIVE)
    assert (waiting.place, waiting.arm) == (None, "")
    assert other.place == 0.1


# --- leases -----------------------------------------------------------------------------------
def test_expired_leases_give_their_place_back_once(project, anna, ben):
    comparison = ComparisonFactory(project=project)
    late = AssignmentFactory(comparison=comparison, annotator=anna)
    run_out(late)

    assert claim(project, ben).comparison == comparison

    late.refresh_from_db()
    assert late.state == AssignmentState.EXPIRED
    assert taken(comparison) == 1


def test_an_expired_comparison_comes_back_to_the_same_annotator(project, anna, ben):
    comparison = ComparisonFactory(project=project)
    late = AssignmentFactory(comparison=comparison, annotator=anna)
    run_out(late)
    release(claim(project, ben))

    again = claim(project, anna)

    assert again.comparison == comparison
    assert again != late


def test_two_expired_leases_of_one_comparison_free_two_places(project, anna):
    comparison = ComparisonFactory(project=project, overlap=2)
    for late in AssignmentFactory.create_batch(2, comparison=comparison):
        run_out(late)

    claim(project, anna)

    assert taken(comparison) == 1


def test_a_claim_looks_for_expired_leases_only_if_nothing_else_is_open(project, anna):
    late = AssignmentFactory(comparison=ComparisonFactory(project=project))
    run_out(late)
    free = ComparisonFactory(project=project)

    first = claim(project, anna)
    say(first)

    assert first.comparison == free
    assert claim(project, anna).comparison == late.comparison


def test_a_claim_finds_what_somebody_else_gave_back_after_it_looked(project, anna, monkeypatch):
    late = AssignmentFactory(comparison=ComparisonFactory(project=project))

    def given_back_by_another(project):
        release(late)
        return 0

    monkeypatch.setattr(claiming, "release_expired", given_back_by_another)

    assert claim(project, anna).comparison == late.comparison


def test_expired_leases_are_given_back_in_all_projects():
    expired, running = AssignmentFactory.create_batch(2), AssignmentFactory()
    for late in expired:
        run_out(late)

    assert release_expired() == 2

    assert [taken(late.comparison) for late in expired] == [0, 0]
    assert taken(running.comparison) == 1


def test_renew_keeps_the_lease_alive(project, anna, ben):
    ComparisonFactory(project=project)
    assignment = claim(project, anna)
    run_out(assignment)

    renew(assignment)

    assert claim(project, ben) is None


def test_renew_does_not_revive_what_was_given_back(project, anna):
    ComparisonFactory(project=project)
    assignment = claim(project, anna)
    release(assignment)

    renew(assignment)

    assert Assignment.objects.get().state == AssignmentState.RELEASED


def test_a_lease_that_is_renewed_while_others_look_for_expired_ones_goes_on(
    project, anna, monkeypatch
):
    ComparisonFactory(project=project)
    held = claim(project, anna)
    run_out(held)
    monkeypatch.setattr(leases, "lock_comparisons", lambda *_: renew(held))  # between look and end

    release_expired(project)

    assert held_by(project, anna) == held
    assert taken(held.comparison) == 1


def test_release_frees_the_place_once(project, anna):
    comparison = ComparisonFactory(project=project, overlap=2)
    AssignmentFactory(comparison=comparison)
    assignment = claim(project, anna)

    release(assignment)
    release(assignment)

    assert taken(comparison) == 1


# --- protocols and drafts -----------------------------------------------------------------------
STEPS = Protocol(
    strengths=("slightly better", "better"),
    rationale="required",
    flags=("unsafe",),
    span_labels=("wrong",),
)


@pytest.fixture
def with_steps():
    return ProjectFactory(protocol=to_json(STEPS))


def test_record_stores_all_that_was_said(with_steps):
    assignment = AssignmentFactory(comparison__project=with_steps)
    first, second = assignment.order
    said = {
        "strength": 2,
        "rationale": "It is true.",
        "flags": {str(second): ["unsafe"]},
        "spans": [{"completion": second, "start": 0, "end": 3, "label": "wrong"}],
    }

    judgment = say(assignment, Verdict.RANKING, [[first], [second]], **said)

    judgment.refresh_from_db()
    assert {name: getattr(judgment, name) for name in said} == said
    assert judgment.strength_of == 2


def test_record_refuses_what_the_protocol_does_not_ask_for(with_steps):
    assignment = AssignmentFactory(comparison__project=with_steps, protocol=to_json(STEPS))
    ranking = [[pk] for pk in assignment.order]

    with pytest.raises(NotRecorded, match="Say in a few words why"):
        say(assignment, Verdict.RANKING, ranking, strength=1)

    assert Judgment.objects.count() == 0


def test_record_refuses_highlights_beyond_the_text(with_steps):
    assignment = AssignmentFactory(
        comparison=ComparisonFactory(project=with_steps, texts=["🙂🙂", "no"]),
    )
    spans = [{"completion": assignment.order[0], "start": 1, "end": 3, "label": "wrong"}]

    with pytest.raises(NotRecorded, match="A highlight from 1 to 3 is not within its answer"):
        say(assignment, rationale="So.", spans=spans)


def test_a_verdict_is_checked_by_the_protocol_it_was_shown_with(with_steps, anna):
    anna.memberships.create(project=with_steps)
    ComparisonFactory(project=with_steps)
    assignment = claim(with_steps, anna)
    Project.objects.filter(pk=with_steps.pk).update(protocol={})

    judgment = say(
        assignment, Verdict.RANKING, [[pk] for pk in assignment.order], strength=1, rationale="So."
    )

    assert (judgment.strength, judgment.strength_of) == (1, 2)


def test_a_draft_is_there_until_the_verdict(with_steps, anna):
    anna.memberships.create(project=with_steps)
    ComparisonFactory(project=with_steps)
    assignment = claim(with_steps, anna)

    assert save_draft(assignment, {"rationale": ["So"]})
    assert claim(with_steps, anna).draft == {"rationale": ["So"]}
    say(assignment, rationale="So it is.")

    assert not save_draft(assignment, {"rationale": ["Late"]})
    assert Assignment.objects.get().draft == {}


def test_a_draft_outlives_its_lease_and_keeps_the_order(anna):
    project = ProjectFactory()
    anna.memberships.create(project=project)
    ComparisonFactory(project=project, texts=list("abcdefghi"))
    first = claim(project, anna)
    save_draft(first, {"rank-3": ["1"]})
    Assignment.objects.update(lease_until=timezone.now() - timedelta(minutes=1))
    release_expired(project)

    second = claim(project, anna)

    assert (second.order, second.draft) == (first.order, {"rank-3": ["1"]})
    first.refresh_from_db()
    assert first.draft == {}


def test_an_undo_brings_back_what_was_said(with_steps, anna):
    anna.memberships.create(project=with_steps)
    ComparisonFactory(project=with_steps)
    assignment = claim(with_steps, anna)
    ranking = [[pk] for pk in reversed(assignment.order)]
    say(assignment, Verdict.RANKING, ranking, strength=1, rationale="So.")

    again = undo_last(with_steps, anna)

    assert again.draft == {"choice": ["second-1"], "rationale": ["So."]}


# --- record -----------------------------------------------------------------------------------
def test_record_stores_the_ranking_of_what_was_shown(project, anna):
    comparison = ComparisonFactory(project=project, texts=["a", "b", "c"])
    assignment = claim(project, anna)
    first, second, third = assignment.order

    judgment = say(assignment, Verdict.RANKING, [[third], [first, second]], seconds=4.5)

    assert judgment.ranking == [[third], [first, second]]
    assert (judgment.comparison, judgment.annotator) == (comparison, anna)
    assert judgment.seconds == 4.5
    assert Assignment.objects.get().state == AssignmentState.JUDGED
    assert taken(comparison) == 1


def test_record_twice_is_one_judgment(project, anna):
    ComparisonFactory(project=project)
    assignment = claim(project, anna)

    first = say(assignment)
    second = say(assignment, Verdict.SKIPPED)

    assert first == second
    assert Judgment.objects.get().verdict == Verdict.ALL_BAD


@pytest.mark.parametrize(
    "ranking", [[], [[0]], [[0], [0]], [[0], [1], [1]], [[0, 1], []], [[0], [2]]]
)
def test_record_refuses_rankings_of_other_answers(project, anna, ranking):
    comparison = ComparisonFactory(project=project)
    other = ComparisonFactory()
    ids = [*completion_ids(comparison), *completion_ids(other)]
    assignment = claim(project, anna)

    with pytest.raises(NotRecorded, match="Every answer must be ranked exactly once"):
        say(assignment, Verdict.RANKING, [[ids[i] for i in group] for group in ranking])

    assert Judgment.objects.count() == 0


def test_record_refuses_a_ranking_with_another_verdict(project, anna):
    ComparisonFactory(project=project)
    assignment = claim(project, anna)

    with pytest.raises(NotRecorded, match="Only a ranking ranks the answers"):
        say(assignment, Verdict.ALL_BAD, [assignment.order])


def test_record_refuses_another_payload(project, anna):
    ComparisonFactory(project=project)

    with pytest.raises(NotRecorded, match="about another text than the one you were shown"):
        say(claim(project, anna), payload_hash="0" * 64)


def test_record_refuses_the_disqualified(project, anna):
    ComparisonFactory(project=project)
    assignment = claim(project, anna)
    anna.memberships.update(is_qualified=False)

    with pytest.raises(NotRecorded, match=f"You no longer judge comparisons in {project}"):
        say(assignment)


@pytest.mark.parametrize("verdict", [Verdict.ALL_BAD, Verdict.SKIPPED])
def test_record_revives_a_lease_whose_place_is_still_free(project, anna, ben, verdict):
    comparison = ComparisonFactory(project=project)
    late = claim(project, anna)
    run_out(late)
    release(claim(project, ben))

    judgment = say(late, verdict)

    assert judgment.verdict == verdict
    assert taken(comparison) == (verdict == Verdict.ALL_BAD)


def test_record_refuses_when_the_place_is_gone(project, anna, ben):
    comparison = ComparisonFactory(project=project)
    late = claim(project, anna)
    run_out(late)
    say(claim(project, ben))

    with pytest.raises(NotRecorded, match="others have answered it meanwhile"):
        say(late)

    assert taken(comparison) == 1


def test_record_refuses_an_old_showing_of_what_is_held_anew(project, anna, ben):
    comparison = ComparisonFactory(project=project, overlap=2)
    late = claim(project, anna)
    release(late)
    claim(project, anna)

    with pytest.raises(NotRecorded, match="a second time; answer it there"):
        say(late)

    assert taken(comparison) == 1


# --- skipping ---------------------------------------------------------------------------------
def test_skip_frees_the_place_for_others_only(project, anna, ben):
    comparison = ComparisonFactory(project=project)

    say(claim(project, anna), Verdict.SKIPPED)

    assert taken(comparison) == 0
    assert claim(project, anna) is None
    assert claim(project, ben).comparison == comparison


# --- undo -------------------------------------------------------------------------------------
def test_undo_hands_the_same_comparison_back_in_the_same_order(project, anna):
    comparison = ComparisonFactory(project=project, texts=list("abcdef"))
    before = claim(project, anna)
    say(before)

    after = undo_last(project, anna)

    assert (after.comparison, after.order) == (comparison, before.order)
    assert after.payload_hash == before.payload_hash
    assert claim(project, anna) == after
    assert Judgment.objects.counted().count() == 0
    assert taken(comparison) == 1


def test_undo_then_judge_counts_once(project, anna):
    comparison = ComparisonFactory(project=project, overlap=3)
    say(claim(project, anna))

    say(undo_last(project, anna), Verdict.RANKING, [completion_ids(comparison)])

    assert [judgment.verdict for judgment in Judgment.objects.counted()] == [Verdict.RANKING]
    assert taken(comparison) == 1


def test_undo_releases_what_is_held(project, anna):
    ComparisonFactory.create_batch(2, project=project)
    judged = claim(project, anna)
    say(judged)
    held = claim(project, anna)

    assert undo_last(project, anna).comparison == judged.comparison

    assert taken(held.comparison) == 0
    assert taken(judged.comparison) == 1


def test_undo_goes_back_one_by_one(project, anna):
    ComparisonFactory.create_batch(2, project=project)
    first, _ = (say(claim(project, anna)).comparison for _ in range(2))

    undo_last(project, anna)

    assert undo_last(project, anna).comparison == first
    assert undo_last(project, anna) is None


def test_undo_of_a_judgment_that_is_not_the_last_one_does_nothing(project, anna):
    ComparisonFactory.create_batch(2, project=project)
    first, second = (say(claim(project, anna)) for _ in range(2))

    assert undo_last(project, anna, judgment_id=first.pk) is None

    assert last_judgment(project, anna) == second
    assert Judgment.objects.counted().count() == 2


def test_undo_of_a_skip_takes_a_place_again(project, anna):
    comparison = ComparisonFactory(project=project)
    say(claim(project, anna), Verdict.SKIPPED)

    assert undo_last(project, anna).comparison == comparison
    assert taken(comparison) == 1


def test_undo_of_a_skip_says_when_the_place_is_gone(project, anna, ben):
    comparison = ComparisonFactory(project=project)
    say(claim(project, anna), Verdict.SKIPPED)
    say(claim(project, ben))
    held_after = ComparisonFactory(project=project)
    claim(project, anna)

    with pytest.raises(NotUndone, match="Others have answered the comparison that you left"):
        undo_last(project, anna)

    assert (taken(comparison), taken(held_after)) == (1, 1)
    assert Judgment.objects.filter(voided=None).count() == 2


def test_undo_steps_over_what_others_have_answered(project, anna, ben):
    first = ComparisonFactory(project=project)
    judged = say(claim(project, anna))
    ComparisonFactory(project=project)
    skip = say(claim(project, anna), Verdict.SKIPPED)
    say(claim(project, ben))

    with pytest.raises(NotUndone, match="Undo once more for what you said before it"):
        undo_last(project, anna, judgment_id=skip.pk)

    assert progress(project, anna, None).last_judgment == judged.pk
    assert undo_last(project, anna, judgment_id=judged.pk).comparison == first
    assert undo_last(project, anna, judgment_id=judged.pk) is None  # sent twice
    skip.refresh_from_db()
    assert skip.voided is None


def test_what_is_undone_was_shown_before_and_its_time_is_not_known(project, anna):
    ComparisonFactory.create_batch(2, project=project)
    say(claim(project, anna))
    first_time = claim(project, anna)

    again = undo_last(project, anna)

    assert (again.was_shown, was_taken_back(again)) == (True, True)
    assert (first_time.was_shown, was_taken_back(first_time)) == (False, False)


# --- what cannot be ranked --------------------------------------------------------------------
@pytest.fixture
def may_be_unrankable(project):
    project.protocol = to_json(FREE)
    project.save()


@pytest.mark.usefixtures("may_be_unrankable")
def test_unrankable_is_work_done_and_leaves_its_place_to_somebody_else(project, anna, ben):
    comparison = ComparisonFactory(project=project, overlap=2)

    say(claim(project, anna), Verdict.UNRANKABLE)

    assert Assignment.objects.get().state == AssignmentState.JUDGED
    assert progress(project, anna, None).done == 1
    assert list(Judgment.objects.counted()) == []
    assert (taken(comparison), claim(project, anna)) == (0, None)
    assert claim(project, ben).comparison == comparison


@pytest.mark.usefixtures("may_be_unrankable")
def test_what_as_many_as_were_to_judge_it_call_unrankable_is_held_for_a_reviewer(
    project, anna, ben
):
    comparison = ComparisonFactory(project=project, overlap=2)

    say(claim(project, anna), Verdict.UNRANKABLE)
    assert Comparison.objects.get().hold == ""
    say(claim(project, ben), Verdict.UNRANKABLE)

    held = Comparison.objects.get(pk=comparison.pk)
    assert held.hold == "As many people as were to judge this say that it cannot be ranked."
    assert (held.taken, claim(project, MembershipFactory(project=project).user)) == (0, None)


@pytest.mark.usefixtures("may_be_unrankable")
def test_unrankable_that_is_taken_back_is_asked_again(project, anna):
    ComparisonFactory(project=project)
    say(claim(project, anna), Verdict.UNRANKABLE)

    again = undo_last(project, anna)

    comparison = Comparison.objects.get()
    assert (comparison.hold, comparison.taken, again.comparison) == ("", 1, comparison)


@pytest.mark.usefixtures("may_be_unrankable")
@pytest.mark.parametrize(
    ("before", "after", "places", "is_held"),
    [
        (Verdict.UNRANKABLE, Verdict.ALL_BAD, 1, False),
        (Verdict.ALL_BAD, Verdict.UNRANKABLE, 0, True),
        (Verdict.UNRANKABLE, Verdict.SKIPPED, 0, False),
        (Verdict.SKIPPED, Verdict.UNRANKABLE, 0, True),
    ],
)
def test_a_correction_moves_the_place_of_what_cannot_be_ranked(
    project, anna, before, after, places, is_held
):
    ComparisonFactory(project=project)
    held = claim(project, anna)
    said = read({"choice": ["skip" if after == Verdict.SKIPPED else after]}, FREE, held.order)

    correct(say(held, before), said, payload_hash=held.payload_hash)

    comparison = Comparison.objects.get()
    assert (comparison.taken, bool(comparison.hold)) == (places, is_held)


@pytest.mark.usefixtures("may_be_unrankable")
def test_whoever_calls_a_known_answer_unrankable_is_wrong_and_holds_nothing(project, anna):
    known = GoldFactory(project=project)
    Project.objects.update(qualification_items=1)
    project.refresh_from_db()

    say(claim(project, anna), Verdict.UNRANKABLE)

    assert anna.memberships.get().qualification == Qualification.FAILED
    assert Comparison.objects.get(pk=known.pk).hold == ""


def test_undo_leaves_others_and_other_projects_alone(project, anna, ben):
    make_judgment(ComparisonFactory(project=project), ben)
    make_judgment(ComparisonFactory(), anna)

    assert undo_last(project, anna) is None


def test_a_withdrawn_showing_cannot_be_judged(project, anna):
    ComparisonFactory(project=project)
    assignment = claim(project, anna)
    say(assignment)
    undo_last(project, anna)

    with pytest.raises(NotRecorded, match="You took this verdict back"):
        say(assignment)


# --- known answers ----------------------------------------------------------------------------
def test_a_share_of_the_claims_hands_out_known_answers_which_take_no_place(project, anna):
    project.gold_percent = 25
    ComparisonFactory.create_batch(32, project=project)
    GoldFactory.create_batch(20, project=project)
    random.seed(1)

    golds = 0
    for _ in range(32):
        judgment = say(claim(project, anna))
        golds += judgment.comparison.purpose == Purpose.GOLD

    assert 3 <= golds <= 13  # of 8 expected, ± 2 standard deviations
    assert not Comparison.objects.filter(purpose=Purpose.GOLD, taken__gt=0).exists()


def test_everybody_gets_every_known_answer_once(project, anna, ben):
    project.gold_percent = 50
    known = GoldFactory(project=project)
    ComparisonFactory.create_batch(8, project=project, overlap=2)
    random.seed(1)

    for annotator in (anna, ben):
        while assignment := claim(project, annotator):
            say(assignment)

    assert {judgment.annotator for judgment in known.judgments.all()} == {anna, ben}
    assert known.judgments.count() == 2


def test_nobody_is_asked_the_known_answer_to_what_they_have_judged(project, anna, ben):
    project.gold_percent = 50
    judged = ComparisonFactory(project=project)
    make_judgment(judged, anna, [0], [1])
    make_gold(judged, [[pk] for pk in completion_ids(judged)])
    ComparisonFactory.create_batch(8, project=project, overlap=2)
    random.seed(1)

    for annotator in (anna, ben):
        while assignment := claim(project, annotator):
            say(assignment)

    asked = Assignment.objects.filter(comparison__purpose=Purpose.GOLD)
    assert [assignment.annotator for assignment in asked] == [ben]


def test_without_real_work_nobody_is_asked_known_answers(project, anna):
    project.gold_percent = 50
    GoldFactory(project=project)

    assert claim(project, anna) is None
    assert queue_state(project, anna) == QueueState("nothing_imported")


@pytest.mark.parametrize("leave", [release, lambda assignment: say(assignment, Verdict.SKIPPED)])
def test_a_known_answer_that_is_left_gives_no_place_back(project, anna, leave):
    held = AssignmentFactory(comparison=GoldFactory(project=project), annotator=anna)

    leave(held)

    assert taken(held.comparison) == 0


def test_the_verdict_on_a_known_answer_can_be_taken_back(project, anna):
    known = GoldFactory(project=project)
    held = AssignmentFactory(comparison=known, annotator=anna)
    say(held)

    again = undo_last(project, anna)

    assert (again.comparison, again.order) == (known, held.order)
    assert taken(known) == 0


# --- repetitions ------------------------------------------------------------------------------
@pytest.fixture
def repeating(project, anna, monkeypatch):
    """The project asks as often as it can again what lies two judgments back."""
    monkeypatch.setattr("annotator.assignment.finding.REPEAT_AFTER", 2)
    monkeypatch.setattr("annotator.assignment.claiming.random.random", lambda: 0.0)
    project.repeat_percent = 50
    return project


def test_what_was_judged_a_while_ago_is_asked_again_once_and_takes_no_place(repeating, anna):
    comparisons = ComparisonFactory.create_batch(3, project=repeating)
    for comparison in comparisons:
        make_judgment(comparison, anna, [0], [1])
    ComparisonFactory(project=repeating)

    again = claim(repeating, anna)
    said = say(again)
    following = claim(repeating, anna)

    assert (again.comparison, again.is_repeat, said.is_repeat) == (comparisons[0], True, True)
    assert taken(comparisons[0]) == 1
    assert not following.is_repeat
    assert set(Judgment.objects.counted()) == {c.judgments.first() for c in comparisons}


def test_known_answers_and_skips_are_not_repeated(repeating, anna):
    gold = GoldFactory(project=repeating)
    say(AssignmentFactory(comparison=gold, annotator=anna))
    skipped, *others = ComparisonFactory.create_batch(3, project=repeating)
    make_judgment(skipped, anna, verdict=Verdict.SKIPPED)
    for comparison in others:
        make_judgment(comparison, anna)
    ComparisonFactory(project=repeating)

    assert not claim(repeating, anna).is_repeat


def test_a_repetition_that_is_left_or_undone_changes_no_place(repeating, anna):
    comparisons = ComparisonFactory.create_batch(3, project=repeating, overlap=2)
    for comparison in comparisons:
        make_judgment(comparison, anna)
    ComparisonFactory(project=repeating)
    release(claim(repeating, anna))
    say(claim(repeating, anna), Verdict.SKIPPED)

    again = undo_last(repeating, anna)
    say(again)

    assert again.is_repeat
    assert [taken(comparison) for comparison in comparisons] == [1, 1, 1]


def test_a_repetition_that_comes_late_is_recorded_without_a_place(repeating, anna):
    comparisons = ComparisonFactory.create_batch(3, project=repeating)
    for comparison in comparisons:
        make_judgment(comparison, anna)
    ComparisonFactory(project=repeating)
    late = claim(repeating, anna)
    run_out(late)
    release_expired(repeating)

    assert say(late).is_repeat
    assert taken(late.comparison) == 1


# --- quotas and pauses --------------------------------------------------------------------------
def test_a_quota_ends_what_is_handed_out_but_not_what_is_on_the_screen(project, anna):
    anna.memberships.update(quota_total=2)
    ComparisonFactory.create_batch(4, project=project)
    say(claim(project, anna))
    say(claim(project, anna), Verdict.SKIPPED)  # counts for nothing
    last = claim(project, anna)

    assert claim(project, anna) == last
    say(last)

    assert claim(project, anna) is None
    assert queue_state(project, anna) == QueueState("quota_reached")
    assert Comparison.objects.filter(taken=1).count() == 2


def test_a_daily_quota_says_when_it_goes_on(project, anna):
    anna.memberships.update(quota_per_day=1)
    yesterday, *_ = ComparisonFactory.create_batch(3, project=project)
    old = make_judgment(yesterday, anna)
    Judgment.objects.filter(pk=old.pk).update(created=timezone.now() - timedelta(days=1))

    say(claim(project, anna))

    assert claim(project, anna) is None
    state = queue_state(project, anna)
    assert state.reason == "daily_quota_reached"
    assert timedelta(0) < state.until - timezone.now() <= timedelta(days=1)


def test_a_late_verdict_does_not_exceed_a_quota(project, anna):
    anna.memberships.update(quota_total=1)
    ComparisonFactory(project=project)
    late = claim(project, anna)
    release(late)
    ComparisonFactory(project=project, priority=1)
    held = claim(project, anna)

    with pytest.raises(NotRecorded, match="you were handed another one"):
        say(late)
    say(held)
    with pytest.raises(NotRecorded, match="your quota is reached"):
        say(late)

    assert Judgment.objects.count() == 1


@pytest.mark.parametrize("quota", ["quota_total", "quota_per_day"])
def test_a_correction_does_not_exceed_a_quota_together_with_what_is_on_the_screen(
    project, anna, quota
):
    anna.memberships.update(**{quota: 2})
    ComparisonFactory.create_batch(3, project=project)
    skip = say(claim(project, anna), Verdict.SKIPPED)
    say(claim(project, anna))
    held = claim(project, anna)
    said = read({"choice": ["all_bad"]}, Protocol(), held.order)

    with pytest.raises(NotRecorded, match="or have in hand, as many as you were asked for"):
        correct(skip, said, payload_hash=skip.assignment.payload_hash)
    release(held)
    correct(skip, said, payload_hash=skip.assignment.payload_hash)

    assert claim(project, anna) is None
    assert Judgment.objects.filter(voided=None).count() == 2


def test_a_paused_project_hands_out_nothing_new(project, anna, ben):
    ComparisonFactory.create_batch(3, project=project)
    held = claim(project, anna)
    project.paused = timezone.now()
    project.save()

    assert claim(project, ben) is None
    assert queue_state(project, ben) == QueueState("paused")
    assert claim(project, anna) == held  # what is on the screen stays there
    assert say(held).verdict == Verdict.ALL_BAD
    assert claim(project, anna) is None


# --- holding back -------------------------------------------------------------------------------
def test_nobody_is_asked_what_is_held_back(project, anna):
    comparison = ComparisonFactory(project=project)
    project.comparisons.all().hold_back("Two answers to another question.")

    assert claim(project, anna) is None
    assert queue_state(project, anna) == QueueState("all_done")
    assert project.comparisons.all().ask_all_the_same() == 1
    assert claim(project, anna).comparison == comparison


def test_what_was_on_the_screen_when_it_was_held_back_may_be_answered(project, anna):
    ComparisonFactory(project=project)
    late = claim(project, anna)
    project.comparisons.all().hold_back("Check the source.")
    run_out(late)
    release_expired(project)

    assert say(late).verdict == Verdict.ALL_BAD


def test_a_hold_ends_by_itself_at_the_next_claim(project, anna):
    over, later = ComparisonFactory.create_batch(2, project=project)
    now = timezone.now()
    Comparison.objects.filter(pk=over.pk).hold_back("Until noon.", now)
    Comparison.objects.filter(pk=later.pk).hold_back("Until tomorrow.", now + timedelta(days=1))

    assert claim(project, anna).comparison == over
    assert end_holds(project) == 0
    assert list(project.comparisons.held()) == [later]


# --- to somebody else -----------------------------------------------------------------------------
def test_what_is_moved_is_kept_for_the_other_who_gets_it_next(project, anna, ben):
    comparisons = ComparisonFactory.create_batch(3, project=project)
    before, moved = claim(project, ben), claim(project, anna)

    waiting = move(moved, ben)

    assert (waiting.comparison, waiting.state) == (moved.comparison, AssignmentState.WAITING)
    assert claim(project, ben) == before
    say(before)
    assert claim(project, ben) == waiting
    assert held_by(project, ben) == waiting
    say(waiting)
    assert sorted(taken(comparison) for comparison in comparisons) == [0, 1, 1]
    with pytest.raises(NotRecorded, match="others have answered it meanwhile"):
        say(moved)


def test_what_is_moved_is_given_back_if_the_other_does_not_come(project, anna, ben):
    ComparisonFactory(project=project)
    waiting = move(claim(project, anna), ben)
    assert claim(project, anna) is None

    run_out(waiting)

    assert claim(project, anna).comparison == waiting.comparison


def test_what_is_moved_comes_after_the_verdict_that_is_being_given(project, anna, ben):
    ComparisonFactory.create_batch(3, project=project)
    say(claim(project, ben))
    waiting = move(claim(project, anna), ben)

    assert claim(project, ben, has_judged=True) == waiting


def test_nothing_is_moved_to_whoever_has_as_many_as_they_were_asked_for(project, anna, ben):
    ComparisonFactory.create_batch(4, project=project)
    ben.memberships.update(quota_total=2)
    say(claim(project, ben))
    claim(project, ben)
    held = claim(project, anna)

    with pytest.raises(NotMoved, match="has judged, or has in hand, as many as they were asked"):
        move(held, ben)

    assert held_by(project, anna) == held


def test_what_is_moved_waits_until_tomorrow_where_that_is_all_for_today(project, anna, ben):
    ComparisonFactory.create_batch(3, project=project)
    ben.memberships.update(quota_per_day=1)
    say(claim(project, ben))
    waiting = move(claim(project, anna), ben)

    assert claim(project, ben) is None
    ben.memberships.update(quota_per_day=2)
    assert claim(project, ben) == waiting


def test_what_was_moved_goes_back_where_a_quota_leaves_no_room_for_it(project, anna, ben):
    ComparisonFactory.create_batch(3, project=project)
    say(claim(project, ben))
    waiting = move(claim(project, anna), ben)
    ben.memberships.update(quota_total=1)

    assert claim(project, ben) is None
    waiting.refresh_from_db()
    assert waiting.state == AssignmentState.RELEASED
    assert taken(waiting.comparison) == 0


def test_what_cannot_be_moved_stays_with_a_reason(project, anna, ben):
    comparison = ComparisonFactory(project=project, overlap=2)
    make_judgment(comparison, ben)
    held = claim(project, anna)

    with pytest.raises(NotMoved, match="has it already, or has answered or skipped it"):
        move(held, ben)
    with pytest.raises(NotMoved, match="is not handed comparisons here"):
        move(held, UserFactory())
    say(held)
    with pytest.raises(NotMoved, match="no longer has it"):
        move(held, MembershipFactory(project=project).user)

    assert taken(comparison) == 2


# --- progress and state -----------------------------------------------------------------------
def test_progress_counts_what_is_done_held_and_left_for_me(project, anna, ben):
    comparisons = ComparisonFactory.create_batch(5, project=project)
    make_judgment(comparisons[0], ben)  # none of mine
    make_judgment(comparisons[1], anna)
    skip = make_judgment(comparisons[2], anna, verdict=Verdict.SKIPPED)
    held = claim(project, anna)

    expected = Progress(done=1, total=3, is_capped=False, last_judgment=skip.pk)
    assert progress(project, anna, held) == expected


def test_progress_does_not_count_without_end(project, anna, monkeypatch):
    monkeypatch.setattr("annotator.assignment.standing.COUNT_LIMIT", 2)
    ComparisonFactory.create_batch(4, project=project)

    expected = Progress(done=0, total=2, is_capped=True, last_judgment=None)
    assert progress(project, anna, None) == expected


@pytest.mark.parametrize(("verdict", "done"), [(Verdict.ALL_BAD, 13), (Verdict.SKIPPED, 12)])
def test_progress_goes_on_from_what_was_shown_with_the_verdict(project, anna, verdict, done):
    judged = make_judgment(ComparisonFactory(project=project), anna, verdict=verdict)
    held = AssignmentFactory(comparison=ComparisonFactory(project=project), annotator=anna)

    now = progress(project, anna, held, judged=judged, shown_before="12/1012+")

    assert now == Progress(done, total=1012, is_capped=True, last_judgment=judged.pk)
    assert now.shown == f"{done}/1012+"


@pytest.mark.parametrize(("shown_before", "shown"), [("0/1", "1/2"), ("9/1012+", "10/1012+")])
def test_progress_is_due_to_be_counted_at_the_end_and_every_tenth_time(
    project, anna, shown_before, shown
):
    judged = make_judgment(ComparisonFactory(project=project), anna)
    held = AssignmentFactory(comparison=ComparisonFactory(project=project), annotator=anna)

    now = progress(project, anna, held, judged=judged, shown_before=shown_before)

    assert (now.shown, now.is_due) == (shown, True)


@pytest.mark.parametrize("shown_before", ["many", ""])
def test_progress_is_counted_if_it_is_unknown(project, anna, shown_before):
    judged = make_judgment(ComparisonFactory(project=project), anna)
    held = AssignmentFactory(comparison=ComparisonFactory(project=project), annotator=anna)

    now = progress(project, anna, held, judged=judged, shown_before=shown_before)

    assert now == Progress(done=1, total=2, is_capped=False, last_judgment=judged.pk)


@pytest.mark.parametrize("verdict", [Verdict.ALL_BAD, Verdict.SKIPPED])
def test_progress_does_not_tell_known_answers_and_repetitions_from_the_rest(verdict):
    totals = []
    for project in ProjectFactory.create_batch(2, gold_percent=10):
        anna = MembershipFactory(project=project).user
        ComparisonFactory.create_batch(5, project=project)
        make_judgment(ComparisonFactory(project=project), anna)
        asked = GoldFactory(project=project) if totals else ComparisonFactory(project=project)
        held = AssignmentFactory(comparison=asked, annotator=anna)
        if totals:
            ComparisonFactory(project=project)  # what the other one has on the screen is open here
        before = progress(project, anna, held)
        say(held, verdict)
        after = progress(project, anna, claim(project, anna))
        totals.append([(before.done, before.total), (after.done, after.total)])

    assert totals[0] == totals[1] == [(1, 7), (2, 7) if verdict == Verdict.ALL_BAD else (1, 6)]


def test_progress_shows_more_to_come_though_known_answers_were_more_than_what_is_left(anna):
    project = anna.memberships.get().project
    project.gold_percent = 50
    for known in GoldFactory.create_batch(3, project=project):
        make_judgment(known, anna)
    held = AssignmentFactory(comparison=ComparisonFactory(project=project), annotator=anna)

    shown = progress(project, anna, held)

    assert (shown.done, shown.total) == (3, 4)


def test_progress_promises_no_more_than_the_quota(project, anna):
    anna.memberships.update(quota_total=3)
    ComparisonFactory.create_batch(5, project=project)

    assert progress(project, anna, claim(project, anna)).total == 3


def test_queue_state_says_when_nothing_is_imported(project, anna):
    assert queue_state(project, anna) == QueueState("nothing_imported")


def test_queue_state_says_when_there_is_something(project, anna):
    ComparisonFactory(project=project)

    assert queue_state(project, anna) == QueueState("available")


def test_queue_state_says_until_when_others_hold_the_rest(project, anna):
    comparison = ComparisonFactory(project=project)
    held = AssignmentFactory(comparison=comparison)

    assert queue_state(project, anna) == QueueState("held_by_others", held.lease_until)


def test_queue_state_says_that_the_rest_is_kept_for_somebody_else(project, anna, ben):
    ComparisonFactory(project=project)
    kept = move(claim(project, ben), MembershipFactory(project=project).user)

    assert queue_state(project, anna) == QueueState("held_by_others", kept.lease_until)


def test_what_came_free_after_a_look_is_not_all_done(project, anna):
    ComparisonFactory(project=project)

    assert why_nothing(project, anna) == QueueState("held_by_others")


def test_queue_state_says_until_when_the_rest_is_held_back(project, anna):
    rest = ComparisonFactory.create_batch(3, project=project)
    tomorrow = timezone.now() + timedelta(days=1)
    for comparison, days in zip(rest, (0, 1, None), strict=True):
        until = None if days is None else tomorrow + timedelta(days=days)
        Comparison.objects.filter(pk=comparison.pk).hold_back("Later.", until)

    assert queue_state(project, anna) == QueueState("held_back", tomorrow)


def test_queue_state_says_when_all_is_done(project, anna, ben):
    mine, others = ComparisonFactory.create_batch(2, project=project, overlap=2)
    make_judgment(mine, anna)
    AssignmentFactory(comparison=mine, annotator=ben)  # nothing I could ever get
    make_judgment(others, anna, verdict=Verdict.SKIPPED)

    assert queue_state(project, anna) == QueueState("all_done")


def test_shown_follows_the_order_drawn(project, anna):
    ComparisonFactory(project=project, texts=list("abcdefghi"))
    assignment = claim(project, anna)

    assert [completion.pk for completion in shown(assignment)] == assignment.order

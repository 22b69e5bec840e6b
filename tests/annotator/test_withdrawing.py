from importlib import import_module
from pathlib import Path

import pytest
from django.apps import apps

from annotator import assignment as queue
from annotator import migrations, withdrawing
from annotator.audit import AuditEntry
from annotator.exporting import create_export
from annotator.models import (
    Assignment,
    Comparison,
    ExportAnnotator,
    Judgment,
    Role,
    Verdict,
    Withdrawal,
)
from annotator.reviewing import rule, ruling_on
from annotator.withdrawing import go_on_with, known_here, withdraw
from tests.factories import (
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
    return ProjectFactory(overlap=2)


@pytest.fixture
def admin(project):
    return MembershipFactory(project=project, role=Role.ADMIN).user


@pytest.fixture
def anna(project):
    return MembershipFactory(project=project, user__username="anna").user


def places(project):
    """Of each comparison: places taken, and what explains them."""
    return [
        (
            comparison.taken,
            comparison.assignments.filter(state="live").count()
            + comparison.judgments.counted().count(),
        )
        for comparison in Comparison.objects.filter(project=project).order_by("pk")
    ]


def test_all_that_somebody_said_is_voided_and_nothing_is_lost(project, admin, anna):
    ranked, bad, skipped = ComparisonFactory.create_batch(3, project=project)
    make_judgment(ranked, anna, [0], [1])
    make_judgment(bad, anna)
    make_judgment(skipped, anna, verdict=Verdict.SKIPPED)
    make_judgment(ranked, UserFactory(), [1], [0])
    ComparisonFactory(project=project)
    queue.claim(project, anna)

    withdrawal = withdraw(project, anna, admin)

    assert places(project) == [(1, 1), (0, 0), (0, 0), (0, 0)]
    assert Judgment.objects.filter(annotator=anna, voided=None).count() == 0
    assert Judgment.objects.count() == 4
    assert (withdrawal.n_judgments, withdrawal.created_by) == (3, admin)
    assert withdrawal.finished is not None


def test_a_repeat_gives_no_place_back(project, admin, anna):
    comparison = ComparisonFactory(project=project)
    make_judgment(comparison, anna, [0], [1])
    shown = Assignment.objects.get()
    shown.pk, shown.is_repeat = None, True
    shown.save()
    again = Judgment.objects.get()
    again.pk, again.is_repeat, again.assignment = None, True, shown
    again.save()

    withdraw(project, anna, admin)

    assert places(project) == [(0, 0)]
    assert not Judgment.objects.filter(voided=None).exists()


def test_who_was_withdrawn_is_handed_nothing_and_can_send_nothing(project, admin, anna):
    ComparisonFactory.create_batch(2, project=project)
    held = queue.claim(project, anna)

    withdraw(project, anna, admin)

    assert queue.claim(project, anna) is None
    with pytest.raises(queue.NotRecorded, match="no longer judge"):
        queue.record(held, Verdict.ALL_BAD, payload_hash=held.payload_hash)


def test_who_is_qualified_again_is_asked_again(project, admin, anna):
    comparison = ComparisonFactory(project=project)
    make_judgment(comparison, anna, [0], [1])
    withdraw(project, anna, admin)

    project.memberships.update(is_qualified=True)

    assert queue.claim(project, anna).comparison == comparison


def test_a_long_withdrawal_is_done_in_parts(project, admin, anna, monkeypatch):
    monkeypatch.setattr("annotator.assignment.verdicts.VOID_BATCH", 2)
    monkeypatch.setattr(withdrawing, "VOIDED_AT_ONCE", 4)
    for comparison in ComparisonFactory.create_batch(5, project=project):
        make_judgment(comparison, anna, [0], [1])

    first = withdraw(project, anna, admin)
    second = withdraw(project, anna, admin)

    assert (first.n_judgments, first.finished) == (4, None)
    assert (second.pk, second.n_judgments, second.finished is None) == (first.pk, 5, False)
    assert places(project) == [(0, 0)] * 5


def test_the_worker_goes_on_with_a_withdrawal_whose_page_was_closed(
    project, admin, anna, monkeypatch
):
    monkeypatch.setattr("annotator.assignment.verdicts.VOID_BATCH", 2)
    monkeypatch.setattr(withdrawing, "VOIDED_AT_ONCE", 2)
    for comparison in ComparisonFactory.create_batch(7, project=project):
        make_judgment(comparison, anna, [0], [1])
    withdraw(project, anna, admin)

    withdrawing.go_on()

    found = Withdrawal.objects.get()
    assert (found.n_judgments, found.finished is None, found.created_by) == (7, False, admin)


def test_a_withdrawal_that_the_worker_has_finished_is_not_begun_again(project, admin, anna):
    make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    first = withdraw(project, anna, admin)

    assert withdraw(project, anna, admin) == first
    assert AuditEntry.objects.filter(action="withdrew").count() == 1


def test_whoever_is_qualified_again_meanwhile_keeps_what_they_say(project, admin, anna):
    comparison = ComparisonFactory(project=project)
    withdrawal = withdraw(project, anna, admin)
    project.memberships.update(is_qualified=True)
    make_judgment(comparison, anna, [0], [1])
    ComparisonFactory(project=project)
    held = queue.claim(project, anna)

    go_on_with(withdrawal)

    assert Judgment.objects.get().voided is None
    assert queue.held_by(project, anna) == held


def test_other_projects_and_other_people_keep_their_votes(project, admin, anna):
    here, there = ComparisonFactory(project=project), ComparisonFactory()
    make_judgment(here, UserFactory(), [0], [1])
    make_judgment(there, anna, [0], [1])

    withdraw(project, anna, admin)

    assert Judgment.objects.filter(voided=None).count() == 2
    assert there.project.memberships.get(user=anna).is_qualified
    assert Withdrawal.objects.get().n_judgments == 0


def test_rulings_end_with_their_author(project, admin, anna):
    comparison = ComparisonFactory(project=project)
    rule(comparison, anna, Verdict.ALL_BAD, explanation="Both lie.", is_example=True)

    withdraw(project, anna, admin)

    assert ruling_on(comparison) is None
    assert Comparison.objects.open().get() == comparison


def test_an_export_knows_whose_votes_it_has(project, admin, anna):
    ben = UserFactory()
    for comparison in ComparisonFactory.create_batch(2, project=project):
        make_judgment(comparison, anna, [0], [1])
    make_judgment(comparison, ben)
    first = create_export(project)

    withdraw(project, anna, admin)
    make_judgment(comparison, UserFactory(username="cleo"), [0], [1])
    second = create_export(project)

    rows = ExportAnnotator.objects.order_by("export", "pk")
    assert list(rows.values_list("export", "annotator__username", "n_judgments")) == [
        (first.pk, "anna", 2),
        (first.pk, ben.username, 1),
        (second.pk, ben.username, 1),
        (second.pk, "cleo", 1),
    ]


def test_exports_of_before_a_withdrawal_are_marked(project, admin, anna):
    comparison = ComparisonFactory(project=project, overlap=3)
    make_judgment(comparison, UserFactory(), [0], [1])
    before = create_export(project)
    make_judgment(comparison, anna, [0], [1])
    tainted = create_export(project)
    withdraw(project, anna, admin)
    project.memberships.update(is_qualified=True)
    make_judgment(comparison, anna, [1], [0])
    after = create_export(project)

    marked = project.exports.with_taint().order_by("pk")

    assert list(marked) == [before, tainted, after]
    assert [export.is_tainted for export in marked] == [False, True, False]


def test_only_members_and_voters_are_known(project, anna):
    voter = UserFactory()
    make_judgment(ComparisonFactory(project=project), voter, [0], [1])
    project.memberships.filter(user=voter).delete()
    UserFactory()

    assert set(known_here(project)) == {anna, voter}


def test_exports_of_before_learn_whose_votes_they_have(project, admin, anna):
    comparison = ComparisonFactory(project=project)
    make_judgment(comparison, anna, [0], [1])
    make_judgment(ComparisonFactory(project=project, purpose="evaluation"), admin, [0], [1])
    export = create_export(project)
    withdraw(project, anna, admin)
    make_judgment(comparison, UserFactory(), [0], [1])
    ExportAnnotator.objects.all().delete()

    (file,) = Path(migrations.__file__).parent.glob("*_review_and_invitations.py")
    migration = import_module(f"annotator.migrations.{file.stem}")
    migration.name_annotators_of_exports(apps, None)

    rows = ExportAnnotator.objects.values_list("export", "annotator", "n_judgments")
    assert list(rows) == [(export.pk, anna.pk, 1)]


def test_known_answers_have_no_place_to_give_back_and_what_waits_is_released(project, anna, admin):
    known, first, second = (
        GoldFactory(project=project),
        *ComparisonFactory.create_batch(2, project=project),
    )
    make_judgment(known, anna, [0], [1])
    make_judgment(first, anna, [0], [1])
    queue.move(queue.hand_out(second, MembershipFactory(project=project).user), anna)

    withdraw(project, anna, admin)

    assert not Judgment.objects.filter(voided=None).exists()
    assert set(Comparison.objects.values_list("taken", flat=True)) == {0}
    assert set(Assignment.objects.values_list("state", flat=True)) == {"withdrawn", "released"}

"""Rows and what the database itself refuses."""

from collections import Counter

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from annotator.models import (
    Assignment,
    AssignmentState,
    Comparison,
    Export,
    Judgment,
    Project,
    Purpose,
    Split,
    Verdict,
    canonical_key,
    comparison_key,
    key_of_texts,
)
from tests.factories import (
    AssignmentFactory,
    ComparisonFactory,
    CompletionFactory,
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    UserFactory,
    make_judgment,
)

pytestmark = pytest.mark.django_db


# --- projects ---------------------------------------------------------------------------------
def test_latest_round_is_the_last_one_with_comparisons():
    project, other = ProjectFactory(), ProjectFactory()
    for number in (1, 3, 2):
        ComparisonFactory(project=project, round_number=number)

    assert (project.latest_round(), other.latest_round()) == (3, 1)


# --- keys and splits --------------------------------------------------------------------------
def test_canonical_key_depends_on_content_only():
    assert canonical_key({"a": 1, "b": "é"}) == canonical_key({"b": "é", "a": 1})
    assert canonical_key(["ab", "c"]) != canonical_key(["a", "bc"])


def test_the_key_of_texts_is_their_canonical_key():
    text = "".join(map(chr, range(0x800))) + "\u2028\ufeff\uffff\U0001f600"
    messages = [{"role": Purpose.GOLD, "content": text}, {"content": 'é/"\\', "role": ""}]

    assert key_of_texts(messages) == canonical_key(messages)


def test_comparison_key_ignores_order_and_outer_white_space():
    key = comparison_key("prompt", Purpose.TRAINING, ["a", "b"])

    assert comparison_key("prompt", Purpose.TRAINING, ["b ", "\na"]) == key
    assert comparison_key("prompt", Purpose.EVALUATION, ["a", "b"]) != key


@pytest.mark.parametrize("percent", [1, 25, 90])
def test_split_holds_out_about_the_share_asked_for(percent):
    project = Project(held_out_percent=percent)

    splits = Counter(project.split_of(canonical_key(n)) for n in range(4000))

    assert splits[Split.TEST] / 4000 == pytest.approx(percent / 100, abs=0.025)


# --- who sees what ----------------------------------------------------------------------------
def test_projects_are_seen_by_role():
    project = ProjectFactory()
    annotator, reviewer, admin = (
        MembershipFactory(project=project, role=role).user
        for role in ("annotator", "reviewer", "admin")
    )
    elsewhere = MembershipFactory(role="admin").user

    def seen_by(user):
        querysets = [
            Project.objects.visible_to(user),
            Project.objects.reviewed_by(user),
            Project.objects.administered_by(user),
        ]
        return [project in queryset for queryset in querysets]

    assert seen_by(annotator) == [True, False, False]
    assert seen_by(reviewer) == [True, True, False]
    assert seen_by(admin) == [True, True, True]
    assert seen_by(elsewhere) == [False, False, False]
    assert seen_by(UserFactory(is_superuser=True)) == [True, True, True]


# --- comparisons ------------------------------------------------------------------------------
def test_create_from_keeps_the_order_given():
    prompt = PromptFactory(project__overlap=4)
    completions = [CompletionFactory(prompt=prompt, text=text) for text in ("c", "a", "b")]

    comparison = Comparison.objects.create_from(completions, round_number=3, origin="run-7")

    assert [entry.completion for entry in comparison.entries.all()] == completions
    assert (comparison.overlap, comparison.round_number, comparison.origin) == (4, 3, "run-7")


def test_create_from_refuses_what_was_compared_already():
    prompt = PromptFactory()
    for texts in (["a", "b"], ["b", "a "]):
        last = Comparison.objects.create_from(
            [CompletionFactory(prompt=prompt, text=t) for t in texts]
        )

    assert last is None
    assert Comparison.objects.count() == 1


def test_create_from_allows_the_same_texts_for_evaluation():
    completions = CompletionFactory.create_batch(2, prompt=PromptFactory())

    Comparison.objects.create_from(completions)

    assert Comparison.objects.create_from(completions, purpose=Purpose.EVALUATION) is not None


@pytest.mark.parametrize(
    ("purpose", "hold"),
    [("training", "Answer B was cut off at the length limit."), ("evaluation", "")],
)
def test_models_are_evaluated_by_answers_that_were_cut_off_too(purpose, hold):
    prompt = PromptFactory()
    whole = CompletionFactory(prompt=prompt, text="Paris.")
    cut = CompletionFactory(prompt=prompt, text="Lyon is", is_truncated=True)

    comparison = Comparison.objects.create_from([whole, cut], purpose=purpose)

    assert comparison.hold == hold


def test_create_from_refuses_identical_texts():
    prompt = PromptFactory()
    completions = [CompletionFactory(prompt=prompt, text=text) for text in ("a", " a\n")]

    assert Comparison.objects.create_from(completions) is None


@pytest.mark.parametrize("n", [0, 1, 10])
def test_create_from_refuses_wrong_numbers(n):
    completions = CompletionFactory.create_batch(n, prompt=PromptFactory())

    with pytest.raises(ValueError, match=f"a comparison needs 2 to 9 completions, not {n}"):
        Comparison.objects.create_from(completions)


def test_create_from_refuses_answers_to_different_prompts():
    with pytest.raises(ValueError, match="must answer the same prompt"):
        Comparison.objects.create_from(CompletionFactory.create_batch(2))


def test_open_and_not_handled_by():
    full, handled, free = ComparisonFactory.create_batch(3, overlap=2)
    annotator = UserFactory()
    make_judgment(handled, annotator)
    Comparison.objects.filter(pk=full.pk).update(taken=2)

    assert set(Comparison.objects.open()) == {handled, free}
    assert list(Comparison.objects.open().not_handled_by(annotator)) == [free]


# --- what the database refuses ----------------------------------------------------------------
def refuses(action, *args, **fields):
    with pytest.raises(IntegrityError), transaction.atomic():
        action(*args, **fields)
    return True


def test_no_comparison_is_taken_too_often_or_less_than_never():
    comparisons = Comparison.objects.filter(pk=ComparisonFactory(overlap=2).pk)

    assert refuses(comparisons.update, taken=3)
    assert refuses(comparisons.update, taken=-1)


def test_nobody_holds_two_comparisons_of_a_project():
    held = AssignmentFactory()
    other = ComparisonFactory(project=held.project)

    assert refuses(AssignmentFactory, comparison=other, annotator=held.annotator)
    AssignmentFactory(annotator=held.annotator)  # in another project


@pytest.mark.parametrize("state", AssignmentState.values)
def test_nobody_is_handed_a_comparison_again_while_it_is_handled(state):
    before = AssignmentFactory(comparison__overlap=2)
    Assignment.objects.filter(pk=before.pk).update(state=state)
    again = {"comparison": before.comparison, "annotator": before.annotator}

    if state in ("live", "waiting", "judged", "skipped"):
        assert refuses(AssignmentFactory, **again)
    else:
        assert AssignmentFactory(**again).pk


def test_nobody_has_two_judgments_in_force():
    judgment = make_judgment(ComparisonFactory(overlap=2), UserFactory())
    again = {
        field: getattr(judgment, field)
        for field in ("assignment", "comparison", "project", "annotator", "guideline_version")
    }

    assert refuses(Judgment.objects.create, verdict=Verdict.ALL_BAD, **again)
    Judgment.objects.update(voided=timezone.now())
    assert Judgment.objects.create(verdict=Verdict.ALL_BAD, **again).pk


def test_counted_leaves_out_skips_and_what_was_voided():
    ranking, bad, _, voided = (
        make_judgment(ComparisonFactory(), UserFactory(), *groups, verdict=verdict)
        for groups, verdict in [
            ([[0], [1]], None),
            ([], Verdict.ALL_BAD),
            ([], Verdict.SKIPPED),
            ([[0], [1]], None),
        ]
    )
    Judgment.objects.filter(pk=voided.pk).update(voided=timezone.now())

    assert set(Judgment.objects.counted()) == {ranking, bad}


def test_exports_lie_in_a_folder_of_their_number(data_dir):
    assert Export(pk=7).folder == data_dir / "exports" / "7"

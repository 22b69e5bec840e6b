"""Many rows in one statement."""

import pytest

from annotator.inserting import insert
from annotator.models import Completion, Judgment
from tests.factories import AssignmentFactory, PromptFactory

pytestmark = pytest.mark.django_db


def texts_of(keys):
    rows = Completion.objects.in_bulk(keys)
    return [(rows[key].text, rows[key].source, rows[key].is_truncated) for key in keys]


def test_keys_come_back_in_the_order_of_the_rows():
    prompt = PromptFactory().pk
    rows = [
        {"prompt_id": prompt, "text": "b", "source": "one", "is_truncated": False},
        {"prompt_id": prompt, "text": "a", "source": "one", "is_truncated": True},
    ]

    keys = insert(Completion, rows)

    assert texts_of(keys) == [("b", "one", False), ("a", "one", True)]


@pytest.mark.parametrize("n", [1, 3])
def test_rows_that_are_all_alike_are_so_many(n):
    keys = insert(Completion, [{"prompt_id": PromptFactory().pk, "text": "a", "source": "one"}] * n)

    assert texts_of(keys) == [("a", "one", False)] * n


def test_true_and_one_are_not_the_same_json():
    shown = AssignmentFactory()
    row = {
        "assignment_id": shown.pk, "comparison_id": shown.comparison_id,
        "project_id": shown.project_id, "annotator_id": shown.annotator_id,
        "verdict": "ranking", "guideline_version": 1, "is_repeat": True,
    }  # fmt: skip

    keys = insert(Judgment, [row | {"reasons": [True]}, row | {"reasons": [1]}])

    reasons = [Judgment.objects.get(pk=key).reasons[0] for key in keys]
    assert list(map(type, reasons)) == [bool, int]


def test_texts_are_stored_to_the_letter():
    texts = ["", "NULL", "{a,b}", '"', "\\", '\\"', " a ", "é\n\t%s 🙂", "None"]
    prompt = PromptFactory().pk

    keys = insert(Completion, [{"prompt_id": prompt, "text": text} for text in texts])

    assert [text for text, _, _ in texts_of(keys)] == texts


def test_json_and_nothing_are_stored_as_they_are():
    shown = AssignmentFactory()
    said = [{"flags": {"1": ['a"b\\']}, "strength": None}, {"flags": {}, "strength": 2}]
    row = {
        "comparison_id": shown.comparison_id, "project_id": shown.project_id,
        "annotator_id": shown.annotator_id, "assignment_id": shown.pk,
        "verdict": "ranking", "guideline_version": 1, "is_repeat": True,
    }  # fmt: skip

    insert(Judgment, [row | each for each in said])

    assert list(Judgment.objects.order_by("pk").values("flags", "strength")) == said

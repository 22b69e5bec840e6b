import pytest

from annotator.imports.forms import SourceForm
from tests.annotator.imports.conftest import sent


@pytest.mark.parametrize(
    ("data", "files", "is_good"),
    [
        ({"text": "{}"}, {}, True),
        ({}, sent(b"{}"), True),
        ({"hub_id": "Anthropic/hh-rlhf@test"}, {}, True),
        ({"text": " \n"}, {}, False),
        ({"text": "{}"}, sent(b"{}"), False),
        ({"text": "{}", "hub_id": "a/b"}, {}, False),
    ],
)
def test_an_import_has_one_source(data, files, is_good):
    form = SourceForm(data, files)

    assert form.is_valid() is is_good
    if not is_good:
        assert form.non_field_errors() == [
            "Choose a file, paste lines or name a dataset: one of the three."
        ]


def test_a_dataset_has_a_name_and_no_address():
    form = SourceForm({"hub_id": "https://huggingface.co/datasets/Anthropic/hh-rlhf"})

    assert form.errors["hub_id"] == [
        "Write it like OWNER/NAME or OWNER/NAME@test, and nothing before it."
    ]

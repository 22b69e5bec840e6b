import hashlib
import json

import pytest

from annotator.hashes import FileChanged
from rlhf import general_text
from rlhf.general_text import GeneralText, paragraphs, texts_of, unlearned
from rlhf.models import DatasetKind, RunKind, Status
from tests.factories import ProjectFactory
from tests.rlhf.factories import (
    ExportFactory,
    PolicyFactory,
    RunFactory,
    learn_from,
    make_dataset,
)

pytestmark = pytest.mark.django_db

DOOR = "The red door of the house is open."
RIVER = "The river is wide where it meets the sea."


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


def texts(*given, split="train"):
    return [{"text": text, "split": split} for text in given]


def test_general_text_is_ours_or_the_beginning_of_a_dataset(project):
    rows = [{"text": "x" * 3000}, {"text": " "}, {"text": "short"}]
    dataset = make_dataset(project, rows=rows)

    assert [len(text) for text in texts_of(dataset)] == [2000, 5]
    assert len(texts_of(None)) == len(set(texts_of(None))) == 40


def test_what_a_policy_has_learned_from_is_left_out_for_all(project):
    learn_from(make_dataset(project, "house", rows=texts(DOOR)))
    wide = make_dataset(project, "wide", rows=texts(RIVER, DOOR.upper()))

    assert unlearned(project, wide) == GeneralText([RIVER], 1)


def test_rows_that_were_held_out_are_not_learned(project):
    dataset = make_dataset(project, rows=[*texts(DOOR), *texts(RIVER, split="test")])
    learn_from(dataset)

    assert unlearned(project, dataset) == GeneralText([RIVER], 1)


def test_a_paragraph_tells_wherever_files_were_cut(project):
    learn_from(make_dataset(project, "book", rows=texts(f"Chapter 1\n\n{DOOR}\n\nA third.")))
    page = make_dataset(project, "page", rows=texts(f"{DOOR}\n\n{RIVER}", "Chapter 1"))

    assert unlearned(project, page) == GeneralText(["Chapter 1"], 1)
    assert paragraphs(f"Chapter 1\n\n{DOOR}") == [DOOR.lower()]


def test_answers_to_imitate_and_pairs_to_prefer_are_learned_too(project):
    said = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": DOOR}]
    rows = [{"messages": said, "split": "train"}]
    learn_from(make_dataset(project, "said", DatasetKind.DEMONSTRATIONS, rows), RunKind.SUPERVISED)
    answer = [{"role": "assistant", "content": RIVER}]
    pair = {"prompt": said[:1], "chosen": answer, "rejected": answer, "split": "train"}
    line = json.dumps(pair).encode() + b"\n"
    export = ExportFactory(project=project, sha256=hashlib.sha256(line).hexdigest())
    (export.folder / "data.jsonl").write_bytes(line)
    run = RunFactory(project=project, kind=RunKind.DPO, status=Status.SUCCEEDED, export=export)
    PolicyFactory(project=project, run=run)

    wide = make_dataset(project, "wide", rows=texts(DOOR, RIVER))

    assert unlearned(project, wide) == GeneralText([], 2)


@pytest.mark.parametrize("changed", ["house", "wide"])
def test_a_dataset_that_was_changed_tells_nothing(project, changed):
    learn_from(make_dataset(project, "house", rows=texts(DOOR)))
    wide = make_dataset(project, "wide", rows=texts(RIVER))
    project.datasets.get(name=changed).data.write_text('{"text": "Other."}\n')

    with pytest.raises(FileChanged, match=f"The dataset “{changed}” is not what was frozen: "):
        unlearned(project, wide)


def test_of_a_dataset_that_is_gone_nobody_can_say_what_was_in_it(project):
    learn_from(house := make_dataset(project, "house", rows=texts(DOOR)))
    house.data.unlink()
    wide = make_dataset(project, "wide", rows=texts(RIVER))

    assert unlearned(project, wide) == GeneralText([RIVER], 0)


def test_what_no_policy_was_made_of_is_not_learned(project):
    dataset = make_dataset(project, rows=texts(DOOR))
    failed = RunFactory(project=project, kind=RunKind.DOMAIN, status=Status.FAILED)
    failed.datasets.add(dataset)
    learn_from(make_dataset(ProjectFactory(), rows=texts(DOOR)))

    assert unlearned(project, dataset) == GeneralText([DOOR], 0)


def test_no_more_texts_are_read_than_are_shown(project, monkeypatch):
    monkeypatch.setattr(general_text, "MOST_TEXTS", 1)
    learn_from(make_dataset(project, "house", rows=texts(DOOR)))
    wide = make_dataset(project, "wide", rows=texts(DOOR, RIVER, "Another.", DOOR))

    assert unlearned(project, wide) == GeneralText([RIVER], 1)

import json

import pytest

from rlhf.training import screen
from rlhf.training.artifacts import RunError, RunFolder
from rlhf.training.screen_config import ScreenConfig
from tests.training.encoders import build_encoder


@pytest.fixture
def classifier(tmp_path):
    """Of two labels, LABEL_0 and LABEL_1, with random weights."""
    folder = tmp_path / "classifier"
    build_encoder(folder, labels=2)
    return folder


@pytest.fixture
def folder(tmp_path):
    """With two rows of a dataset."""
    run = tmp_path / "run"
    (run / "dataset").mkdir(parents=True)
    (run / "held_out.jsonl").touch()
    rows = [{"text": "the sky is blue"}, {"text": ""}]
    (run / "dataset/data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunFolder(run)


def found(folder, classifier, **settings):
    config = ScreenConfig("dataset-1", checks=["unsafe"], classifier=str(classifier), **settings)
    screen.run(config, folder)
    return [json.loads(line) for line in (folder.path / "artifact/findings.jsonl").open()]


def test_what_the_classifier_says_is_a_finding_with_its_probability(folder, classifier):
    lines = found(folder, classifier, classifier_label="LABEL_1", classifier_threshold=1e-6)

    assert [(line["place"], line["code"]) for line in lines] == [
        ("line 1", "classifier"), ("line 2", "classifier"),
    ]  # fmt: skip
    assert lines[0]["note"].startswith("LABEL_1: 0.")


def test_below_the_threshold_nothing_is_found(folder, classifier):
    assert (
        found(folder, classifier, classifier_label="LABEL_1", classifier_threshold=0.999999) == []
    )


def test_a_label_that_it_does_not_have_is_named_beside_those_it_has(folder, classifier):
    with pytest.raises(RunError, match="no label 'toxic': it has LABEL_0, LABEL_1"):
        found(folder, classifier, classifier_label="toxic")


def test_a_folder_without_weights_that_can_be_trusted_is_refused(folder, classifier):
    (classifier / "model.safetensors").rename(classifier / "pytorch_model.bin")

    with pytest.raises(RunError, match="cannot be loaded"):
        found(folder, classifier, classifier_label="LABEL_1")

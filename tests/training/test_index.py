import json

import pytest
import torch
from torch.testing import assert_close

from rlhf.training.artifacts import RunError, RunFolder, Stopped
from rlhf.training.dense import Encoder, mean_pooled
from rlhf.training.index import run
from rlhf.training.index_config import IndexConfig
from rlhf.training.retrieval import Collection, Passage, write_passages
from tests.training.encoders import build_encoder

TEXTS = ["my red cup", "the old window today", "tell me about the door", "why clean a lamp"]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    build_encoder(folder)
    return folder


@pytest.fixture
def config(tmp_path, encoder_folder):
    source = tmp_path / "collection"
    source.mkdir()
    write_passages(source, [Passage(f"d{n}", 1, text) for n, text in enumerate(TEXTS)])
    relevant = {"question": "d2\ntell me about the door", "relevant": ["d2"]}
    (source / "relevant.jsonl").write_text(json.dumps(relevant) + "\n")
    return IndexConfig(str(source), str(encoder_folder), batch_size=3)


def test_the_mean_is_over_the_tokens_that_count():
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[5.0, 5.0]] * 3])

    found = mean_pooled(states, torch.tensor([[1, 1, 0], [0, 0, 0]]))

    assert found.tolist() == [[2.0, 3.0], [0.0, 0.0]]


def test_an_embedding_does_not_depend_on_what_is_computed_beside_it(encoder_folder):
    encoder = Encoder(encoder_folder, 64)

    together = encoder.embed(TEXTS)

    assert_close(together[:1], encoder.embed(TEXTS[:1]))
    assert_close(together.norm(dim=1), torch.ones(4))


def test_the_run_makes_a_collection_that_is_found_by_meaning(config, tmp_path):
    folder = RunFolder(tmp_path)

    result = run(config, folder)

    assert (result["n_passages"], result["dimensions"]) == (4, 32)
    assert result["found"]["mrr"] == 1.0
    found = Collection(tmp_path / "artifact").find("d2\ntell me about the door", 1)
    assert found == [Passage("d2", 1, "tell me about the door")]


def test_a_stopped_run_goes_on_after_the_last_whole_row(config, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    stops = iter([False, True])
    monkeypatch.setattr(folder, "should_stop", lambda: next(stops))
    with pytest.raises(Stopped):
        run(config, folder)
    with (tmp_path / "embeddings.f32").open("ab") as file:
        file.write(b"half a row")
    monkeypatch.setattr(folder, "should_stop", lambda: False)

    assert run(config, folder)["found"]["hit_at_k"] == 1.0
    assert len(Collection(tmp_path / "artifact").passages) == 4


def test_an_encoder_that_is_nowhere_is_a_sentence(tmp_path):
    with pytest.raises(RunError, match=r"The sentence encoder .*nowhere cannot be loaded"):
        Encoder(tmp_path / "nowhere", 64)

import json
from pathlib import Path

import pytest

from rlhf.collecting import collect_index
from rlhf.documents import create_collection
from rlhf.forms import IndexForm
from rlhf.inputs import RunRefused
from rlhf.models import RunKind
from rlhf.runs import launch
from rlhf.supervision import reads_hub
from tests.factories import ProjectFactory
from tests.rlhf.test_documents import DOCUMENTS

pytestmark = pytest.mark.django_db


@pytest.fixture
def collection():
    return create_collection(ProjectFactory(), "Pets", DOCUMENTS)


def start(collection, **settings):
    settings = {"collection": collection.pk, "encoder": "some/encoder", **settings}
    return launch(collection.project, RunKind.INDEX, settings, round_number=1)


def test_a_run_is_told_where_the_collection_lies_and_what_its_files_are(collection):
    run = start(collection)

    assert run.config["collection"] == collection.path
    hashes = json.loads((run.folder / "hashes.json").read_text())
    assert hashes == {collection.path: collection.files}


def test_only_an_encoder_that_is_no_folder_is_fetched(collection, tmp_path):
    assert reads_hub(start(collection))

    assert not reads_hub(start(create_collection(ProjectFactory(), "Pets", DOCUMENTS),
                               encoder=str(tmp_path)))  # fmt: skip


def test_what_it_makes_is_the_next_version_of_the_collection(collection):
    run = start(collection)
    (run.folder / "artifact").mkdir()
    run.result = {"files": {"passages.jsonl": {"sha256": "0", "bytes": 1}}, "found": {"mrr": 0.5}}

    made = collection.project.collections.get(pk=collect_index(run)["collection"])

    assert (str(made), made.n_passages, made.run) == ("Pets v2", collection.n_passages, run)
    assert (made.details["encoder"], made.details["found"]) == ("some/encoder", {"mrr": 0.5})
    assert made.path == str(run.folder / "artifact")


def test_a_collection_of_another_project_is_refused(collection):
    with pytest.raises(RunRefused, match="This project has no such collection of documents"):
        launch(ProjectFactory(), RunKind.INDEX, {"collection": collection.pk, "encoder": "x"},
               round_number=1)  # fmt: skip


def test_a_collection_that_was_changed_is_refused(collection):
    (Path(collection.path) / "passages.jsonl").write_text("{}\n")

    with pytest.raises(RunRefused, match="Pets v1 is not what was frozen"):
        start(collection)


def test_the_form_offers_the_collections_of_its_project(collection):
    form = IndexForm(collection.project, {"token": "00000000-0000-4000-8000-000000000000",
                     "collection": collection.pk, "encoder": "e", "max_tokens": 9, "batch_size": 2})  # fmt: skip

    assert form.is_valid(), form.errors
    assert form.settings == {
        "collection": collection.pk, "encoder": "e", "query_prefix": "", "passage_prefix": "",
        "max_tokens": 9, "batch_size": 2,
    }  # fmt: skip
    assert IndexForm(ProjectFactory()).missing() == ["Documents"]

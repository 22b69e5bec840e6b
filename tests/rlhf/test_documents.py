import json
import pickle
from pathlib import Path

import pyarrow
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from pyarrow import parquet

from rlhf.documents import (
    Document,
    DocumentsRefused,
    create_collection,
    read_documents,
    read_relevant_file,
    text_of_html,
)
from rlhf.inputs import RunRefused
from rlhf.models import RunKind
from rlhf.prompting import Draft, create_prompt_version
from rlhf.runs import launch
from rlhf.training.retrieval import Collection
from rlhf.training.retrieval_metrics import Relevant
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory
from tests.hostile import Bomb
from tests.rlhf.factories import PolicyFactory

DOCUMENTS = [Document("Cats", "They purr.\n\nThey sleep."), Document("Dogs", "They bark.")]


# --- files ----------------------------------------------------------------------------------------
def read(tmp_path, name, content):
    path = tmp_path / "upload"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_documents(path, name))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("guide.txt", "\ufeffHello.", [Document("guide", "Hello.")]),
        ("guide.md", "# Hello", [Document("guide", "# Hello")]),
        ("a.html", "<title>A &amp; B</title><p>x<p>y", [Document("A & B", "x\n\ny")]),
        ("a.jsonl", '{"title": "T", "text": "x"}\n{"text": "y"}\n',
         [Document("T", "x"), Document("a 2", "y")]),
    ],
)  # fmt: skip
def test_a_file_is_read_by_its_name(tmp_path, name, content, expected):
    assert read(tmp_path, name, content) == expected


def test_parquet_is_read_by_a_process_of_its_own(tmp_path):
    table = pyarrow.table({"title": ["T"], "text": ["x\ny"]})
    parquet.write_table(table, tmp_path / "table")

    assert list(read_documents(tmp_path / "table", "a.parquet")) == [Document("T", "x\ny")]


def test_html_becomes_what_its_reader_sees():
    page = """<style>p {}</style><h1>Sky</h1><p onclick="x()">It is <b>blue</b>,
    1 &lt; 2.</p><script>alert("<p>no</p>")</script><ul><li>one<li>two</ul><pre>a
  b</pre>"""

    assert text_of_html(page) == "Sky\n\nIt is blue, 1 < 2.\n\none\n\ntwo\n\na\n  b"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", "x", "a.pdf is none of .txt"),
        ("a.txt", b"caf\xe9", "a.txt is not UTF-8, as byte 4 shows"),
        ("a.jsonl", '{"text": "x"}\n{"text": 1}', "a.jsonl, line 2: expected"),
        ("a.jsonl", "[1]", "a.jsonl, line 1: expected a JSON object, not list"),
        ("a.parquet", "no table", "a.parquet cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path, name, content, message):
    with pytest.raises(DocumentsRefused, match=message):
        read(tmp_path, name, content)


def test_what_is_relevant_is_read_line_by_line(tmp_path):
    path = tmp_path / "relevant.jsonl"
    path.write_text('{"question": "Who purrs?", "relevant": ["Cats"]}\n{"question": "?"}\n')

    with pytest.raises(DocumentsRefused, match=r"relevant\.jsonl, line 2: expected"):
        read_relevant_file(path, path.name)

    path.write_text('{"question": "Who purrs?", "relevant": ["Cats"]}\n')
    assert read_relevant_file(path, path.name) == [Relevant("Who purrs?", ["Cats"])]


# --- collections ----------------------------------------------------------------------------------
@pytest.mark.django_db
def test_the_same_name_makes_the_next_version_and_leaves_the_first_alone():
    project = ProjectFactory()
    first = create_collection(project, "Pets", DOCUMENTS)

    second = create_collection(project, "Pets", DOCUMENTS[:1])

    assert [str(first), str(second)] == ["Pets v1", "Pets v2"]
    assert (first.n_documents, first.n_passages, second.n_passages) == (2, 2, 1)
    assert {"passages.jsonl", "bm25/vocab.index.json"} <= set(first.files)


@pytest.mark.django_db
def test_how_well_passages_are_found_is_kept_where_it_is_known():
    relevant = [Relevant("who purrs? purr", ["Cats"]), Relevant("bark", ["Dogs#1"])]

    collection = create_collection(ProjectFactory(), "Pets", DOCUMENTS, relevant=relevant)

    assert collection.details["found"] == {
        "k": 5, "n_questions": 2, "hit_at_k": 1.0, "mrr": 1.0, "ndcg": 1.0,
    }  # fmt: skip


@pytest.mark.django_db
def test_documents_of_one_title_are_told_apart():
    collection = create_collection(ProjectFactory(), "Pets", [DOCUMENTS[1], DOCUMENTS[1]])

    assert [each.name for each in Collection(collection_folder(collection)).passages] == [
        "Dogs#1", "Dogs (2)#1",
    ]  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("documents", "more", "message"),
    [
        ([Document("Empty", " \n")], {}, "There is no text in these documents"),
        (DOCUMENTS, {"size": 50, "overlap": 50}, "The overlap, 50, must be below the size, 50"),
        (DOCUMENTS, {"relevant": [Relevant("?", ["Birds"])]}, "question 1: .* passage “Birds”"),
    ],
)
def test_what_makes_no_collection_is_refused_and_leaves_nothing(settings, documents, more, message):
    with pytest.raises(DocumentsRefused, match=message):
        create_collection(ProjectFactory(), "Pets", documents, **more)

    assert not settings.DOCUMENTS_DIR.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["", " ", "x" * 101, "two\nlines"])
def test_a_name_is_one_line_that_is_not_endless(name):
    with pytest.raises(DocumentsRefused, match="one line of 1 to 100 characters"):
        create_collection(ProjectFactory(), name, DOCUMENTS)


@pytest.mark.django_db
def test_a_run_refuses_a_collection_that_was_changed():
    project = ProjectFactory()
    PromptFactory(project=project)
    collection = create_collection(project, "Pets", DOCUMENTS)
    draft = Draft(PolicyFactory(project=project), collection=collection)
    version = create_prompt_version(project, draft)
    with (collection_folder(collection) / "passages.jsonl").open("a") as file:
        file.write("{}\n")

    with pytest.raises(RunRefused, match=r"passages\.jsonl has changed"):
        launch(
            project,
            RunKind.GENERATE,
            {"max_new_tokens": 8, "temperature": 1.0, "seed": 0},
            round_number=1,
            policy=version,
        )


def collection_folder(collection):

    return Path(collection.path)


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.jsonl", "a.parquet", "a.pkl"])
def test_a_pickle_is_refused_under_any_name_and_not_opened(tmp_path, name):
    marker = tmp_path / "hostile-code-ran"

    with pytest.raises(DocumentsRefused, match=f"^{name} "):
        read(tmp_path, name, pickle.dumps(Bomb(marker)))

    assert not marker.exists()


# --- pages ----------------------------------------------------------------------------------------
@pytest.fixture
def admin(client):
    membership = MembershipFactory(role="admin")
    client.force_login(membership.user)
    client.project = membership.project
    return client


def send(admin, *files, **fields):
    address = reverse("rlhf:collections", args=[admin.project.slug])
    sent = {"name": "Pets", "size": 1200, "overlap": 200, "documents": files, **fields}
    return admin.post(address, sent)


@pytest.mark.django_db
def test_files_of_several_kinds_become_one_collection(admin):
    relevant = SimpleUploadedFile("r.jsonl", b'{"question": "purr", "relevant": ["cats"]}\n')

    response = send(
        admin,
        SimpleUploadedFile("cats.txt", b"They purr."),
        SimpleUploadedFile("dogs.html", b"<p>They bark."),
        relevant=relevant,
    )

    collection = admin.project.collections.get()
    assert response.url == reverse("rlhf:collection", args=[admin.project.slug, collection.pk])
    assert collection.details["sources"] == ["cats.txt", "dogs.html"]
    page = admin.get(response.url, {"question": "who can purr?"})
    assert [passage.document for passage in page.context["passages"]] == ["cats"]


@pytest.mark.django_db
def test_in_documents_that_were_changed_nothing_is_looked_for(admin):
    collection = create_collection(admin.project, "Pets", DOCUMENTS)
    passages = collection_folder(collection) / "passages.jsonl"
    passages.write_text(passages.read_text().replace("purr", "bark"))
    address = reverse("rlhf:collection", args=[admin.project.slug, collection.pk])

    page = admin.get(address, {"question": "who can purr?"})

    assert page.context["passages"] == []
    assert f"{passages} has changed" in page.content.decode()


@pytest.mark.django_db
def test_a_bad_file_comes_back_as_a_sentence_and_nothing_is_kept(admin):
    response = send(admin, SimpleUploadedFile("a.jsonl", json.dumps([1]).encode()))

    assert response.status_code == 422
    assert "a.jsonl, line 1: expected a JSON object, not list." in response.content.decode()
    assert not admin.project.collections.exists()


@pytest.mark.django_db
def test_reviewers_read_collections_and_add_none(client):
    membership = MembershipFactory(role="reviewer")
    client.force_login(membership.user)
    client.project = membership.project
    collection = create_collection(client.project, "Pets", DOCUMENTS)

    assert client.get(reverse("rlhf:collection", args=[client.project.slug, collection.pk])).status_code == 200  # fmt: skip
    assert send(client, SimpleUploadedFile("a.txt", b"x")).status_code == 404

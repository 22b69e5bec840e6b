"""Documents in: files to text, text to passages, passages to a frozen collection.

Parquet is read by a process of its own: pyarrow would make each web process a third larger.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nh3
from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import transaction
from django.db.models import Max

from annotator.audit import Action, record
from annotator.models import Project, User
from rlhf.chunking import passages_of
from rlhf.models import DocumentCollection, Run
from rlhf.training.config_base import is_one_line
from rlhf.training.hashes import files_in
from rlhf.training.retrieval import Collection, Passage, write_passages
from rlhf.training.retrieval_metrics import RELEVANT, Relevant, measure

SIZE, OVERLAP = (
    1200,
    200,
)  # characters of a passage, and of the paragraphs it shares with the one before
MOST_PASSAGES = 500_000
PARQUET_SECONDS = 120
FORMATS = (".txt", ".md", ".markdown", ".html", ".htm", ".jsonl", ".parquet")

# Everything else of a page goes; these become an empty line.
BLOCKS = {
    "address", "article", "blockquote", "br", "dd", "div", "dt", "figcaption", "footer", "h1", "h2", "h3",
    "h4", "h5", "h6", "header", "hr", "li", "main", "p", "pre", "section", "table", "tr",
}  # fmt: skip
WITHOUT_CONTENT = {"script", "style", "title", "noscript", "template"}
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_PRE = re.compile(r"(<pre>.*?</pre>)", re.DOTALL)

PARQUET_TO_LINES = """
import json, sys
from pyarrow import parquet
for batch in parquet.ParquetFile(sys.argv[1]).iter_batches(1000, columns=["title", "text"]):
    for row in batch.to_pylist():
        print(json.dumps(row))
"""


class DocumentsRefused(Exception):
    """A collection cannot be made. The message is a sentence for the admin."""


class Document(NamedTuple):
    title: str
    text: str


# --- files to text ----------------------------------------------------------------------------
def read_documents(path: Path, name: str) -> Iterator[Document]:
    """The documents of one file, whose name says what it is. Raises DocumentsRefused."""
    suffix, stem = Path(name).suffix.lower(), Path(name).stem
    if suffix == ".parquet":
        yield from _of_lines(_parquet_lines(path, name), name)
    elif suffix == ".jsonl":
        yield from _of_lines(_text_of(path, name).split("\n"), name)
    elif suffix in (".html", ".htm"):
        content = _text_of(path, name)
        title = _TITLE.search(content)
        said = " ".join(html.unescape(_TAG.sub("", title.group(1))).split()) if title else ""
        yield Document(said or stem, text_of_html(content))
    elif suffix in FORMATS:
        yield Document(stem, _text_of(path, name))
    else:
        raise DocumentsRefused(f"{name} is none of {', '.join(FORMATS)}.")


def text_of_html(content: str) -> str:
    """What a reader of the page sees, its blocks as paragraphs; scripts and styles are left out.

    Example: "<p>One &amp; <b>two</b></p><script>x</script>" -> "One & two"
    """
    clean = nh3.clean(content, tags=BLOCKS, attributes={}, clean_content_tags=WITHOUT_CONTENT)
    # No “<” is left that is not a tag's. Line breaks are spaces, but in what is formatted already.
    blocks = [
        html.unescape(block.strip("\n") if part.startswith("<pre>") else " ".join(block.split()))
        for part in _PRE.split(clean)
        for block in _TAG.split(part)
    ]
    return "\n\n".join(filter(str.strip, blocks))


def _text_of(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").replace("\0", "")
    except UnicodeDecodeError as error:
        raise DocumentsRefused(
            f"{name} is not UTF-8, as byte {error.start + 1} shows: save it as UTF-8."
        ) from None


def _parquet_lines(path: Path, name: str) -> list[str]:
    command = [sys.executable, "-c", PARQUET_TO_LINES, str(path)]
    try:
        done = subprocess.run(  # noqa: S603 (our own program)
            command, capture_output=True, check=True, timeout=PARQUET_SECONDS, text=True
        )
    except subprocess.TimeoutExpired:
        raise DocumentsRefused(f"{name} could not be read within {PARQUET_SECONDS} seconds.") from None  # fmt: skip
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip() or "no reason").splitlines()[-1]
        raise DocumentsRefused(
            f"{name} cannot be read as Parquet with the columns title and text: {why}"
        ) from None
    return done.stdout.split("\n")


def _of_lines(lines: Iterable[str], name: str) -> Iterator[Document]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _row(line, f"{name}, line {number}")
        title, text = row.get("title"), row.get("text")
        if not isinstance(text, str) or not isinstance(title, str | None):
            raise DocumentsRefused(
                f'{name}, line {number}: expected {{"title": text, "text": text}}, of which the title may be '
                "left out."
            )
        yield Document(title or f"{Path(name).stem} {number}", text.replace("\0", ""))


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DocumentsRefused(f"{place}: not JSON ({error}).") from None
    if not isinstance(row, dict):
        raise DocumentsRefused(f"{place}: expected a JSON object, not {type(row).__name__}.")
    return row


def read_relevant_file(path: Path, name: str) -> list[Relevant]:
    """Lines {"question": text, "relevant": [title or "title#2", …]}. Raises DocumentsRefused."""
    found = []
    for number, line in enumerate(_text_of(path, name).split("\n"), 1):
        if not line.strip():
            continue
        row = _row(line, f"{name}, line {number}")
        question, relevant = row.get("question"), row.get("relevant")
        is_list = isinstance(relevant, list) and bool(relevant)
        if not isinstance(question, str) or not is_list or not all(isinstance(each, str) for each in relevant):  # type: ignore[union-attr]  # fmt: skip
            raise DocumentsRefused(
                f'{name}, line {number}: expected {{"question": text, "relevant": ["title of a document", '
                '"title#2" for its second passage, …]}.'
            )
        found.append(Relevant(question, relevant))  # type: ignore[arg-type]
    return found


# --- collections ------------------------------------------------------------------------------
def create_collection(
    project: Project,
    name: str,
    documents: Iterable[Document],
    *,
    size: int = SIZE,
    overlap: int = OVERLAP,
    relevant: Sequence[Relevant] = (),
    sources: Sequence[str] = (),
    user: User | None = None,
) -> DocumentCollection:
    """Freeze the documents in passages, as the next version of that name; found by BM25.

    Raises DocumentsRefused, and leaves nothing behind then; what `documents` raises passes through.
    """
    name = name.strip()
    longest = DocumentCollection._meta.get_field("name").max_length or 0
    if not name or not is_one_line(name, longest):
        raise DocumentsRefused(
            f"The name of a collection is one line of 1 to {longest} characters."
        )
    if not 0 <= overlap < size:
        raise DocumentsRefused(f"The overlap, {overlap}, must be below the size, {size}.")
    passages, n_documents = _passages(documents, size, overlap)
    _check_relevant(relevant, passages)
    folder = Path(settings.DOCUMENTS_DIR) / str(uuid.uuid4())
    folder.mkdir(parents=True)
    try:
        write_passages(folder, passages)
        details: dict[str, Any] = {"size": size, "overlap": overlap, "sources": [*sources]}
        if relevant:
            _write_relevant(folder, relevant)
            details["found"] = measure(Collection(folder), relevant)
        return keep_collection(
            project, name, folder, files_in(folder), n_documents, len(passages), details, user=user
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def keep_collection(
    project: Project,
    name: str,
    folder: Path,
    files: dict[str, Any],
    n_documents: int,
    n_passages: int,
    details: dict[str, Any],
    *,
    run: Run | None = None,
    user: User | None = None,
) -> DocumentCollection:
    """The row of a folder that is complete, with the next number of its name."""
    with transaction.atomic():
        # Two at once take numbers one after the other.
        Project.objects.select_for_update().get(pk=project.pk)
        versions = project.collections.filter(name=name)
        collection = DocumentCollection.objects.create(
            project=project,
            name=name,
            number=(versions.aggregate(last=Max("number"))["last"] or 0) + 1,
            path=str(folder),
            files=files,
            n_documents=n_documents,
            n_passages=n_passages,
            details=details,
            run=run,
            created_by=user,
        )
        record(
            user, Action.ADDED, collection, project=project, documents=n_documents, passages=n_passages
        )  # fmt: skip
        return collection


def _passages(documents: Iterable[Document], size: int, overlap: int) -> tuple[list[Passage], int]:
    """Documents of one title are told apart by a number behind it."""
    passages: list[Passage] = []
    titles: dict[str, int] = {}
    n_documents = 0
    for document in documents:
        plain = " ".join(document.title.split())[:200] or "Untitled"
        titles[plain] = titles.get(plain, 0) + 1
        title = plain if titles[plain] == 1 else f"{plain} ({titles[plain]})"
        texts = passages_of(document.text, size, overlap)
        n_documents += bool(texts)
        passages += [Passage(title, number, text) for number, text in enumerate(texts, 1)]
        if len(passages) > MOST_PASSAGES:
            raise DocumentsRefused(
                f"These are more than {MOST_PASSAGES:,} passages: use larger ones, or fewer documents."
            )
    if not passages:
        raise DocumentsRefused("There is no text in these documents.")
    return passages, n_documents


def _check_relevant(relevant: Sequence[Relevant], passages: Sequence[Passage]) -> None:
    known = {name for passage in passages for name in (passage.name, passage.document)}
    for number, row in enumerate(relevant, 1):
        if missing := [name for name in row.relevant if name not in known]:
            raise DocumentsRefused(
                f"Relevant passages, question {number}: there is no document or passage “{missing[0]}”."
            )


def _write_relevant(folder: Path, relevant: Sequence[Relevant]) -> None:
    lines = [json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in relevant]
    (folder / RELEVANT).write_text("".join(lines), encoding="utf-8")


def read_uploads(uploads: Sequence[TemporaryUploadedFile]) -> Iterator[Document]:
    """Of files as a browser has sent them, one after another."""
    for upload in uploads:
        yield from read_documents(Path(upload.temporary_file_path()), upload.name or "")

"""General text that no policy of a project has learned from, so that it shows what was forgotten.

What one policy has learned from is left out for all of them: otherwise each would have a text of its own, and
no two could be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from django.db.models import QuerySet

from annotator.hashes import check_file
from annotator.models import Export, Project
from rlhf.dataset_inputs import check_frozen
from rlhf.models import Dataset, ModelKind
from rlhf.training import suite_config
from rlhf.training.demonstrations import split_of
from rlhf.training.screen_rows import FILES_OF_EXPORT, answers_of, lines_of, text_of

OWN_TEXT = Path(suite_config.__file__).with_name("general_text.txt")
MOST_TEXTS = 200  # of a dataset: the first that nobody has learned from
MOST_LOOKED_AT = 10 * MOST_TEXTS
MOST_CHARACTERS = 2000  # of each; the rest is left out
SHORTEST = 30  # characters of a paragraph that tells where a text comes from

TEST = "test"


class GeneralText(NamedTuple):
    texts: list[str]
    n_learned: int  # so many more were left out, because a policy has learned from them


def unlearned(project: Project, dataset: Dataset | None) -> GeneralText:
    """Of a dataset, or of the paragraphs that come with Preferendum. Reads all that the project's policies
    have learned from: some seconds for a hundred thousand rows. Raises FileChanged if a file of these is not
    what was frozen: then nobody can say what they have learned."""
    if dataset is not None:
        check_frozen(dataset)
    texts = whole_texts(dataset)
    digests = [set(map(_digest, paragraphs(text))) for text in texts]
    open_ones = set().union(*digests)
    learned: set[bytes] = set()
    for text in learned_texts(project):
        learned.update(open_ones.intersection(map(_digest, paragraphs(text))))
    places = [place for place, own in enumerate(digests) if own.isdisjoint(learned)][:MOST_TEXTS]
    n_seen = places[-1] + 1 if len(places) == MOST_TEXTS else len(texts)
    return GeneralText([texts[place][:MOST_CHARACTERS] for place in places], n_seen - len(places))


def texts_of(dataset: Dataset | None) -> list[str]:
    """As many as a suite reads at most, whoever has learned from them."""
    return [text[:MOST_CHARACTERS] for text in whole_texts(dataset)[:MOST_TEXTS]]


def whole_texts(dataset: Dataset | None) -> list[str]:
    """The first of a dataset, or the paragraphs that come with Preferendum."""
    if dataset is None:
        return OWN_TEXT.read_text(encoding="utf-8").strip().split("\n\n")
    texts = (str(line["text"]).strip() for line in lines_of(dataset.data))
    return list(islice(filter(None, texts), MOST_LOOKED_AT))


def paragraphs(text: str) -> list[str]:
    """By which a text is known again, whether files were cut into rows otherwise or not.

    Those of 30 characters or more, without differences of capitals and spaces; of a text that has none, all
    of it. Example: "The red  door is open, and so it stays." -> ["the red door is open, and so it stays."]
    """
    found = [" ".join(each.casefold().split()) for each in text.split("\n\n")]
    return [each for each in found if len(each) >= SHORTEST] or [" ".join(found).strip()]


def _digest(paragraph: str) -> bytes:
    return hashlib.blake2b(paragraph.encode(errors="surrogatepass"), digest_size=16).digest()


# --- what was learned from --------------------------------------------------------------------
def datasets_learned(project: Project) -> QuerySet[Dataset]:
    """Whichever a run has made a policy from; what comes from that policy has learned from them too."""
    return project.datasets.filter(runs__outputs__kind=ModelKind.POLICY).distinct()


def learned_texts(project: Project) -> Iterator[str]:
    """All texts of what is learned from, one after the other; not those that were held out."""
    for dataset in datasets_learned(project):
        if dataset.data.is_file():  # of one that is gone, nobody can say what was in it
            check_frozen(dataset)
            yield from _texts_in(dataset.data)
    exports = project.exports.filter(runs__outputs__kind=ModelKind.POLICY).distinct()
    for export in exports:
        yield from _texts_of_export(export)


def _texts_in(path: Path) -> Iterator[str]:
    for row in lines_of(path):
        if split_of(row) == TEST:
            continue
        if "text" in row:
            yield str(row["text"])
        for message in row.get("messages", ()):
            yield str(message.get("content") or "")


def _texts_of_export(export: Export) -> Iterator[str]:
    for name in FILES_OF_EXPORT[:2]:  # single votes say once more what is in the pairs
        try:
            check_file(export, name)
        except FileNotFoundError:  # as above, or it was frozen without one
            continue
        for row in lines_of(export.folder / name):
            if row.get("split") != TEST:
                yield text_of(row["prompt"])
                yield from (text for _, text in answers_of(row))

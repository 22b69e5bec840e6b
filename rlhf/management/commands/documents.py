"""Add documents to a project: files of text, Markdown, HTML, JSON lines or Parquet, as one collection."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project
from rlhf.dataset_reading import files_below
from rlhf.documents import (
    FORMATS,
    OVERLAP,
    SIZE,
    Document,
    DocumentsRefused,
    create_collection,
    read_documents,
    read_relevant_file,
)


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="slug of the project")
        parser.add_argument("name", help="of the collection; the same again makes its next version")
        parser.add_argument("files", nargs="+", type=Path, help="files, or folders of them")
        parser.add_argument("--size", type=int, default=SIZE, help="characters of a passage")
        parser.add_argument("--overlap", type=int, default=OVERLAP)
        parser.add_argument("--relevant", type=Path, help="JSON lines that say which are relevant")
        parser.add_argument("--json", action="store_true", help="the numbers as one object")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        said: Path | None = options["relevant"]
        files = list(_files(options["files"]))
        try:
            collection = create_collection(
                project,
                options["name"],
                _documents(files),
                size=options["size"],
                overlap=options["overlap"],
                relevant=read_relevant_file(said, said.name) if said else [],
                sources=[file.name for file in files],
            )
        except (DocumentsRefused, OSError) as error:
            raise CommandError(str(error)) from error
        numbers = {"documents": collection.n_documents, "passages": collection.n_passages}
        found = collection.details.get("found", {})
        if options["json"]:
            self.stdout.write(json.dumps({"collection": str(collection), **numbers, **found}))
        else:
            said_of_them = ", ".join(
                f"{value:g} {name}" for name, value in (numbers | found).items()
            )
            self.stdout.write(f"{collection}: {said_of_them}")


def _files(paths: list[Path]) -> Iterator[Path]:
    """Of a folder, what can be read, in the order of the names."""
    for path in paths:
        if path.is_dir():
            yield from (each for each in files_below(path) if each.suffix.lower() in FORMATS)
        else:
            yield path


def _documents(files: list[Path]) -> Iterator[Document]:
    for file in files:
        yield from read_documents(file, file.name)

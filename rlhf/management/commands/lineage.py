"""Print where a model version, an export or an answer comes from, and what carries it, a vote or a person's votes."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project
from rlhf import lineage
from rlhf.lineage import Graph, Lineage

NUMBERED = {
    "export": "number of an export",
    "judgment": "number of a vote",
    "completion": "number of an answer",
    "annotator": "number of a person",
}


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="slug of the project")
        one = parser.add_mutually_exclusive_group(required=True)
        one.add_argument("version", nargs="?", help="name of a model version")
        for kind, meaning in NUMBERED.items():
            one.add_argument(f"--{kind}", type=int, metavar="N", help=meaning)
        parser.add_argument("--json", action="store_true", help="nodes and edges, as one object")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        kind, number = self._asked(project, options)
        found = lineage.find(project, kind, number)
        if found is None:
            raise CommandError(f"{project} has no {kind} {number}.")
        if options["json"]:
            self.stdout.write(json.dumps(lineage.as_json(found), ensure_ascii=False))
        else:
            self.stdout.write("\n".join(in_words(found)))

    def _asked(self, project: Project, options: dict[str, Any]) -> tuple[str, int]:
        for kind in NUMBERED:
            if options[kind] is not None:
                return kind, options[kind]
        name = options["version"]
        version = project.model_versions.filter(name=name).first()
        if version is None:
            raise CommandError(f"{project} has no model version {name}.")
        return "version", version.pk


def in_words(found: Lineage) -> Iterator[str]:
    yield f"{found.of.name} comes from"
    yield from _made_of(found.back)
    yield f"{found.of.name} is carried by"
    yield from _made_of(found.forward)


def _made_of(graph: Graph) -> Iterator[str]:
    """Example: "  reward-r1-v3: made by Reward model run 3"."""
    if not graph.edges:
        yield "  nothing"
    for edge in graph.edges:
        counts = "".join(f", {n:,} {what}" for what, n in edge.facts.items())
        source, target = graph.nodes[edge.source], graph.nodes[edge.target]
        yield f"  {target.name}: {edge.role} {source.name}{counts}"

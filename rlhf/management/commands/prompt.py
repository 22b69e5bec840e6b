"""Make a prompt version: a policy with instructions, examples and passages around each question."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project
from rlhf.models import DocumentCollection
from rlhf.prompting import Draft, PromptRefused, create_prompt_version
from rlhf.training.prompting import QUESTION, SELECTIONS, Prompting


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="slug of the project")
        parser.add_argument("policy", help="name of a policy, here or elsewhere")
        parser.add_argument("--name", default="", help="of the version; else it gets a number")
        parser.add_argument("--system", default="", help="system message, or @FILE")
        parser.add_argument(
            "--template", default=QUESTION, help=f"with {QUESTION} for the question"
        )
        parser.add_argument("--selection", choices=SELECTIONS, default="hand")
        parser.add_argument("--examples", type=int, nargs="*", default=[], metavar="ANSWER",
                            help="numbers of answers, for --selection hand")  # fmt: skip
        parser.add_argument("--shots", type=int, default=Prompting.shots)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--budget-tokens", type=int, help="else what fits the policy")
        parser.add_argument(
            "--documents", default="", help="name of a collection: its latest version"
        )
        parser.add_argument("--passages", type=int, default=Prompting.passages)

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        policy = project.model_versions.filter(name=options["policy"]).first()
        if policy is None:
            raise CommandError(f"{project} has no model version {options['policy']}.")
        names = ("template", "selection", "examples", "shots", "seed", "budget_tokens", "passages")
        draft = Draft(
            policy,
            system=_text(options["system"]),
            collection=_collection(project, options["documents"]),
            **{name: options[name] for name in names},
        )
        try:
            version = create_prompt_version(project, draft, name=options["name"])
        except PromptRefused as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stdout.write(f"{version} ({version.pk})")


def _text(said: str) -> str:
    """Of a file, if it is named with an @."""
    if not said.startswith("@"):
        return said
    try:
        return Path(said[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{said[1:]} cannot be read: {error}") from error


def _collection(project: Project, name: str) -> DocumentCollection | None:
    if not name:
        return None
    found = project.collections.filter(name=name).order_by("-number").first()
    if found is None:
        raise CommandError(f"{project} has no collection of documents {name}.")
    return found

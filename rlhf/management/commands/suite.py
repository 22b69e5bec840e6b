"""Run the evaluation suite for a model version, and print its figures.

What is not said is as in the project's latest suite, so that the two can be compared; an option that is said to be
"" is nothing.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project
from rlhf import suites
from rlhf.launching import carry_to_end, refuse_unless_succeeded
from rlhf.models import ModelVersion, Run, RunKind
from rlhf.rounds import current_number
from rlhf.runs import RunRefused, launch

VERSIONS = {
    "against": ("rival", "what it is compared with"),
    "judge": ("judge", "a model or endpoint that says which answer is better"),
    "reward_model": ("reward_model", "whose score each answer gets"),
}
SETTINGS = {"max_new_tokens": int, "temperature": float, "text": str, "demonstrations": str}


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="slug of the project")
        parser.add_argument("version", help="name of a model version")
        for option, (_, meaning) in VERSIONS.items():
            parser.add_argument(f"--{option.replace('_', '-')}", metavar="NAME", help=meaning)
        parser.add_argument("--max-prompts", type=int, metavar="N", help="a sample of so many")
        for setting, convert in SETTINGS.items():
            parser.add_argument(f"--{setting.replace('_', '-')}", type=convert)
        parser.add_argument("--tasks", help="of lm-evaluation-harness, separated by commas")
        parser.add_argument("--json", action="store_true", help="one line of JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        policy = _version(project, options["version"])
        settings, arguments = suites.like_the_latest(policy)
        for option, (name, _) in VERSIONS.items():
            if options[option] is not None:
                said = options[option]
                arguments[name] = _version(project, said) if said else None
        if options["max_prompts"] is not None:
            arguments["max_prompts"] = options["max_prompts"]
        settings |= {name: options[name] for name in SETTINGS if options[name] is not None}
        if options["tasks"] is not None:
            names = map(str.strip, options["tasks"].split(","))
            settings["tasks"] = [name for name in names if name]
        try:
            run = launch(
                project,
                RunKind.SUITE,
                settings,
                round_number=current_number(project),
                policy=policy,
                **arguments,
            )
        except RunRefused as refusal:
            raise CommandError(str(refusal)) from refusal
        self._report(carry_to_end(run), as_json=options["json"])

    def _report(self, run: Run, *, as_json: bool) -> None:
        refuse_unless_succeeded(run)
        if as_json:
            found = {"run": run.pk, "version": str(run.policy), "alarms": run.alarms, **run.result}
            self.stdout.write(json.dumps(found, ensure_ascii=False))
            return
        for name, figure in run.result["metrics"].items():
            agreement = _agreement(run.result["judge"]) if name == "judge_win_rate" else ""
            self.stdout.write(f"{name}: {_in_words(figure)}{agreement}")
        for alarm in run.alarms:
            self.stdout.write(f"{alarm['level']} alarm: {alarm['sentence']}")


def _agreement(judge: dict[str, Any]) -> str:
    """Of the judge with people, beside what it says. Example: "; with people, kappa: 0.3, right: 0.7"."""
    kappa, right = judge["kappa"], judge["accuracy"]
    if not kappa["n"]:
        return f"; {kappa['reason']}"
    return f"; with people, kappa: {_in_words(kappa)}, right: {_in_words(right)}"


def _in_words(figure: dict[str, Any]) -> str:
    """Example: "0.5 (0.3 to 0.7)"."""
    if figure["value"] is None:
        return figure["reason"]
    interval = "" if figure["low"] is None else f" ({figure['low']:.4g} to {figure['high']:.4g})"
    return f"{figure['value']:.4g}{interval}"


def _version(project: Project, name: str) -> ModelVersion:
    version = project.model_versions.filter(name=name).first()
    if version is None:
        raise CommandError(f"{project} has no model version {name}.")
    return version

"""Let simulated annotators with a known taste go through the whole loop, and say what came of it.

Exit status 0 only if the new policy beats the old one: the lower bound of its blind win rate is
above one half.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.exporting import NotExported
from annotator.models import Project, QueueOrder
from rlhf.inputs import RunRefused
from rlhf.simulation import PRESETS, SimulationFailed, simulate


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="slug of the project whose prompts are used")
        parser.add_argument("--rounds", type=int, default=1)
        parser.add_argument("--annotators", type=int, default=5, help="the last one is a saboteur")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--model", choices=sorted(PRESETS), default="smollm2")
        parser.add_argument(
            "--order",
            choices=QueueOrder.values,
            default=QueueOrder.DRAWN,
            help="informative: from round 2 on, the last reward model says what is asked first",
        )
        parser.add_argument("--json", action="store_true", help="only one line of JSON at the end")

    def handle(
        self, *, project: str, rounds: int, annotators: int, seed: int, model: str, order: str,
        json: bool, **options: Any,
    ) -> None:  # fmt: skip
        if rounds < 1 or annotators < 3:
            raise CommandError("At least one round and three annotators are needed.")
        if order == QueueOrder.INFORMATIVE and rounds < 2:
            raise CommandError(
                "In the first round there is no reward model to order the questions by: "
                "--order informative needs --rounds 2 or more."
            )
        original = Project.objects.filter(slug=project).first()
        if original is None:
            raise CommandError(f"There is no project {project!r}; `make demo` makes `demo`.")
        say = (lambda line: None) if json else self.stdout.write
        try:
            report = simulate(
                original,
                rounds=rounds,
                annotators=annotators,
                seed=seed,
                model=model,
                order=order,
                say=say,
            )
        except (SimulationFailed, RunRefused, NotExported) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(_as_json(report._asdict()))
        if not report.win_rate_low or report.win_rate_low <= 0.5:
            raise CommandError(
                "The new policy is not shown to be better: the lower bound of its win rate, "
                f"{report.win_rate_low}, is not above one half."
            )


def _as_json(values: dict[str, Any]) -> str:
    return json.dumps(values)

"""Have a better model write demonstrations, wait for them, and say which dataset they are.

Example: distill essays --teacher gpt-at-home --reward-model reward-r1-v3 --best-of 8 --student policy-r1-v2
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand

from rlhf.launching import (
    carry_to_end,
    launch_by_command,
    project_named,
    refuse_unless_succeeded,
    version_named,
)
from rlhf.models import RunKind

FIGURES = (
    "n_rows", "n_teacher", "n_rehearsal", "n_candidates", "left_out", "score_best", "score_mean",
    "length_mean",
)  # fmt: skip


class Command(BaseCommand):
    help = __doc__

    def create_parser(self, *args: Any, **options: Any) -> Any:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="its slug")
        parser.add_argument("--teacher", help="its name; else as on the page")
        parser.add_argument("--student", help="its name; who writes the rehearsal")
        parser.add_argument("--rehearsal-share", type=float, help="of the rows, 0 to 0.9")
        parser.add_argument("--reward-model", help="its name; it picks the best answer")
        parser.add_argument("--rewards", help="rules beside it or instead, as in the form of PPO")
        parser.add_argument("--best-of", type=int, help="answers per prompt")
        parser.add_argument("--lowest-score", type=float)
        parser.add_argument("--max-prompts", type=int)
        parser.add_argument("--max-new-tokens", type=int)
        parser.add_argument("--temperature", type=float)
        parser.add_argument("--seed", type=int)

    def handle(self, **options: Any) -> None:
        project = project_named(options["project"])
        names = (
            "rehearsal_share", "rewards", "lowest_score", "max_prompts", "max_new_tokens",
            "temperature", "seed",
        )  # fmt: skip
        settings = {
            "policy": version_named(project, options["teacher"]),
            "rival": version_named(project, options["student"]),
            "reward_model": version_named(project, options["reward_model"]),
            "completions_per_prompt": options["best_of"],
            **{name: options[name] for name in names},
        }
        run = carry_to_end(launch_by_command(project, RunKind.DISTILL, settings))
        refuse_unless_succeeded(run)
        figures = {name: run.result.get(name) for name in FIGURES}
        dataset = run.datasets_made.get()
        self.stdout.write(json.dumps({"run": run.pk, "dataset": dataset.name, **figures}))

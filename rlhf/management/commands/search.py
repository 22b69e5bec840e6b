"""Try other settings of a training run, wait for the trials, and say which was the best.

Examples:
  search essays reward_model "learning_rate = 1e-5 .. 1e-3 log" "lora_rank in 4, 16" --promote
  search essays supervised "epochs = 1 .. 4" --datasets polite --datasets short
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand

from rlhf.launching import (
    carry_to_end,
    datasets_named,
    launch_by_command,
    project_named,
    refuse_unless_succeeded,
    version_named,
)
from rlhf.models import Dataset, Run, RunKind
from rlhf.searching import promote
from rlhf.training.search_config import PRUNERS, SAMPLERS, kinds_in_words

TAKEN_OVER = ("trials", "pruner", "sampler", "rewards", "seed", "max_prompts", "objective")


class Command(BaseCommand):
    help = __doc__

    def create_parser(self, *args: Any, **options: Any) -> Any:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="its slug")
        parser.add_argument("tries", help=f"the kind of run of each trial: {kinds_in_words()}")
        parser.add_argument("space", nargs="+", help="what varies; docs/search.md")
        parser.add_argument("--policy", help="its name; else as on the page")
        parser.add_argument("--reward-model", help="its name")
        parser.add_argument("--export", type=int, help="its number; else the newest, if needed")
        parser.add_argument(
            "--datasets",
            action="append",
            metavar="NAME",
            help="what tuning learns from; again for one more",
        )
        parser.add_argument("--base", help="a reward model's, by name; else the policy")
        parser.add_argument("--trials", type=int)
        parser.add_argument("--max-prompts", type=int, help="that each trial learns from, a sample")
        parser.add_argument("--objective", help="what trials are compared by; docs/search.md")
        parser.add_argument("--pruner", choices=PRUNERS)
        parser.add_argument("--sampler", choices=SAMPLERS)
        parser.add_argument("--hours", type=float, help="after which no trial begins")
        parser.add_argument("--rewards", help="as in the form of PPO")
        parser.add_argument("--seed", type=int)
        parser.add_argument(
            "--promote", action="store_true", help="make a version, or a dataset, of the best trial"
        )

    def handle(self, **options: Any) -> None:
        project = project_named(options["project"])
        settings = {
            "tries": options["tries"],
            "space": "\n".join(options["space"]),
            "policy": version_named(project, options["policy"]),
            "reward_model": version_named(project, options["reward_model"]),
            "base": version_named(project, options["base"]),
            "datasets": datasets_named(project, options["datasets"]),
            "export": options["export"],
            "max_hours": options["hours"],
            **{name: options[name] for name in TAKEN_OVER},
        }
        run = carry_to_end(launch_by_command(project, RunKind.SEARCH, settings))
        refuse_unless_succeeded(run)
        self.stdout.write(json.dumps(_report(run, promoted=options["promote"])))


def _report(run: Run, *, promoted: bool) -> dict[str, Any]:
    names = (
        "metric", "best_trial", "best_value", "best_settings", "n_complete", "n_pruned", "n_fail",
    )  # fmt: skip
    found = {"run": run.pk, **{name: run.result[name] for name in names}}
    if not promoted:
        return found
    made = promote(run)
    return {**found, "dataset" if isinstance(made, Dataset) else "model_version": made.name}

"""Print what was made of an export's votes, route by route."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project
from annotator.templatetags.text import decimals, percent
from rlhf.api.routes import RoutesSerializer
from rlhf.routes import SORTS, Route, exports_with_routes, starts_of


class Command(BaseCommand):
    help = "Compare the policies that were made of the same votes (docs/preference-routes.md)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug of the project.")
        parser.add_argument("--export", type=int, help="Its number; without it, the newest.")
        parser.add_argument("--sort", choices=SORTS, default="rate")
        parser.add_argument("--json", action="store_true", help="As the API gives them.")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        exports = exports_with_routes(project)
        asked = options["export"]
        export = next((each for each in exports if asked in (None, each.pk)), None)
        if export is None:
            raise CommandError(
                f"Nothing was trained on export {asked} of {project}."
                if asked
                else f"Nothing was trained on an export of {project} yet."
            )
        starts = starts_of(export, options["sort"])
        if options["json"]:
            found = RoutesSerializer({"export": export.pk, "starts": starts}).data
            self.stdout.write(json.dumps(found))
            return
        for start in starts:
            self.stdout.write(f"From {start.policy}, by {export}")
            for route in start.routes:
                self.stdout.write(f"  {line_of(route)}")


def line_of(route: Route) -> str:
    rate = route.win_rate
    interval = (
        f" ({percent(rate.low)} to {percent(rate.high)})" if rate and rate.rate is not None else ""
    )
    name = f"{route.label}, {route.version}" if route.version else route.label
    error = "" if route.kl_se is None else f" ± {decimals(route.kl_se, 2)}"
    extra = "" if route.reward_minutes is None else f" + {decimals(route.reward_minutes, 1)}"
    figures = [
        f"win rate {percent(route.rate)}{interval}",
        f"reward {decimals(route.reward, 2)}",
        f"KL {decimals(route.kl, 2)}{error}",
        f"length {decimals(route.length, 0)}",
        f"{decimals(route.minutes, 1)}{extra} minutes",
        f"{decimals(route.answer_seconds, 1)} seconds an answer",
        f"{decimals(route.memory_mib, 0)} MiB",
    ]
    return f"{name}: {', '.join(figures)}"

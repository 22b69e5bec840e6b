"""Print what the runs of a project cost, by month and kind."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from rlhf.api.costs import CostsSerializer
from rlhf.costs import Cost, bill_of
from rlhf.launching import project_named
from rlhf.templatetags.quantities import money, significant


class Command(BaseCommand):
    help = "Say what the runs of a project took and cost (docs/prices.md)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug of the project.")
        parser.add_argument("--json", action="store_true", help="As the API gives them.")

    def handle(self, *args: Any, **options: Any) -> None:
        bill = bill_of(project_named(options["project"]))
        if options["json"]:
            self.stdout.write(json.dumps(CostsSerializer(bill).data))
            return
        for row in bill.rows:
            self.stdout.write(f"{row.month}  {row.kind}: {_figures(row, bill.currency)}")
        self.stdout.write(f"All: {_figures(bill.total, bill.currency)}")


def _figures(cost: Cost, currency: str) -> str:
    """Example: "2 runs, 1.5 hours, 9,000 tokens of endpoints for 0.2 USD, 800 tokens written and 0 learned from
    by models for 0 USD, 3 USD in all"."""
    runs = f"{cost.runs:,} run{'' if cost.runs == 1 else 's'}"
    tokens = f"{cost.tokens:,} tokens of endpoints for {money(cost.spent)} {currency}"
    counted = f"{cost.written:,} tokens written and {cost.learned:,} learned from by models"
    charged = f"{counted} for {money(cost.charged)} {currency}"
    whole = f"{money(cost.money)} {currency} in all"
    return f"{runs}, {significant(cost.hours)} hours, {tokens}, {charged}, {whole}"

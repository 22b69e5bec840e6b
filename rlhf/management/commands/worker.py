"""Run the worker: the queue for everything short, and for tending runs every minute; and webhooks."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand
from django_q.models import Schedule

from annotator.priority import give_way
from annotator.webhooks.outbox import deliver_due
from rlhf.cluster import run_cluster


class Command(BaseCommand):
    help = "Run the worker, which sees every minute to runs that nobody watches."

    def handle(self, *args: Any, **options: Any) -> None:
        give_way()  # imports and exports are its work
        schedule_tending()
        run_cluster(meanwhile=deliver_due)


def schedule_tending() -> None:
    """Have `tend` called every minute; the same schedule however often the worker starts."""
    Schedule.objects.update_or_create(
        name="tend runs",
        defaults={
            "func": "rlhf.tasks.tend",
            "schedule_type": Schedule.MINUTES,
            "minutes": 1,
            "repeats": -1,
            "kwargs": {"q_options": {"save": False}},  # no row for each time it went well
        },
    )

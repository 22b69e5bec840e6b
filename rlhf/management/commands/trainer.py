"""Run the trainer: the queue that supervises runs, one after the other."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from rlhf.cluster import become_cluster, run_cluster
from rlhf.runs import send_all


class Command(BaseCommand):
    help = "Run the trainer, which starts and watches runs. Ending it does not end a run."

    requires_system_checks: list[str] = []  # they take seconds, and are made when it starts anew

    def handle(self, *args: Any, **options: Any) -> None:
        become_cluster("training")
        self.check()
        send_all()
        run_cluster()

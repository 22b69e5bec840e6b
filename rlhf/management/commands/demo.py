"""Make the demo project if it is not there, start web, worker and trainer, and say where."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from rlhf.demo import answers, processes, project
from rlhf.models import STARTED, Run


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--no-start", action="store_true", help="only make the project and print its logins"
        )
        parser.add_argument(
            "--regenerate",
            action="store_true",
            help="write the shipped answers anew with the embedded model (ten minutes)",
        )

    def handle(self, *, no_start: bool, regenerate: bool, **options: Any) -> None:
        if regenerate:
            self.stdout.write(f"{answers.regenerate()} comparisons in {answers.COMPARISONS}")
            return
        if no_start:
            self.prepare()
            self.stdout.write(self.welcome())
            return
        try:
            with processes.only_one(settings.DATA_DIR):
                processes.check_port(settings.DEMO_PORT)
                self.prepare()
                welcome = self.welcome()
                processes.run(settings.DEMO_PORT, lambda: self.stdout.write(welcome))
        except processes.CannotStart as reason:
            raise CommandError(str(reason)) from reason
        self.stdout.write(self.farewell())

    def prepare(self) -> None:
        self.stdout.write("Preparing the database and the static files …")
        call_command("migrate", verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        if project.create_project():
            self.stdout.write("Made the project “Demo”.")

    def welcome(self) -> str:
        lines = [
            "",
            f"Preferendum is ready:  http://127.0.0.1:{settings.DEMO_PORT}/",
            "",
            f"  {'sign in as':<12}{'password':<18}who",
        ]
        for login in project.logins():
            password = login.password or "(yours)"
            lines.append(f"  {login.username:<12}{password:<18}{login.purpose}")
        lines += ["", "There are answers to rank right away."]
        if active := [
            f"{run} ({run.get_status_display().lower()})" for run in Run.objects.active()
        ]:
            lines.append(f"In the background: {', '.join(active)}.")
        lines += [
            "Ctrl-C stops all of it; a run that is training goes on.",
            "`make demo` starts them again.",
            "",
        ]
        return "\n".join(lines)

    def farewell(self) -> str:
        """A run is a process of its own: it does not stop with the trainer that watches it."""
        running = [run for run in Run.objects.filter(status__in=STARTED) if run.pid]
        if not running:
            return "Stopped."
        lines = ["Stopped. These runs go on by themselves; the next `make demo` shows them again:"]
        lines += [
            f"  {run}; to end it now, at its next checkpoint: kill {run.pid}" for run in running
        ]
        return "\n".join(lines)

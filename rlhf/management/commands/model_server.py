"""Run the model server: it answers for model versions, and loads one only when somebody asks."""

from __future__ import annotations

import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from rlhf import model_server


class Command(BaseCommand):
    help = "Let model versions be asked. A process with PyTorch is started when somebody asks one."

    def handle(self, *args: Any, **options: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
        try:
            with model_server.listening() as listener:
                model_server.serve(listener)
        except model_server.AlreadyRunning as error:
            raise CommandError(str(error)) from None

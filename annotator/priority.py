"""Giving way to the pages, where a machine has less processors than work."""

from __future__ import annotations

import os

from django.conf import settings


def give_way() -> None:
    """Let this process, and those that it starts, have a processor only when no page wants it. For good: the
    system lets nobody but root take it back."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0) + settings.RUN_NICENESS
    os.setpriority(os.PRIO_PROCESS, 0, min(niceness, 19))

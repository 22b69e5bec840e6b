"""Which version of the code runs: it goes into manifests and showings."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata

from django.conf import settings


@cache
def code_version() -> str:
    """That of the package, and of the checkout if it is one. Example: "0.1.0, 1a2b3c4-dirty"."""
    version = metadata.version("preferendum")
    git = ["git", "-C", str(settings.BASE_DIR), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}, {commit.stdout.strip()}"

from pathlib import Path

import pytest

from rlhf import supervision

TOY = Path(__file__).with_name("toy_run.py")


@pytest.fixture
def toy(settings, monkeypatch):
    """Have runs carried out by the toy, in a mode, and looked at often."""
    monkeypatch.setattr(supervision, "POLL_SECONDS", 0.05)

    def set_mode(mode):
        settings.RUN_COMMAND = f"{{python}} {TOY} {mode} {{run_dir}}"

    set_mode("0")
    return set_mode

"""What all tests share."""

import fcntl
import gc
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connection
from hypothesis import settings as hypothesis_settings

from rlhf.processes import PLAIN

# Read when torch is first imported. Threads that spin while they wait make everything that wants
# the same cores many times slower: other test workers, a browser, the run that a test watches.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What is compiled is kept, whatever the shell says: each process that a test starts, and each that
# runs tests, would compile the whole project again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A busy machine is no reason to fail: examples are judged by their result, not by their time.
hypothesis_settings.register_profile("patient", deadline=None)
hypothesis_settings.load_profile("patient")


def pytest_collection_finish():
    """What was imported and collected stays. Each training begins with a look for garbage, which need
    not go through these objects, hundreds of thousands."""
    gc.freeze()


@pytest.fixture(autouse=True)
def data_dir(settings, tmp_path):
    """Files go to a folder of the test's own; no HTTPS; hashing a password takes no time, and neither
    does a new client: it need not look at all static files before its first request."""
    settings.DATA_DIR = settings.FILE_UPLOAD_TEMP_DIR = tmp_path
    settings.EXPORTS_DIR = tmp_path / "exports"
    settings.RUNS_DIR = tmp_path / "runs"
    settings.MODELS_DIR = tmp_path / "models"
    settings.DATASETS_DIR = tmp_path / "datasets"
    settings.PROMPTS_DIR = tmp_path / "prompts"
    settings.DOCUMENTS_DIR = tmp_path / "documents"
    settings.SECURE_SSL_REDIRECT = False
    settings.RUN_COMMAND = PLAIN  # whatever sandbox this machine allows
    settings.SCREEN_FIRST = settings.SUITE_AFTER_TRAINING = False  # each would be one more run
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.WHITENOISE_AUTOREFRESH = True
    return tmp_path


def make_once(tmp_path_factory, name, make):
    """What `make` writes to the path that it is given, made by the first process that wants it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes of this session
    path = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = folder / f"unfinished-{name}"
            make(unfinished)
            unfinished.rename(path)
    return path


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """A SQLite file with all tables and nothing in them."""
    return make_once(tmp_path_factory, "migrated.sqlite3", migrate)


def migrate(path):
    environment = os.environ | {"DATABASE_URL": f"sqlite:///{path}"}
    command = [sys.executable, "manage.py", "migrate", "-v0"]
    subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, check=True)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The tiny model, to be read only."""
    return make_once(tmp_path_factory, "tiny", make_tiny_model)


def make_tiny_model(path):
    import torch  # noqa: PLC0415 (takes seconds, and most tests need none)

    from rlhf.training.tiny import build_tiny_model  # noqa: PLC0415

    torch.set_num_threads(1)  # the same weights whoever makes them
    build_tiny_model(path)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings, request):
    """On SQLite the tests' database begins as a copy of that file. Django migrates it all the same,
    and finds nothing to do."""
    if connection.vendor != "sqlite":
        yield
        return
    name = connection.creation._get_test_db_name()
    with (
        closing(sqlite3.connect(request.getfixturevalue("migrated"))) as made,
        closing(sqlite3.connect(name, uri=True)) as in_memory,  # as long as somebody has it open
    ):
        made.backup(in_memory)
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """On SQLite a test that commits is cleaned up after by DELETE, which the audit log refuses."""
    with django_db_blocker.unblock():
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute("DROP TRIGGER audit_no_delete")

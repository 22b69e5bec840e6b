"""Settings come from the environment: good defaults, and a bad value stops the start."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from environs import EnvError

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("PREFERENDUM_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFERENDUM_DATA_DIR", str(tmp_path / "data"))


def read_settings():
    return runpy.run_path(str(ROOT / "config/settings.py"))


def test_defaults_are_those_of_a_server(tmp_path):
    settings = read_settings()

    assert settings["DEBUG"] is False
    assert settings["SECURE_SSL_REDIRECT"] is True
    assert settings["SESSION_COOKIE_SECURE"] is True
    assert settings["DATABASES"]["default"]["NAME"] == str(tmp_path / "data/db.sqlite3")


def test_deploy_check_has_no_warnings(tmp_path):
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]

    # The browser tests set this one in their own process, and Django warns of it.
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_ALLOW_ASYNC_UNSAFE"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "oops"),
        ("PREFERENDUM_DATA_DIR", "/proc/none/such"),
        ("PREFERENDUM_DEBUG", "maybe"),
        ("PREFERENDUM_HOSTS", ""),
        ("PREFERENDUM_HSTS_SECONDS", "-1"),
        ("PREFERENDUM_IMPORT_MAX_MIB", "0"),
        ("PREFERENDUM_LOG_LEVEL", "loud"),
        ("PREFERENDUM_ORIGINS", "example.org"),
        ("PREFERENDUM_REDIS_URL", "localhost"),
        ("PREFERENDUM_REWARD_FUNCTIONS", "rewards.py:score"),
        ("PREFERENDUM_RUN_COMMAND", "sbatch"),
        ("PREFERENDUM_RUN_COMMAND", "sbatch {run_dir} {user}"),
        ("PREFERENDUM_RUN_MEMORY_LIMIT_MIB", "lots"),
        ("PREFERENDUM_RUN_NICENESS", "-5"),
        ("PREFERENDUM_RUN_TIME_LIMIT_HOURS", "0"),
        ("PREFERENDUM_SECRET_KEY", "short"),
        ("PREFERENDUM_TIME_ZONE", "Mars"),
    ],
)
def test_bad_value_stops_the_start_and_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    with pytest.raises((EnvError, ImproperlyConfigured), match=name):
        read_settings()


def test_secret_key_is_made_once_and_kept_private(tmp_path):
    first = read_settings()["SECRET_KEY"]

    assert read_settings()["SECRET_KEY"] == first
    assert (tmp_path / "data/secret_key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret_key"]


def test_empty_secret_key_file_is_an_error(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/secret_key").touch()

    with pytest.raises(ImproperlyConfigured, match="secret_key is empty"):
        read_settings()


def test_lists_may_have_spaces(monkeypatch):
    monkeypatch.setenv("PREFERENDUM_HOSTS", "one.example, two.example")

    assert read_settings()["ALLOWED_HOSTS"] == ["one.example", "two.example"]


def test_redis_replaces_the_database_as_broker(monkeypatch):
    monkeypatch.setenv("PREFERENDUM_REDIS_URL", "redis://localhost:6379/0")

    cluster = read_settings()["Q_CLUSTER"]

    assert ("orm" in cluster, cluster["redis"]) == (False, "redis://localhost:6379/0")

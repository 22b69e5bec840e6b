"""What all tests share."""

import os

import pytest
from django.db import connection
from hypothesis import settings as hypothesis_settings

from rlhf.processes import PLAIN

# Read when torch is first imported. Threads that spin while they wait make everything that wants
# the same cores many times slower: other test workers, a browser, the run that a test watches.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine is no reason to fail: examples are judged by their result, not by their time.
hypothesis_settings.register_profile("patient", deadline=None)
hypothesis_settings.load_profile("patient")


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


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """On SQLite a test that commits is cleaned up after by DELETE, which the audit log refuses."""
    with django_db_blocker.unblock():
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute("DROP TRIGGER audit_no_delete")

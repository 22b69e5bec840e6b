"""What the session of an import is told, and that nobody else's is."""

import gc

import pytest
from django.db import connection, transaction

from annotator import bulk

pytestmark = pytest.mark.django_db(transaction=True)

SETTINGS = {
    "sqlite": ("PRAGMA cache_size", "PRAGMA wal_autocheckpoint"),
    "postgresql": ("SHOW enable_seqscan", "SHOW synchronous_commit"),
}
MEANWHILE = {"sqlite": [-bulk.CACHE_KIB, 0], "postgresql": ["off", "off"]}


def settings():
    with connection.cursor() as cursor:
        return [cursor.execute(ask).fetchone()[0] for ask in SETTINGS[connection.vendor]]


def test_the_session_is_as_it_was_after_the_last_batch():
    before = settings()

    with bulk.many_batches():
        with transaction.atomic():
            bulk.begin_batch()
            meanwhile = settings()
        bulk.end_batch(bulk.BETWEEN_CHECKPOINTS)

    assert meanwhile == MEANWHILE[connection.vendor]
    assert settings() == before


def fail_while_storing():
    with bulk.many_batches(), transaction.atomic():
        bulk.begin_batch()
        raise ZeroDivisionError


def test_the_session_is_as_it_was_after_a_failure():
    before = settings()

    with pytest.raises(ZeroDivisionError):
        fail_while_storing()

    assert (settings(), gc.get_freeze_count()) == (before, 0)

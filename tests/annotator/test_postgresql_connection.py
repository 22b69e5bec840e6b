import dj_database_url
import pytest
from django.db import ConnectionHandler

from tests.postgresql import find_initdb, private_cluster

pytestmark = pytest.mark.django_db  # or the tests may open no connection at all


@pytest.fixture(scope="module")
def server():
    if (initdb := find_initdb()) is None:
        pytest.skip("PostgreSQL is not installed")
    with private_cluster(initdb) as url:
        yield dj_database_url.parse(url) | {"ENGINE": "annotator.postgresql"}


@pytest.fixture
def connections(server):
    handler = ConnectionHandler({"default": server, "other": server})
    yield handler
    handler.close_all()


def ask(connection, sql):
    with connection.cursor() as cursor:
        return cursor.execute(sql).fetchone()[0]


def test_a_connection_is_used_until_the_server_ends_it(connections):
    mine, other = connections["default"], connections["other"]
    pid = ask(mine, "SELECT pg_backend_pid()")
    assert mine.is_usable()

    assert ask(other, f"SELECT pg_terminate_backend({pid}, 5000)")  # waits until it has

    assert not mine.is_usable()


def test_a_closed_connection_is_not_used(connections):
    ask(connections["default"], "SELECT 1")
    connections["default"].connection.close()

    assert not connections["default"].is_usable()

"""A cycle of the queue is as much work however much there is: nothing reads a whole table."""

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from annotator import assignment as queue
from annotator.models import (
    Assignment,
    Comparison,
    ComparisonCompletion,
    Completion,
    Judgment,
    Prompt,
    Purpose,
    QueueOrder,
)
from annotator.protocols import PRESETS, to_json
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
)

pytestmark = pytest.mark.django_db
LARGE = {
    model._meta.db_table
    for model in (Prompt, Completion, Comparison, ComparisonCompletion, Assignment, Judgment)
}
IS_SQLITE = connection.vendor == "sqlite"
LOTS = {"known answer": 0.05, "repetition": 0.15, "drawn": 0.3, "in order": 0.9}


@pytest.fixture
def project():
    """Everything is on."""
    return ProjectFactory(
        slug="essays", overlap=2, gold_percent=10, repeat_percent=10, random_percent=50,
        queue_order=QueueOrder.INFORMATIVE, ordered=timezone.now(), qualification_items=2,
        protocol=to_json(PRESETS["qualities"].protocol),
    )  # fmt: skip


@pytest.fixture
def anna(client, project):
    """Signed in."""
    quotas = {"quota_total": 10**6, "quota_per_day": 10**6}
    anna = MembershipFactory(project=project, qualification="passed", **quotas).user
    client.force_login(anna)
    return anna


def ask(sql, params=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else []


def copy(row, n, **columns):
    """So many more rows like this one, the newest of its table, made by the database: the k-th has the
    number row.pk + k. `columns` are those that differ, in SQL."""
    table, quote = row._meta.db_table, connection.ops.quote_name
    names = [field.column for field in row._meta.concrete_fields if not field.primary_key]
    values = [columns.get(name, quote(name)) for name in names]
    ask(
        f"INSERT INTO {table} ({', '.join(map(quote, names))}) WITH RECURSIVE numbers(k) AS "
        f"(SELECT 1 UNION ALL SELECT k + 1 FROM numbers WHERE k < {n}) "
        f"SELECT {', '.join(values)} FROM {table}, numbers WHERE id = {row.pk}"
    )


def add(n, project):
    """Comparisons, and the one that they are copies of. The first 300 are known answers; of each four
    others two are closed, one is drawn and one has a place. Somebody has judged a fifth of them."""
    comparison = ComparisonFactory(project=project)
    prompt, (first, second) = comparison.prompt, comparison.entries.select_related("completion")
    numbered = {"key": f"'{comparison.pk}-' || k"}
    here = {"comparison_id": f"{comparison.pk} + k"}
    if not IS_SQLITE:  # to look up what each copy refers to would take most of the time
        ask("SET LOCAL session_replication_role = replica")
    copy(prompt, n, **numbered)
    copy(
        comparison, n, **numbered, prompt_id=f"{prompt.pk} + k", draw=f"(k * 7919 % {n}) / {n}.0",
        purpose="CASE WHEN k <= 300 THEN 'gold' ELSE 'training' END",
        overlap="CASE WHEN k <= 300 THEN 0 ELSE 2 END",
        taken="CASE WHEN k > 300 AND k % 2 = 1 THEN 2 ELSE 0 END",
        place="CASE WHEN k > 300 AND k % 4 = 0 THEN k / 1.0 END",
    )  # fmt: skip
    copy(second.completion, n, prompt_id=f"{prompt.pk} + k")
    copy(second, n, **here, completion_id=f"{second.completion_id} + k")
    newest = ComparisonCompletion.objects.latest("pk")
    copy(newest, n, **here, position="0", completion_id=str(first.completion_id))
    judge(n // 5, comparison, UserFactory())
    if not IS_SQLITE:
        ask("SET LOCAL session_replication_role = origin")
        ask("ANALYZE")  # as the database does by itself
    return comparison


def judge(n, comparison, annotator):
    """So many of its copies, and itself."""
    judgment = make_judgment(comparison, annotator)
    copied = {"comparison_id": f"{comparison.pk} + 300 + k"}
    copy(judgment.assignment, n, **copied)
    copy(judgment, n, **copied, assignment_id=f"{judgment.assignment_id} + k")


def work(client, anna, monkeypatch):
    """The page is opened, each kind of comparison comes after a verdict, and what is left is counted.
    Gives back which kinds came."""
    project, kinds = anna.memberships.get().project, []
    client.get(reverse("annotator:compare", args=["essays"]))
    for lot in LOTS.values():
        monkeypatch.setattr("annotator.assignment.claiming.random.random", lambda lot=lot: lot)
        held = queue.held_by(project, anna)
        sent = {"assignment": held.pk, "payload_hash": held.payload_hash, "choice": "all_bad"}
        client.post(
            reverse("annotator:judge", args=["essays"]),
            sent | {"progress": "1/90", "first_interaction_ms": "0"},
            headers={"HX-Request": "true"},
        )
        kinds.append(kind_of(queue.held_by(project, anna)))
    client.get(reverse("annotator:so_far", args=["essays"]))
    return kinds


def kind_of(held):
    if held.comparison.purpose == Purpose.GOLD:
        return "known answer"
    if held.is_repeat:
        return "repetition"
    return "drawn" if held.comparison.place is None else "in order"


def read_whole(sql, params):
    """What the database would read from end to end for this statement, or make an index of first."""
    if not IS_SQLITE:
        [[[explained]]] = ask(f"EXPLAIN (FORMAT JSON) {sql}", params)
        return list(sequential_scans(explained["Plan"]))
    steps = [row[-1] for row in ask(f"EXPLAIN QUERY PLAN {sql}", params)]
    results = ("CO-ROUTINE ", "MATERIALIZE ")  # of subqueries: what they read has steps of its own
    made = {step.split()[1] for step in steps if step.startswith(results)}
    scans = [step for step in steps if step.startswith("SCAN ") and step.split()[1] not in made]
    return scans + [step for step in steps if "AUTOMATIC" in step]


def sequential_scans(node):
    """Of large tables; for one of a few rows an index would be more work."""
    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE:
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from sequential_scans(child)


def test_every_statement_of_a_cycle_finds_its_rows_by_an_index(client, project, anna, monkeypatch):
    judge(1000, add(100_000, project), anna)
    statements = {}

    def note(execute, sql, params, many, context):
        if sql.startswith(("SELECT", "UPDATE")):
            statements[sql] = params
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        kinds = work(client, anna, monkeypatch)

    assert kinds == list(LOTS)
    assert {
        sql: found for sql, params in statements.items() if (found := read_whole(sql, params))
    } == {}
    assert len(statements) > 15


def test_a_statement_that_reads_a_whole_table_is_seen(anna):
    sql, params = Comparison.objects.filter(explanation="So.").query.sql_with_params()

    assert len(read_whole(sql, params)) == 1


@pytest.mark.skipif(not IS_SQLITE, reason="it counts the steps of SQLite's machine")
def test_a_cycle_takes_as_many_steps_of_the_database_with_ten_times_as_much(
    client, project, anna, monkeypatch
):
    """From so many on that no count goes to the end."""
    judge(100, add(4000, project), anna)
    before = steps_of(lambda: work(client, anna, monkeypatch))

    add(40_000, project)
    after = steps_of(lambda: work(client, anna, monkeypatch))

    assert after < 1.2 * before, (before, after)


def steps_of(act):
    """In tens."""
    steps = []
    connection.connection.set_progress_handler(lambda: steps.append(1), 10)
    act()
    connection.connection.set_progress_handler(None, 0)
    return len(steps)

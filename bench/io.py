"""Rows per second and peak memory of an import or an export.

    python bench/io.py --rows N --direction import|export [--format jsonl|csv|parquet|datasets]
        [--db sqlite|postgres] [--overlap 1] [--shape reward|dpo|kto|sft|votes] [--web]

Each setting has a database of its own: a new SQLite file, or a private PostgreSQL cluster with its
default settings. What is measured runs in a process of its own, which does nothing else: its clock
runs from the call to the return, and its peak is the high water mark of its resident memory, so with
Python, Django and what it imports. That of the largest process that checks the rows of a long file beside
it is `peak_rss_mib_beside`; `peak_rss_mib_together` is the sum of all their peaks, as if these came at
one time, and with what they share counted for each. Import: a file of N comparisons of two answers goes in. Export: N
judgments, `--overlap` of each comparison, are frozen and written in the format; a format other than
jsonl, or a shape other than reward, is made of the frozen files, and that time is counted as well.
The texts are the demo's, each question with a number before it.

`cpu_s` is the time on a processor, which says more where other programs want it too; with that of the
processes that check rows. With
--web the Procfile's web process runs beside, and up to ten times a second somebody sends a verdict and gets the
next comparison (`next_p95_ms`), and loads the page that lists the comparisons (`page_p95_ms`): first
while rows go in or out, then idle, when what was imported is there to be shown. They compare in the
project into which rows go; what is exported stays as it is, so beside an export they do it in another
one. Prints one JSON line.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: there this file would hide the standard library's io

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from bench.queue import (
    Browser,
    copy_all,
    database,
    fill,
    numbered,
    prepare_django,
    read_form,
    settle,
    sign_in,
    web_server,
)

FORMATS = ("jsonl", "csv", "parquet", "datasets")
IMPORTED = 1000  # comparisons; what there are more is copied
OPEN = 5000  # comparisons for who compares meanwhile: ten a second for minutes
PAGE = "/projects/bench/comparisons/"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--format", choices=FORMATS, default="jsonl")
    parser.add_argument("--direction", choices=["import", "export"], required=True)
    parser.add_argument("--db", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--overlap", type=int, default=1)
    parser.add_argument("--shape", default="reward")
    parser.add_argument("--web", action="store_true")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)  # the inner process
    arguments = parser.parse_args()
    comparisons, rest = divmod(arguments.rows, arguments.overlap)
    if arguments.direction == "export" and (
        rest or (comparisons > IMPORTED and comparisons % IMPORTED)
    ):
        parser.error(f"--rows / --overlap must be at most {IMPORTED}, or a multiple of it")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure), arguments)))
        return
    with tempfile.TemporaryDirectory() as folder, database(arguments.db, folder) as url:
        prepare_django(url, folder)
        prepare(Path(folder), arguments)
        measured = measured_apart(folder, arguments)
    wanted = ("direction", "format", "shape", "db", "rows", "overlap")
    settings = {name: getattr(arguments, name) for name in wanted}
    print(json.dumps({"bench": "io", **settings, **measured}), flush=True)


# --- before -------------------------------------------------------------------------------------
def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    from django.db import connection

    from annotator.models import Project

    random.seed(0)
    project = Project.objects.create(name="Bench", slug="bench", overlap=arguments.overlap)
    if arguments.direction == "import":
        write_comparisons(folder, arguments.rows, arguments.format)
    else:
        comparisons = arguments.rows // arguments.overlap
        fill(project, min(comparisons, IMPORTED))
        if comparisons > IMPORTED:
            copy_all(comparisons // IMPORTED - 1)
        judge_all(project, arguments.overlap)
        count_on()
    if arguments.web:
        add_open(place_to_compare(arguments))
    settle()
    connection.close()


def count_on() -> None:
    """PostgreSQL's next keys come after those of rows that the database has copied."""
    from django.apps import apps
    from django.core.management.color import no_style
    from django.db import connection

    models = apps.get_app_config("annotator").get_models()
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), models):
            cursor.execute(statement)


def write_comparisons(folder: Path, n: int, format_name: str) -> None:
    from annotator.exports.files import convert, write_dataset
    from annotator.exports.schemas import MESSAGES

    path = folder / "rows.jsonl"
    demo = [json.loads(line) for line in (ROOT / "rlhf/demo/comparisons.jsonl").open()]
    with path.open("w") as file:
        for number, entry in enumerate(itertools.islice(itertools.cycle(demo), n)):
            *before, last = entry["prompt"]
            prompt = [*before, last | {"content": f"{number}. {last['content']}"}]
            row = {"prompt": prompt, "completions": entry["completions"], "split": "train"}
            file.write(json.dumps(row) + "\n")
    columns = {"prompt": MESSAGES, "completions": ["string"], "split": "string"}
    if format_name == "datasets":
        write_dataset(path, columns, folder / "rows.datasets")
    elif format_name != "jsonl":
        convert(path, columns, format_name, folder / f"rows.{format_name}")


def place_to_compare(arguments: argparse.Namespace):
    """The project in which somebody compares meanwhile."""
    from annotator.models import Project

    slug = "bench" if arguments.direction == "import" else "beside"
    return Project.objects.get_or_create(slug=slug, defaults={"name": slug.title()})[0]


def add_open(project) -> None:
    """Comparisons that nobody has judged, and that are none of the file."""
    from annotator.importing import import_jsonl

    demo = map(json.loads, (ROOT / "rlhf/demo/comparisons.jsonl").open())
    entries = itertools.islice(itertools.cycle(demo), OPEN)
    import_jsonl(project, (numbered(entry, 10**9 + n) for n, entry in enumerate(entries)))


def judge_all(project, n_annotators: int) -> None:
    """A vote of each annotator on each comparison, made by the database: Python would take long.

    The answer with the even number wins.
    """
    from django.db import connection

    from annotator.models import User

    for n in range(n_annotators):
        User.objects.create(username=f"judge-{n}")
    is_sqlite = connection.vendor == "sqlite"
    as_json = "TEXT" if is_sqlite else "jsonb"
    false = "0" if is_sqlite else "false"
    columns = {
        "comparison_id": "c.id",
        "project_id": "c.project_id",
        "annotator_id": "u.id",
        "guideline_version": "1",
        "is_repeat": false,
        "created": "CURRENT_TIMESTAMP",
    }
    shown = f"CAST('[' || a.completion_id || ', ' || b.completion_id || ']' AS {as_json})"
    first = "CASE WHEN a.completion_id % 2 = 0 THEN a.completion_id ELSE b.completion_id END"
    second = "CASE WHEN a.completion_id % 2 = 0 THEN b.completion_id ELSE a.completion_id END"
    ranking = f"CAST('[[' || {first} || '], [' || {second} || ']]' AS {as_json})"
    empty = {
        name: f"CAST('{value}' AS {as_json})" for name, value in (("map", "{}"), ("list", "[]"))
    }
    assignment = columns | {
        "is_qualification": false,
        '"order"': shown, "payload_hash": "''", "state": "'judged'", "protocol": empty["map"],
        "draft": empty["map"], "lease_until": "CURRENT_TIMESTAMP", "ui_version": "''",
    }  # fmt: skip
    judgment = columns | {
        "assignment_id": "s.id", "verdict": "'ranking'", "ranking": ranking,
        "criteria": empty["map"], "rationale": "''", "reasons": empty["list"],
        "flags": empty["map"], "spans": empty["list"], "rewrite": "''", "seconds": "7.5",
    }  # fmt: skip
    tables = (
        "annotator_comparison c "
        "JOIN annotator_comparisoncompletion a ON a.comparison_id = c.id AND a.position = 0 "
        "JOIN annotator_comparisoncompletion b ON b.comparison_id = c.id AND b.position = 1 "
        "CROSS JOIN annotator_user u"
    )
    judges = "u.username LIKE 'judge-%'"
    with connection.cursor() as cursor:
        insert(cursor, "annotator_assignment", assignment, f"{tables} WHERE {judges}")
        own = "JOIN annotator_assignment s ON s.comparison_id = c.id AND s.annotator_id = u.id"
        insert(cursor, "annotator_judgment", judgment, f"{tables} {own} WHERE {judges}")
        cursor.execute("UPDATE annotator_comparison SET taken = overlap")


def insert(cursor, table: str, columns: dict[str, str], source: str) -> None:
    names, values = ", ".join(columns), ", ".join(columns.values())
    cursor.execute(f"INSERT INTO {table} ({names}) SELECT {values} FROM {source}")  # noqa: S608


# --- what is measured -----------------------------------------------------------------------------
def measured_apart(folder: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", folder]

    def run() -> dict[str, float]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        beside: dict[int, int] = {}
        while process.poll() is None:
            # The last value counts: until it runs a program of its own, a child has its parent's peak.
            beside |= {pid: peak for pid in children_of(process.pid) if (peak := peak_mib(pid))}
            time.sleep(0.05)
        if process.returncode:
            sys.exit(f"What was measured ended with {process.returncode}.")
        found: dict[str, float] = json.load(process.stdout)
        return found | {
            "peak_rss_mib_beside": max(beside.values(), default=0),
            "peak_rss_mib_together": found["peak_rss_mib"] + sum(beside.values()),
        }

    if not arguments.web:
        return run()
    with visitor(arguments) as p95_of:
        busy, measured = p95_of(run)
        idle, _ = p95_of(lambda: time.sleep(20))
    return measured | {f"{name}_idle": p95 for name, p95 in idle.items()} | busy


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread is over
            found += map(int, children.read_text().split())
    return found


def peak_mib(pid: int) -> int:
    """The high water mark of its resident memory; 0 once it has ended. Of `getrusage` the one that has
    started it would be part."""
    with suppress(OSError):
        if mark := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()):
            return int(mark[1]) // 1024
    return 0


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    import django

    django.setup()
    from annotator.models import Project
    from annotator.priority import give_way

    project = Project.objects.get(slug="bench")
    give_way()  # as the worker and the commands do
    act = take_in if arguments.direction == "import" else give_out
    cpu, began = cpu_seconds(), time.perf_counter()
    n = act(project, folder, arguments)
    took = time.perf_counter() - began
    assert n == arguments.rows, n
    return {
        "seconds": round(took, 2),
        "cpu_s": round(cpu_seconds() - cpu, 2),
        "rows_per_s": round(n / took),
        "peak_rss_mib": peak_mib(os.getpid()),
    }


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def take_in(project, folder: Path, arguments: argparse.Namespace) -> int:
    from annotator.formats.reading import open_rows
    from annotator.importing import import_rows

    path = folder / f"rows.{arguments.format}"
    # What `datasets` saves is a folder of splits, of which one is a data set.
    with open_rows(path / "train" if arguments.format == "datasets" else path) as rows:
        return import_rows(project, rows).comparisons


def give_out(project, folder: Path, arguments: argparse.Namespace) -> int:
    from annotator.exporting import create_export
    from annotator.exports.derived import derive

    export = create_export(project)
    derive(export, arguments.shape, arguments.format)
    return export.n_judgments


# --- who compares meanwhile -----------------------------------------------------------------------
@contextmanager
def visitor(arguments: argparse.Namespace):
    """A function that calls another, and gives the 95th percentiles of milliseconds meanwhile and
    what was returned."""
    from django.db import connection

    from annotator.models import Membership, Project, Role, User

    session = sign_in(Project.objects.get(slug="bench"), "visitor")
    user, project = User.objects.get(username="visitor"), place_to_compare(arguments)
    Membership.objects.get_or_create(project=project, user=user)
    Membership.objects.filter(user=user).update(role=Role.ADMIN)
    connection.close()
    with web_server() as (port, _), ThreadPoolExecutor(1) as thread:

        def p95_of(call):
            is_over = threading.Event()
            visits = visit(Browser(port, session), f"/projects/{project.slug}/compare/", is_over)
            visited = thread.submit(asyncio.run, visits)
            try:
                returned = call()
            finally:
                is_over.set()
            return {
                f"{name}_p95_ms": p95(taken) for name, taken in visited.result().items()
            }, returned

        yield p95_of


def p95(seconds: list[float]) -> float | None:
    """In milliseconds; None of what was over too soon."""
    return round(1000 * statistics.quantiles(seconds, n=20)[-1], 1) if len(seconds) > 1 else None


async def visit(browser: Browser, path: str, is_over: threading.Event) -> dict[str, list[float]]:
    """The seconds that each answer took. The first ones, for which the server is warmed up, do not count."""
    taken: dict[str, list[float]] = {"next": [], "page": []}
    browser.reader, browser.writer = await asyncio.open_connection("127.0.0.1", browser.port)

    async def load(name: str, *request) -> str:
        began = time.perf_counter()
        _, page = await browser.request(*request)
        taken[name].append(time.perf_counter() - began)
        return page

    page = await load("next", "GET", path)
    await load("page", "GET", PAGE)
    for seconds in taken.values():
        seconds.clear()
    while not is_over.is_set():
        form = read_form(page)
        if form is None:
            raise SystemExit("There is nothing left to compare.")
        page = await load("next", "POST", f"{path}judge/", form)
        if not re.search(r"<title>\s*Comparisons", await load("page", "GET", PAGE)):
            raise SystemExit("The page does not show the comparisons.")
        await asyncio.sleep(0.1)
    browser.writer.close()
    return taken


if __name__ == "__main__":
    main()

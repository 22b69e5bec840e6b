"""Rows per second and peak memory of an import or an export.

    python bench/io.py --rows N --direction import|export [--format jsonl|csv|parquet|datasets]
        [--db sqlite|postgres] [--overlap 1] [--shape reward|dpo|kto|sft|votes] [--web]

Each setting has a database of its own: a new SQLite file, or a private PostgreSQL cluster with its
default settings. What is measured runs in a process of its own, which does nothing else: its clock
runs from the call to the return, and its peak is the high water mark of its resident memory, so with
Python, Django and what it imports. Import: a file of N comparisons of two answers goes in. Export: N
judgments, `--overlap` of each comparison, are frozen and written in the format; a format other than
jsonl, or a shape other than reward, is made of the frozen files, and that time is counted as well.
The texts are the demo's, each question with a number before it.

`cpu_s` is the time on a processor, which says more where other programs want it too; with that of the
processes that check the rows of a long file, of which the largest has `peak_rss_mib_beside`. With
--web the Procfile's web process runs beside, and `page_p95_ms` is that of the comparing page for one
person who loads it ten times a second: first while rows go in or out, then idle, when what was imported
is there to be shown. Prints one JSON line.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: there this file would hide the standard library's io

import argparse
import itertools
import json
import random
import re
import resource
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager

from bench.queue import copy_all, database, fill, prepare_django, settle, sign_in, web_server

FORMATS = ("jsonl", "csv", "parquet", "datasets")
IMPORTED = 1000  # comparisons; what there are more is copied
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
    settle()
    connection.close()


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
        "draft": empty["map"], "lease_until": "CURRENT_TIMESTAMP",
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
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    if not arguments.web:
        return run()
    with pages_beside(arguments) as p95_of:
        busy, measured = p95_of(run)
        idle = p95_of(lambda: time.sleep(20))[0]
    return measured | {"page_p95_ms_idle": idle, "page_p95_ms": busy}


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    import django

    django.setup()
    from annotator.models import Project

    project = Project.objects.get(slug="bench")
    act = take_in if arguments.direction == "import" else give_out
    cpu, began = cpu_seconds(), time.perf_counter()
    n = act(project, folder, arguments)
    took = time.perf_counter() - began
    assert n == arguments.rows, n
    return {
        "seconds": round(took, 2),
        "cpu_s": round(cpu_seconds() - cpu, 2),
        "rows_per_s": round(n / took),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_rss_mib_beside": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
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


# --- a page meanwhile ------------------------------------------------------------------------------
@contextmanager
def pages_beside(arguments: argparse.Namespace):
    """A function that calls another, and gives the 95th percentile of a page's milliseconds meanwhile
    and what was returned."""
    from django.db import connection

    from annotator.models import Membership, Project, Role

    project = Project.objects.get(slug="bench")
    session = sign_in(project, "visitor")
    Membership.objects.filter(project=project).update(role=Role.ADMIN)
    connection.close()
    with web_server() as (port, _):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{PAGE}", headers={"Cookie": f"sessionid={session}"}
        )
        load(request)

        def p95_of(call):
            taken: list[float] = []
            is_over = threading.Event()
            visitor = threading.Thread(target=visit, args=(request, taken, is_over))
            visitor.start()
            try:
                returned = call()
            finally:
                is_over.set()
                visitor.join()
            return round(statistics.quantiles(taken, n=20)[-1], 1), returned

        yield p95_of


def visit(request, taken: list[float], is_over: threading.Event) -> None:
    while not is_over.wait(0.1):
        began = time.perf_counter()
        load(request)
        taken.append(1000 * (time.perf_counter() - began))


def load(request) -> None:
    with urllib.request.urlopen(request) as response:  # noqa: S310
        page = response.read().decode()
    if not re.search(r"<title>\s*Comparisons", page):
        sys.exit("The page does not show the comparisons.")


if __name__ == "__main__":
    main()

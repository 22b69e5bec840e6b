"""Cycles per second through the real server: a verdict is sent, the next comparison comes back.

    python bench/queue.py [--db sqlite|postgres] [--tasks 1000,100000,1000000] [--annotators 16]
        [--seconds 30] [--overlap 10] [--ordered]

Each setting has a database of its own: a new SQLite file, or a private PostgreSQL cluster with its
default settings. The comparisons have the demo's questions and answers; the first 1,000 are
imported, the others are copies made inside the database. The Procfile's web process serves them to
signed-in annotators who think for no time at all, all of them in one process that shares the
machine with the server: each posts the page's form as htmx does, and reads the form that comes back.
With --ordered four in five comparisons are asked in an order of questions, for which all compete.

Prints one JSON line a setting. A cycle is one request; the first seconds are not counted.
`queries_per_cycle` is measured in this process, without BEGIN and COMMIT. `web_cpu_ms_per_cycle`,
`database_cpu_ms_per_cycle` (PostgreSQL's processes) and `client_cpu_ms_per_cycle` (this one) are what
they used of the processor, also where other programs want it. `lost` are verdicts that
were said to be recorded and are not in the database, `over_assigned` comparisons that more people
have or had than they need, `out_of_work` annotators who ran out of comparisons. `peak_mib` is the
largest resident memory of a web process so far, when the counting starts and when it ends.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: there this file would hide the standard library's queue

import argparse
import asyncio
import html
import itertools
import json
import os
import random
import re
import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from urllib.parse import urlencode

import psutil

from tests.postgresql import find_initdb, private_cluster

IMPORTED = 1000  # comparisons; what there are more is copied
WARM_UP_SECONDS = 3.0
PATH = "/projects/bench/compare/"
SO_FAR = f"{PATH}so-far/"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--db", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--tasks", default="1000,100000,1000000")
    parser.add_argument("--annotators", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--overlap", type=int, default=10)
    parser.add_argument("--ordered", action="store_true")
    arguments = parser.parse_args()
    arguments.tasks = [int(tasks) for tasks in arguments.tasks.split(",")]
    for tasks in arguments.tasks:
        if tasks < 1 or (tasks > IMPORTED and tasks % IMPORTED):
            parser.error(f"--tasks {tasks}: at most {IMPORTED}, or a multiple of it")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if len(arguments.tasks) > 1:  # Django knows one database per process
        for tasks in arguments.tasks:
            subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--tasks", str(tasks)], check=True
            )
        return
    [tasks] = arguments.tasks
    with tempfile.TemporaryDirectory() as folder, database(arguments.db, folder) as url:
        prepare_django(url, folder)
        print(json.dumps(measure(tasks, arguments)), flush=True)


def database(kind: str, folder: str) -> AbstractContextManager[str]:
    """The URL of an empty one."""
    if kind == "sqlite":
        return nullcontext(f"sqlite:///{folder}/db.sqlite3")
    return private_cluster(find_initdb() or sys.exit("PostgreSQL is not installed"))


def prepare_django(url: str, folder: str) -> None:
    os.environ |= {
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PREFERENDUM_DATA_DIR": folder,
        "PREFERENDUM_HTTPS": "0",
        "PREFERENDUM_LOG_LEVEL": "ERROR",
    }

    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def measure(tasks: int, arguments: argparse.Namespace) -> dict[str, float | int | str]:
    from django.db import connection

    from annotator.models import Judgment, Project
    from rlhf.demo.project import GUIDELINES

    random.seed(0)
    began = time.perf_counter()
    project = Project.objects.create(
        name="Bench", slug="bench", overlap=arguments.overlap, guidelines=GUIDELINES
    )
    fill(project, tasks)
    if arguments.ordered:
        put_in_order(project)
    settle()
    fill_seconds = time.perf_counter() - began
    sessions = [sign_in(project, f"annotator-{n}") for n in range(arguments.annotators)]
    queries = queries_per_cycle(sessions[0])
    recorded_before = Judgment.objects.count()
    connection.close()
    with web_server() as (port, workers):
        browsers = [Browser(port, session) for session in sessions]
        asyncio.run(work(browsers, WARM_UP_SECONDS))
        told = sum(len(browser.seconds) for browser in browsers)
        for browser in browsers:
            browser.seconds.clear()
        peak_start, cpu_before = peak_mib(workers()), cpu_seconds(workers())
        began = time.perf_counter()
        asyncio.run(work(browsers, arguments.seconds))
        took = time.perf_counter() - began
        peak_end, cpu_after = peak_mib(workers()), cpu_seconds(workers())
    milliseconds = [1000 * seconds for browser in browsers for seconds in browser.seconds]
    percentiles = statistics.quantiles(milliseconds, n=100)
    told += len(milliseconds)
    return {
        "bench": "queue",
        "db": arguments.db,
        "tasks": tasks,
        "annotators": arguments.annotators,
        "overlap": arguments.overlap,
        "ordered": arguments.ordered,
        "cycles": len(milliseconds),
        "cycles_per_s": round(len(milliseconds) / took, 1),
        "p50_ms": round(percentiles[49], 1),
        "p95_ms": round(percentiles[94], 1),
        "p99_ms": round(percentiles[98], 1),
        "errors": sum(browser.errors for browser in browsers),
        "lost": told - (Judgment.objects.count() - recorded_before),
        **{
            f"{who}_cpu_ms_per_cycle": round(1000 * (used - before) / len(milliseconds), 1)
            for who, used, before in zip(
                ("web", "database", "client"), cpu_after, cpu_before, strict=True
            )
        },
        "queries_per_cycle": queries,
        "over_assigned": over_assigned(),
        "out_of_work": sum(browser.form is None for browser in browsers),
        "peak_mib_start": peak_start,
        "peak_mib_end": peak_end,
        "fill_seconds": round(fill_seconds, 1),
    }


# --- the comparisons ----------------------------------------------------------------------------
def fill(project, tasks: int) -> None:
    from annotator.importing import import_jsonl

    demo = (ROOT / "rlhf/demo/comparisons.jsonl").read_text().splitlines()
    entries = itertools.islice(itertools.cycle(map(json.loads, demo)), min(tasks, IMPORTED))
    import_jsonl(project, (numbered(entry, n) for n, entry in enumerate(entries)))
    if tasks > IMPORTED:
        copy_all(tasks // IMPORTED - 1)


def numbered(entry: dict, n: int) -> bytes:
    """The same question is a new one, so that it is a comparison of its own."""
    *before, last = entry["prompt"]
    prompt = [*before, last | {"content": f"{n}. {last['content']}"}]
    return json.dumps({"prompt": prompt, "completions": entry["completions"]}).encode()


def copy_all(times: int) -> None:
    """`times` copies of all there is, made by the database: Python would take an hour for a million."""
    from django.db import connection

    from annotator.models import Comparison, ComparisonCompletion, Completion, Prompt

    models = [Prompt, Completion, Comparison, ComparisonCompletion]
    rows = {model: model.objects.count() for model in models}  # their keys are 1 … rows
    is_sqlite = connection.vendor == "sqlite"
    special = {
        "key": "n || '-' || substr(key, 1, 50)",
        "draw": "abs(random()) / 9223372036854775808.0" if is_sqlite else "random()",
    }

    def value(field) -> str:
        model = field.model if field.primary_key else field.related_model
        if model in rows:
            return f"{field.column} + n * {rows[model]}"
        return special.get(field.column, field.column)

    with connection.cursor() as cursor:
        # Checking that each copy refers to copies would take most of the time.
        cursor.execute(
            "PRAGMA foreign_keys = OFF" if is_sqlite else "SET session_replication_role = replica"
        )
        for model in models:
            fields, table = model._meta.concrete_fields, model._meta.db_table
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(field.column for field in fields)}) "  # noqa: S608
                "WITH RECURSIVE copy(n) AS "
                f"(SELECT 1 UNION ALL SELECT n + 1 FROM copy WHERE n < {times}) "
                f"SELECT {', '.join(map(value, fields))} FROM {table}, copy"
            )


def put_in_order(project) -> None:
    """As after a run that orders questions: the active arm has places, all of it is unasked."""
    from django.db.models import F
    from django.utils import timezone

    from annotator.models import Arm, QueueOrder

    project.queue_order, project.ordered = QueueOrder.INFORMATIVE, timezone.now()
    project.save()
    project.comparisons.filter(draw__lt=0.8).update(arm=Arm.ACTIVE, place=F("draw"))


def settle() -> None:
    """What the database, and the system with its files, do by themselves within minutes."""
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("VACUUM ANALYZE")
            cursor.execute("CHECKPOINT")
        else:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    os.sync()


def over_assigned() -> int:
    from django.db.models import Count, F

    from annotator.models import Assignment, AssignmentState

    places = Assignment.objects.filter(state__in=[AssignmentState.LIVE, AssignmentState.JUDGED])
    used = places.values("comparison").annotate(used=Count("pk"))
    return used.filter(used__gt=F("comparison__overlap")).count()


# --- the annotators -----------------------------------------------------------------------------
def sign_in(project, username: str) -> str:
    """A new member's session."""
    from django.conf import settings
    from django.test import Client

    from annotator.models import Membership, User

    user = User.objects.create_user(username)
    Membership.objects.create(project=project, user=user)
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def queries_per_cycle(session: str, cycles: int = 10) -> float:
    from django.conf import settings
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    client = Client(SERVER_NAME="localhost")
    client.cookies[settings.SESSION_COOKIE_NAME] = session
    form = read_form(client.get(PATH).content.decode())
    with CaptureQueriesContext(connection) as captured:
        for _ in range(cycles):
            answer = client.post(f"{PATH}judge/", form, headers={"HX-Request": "true"})
            form = read_form(answer.content.decode())
    control = ("BEGIN", "COMMIT")
    counted = [query for query in captured if not query["sql"].startswith(control)]
    return len(counted) / cycles


def read_form(page: str) -> dict[str, str] | None:
    """The hidden fields of the form for the verdict, and a verdict; None if nothing is left."""
    form = re.search(r'<form id="verdict".*?</form>', page, re.DOTALL)
    if form is None:
        return None
    chosen = random.choice(["first", "second"])
    return hidden_fields(form[0]) | read_so_far(page) | {"choice": chosen}


def read_so_far(page: str) -> dict[str, str]:
    """The field of the form that says how much is done: it stands where the page shows that."""
    inputs = re.findall(r'<input [^>]* form="verdict">', page)
    return hidden_fields("".join(inputs))


def hidden_fields(page: str) -> dict[str, str]:
    fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page)
    return {name: html.unescape(value) for name, value in fields}


class Browser:
    """One annotator's connection: keeps it, the cookies and the form, and how long answers took."""

    def __init__(self, port: int, session: str) -> None:
        self.port = port
        self.cookies = {"sessionid": session}
        self.form: dict[str, str] | None = None
        self.seconds: list[float] = []
        self.errors = 0

    async def work(self, until: float) -> None:
        """Open the page, and judge what comes until then."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        _, page = await self.request("GET", PATH)
        self.form = read_form(page)
        while self.form and time.perf_counter() < until:
            began = time.perf_counter()
            status, page = await self.request("POST", f"{PATH}judge/", self.form)
            if status == 200:
                self.seconds.append(time.perf_counter() - began)
            else:
                self.errors += 1
            self.form = read_form(page)
            if self.form and SO_FAR in page:  # as a browser does by itself, while one reads
                self.form |= read_so_far((await self.request("GET", SO_FAR))[1])
        self.writer.close()

    async def request(self, method: str, path: str, form: dict[str, str] | None = None):
        body = urlencode(form or {})
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Cookie: " + "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
        ]
        if form:
            lines += [
                "HX-Request: true",
                "Content-Type: application/x-www-form-urlencoded",
                f"Content-Length: {len(body)}",
            ]
        self.writer.write("\r\n".join([*lines, "", body]).encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        for name, value in re.findall(r"(?im)^set-cookie: (\w+)=([^;]*)", head):
            self.cookies[name] = value
        length = int(re.search(r"(?im)^content-length: (\d+)", head)[1])
        page = (await self.reader.readexactly(length)).decode()
        return int(head.split()[1]), page


async def work(browsers: list[Browser], seconds: float) -> None:
    until = time.perf_counter() + seconds
    await asyncio.gather(*(browser.work(until) for browser in browsers))


# --- the server ---------------------------------------------------------------------------------
@contextmanager
def web_server():
    """The Procfile's web process on a free port, and a function that finds its workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    procfile = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    binaries = Path(sys.executable).parent
    environment = {
        "PREFERENDUM_BIND": f"127.0.0.1:{port}",
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    master = subprocess.Popen(procfile["web"], shell=True, cwd=ROOT, env=os.environ | environment)  # noqa: S602
    try:
        wait_for(port)
        yield port, psutil.Process(master.pid).children
    finally:
        master.terminate()
        master.wait()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit("The web process does not answer.")
            time.sleep(0.1)


def cpu_seconds(workers: list[psutil.Process]) -> tuple[float, float, float]:
    """That the web processes, PostgreSQL's and this one have used so far."""
    from django.db import connection

    database: list[psutil.Process] = []
    if connection.vendor == "postgresql":
        folder = connection.settings_dict["HOST"]
        running = psutil.process_iter(["name", "cmdline"])
        [master] = [p for p in running if f"{folder}/data" in (p.info["cmdline"] or [])]
        database = [master, *master.children()]
    web, served = (
        sum(sum(process.cpu_times()[:2]) for process in processes)
        for processes in (workers, database)
    )
    return web, served, time.process_time()


def peak_mib(processes: list[psutil.Process]) -> int:
    """Of the largest of them: what the kernel calls the high water mark of resident memory."""
    marks = [
        re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[1]
        for process in processes
    ]
    return max(map(int, marks)) // 1024


if __name__ == "__main__":
    main()

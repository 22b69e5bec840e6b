"""Imports that are killed in the middle, on the database of DATABASE_URL; run by a test.

    python tests/annotator/import_under_fire.py KILLS

Each import is a process that dies by SIGKILL at one of its statements, a later one each time, and the
last of them when all is in. Then what
the worker does every minute is done. Prints one JSON object: how often nothing and how often all of
the file was in the project, how often neither was, and what was left over elsewhere.
"""

import json
import logging
import multiprocessing
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import django

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from annotator import importing  # noqa: E402
from annotator.importing import import_jsonl, tidy_all  # noqa: E402
from annotator.models import Judgment, Project, User  # noqa: E402
from annotator.taking_back import unfinished  # noqa: E402

ROWS = [
    {"prompt": f"Question {n}?", "chosen": "yes", "rejected": "no", "annotator": f"anna {n % 3}"}
    for n in range(24)
]
KNOWN = 4  # rows whose prompts are there before
fork = multiprocessing.get_context("fork")  # Django is set up once, not for each life
importing.BATCH, importing.PAUSE = 5, 0
N_BATCHES = 5


def main():
    logging.disable(logging.WARNING)
    call_command("migrate", verbosity=0)
    n_kills = int(sys.argv[1])
    n_statements = statements_of_an_import()
    found = Counter()
    for kill in range(n_kills):
        project = new_project(f"fire-{kill}")
        before = contents(project)
        connection.close()
        is_last = kill == n_kills - 1
        at = None if is_last else 1 + kill * n_statements // n_kills
        life = fork.Process(target=die, args=(project, at))
        life.start()
        life.join()
        found["killed"] += life.exitcode == -signal.SIGKILL
        tidy_all()
        after = contents(project)
        found["nothing"] += after == before
        found["all"] += after == (len(ROWS), len(ROWS), len(ROWS), 3)
        found["left"] += len(unfinished())
    found["half"] = n_kills - found["nothing"] - found["all"]
    print(json.dumps(found))  # noqa: T201


def new_project(name):
    project = Project.objects.create(name=name, slug=name)
    import_jsonl(project, lines({"prompt": row["prompt"]} for row in ROWS[:KNOWN]))
    return project


def lines(rows):
    return [json.dumps(row).encode() for row in rows]


def contents(project):
    return (
        project.prompts.count(),
        project.comparisons.count(),
        Judgment.objects.filter(project=project, voided=None).count(),
        User.objects.filter(username__startswith=f"{project.slug}/").count(),
    )


def statements_of_an_import():
    n = 0

    def count(execute, sql, params, many, context):
        nonlocal n
        n += 1
        return execute(sql, params, many, context)

    project = new_project("whole")
    with connection.execute_wrapper(count):
        import_jsonl(project, lines(ROWS))
    return n


def die(project, n_statements):
    left = n_statements
    if left is None:
        importing.bulk.end_batch = lambda n: n == N_BATCHES and os.kill(os.getpid(), signal.SIGKILL)

    def fuse(execute, sql, params, many, context):
        nonlocal left
        if left is not None:
            left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(fuse):
        import_jsonl(project, lines(ROWS))


if __name__ == "__main__":
    main()

"""Milliseconds of claim and record in one large project, and lines imported per second.

    python bench/queue_latency.py [--comparisons 100000] [--judgments 300] [--handled 10000]
        [--ordered]

The annotator has handled some comparisons that are still open for others, so that every claim
has to pass over them. `done_ms` is a claim of somebody who has handled them all: it looks at
each open comparison once, the one case whose cost grows with the project. With `--ordered` four
in five are asked in an order, and the annotator has handled its beginning. Prints one JSON line.
The database is that of DATABASE_URL, which must be an empty one, or else a new SQLite file.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=100_000)
    parser.add_argument("--judgments", type=int, default=300)
    parser.add_argument("--handled", type=int, default=10_000)
    parser.add_argument("--ordered", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare_django(folder)
        print(json.dumps(measure(arguments)))


def prepare_django(folder: str) -> None:
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PREFERENDUM_DATA_DIR": folder,
        "PREFERENDUM_LOG_LEVEL": "WARNING",
    }

    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def measure(arguments: argparse.Namespace) -> dict[str, float | int | str]:
    from django.db import connection
    from django.db.models import F
    from django.utils import timezone

    from annotator import assignment
    from annotator.importing import import_jsonl
    from annotator.models import Comparison, Membership, Project, User, Verdict

    random.seed(0)
    project = Project.objects.create(name="Bench", slug="bench", overlap=2)
    annotator = User.objects.create(username="annotator")
    Membership.objects.create(project=project, user=annotator)
    lines = (
        json.dumps({"prompt": f"Question {n}?", "completions": ["a" * 500, "b" * 500]}).encode()
        for n in range(arguments.comparisons)
    )
    imported, import_ms = timed(import_jsonl, project, lines)
    pks = list(Comparison.objects.values_list("pk", flat=True))
    random.shuffle(pks)
    if arguments.ordered:
        project.queue_order, project.ordered = "informative", timezone.now()
        project.save()
        in_order = Comparison.objects.filter(draw__lt=0.8)
        in_order.update(arm="active", place=F("draw"))
        pks = list(in_order.order_by("place").values_list("pk", flat=True))
    handle(project, annotator, pks[: arguments.handled])
    claim_ms, record_ms = [], []
    for _ in range(arguments.judgments):
        claimed, ms = timed(assignment.claim, project, annotator)
        claim_ms.append(ms)
        ranking = [[completion] for completion in claimed.order]
        _, ms = timed(
            assignment.record,
            claimed,
            Verdict.RANKING,
            ranking,
            payload_hash=claimed.payload_hash,
        )
        record_ms.append(ms)
    _, progress_ms = timed(assignment.progress, project, annotator)
    unhandled = Comparison.objects.not_handled_by(annotator).values_list("pk", flat=True)
    handle(project, annotator, list(unhandled))
    nothing, done_ms = timed(assignment.claim, project, annotator)
    assert nothing is None
    return {
        "bench": "queue_latency",
        "comparisons": imported.comparisons,
        "claim_ms_median": round(statistics.median(claim_ms), 2),
        "claim_ms_p95": round(statistics.quantiles(claim_ms, n=20)[-1], 2),
        "record_ms_median": round(statistics.median(record_ms), 2),
        "progress_ms": round(progress_ms, 2),
        "done_ms": round(done_ms, 2),
        "import_lines_per_second": round(imported.comparisons / import_ms * 1000),
        "database": connection.vendor,
    }


def timed(function, *args, **kwargs):
    began = time.perf_counter()
    result = function(*args, **kwargs)
    return result, (time.perf_counter() - began) * 1000


def handle(project, annotator, pks: list[int]) -> None:
    """As if the annotator had skipped these."""
    from django.db import connection
    from django.utils import timezone

    from annotator.models import Assignment, AssignmentState

    Assignment.objects.bulk_create(
        (
            Assignment(
                comparison_id=pk,
                project=project,
                annotator=annotator,
                order=[],
                payload_hash="",
                state=AssignmentState.SKIPPED,
                guideline_version=1,
                lease_until=timezone.now(),
            )
            for pk in pks
        ),
        batch_size=5000,
    )
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")  # the server does it by itself, within a minute


if __name__ == "__main__":
    main()

"""Seconds and memory of all quality figures of one large project, and milliseconds of their pages.

    python bench/quality.py [--judgments 20000] [--annotators 20] [--overlap 3] [--sources 6]
        [--characters 1200]

Made-up people vote on pairs of made-up answers, by the strength of their sources. `compute_s` is
what the worker takes, `cpu_s` the processor time of it, `first_s` the same with imports, `page_ms` the slowest of the pages
(median of 5 requests each). Prints one JSON line. The database is a new SQLite file, or that of
DATABASE_URL, which must be an empty one.
"""

import argparse
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

PAGES = ["quality", "quality_annotators", "quality_models", "quality_disagreements"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgments", type=int, default=20_000)
    parser.add_argument("--annotators", type=int, default=20)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--sources", type=int, default=6)
    parser.add_argument("--characters", type=int, default=1200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare_django(folder)
        print(json.dumps(measure(arguments)))


def prepare_django(folder: str) -> None:
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PREFERENDUM_DATA_DIR": folder,
        "PREFERENDUM_LOG_LEVEL": "WARNING",
        "PREFERENDUM_HTTPS": "0",
    }

    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def measure(arguments: argparse.Namespace) -> dict[str, float | int]:
    from django.test import Client
    from django.urls import reverse

    from annotator.models import User
    from annotator.quality import keeping

    project = make_votes(
        judgments=arguments.judgments,
        annotators=arguments.annotators,
        overlap=arguments.overlap,
        sources=arguments.sources,
        characters=arguments.characters,
    )
    keeping.ask(project)
    seconds = []
    for _ in range(2):
        start, start_cpu = time.perf_counter(), time.process_time()
        keeping.compute_and_keep(project)
        seconds.append(time.perf_counter() - start)
        cpu_seconds = time.process_time() - start_cpu
    client = Client(headers={"host": "localhost"})
    client.force_login(User.objects.create_superuser("ada"))
    pages = [reverse(f"annotator:{name}", args=[project.slug]) for name in PAGES]
    return {
        "judgments": project.judgments.count(),
        "comparisons": project.comparisons.count(),
        "annotators": arguments.annotators,
        "sources": arguments.sources,
        "first_s": round(seconds[0], 2),
        "compute_s": round(seconds[1], 2),
        "cpu_s": round(cpu_seconds, 2),
        "page_ms": round(max(median_ms(client, page) for page in pages), 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def median_ms(client: object, page: str) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        response = client.get(page)  # type: ignore[attr-defined]
        times.append(1000 * (time.perf_counter() - start))
        assert response.status_code == 200, response.status_code
    return statistics.median(times)


def make_votes(*, judgments: int, annotators: int, overlap: int, sources: int, characters: int):
    """A project in which people prefer later sources, and one of them votes at random, and fast."""
    from datetime import timedelta

    from django.utils import timezone

    from annotator.models import (
        Assignment,
        AssignmentState,
        Comparison,
        ComparisonCompletion,
        Completion,
        Judgment,
        Membership,
        Project,
        Prompt,
        User,
        Verdict,
        canonical_key,
    )

    draw = random.Random(0)
    n = judgments // overlap
    project = Project.objects.create(name="Bench", slug="bench", overlap=overlap)
    people = User.objects.bulk_create(
        User(username=f"person-{place}") for place in range(annotators)
    )
    Membership.objects.bulk_create(Membership(project=project, user=user) for user in people)
    contents = [[{"role": "user", "content": f"Question {place}?"}] for place in range(n)]
    prompts = Prompt.objects.bulk_create(
        [
            Prompt(project=project, messages=each, key=canonical_key(each), split="train")
            for each in contents
        ],
        batch_size=1000,
    )
    pairs = [draw.sample(range(sources), 2) for _ in prompts]
    completions = Completion.objects.bulk_create(
        [
            Completion(prompt=prompt, text=text_of(draw, characters), source=f"model-{source}")
            for prompt, pair in zip(prompts, pairs, strict=True)
            for source in pair
        ],
        batch_size=1000,
    )
    comparisons = Comparison.objects.bulk_create(
        [
            Comparison(
                project=project, prompt=prompt, key=prompt.key, overlap=overlap, taken=overlap
            )
            for prompt in prompts
        ],
        batch_size=1000,
    )
    ComparisonCompletion.objects.bulk_create(
        [
            ComparisonCompletion(
                comparison=comparisons[place // 2], completion=completion, position=place % 2
            )
            for place, completion in enumerate(completions)
        ],
        batch_size=1000,
    )
    assignments, said = [], []
    now = timezone.now()
    for place, comparison in enumerate(comparisons):
        ids = [completion.pk for completion in completions[2 * place : 2 * place + 2]]
        better = ids if pairs[place][0] > pairs[place][1] else ids[::-1]
        for user in draw.sample(people, overlap):
            is_careless = user == people[0]
            order = draw.sample(ids, 2)
            luck = draw.random()
            right = 0.5 if is_careless else 0.75
            ranking = (
                [ids]
                if luck > 0.92
                else [[pk] for pk in (better if luck < right else better[::-1])]
            )
            when = now - timedelta(hours=24 * 60 * (1 - place / n))
            assignments.append(
                Assignment(
                    comparison=comparison,
                    project=project,
                    annotator=user,
                    order=order,
                    payload_hash="",
                    state=AssignmentState.JUDGED,
                    guideline_version=1 + 2 * place // n,
                    lease_until=when,
                    created=when,
                )
            )
            seconds = draw.lognormvariate(1 if is_careless else 3.5, 0.6)
            said.append({"ranking": ranking, "seconds": seconds, "created": when})
    Assignment.objects.bulk_create(assignments, batch_size=1000)
    Judgment.objects.bulk_create(
        [
            Judgment(
                assignment=assignment, comparison=assignment.comparison, project=project,
                annotator=assignment.annotator, verdict=Verdict.RANKING,
                guideline_version=assignment.guideline_version, **fields,
            )
            for assignment, fields in zip(assignments, said, strict=True)
        ],
        batch_size=1000,
    )  # fmt: skip
    return project


def text_of(draw: random.Random, characters: int) -> str:
    lines = [draw.choice(["", "", "# Heading ", "- item ", "**bold** "]) + "word " * 20]
    while sum(map(len, lines)) < characters * draw.uniform(0.5, 1.5):
        lines.append(draw.choice(["", "", "", "- item ", "**bold** "]) + "word " * 20)
    return "\n".join(lines)


if __name__ == "__main__":
    main()

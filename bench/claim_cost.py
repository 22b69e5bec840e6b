"""Milliseconds of one judgment (claim, then record) in small and large projects.

    PYTHONPATH=. python bench/claim_cost.py [--comparisons 1000 50000] [--judgments 200]

The claim: the cost does not grow with the number of comparisons in the project, nor with the
number that are judged already. Prints one JSON line. Uses a database of its own.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, nargs="+", default=[1_000, 50_000])
    parser.add_argument("--judgments", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare_django(folder)
        milliseconds = {
            str(n): round(median_milliseconds(n, arguments.judgments), 2)
            for n in arguments.comparisons
        }
    values = list(milliseconds.values())
    print(
        json.dumps(
            {
                "bench": "claim_cost",
                "judgments": arguments.judgments,
                "median_ms_per_judgment": milliseconds,
                "growth": round(values[-1] / values[0], 2),
            }
        )
    )


def prepare_django(folder: str) -> None:
    os.environ.pop("DATABASE_URL", None)
    os.environ |= {"DJANGO_SETTINGS_MODULE": "config.settings", "PREFERENDUM_DATA_DIR": folder}

    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def median_milliseconds(n_comparisons: int, n_judgments: int) -> float:
    """Of judgments in a new project of which half the comparisons are judged."""
    from annotator import assignment
    from annotator.models import Membership, Project, User, Verdict

    project = Project.objects.create(name=f"{n_comparisons} comparisons", slug=f"n{n_comparisons}")
    annotator = User.objects.create(username=f"annotator-{n_comparisons}")
    Membership.objects.create(project=project, user=annotator)
    fill(project, n_comparisons)
    seconds = []
    for _ in range(n_judgments):
        began = time.perf_counter()
        claimed = assignment.claim(project, annotator)
        assignment.record(
            claimed,
            Verdict.RANKING,
            [[completion] for completion in claimed.order],
            payload_hash=claimed.payload_hash,
        )
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1000


def fill(project: Any, n_comparisons: int) -> None:
    from annotator.models import Comparison, ComparisonCompletion, Completion, Prompt

    size = 5_000
    prompts, completions, comparisons, entries = [], [], [], []
    for n in range(n_comparisons):
        key = f"{project.pk}-{n}"
        prompt = Prompt(
            project=project, key=key, split="train", messages=[{"role": "user", "content": key}]
        )
        pair = [Completion(prompt=prompt, text=text, source="bench") for text in ("a", "b")]
        comparison = Comparison(project=project, prompt=prompt, key=key, overlap=1, taken=n % 2)
        prompts.append(prompt)
        completions += pair
        comparisons.append(comparison)
        entries += [
            ComparisonCompletion(comparison=comparison, completion=completion, position=position)
            for position, completion in enumerate(pair)
        ]
        if len(prompts) == size or n == n_comparisons - 1:
            Prompt.objects.bulk_create(prompts)
            Completion.objects.bulk_create(completions)
            Comparison.objects.bulk_create(comparisons)
            ComparisonCompletion.objects.bulk_create(entries)
            prompts, completions, comparisons, entries = [], [], [], []


if __name__ == "__main__":
    main()

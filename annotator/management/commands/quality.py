"""Print how far the votes of a project can be trusted."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project

Figure = dict[str, Any]  # value, low, high, n, reason

AGREEMENT = {
    "alpha_ordinal": "Krippendorff's alpha, ordinal",
    "alpha_nominal": "Krippendorff's alpha, nominal",
    "cohens_kappa": "Cohen's kappa, mean of each two",
    "fleiss_kappa": "Fleiss' kappa",
    "kendall_tau": "Kendall's tau of rankings",
    "self_agreement": "Agreement with oneself",
    "known_answers": "Known answers right",
}
PARTS = {
    "over_time": "Alpha over time",
    "by_guideline_version": "Alpha by version of the guidelines",
    "by_criterion": "Alpha by criterion",
    "by_source": "Alpha by source of the answers",
}
PERSON = {
    "agreement": "agrees with the others",
    "reliability": "reliability",
    "known_answers": "known answers right",
    "self_agreement": "agrees with themself",
    "first_shown": "earlier one won",
    "longer": "longer one won",
    "too_fast": "too fast",
    "seconds": "median seconds",
}
MOST_DISAGREEMENTS = 10


class Command(BaseCommand):
    help = "Print the figures of the quality pages (docs/quality.md), computed now."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug of the project.")
        parser.add_argument(
            "--newest", type=int, metavar="N", help="Judgments to read, the newest; else 20,000."
        )
        parser.add_argument("--json", action="store_true", help="All of them, as one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        # Imported late: it takes seconds, which `manage.py help` need not wait for.
        from annotator.quality.report import compute  # noqa: PLC0415
        from annotator.quality.votes import JUDGMENTS_READ  # noqa: PLC0415

        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        newest = JUDGMENTS_READ if options["newest"] is None else options["newest"]
        if newest < 1:
            raise CommandError(f"--newest is a number of judgments from 1 on, not {newest}.")
        report = compute(project, newest)
        if options["json"]:
            found = {**report.figures, "consensus": report.consensus}
            self.stdout.write(json.dumps(found, ensure_ascii=False))
        else:
            self.stdout.write("\n".join(in_words(report.figures)))


def in_words(figures: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{figures['n_votes']:,} votes by {figures['n_annotators']:,} people on "
        f"{figures['n_comparisons']:,} comparisons"
    )
    if figures["n_unrankable"]:
        yield f"{figures['n_unrankable']:,} more verdicts say that the answers cannot be ranked."
    if figures["newest"]:
        yield f"Only the newest {figures['newest']:,} judgments were read."
    yield from _titled("Agreement", _agreement(figures["agreement"]))
    for name, title in PARTS.items():
        parts = [f"{part['name']}: {figure(part['alpha_ordinal'])}" for part in figures[name]]
        yield from _titled(title, parts + _left_out(figures["left_out"][name]))
    yield from _titled("Annotators", _people(figures["annotators"]))
    yield from _titled("Sources, best first", _leaderboard(figures["leaderboard"]))
    most_split = figures["disagreements"][:MOST_DISAGREEMENTS]
    yield from _titled(
        "Comparisons with most disagreement",
        [
            f"{row['comparison']}: {row['split']:.2f} among {row['n_votes']} votes"
            for row in most_split
        ],
    )


def _left_out(n: int) -> list[str]:
    return [f"{n:,} more are left out"] if n else []


def _titled(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
        for line in lines:
            yield f"  {line}"


def _agreement(figures: dict[str, Figure]) -> list[str]:
    return [f"{title}: {figure(figures[name])}" for name, title in AGREEMENT.items()]


def _people(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        lines.append(f"{row['name']}, {row['n_votes']:,} votes")
        known = {title: row[name] for name, title in PERSON.items() if row[name]["n"]}
        lines += [f"  {title}: {figure(of)}" for title, of in known.items()]
        if row["signals"]:
            lines.append(f"  worth a look together: {'; '.join(row['signals'])}")
    return lines


def _leaderboard(board: dict[str, Any]) -> list[str]:
    if board["reason"]:
        return [board["reason"]]
    return [
        f"{row['source']}: {figure(row['strength'], 0)}; with style taken out "
        f"{figure(row['controlled'], 0)}; wins {figure(row['wins'])}"
        for row in board["rows"]
    ] + _left_out(board["n_left_out"])


def figure(of: Figure, digits: int = 2) -> str:
    """Example: "0.43 (0.38 to 0.48), n = 120", or why there is none."""
    if of["value"] is None:
        return of["reason"]
    text = f"{of['value']:.{digits}f}"
    if of["low"] is not None:
        text += f" ({of['low']:.{digits}f} to {of['high']:.{digits}f})"
    return f"{text}, n = {of['n']:,}"

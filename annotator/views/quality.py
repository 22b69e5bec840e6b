"""How far votes can be trusted: agreement, annotators, models, disagreement. Blind to annotators.

The pages show figures that the worker has computed (`quality.keeping`): they read one row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest, get_access
from annotator.models import QualityReport, Role
from annotator.quality import keeping

PAGE_SIZE = 50


class Measure(NamedTuple):
    """A measure of agreement as the page names it."""

    title: str
    note: str
    is_share: bool = False


MEASURES = {
    "alpha_ordinal": Measure("Krippendorff's alpha, ordinal", "a tie lies half-way"),
    "alpha_nominal": Measure("Krippendorff's alpha, nominal", "a tie is as far from both"),
    "cohens_kappa": Measure("Cohen's kappa", "mean of each two people, by what both ranked"),
    "fleiss_kappa": Measure("Fleiss' kappa", "as nominal alpha, for many votes"),
    "kendall_tau": Measure("Kendall's tau", "of rankings of three or more"),
    "self_agreement": Measure("Agreement with oneself", "when asked the same twice", True),
    "known_answers": Measure("Known answers right", "of those mixed in to check", True),
}
PARTS = {
    "over_time": ("Over time", "A comparison belongs to the time of its last vote."),
    "by_guideline_version": (
        "By version of the guidelines",
        "Among votes that were given with the same version before one's eyes.",
    ),
    "by_criterion": ("By criterion", "Of what was said of each criterion by itself."),
    "by_source": ("By source of the answers", "Of comparisons with an answer of the source."),
}


@login_required
def agreement(request: HtmxRequest, slug: str) -> HttpResponse:
    """Where the figures were once."""
    return redirect("annotator:quality", slug, permanent=True)


@login_required
def quality(request: HtmxRequest, slug: str) -> HttpResponse:
    context = _context(request, slug)
    if figures := context["figures"]:
        alpha = figures["agreement"]["alpha_ordinal"]
        chosen = request.GET.get("measure", "")
        chosen = chosen if chosen in MEASURES else "alpha_ordinal"
        context |= {
            "alpha": alpha,
            "meaning": alpha["reason"] if alpha["value"] is None else meaning_of(alpha["value"]),
            "agreement": [
                (measure, figures["agreement"][name]) for name, measure in MEASURES.items()
            ],
            "measures": MEASURES,
            "chosen": chosen,
            "measure": MEASURES[chosen],
            "parts": _parts(figures, chosen),
        }
    return render(request, "annotator/quality.html", context)


def _parts(figures: dict[str, Any], measure: str) -> list[dict[str, Any]]:
    """What there is to compare: nothing is shown that has one row only, but a criterion."""
    return [
        {
            "id": name,
            "title": title,
            "sentence": sentence,
            "rows": [(part["name"], part["n_votes"], part[measure]) for part in figures[name]],
            "n_left_out": figures["left_out"][name],
        }
        for name, (title, sentence) in PARTS.items()
        if len(figures[name]) > (name != "by_criterion")
    ]


@login_required
def quality_annotators(request: HtmxRequest, slug: str) -> HttpResponse:
    context = _context(request, slug)
    if context["figures"]:
        kappas = context["figures"]["cohens_kappa"]
        context["kappas"] = list(zip(kappas["names"], kappas["rows"], strict=True))
        people = Paginator(context["figures"]["annotators"], PAGE_SIZE)
        context["page"] = people.get_page(request.GET.get("page"))
    return render(request, "annotator/quality_annotators.html", context)


@login_required
def quality_models(request: HtmxRequest, slug: str) -> HttpResponse:
    context = _context(request, slug)
    if context["figures"]:
        board = context["figures"]["leaderboard"]
        matrix = zip(board["rows"], board.get("matrix", []), strict=True)
        context |= {"board": board, "matrix": list(matrix)}
    return render(request, "annotator/quality_models.html", context)


@login_required
def quality_disagreements(request: HtmxRequest, slug: str) -> HttpResponse:
    context = _context(request, slug)
    rows = context["figures"].get("disagreements", [])
    page = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    found = context["project"].comparisons.select_related("prompt")
    comparisons = found.in_bulk([row["comparison"] for row in page])
    rulings = context["project"].rulings.filter(comparison__in=comparisons, voided=None)
    context |= {
        "page": page,
        "ruled": set(rulings.values_list("comparison_id", flat=True)),
        "rows": [
            (comparisons[row["comparison"]], row)
            for row in page
            if row["comparison"] in comparisons
        ],
    }
    return render(request, "annotator/quality_disagreements.html", context)


@login_required
def quality_status(request: HtmxRequest, slug: str) -> HttpResponse:
    """How new the figures are, for a page that shows those as of `shown`."""
    project, role = get_access(request, slug, Role.REVIEWER)
    report = keeping.report_of(project)
    shown = request.GET.get("shown", "")
    context = {"project": project, "role": role} | _status(report, shown)
    response = render(request, "annotator/_quality_status.html", context)
    if context["is_newer"] and not shown:
        response["HX-Refresh"] = "true"  # an empty page has nothing to lose
    return response


@require_POST
@login_required
def refresh_quality(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.REVIEWER)
    keeping.ask(project)
    if request.htmx:
        return quality_status(request, slug)
    return redirect("annotator:quality", slug)


# --- what all pages show ------------------------------------------------------------------------
def _context(request: HtmxRequest, slug: str) -> dict[str, Any]:
    project, role = get_access(request, slug, Role.REVIEWER)
    report = keeping.report_of(project)
    figures = report.figures if report else {}
    return {
        "project": project,
        "role": role,
        "figures": figures if figures.get("format") == keeping.FORMAT else {},
        **_status(report, _as_of(report)),
    }


def _status(report: QualityReport | None, shown: str) -> dict[str, Any]:
    as_of = _as_of(report)
    return {
        "report": report,
        "shown": shown,
        "is_newer": as_of != shown,
        "is_stale": keeping.is_stale(report),
    }


def _as_of(report: QualityReport | None) -> str:
    """Example: "1763751600.5"; empty while nothing has been computed."""
    return str(report.as_of.timestamp()) if report and report.as_of else ""


def meaning_of(alpha: float) -> str:
    """A sentence for who has never met an alpha. The bounds are Krippendorff's own, and for text
    preferences what published datasets report: 0.2 to 0.5.
    """
    if alpha < 0:
        return "People disagree more than chance would: someone may vote the wrong way round."
    if alpha < 0.2:
        return "Hardly more than chance: clear up the guidelines before you train on these votes."
    if alpha < 0.4:
        return "Fair: usual where the answers are close in quality or tastes differ."
    if alpha < 0.67:
        return "Good for preferences of text, which are rarely above this."
    return "High: people nearly always see the same answer as the better one."

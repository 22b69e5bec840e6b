"""How the work goes on, for those who look after it: progress, and who works on what."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone

from annotator import progress as work
from annotator.access import Access, HtmxRequest, get_access
from annotator.models import Project, Purpose, Role, User
from annotator.withdrawing import known_here

PEOPLE_SHOWN = 100
LIVE_SHOWN = 200


@login_required
def progress(request: HtmxRequest, slug: str) -> HttpResponse:
    """Of everybody, or of the annotator that the address names."""
    project, role = get_access(request, slug, Role.REVIEWER)
    annotator = _annotator_asked(request, project)
    is_counted = work.count_work(project)
    now = timezone.localtime()
    days = work.days_of(project, now.date(), annotator=annotator)
    context = {
        "project": project,
        "role": role,
        "annotator": annotator,
        "is_counted": is_counted,
        "bars": _bars(days),
        "votes": sum(day.votes for day in days),
        "per_hour": work.per_hour(sum(day.votes for day in days), sum(day.seconds for day in days)),
        "today": days[-1].votes,
        "week": sum(day.votes for day in days[-7:]),
    }
    if annotator is None:
        remaining = work.remaining(project)
        context |= {
            "people": work.people_of(project, now.date(), limit=PEOPLE_SHOWN),
            "people_shown": PEOPLE_SHOWN,
            "remaining": remaining,
            **_outlook(project, remaining, now),
        }
    return render(request, "annotator/progress.html", context)


def _annotator_asked(request: HtmxRequest, project: Project) -> User | None:
    number = request.GET.get("annotator", "")
    if not number:
        return None
    pk = int(number) if number.isdecimal() and len(number) < 10 else 0
    return get_object_or_404(known_here(project), pk=pk)


def _bars(days: list[work.Day]) -> list[dict[str, Any]]:
    """Heights in percent of the highest; Mondays carry their date."""
    most = max(day.votes for day in days) or 1
    return [
        {"day": day, "height": round(100 * day.votes / most), "is_marked": day.day.weekday() == 0}
        for day in days
    ]


def _outlook(project: Project, remaining: list[work.Remaining], now: datetime) -> dict[str, Any]:
    """When all is done, at the rate of the members who still judge. Known answers are asked beside
    the others, and are not waited for."""
    days = work.days_of(project, now.date(), still_here=True)
    left = sum(row.left for row in remaining if row.purpose != Purpose.GOLD)
    found = work.forecast(left, work.history(days)) if left else None
    if found is None:
        return {"left": left}
    is_far = found.days > work.LONGEST_FORECAST
    return {
        "left": left,
        "forecast": found,
        "done": None if is_far else now + timedelta(days=found.days),
        "earliest": None if is_far else now + timedelta(days=found.low),
        "latest": None if found.high is None else now + timedelta(days=found.high),
    }


@login_required
def live(request: HtmxRequest, slug: str) -> HttpResponse:
    context = _live_context(get_access(request, slug, Role.REVIEWER))
    return render(request, "annotator/live.html", context)


@login_required
def live_now(request: HtmxRequest, slug: str) -> HttpResponse:
    context = _live_context(get_access(request, slug, Role.REVIEWER))
    return render(request, "annotator/_live.html", context)


def _live_context(access: Access) -> dict[str, Any]:
    rows = list(work.live(access.project)[: LIVE_SHOWN + 1])
    return {
        **access._asdict(),
        "assignments": rows[:LIVE_SHOWN],
        "is_cut": len(rows) > LIVE_SHOWN,
        "now": timezone.now(),
    }

"""Numbers as people read them: durations, shares, scores, counts that were cut short."""

from __future__ import annotations

from datetime import datetime, timedelta

from django import template
from django.contrib.humanize.templatetags.humanize import intcomma
from django.utils import timezone

from annotator.templatetags.text import MISSING, decimals, is_number, percent

register = template.Library()

COUNT_CAP = 10_000  # more than this many rows are never counted to draw a page
MINUTE, HOUR, DAY = 60, 3600, 86_400

register.filter(percent)
register.filter(decimals)


@register.filter
def duration(value: float | timedelta | None) -> str:
    """Example: 8 -> "8 seconds", 100 -> "2 minutes", 5400 -> "1.5 hours"."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not is_number(seconds):
        return MISSING
    if seconds < 0.5:
        return "under a second"
    if seconds < 90:
        return _counted(round(seconds), "second")
    if seconds < 1.5 * HOUR:
        return _counted(round(seconds / MINUTE), "minute")
    if seconds < 2 * DAY:
        return _counted(round(seconds / HOUR, 1), "hour")
    return _counted(round(seconds / DAY, 1), "day")


@register.filter
def remaining(seconds: float | None) -> str:
    """Time left, as vague as it is known. Example: 200 -> "about 3 minutes left"."""
    if not is_number(seconds):
        return ""
    if seconds < 10:
        return "a few seconds left"
    return f"about {duration(seconds)} left"


@register.filter
def elapsed(start: datetime | None, end: datetime | None) -> str:
    """How long something took, or takes so far."""
    return MISSING if start is None else duration((end or timezone.now()) - start)


@register.filter
def significant(value: float | None, digits: int = 3) -> str:
    """Example: 0.00012345 -> "0.000123", 12345.6 -> "12300"; for values of unknown size."""
    if not is_number(value):
        return MISSING
    if value and abs(value) < 10**-4:
        return f"{value:.{digits - 1}e}".replace("-", "\u2212")
    return f"{float(f'{value:.{digits}g}'):,g}".replace("-", "\u2212")


@register.filter
def money(amount: float) -> str:
    """To a hundredth of a cent. Example: 0.5 -> "0.5", 1234.56789 -> "1,234.5679"."""
    if 0 < amount < 0.0001:
        return "under 0.0001"
    return f"{amount:,.4f}".rstrip("0").rstrip(".")


@register.filter
def words(name: str) -> str:
    """Example: "too_long" -> "too long"."""
    return name.replace("_", " ")


def _counted(number: float, unit: str) -> str:
    return f"{number:g} {unit}" if number == 1 else f"{number:g} {unit}s"


def counted(number: int, noun: str = "") -> str:
    """Example: 1234 -> "1,234"; 1, "vote" -> "1 vote"; above the cap, where counting stopped,
    "10,000+"."""
    text = intcomma(number) if number <= COUNT_CAP else f"{intcomma(COUNT_CAP)}+"
    return f"{text} {noun}{'' if number == 1 else 's'}" if noun else text

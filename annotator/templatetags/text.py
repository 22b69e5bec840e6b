"""Template filters for text written by people and models, and for numbers."""

import json
from typing import Any, TypeGuard

from django import template
from django.utils.safestring import SafeString

from annotator.rendering import render_markdown

register = template.Library()

MISSING = "\u2013"


def is_number(value: object) -> TypeGuard[float]:
    """False for None, and for the empty string that Django makes of a value that is not there."""
    return isinstance(value, int | float)


@register.filter
def markdown(text: str) -> SafeString:
    return render_markdown(text)


@register.filter
def as_json(value: Any) -> str:
    """For a data- attribute."""
    return json.dumps(value)


@register.filter
def percent(share: float | None) -> str:
    """Example: 0.714 -> "71 %" (with a no-break space)."""
    return MISSING if not is_number(share) else f"{100 * share:.0f}\u00a0%"


@register.filter
def decimals(value: float | None, digits: int = 2) -> str:
    """With a true minus sign, so that columns of numbers line up."""
    return MISSING if not is_number(value) else f"{value:z.{digits}f}".replace("-", "\u2212")


@register.filter
def on_bar(value: float | None) -> str:
    """A place on a bar from 0 to 1, for CSS. Example: -0.2 -> "0.000", 0.456 -> "0.456"."""
    return f"{min(max(value or 0.0, 0.0), 1.0):.3f}"

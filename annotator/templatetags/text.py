"""Template filters for text written by people and models."""

import json
from typing import Any

from django import template
from django.utils.safestring import SafeString

from annotator.rendering import render_markdown

register = template.Library()


@register.filter
def markdown(text: str) -> SafeString:
    return render_markdown(text)


@register.filter
def as_json(value: Any) -> str:
    """For a data- attribute."""
    return json.dumps(value)


@register.filter
def percent(share: float) -> str:
    """Example: 0.456 -> "46 %"."""
    return f"{share:.0%}".replace("%", " %")

"""Whether people talk to a model in a project, for the navigation on all its pages."""

from django import template

from annotator.models import Project
from rlhf.models import RunKind

register = template.Library()


@register.filter
def has_live_conversations(project: Project) -> bool:
    """Also while the model is still being loaded: the page says so."""
    return project.runs.active().filter(kind=RunKind.CONVERSE).exists()

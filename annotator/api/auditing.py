"""Who did what to a project: the rows of its audit log."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.fields import form_errors
from annotator.api.paging import page_of
from annotator.api.schema import documented, text_parameter
from annotator.audit import Action, AuditEntry
from annotator.models import Role
from annotator.views.auditing import AuditForm

DAY: dict[str, Any] = {"anyOf": [{"format": "date"}, {"maxLength": 0}]}  # empty: no limit


class AuditEntrySerializer(serializers.ModelSerializer):
    time = serializers.DateTimeField(source="created")
    actor = serializers.CharField(source="actor_name", help_text="Empty: the system itself.")
    actor_id = serializers.IntegerField(allow_null=True)
    details = serializers.DictField(
        help_text="Counts, settings, and what changed from what to what."
    )

    class Meta:
        model = AuditEntry
        fields = [
            "id", "time", "actor", "actor_id", "action", "kind", "object_id", "object_name", "details",
        ]  # fmt: skip


@documented(
    "list_audit_entries",
    "The audit log, the newest first; for admins",
    answer=AuditEntrySerializer,
    query=[
        text_parameter("who", "Part of a name, or `the system`.", maxLength=150),
        text_parameter("action", enum=["", *Action.values]),
        text_parameter("kind", "Of the object: `export`, `run`, `membership`, …"),
        text_parameter("number", "Of the object.", maxLength=64),
        text_parameter("since", **DAY),
        text_parameter("until", "With this day.", **DAY),
    ],
    is_list=True,
)
@api_view()
def audit(request: Request, slug: str) -> Response:
    form = AuditForm(get_access(request, slug, Role.ADMIN).project, request.query_params)
    if not form.is_valid():
        raise form_errors(form)
    return page_of(request, form.chosen(), AuditEntrySerializer)

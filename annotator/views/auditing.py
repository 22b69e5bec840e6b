"""The audit log of a project: a page, and the same rows as a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib.auth.decorators import login_required
from django.core.serializers.json import DjangoJSONEncoder
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from annotator.access import HtmxRequest, get_access
from annotator.audit import KINDS, Action, AuditEntry, AuditQuerySet, in_words
from annotator.models import Project, Role
from annotator.views.review import page_of

SYSTEM = "the system"
ANY = ("", "Anything")
CSV_COLUMNS = [
    "id", "time", "actor", "actor_id", "action", "kind", "object_id", "object_name", "details",
]  # fmt: skip
ROWS_AT_ONCE = 500


class AuditForm(forms.Form):
    """What the address asks for: `?who=anna&action=launched&kind=run&number=7&since=2026-01-31`."""

    who = forms.CharField(
        max_length=150, required=False, help_text=f"Part of a name, or “{SYSTEM}”."
    )
    action = forms.ChoiceField(choices=[ANY, *Action.choices], required=False)
    kind = forms.ChoiceField(label="What", required=False)
    number = forms.CharField(max_length=64, required=False)
    since = forms.DateField(required=False, widget=forms.DateInput({"type": "date"}))
    until = forms.DateField(
        label="Up to and including", required=False, widget=forms.DateInput({"type": "date"})
    )

    def __init__(self, project: Project, data: Any) -> None:
        super().__init__(data)
        known = project.audit_entries.order_by("kind").values_list("kind", flat=True).distinct()
        self.fields["kind"].choices = [ANY, *((kind, KINDS.get(kind, kind)) for kind in known)]  # type: ignore[attr-defined]
        self.rows: AuditQuerySet = AuditEntry.objects.filter(project=project)

    def chosen(self) -> AuditQuerySet:
        """The entries asked for; none if the question makes no sense, which the form then says."""
        if not self.is_valid():
            return self.rows.none()
        asked, rows = self.cleaned_data, self.rows
        if asked["who"] == SYSTEM:
            rows = rows.filter(actor=None)
        elif asked["who"]:
            rows = rows.filter(actor_name__icontains=asked["who"])
        for name, field in (("action", "action"), ("kind", "kind"), ("number", "object_id")):
            if asked[name]:
                rows = rows.filter(**{field: asked[name]})
        if asked["since"]:
            rows = rows.filter(created__gte=_midnight(asked["since"]))
        if asked["until"]:
            rows = rows.filter(created__lt=_midnight(asked["until"] + timedelta(days=1)))
        return rows


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))


@require_safe
@login_required
def audit(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.ADMIN)
    form = AuditForm(project, request.GET)
    page = page_of(form.chosen(), request.GET.get("before", ""))
    kept = {name: request.GET[name] for name in form.fields if request.GET.get(name)}
    context = {
        "project": project,
        "role": role,
        "form": form,
        "page": page,
        "entries": [(entry, list(in_words(entry.details))) for entry in page.rows],
        "keep": urlencode(kept),
    }
    return render(request, "annotator/audit.html", context, status=422 if form.errors else 200)


@require_safe
@login_required
def audit_file(request: HtmxRequest, slug: str, ending: str) -> StreamingHttpResponse:
    """The rows that the page's filter leaves, newest first, written as they are read."""
    project, _ = get_access(request, slug, Role.ADMIN)
    form = AuditForm(project, request.GET)
    rows = (entry.as_row() for entry in form.chosen().iterator(ROWS_AT_ONCE))
    if form.errors or ending not in WRITERS:
        raise Http404("no such file")
    write, content_type = WRITERS[ending]
    name = f"{project.slug}-audit.{ending}"
    return StreamingHttpResponse(
        write(rows),
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def as_jsonl(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False, cls=DjangoJSONEncoder) + "\n"


class _Echo:
    def write(self, line: str) -> str:
        return line


def as_csv(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(CSV_COLUMNS)
    for row in rows:
        details = json.dumps(row["details"], ensure_ascii=False, cls=DjangoJSONEncoder)
        cells = {**row, "details": details}
        yield writer.writerow([defused(cells[column]) for column in CSV_COLUMNS])


def defused(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with an apostrophe before it."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


WRITERS = {"csv": (as_csv, "text/csv; charset=utf-8"), "jsonl": (as_jsonl, "application/x-ndjson")}

"""What somebody has said themselves: to look at as it was shown, to find again, and to change."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import connection
from django.db.models import Exists, OuterRef, Q, TextField
from django.db.models.functions import Cast
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from annotator import assignment as queue
from annotator.access import Access, HtmxRequest, get_access
from annotator.ballots import Ballot, Entered, entered_by, read
from annotator.forms import JudgmentForm
from annotator.models import Completion, Judgment, JudgmentQuerySet, Verdict
from annotator.protocols import protocol_shown
from annotator.rendering import LETTERS, split_conversation
from annotator.views.comparing import entered_in, seconds_since, shown_now
from annotator.views.review import besides, in_words, page_of

SEARCH_LENGTH = 200  # characters


@login_required
@never_cache
def history(request: HtmxRequest, slug: str) -> HttpResponse:
    """My verdicts and skips that count, the newest first."""
    access = get_access(request, slug)
    rows = my_judgments(request, access).filter(voided=None)
    chosen = {
        "search": request.GET.get("search", "").replace("\0", "").strip()[:SEARCH_LENGTH],
        "verdict": request.GET.get("verdict", ""),
    }
    if chosen["search"]:
        rows = containing(rows, chosen["search"])
    if chosen["verdict"] in Verdict.values:
        rows = rows.filter(verdict=chosen["verdict"])
    page = page_of(rows, request.GET.get("before", ""))
    context = {
        "project": access.project,
        "role": access.role,
        "page": page,
        "rows": [(judgment, in_words(judgment, letters_of(judgment))) for judgment in page.rows],
        "chosen": chosen,
        "verdicts": Verdict.choices,
        "search_length": SEARCH_LENGTH,
        "keep": urlencode({name: value for name, value in chosen.items() if value}),
    }
    return render(request, "annotator/history.html", context)


@login_required
@never_cache
def own_judgment(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """One of mine with what I saw and, if it counts, the buttons to say something else."""
    access = get_access(request, slug)
    judgment = get_object_or_404(my_judgments(request, access), pk=pk)
    return render(request, "annotator/own_judgment.html", _context(request, access, judgment))


@require_POST
@login_required
def correct_judgment(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """Put another verdict in the place of this one; the old one stays on record."""
    access = get_access(request, slug)
    judgment = get_object_or_404(my_judgments(request, access), pk=pk)
    assignment = judgment.assignment
    form = JudgmentForm(request.POST)
    try:
        if not form.is_valid():
            raise ValueError("The verdict did not arrive whole: send it again.")
        queue.correct(
            judgment,
            read(entered_in(request), protocol_shown(assignment), assignment.order),
            payload_hash=form.cleaned_data["payload_hash"],
            seconds=seconds_since(form.cleaned_data["shown"], assignment),
        )
    except (ValueError, queue.NotRecorded) as error:
        return _refuse(request, access, judgment, str(error))
    messages.success(request, "Changed. What you said before stays on record, and counts no more.")
    return redirect("annotator:history", slug)


def my_judgments(request: HtmxRequest, access: Access) -> JudgmentQuerySet:
    mine = Judgment.objects.filter(project=access.project, annotator=request.user)
    return mine.select_related("assignment", "comparison__prompt")


def containing(judgments: JudgmentQuerySet, text: str) -> JudgmentQuerySet:
    """Those with `text` in the prompt, in an answer or in what the annotator wrote."""
    answers = Completion.objects.filter(
        comparisons=OuterRef("comparison"), text__icontains=text
    ).order_by()
    messages = Cast("comparison__prompt__messages", TextField())
    in_prompt = Q(messages_text__icontains=as_in_json(text))
    in_own_words = Q(rationale__icontains=text) | Q(rewrite__icontains=text)
    found = in_prompt | in_own_words | Exists(answers)
    return judgments.annotate(messages_text=messages).filter(found)


def as_in_json(text: str) -> str:
    """As the database keeps it inside a JSON string: SQLite as Django has written it, with escapes
    for what is not ASCII; PostgreSQL without."""
    return json.dumps(text, ensure_ascii=connection.vendor != "postgresql")[1:-1]


def letters_of(judgment: Judgment) -> dict[int, str]:
    """The letters that the annotator saw."""
    return dict(zip(judgment.assignment.order, LETTERS, strict=False))


def _may_change(request: HtmxRequest, access: Access, judgment: Judgment) -> bool:
    stands = judgment.voided or judgment.assignment.is_qualification
    return not stands and queue.is_qualified(access.project, request.user)


def _refuse(request: HtmxRequest, access: Access, judgment: Judgment, error: str) -> HttpResponse:
    context = _context(request, access, judgment, entered_in(request)) | {"error": error}
    return render(request, "annotator/own_judgment.html", context, status=422)


def _context(
    request: HtmxRequest, access: Access, judgment: Judgment, entered: Entered | None = None
) -> dict[str, Any]:
    """`entered`: what was sent and refused; else the form says what the judgment does."""
    assignment = judgment.assignment
    assignment.was_shown = True
    protocol = protocol_shown(assignment)
    completions = queue.shown(assignment)
    letters = letters_of(judgment)
    texts = {completion.pk: completion.text for completion in completions}
    return {
        "project": access.project,
        "role": access.role,
        "judgment": judgment,
        "words": in_words(judgment, letters),
        "details": list(besides(judgment, letters, texts)),
        "may_change": _may_change(request, access, judgment),
        "assignment": assignment,
        "conversation": split_conversation(judgment.comparison.prompt.messages),
        "answers": list(zip(LETTERS, completions, strict=False)),
        "ballot": Ballot(
            protocol, completions, entered or entered_by(judgment, protocol, assignment.order)
        ),
        "shown": shown_now(assignment),
    }

"""Pages of live conversations: saying something, and judging the two answers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from annotator import assignment as queue
from annotator.access import Access, HtmxRequest, get_access
from annotator.guidelines import news_for
from annotator.views.comparing import take_verdict, task_context
from rlhf import conversations
from rlhf.models import Conversation, Turn, TurnState

UNPROCESSABLE = 422
UNSEEN = timedelta(
    seconds=10
)  # the page asks every second: what was handed out longer ago was shown before


class SayForm(forms.Form):
    text = forms.CharField(
        label="Say something",
        max_length=8000,
        widget=forms.Textarea(attrs={"rows": 3, "dir": "auto", "autofocus": True}),
        error_messages={"required": "Write something to the model first."},
    )


@require_safe
@login_required
@never_cache
def chat(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug)
    context = _context(request, access) | {"news": news_for(access.project, request.user)}
    return render(request, "rlhf/chat.html", context)


@require_safe
@login_required
@never_cache
def chat_turn(request: HtmxRequest, slug: str) -> HttpResponse:
    """Where the conversation stands, alone, for a page that waits for answers; nothing as long as it
    still waits, so that nobody who reads it is interrupted."""
    context = _context(request, get_access(request, slug))
    if context["turn"] and context["turn"].state == TurnState.WAITING:
        return HttpResponse(status=204)
    return render(request, "rlhf/_chat.html", context)


@require_POST
@login_required
def say(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug)
    form = SayForm(request.POST)
    if not form.is_valid():
        return _show(request, access, form, status=UNPROCESSABLE)
    if not queue.is_qualified(access.project, request.user):
        form.add_error(None, "You do not judge comparisons in this project.")
        return _show(request, access, form, status=UNPROCESSABLE)
    if not queue.may_begin_real_work(access.project, request.user):
        form.add_error(None, "You are handed nothing new at the moment: “Compare” says why.")
        return _show(request, access, form, status=UNPROCESSABLE)
    try:
        conversations.say(access.project, request.user, form.cleaned_data["text"])
    except conversations.NobodyListens as error:
        form.add_error(None, str(error))
        return _show(request, access, form, status=UNPROCESSABLE)
    return _show(request, access)


@require_POST
@login_required
def judge_turn(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug)
    judged = take_verdict(request, access)
    if isinstance(judged, str):
        return _show(request, access, error=judged, status=UNPROCESSABLE)
    return _show(request, access)


@require_POST
@login_required
def new_chat(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug)
    if conversation := conversations.conversation_of(access.project, request.user):
        conversations.end(conversation)
    return _show(request, access)


def _show(
    request: HtmxRequest,
    access: Access,
    form: SayForm | None = None,
    *,
    error: str = "",
    status: int = 200,
) -> HttpResponse:
    """The fragment for htmx, else the page, by way of a redirect if all is well."""
    if not request.htmx and status == 200:
        return redirect("rlhf:chat", access.project.slug)
    template = "rlhf/_chat.html" if request.htmx else "rlhf/chat.html"
    context = _context(request, access, form) | {"error": error}
    return render(request, template, context, status=status)


def _context(request: HtmxRequest, access: Access, form: SayForm | None = None) -> dict[str, Any]:
    project, role = access
    conversation = conversations.conversation_of(project, request.user)
    turn = conversations.look_after(conversation) if conversation else None
    context: dict[str, Any] = {
        "project": project,
        "role": role,
        "is_reviewer": access.is_reviewer,
        "chat": conversation,
        "turn": turn,
        "is_listening": conversations.listener_of(project) is not None,
        "form": form or SayForm(initial={"text": _unanswered(turn)}),
        "judge_url": reverse("rlhf:judge_turn", args=[project.slug]),
    }
    if conversation and turn and turn.state == TurnState.SHOWN:
        return context | _task(request, access, conversation, turn)
    return context


def _unanswered(turn: Turn | None) -> str:
    """What was said and got no answer: nobody types it twice."""
    is_lost = turn is not None and turn.state == TurnState.DROPPED and turn.error
    return turn.text if turn and is_lost else ""


def _task(
    request: HtmxRequest, access: Access, conversation: Conversation, turn: Turn
) -> dict[str, Any]:
    """What the comparing page shows of a comparison, sent to this page instead."""
    assert turn.comparison is not None
    held = queue.held_by(access.project, request.user)
    if held is None or held.comparison_id != turn.comparison_id or not queue.show_anew(held):
        return {}
    held.was_shown = timezone.now() - held.created > UNSEEN
    return task_context(held, request.POST.get("shown", ""))

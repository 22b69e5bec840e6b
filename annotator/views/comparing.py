"""The comparing page: the next comparison, the verdict, undo."""

from __future__ import annotations

import re
import time
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core import signing
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.http import require_POST

from annotator import assignment as queue
from annotator.access import Access, HtmxRequest, get_access
from annotator.ballots import Ballot, Entered, read
from annotator.compiled import compiled
from annotator.forms import JudgmentForm, UndoForm
from annotator.gold import is_qualifying, qualification_shares, share_right
from annotator.guidelines import news_for, versions
from annotator.models import ANSWERED, Assignment, Judgment, Project, Role, Verdict
from annotator.protocols import picks_best, protocol_shown
from annotator.rendering import LETTERS, code_style, split_conversation
from annotator.reviewing import examples_of, in_letters, worked
from annotator.withdrawing import was_withdrawn

EXAMPLES_SHOWN = 10
SHOWN_SALT = "annotator.shown"
MILLISECONDS = re.compile(r"[0-9]{1,9}")  # up to eleven days
STEPPED_OVER = "Others have answered what you left to them last: this is what you judged before it."


@login_required
@never_cache  # so that the back button shows what is on now, not what has been judged
def compare(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug)
    context = _context(request, access) | {"news": news_for(access.project, request.user)}
    return render(request, "annotator/compare.html", context)


@login_required
@never_cache
def next_comparison(request: HtmxRequest, slug: str) -> HttpResponse:
    """The comparison alone, for a page on which nothing was left to do."""
    context = _context(request, get_access(request, slug))
    return render(request, "annotator/_comparison.html", context)


@login_required
@never_cache
def so_far(request: HtmxRequest, slug: str) -> HttpResponse:
    """How much is done and left, counted anew: the page asks for it when it is due, so that no verdict
    has to wait for it."""
    project, _ = get_access(request, slug)
    held = queue.held_by(project, request.user)
    context = {"project": project, "progress": queue.progress(project, request.user, held)}
    return render(request, "annotator/_so_far.html", context)


@require_POST
@login_required
def judge(request: HtmxRequest, slug: str) -> HttpResponse:
    """Record the verdict, and answer with the next comparison."""
    access = get_access(request, slug)
    judged = take_verdict(request, access)
    if isinstance(judged, str):
        return _show(request, access, judged, 422)
    if access.project.qualification_shows_answers and _may_see_answer(access.project, judged):
        return _show_answer(request, access, judged)
    return _show(request, access, judged=judged)


def take_verdict(request: HtmxRequest, access: Access) -> Judgment | str:
    """Record what the form says; a sentence if that cannot be."""
    form = JudgmentForm(request.POST)
    if not form.is_valid():
        return "The verdict did not arrive whole: send it again."
    pk = form.cleaned_data["assignment"]
    found = _shown_to(access.project.pk, request.user.pk, pk)
    if not found:
        raise Http404("Nothing of the kind was shown to you.")
    [assignment] = found
    assignment.project, assignment.annotator = access.project, request.user  # at hand: no queries
    entered, first = entered_in(request), first_interaction_in(request)
    try:
        said = read(entered, protocol_shown(assignment), assignment.order)
    except ValueError as error:
        queue.save_draft(assignment, entered, first)  # it is on the page again
        return str(error)
    if said["verdict"] == Verdict.SKIPPED:
        queue.save_draft(assignment, entered)  # an undo brings it back
    try:
        return queue.record(
            assignment,
            **said,
            payload_hash=form.cleaned_data["payload_hash"],
            seconds=seconds_since(form.cleaned_data["shown"], assignment),
            first_interaction_ms=first,
        )
    except queue.NotRecorded as error:
        queue.save_draft(assignment, entered, first)
        return str(error)


@compiled
def _shown_to(project: int, annotator: int, pk: int) -> QuerySet[Assignment]:
    shown = Assignment.objects.select_related("comparison")
    return shown.filter(pk=pk, project=project, annotator=annotator)


@login_required
@never_cache
def right_answer(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """What was right, after a verdict of one's own qualification."""
    access = get_access(request, slug)
    mine = Judgment.objects.filter(project=access.project, annotator=request.user)
    judgment = get_object_or_404(mine, pk=pk)
    if not _may_see_answer(access.project, judgment):
        return redirect("annotator:compare", slug)
    context = _answer_context(access, judgment)
    return render(request, "annotator/compare.html", context)


@require_POST
@login_required
def undo(request: HtmxRequest, slug: str) -> HttpResponse:
    """Take back the judgment that the form names, unless a request before this one did so."""
    access = get_access(request, slug)
    form = UndoForm(request.POST)
    if not form.is_valid():
        return _show(request, access, "There is nothing to take back.", 422)
    try:
        again = queue.undo_last(
            access.project, request.user, judgment_id=form.cleaned_data["judgment"]
        )
    except queue.NotUndone as error:
        return _show(request, access, str(error), 422)
    return _show(request, access, STEPPED_OVER if again and _stepped_over(again) else "")


def _stepped_over(again: Assignment) -> bool:
    """Whether they said something later than what an undo has just brought back."""
    mine = Judgment.objects.filter(project=again.project_id, annotator=again.annotator_id)
    taken_back = mine.filter(comparison=again.comparison_id).order_by("-pk")[:1]
    return mine.filter(voided=None, created__gt=taken_back.values("created")).exists()


@require_POST
@login_required
def save_draft(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """What is entered and not sent is there when the page is opened again, also elsewhere."""
    project, _ = get_access(request, slug)
    held = get_object_or_404(Assignment, pk=pk, project=project, annotator=request.user)
    queue.save_draft(held, entered_in(request), first_interaction_in(request))
    return HttpResponse(status=204)


@require_POST
@login_required
def renew(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """A page that is open keeps its lease."""
    project, _ = get_access(request, slug)
    held = get_object_or_404(Assignment, pk=pk, project=project, annotator=request.user)
    queue.renew(held)
    return HttpResponse(status=204)


@login_required
@never_cache
def guidelines(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug)
    project = access.project
    page = Paginator(examples_of(project), EXAMPLES_SHOWN).get_page(request.GET.get("page"))
    context = {
        **access._asdict(),
        "is_reviewer": access.is_reviewer,
        "news": news_for(project, request.user),
        "versions": versions(project),
        "page": page,
        "examples": worked(list(page)),
    }
    return render(request, "annotator/guidelines.html", context)


@cache_control(max_age=3600)
def code_css(request: HttpRequest) -> HttpResponse:
    """Colours of code in answers: made by Pygments, the same for everybody."""
    return HttpResponse(code_style(), content_type="text/css")


# --- the right answer -------------------------------------------------------------------------
def _may_see_answer(project: Project, judgment: Judgment) -> bool:
    """Only of the qualification: in real work a known answer must not be told from the others."""
    is_asked = judgment.assignment.is_qualification and judgment.verdict in ANSWERED
    return project.qualification_shows_answers and is_asked


def _show_answer(request: HtmxRequest, access: Access, judgment: Judgment) -> HttpResponse:
    if not request.htmx:
        return redirect("annotator:right_answer", access.project.slug, judgment.pk)
    context = _answer_context(access, judgment)
    return render(request, "annotator/_comparison.html", context)


def _answer_context(access: Access, judgment: Judgment) -> dict[str, Any]:
    answers = list(zip(LETTERS, queue.shown(judgment.assignment), strict=False))
    letters = {completion.pk: letter for letter, completion in answers}
    comparison = judgment.comparison
    said = in_letters(judgment.verdict, judgment.ranking, letters)
    return {
        "project": access.project,
        "role": access.role,
        "answered": judgment,
        "said": said,
        "is_right": share_right(
            judgment.ranking, comparison.expected, is_pick=picks_best(judgment.assignment)
        )
        == 1,
        "expected": in_letters(Verdict.RANKING, comparison.expected, letters),
        "conversation": split_conversation(comparison.prompt.messages),
        "answers": answers,
    }


# --- answers ----------------------------------------------------------------------------------
def _show(
    request: HtmxRequest,
    access: Access,
    error: str = "",
    status: int = 200,
    *,
    judged: Judgment | None = None,
) -> HttpResponse:
    """What comes next: the fragment for htmx, else the page, by way of a redirect if all is well."""
    if not request.htmx and not error:
        return redirect("annotator:compare", access.project.slug)
    template = "annotator/_comparison.html" if request.htmx else "annotator/compare.html"
    context = _context(request, access, judged) | {"error": error, "is_notice": status == 200}
    if error:
        context["unsent"] = _unsent(request, context["assignment"])
    return render(request, template, context, status=status)


def _unsent(request: HtmxRequest, shown: Assignment | None) -> list[str]:
    """Texts that were sent about something else than what is shown now: nobody types them twice."""
    if shown is not None and request.POST.get("assignment") == str(shown.pk):
        return []
    texts = [request.POST.get(name, "").strip() for name in ("rationale", "rewrite")]
    return [text for text in texts if text]


def entered_in(request: HtmxRequest) -> Entered:
    return dict(request.POST.lists())


def first_interaction_in(request: HtmxRequest) -> int | None:
    """As the page measured it. What is no number is no reason to lose a verdict: it is not known."""
    measured = MILLISECONDS.fullmatch(request.POST.get("first_interaction_ms", ""))
    return int(measured[0]) if measured else None


def shown_now(assignment: Assignment, shown: str = "") -> str:
    """Signed, for the form to bring back: which assignment the page shows, and since when.

    What the form has brought, `shown`, goes on. Whoever comes back to something later, or takes a
    verdict back, has read it before, and nobody knows for how long: then there is no time.
    """
    if _signed(shown, assignment):
        return shown
    since = None if assignment.was_shown else time.time()
    return signing.dumps([assignment.pk, since], salt=SHOWN_SALT)


def seconds_since(shown: str, assignment: Assignment) -> float | None:
    """How long the page has shown the assignment; None if it had been shown before that. If `shown` was not
    signed for it, how long ago it was handed out, after an undo None too: nobody says themselves how long
    it took."""
    signed = _signed(shown, assignment)
    if signed is None:
        if queue.was_taken_back(assignment):
            return None
        return (timezone.now() - assignment.created).total_seconds()
    _, since = signed
    return None if since is None else time.time() - since


def _signed(shown: str, assignment: Assignment) -> tuple[int, float | None] | None:
    try:
        pk, since = signing.loads(shown, salt=SHOWN_SALT)
    except signing.BadSignature:
        return None
    return (pk, since) if pk == assignment.pk else None


def _context(
    request: HtmxRequest, access: Access, judged: Judgment | None = None
) -> dict[str, Any]:
    project, role = access
    assignment = queue.claim(project, request.user, has_judged=judged is not None)
    shown_before = request.POST.get("progress", "")
    progress = queue.progress(
        project, request.user, assignment, judged=judged, shown_before=shown_before
    )
    context: dict[str, Any] = {
        "project": project,
        "role": role,
        "is_reviewer": access.is_reviewer,
        "progress": progress,
        "last_judgment": progress.last_judgment,
        "assignment": assignment,
    }
    if project.qualification_items:
        membership = queue.membership_of(project, request.user)
        if membership is not None and is_qualifying(project, membership):
            context["n_qualifying"] = len(qualification_shares(membership))
        last = judged or queue.last_judgment(project, request.user)
        if last and last.assignment.is_qualification:
            context["last_judgment"] = None  # it stands
    if assignment is None:
        admins = project.memberships.filter(role=Role.ADMIN).order_by("user__username")
        state = queue.why_nothing(project, request.user)
        return context | {
            "state": state,
            "was_withdrawn": state.reason == "not_qualified"
            and was_withdrawn(project, request.user),
            "admins": admins.values_list("user__username", flat=True)[:20],
        }
    return context | task_context(assignment, request.POST.get("shown", ""))


def task_context(assignment: Assignment, shown: str = "") -> dict[str, Any]:
    """What `_task.html` shows of a comparison; `shown` is what a form of it has brought back."""
    completions = queue.shown(assignment)
    return {
        "assignment": assignment,
        "conversation": split_conversation(assignment.comparison.prompt.messages),
        "ballot": Ballot(protocol_shown(assignment), completions, assignment.draft),
        "shown": shown_now(assignment, shown),
        # Half of the lease: one lost heartbeat does no harm.
        "renew_seconds": max(20, assignment.project.lease_minutes * 60 // 2),
    }

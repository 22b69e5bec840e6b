"""The guidelines: as they were, and what has changed since one last read them."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest, get_access
from annotator.differences import word_changes
from annotator.forms import ReadForm
from annotator.guidelines import mark_read, news_for, versions


@login_required
def guideline_version(request: HtmxRequest, slug: str, number: int) -> HttpResponse:
    """One version, and how it differs from the one before."""
    project, role = get_access(request, slug)
    known = {version.number: version for version in versions(project)}
    if number not in known:
        raise Http404("No such version of the guidelines.")
    earlier = max((n for n in known if n < number), default=None)
    context = {
        "project": project,
        "role": role,
        "version": known[number],
        "earlier": earlier,
        "changes": word_changes(known[earlier].text, known[number].text) if earlier else [],
    }
    return render(request, "annotator/guideline_version.html", context)


@login_required
@never_cache
def guideline_news(request: HtmxRequest, slug: str) -> HttpResponse:
    """The notice alone, for a page that was open while the guidelines changed."""
    project, _ = get_access(request, slug)
    context = {"project": project, "news": news_for(project, request.user)}
    return render(request, "annotator/_guideline_news.html", context)


@require_POST
@login_required
def read_guidelines(request: HtmxRequest, slug: str) -> HttpResponse:
    """The member says that they have read the version that the page has shown them."""
    project, _ = get_access(request, slug)
    form = ReadForm(request.POST)
    if form.is_valid():
        mark_read(project, request.user, form.cleaned_data["version"])
    if not request.htmx:
        return redirect("annotator:compare", slug)
    context = {"project": project, "news": news_for(project, request.user)}
    return render(request, "annotator/_guideline_news.html", context)

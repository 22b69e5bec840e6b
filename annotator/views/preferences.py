"""How somebody likes to work, in all projects: their keys, and whether differences are marked."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest
from annotator.differences import differing
from annotator.forms import DifferencesForm
from annotator.keys import ACTIONS, key_map_of, label


@login_required
def keys(request: HtmxRequest) -> HttpResponse:
    user = request.user
    own, mistakes = user.key_map, []
    if request.method == "POST":
        own = {} if "reset" in request.POST else request.POST.dict()
        try:
            user.key_map = key_map_of(own)
        except ValueError as error:
            mistakes = list(error.args)
        else:
            user.save(update_fields=["key_map"])
            messages.success(request, "Saved.")
            return redirect("annotator:keys")
    rows = [(usual, label(usual), does, own.get(usual, "")) for usual, does in ACTIONS.items()]
    context = {"rows": rows, "mistakes": mistakes}
    return render(request, "annotator/keys.html", context, status=422 if mistakes else 200)


@require_POST
@login_required
def show_differences(request: HtmxRequest) -> HttpResponse:
    """Remember whether differences are to be marked."""
    request.user.shows_differences = "on" in request.POST
    request.user.save(update_fields=["shows_differences"])
    return HttpResponse(status=204)


@require_POST
@login_required
def differences(request: HtmxRequest) -> HttpResponse:
    """Where two texts differ, as the page shows them: [[start, end], …] for each, in UTF-16 units,
    which is how browsers count."""
    form = DifferencesForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"error": "These texts are too long to be compared."}, status=422)
    both = differing(form.cleaned_data["first"], form.cleaned_data["second"])
    return JsonResponse({"first": both[0], "second": both[1]})

"""The page on which somebody makes, lists and revokes their API tokens."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest
from annotator.forms import TokenForm
from annotator.tokens import TooManyTokens, make_token, revoke
from annotator.views.review import page_of


@login_required
@never_cache  # it may show a secret
def tokens(request: HtmxRequest) -> HttpResponse:
    form, secret = TokenForm(request.POST or None), ""
    if request.method == "POST" and form.is_valid():
        try:
            _, secret = make_token(request.user, **form.cleaned_data)
        except TooManyTokens as error:
            form.add_error(None, str(error))
    context = {
        "form": TokenForm() if secret else form,
        "secret": secret,
        "page": page_of(request.user.api_tokens.all(), request.GET.get("before", "")),
    }
    return render(request, "annotator/tokens.html", context, status=422 if form.errors else 200)


@require_POST
@login_required
def revoke_token(request: HtmxRequest, pk: int) -> HttpResponse:
    if revoke(request.user, pk):
        messages.success(request, "The token works no more.")
    else:
        messages.info(request, "There is no such token of yours that still works.")
    return redirect("annotator:tokens")

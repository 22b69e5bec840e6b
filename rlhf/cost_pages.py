"""The page that says what a project's runs cost, and the form for the price of an hour."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import redirect, render

from annotator.access import HtmxRequest, get_access
from annotator.audit import Action, changes, record
from annotator.models import Role
from rlhf.costs import costs_of, price_of, total
from rlhf.price_models import Price

UNPROCESSABLE = 422
PRICED = ("per_hour", "currency")


class PriceForm(forms.ModelForm):
    class Meta:
        model = Price
        fields = PRICED


@login_required
def costs(request: HtmxRequest, slug: str) -> HttpResponse:
    """A POST sets the price."""
    project, role = get_access(request, slug, Role.REVIEWER)
    if request.method == "POST":
        project, role = get_access(request, slug, Role.ADMIN)
    price = price_of(project)
    before = {name: getattr(price, name) for name in PRICED}
    form = PriceForm(request.POST if request.method == "POST" else None, instance=price)
    if form.is_bound and form.is_valid():
        values = form.cleaned_data
        with transaction.atomic():
            price, _ = Price.objects.update_or_create(project=project, defaults=values)
            if changed := changes(before, values):
                record(request.user, Action.CHANGED, price, project=project, **changed)
        messages.success(request, "The price is set; the table below counts with it.")
        return redirect("rlhf:costs", slug)
    rows = costs_of(project)
    context = {
        "project": project,
        "role": role,
        "form": form,
        "rows": rows,
        "total": total(rows),
        "currency": before["currency"],
    }
    status = UNPROCESSABLE if form.is_bound else 200
    return render(request, "rlhf/costs.html", context, status=status)

"""The page that says what a project's runs cost, and the form for the price of an hour."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest, get_access
from annotator.audit import Action, changes, record
from annotator.models import Role
from rlhf.costs import bill_of, price_of
from rlhf.models import ModelKind, ModelVersion
from rlhf.price_models import ModelPrice, Price

UNPROCESSABLE = 422
PRICED = ("per_hour", "currency")


class ModelPriceForm(forms.ModelForm):
    class Meta:
        model = ModelPrice
        fields = ("per_million",)


def price_of_tokens(version: ModelVersion) -> dict[str, Any]:
    """For the page of a policy that is here: what its tokens cost, and the form of the model that says so."""
    if version.kind != ModelKind.POLICY:
        return {}
    root = version.root()
    price = ModelPrice.objects.filter(version=root).first()
    return {
        "token_price": price,
        "priced": root,
        "currency": price_of(version.project).currency,
        "price_form": ModelPriceForm(instance=price) if root == version else None,
    }


@require_POST
@login_required
def price_model(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """Set the price of an imported model's tokens."""
    project, _ = get_access(request, slug, Role.ADMIN)
    versions = project.model_versions.filter(kind=ModelKind.POLICY, parent=None)
    version = get_object_or_404(versions, pk=pk)
    price = ModelPrice.objects.filter(version=version).first()
    before = {"price_per_million": price.per_million if price else 0.0}
    form = ModelPriceForm(request.POST)
    if not form.is_valid():
        said = " ".join(map(str, form.errors["per_million"]))
        messages.error(request, f"The price was not set: {said}")
        return redirect(version)
    value = form.cleaned_data["per_million"]
    with transaction.atomic():
        ModelPrice.objects.update_or_create(version=version, defaults={"per_million": value})
        if changed := changes(before, {"price_per_million": value}):
            record(request.user, Action.CHANGED, version, project=project, **changed)
    messages.success(request, "The price is set, for runs of before as well.")
    return redirect(version)


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
    bill = bill_of(project)
    context = {
        "project": project,
        "role": role,
        "form": form,
        "rows": bill.rows,
        "total": bill.total,
        "currency": before["currency"],
    }
    status = UNPROCESSABLE if form.is_bound else 200
    return render(request, "rlhf/costs.html", context, status=status)

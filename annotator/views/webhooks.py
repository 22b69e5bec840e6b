"""Where a project's events are told: addresses, and what came of each message."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest, get_access
from annotator.models import Project, Role
from annotator.views.review import Page, page_of
from annotator.webhooks import outbox
from annotator.webhooks.forms import WebhookForm
from annotator.webhooks.models import Delivery, DeliveryState, Webhook

MOST = 20  # addresses of a project
SOON = timedelta(minutes=1)  # a page waits for messages that are to be sent by then


@login_required
def webhooks(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    return _webhooks_page(request, project, WebhookForm())


def _webhooks_page(
    request: HtmxRequest, project: Project, form: WebhookForm, *, status: int = 200
) -> HttpResponse:
    context = {
        "project": project,
        "role": Role.ADMIN,
        "webhooks": project.webhooks.kept(),
        "form": form,
    }
    return render(request, "annotator/webhooks.html", context, status=status)


@require_POST
@login_required
@never_cache
def create_webhook(request: HtmxRequest, slug: str) -> HttpResponse:
    """Keep the address, and show its secret, this once."""
    project, _ = get_access(request, slug, Role.ADMIN)
    form = WebhookForm(request.POST)
    if form.is_valid() and project.webhooks.kept().count() >= MOST:
        form.add_error(None, f"A project has at most {MOST} webhooks: remove one first.")
    if not form.is_valid():
        return _webhooks_page(request, project, form, status=422)
    hook, secret = outbox.add(project, request.user, **form.cleaned_data)
    return _webhook_page(request, project, hook, secret=secret)


@login_required
def webhook(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, hook = _get(request, slug, pk)
    return _webhook_page(request, project, hook)


def _get(request: HtmxRequest, slug: str, pk: int) -> tuple[Project, Webhook]:
    project, _ = get_access(request, slug, Role.ADMIN)
    hook = get_object_or_404(project.webhooks.kept(), pk=pk)
    hook.project = project
    return project, hook


def _webhook_page(
    request: HtmxRequest,
    project: Project,
    hook: Webhook,
    *,
    form: WebhookForm | None = None,
    secret: str = "",
) -> HttpResponse:
    entered = {name: getattr(hook, name) for name in WebhookForm.base_fields}
    context = {
        "project": project,
        "role": Role.ADMIN,
        "webhook": hook,
        "form": form or WebhookForm(initial=entered),
        "secret": secret,
        **_log(request, hook),
    }
    status = 422 if form and form.errors else 200
    return render(request, "annotator/webhook.html", context, status=status)


@login_required
def deliveries(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """The log by itself, for a page that waits for what is being sent."""
    project, hook = _get(request, slug, pk)
    context = {"project": project, "webhook": hook, **_log(request, hook)}
    return render(request, "annotator/_deliveries.html", context)


def _log(request: HtmxRequest, hook: Webhook) -> dict[str, object]:
    state, before = request.GET.get("state", ""), request.GET.get("before", "")
    rows = hook.deliveries.all()
    if state in DeliveryState.values:
        rows = rows.filter(state=state)
    page = page_of(rows, before)
    return {
        "page": page,
        "states": DeliveryState.choices,
        "state": state,
        "keep": urlencode({"state": state} if state else {}),
        "here": urlencode({"state": state, "before": before}),
        "is_waiting": hook.paused is None and _is_any_soon(page),
    }


def _is_any_soon(page: Page) -> bool:
    soon = timezone.now() + SOON
    return any(row.state == DeliveryState.WAITING and row.due < soon for row in page.rows)


@require_POST
@login_required
def change_webhook(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, hook = _get(request, slug, pk)
    form = WebhookForm(request.POST)
    if not form.is_valid():
        return _webhook_page(request, project, hook, form=form)
    outbox.change(hook, request.user, **form.cleaned_data)
    messages.success(request, "Saved.")
    return redirect(hook)


@require_POST
@login_required
@never_cache
def replace_secret(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, hook = _get(request, slug, pk)
    return _webhook_page(request, project, hook, secret=outbox.replace_secret(hook, request.user))


@require_POST
@login_required
def test_webhook(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, hook = _get(request, slug, pk)
    if hook.paused:
        messages.info(request, "It is paused: resume it first.")
    else:
        outbox.tell_test(hook)
        messages.success(request, "A test is on its way: its line below says what came of it.")
    return redirect(hook)


@require_POST
@login_required
def pause_webhook(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, hook = _get(request, slug, pk)
    outbox.pause(hook, f"Paused by {request.user.username}.", request.user)
    return redirect(hook)


@require_POST
@login_required
def resume_webhook(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, hook = _get(request, slug, pk)
    outbox.resume(hook, request.user)
    messages.success(request, "It is told again. What was waiting is sent now.")
    return redirect(hook)


@require_POST
@login_required
def remove_webhook(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, hook = _get(request, slug, pk)
    outbox.remove(hook, request.user)
    messages.success(request, f"{hook.url} is told nothing any more.")
    return redirect("annotator:webhooks", project.slug)


@require_POST
@login_required
def send_again(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    kept = Delivery.objects.filter(webhook__in=project.webhooks.kept())
    delivery = get_object_or_404(kept.select_related("webhook__project"), pk=pk)
    if outbox.send_again(delivery):
        messages.success(request, f"Message {delivery.pk} is sent again.")
    else:
        messages.info(request, f"Message {delivery.pk} is on its way anyway.")
    return redirect(delivery.webhook)

"""The trials of a search on its run's page: their table and picture, and what can be done with them."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.forms.utils import pretty_name
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.defaultfilters import filesizeformat
from django.views.decorators.http import require_POST, require_safe

from annotator.access import Access, HtmxRequest, get_access
from annotator.models import Role
from rlhf import reward_reports
from rlhf.forms import FORMS
from rlhf.models import Dataset, ModelKind, ModelVersion, Run, RunKind
from rlhf.search_picture import draw
from rlhf.searching import SearchRefused, delete_files, promote, trial_run, trials_of
from rlhf.training.search_config import config_tried, kinds_tried, where_fixed
from rlhf.training.search_space import (
    format_value,
    in_words,
    parse_space,
    types_of,
    usual_of,
    varied,
)


class Setting(NamedTuple):
    """One that a search may vary, as the form lists it."""

    name: str
    label: str  # in the form of such a run; empty if it is not there
    type: str
    usual: str


def settings_by_kind() -> list[tuple[str, list[Setting]]]:
    """By the name of each kind of run that can be tried."""
    return [(RunKind(kind).label, _settings_of(kind)) for kind in kinds_tried()]


def _settings_of(kind: str) -> list[Setting]:
    config, fields = config_tried(kind), FORMS[kind].base_fields
    types = types_of(config)
    return [
        Setting(
            name,
            str(fields[name].label or pretty_name(name)) if name in fields else "",
            ", ".join(
                filter(None, [_words_for(types[name], fields.get(name)), where_fixed(kind, name)])
            ),
            format_value(usual),
        )
        for name, usual in usual_of(config).items()
    ]


def _words_for(types: tuple[type, ...], field: Any) -> str:
    """With the words that there are to choose from. Example: "a word: mean, worst, uncertainty"."""
    values = [str(value) for value, _ in getattr(field, "choices", ()) if str(value)]
    is_word = str in types and values
    return f"{in_words(types)}: {', '.join(values)}" if is_word else in_words(types)


def context_of(run: Run) -> dict[str, Any]:
    """What a run's page needs besides, if the run is a search."""
    if run.kind != RunKind.SEARCH or (found := trials_of(run)) is None:
        return {}
    types = types_of(config_tried(run.config["tries"]))
    space = varied(parse_space(run.config["space"], types))
    return {"trials": found, "picture": draw(found, space)}


@require_safe
@login_required
def trials(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_search(request, slug, pk, Role.REVIEWER)
    context = {**access._asdict(), "run": run, **context_of(run)}
    return render(request, "rlhf/_trials.html", context)


@require_safe
@login_required
def trial_report(request: HtmxRequest, slug: str, pk: int, number: int) -> HttpResponse:
    """How good the reward model of a trial is; trials are counted from 0, as in the API."""
    access, run = _get_search(request, slug, pk, Role.REVIEWER)
    trial = trial_run(run, number)
    if trial is None or reward_reports.report_of(trial) is None:
        raise Http404("this trial has no report on a reward model")
    version = run.outputs.filter(details__trial=number).first()
    page = reward_reports.page_of(trial)
    context = {**access._asdict(), "run": run, "trial": number, "version": version, **page}
    return render(request, "rlhf/reward_report.html", context)


@require_POST
@login_required
def promote_trial(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, run = _get_search(request, slug, pk, Role.ADMIN)
    asked = request.POST.get("trial", "")
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 5 else None
    try:
        made = promote(run, number, request.user)
    except SearchRefused as refusal:
        messages.error(request, str(refusal))
        return redirect(run)
    if isinstance(made, Dataset):
        return redirect("rlhf:dataset", slug, made.pk)
    return redirect(made)


@require_POST
@login_required
def delete_trials(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, run = _get_search(request, slug, pk, Role.ADMIN)
    try:
        freed = delete_files(run, request.user)
    except SearchRefused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, f"Deleted: {filesizeformat(freed)} are free again.")
    return redirect(run)


def has_report(version: ModelVersion) -> bool:
    """Whether it is a reward model that a search has made, and its trial has kept what the report says."""
    number, run = version.details.get("trial"), version.run
    if version.kind != ModelKind.REWARD or number is None or run is None:
        return False
    trial = trial_run(run, number)
    return trial is not None and reward_reports.report_of(trial) is not None


def _get_search(request: HtmxRequest, slug: str, pk: int, at_least: Role) -> tuple[Access, Run]:
    access = get_access(request, slug, at_least)
    rows = access.project.runs.filter(kind=RunKind.SEARCH).select_related("policy", "project")
    return access, get_object_or_404(rows, pk=pk)

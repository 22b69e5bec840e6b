"""Pages of the loop: the project, its runs, its model versions.

Annotators see the project page without what could tell them which policy wrote what; reviewers
see runs and model versions; only admins start, stop and resume.
"""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from annotator.access import Access, HtmxRequest, get_access
from annotator.models import Project, Role, Withdrawal
from annotator.withdrawing import VOIDED_AT_ONCE, go_on_with, known_here, n_in_force, withdraw
from rlhf import (
    annotators,
    charts,
    conversations,
    cost_pages,
    distill_pages,
    estimates,
    evaluation,
    gate_pages,
    learning_curves,
    lineage,
    loop,
    model_pages,
    prompt_lab,
    quarantine,
    questions,
    reward_reports,
    rounds,
    screening_views,
    search_pages,
)
from rlhf import rollouts as answers
from rlhf import runs as run_control
from rlhf.combining import can_be_part, parts_of
from rlhf.current import current_policy
from rlhf.endpoints import spent_on
from rlhf.forms import FORMS, RunForm, settings_like
from rlhf.gating import CANDIDATES
from rlhf.models import ONLINE, ModelKind, ModelVersion, Run, RunKind, Status
from rlhf.outlooks import outlook_of
from rlhf.suites import why_without
from rlhf.training.reward_rules import format_lines
from rlhf.training.savings import savings_in_words

PAGE_SIZE = 50
ANSWERS_PER_PAGE = 20
UNPROCESSABLE = 422


# --- the loop ----------------------------------------------------------------------------------
@require_safe
@login_required
def project(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug)
    context = _strip_context(access)
    context["talking"] = conversations.standing_of(access.project)
    if access.is_reviewer:
        context["rounds"] = rounds.rounds_of(access.project)
        context["questions"] = questions.standing_of(access.project)
        context["current"] = gate_pages.card_of(access.project)
    return render(request, "rlhf/project.html", context)


@require_safe
@login_required
def loop_strip(request: HtmxRequest, slug: str) -> HttpResponse:
    return render(request, "rlhf/_loop_strip.html", _strip_context(get_access(request, slug)))


@require_POST
@login_required
def next_round(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    after = request.POST.get("after", "")
    if not after.isdecimal():  # isdigit() holds for "²", which is no int
        raise Http404("which round is over?")
    try:
        rounds.start_next_round(project, request.user, after=int(after))
    except run_control.RunRefused as refusal:
        messages.error(request, str(refusal))
    return redirect("rlhf:project", slug)


def _strip_context(access: Access) -> dict[str, Any]:
    return {**access._asdict(), "strip": loop.strip_of(*access)}


# --- runs --------------------------------------------------------------------------------------
@require_safe
@login_required
def runs(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    rows = project.runs.select_related("policy", "reward_model", "export", "created_by")
    context = {
        "project": project,
        "role": role,
        "page": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
        "kinds": RunKind.choices,
    }
    return render(request, "rlhf/runs.html", context)


@login_required
def new_run(request: HtmxRequest, slug: str, kind: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    if kind not in FORMS:
        raise Http404("no such kind of run")
    preset = request.GET.get("preset", "")
    is_preset = preset in FORMS[kind].presets
    if request.method != "POST" or is_preset:
        initial = _initial_settings(request, project, RunKind(kind))
        form = FORMS[kind](project, initial=initial)
        if is_preset:
            form = FORMS[kind].filled_in(project, initial, preset, request.POST or None)
        return _render_form(request, project, form)
    form = FORMS[kind](project, request.POST)
    if "estimate" in request.POST:
        return _render_form(request, project, form)
    if form.is_valid():
        try:
            run = run_control.launch(
                project,
                kind,
                form.settings,
                user=request.user,
                round_number=rounds.current_number(project),
                **form.named_arguments,
            )
        except run_control.RunRefused as refusal:
            form.add_error(None, str(refusal))
        else:
            return _go_to(request, run.get_absolute_url())
    return _render_form(request, project, form, status=UNPROCESSABLE)


def _initial_settings(request: HtmxRequest, project: Project, kind: RunKind) -> dict[str, Any]:
    """Those of the run that `?like=` names, else what the rounds suggest.

    `?best_of=16&reward_model=7` suggests an evaluation that shows what a reward model is worth.
    `?best_of=16&rewards_of=12` suggests the baseline of a PPO run, by the same rewards.
    """
    like = _number(request, "like")
    if kind == RunKind.SCREEN and (screened := request.GET.get("screened")):
        return {"screened": screened}
    if kind == RunKind.EVALUATE and (n := _number(request, "best_of")):
        if (pk := _number(request, "rewards_of")) is None:
            return rounds.best_of_n(project, n, _number(request, "reward_model"))
        rewarded = project.runs.filter(kind__in=ONLINE).select_related("policy", "reward_model")
        return rounds.baseline_of(get_object_or_404(rewarded, pk=pk), n)
    if kind == RunKind.INDEX and like is None:
        asked = project.collections.filter(pk=_number(request, "collection") or 0).first()
        return {"collection": asked} if asked else {}
    if like is None:
        return {
            **rounds.suggestions(project, kind),
            **_asked_versions(request, project),
            **_asked_dataset(request, project),
        }
    rows = project.runs.select_related("policy", "rival", "reward_model", "base", "judge", "export")
    return settings_like(get_object_or_404(rows, pk=like, kind=kind))


def _asked_versions(request: HtmxRequest, project: Project) -> dict[str, ModelVersion]:
    """Those that the address names: `?policy=3&rival=2&base=7`."""
    versions = project.model_versions
    asked = {name: _number(request, name) for name in ("policy", "rival", "base")}
    found = {name: versions.filter(pk=pk).first() for name, pk in asked.items() if pk}
    return {name: version for name, version in found.items() if version}


def _asked_dataset(request: HtmxRequest, project: Project) -> dict[str, Any]:
    """That which the address names: `?dataset=3`."""
    asked = _number(request, "dataset")
    found = list(project.datasets.filter(pk=asked)) if asked else []
    return {"datasets": found} if found else {}


def _render_form(
    request: HtmxRequest, project: Project, form: RunForm, status: int = 200
) -> HttpResponse:
    template = "rlhf/_run_form.html" if request.htmx else "rlhf/new_run.html"
    few_shot = prompt_lab.few_shot_notice(project, form.kind)
    context = {"project": project, "role": Role.ADMIN, "form": form, "few_shot": few_shot}
    if "policy" in form.arguments:
        suggested = form.initial.get("policy")
        context["note_on_policy"] = rounds.note_on_policy(project, form.kind, suggested)
    if form.kind in quarantine.TRAINING:
        context |= screening_views.line_of(project, form)
    if form.kind == RunKind.SEARCH:
        context["searchable"] = search_pages.settings_by_kind()
    if not form.missing():
        context["outlook"] = outlook_of(project, form)
    return render(request, template, context, status=status)


@require_POST
@login_required
def estimate(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    if (asked := FORMS.get(request.GET.get("kind", RunKind.PPO))) is None:
        raise Http404("no such kind of run")
    outlook = outlook_of(project, asked(project, request.POST))
    return render(request, "rlhf/_estimate.html", {"project": project, "outlook": outlook})


def _go_to(request: HtmxRequest, url: str) -> HttpResponse:
    """A redirect of the whole page: the new one needs scripts that this one has not loaded."""
    return HttpResponseClientRedirect(url) if request.htmx else redirect(url)


@require_safe
@login_required
def run(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_run(request, slug, pk, Role.REVIEWER)
    table = charts.table_of(run)
    context = _status_context(access, run) | {
        "sections": charts.sections_of(run) if run.is_active or table.rows else [],
        "samples": charts.samples_of(run, _step_asked(request)),
        "table": table,
        "log": charts.log_tail(run.folder / "log.txt"),
        "passed": quarantine.passed_in_words(run),
        "second_models": charts.second_models(run) if run.kind in ONLINE else [],
        **search_pages.context_of(run),
        **distill_pages.context_of(run),
        "reward_lines": format_lines(run.rewards).splitlines(),
    }
    return render(request, "rlhf/run.html", context)


@require_safe
@login_required
def run_status(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_run(request, slug, pk, Role.REVIEWER)
    return render(request, "rlhf/_run_status.html", _status_context(access, run))


@require_GET
@login_required
def run_charts(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, run = _get_run(request, slug, pk, Role.REVIEWER)
    after = _number(request, "after")
    return JsonResponse(charts.new_values(run, after=-1 if after is None else after))


@require_safe
@login_required
def run_metrics(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_run(request, slug, pk, Role.REVIEWER)
    context = {**access._asdict(), "run": run, "table": charts.table_of(run)}
    return render(request, "rlhf/_run_metrics.html", context)


@require_safe
@login_required
def run_samples(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_run(request, slug, pk, Role.REVIEWER)
    samples = charts.samples_of(run, _step_asked(request))
    context = {**access._asdict(), "run": run, "samples": samples}
    return render(request, "rlhf/_run_samples.html", context)


@require_safe
@login_required
def rollouts(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_run(request, slug, pk, Role.REVIEWER)
    if run.kind not in ONLINE:
        raise Http404("only PPO, RLOO and GRPO keep its answers step by step")
    choice = _answers_asked(request)
    lines = answers.find_lines(run.folder, choice)
    page = Paginator(lines, ANSWERS_PER_PAGE).get_page(request.GET.get("page"))
    context = {
        **access._asdict(),
        "run": run,
        "choice": choice,
        "is_narrowed": choice != answers.Choice(order=choice.order),
        "orders": answers.ORDERS.items(),
        "page": page,
        "answers": answers.read_answers(run.folder, page),
        "suspicion": answers.suspicion_in_words(),
    }
    return render(request, "rlhf/rollouts.html", context)


def _answers_asked(request: HtmxRequest) -> answers.Choice:
    order = request.GET.get("order", "")
    return answers.Choice(
        first=_number(request, "first"),
        last=_number(request, "last"),
        order=order if order in answers.ORDERS else "newest",
        text=request.GET.get("text", "").strip(),
        suspicious="suspicious" in request.GET,
    )


@require_safe
@login_required
def reward_report(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_run(request, slug, pk, Role.REVIEWER)
    if reward_reports.report_of(run) is None:
        raise Http404("this run has no report on a reward model")
    context = {**access._asdict(), "run": run, **reward_reports.page_of(run)}
    return render(request, "rlhf/reward_report.html", context)


@require_safe
@login_required
def run_log(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_run(request, slug, pk, Role.REVIEWER)
    context = {**access._asdict(), "run": run, "log": charts.log_tail(run.folder / "log.txt")}
    return render(request, "rlhf/_run_log.html", context)


@require_POST
@login_required
def stop_run(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_run(request, slug, pk, Role.ADMIN)
    run_control.request_stop(run, request.user)
    return _after_action(request, access, run)


@require_POST
@login_required
def resume_run(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, run = _get_run(request, slug, pk, Role.ADMIN)
    try:
        run_control.resume(run, request.user)
    except run_control.RunRefused as refusal:
        messages.error(request, str(refusal))
    # Not only the status: the parts of the page that stopped asking must ask again.
    return _go_to(request, run.get_absolute_url())


def _get_run(request: HtmxRequest, slug: str, pk: int, at_least: Role) -> tuple[Access, Run]:
    access = get_access(request, slug, at_least)
    rows = access.project.runs.select_related(
        "policy", "rival", "reward_model", "judge", "export", "created_by"
    )
    return access, get_object_or_404(rows, pk=pk)


def _after_action(request: HtmxRequest, access: Access, run: Run) -> HttpResponse:
    if not request.htmx:
        return redirect(run)
    run.refresh_from_db()
    return render(request, "rlhf/_run_status.html", _status_context(access, run))


def _status_context(access: Access, run: Run) -> dict[str, Any]:
    is_done = run.status == Status.SUCCEEDED
    is_judged = run.kind == RunKind.EVALUATE and is_done
    learns_from_data = run.kind in (RunKind.SUPERVISED, RunKind.DOMAIN)
    return {
        **access._asdict(),
        "run": run,
        "outputs": list(run.outputs.all()),
        "waits_for_screening": bool(quarantine.to_be_screened(run)),
        "win_rate": evaluation.win_rate(run) if is_judged else None,
        "comparisons": estimates.comparisons(run) if is_done else [],
        "annotators": annotators.annotators_of(run) if is_done else [],
        "arms": questions.arms_of(run.result),
        "measured": run.result.get("probe"),
        "probe": estimates.probe_in(run.result) if is_done else None,
        "summary": reward_reports.summary(run) if is_done else "",
        "savings": savings_in_words(found) if (found := run.result.get("savings")) else "",
        "learning": learning_curves.curve_of(run) if is_done and learns_from_data else None,
    }


def _step_asked(request: HtmxRequest) -> int | None:
    return _number(request, "step")


def _number(request: HtmxRequest, name: str) -> int | None:
    """A whole number of the address, None if it is missing or no number."""
    value = request.GET.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


# --- model versions ----------------------------------------------------------------------------
@require_safe
@login_required
def model_versions(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    rows = project.model_versions.select_related("parent", "run")
    context = {
        "project": project,
        "role": role,
        "page": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
    }
    return render(request, "rlhf/model_versions.html", context)


@require_safe
@login_required
def model_version(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    rows = project.model_versions.select_related("run__export", "run__reward_model", "run__base")
    version = get_object_or_404(rows, pk=pk)
    judged = project.runs.without_gates().filter(
        kind=RunKind.EVALUATE, status=Status.SUCCEEDED, policy=version
    )
    evaluations = list(judged.select_related("rival")[:PAGE_SIZE])
    rates = evaluation.win_rates(evaluations)
    is_policy = version.kind == ModelKind.POLICY
    measured = estimates.probe_of(version) if is_policy else {}
    has_weights = version.kind not in (ModelKind.ENDPOINT, ModelKind.PROMPT)
    may_take_along = role == Role.ADMIN and has_weights
    context = {
        "project": project,
        "role": role,
        "version": version,
        "is_current": current_policy(project) == version,
        "has_trial_report": search_pages.has_report(version),
        "may_be_tested": role == Role.ADMIN and version.kind in CANDIDATES,
        "measured": measured,
        "probe": estimates.Probe.from_json(measured),
        **cost_pages.price_of_tokens(version),
        "ancestors": rounds.ancestors_of(version),
        "files": model_pages.files_of(version) if may_take_along else None,
        "children": version.children.select_related("run"),
        "parts": parts_of(version.run),
        "can_be_part": can_be_part(version),
        "rounds": version.rounds.all(),
        "spent": spent_on(version.endpoint) if version.kind == ModelKind.ENDPOINT else None,
        "no_suite": why_without(version),
        "evaluations": [(run, rates[run.pk]) for run in evaluations],
        "gates": version.gates.select_related("incumbent")[:PAGE_SIZE],
        **(prompt_lab.parts_of(version) if version.kind == ModelKind.PROMPT else {}),
        "used_by": project.runs.filter(
            Q(policy=version) | Q(rival=version) | Q(reward_model=version) | Q(base=version)
        )[:PAGE_SIZE],
    }
    return render(request, "rlhf/model_version.html", context)


# --- withdrawing an annotator --------------------------------------------------------------------
@login_required
def withdrawal(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """What carries a person's votes, before they are withdrawn and after; a POST withdraws them, or, with
    `go_on`, goes on with what is under way."""
    project, role = get_access(request, slug, Role.ADMIN)
    annotator = get_object_or_404(known_here(project), pk=pk)
    of_theirs = Withdrawal.objects.filter(project=project, annotator=annotator)
    if request.method == "POST":
        if "go_on" not in request.POST:
            withdraw(project, annotator, request.user)
        elif under_way := of_theirs.filter(finished=None).first():
            go_on_with(under_way)
        return _go_to(request, reverse("rlhf:withdrawal", args=[slug, pk]))
    context = {
        "project": project,
        "role": role,
        "annotator": annotator,
        "n_in_force": n_in_force(project, annotator),
        "voided_at_once": VOIDED_AT_ONCE,
        "withdrawals": list(of_theirs.select_related("created_by")),
        "carriers": lineage.carriers_of(project, annotator),
    }
    return render(request, "rlhf/withdrawal.html", context)

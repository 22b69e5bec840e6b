"""Pages of the loop: the project, its runs, its model versions."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse


@login_required
def project(request: HttpRequest, slug: str) -> HttpResponse:
    return HttpResponse(slug)


def _later(request: HttpRequest, slug: str, pk: int = 0, kind: str = "") -> HttpResponse:
    return HttpResponse(slug)


loop_strip = next_round = runs = new_run = run = run_status = run_charts = run_samples = _later
run_metrics = run_log = stop_run = resume_run = model_versions = model_version = _later

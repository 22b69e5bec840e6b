from django.urls import URLPattern, URLResolver, include, path

from rlhf.api import (
    candidates,
    costs,
    datasets,
    gates,
    lineage,
    models,
    prompting,
    routes,
    runs,
    screening,
    trials,
)

app_name = "rlhf_api"

run_urls = [
    path("", runs.runs, name="runs"),
    path("estimate/", runs.estimate, name="estimate_run"),
    path("<int:pk>/", runs.run, name="run"),
    path("<int:pk>/stop/", runs.stop, name="stop"),
    path("<int:pk>/resume/", runs.resume, name="resume"),
    path("<int:pk>/metrics/", runs.metrics, name="metrics"),
    path("<int:pk>/samples/", runs.samples, name="samples"),
    path("<int:pk>/log/", runs.log, name="log"),
    path("<int:pk>/trials/", trials.trials, name="trials"),
    path("<int:pk>/trials/promote/", trials.promote_trial, name="promote_trial"),
    path("<int:pk>/trials/delete/", trials.delete_trials, name="delete_trials"),
    path("<int:pk>/quarantine/", screening.quarantined, name="quarantined"),
    path("<int:pk>/findings/", screening.findings, name="findings"),
]

gate_urls = [
    path("", gates.gates, name="gates"),
    path("<int:pk>/", gates.gate, name="gate"),
    path("<int:pk>/stop/", gates.stop, name="stop_gate"),
    path("<int:pk>/overrule/", gates.overrule, name="overrule_gate"),
]

current_urls = [
    path("", gates.current, name="current"),
    path("history/", gates.promotions, name="promotions"),
    path("roll-back/", gates.roll_back, name="roll_back"),
]

project_urls: list[URLPattern | URLResolver] = [
    path("runs/", include(run_urls)),
    path("models/", models.models, name="models"),
    path("datasets/", datasets.datasets, name="datasets"),
    path("datasets/<int:pk>/", datasets.dataset, name="dataset"),
    path("datasets/<int:pk>/data.jsonl", datasets.dataset_file, name="dataset_file"),
    path("routes/", routes.routes, name="routes"),
    path("costs/", costs.costs, name="costs"),
    path("prompting/", prompting.prompt_versions, name="prompt_versions"),
    path("documents/", prompting.collections, name="collections"),
    path("lineage/<str:kind>/<int:pk>/", lineage.lineage_of, name="lineage"),
    path("candidates/", candidates.candidates, name="candidates"),
    path("gates/", include(gate_urls)),
    path("current/", include(current_urls)),
    path("rounds/", models.project_rounds, name="rounds"),
]

urlpatterns = [
    path("projects/<slug:slug>/", include(project_urls)),
    path("models/<int:pk>/", models.model, name="model"),
    path("models/<int:pk>/prompting/", prompting.prompting, name="prompting"),
    path("models/<int:pk>/files/", models.model_files, name="model_files"),
]

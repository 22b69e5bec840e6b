from django.urls import URLPattern, URLResolver, include, path

from rlhf.api import gates, models, runs

app_name = "rlhf_api"

run_urls = [
    path("", runs.runs, name="runs"),
    path("<int:pk>/", runs.run, name="run"),
    path("<int:pk>/stop/", runs.stop, name="stop"),
    path("<int:pk>/resume/", runs.resume, name="resume"),
    path("<int:pk>/metrics/", runs.metrics, name="metrics"),
    path("<int:pk>/samples/", runs.samples, name="samples"),
    path("<int:pk>/log/", runs.log, name="log"),
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
    path("gates/", include(gate_urls)),
    path("current/", include(current_urls)),
    path("rounds/", models.project_rounds, name="rounds"),
]

urlpatterns = [
    path("projects/<slug:slug>/", include(project_urls)),
    path("models/<int:pk>/", models.model, name="model"),
    path("models/<int:pk>/files/", models.model_files, name="model_files"),
]

from django.urls import URLPattern, URLResolver, include, path

from annotator.api import (
    auditing,
    content,
    exporting,
    imports,
    judging,
    projects,
    quality,
    schema,
    transfer,
)

app_name = "api"

project_urls: list[URLPattern | URLResolver] = [
    path("", projects.project, name="project"),
    path("prompts/", content.prompts, name="prompts"),
    path("completions/", content.completions, name="completions"),
    path("comparisons/", content.comparisons, name="comparisons"),
    path("comparisons/<int:pk>/", content.comparison, name="comparison"),
    path("assignments/next/", judging.next_assignment, name="next_assignment"),
    path("assignments/undo/", judging.undo, name="undo"),
    path("assignments/<int:pk>/judge/", judging.judge, name="judge"),
    path("assignments/<int:pk>/skip/", judging.skip, name="skip"),
    path("judgments/", judging.judgments, name="judgments"),
    path("imports/", imports.imports, name="imports"),
    path("imports/<int:pk>/", imports.one_import, name="import"),
    path("imports/<int:pk>/cancel/", imports.cancel_import, name="cancel_import"),
    path("imports/<int:pk>/skipped/", imports.skipped_rows, name="skipped_rows"),
    path("exports/", transfer.exports, name="exports"),
    path("exports/count/", exporting.costs, name="count_export"),
    path("exports/jobs/", exporting.export_jobs, name="export_jobs"),
    path("exports/jobs/<int:pk>/", exporting.export_job, name="export_job"),
    path("exports/<int:pk>/", transfer.export, name="export"),
    path("exports/<int:pk>/files/", exporting.export_files, name="export_files"),
    path("exports/<int:pk>/compare/", exporting.compare, name="compare_exports"),
    path("exports/<int:pk>/data/", transfer.export_data, name="export_data"),
    path("quality/", quality.quality, name="quality"),
    path("audit/", auditing.audit, name="audit"),
    path("leaderboard/", quality.leaderboard, name="leaderboard"),
]

urlpatterns = [
    path("schema/", schema.schema, name="schema"),
    path("docs/", schema.Docs.as_view(), name="docs"),
    path("projects/", projects.projects, name="projects"),
    path("projects/<slug:slug>/", include(project_urls)),
]

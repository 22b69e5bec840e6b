from django.urls import URLPattern, URLResolver, include, path

from annotator.views import (
    asking,
    auditing,
    comparing,
    exporting,
    guidelines,
    history,
    imports,
    joining,
    people,
    preferences,
    progress,
    projects,
    quality,
    review,
    rulings,
    tokens,
    webhooks,
)

app_name = "annotator"

comparing_urls = [
    path("compare/", comparing.compare, name="compare"),
    path("compare/judge/", comparing.judge, name="judge"),
    path("compare/undo/", comparing.undo, name="undo"),
    path("compare/renew/<int:pk>/", comparing.renew, name="renew"),
    path("compare/draft/<int:pk>/", comparing.save_draft, name="save_draft"),
    path("compare/next/", comparing.next_comparison, name="next_comparison"),
    path("compare/so-far/", comparing.so_far, name="so_far"),
    path("compare/answer/<int:pk>/", comparing.right_answer, name="right_answer"),
    path("guidelines/", comparing.guidelines, name="guidelines"),
]

guideline_urls = [
    path("guidelines/<int:number>/", guidelines.guideline_version, name="guideline_version"),
    path("guidelines/news/", guidelines.guideline_news, name="guideline_news"),
    path("guidelines/read/", guidelines.read_guidelines, name="read_guidelines"),
]

history_urls = [
    path("history/", history.history, name="history"),
    path("history/<int:pk>/", history.own_judgment, name="own_judgment"),
    path("history/<int:pk>/correct/", history.correct_judgment, name="correct_judgment"),
]

review_urls = [
    path("prompts/", review.prompts, name="prompts"),
    path("comparisons/", review.comparisons, name="comparisons"),
    path("comparisons/change/", asking.change_comparisons, name="change_comparisons"),
    path("comparisons/<int:pk>/", review.comparison, name="comparison"),
    path("comparisons/<int:pk>/rule/", rulings.rule, name="rule"),
    path("comparisons/<int:pk>/ruling/end/", rulings.end_ruling, name="end_ruling"),
    path("comparisons/<int:pk>/comment/", rulings.comment, name="comment"),
    path("comparisons/<int:pk>/propose/", rulings.propose, name="propose"),
    path("guidelines/proposals/", rulings.proposals, name="proposals"),
    path(
        "guidelines/proposals/<int:pk>/decline/", rulings.decline_proposal, name="decline_proposal"
    ),
    path("comparisons/<int:pk>/priority/", asking.set_priority, name="set_priority"),
    path("comparisons/<int:pk>/hold/", asking.hold_comparison, name="hold_comparison"),
    path("comparisons/<int:pk>/ask/", asking.ask_comparison, name="ask_comparison"),
    path("comparisons/<int:pk>/known/", asking.make_known, name="make_known"),
]

quality_urls = [
    path("quality/", quality.quality, name="quality"),
    path("quality/annotators/", quality.quality_annotators, name="quality_annotators"),
    path("quality/models/", quality.quality_models, name="quality_models"),
    path("quality/disagreements/", quality.quality_disagreements, name="quality_disagreements"),
    path("quality/status/", quality.quality_status, name="quality_status"),
    path("quality/refresh/", quality.refresh_quality, name="refresh_quality"),
    path("agreement/", quality.agreement, name="agreement"),
]

progress_urls = [
    path("progress/", progress.progress, name="progress"),
    path("progress/live/", progress.live, name="live"),
    path("progress/live/now/", progress.live_now, name="live_now"),
]

transfer_urls = [
    path("import/", imports.import_file, name="import_file"),
    path("import/<int:pk>/", imports.one_import, name="one_import"),
    path("import/<int:pk>/start/", imports.start_import, name="start_import"),
    path("import/<int:pk>/status/", imports.import_status, name="import_status"),
    path("import/<int:pk>/cancel/", imports.cancel_import, name="cancel_import"),
    path("import/<int:pk>/skipped/", imports.skipped_rows, name="skipped_rows"),
    path("import/<int:pk>/delete/", imports.delete_import_file, name="delete_import_file"),
]

export_urls = [
    path("exports/", exporting.exports, name="exports"),
    path("exports/new/", exporting.create_export, name="create_export"),
    path("exports/jobs/", exporting.export_jobs, name="export_jobs"),
    path("exports/<int:pk>/", exporting.export, name="export"),
    path("exports/<int:pk>/files/", exporting.export_files, name="export_files"),
    path("exports/<int:pk>/compare/", exporting.compare_exports, name="compare_exports"),
    path("exports/<int:pk>/make/", exporting.make_file, name="make_file"),
    path(
        "exports/<int:pk>/derived/<str:name>", exporting.download_derived, name="download_derived"
    ),
    path("exports/<int:pk>/<str:name>", exporting.download_export, name="download_export"),
]

people_urls = [
    path("members/", people.members, name="members"),
    path("members/add/", people.add_member, name="add_member"),
    path("members/<int:pk>/", people.member, name="member"),
    path("assignments/<int:pk>/move/", people.move_assignment, name="move_assignment"),
    path("members/<int:pk>/change/", people.change_member, name="change_member"),
    path("members/<int:pk>/remove/", people.remove_member, name="remove_member"),
    path("members/invitations/", joining.invitations, name="invitations"),
    path("members/invitations/new/", joining.create_invitation, name="create_invitation"),
    path(
        "members/invitations/<int:pk>/revoke/", joining.revoke_invitation, name="revoke_invitation"
    ),
]

audit_urls = [
    path("audit/", auditing.audit, name="audit"),
    path("audit/entries.<str:ending>", auditing.audit_file, name="audit_file"),
]

webhook_urls = [
    path("webhooks/", webhooks.webhooks, name="webhooks"),
    path("webhooks/new/", webhooks.create_webhook, name="create_webhook"),
    path("webhooks/<int:pk>/", webhooks.webhook, name="webhook"),
    path("webhooks/<int:pk>/deliveries/", webhooks.deliveries, name="deliveries"),
    path("webhooks/<int:pk>/change/", webhooks.change_webhook, name="change_webhook"),
    path("webhooks/<int:pk>/secret/", webhooks.replace_secret, name="replace_secret"),
    path("webhooks/<int:pk>/test/", webhooks.test_webhook, name="test_webhook"),
    path("webhooks/<int:pk>/pause/", webhooks.pause_webhook, name="pause_webhook"),
    path("webhooks/<int:pk>/resume/", webhooks.resume_webhook, name="resume_webhook"),
    path("webhooks/<int:pk>/remove/", webhooks.remove_webhook, name="remove_webhook"),
    path("webhooks/deliveries/<int:pk>/send/", webhooks.send_again, name="send_again"),
]

project_urls: list[URLPattern | URLResolver] = [
    path("settings/", projects.edit_project, name="edit_project"),
    path("settings/protocol/", projects.edit_protocol, name="edit_protocol"),
    path("settings/pause/", projects.pause_project, name="pause_project"),
    path("settings/resume/", projects.resume_project, name="resume_project"),
    *comparing_urls,
    *guideline_urls,
    *history_urls,
    *review_urls,
    *progress_urls,
    *quality_urls,
    *transfer_urls,
    *export_urls,
    *people_urls,
    *audit_urls,
    *webhook_urls,
]

preference_urls = [
    path("keys/", preferences.keys, name="keys"),
    path("differences/", preferences.differences, name="differences"),
    path("differences/show/", preferences.show_differences, name="show_differences"),
    path("tokens/", tokens.tokens, name="tokens"),
    path("tokens/<int:pk>/revoke/", tokens.revoke_token, name="revoke_token"),
]

urlpatterns = [
    path("", projects.home, name="home"),
    *preference_urls,
    path("code.css", comparing.code_css, name="code_css"),
    path("new-project/", projects.new_project, name="new_project"),
    path("join/<str:token>/", joining.join, name="join"),
    path("projects/<slug:slug>/", include(project_urls)),
]

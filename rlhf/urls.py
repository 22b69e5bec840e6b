from django.urls import URLPattern, URLResolver, include, path

from rlhf import (
    chat,
    cost_pages,
    dataset_views,
    distill_pages,
    document_pages,
    endpoint_views,
    gate_pages,
    lineage_pages,
    model_pages,
    playground,
    prompt_lab,
    route_pages,
    screening_views,
    search_pages,
    suite_pages,
    views,
)
from rlhf.chat_completions import ChatCompletions, CurrentChatCompletions

app_name = "rlhf"

run_urls = [
    path("", views.runs, name="runs"),
    path("new/<str:kind>/", views.new_run, name="new_run"),
    path("new/<str:kind>/screening/", screening_views.screening_line, name="screening_line"),
    path("new/<str:kind>/screen/", screening_views.screen_now, name="screen_now"),
    path("estimate/", views.estimate, name="estimate"),
    path("<int:pk>/", views.run, name="run"),
    path("<int:pk>/status/", views.run_status, name="run_status"),
    path("<int:pk>/charts.json", views.run_charts, name="run_charts"),
    path("<int:pk>/metrics/", views.run_metrics, name="run_metrics"),
    path("<int:pk>/samples/", views.run_samples, name="run_samples"),
    path("<int:pk>/answers/", views.rollouts, name="rollouts"),
    path("<int:pk>/report/", views.reward_report, name="reward_report"),
    path("<int:pk>/screening/", screening_views.report, name="screening"),
    path("<int:pk>/screening/decide/", screening_views.decide, name="decide_screening"),
    path("<int:pk>/screening/findings.jsonl", screening_views.download, name="download_findings"),
    path("<int:pk>/log/", views.run_log, name="run_log"),
    path("<int:pk>/demonstrations/", distill_pages.demonstrations, name="demonstrations"),
    path("<int:pk>/trials/", search_pages.trials, name="trials"),
    path("<int:pk>/trials/<int:number>/report/", search_pages.trial_report, name="trial_report"),
    path("<int:pk>/trials/promote/", search_pages.promote_trial, name="promote_trial"),
    path("<int:pk>/trials/delete/", search_pages.delete_trials, name="delete_trials"),
    path("<int:pk>/stop/", views.stop_run, name="stop_run"),
    path("<int:pk>/resume/", views.resume_run, name="resume_run"),
]

chat_urls = [
    path("", chat.chat, name="chat"),
    path("turn/", chat.chat_turn, name="chat_turn"),
    path("say/", chat.say, name="say"),
    path("judge/", chat.judge_turn, name="judge_turn"),
    path("new/", chat.new_chat, name="new_chat"),
]

lineage_urls = [
    path("", lineage_pages.lineage_page, name="lineage"),
    path("lineage.json", lineage_pages.lineage_json, name="lineage_json"),
    path("files/", lineage_pages.file_check, name="file_check"),
    path("files/check/", lineage_pages.check_files, name="check_files"),
]

prompt_urls = [
    path("", prompt_lab.prompt_lab, name="prompt_lab"),
    path("new/", prompt_lab.new_prompt, name="new_prompt"),
    path("compare/", prompt_lab.prompt_comparison, name="prompt_comparison"),
    path("dismiss/", prompt_lab.dismiss_prompt_lab, name="dismiss_prompt_lab"),
]

gate_urls = [
    path("", gate_pages.gates, name="gates"),
    path("new/", gate_pages.new_gate, name="new_gate"),
    path("estimate/", gate_pages.estimate, name="gate_estimate"),
    path("<int:pk>/", gate_pages.gate, name="gate"),
    path("<int:pk>/status/", gate_pages.gate_status, name="gate_status"),
    path("<int:pk>/stop/", gate_pages.stop_gate, name="stop_gate"),
    path("<int:pk>/overrule/", gate_pages.overrule_gate, name="overrule_gate"),
    path("back/<int:number>/", gate_pages.roll_back, name="roll_back"),
]

project_urls: list[URLPattern | URLResolver] = [
    path("", views.project, name="project"),
    path("loop/", views.loop_strip, name="loop_strip"),
    path("rounds/next/", views.next_round, name="next_round"),
    path("runs/", include(run_urls)),
    path("chat/", include(chat_urls)),
    path("costs/", cost_pages.costs, name="costs"),
    path("routes/", route_pages.routes, name="routes"),
    path("routes/<int:pk>/evaluate/", route_pages.evaluate_route, name="evaluate_route"),
    path("gates/", include(gate_urls)),
    path("playground/", playground.playground, name="playground"),
    path("fine-tune/", dataset_views.fine_tune, name="fine_tune"),
    path("datasets/", dataset_views.datasets, name="datasets"),
    path("datasets/<int:pk>/", dataset_views.dataset, name="dataset"),
    path("datasets/<int:pk>/data.jsonl", dataset_views.download_dataset, name="download_dataset"),
    path("prompting/", include(prompt_urls)),
    path("documents/", document_pages.collections, name="collections"),
    path("documents/<int:pk>/", document_pages.collection, name="collection"),
    path("models/", views.model_versions, name="model_versions"),
    path("models/<int:pk>/", views.model_version, name="model_version"),
    path("models/<int:pk>/price/", cost_pages.price_model, name="price_model"),
    path("models/<int:pk>/card/", model_pages.model_card, name="model_card"),
    path("models/<int:pk>/merged/delete/", model_pages.delete_merged, name="delete_merged"),
    path("models/<int:pk>/<str:part>.tar", model_pages.download_model, name="download_model"),
    path("endpoints/new/", endpoint_views.new_endpoint, name="new_endpoint"),
    path("endpoints/<int:pk>/", endpoint_views.endpoint, name="endpoint"),
    path("endpoints/<int:pk>/ask/", endpoint_views.ask_endpoint, name="ask_endpoint"),
    path("endpoints/<int:pk>/remove/", endpoint_views.remove_endpoint, name="remove_endpoint"),
    path("lineage/<str:kind>/<int:pk>/", include(lineage_urls)),
    path("candidates/", suite_pages.candidates, name="candidates"),
    path("candidates/answers/", suite_pages.candidate_answers, name="candidate_answers"),
    path("candidates/settings/", suite_pages.change_suites, name="change_suites"),
    path("annotators/<int:pk>/withdraw/", views.withdrawal, name="withdrawal"),
]

urlpatterns = [
    path("projects/<slug:slug>/", include(project_urls)),
    # Without a slash at its end, as OpenAI's clients write it.
    path(
        "api/v1/models/<int:pk>/chat/completions",
        ChatCompletions.as_view(),
        name="chat_completions",
    ),
    path(
        "api/v1/projects/<slug:slug>/current/chat/completions",
        CurrentChatCompletions.as_view(),
        name="current_chat_completions",
    ),
]

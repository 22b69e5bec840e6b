import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from annotator.models import Role, Split
from rlhf import suites
from rlhf.alarms import find_alarms
from rlhf.datasets import create_dataset
from rlhf.forms import SuiteForm, settings_like
from rlhf.management.commands.suite import Command
from rlhf.models import DatasetKind, Run, RunKind, Status
from rlhf.runs import evaluate_anew, evaluate_left_out
from rlhf.suites import AS_GOOD, BEST, Cell, Metric, marked
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory
from tests.rlhf.factories import PolicyFactory, RunFactory, write_artifact

pytestmark = pytest.mark.django_db

HIGH = Metric("chrf", "chrF", "high")
WHY = [{"role": "user", "content": "Why?"}]


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def admin(client, project):
    user = MembershipFactory(project=project, role=Role.ADMIN).user
    client.force_login(user)
    return user


@pytest.fixture
def base(project):
    return PolicyFactory(project=project, name="base")


@pytest.fixture
def tuned(project, base):
    return PolicyFactory(project=project, name="tuned", parent=base, details={"is_whole": True})


def figure(value, low=None, high=None, n=5, reason=""):
    return {"value": value, "low": low, "high": high, "n": n, "reason": reason}


def make_suite(policy, answer="Because.", conditions="same", metrics=None, **fields):
    run = RunFactory(
        project=policy.project, kind=RunKind.SUITE, policy=policy,
        round_number=policy.project.runs.count() + 1,
        **{
            "status": Status.SUCCEEDED,
            "config": {"temperature": 0.7, "max_new_tokens": 64, "tasks": ["arc"], "rewards": []},
            "result": {
                "n_prompts": 1, "conditions": conditions,
                "metrics": {"chrf": figure(50.0, 40.0, 60.0), "length": figure(9.0), **(metrics or {})},
            },
            **fields,
        },
    )  # fmt: skip
    row = {"id": 1, "messages": WHY, "references": [], "answer": answer, "truncated": False,
           "judge": None, "values": {"length": 9.0}}  # fmt: skip
    write_artifact(run, "answers.jsonl", [row])
    return run


# --- the table --------------------------------------------------------------------------------
def test_the_best_is_marked_with_what_may_be_as_good():
    cells = [Cell(0.7, 0.5, 0.85), Cell(0.9, 0.8, 1.0), Cell(0.2, 0.1, 0.3), Cell(None)]

    assert [cell.mark for cell in marked(HIGH, cells, [True] * 4)] == [AS_GOOD, BEST, "", ""]


def test_lower_may_be_better_and_a_lonely_figure_is_no_best():
    low = Metric("forgetting", "Forgotten", "low")

    assert [c.mark for c in marked(low, [Cell(0.1), Cell(0.3)], [True, True])] == [BEST, ""]
    assert [c.mark for c in marked(HIGH, [Cell(0.1), Cell(0.3)], [True, False])] == ["", ""]
    assert [c.mark for c in marked(HIGH, [Cell(0.3), Cell(0.3)], [True, True])] == ["", ""]


def test_the_newest_suite_of_each_version_stands_in_the_table(base, tuned):
    make_suite(base)
    newest = make_suite(base)
    of_tuned = make_suite(tuned, conditions="other")
    third = make_suite(PolicyFactory(project=base.project))

    table = suites.table_of(base.project)

    assert [(c.run, c.is_comparable) for c in table.candidates] == [
        (newest, True), (of_tuned, False), (third, True),
    ]  # fmt: skip
    assert suites.missing_suites(base.project) == []


def test_judges_of_different_pairs_are_not_ranked(base, tuned):
    third = PolicyFactory(project=base.project)
    make_suite(tuned, metrics={"judge_win_rate": figure(0.6)}, rival=base, judge=base)
    make_suite(third, metrics={"judge_win_rate": figure(0.9)}, rival=tuned, judge=base)

    rows = [row for _, rows in suites.table_of(base.project).groups for row in rows]

    marks = {row.metric.name: [cell.mark for cell in row.cells] for row in rows}
    assert marks["judge_win_rate"] == ["", ""]


@pytest.mark.parametrize(
    ("name", "part"), [("rouge_l", "references"), ("own_loss", "own"), ("general_loss", "general")]
)
def test_figures_of_other_references_or_tokens_are_not_ranked(base, tuned, name, part):
    def marks_with(*digests):
        for policy, value, digest in zip((base, tuned), (0.2, 0.9), digests, strict=True):
            run = make_suite(policy, metrics={name: figure(value)})
            Run.objects.filter(pk=run.pk).update(
                result={**run.result, **({"measured_on": {part: digest}} if digest else {})}
            )
        rows = [row for _, rows in suites.table_of(base.project).groups for row in rows]
        return next([c.mark for c in row.cells] for row in rows if row.metric.name == name)

    assert BEST in marks_with("a", "a")
    assert marks_with("a", "b") == ["", ""]
    assert marks_with("", "") == ["", ""]  # of before this was kept


def marks_of(base, name):
    rows = [row for _, rows in suites.table_of(base.project).groups for row in rows]
    return next([c.mark for c in row.cells] for row in rows if row.metric.name == name)


def add_to_result(run, **values):
    Run.objects.filter(pk=run.pk).update(result={**run.result, **values})


@pytest.mark.parametrize("name", ["rouge_l", "reward", "judge_win_rate"])
def test_figures_of_answers_to_other_prompts_are_not_ranked(base, tuned, name):
    def marks_with(*answered):
        for policy, value, digest in zip((base, tuned), (0.2, 0.9), answered, strict=True):
            measured = {"references": "same", **({"answers": digest} if digest else {})}
            left_out = {"too_long": 1 if digest else 0}
            run = make_suite(policy, metrics={name: figure(value)})
            add_to_result(run, measured_on=measured, left_out=left_out)
        return marks_of(base, name)

    assert BEST in marks_with("a", "a")
    assert BEST in marks_with("", "")  # all prompts, or a suite of before this was kept
    assert marks_with("", "a") == ["", ""]
    assert marks_with("a", "b") == ["", ""]


def test_what_was_forgotten_is_ranked_if_it_was_read_in_the_same_windows(base, tuned):
    def marks_with(*tokens):
        for policy, value, n in zip((base, tuned), (0.2, 0.9), tokens, strict=True):
            run = make_suite(policy, metrics={"forgetting": figure(value)}, rival=base)
            add_to_result(run, **({"windows": {"tokens": n, "texts": 1}} if n else {}))
        return marks_of(base, "forgetting")

    assert marks_with(None, None) == marks_with(256, 256) == [BEST, ""]
    assert marks_with(None, 256) == ["", ""]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("rule/length", {"rewards": [{"kind": "length", "target": 80}]}),
        ("reward", {"ensemble": "lowest"}),
        ("reward", {"uncertainty_coefficient": 2.0}),
        ("length", {"max_prompt_tokens": 64}),
    ],
)
def test_figures_by_other_settings_are_not_ranked(base, tuned, name, changed):
    same = {"rewards": [{"kind": "length", "target": 20}], "ensemble": "mean"}
    metric = Metric(name, name, "high")

    def marks_with(*configs):
        for policy, value, config in zip((base, tuned), (0.2, 0.9), configs, strict=True):
            make_suite(policy, metrics={name: figure(value)}, config=config)
        table = suites.table_of(base.project)
        (row,) = suites._rows([metric], table.candidates)
        return [cell.mark for cell in row.cells]

    assert marks_with(same, same) == ["", BEST]
    assert marks_with(same, same | changed) == ["", ""]


def test_the_table_takes_the_same_queries_for_one_and_three(
    client, admin, base, tuned, django_assert_num_queries
):
    PolicyFactory(project=base.project)  # has none
    make_suite(base)
    with django_assert_num_queries(10):
        client.get(reverse("rlhf:candidates", args=["tea"]))

    make_suite(tuned)
    make_suite(PolicyFactory(project=base.project))

    with django_assert_num_queries(10):
        client.get(reverse("rlhf:candidates", args=["tea"]))


# --- pages ------------------------------------------------------------------------------------
def test_agreement_with_people_stands_beside_the_judges_numbers(client, admin, base, tuned):
    judge = {"kappa": figure(0.31, 0.1, 0.5, 50), "accuracy": figure(0.7, 0.6, 0.8, 40),
             "n_pairs": 5, "ties": 2, "unparsed": 3, "says_a": 0.9,
             "leaning": {"win_rate": figure(0.8, 0.7, 0.9), "accuracy": figure(0.6)}}  # fmt: skip
    run = make_suite(tuned, metrics={"judge_win_rate": figure(0.6)}, rival=base, judge=base)
    run.result["judge"] = judge
    run.save()

    page = client.get(reverse("rlhf:candidates", args=["tea"])).content.decode()

    text = " ".join(page.split())
    assert "kappa 0.31" in text
    assert "right on 70 %" in text.replace("\xa0", " ").replace("\u202f", " ")
    assert "3 verdicts that could not be read" in text
    assert "leans to the new answer in 80" in text
    behind = client.get(reverse("rlhf:candidate_answers", args=["tea"])).content.decode()
    assert "kappa 0.31" in " ".join(behind.split())


def test_a_judge_without_votes_to_compare_with_says_so(client, admin, base, tuned):
    nobody = figure(None, n=0, reason="no people's votes to compare with")
    run = make_suite(tuned, rival=base, judge=base, metrics={"judge_win_rate": figure(0.6)})
    run.result["judge"] = {"kappa": nobody, "accuracy": nobody, "n_pairs": 5, "ties": 2}
    run.save()

    page = client.get(run.get_absolute_url()).content.decode()

    assert "no people\u2019s votes to compare with" in page


def test_answers_to_a_prompt_stand_beside_each_other(client, admin, base, tuned):
    make_suite(base, answer="Who knows.")
    make_suite(tuned, answer="It is <b>blue</b>.")
    gone = make_suite(PolicyFactory(project=base.project, name="third"))
    (gone.folder / "artifact" / "answers.jsonl").unlink()

    page = client.get(
        reverse("rlhf:candidate_answers", args=["tea"]), {"metric": "length"}
    ).content.decode()

    assert "Who knows." in page
    assert "It is &lt;b&gt;blue&lt;/b&gt;." in page
    assert "The answers of third are gone" in page
    assert "Length 9." in page


def test_text_stands_behind_forgetting(client, admin, tuned):
    run = make_suite(tuned, metrics={"forgetting": figure(0.2)})
    row = {"text": "A river.", "nats": 6.0, "n_tokens": 3, "nats_before": 4.0}
    (run.folder / "artifact" / "texts.jsonl").write_text(json.dumps(row) + "\n")

    page = client.get(reverse("rlhf:candidate_answers", args=["tea"]), {"metric": "forgetting"})

    assert "A river." in page.content.decode()
    assert suites.texts_behind(suites.table_of(tuned.project).candidates) == (
        [("A river.", [{**row, "loss": 2.0, "grown": 2.0}])], [],
    )  # fmt: skip


def test_texts_that_are_gone_are_said_to_be_gone(client, admin, tuned):
    make_suite(tuned, metrics={"general_loss": figure(2.0)})

    page = client.get(reverse("rlhf:candidate_answers", args=["tea"]), {"metric": "general_loss"})

    assert "The texts and losses of tuned are gone" in page.content.decode()


def test_the_loss_of_references_stands_in_the_table(base):
    make_suite(base, metrics={"own_loss": figure(1.5)})

    ((_, rows), *_) = suites.table_of(base.project).groups

    assert [(row.metric.name, row.cells[0].value) for row in rows] == [
        ("own_loss", 1.5), ("chrf", 50.0),
    ]  # fmt: skip


def test_answers_stand_behind_the_figures_of_a_task(client, admin, tuned):
    run = make_suite(tuned, metrics={"task/arc/acc": figure(1.0)})
    run.result["task_answers"] = ["arc/acc"]
    run.save()
    row = {"task": "arc", "number": 4, "question": "Is it wet?", "wanted": "Yes", "said": "Perhaps"}
    path = run.folder / "artifact" / "tasks.jsonl"
    path.write_text(json.dumps({**row, "values": {"arc/acc": 0.0}}) + "\n")
    address = reverse("rlhf:candidate_answers", args=["tea"])

    page = client.get(address, {"metric": "task/arc/acc"}).content.decode()
    path.unlink()
    without = client.get(address, {"metric": "task/arc/acc"}).content.decode()

    assert [text in page for text in ("Is it wet?", "Perhaps", "arc/acc 0.")] == [True] * 3
    assert "The answers of tuned are gone" in without


def test_figures_of_a_task_whose_answers_were_not_kept_lead_nowhere(client, admin, tuned):
    make_suite(tuned, metrics={"task/arc/acc": figure(1.0)})

    metric = suites.metric_named("task/arc/acc", suites.table_of(tuned.project).candidates)

    assert (metric.of_task, metric.has_answers) == (True, False)


def test_less_is_better_where_the_task_says_so(base, tuned):
    for policy, value in ((base, 2.0), (tuned, 1.5)):
        run = make_suite(policy, metrics={"task/wiki/bits": figure(value)})
        run.result["lower_is_better"] = ["wiki/bits"]
        run.save()

    (_, (row,)) = suites.table_of(base.project).groups[-1]

    assert [cell.mark for cell in row.cells] == ["", BEST]


def test_figures_of_a_task_from_more_questions_are_not_compared(base, tuned):
    make_suite(base, metrics={"task/arc/acc": figure(0.4, n=100)})
    make_suite(tuned, metrics={"task/arc/acc": figure(0.6, n=20)})

    (_, (row,)) = suites.table_of(base.project).groups[-1]

    assert [cell.mark for cell in row.cells] == ["", ""]


@pytest.mark.parametrize("name", ["candidates", "candidate_answers"])
def test_annotators_do_not_see_who_is_ahead(client, project, base, name):
    make_suite(base)
    client.force_login(MembershipFactory(project=project, role=Role.ANNOTATOR).user)

    assert client.get(reverse(f"rlhf:{name}", args=["tea"])).status_code == 404


def test_a_project_without_a_suite_says_what_it_is(client, admin, project):
    page = client.get(reverse("rlhf:candidates", args=["tea"]))

    assert "Nothing to compare yet" in page.content.decode()
    assert client.get(reverse("rlhf:candidate_answers", args=["tea"])).status_code == 404


def test_the_api_gives_the_table(client, admin, base):
    make_suite(base)

    found = client.get(reverse("rlhf_api:candidates", args=["tea"])).json()

    assert [(c["name"], c["n_prompts"]) for c in found["candidates"]] == [("base", 1)]
    assert found["metrics"]["chrf"] == [{**figure(50.0, 40.0, 60.0), "mark": ""}]


# --- starting one -----------------------------------------------------------------------------
def test_the_form_repeats_a_suite_with_its_judge(project, base, tuned):
    run = make_suite(tuned, rival=base, judge=base)

    form = SuiteForm(project, initial=settings_like(run))

    assert (form["judge"].value(), form["rival"].value()) == (base.pk, base.pk)
    assert form["tasks"].value() == "arc"


def test_a_judge_needs_something_to_compare_with(project, base):
    sent = SuiteForm(project).as_sent().data | {"judge": base.pk, "policy": base.pk}

    form = SuiteForm(project, sent)

    assert list(form.errors) == ["rival"]


def test_names_of_tasks_are_separated_by_commas(project, base):
    form = SuiteForm(project, SuiteForm(project).as_sent().data | {"tasks": "arc, ,boolq "})

    assert form.is_valid(), form.errors
    assert form.settings["tasks"] == ["arc", "boolq"]


def test_a_task_has_a_name_and_is_no_file(project, base):
    form = SuiteForm(project, SuiteForm(project).as_sent().data | {"tasks": "arc, /etc/x.yaml"})

    assert form.errors["tasks"] == [
        "“/etc/x.yaml” is a path, and a task has a name: put its file into the folder of tasks "
        "(docs/evaluation.md), and give its name here."
    ]


def test_forgetting_beyond_the_bound_raises_an_alarm():
    def levels(grown, low):
        values = {"forgetting": grown, "forgetting/low": low, "forgetting/bound": 0.1}
        return [str(alarm.level) for alarm in find_alarms([(0, values)])]

    assert levels(0.3, 0.2) == ["red"]
    assert levels(0.3, 0.05) == ["yellow"]
    assert levels(0.05, 0.01) == []


def test_the_runs_page_says_what_was_left_out_and_why_a_figure_is_missing(client, admin, base):
    metrics = {"forgetting": figure(None, n=0, reason="it lives elsewhere")}
    run = make_suite(base, metrics=metrics)
    windows, references = {"tokens": 256, "texts": 3}, {"n": 5, "too_long": 2}
    add_to_result(run, windows=windows, references=references)

    page = " ".join(client.get(run.get_absolute_url()).content.decode().split())

    assert "read in windows of 256 tokens" in page
    assert "longer, with their prompts, than what is read at once: no loss of them" in page
    assert "it lives elsewhere" in page


# --- after training ---------------------------------------------------------------------------
@pytest.fixture
def trained(project, base):
    """A training run that has made a policy."""
    PromptFactory(project=project, split=Split.TEST)
    run = RunFactory(project=project, kind=RunKind.PPO, status=Status.SUCCEEDED, policy=base)
    PolicyFactory(project=project, name="policy-r1-v2", parent=base, run=run)
    return run


def test_a_suite_follows_training_once_if_the_project_wants_it(client, admin, project, trained):
    assert evaluate_anew(trained.pk) is None
    client.post(reverse("rlhf:change_suites", args=["tea"]), {"after_training": "on"})

    suite, again = evaluate_anew(trained.pk), evaluate_anew(trained.pk)

    assert suite == again
    assert (suite.policy.name, suite.rival.name) == ("policy-r1-v2", "base")


def test_it_is_like_the_latest_so_that_both_can_be_compared(project, base, trained):
    latest = make_suite(base, rival=None)
    (latest.folder / "prompts.jsonl").write_text("{}\n{}\n")
    suites.run_after_training(project, wanted=True)

    suite = evaluate_anew(trained.pk)

    assert (suite.config["max_new_tokens"], suite.config["tasks"]) == (64, ["arc"])
    assert suite.rival == base


def test_a_suite_that_is_refused_says_so_where_people_look(client, admin, project, base, trained):
    judge = PolicyFactory(project=project, name="judge-1", path="/nowhere")
    make_suite(base, rival=PolicyFactory(project=project), judge=judge)
    suites.run_after_training(project, wanted=True)

    assert evaluate_anew(trained.pk) is None

    made = trained.outputs.get()
    pages = [
        client.get(reverse("rlhf:candidates", args=["tea"])),
        client.get(made.get_absolute_url()),
    ]
    sentence = "The files of judge-1 are missing: there is no folder /nowhere."
    assert [sentence in page.content.decode() for page in pages] == [True, True]


def test_a_suite_that_runs_after_all_is_not_said_to_be_missing(project, base, trained):
    suites.run_after_training(project, wanted=True)
    made = trained.outputs.get()
    suites.keep_refusal(made, "The judge is gone.")
    reasons = {version.name: reason for version, reason in suites.missing_suites(project)}
    assert reasons == {"policy-r1-v2": "The judge is gone.", "base": ""}

    suite = evaluate_anew(trained.pk)
    made.refresh_from_db()

    assert (suite.policy, made.details) == (made, {})
    assert suites.why_without(made).startswith(f"{suite} queued")


def test_a_suite_that_failed_is_the_reason(project, base):
    make_suite(base, status=Status.FAILED, error="The disk is full.")

    ((version, reason),) = suites.missing_suites(project)

    assert (version, reason.endswith("failed. The disk is full.")) == (base, True)


def test_the_first_one_is_small_and_needs_no_choice(project, trained, settings):
    settings.SUITE_AFTER_TRAINING = True
    PromptFactory.create_batch(60, project=project, split=Split.TEST)

    suite = evaluate_anew(trained.pk)

    assert sum(1 for _ in (suite.folder / "prompts.jsonl").open()) == 50


def test_a_project_may_switch_it_off(client, admin, project, trained, settings):
    settings.SUITE_AFTER_TRAINING = True
    page = client.get(reverse("rlhf:candidates", args=["tea"])).content.decode()
    assert 'name="after_training" checked' in page

    client.post(reverse("rlhf:change_suites", args=["tea"]), {})

    assert evaluate_anew(trained.pk) is None


def test_one_that_would_start_meanwhile_starts_after_it(project, base, trained):
    suites.run_after_training(project, wanted=True)
    before = timezone.now() - timedelta(hours=1)
    PolicyFactory(project=project, parent=base, run=trained, created=before - timedelta(hours=1))
    running = RunFactory(project=project, kind=RunKind.SUITE, status=Status.RUNNING, created=before)

    refused = evaluate_anew(trained.pk)
    Run.objects.filter(pk=running.pk).update(status=Status.FAILED, finished=timezone.now())
    after, again = evaluate_left_out(running.pk), evaluate_left_out(running.pk)

    assert refused is None
    assert (after.policy.name, again) == ("policy-r1-v2", None)


def test_an_import_is_not_followed_by_a_suite(project, base):
    suites.run_after_training(project, wanted=True)
    imported = RunFactory(project=project, status=Status.SUCCEEDED)
    PolicyFactory(project=project, run=imported)

    assert evaluate_anew(imported.pk) is None


@pytest.mark.django_db(transaction=True)
def test_the_command_runs_the_suite_and_prints_its_figures(project, base, toy, capsys):
    PromptFactory(project=project, split=Split.TEST)
    create_dataset(project, "wide", DatasetKind.TEXT, [{"text": "A river."}], origin="by hand")

    call_command("suite", "tea", "base", "--text", "wide", "--max-prompts", "3")

    run = project.runs.get(kind=RunKind.SUITE)
    assert capsys.readouterr().out == "length: 7 (6 to 8)\n"
    assert (run.folder / "texts.jsonl").read_text() == '{"text": "A river."}\n'
    assert [dataset.name for dataset in run.datasets.all()] == ["wide"]


NOBODY = figure(None, n=0, reason="no people's votes to compare with")


@pytest.mark.parametrize(
    ("kappa", "right", "said"),
    [
        (figure(0.31, 0.1, 0.5), figure(0.7), "with people, kappa: 0.31 (0.1 to 0.5), right: 0.7"),
        (NOBODY, NOBODY, "no people's votes to compare with"),
    ],
)
def test_the_command_prints_the_judges_agreement_beside_its_number(tuned, kappa, right, said):
    metrics = {"judge_win_rate": figure(0.6)}
    result = {"metrics": metrics, "judge": {"kappa": kappa, "accuracy": right}}
    command = Command(stdout=StringIO())

    command._report(make_suite(tuned, result=result), as_json=False)

    assert command.stdout.getvalue() == f"judge_win_rate: 0.6; {said}\n"


@pytest.mark.parametrize("n", ["-5", "0"])
def test_the_command_refuses_a_sample_of_no_prompts(project, base, n):
    PromptFactory(project=project, split=Split.TEST)

    with pytest.raises(CommandError, match=f"at least 1 prompt, and not {n}."):
        call_command("suite", "tea", "base", "--max-prompts", n)


@pytest.mark.django_db(transaction=True)
def test_the_command_takes_away_what_the_latest_suite_had(project, base, tuned, toy, capsys):
    PromptFactory(project=project, split=Split.TEST)
    make_suite(tuned, rival=base, judge=base)

    call_command("suite", "tea", "tuned", "--tasks", "", "--judge", "")

    newest = base.project.runs.first()
    assert (newest.config["tasks"], newest.judge, newest.rival) == ([], None, base)


def test_the_command_says_which_version_is_missing(project):
    with pytest.raises(CommandError, match="has no model version nobody"):
        call_command("suite", "tea", "nobody")


def test_the_command_names_a_refusal(project, base):
    with pytest.raises(CommandError, match="This project has no prompts yet"):
        call_command("suite", "tea", "base")

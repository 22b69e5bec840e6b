import json
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import reverse

from annotator.models import Role
from rlhf import runs as run_control
from rlhf.collecting import COLLECT
from rlhf.datasets import create_dataset
from rlhf.forms import SearchForm, settings_like
from rlhf.inputs import RunRefused
from rlhf.lineage import graph_of, of_version
from rlhf.model_cards import card_of
from rlhf.models import DatasetKind, ModelKind, RunKind, Status
from rlhf.search_picture import draw, place_of
from rlhf.searching import SearchRefused, delete_files, promote, trials_of
from rlhf.training.hashes import files_in
from rlhf.training.reward_report import report
from rlhf.training.search_config import OBJECTIVES, WHY_NOT
from rlhf.training.search_space import Choice, Range
from tests.factories import MembershipFactory, PromptFactory, api_client
from tests.rlhf.factories import ExportFactory, PolicyFactory, RewardModelFactory, RunFactory

pytestmark = pytest.mark.django_db

SPACE = "learning_rate = 1e-5 .. 1e-3 log\nmembers in 1, 2\nepochs = 3"


@pytest.fixture
def policy():
    policy = PolicyFactory(project__slug="tea")
    PromptFactory(project=policy.project, split="train")
    return policy


def launch(policy, **values):
    rows = {name: values.pop(name) for name in ("export", "reward_model", "base") if name in values}
    settings = {"tries": "reward_model", "space": SPACE, "trials": 4, **values}
    return run_control.launch(
        policy.project, RunKind.SEARCH, settings, round_number=1, policy=policy, **rows
    )


def demonstrations(project, name="tea", splits=("train", "test"), **fields):
    said = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Steep it."}]
    rows = [{"messages": said, "split": split} for split in splits]
    return create_dataset(project, name, DatasetKind.DEMONSTRATIONS, rows, origin="tests", **fields)


def trial(number, state="complete", value=0.5, error="", **values):
    return {
        "number": number, "state": state, "value": value, "error": error, "reports": [],
        "seconds": 60.0, "values": {"learning_rate": 1e-4, "members": 1, **values},
    }  # fmt: skip


def searched(policy, *trials, direction="minimize", tries="reward_model", space=SPACE):
    """A search with these trials; those that are complete have made something."""
    config = {"tries": tries, "space": space, "settings": {}}
    run = RunFactory(
        kind=RunKind.SEARCH, project=policy.project, policy=policy, config=config, status="succeeded",
        export=ExportFactory(project=policy.project) if tries == "reward_model" else None,
    )  # fmt: skip
    table = {"metric": "eval_loss", "direction": direction, "trials": trials, "importance": {}}
    (run.folder / "trials.json").write_text(json.dumps(table))
    for each in trials:
        place = run.folder / "trials" / str(each["number"])
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps({"config": {"adapter_layers": 2}}))
        if each["state"] == "complete":
            (place / "artifact").mkdir()
            (place / "artifact" / "head.bin").write_bytes(b"12345")
            made = {
                "status": "succeeded",
                "accuracy": 0.7,
                "files": files_in(place / "artifact"),
            }
            (place / "result.json").write_text(json.dumps(made))
    return run


def reported(run, number):
    """The trial has left the report of a reward model as well."""
    path = run.folder / "trials" / str(number) / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "report": report([])}))


# --- launching --------------------------------------------------------------------------------
def test_a_search_writes_once_what_every_trial_reads(policy):
    run = launch(policy, export=ExportFactory(project=policy.project))

    inputs = sorted(path.name for path in (run.folder / "inputs").iterdir())
    assert inputs == ["data", "hashes.json", "prompts.jsonl"]
    assert (run.config["settings"]["epochs"], run.config["settings"]["model"]) == (
        3,
        policy.reference(),
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"space": "learning_rat = 1e-5 .. 1e-3"},
            "there is no setting 'learning_rat' to vary; there",
        ),
        ({"tries": "merge"}, "runs of kind 'merge' cannot be tried: they measure nothing on held"),
        ({"space": "members in 1, 99"}, "members=99 must be at most 16"),
        ({"export": None}, "There is no export to learn from"),
        ({"tries": "ppo", "space": "steps in 1, 2"}, "There is nothing to reward"),
    ],
)
def test_a_search_that_cannot_work_is_refused_at_launch(policy, values, sentence):
    with pytest.raises(RunRefused, match=sentence):
        launch(policy, **{"export": ExportFactory(project=policy.project), **values})


def test_supervised_runs_are_searched_on_their_datasets(policy):
    dataset = demonstrations(policy.project)
    sent = {**SearchForm(policy.project).as_sent().data, "tries": "supervised"}
    form = SearchForm(policy.project, {**sent, "datasets": [dataset.pk]})
    without = SearchForm(policy.project, sent)

    run = run_control.launch(
        policy.project, RunKind.SEARCH, form.settings, round_number=1, **form.named_arguments
    ) if form.is_valid() else None  # fmt: skip

    assert without.errors == {"datasets": ["Choose at least one dataset."]}
    assert list(run.datasets.all()) == [dataset]
    assert (run.folder / "inputs/datasets" / str(dataset.pk) / "data.jsonl").is_file()


def launch_tuning(policy, *datasets):
    settings = {"tries": "supervised", "space": "learning_rate = 1e-5 .. 1e-3 log"}
    return run_control.launch(
        policy.project, RunKind.SEARCH, settings, round_number=1, policy=policy, datasets=datasets
    )


@pytest.mark.parametrize("details", [{}, {"held_out_rows": 0}])
def test_a_search_over_rows_that_are_all_learnt_from_is_refused_before_it_begins(policy, details):
    dataset = demonstrations(policy.project, splits=["train"] * 2, details=details)

    with pytest.raises(
        RunRefused, match=r"No row of “tea” is held out, so nothing could tell which"
    ):
        launch_tuning(policy, dataset)

    assert not policy.project.runs.filter(kind=RunKind.SEARCH).exists()


def test_one_dataset_with_held_out_rows_is_enough_to_compare_trials_by(policy):
    without = demonstrations(policy.project, "without", ["train"])

    run = launch_tuning(policy, without, demonstrations(policy.project))

    assert run.datasets.count() == 2


def test_a_search_over_votes_of_which_none_is_held_out_is_refused(policy):
    counts = {"rows": 40, "rows_tied": 0, "rows_train": 40, "rows_test": 0}
    export = ExportFactory(project=policy.project, manifest={"counts": counts})

    with pytest.raises(RunRefused, match=f"No pair of export {export.pk} is held out, so nothing"):
        launch(policy, export=export)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ("steps in 1, 2", "No prompt is held out, by which trials could be compared"),
        ("steps in 1, 2\nevaluate_every = 0", "evaluate_every=0 measures nothing on held-out"),
        ("evaluate_every = 0 .. 4", "evaluate_every=0 measures nothing on held-out prompts"),
    ],
)
def test_a_search_over_ppo_that_measures_nothing_is_refused(policy, space, sentence):
    if "every" in space:
        PromptFactory(project=policy.project, split="test")

    with pytest.raises(RunRefused, match=sentence):
        launch(policy, tries="ppo", space=space, rewards=RULES)


def test_a_search_can_be_started_again_as_it_was(policy):
    PromptFactory(project=policy.project, split="test")
    rules = [{"kind": "length", "target": 20}]
    run = launch(policy, tries="ppo", space="steps in 1, 2", rewards=rules)

    form = SearchForm(policy.project, initial=settings_like(run))

    assert form["space"].value() == "steps in 1, 2"
    assert (form["tries"].value(), form["rewards"].value()) == ("ppo", "length target=20")


def test_a_reward_model_is_refused_where_trials_take_none(policy):
    export = ExportFactory(project=policy.project)
    reward_model = RewardModelFactory(project=policy.project, parent=policy)

    with pytest.raises(RunRefused, match="kind reward_model take no reward model: leave it empty"):
        launch(policy, export=export, reward_model=reward_model)


def test_the_form_as_shown_takes_the_newest_votes_where_trials_need_some(policy):
    _, newest = ExportFactory.create_batch(2, project=policy.project)
    sent = SearchForm(policy.project).as_sent().data

    form = SearchForm(policy.project, sent)
    other = SearchForm(policy.project, {**sent, "tries": "ppo", "export": newest.pk})

    assert form.is_valid(), form.errors
    assert form.cleaned_data["export"] == newest
    assert other.errors == {"export": ["PPO learns from no votes: leave it empty."]}


# --- distillations ----------------------------------------------------------------------------
RULES = [{"kind": "length", "target": 20}]
TEMPERATURES = "temperature in 0.5, 1.0"


def test_a_searched_distillation_answers_held_out_prompts_besides(policy):
    PromptFactory(project=policy.project, split="test")

    run = launch(policy, tries="distill", space=TEMPERATURES, rewards=RULES)

    assert run.config["settings"]["eval_prompts"] == 32
    assert len((run.folder / "inputs/eval_prompts.jsonl").read_text().splitlines()) == 1


def test_a_distillation_cannot_be_searched_without_held_out_prompts(policy):
    with pytest.raises(
        RunRefused, match="No prompt is held out, by which trials could be compared"
    ):
        launch(policy, tries="distill", space=TEMPERATURES, rewards=RULES)


def distilled(policy):
    """A search of distillations whose second trial is the best."""
    trials = [trial(0, temperature=0.5), trial(1, value=0.7, temperature=1.0)]
    run = searched(policy, *trials, direction="maximize", tries="distill", space=TEMPERATURES)
    said = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Steep it."}]
    for number in (0, 1):
        place = run.folder / "trials" / str(number)
        (place / "config.json").write_text('{"config": {"completions_per_prompt": 4}}')
        row = {"messages": said, "source": "teacher", "score": 0.7}
        (place / "artifact" / "data.jsonl").write_text(json.dumps(row) + "\n")
        result = json.loads((place / "result.json").read_text())
        result["files"] = files_in(place / "artifact")
        (place / "result.json").write_text(json.dumps(result))
    return run


def test_the_promoted_trial_of_distillations_is_a_dataset_taught_by_the_policy(policy):
    run = distilled(policy)

    dataset = promote(run)

    assert promote(run) == dataset
    assert (dataset.name, dataset.n_rows) == (f"distilled-r1-v{run.pk}-t2", 1)
    assert dataset.origin == f"{run}, trial 2: the best of 4 answers of {policy}"
    assert dataset.details["trial"] == 1
    taught = graph_of(policy.project).edges
    assert ("taught by", f"run-{run.pk}") in [(edge.role, edge.target) for edge in taught]


def test_files_of_a_trial_can_be_deleted_though_a_dataset_was_made_of_it(policy):
    run = distilled(policy)
    dataset = promote(run)

    delete_files(run)

    assert [row.has_files for row in trials_of(run).rows] == [False, False]
    assert dataset.data.is_file()


def test_page_and_program_lead_to_the_dataset(client, policy):
    run = distilled(policy)
    admin = MembershipFactory(project=run.project, role=Role.ADMIN).user
    client.force_login(admin)
    address = f"/api/v1/projects/tea/runs/{run.pk}/trials/"

    made = client.post(reverse("rlhf:promote_trial", args=["tea", run.pk])).url
    said = api_client(admin).post(f"{address}promote/", {}, content_type="application/json").json()

    assert made == reverse("rlhf:dataset", args=["tea", said["id"]])
    assert (
        f'<a href="{made}">{said["name"]}</a>'
        in client.get(run.get_absolute_url()).content.decode()
    )
    listed = api_client(admin).get(address).json()["results"]
    assert [(row["model"], row["dataset"]) for row in listed] == [(None, None), (None, said["id"])]


# --- what came of it --------------------------------------------------------------------------
def test_the_best_trial_is_by_the_direction_of_the_metric(policy):
    trials = [trial(0, value=0.4), trial(1, value=0.6), trial(2, "pruned", value=0.9)]

    lowest, highest = (
        trials_of(searched(policy, *trials, direction=d)).best.number
        for d in ("minimize", "maximize")
    )

    assert (lowest, highest) == (0, 1)


def test_the_promoted_trial_is_a_version_with_its_settings_and_lineage(policy):
    run = searched(policy, trial(0), trial(1, value=0.2, learning_rate=3e-4))

    version = promote(run)

    assert (version.name, version.kind) == (f"reward-r1-v{run.pk}-t2", ModelKind.REWARD)
    assert (version.parent, version.run) == (policy, run)
    assert version.settings == {"adapter_layers": 2}
    assert version.facts == {
        "accuracy": 0.7,
        "trial": 1,
        "seconds": 60.0,
        "learning_rate": 3e-4,
        "members": 1,
    }
    assert version.files == files_in(Path(version.path))
    assert f"export-{run.export_id}" in of_version(version).back.nodes


def test_the_model_card_has_the_settings_of_the_trial(policy):
    version = promote(searched(policy, trial(0)))

    card = card_of(version)

    assert f"The trial that is {version.name} had these settings:" in card.replace("\\", "")
    assert "| `adapter_layers` | `2` |" in card


def test_promoting_twice_gives_the_same_version(policy):
    run = searched(policy, trial(0))

    assert promote(run) == promote(run, 0)
    assert run.outputs.count() == 1


def test_a_suite_follows_a_promoted_policy_once_as_after_training(policy, settings):
    settings.SUITE_AFTER_TRAINING = True
    PromptFactory(project=policy.project, split="test")
    run = searched(policy, trial(0), trial(1), tries="ppo")

    version, _ = promote(run), promote(run)

    (suite,) = policy.project.runs.filter(kind=RunKind.SUITE)
    assert (suite.policy, suite.rival) == (version, policy)


def test_no_suite_follows_a_promoted_reward_model(policy, settings):
    settings.SUITE_AFTER_TRAINING = True
    PromptFactory(project=policy.project, split="test")

    promote(searched(policy, trial(0)))

    assert not policy.project.runs.filter(kind=RunKind.SUITE).exists()


def test_a_trial_whose_files_were_changed_cannot_be_promoted(policy):
    run = searched(policy, trial(0))
    (run.folder / "trials" / "0" / "artifact" / "head.bin").write_bytes(b"54321")

    with pytest.raises(
        SearchRefused, match=r"Trial 1 is not what was made: .*head\.bin has changed"
    ):
        promote(run)


def test_a_trial_whose_files_were_changed_with_their_hashes_cannot_be_promoted(policy):
    run = searched(policy, trial(0))
    run.result = COLLECT[RunKind.SEARCH](run)
    place = run.folder / "trials" / "0"
    (place / "artifact" / "head.bin").write_bytes(b"54321")
    result = json.loads((place / "result.json").read_text())
    (place / "result.json").write_text(json.dumps(result | {"files": files_in(place / "artifact")}))

    with pytest.raises(SearchRefused, match="Trial 1 is not what was made: its list of files"):
        promote(run)


def test_a_trial_that_was_ended_early_cannot_be_promoted(policy):
    run = searched(policy, trial(0), trial(1, "pruned"))

    with pytest.raises(SearchRefused, match=r"Trial 2 has no files .*: it did not come to its end"):
        promote(run, 1)


def test_files_of_trials_that_are_no_version_can_be_deleted(policy):
    run = searched(policy, trial(0), trial(1, value=0.1), trial(2))
    version = promote(run)

    freed = delete_files(run)

    assert freed == 10
    assert [row.has_files for row in trials_of(run).rows] == [False, True, False]
    assert (run.folder / "trials/1/artifact").samefile(version.path)


def test_files_of_a_search_that_goes_on_stay(policy):
    run = searched(policy, trial(0))
    run.status = Status.RUNNING

    with pytest.raises(SearchRefused, match="goes on: stop it first"):
        delete_files(run)


def test_a_promoted_reward_model_has_the_report_of_its_trial(client, policy):
    run = searched(policy, trial(0), trial(1, value=0.9))
    reported(run, 0)
    version, other = promote(run), promote(run, 1)
    client.force_login(MembershipFactory(project=run.project, role=Role.REVIEWER).user)
    address = reverse("rlhf:trial_report", args=["tea", run.pk, 0])

    page = client.get(address).content.decode()

    assert address in client.get(version.get_absolute_url()).content.decode()
    assert f'Of trial 1, which is <a href="{version.get_absolute_url()}">' in page
    assert "No pair that people decided was held out" in page
    assert "/report/" not in client.get(other.get_absolute_url()).content.decode()
    assert client.get(reverse("rlhf:trial_report", args=["tea", run.pk, 1])).status_code == 404


# --- the picture ------------------------------------------------------------------------------
def test_places_on_an_axis_follow_its_scale():
    assert place_of(Range("rate", 1e-5, 1e-3, is_log=True), 1e-4) == pytest.approx(0.5)
    assert place_of(Range("rank", 4, 12), 6) == 0.25
    assert place_of(Choice("ties", ("half", "davidson", "rao-kupper")), "davidson") == 0.5


def test_the_best_trial_lies_on_top_of_the_picture_and_last(policy):
    found = trials_of(searched(policy, trial(0, value=0.1), trial(1, value=0.3)))

    picture = draw(found, [Range("learning_rate", 1e-5, 1e-3, is_log=True)])

    assert [line.points for line in picture.lines] == ["70,134.0 220,224.0", "70,134.0 220,44.0"]
    assert [line.is_best for line in picture.lines] == [False, True]
    assert [tick.label for tick in picture.axes[1].ticks] == ["0.1", "0.3"]
    assert [tick.y for tick in picture.axes[1].ticks] == ["44.0", "224.0"]


def test_one_trial_makes_no_picture(policy):
    found = trials_of(searched(policy, trial(0), trial(1, "fail", value=None)))

    assert draw(found, [Choice("members", (1, 2))]) is None


# --- pages, API, command ----------------------------------------------------------------------
def page_of(client, run, role):
    client.force_login(MembershipFactory(project=run.project, role=role).user)
    return client.get(run.get_absolute_url()).content.decode()


def test_the_page_shows_each_trial_and_offers_to_promote_the_best(client, policy):
    run = searched(policy, trial(0), trial(1, value=0.3), trial(2, "fail", None, "out of memory"))

    page = page_of(client, run, Role.ADMIN)

    assert page.count("Promote") == 2
    assert "Promote the best" in page
    assert "out of memory" in page


def test_the_form_lists_what_may_be_searched_with_type_and_default(client, policy):
    client.force_login(MembershipFactory(project=policy.project, role=Role.ADMIN).user)

    page = client.get(reverse("rlhf:new_run", args=["tea", "search"]))

    listed = {
        kind: {each.name: each for each in found} for kind, found in page.context["searchable"]
    }
    assert list(listed) == [RunKind(kind).label for kind in OBJECTIVES]
    assert listed["Reward model"]["epochs"][2:] == ("a whole number", "2")
    assert listed["PPO"]["target_kl"][2:] == ("a number or none", "none")
    assert listed["PPO"]["temperature"].type == "a number, the same in all trials"
    assert listed["PPO"]["kl_coefficient"].type == (
        "a number, the same in all trials if compared by objective"
    )
    assert listed["PPO"]["critic"].label == "Critic"
    assert listed["PPO"]["keep"][2:] == ("a word: best, last", "best")
    assert "<code>learning_rate</code>" in page.content.decode()
    assert "base" not in listed["Reward model"]  # a model, which cannot vary


def test_reviewers_see_trials_and_cannot_promote_them(client, policy):
    run = searched(policy, trial(0), trial(1))

    page = page_of(client, run, Role.REVIEWER)
    answer = client.post(reverse("rlhf:promote_trial", args=["tea", run.pk]))

    assert "Promote" not in page
    assert (answer.status_code, run.outputs.count()) == (404, 0)


def test_a_search_that_has_not_begun_says_so(client, policy):
    run = launch(policy, export=ExportFactory(project=policy.project))

    assert "No trial has begun yet." in page_of(client, run, Role.REVIEWER)


def test_the_button_makes_a_version_and_leads_to_it(client, policy):
    run = searched(policy, trial(0), trial(1))
    client.force_login(MembershipFactory(project=run.project, role=Role.ADMIN).user)

    answer = client.post(reverse("rlhf:promote_trial", args=["tea", run.pk]), {"trial": "1"})

    assert answer.url == run.outputs.get().get_absolute_url()
    assert client.get(answer.url).status_code == 200


def test_a_program_reads_trials_and_promotes_one(policy):
    run = searched(policy, trial(0), trial(1, value=0.3))
    program = api_client(MembershipFactory(project=run.project, role=Role.ADMIN).user)
    address = f"/api/v1/projects/tea/runs/{run.pk}/trials/"

    promoted = program.post(f"{address}promote/", {}, content_type="application/json")

    assert promoted.json()["facts"]["trial"] == 1
    listed = program.get(address).json()
    assert [row["model"] for row in listed["results"]] == [None, promoted.json()["id"]]
    assert (listed["metric"], listed["results"][0]["is_best"]) == ("eval_loss", False)


def test_a_program_reads_trials_page_by_page(policy):
    run = searched(policy, trial(0), trial(1), trial(2))
    program = api_client(MembershipFactory(project=run.project, role=Role.REVIEWER).user)

    first = program.get(f"/api/v1/projects/tea/runs/{run.pk}/trials/?page_size=2").json()
    second = program.get(first["next"]).json()

    assert [row["number"] for row in first["results"]] == [0, 1]
    assert [row["number"] for row in second["results"]] == [2]
    assert (first["previous"], second["next"]) == (None, None)
    assert program.get(second["previous"]).json()["results"] == first["results"]


def test_a_trial_is_promoted_once_whatever_happens_to_the_answer(policy):
    run = searched(policy, trial(0), trial(1))
    program = api_client(MembershipFactory(project=run.project, role=Role.ADMIN).user)
    address = f"/api/v1/projects/tea/runs/{run.pk}/trials/promote/"
    sent = {"content_type": "application/json", "headers": {"Idempotency-Key": "k1"}}

    first, second = (program.post(address, {"trial": 1}, **sent) for _ in range(2))

    assert second.json() == first.json()
    assert second["Idempotency-Replayed"] == "true"


def test_the_command_searches_tuning_on_its_datasets(policy):
    for name in ("polite", "short", "long"):
        demonstrations(policy.project, name, ["train"])
    said = ["--datasets", "polite", "--datasets", "short", "--sampler", "random"]

    with pytest.raises(
        CommandError, match="No row of “short” and “polite” is held out, so nothing"
    ):
        call_command("search", "tea", "supervised", "epochs in 1, 2", *said)


def test_a_program_that_tries_another_kind_is_told_why_and_which_there_are(policy):
    program = api_client(MembershipFactory(project=policy.project, role=Role.ADMIN).user)
    sent = {"kind": "search", "tries": "merge", "objective": "margins"}

    refused = program.post(
        "/api/v1/projects/tea/runs/", sent, content_type="application/json"
    ).json()["errors"]

    said = {error["pointer"]: error["detail"] for error in refused}
    assert said["#/tries"] == (
        f"Runs of kind merge cannot be tried: {WHY_NOT}. There are: {', '.join(OBJECTIVES)}."
    )
    assert said["#/objective"] == (
        '"margins" is not a valid choice. There are: loss, accuracy, objective, score, margin, share.'
    )


def test_page_program_and_command_say_why_a_setting_cannot_vary(client, policy):
    PromptFactory(project=policy.project, split="test")
    admin = MembershipFactory(project=policy.project, role=Role.ADMIN).user
    client.force_login(admin)
    told = {"tries": "ppo", "space": "score_clip in 1, 10", "rewards": "length target=20"}
    why = "This search does not work: score_clip changes how an answer is scored: trials could not"

    sent = {**SearchForm(policy.project).as_sent().data, **told, "export": ""}
    page = client.post(reverse("rlhf:new_run", args=["tea", "search"]), sent)
    refused = api_client(admin).post(
        "/api/v1/projects/tea/runs/", {"kind": "search", **told, "export": None},
        content_type="application/json",
    )  # fmt: skip

    assert why in page.content.decode()
    assert (refused.status_code, refused.json()["detail"].startswith(why)) == (422, True)
    with pytest.raises(CommandError, match=why):
        call_command("search", "tea", "ppo", told["space"], "--rewards", told["rewards"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["coffee", "ppo", "steps in 1, 2"], "There is no project 'coffee'"),
        (["tea", "ppo", "steps in 1, 2", "--policy", "big"], "Tea has no model version 'big'"),
        (
            ["tea", "merge", "steps in 1, 2"],
            "tries: Runs of kind merge cannot be tried: they measure",
        ),
        (["tea", "ppo", "steps in 1, 2", "--trials", "0"], "trials: Ensure this value is greater"),
        (["tea", "supervised", "epochs in 1, 2"], "datasets: Choose at least one dataset."),
        (
            ["tea", "supervised", "epochs in 1, 2", "--datasets", "kind"],
            "Tea has no dataset 'kind'. There are: none yet.",
        ),
        (
            ["tea", "ppo", f"steps = 1 .. {'9' * 400}"],
            "This search does not work: line 1 of the space: steps must be a whole number between",
        ),
        (["tea", "ppo", "step in 1, 2"], "there is no setting 'step' to vary; there are adam_eps"),
    ],
)
def test_the_command_says_what_is_wrong(policy, arguments, sentence):
    policy.project.name = "Tea"
    policy.project.save()

    with pytest.raises(CommandError, match=sentence):
        call_command("search", *arguments)

import json
from pathlib import Path

import optuna
import pytest

from rlhf.training import search
from rlhf.training.artifacts import (
    DISK_FULL,
    RunError,
    RunFolder,
    Stopped,
    read_json,
    write_json,
)
from rlhf.training.config import CONFIGS, PPOConfig, RewardModelConfig
from rlhf.training.search import JOURNAL, open_study, run, tokens_of
from rlhf.training.search_config import RULERS, SearchConfig, kinds_tried
from rlhf.training.search_space import types_of
from tests.training.conftest import write_prompts
from tests.training.toy_trial import FAILS, FILLS_THE_DISK, IS_SILENT, IS_STUBBORN, STOPS_THE_SEARCH

SETTINGS = {"model": {"base": "tiny", "adapters": []}}
SPACE = "learning_rate = 1e-6 .. 1e-2 log"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "PROGRAM", [str(Path(__file__).with_name("toy_trial.py"))])
    monkeypatch.setattr(search, "POLL_SECONDS", 0.01)
    (tmp_path / "inputs" / "data").mkdir(parents=True)
    (tmp_path / "inputs" / "data" / "data.jsonl").write_text("{}\n")
    return RunFolder(tmp_path)


def config_of(space=SPACE, *, seed=0, **values):
    return SearchConfig(
        **{
            "tries": "reward_model",
            "settings": {**SETTINGS, "seed": seed},
            "space": space,
            **values,
        }
    )


def table_of(folder):
    return read_json(folder.path / "trials.json")["trials"]


def add_trial(study, learning_rate, reports):
    choice = optuna.distributions.CategoricalDistribution((1e-4, 1e-1))
    trial = optuna.trial.create_trial(
        value=reports[-1],
        params={"learning_rate": learning_rate},
        distributions={"learning_rate": choice},
        intermediate_values=dict(enumerate(reports)),
    )
    study.add_trial(trial)


def test_the_best_trial_is_the_one_with_the_lowest_held_out_loss(folder):
    result = run(config_of(trials=3, pruner="none"), folder)

    best = min(table_of(folder), key=lambda row: row["value"])
    assert result["n_complete"] == 3
    assert (result["best_trial"], result["best_value"]) == (best["number"], best["value"])
    assert result["best_settings"] == best["values"]


def test_an_ended_trial_keeps_what_it_made_and_not_its_checkpoints(folder):
    run(config_of("lora_rank in 4, 8\nlearning_rate = 1e-4", trials=1), folder)

    left = sorted(path.name for path in (folder.path / "trials" / "0").iterdir())
    assert left == ["artifact", "config.json", "events.jsonl", "result.json"] or left == [
        "artifact", "config.json", "events.jsonl", "log.txt", "result.json",
    ]  # fmt: skip


def test_a_trial_is_told_its_settings(folder):
    run(config_of("lora_rank = 5 .. 7", trials=1), folder)

    told = read_json(folder.path / "trials" / "0" / "config.json")
    (row,) = table_of(folder)
    assert told["kind"] == "reward_model"
    assert told["config"]["lora_rank"] == row["values"]["lora_rank"]


def test_a_trial_that_is_worse_than_the_others_is_ended_early(folder):
    config = config_of("learning_rate in 1e-4, 1e-1", seed=IS_STUBBORN, trials=4)
    study = open_study(config, folder.path / JOURNAL)
    for _ in range(3):
        add_trial(study, 1e-4, [2.0, 1.0, 0.0])
    study.enqueue_trial({"learning_rate": 1e-1})

    result = run(config, folder)

    assert (result["n_complete"], result["n_pruned"]) == (3, 1)


def test_a_search_that_is_stopped_goes_on_with_the_trial_that_was_under_way(folder):
    config = config_of(seed=STOPS_THE_SEARCH, trials=1)
    with pytest.raises(Stopped):
        run(config, folder)
    (before,) = table_of(folder)
    (folder.path / "stop").unlink()

    run(config, folder)

    (row,) = table_of(folder)
    assert (before["state"], row["state"]) == ("running", "complete")
    assert row["values"] == before["values"]
    assert read_json(folder.path / "trials/0/result.json")["started_at"] == 2


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_is_resumed_within_its_first_trial_does_not_repeat_it(folder, sampler):
    space = "learning_rate = 1e-3 .. 1e-2 log"  # without the usual value
    config = config_of(space, seed=STOPS_THE_SEARCH, trials=2, pruner="none", sampler=sampler)
    with pytest.raises(Stopped):
        run(config, folder)
    (folder.path / "stop").unlink()

    with pytest.raises(Stopped):
        run(config, folder)

    first, second = (row["values"]["learning_rate"] for row in table_of(folder))
    assert first != second


def test_a_search_that_is_killed_keeps_the_time_that_its_trial_took(folder, monkeypatch):
    monkeypatch.setattr(search, "SECONDS_BETWEEN_NOTES", 0.0)
    config, seen = config_of(trials=1), []

    class Watched(RunFolder):
        def should_stop(self):
            trials = open_study(config, folder.path / JOURNAL).trials
            seen.append(max(map(search.seconds_of, trials), default=0.0))
            return super().should_stop()

    run(config, Watched(folder.path))

    assert max(seen) > 0


def test_a_trial_that_goes_on_counts_the_time_of_before(folder):
    config = config_of(trials=1)
    study = open_study(config, folder.path / JOURNAL)
    study.ask().set_user_attr("seconds", 3600.0)

    run(config, folder)

    assert table_of(folder)[0]["seconds"] > 3600


def test_a_search_that_was_killed_while_it_wrote_goes_on(folder):
    config = config_of(trials=2)
    run(config_of(trials=1), folder)
    with (folder.path / JOURNAL).open("a") as journal:
        journal.write('{"op_code": 4, "wor')
    (folder.path / f"{JOURNAL}.lock").symlink_to(folder.path / JOURNAL)

    assert run(config, folder)["n_complete"] == 2


def test_when_the_first_three_trials_fail_the_search_ends_with_their_sentence(folder):
    with pytest.raises(RunError, match=r"The first 3 trials .* said: the toy is broken"):
        run(config_of(seed=FAILS, trials=10), folder)

    assert [row["state"] for row in table_of(folder)] == ["fail"] * 3


def test_a_full_disk_ends_the_search_and_not_the_trial(folder):
    with pytest.raises(RunError, match="Trial 1: the toy is broken") as ended:
        run(config_of(seed=FILLS_THE_DISK), folder)

    assert ended.value.exit_code == DISK_FULL
    assert [row["state"] for row in table_of(folder)] == ["running"]


def test_a_trial_that_reports_nothing_held_out_fails_with_a_sentence(folder):
    with pytest.raises(RunError, match="No trial came to its end"):
        run(config_of(seed=IS_SILENT, trials=1), folder)

    (row,) = table_of(folder)
    assert row["error"] == "it has reported no eval_loss: nothing may be held out to measure it on"


def test_settings_that_do_not_work_together_fail_one_trial(folder):
    space = "batch_size in 4, 6\nminibatches in 2, 3"
    config = SearchConfig("ppo", {**SETTINGS, "reward_model": "r", "batch_size": 6}, space)
    study = open_study(config, folder.path / JOURNAL)

    search.carry_out(study, study.ask(), {"batch_size": 4, "minibatches": 3}, config, folder)

    (trial,) = study.trials
    assert trial.state == optuna.trial.TrialState.FAIL
    assert trial.user_attrs["error"] == "minibatches=3 must divide batch_size=4"


def test_no_trial_begins_after_the_hours_are_over(folder):
    result = run(config_of(trials=5, max_hours=1e-9), folder)

    assert result["n_complete"] == 1


def test_the_table_says_how_much_each_setting_matters(folder):
    config = config_of("learning_rate in 1e-4, 1e-1", trials=1)
    study = open_study(config, folder.path / JOURNAL)
    for number in range(5):
        add_trial(study, 1e-4 if number < 3 else 1e-1, [float(number)])

    search.write_table(study, config, folder)

    assert read_json(folder.path / "trials.json")["importance"] == {"learning_rate": 1.0}


def test_the_first_trial_has_the_usual_settings_where_the_space_holds_them(folder):
    run(config_of("learning_rate = 1e-6 .. 1e-2 log\nlora_rank in 4, 8", trials=1), folder)

    (row,) = table_of(folder)
    assert row["values"]["learning_rate"] == RewardModelConfig.learning_rate


def test_reports_of_a_resumed_trial_are_counted_once(tmp_path):
    lines = [(10, 3.0), (20, 2.0), (20, 2.5), (30, None)]
    events = [{"type": "metrics", "step": s, "values": {"eval_loss": v}} for s, v in lines]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"ty')
    reports = search.Reports(tmp_path / "events.jsonl", "eval_loss")

    reports.read()

    assert reports.values == {10: 3.0, 20: 2.5}
    assert reports.value({}, "minimize") is None  # the last one was not finite


def test_a_kind_that_keeps_its_best_step_counts_by_it(tmp_path):
    reports = search.Reports(tmp_path / "events.jsonl", "eval/objective")
    reports.values = {0: 0.1, 5: 0.9, 10: 0.4}

    assert reports.value({"keep": "best"}, "maximize") == 0.9
    assert reports.value({"keep": "last"}, "maximize") == 0.4


def test_tokens_of_trials_are_what_they_say_at_the_end_or_what_their_answers_were_long(tmp_path):
    done, early, failed = (RunFolder(tmp_path / name) for name in "012")
    for place in (done, early, failed):
        place.path.mkdir()
        write_json(place.path / "config.json", {"config": {"batch_size": 4, "epochs": 3}})
    done.write_result("succeeded", tokens={"written": 10, "learned": 20})
    for step in (1, 2, 2):  # resumed after the first step
        early.metrics(step, {"length/mean": 5.5})

    assert tokens_of(tmp_path) == {"written": 10 + 44, "learned": 20 + 3 * 44}


@pytest.mark.slow
def test_real_trials_of_ppo_are_compared_by_their_held_out_objective(tmp_path, tiny_reference):
    (tmp_path / "inputs").mkdir()
    said = [{"role": "user", "content": "Why is the door red?"}]
    lines = "".join(json.dumps({"id": n, "messages": said}) + "\n" for n in range(4))
    for name in ("prompts.jsonl", "eval_prompts.jsonl"):
        (tmp_path / "inputs" / name).write_text(lines)
    settings = PPOConfig(
        model=tiny_reference, rewards=[{"kind": "length", "target": 4}], steps=2, batch_size=4,
        max_new_tokens=8,
    ).to_dict()  # fmt: skip
    config = SearchConfig("ppo", settings, "learning_rate = 1e-4 .. 1e-2 log", trials=2)

    result = run(config, RunFolder(tmp_path))

    assert (result["metric"], result["n_complete"]) == ("eval/objective", 2)
    written = result["tokens"]["written"]
    assert 2 * 2 * 4 <= written <= 2 * 2 * 4 * 8  # trials, steps, answers, tokens of each
    assert result["tokens"]["learned"] == written * settings["epochs"]
    assert (tmp_path / "trials/0/artifact/adapter_model.safetensors").exists()


@pytest.mark.slow
def test_real_distillations_are_compared_by_what_they_would_pick_for_held_out_prompts(
    tmp_path, tiny_reference
):
    (tmp_path / "inputs").mkdir()
    for name in ("prompts.jsonl", "eval_prompts.jsonl"):
        write_prompts(tmp_path / "inputs" / name)
    space = "temperature in 0.5, 1.5\nmax_new_tokens = 24"
    config = SearchConfig(
        "distill", distilled(model=tiny_reference), space, trials=2, pruner="none"
    )

    result = run(config, RunFolder(tmp_path))

    assert (result["metric"], result["n_complete"]) == ("eval_score", 2)
    best = tmp_path / "trials" / str(result["best_trial"])
    assert len((best / "artifact/data.jsonl").read_text().splitlines()) > 0


def distilled(**values):
    rules = [{"kind": "length", "target": 4}]
    return {
        "model": {"base": "tiny", "adapters": []},
        "rewards": rules,
        "eval_prompts": 5,
        **values,
    }


@pytest.mark.parametrize(
    ("told", "values", "sentence"),
    [
        (
            {},
            {"space": "reward_weight in 1.0, 2.0"},
            "reward_weight changes how an answer is scored",
        ),
        ({"rewards": [], "completions_per_prompt": 1}, {}, "or compare by objective='share'"),
        ({"model": {"endpoint": 1}}, {}, "eval_prompts=5 needs a teacher whose weights are here"),
    ],
)
def test_distillations_that_could_not_be_compared_are_refused(told, values, sentence):
    values = {"space": "temperature in 0.5, 1.5", **values}

    with pytest.raises(ValueError, match=sentence):
        SearchConfig("distill", distilled(**told), **values)


def ended_at(config, folder, values):
    """At which of its reports, counted from 1, a trial is to end, after three better ones."""
    study = open_study(config, folder.path / JOURNAL)
    first = search.first_number(config)
    for _ in range(3):
        better = study.ask()
        for number, value in enumerate(values, first):
            better.report(value + 1, number)
            better.should_prune()  # as it is asked after each
        study.tell(better, values[-1])
    worse = study.ask()
    asked = []
    for number, value in enumerate(values, first):
        worse.report(value, number)
        if worse.should_prune():
            asked.append(number - first + 1)
    return asked


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_distillation_can_be_ended_at_its_only_report(folder, pruner):
    config = SearchConfig("distill", distilled(), "temperature in 0.5, 1.5", pruner=pruner)

    assert ended_at(config, folder, [0.0]) == [1]


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_nothing_ends_at_a_report_of_before_learning(folder, pruner):
    config = config_of(tries="dpo", pruner=pruner)

    assert ended_at(config, folder, [0.0] * 4)[0] == 2


def test_halving_asks_at_the_second_third_fifth_and_ninth_report(folder):
    study = open_study(config_of(pruner="halving"), folder.path / JOURNAL)
    trial, asked = study.ask(), []

    for number in range(10):
        before = study.trials[0].system_attrs  # one more for each time that it was asked
        trial.report(1.0, number)
        trial.should_prune()
        if study.trials[0].system_attrs != before:
            asked.append(number + 1)

    assert asked == [2, 3, 5, 9]


def rewarded(tries, space, **values):
    settings = {**SETTINGS, "reward_model": "r"} if tries in ("ppo", "rloo", "grpo") else SETTINGS
    return SearchConfig(tries, settings, space, **values)


@pytest.mark.parametrize(
    ("tries", "space", "sentence"),
    [
        ("ppo", "reward_weight in 1, 10", "reward_weight changes how an answer is scored: trials"),
        ("rloo", "ensemble in mean, worst", "ensemble changes how an answer is scored: trials"),
        ("grpo", "missing_eos_penalty = 0 .. 1", "missing_eos_penalty changes how an answer is sc"),
        ("ppo", "temperature = 0.1 .. 1", "temperature changes how held-out prompts are answered"),
        (
            "ppo",
            "max_prompt_tokens in 64, 256",
            "changes which held-out prompts count: trials coul",
        ),
        (
            "grpo",
            "kl_coefficient = 0 .. 1",
            "kl_coefficient changes the price of the KL in the obj",
        ),
        (
            "supervised",
            "max_tokens in 64, 256",
            "max_tokens changes which held-out rows count: tri",
        ),
        ("domain", "max_tokens in 64, 256", "changes how much of a held-out text is read at once"),
        ("reward_model", "max_tokens in 64, 256", "max_tokens changes which held-out rows count"),
        ("reward_model", "ties in half, davidson", "ties changes which outcomes a vote has"),
        ("dpo", "max_tokens in 64, 256", "max_tokens changes which held-out rows count: trials"),
    ],
)
def test_what_trials_are_compared_by_cannot_vary(tries, space, sentence):
    with pytest.raises(ValueError, match=sentence):
        rewarded(tries, space)


def test_all_that_cannot_vary_is_said_at_once_and_may_be_given():
    space = "score_clip in 1, 10\nmax_new_tokens in 8, 16"

    with pytest.raises(ValueError, match="scored, and max_new_tokens changes how held-out prompts"):
        rewarded("ppo", space)

    assert rewarded("ppo", "temperature = 0.5\nsteps in 1, 2").dimensions[0].name == "steps"


@pytest.mark.parametrize(
    ("tries", "space", "objective"),
    [
        ("ppo", "target_kl in none, 6", "objective"),  # of the score less the configured price
        ("ppo", "kl_coefficient = 0 .. 1", "score"),
        ("ppo", "kl_estimator in k1, k3\nseed = 0 .. 9", "objective"),
        ("reward_model", "ties in half, davidson\nlabel_smoothing = 0", "accuracy"),
        ("reward_model", "label_smoothing = 0 .. 0.2\ntemperature = 0.5 .. 1", "loss"),
        ("dpo", "beta = 0.05 .. 0.5\nmax_new_tokens in 8, 16", "margin"),
    ],
)
def test_what_only_changes_what_is_learnt_can_vary(tries, space, objective):
    assert rewarded(tries, space, objective=objective).dimensions


def test_every_setting_that_cannot_vary_is_one_of_its_kind():
    for kind in kinds_tried():
        assert set(RULERS[kind]) <= set(types_of(CONFIGS[kind]))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tries": "merge"}, "runs of kind 'merge' cannot be tried: they measure nothing on held"),
        ({"objective": "score"}, r"objective='score' must be one of \('loss', 'accuracy'\)"),
        ({"space": "lora_rank in 0, 4"}, "lora_rank=0 must be at least 1"),
        ({"trials": 0}, "trials=0 must be between 1 and 1000"),
    ],
)
def test_a_search_that_cannot_work_is_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        config_of(**values)


def test_reward_models_and_policies_can_be_tried():
    assert {"reward_model", "ppo"} <= set(kinds_tried())

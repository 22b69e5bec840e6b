import json
import shutil
from dataclasses import replace

import pytest

from rlhf.training import suite
from rlhf.training.artifacts import RunFolder, Stopped, write_json
from rlhf.training.suite import Side, conditions, kept, measured_on, read_inputs, run
from rlhf.training.suite_config import SuiteConfig
from rlhf.training.suite_metrics import Estimate
from rlhf.training.suite_tasks import TaskAnswer, TaskResults
from tests.rlhf.stand_in import StandIn

TEXTS = ["The red door is open.", "Please read the old book today.", "No."]


@pytest.fixture
def config(tiny_reference):
    return SuiteConfig(tiny_reference, max_new_tokens=12, batch_size=4)


@pytest.fixture
def inputs(folder, prompts_file):
    """Five prompts, of which two have references, three texts, and a pair that people have judged."""
    write_lines(folder, "texts.jsonl", [{"text": text} for text in TEXTS])
    references = [{"id": 1, "text": "Open the door."}, {"id": 1, "text": "Yes."}]
    write_lines(folder, "references.jsonl", [*references, {"id": 3, "text": "Why not?"}])
    pair = {"messages": [{"role": "user", "content": "Why?"}], "first": "Yes.", "second": "No."}
    write_lines(folder, "pairs.jsonl", [{**pair, "people": "new"}])
    return folder


def write_lines(folder, name, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder.path / name).write_text(text)


def read_lines(folder, name):
    return [json.loads(line) for line in (folder.path / name).read_text().splitlines()]


def test_a_version_is_measured_against_itself_without_any_forgetting(config, inputs):
    result = run(replace(config, rival=config.model), inputs)

    metrics = result["metrics"]
    assert (result["n_prompts"], result["left_out"]) == (5, {"too_long": 0})
    assert metrics["forgetting"]["value"] == 0
    assert metrics["general_loss"]["n"] == 3
    assert metrics["own_loss"]["n"] == 3
    assert metrics["rouge_l"]["n"] == metrics["chrf"]["n"] == 2
    assert metrics["length"]["n"] == 5


def test_what_was_measured_is_told_apart_by_references_and_tokens(config, inputs):
    def found(config):
        for path in inputs.path.glob("suite-*.json"):
            path.unlink()
        return measured_on(Side("new", config.model, config, inputs), read(config), inputs)

    def read(config):
        return read_inputs(config, inputs.path)

    before, shorter = found(config), found(replace(config, max_tokens=8))
    write_lines(inputs, "references.jsonl", [{"id": 1, "text": "Open it."}])
    after = found(config)

    assert (shorter["references"], shorter["general"]) == (before["references"], before["general"])
    assert shorter["own"] != before["own"]
    assert after["general"] == before["general"]
    assert (after["references"] != before["references"], after["own"] != before["own"]) == (
        True, True,
    )  # fmt: skip


def test_every_answer_can_be_read_with_what_was_found_in_it(config, inputs):
    result = run(config, inputs)

    answers = read_lines(inputs, "artifact/answers.jsonl")
    texts = read_lines(inputs, "artifact/texts.jsonl")
    lengths = [row["values"]["length"] for row in answers]
    assert [(row["id"], row["references"]) for row in answers][:3] == [
        (1, ["Open the door.", "Yes."]), (2, []), (3, ["Why not?"]),
    ]  # fmt: skip
    assert result["metrics"]["length"]["value"] == pytest.approx(sum(lengths) / 5)
    assert result["tokens"] == {"written": sum(lengths)}
    assert [row["text"] for row in texts] == TEXTS
    assert sum(row["nats"] for row in texts) / sum(row["n_tokens"] for row in texts) == (
        pytest.approx(result["metrics"]["general_loss"]["value"])
    )


def test_what_an_answer_is_or_is_not_is_a_share():
    assert suite.mean_of("unsafe", [0.0] * 50).high == pytest.approx(0.0713, abs=1e-4)
    assert suite.mean_of("rule/regex", [1.0] * 50).low == pytest.approx(0.9287, abs=1e-4)
    assert suite.mean_of("rouge_l", [0.0] * 50).high > 0
    assert suite.mean_of("length", [1.0] * 50) == Estimate(1.0, 1.0, 1.0, 50)


def test_a_prompt_version_is_measured_with_what_it_puts_around_a_question(config, inputs, tmp_path):
    path = tmp_path / "prompting.json"
    write_json(path, {"system": "Open the door."})
    prompted = {**config.model, "prompting": str(path)}

    plain = run(config, RunFolder(shutil.copytree(inputs.path, tmp_path / "plain")))

    result = run(replace(config, model=prompted, rival=config.model), inputs)

    assert result["prompting"]["tokens_mean"] > 0
    assert result["metrics"]["forgetting"]["value"] == 0
    assert result["metrics"]["general_loss"] == plain["metrics"]["general_loss"]
    assert result["metrics"]["own_loss"] != plain["metrics"]["own_loss"]


def test_another_attempt_does_only_what_is_missing(config, inputs, monkeypatch):
    first = run(config, inputs)
    monkeypatch.setattr(suite.Side, "_losses", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr("rlhf.training.generate.sample", lambda *_, **__: pytest.fail("again"))

    assert run(config, inputs) == first


def test_a_stop_is_heard_before_the_next_step(config, inputs):
    (inputs.path / "stop").touch()

    with pytest.raises(Stopped):
        run(config, inputs)
    with pytest.raises(Stopped):
        kept(inputs, "anything", lambda: 1)


def test_scores_of_a_reward_model_and_of_rules_stand_with_each_answer(
    config, inputs, reward_folder, tiny_reference, tmp_path
):
    judge = shutil.copytree(reward_folder, tmp_path / "judge")
    write_json(judge / "model.json", tiny_reference)
    rules = [{"kind": "length", "target": 6, "unit": "words"}]

    result = run(replace(config, reward_model=str(judge), rewards=rules), inputs)

    answers = read_lines(inputs, "artifact/answers.jsonl")
    for name in ("reward", "rule/length"):
        mean = sum(row["values"][name] for row in answers) / 5
        assert result["metrics"][name]["value"] == pytest.approx(mean)


def test_the_judge_sees_each_pair_in_both_orders(config, inputs):
    judged = replace(config, rival=config.model, judge=config.model, seed=1)

    result = run(judged, inputs)

    judge, answers = result["judge"], read_lines(inputs, "artifact/answers.jsonl")
    verdicts = read_lines(inputs, "judged.jsonl")
    assert len(verdicts) == 2 * (5 + 1)
    assert judge["n_pairs"] == 5
    assert 0 < judge["mass"] < 1
    assert result["tokens"] == {"written": 2 * sum(row["values"]["length"] for row in answers)}
    # Both sides have drawn the same answers from the same seed: nobody can be better.
    assert all(row["answer"] == row["rival"] for row in answers)
    assert (judge["wins"], result["metrics"]["judge_win_rate"]["value"]) == (0, 0.5)
    assert judge["leaning"]["win_rate"]["value"] == 0.5
    assert judge["leaning"]["accuracy"]["n"] == 1


def test_a_judge_elsewhere_is_believed_if_it_says_a_letter(config, inputs):
    with StandIn(choice={"message": {"content": "Answer: A."}}) as server:
        judge = server.reference(requests_at_once=1)
        result = run(replace(config, rival=config.model, judge=judge), inputs)

    opinion = result["judge"]
    assert (opinion["ties"], opinion["unclear"], opinion["says_a"]) == (5, 0, 1.0)
    assert opinion["accuracy"]["value"] == 0.5
    assert opinion["leaning"]["win_rate"]["reason"] == "nothing to measure"
    assert [asked["side"] for asked in result["asked"]] == ["judge"]


def test_what_is_no_verdict_is_counted(config, inputs):
    with StandIn(choice={"message": {"content": "Both are fine."}}) as server:
        judge = server.reference(requests_at_once=1)
        result = run(replace(config, rival=config.model, judge=judge), inputs)

    opinion = result["judge"]
    assert (opinion["unparsed"], opinion["unclear"]) == (12, 5)
    assert result["metrics"]["judge_win_rate"]["reason"] == "nothing to measure"
    assert opinion["kappa"]["reason"] == "no people's votes to compare with"


def test_a_policy_elsewhere_has_answers_and_no_losses(inputs):
    with StandIn() as server:
        here = server.reference(requests_at_once=1)
        result = run(SuiteConfig(here, max_new_tokens=12), inputs)

    assert result["n_prompts"] == 5
    assert result["metrics"]["general_loss"]["value"] is None
    assert "policy elsewhere" in result["metrics"]["forgetting"]["reason"]


def test_what_was_forgotten_has_a_reason_where_the_other_version_has_no_losses(config, inputs):
    with StandIn() as server:
        rival = server.reference(requests_at_once=1)
        metrics = run(replace(config, rival=rival), inputs)["metrics"]

    assert metrics["general_loss"]["n"] == 3
    assert metrics["forgetting"]["reason"] == suite.RIVAL.format(suite.NO_WEIGHTS)


def test_other_prompts_texts_or_sampling_are_other_conditions(config, inputs):
    first = conditions(config, inputs.path)

    assert conditions(replace(config, seed=7), inputs.path) == first
    assert conditions(replace(config, temperature=1.0), inputs.path) != first
    write_lines(inputs, "texts.jsonl", [{"text": "Something else."}])
    assert conditions(config, inputs.path) != first


def test_forgetting_beyond_the_bound_is_reported_for_the_alarms(folder):
    grown = suite.Estimate(0.3, 0.2, 0.4, 40)

    suite.report_forgetting(grown, 0.1, folder)

    (event,) = read_lines(folder, "events.jsonl")
    assert event["values"] == {"forgetting": 0.3, "forgetting/low": 0.2, "forgetting/bound": 0.1}


def test_a_judge_needs_something_to_compare_with(tiny_reference):
    with pytest.raises(ValueError, match="choose what the version is compared with"):
        SuiteConfig(tiny_reference, judge=tiny_reference)


def test_a_reward_model_is_no_rule(tiny_reference):
    with pytest.raises(ValueError, match="choose the reward model in its own field"):
        SuiteConfig(tiny_reference, rewards=[{"kind": "reward_model", "version": "reward-1"}])


def test_a_run_folder_without_references_says_so(config, folder, prompts_file):
    write_lines(folder, "texts.jsonl", [{"text": "No."}])

    result = run(config, RunFolder(folder.path))

    assert result["metrics"]["chrf"]["reason"] == "no held-out prompt has a reference answer"


def test_without_text_that_was_not_learned_there_is_no_forgetting(config, inputs):
    write_lines(inputs, "texts.jsonl", [])
    write_json(inputs.path / "general.json", {"n": 0, "learned": 3})

    result = run(replace(config, rival=config.model), inputs)

    assert result["texts"] == {"n": 0, "learned": 3}
    for name in ("general_loss", "general_perplexity", "forgetting"):
        assert result["metrics"][name]["reason"] == suite.NO_TEXT


def test_answers_to_tasks_are_kept_behind_their_figures(config, inputs, monkeypatch):
    answer = TaskAnswer("arc", 0, "Why?", "Yes.", "No.", {"arc/acc": 0.0})
    results = TaskResults({"arc/acc": Estimate(0.0, n=1)}, [answer], ["arc/acc"])
    monkeypatch.setattr(suite, "run_tasks", lambda *_: results)

    result = run(replace(config, tasks=["arc"]), inputs)

    assert read_lines(inputs, "artifact/tasks.jsonl") == [answer._asdict()]
    assert result["task_answers"] == result["lower_is_better"] == ["arc/acc"]
    assert result["metrics"]["task/arc/acc"] == Estimate(0.0, n=1)._asdict()

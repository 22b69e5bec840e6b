import json
import shutil
from dataclasses import replace

import pytest
from torch.testing import assert_close

from rlhf.training.artifacts import RunError, RunFolder, Stopped, write_json
from rlhf.training.config import ENDPOINTS, EvaluateConfig
from rlhf.training.data import read_prompts
from rlhf.training.evaluate import (
    Opinion,
    Pair,
    best_places,
    reward_opinion,
    run,
    seconds_per_answer,
)
from rlhf.training.generate import n_written, read_kept
from rlhf.training.models import RewardStatistics
from rlhf.training.ppo_math import best_of_n_kl
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import load_judge
from tests.rlhf.stand_in import StandIn


@pytest.fixture
def judge_folder(reward_folder, tiny_reference, tmp_path):
    """A reward model that knows the policy it was trained on."""
    folder = shutil.copytree(reward_folder, tmp_path / "judge")
    write_json(folder / "model.json", tiny_reference)
    return folder


@pytest.fixture
def config(tiny_reference, judge_folder):
    return EvaluateConfig(
        tiny_reference, tiny_reference, str(judge_folder), max_new_tokens=20, batch_size=2
    )


def read_pairs(folder):
    lines = (folder.path / "artifact" / "pairs.jsonl").read_text().splitlines()
    return [Pair(**json.loads(line)) for line in lines]


def test_every_prompt_gets_an_answer_of_both_policies_with_scores(config, folder, prompts_file):
    result = run(config, folder)

    pairs = read_pairs(folder)
    margins = [pair.new_score - pair.old_score for pair in pairs]
    assert [(pair.id, pair.index) for pair in pairs] == [(n, 0) for n in range(1, 6)]
    assert (result["n_pairs"], result["left_out"]) == (5, {"too_long": 0})
    assert result["reward_margin"] == pytest.approx(sum(margins) / 5)
    assert result["reward_rate"] == sum(margin > 0 for margin in margins) / 5
    written = [*here(folder, "new"), *here(folder, "old")]
    assert (len(written), result["tokens"]) == (10, {"written": n_written(written)})


def test_an_endpoint_answers_for_one_side(config, folder, prompts_file):
    with StandIn([None, "filtered"]) as server:
        rival = server.reference(requests_at_once=1)
        result = run(replace(config, rival=rival, reward_model=""), folder)

    pairs = read_pairs(folder)
    assert [pair.id for pair in pairs] == [1, 3, 4, 5]
    assert all(", answer " in pair.old and ", answer " not in pair.new for pair in pairs)
    assert result["left_out"] == {"too_long": 0, "filtered": 1}
    assert [(asked["side"], asked["requests"]) for asked in result["asked"]] == [("old", 5)]
    assert result["tokens"] == {"written": n_written(here(folder, "new"))}


def here(folder, side):
    """What a model here has written."""
    batches = read_kept(folder.path / f"{side}.jsonl").values()
    return [row for batch in batches for row in batch]


def test_two_sides_that_ask_the_same_endpoint_share_what_may_be_spent(
    folder, prompts_file, monkeypatch
):
    monkeypatch.setenv(ENDPOINTS, json.dumps({"7": {"budget": 45.0}}))
    with StandIn() as server:
        here = server.reference(completion_price=1e6, requests_at_once=1)
        result = run(EvaluateConfig(here, here, max_new_tokens=10), folder)

    # Five answers at 5 each for the new side, and for the old side three: a fourth could cost 10.
    assert [asked["spent"] for asked in result["asked"]] == [25.0, 15.0]
    assert (result["n_pairs"], result["left_out"]) == (3, {"too_long": 0, "spending_limit": 2})


def test_even_the_same_policy_answers_anew(config, folder, prompts_file):
    run(config, folder)

    assert any(pair.new != pair.old for pair in read_pairs(folder))


def test_several_pairs_per_prompt_are_numbered(config, folder, prompts_file):
    run(replace(config, completions_per_prompt=2, reward_model=""), folder)

    assert [(p.id, p.index) for p in read_pairs(folder)] == [
        (number, index) for number in range(1, 6) for index in (0, 1)
    ]


def test_without_rewards_there_is_no_opinion(config, folder, prompts_file):
    result = run(replace(config, reward_model=""), folder)

    assert (result["reward_rate"], result["reward_margin"]) == (None, None)
    assert {(pair.new_score, pair.old_score) for pair in read_pairs(folder)} == {(None, None)}


def test_the_opinion_is_the_share_and_the_mean_of_margins():
    pairs = [
        Pair(n, 0, "a", "b", False, False, new_score=new, old_score=old)
        for n, (new, old) in enumerate([(1.0, 0.0), (2.0, 0.5), (0.0, 1.0), (1.0, 1.0)])
    ]

    assert reward_opinion(pairs) == {"reward_rate": 2.5 / 4, "reward_margin": 0.375}


def test_scores_are_normalised_and_know_what_was_cut_off(judge_folder):
    judge = load_judge(judge_folder)
    prompt = [{"role": "user", "content": "Why?"}]

    whole, cut, again = judge.scores(
        [Conversation(prompt, "No.", 0, truncated) for truncated in (False, True, False)]
    )
    unscaled = judge._replace(statistics=[RewardStatistics(mean=0.0, std=1.0)])

    assert whole == pytest.approx(again, abs=1e-5)
    assert abs(whole - cut) > 1e-3
    (raw,) = unscaled.scores([Conversation(prompt, "No.", 0, False)])
    assert_close(whole, (raw - 0.1) / 0.5, atol=1e-4, rtol=0)


def test_a_reward_model_that_does_not_know_its_policy_is_refused(reward_folder):
    with pytest.raises(RunError, match=r"is not a reward model: model\.json is missing"):
        load_judge(reward_folder)


# --- best of n ----------------------------------------------------------------------------------
def test_the_best_of_every_n_is_the_one_with_the_highest_score():
    scores = {(7, 0): 0.1, (7, 1): 0.3, (7, 2): 0.2, (7, 3): 0.2, (8, 0): -2, (8, 1): -1}

    assert best_places(scores, 2) == {(7, 0): (7, 1), (7, 1): (7, 2), (8, 0): (8, 1)}
    assert best_places(dict.fromkeys(scores), 1) == {place: place for place in scores}


def test_the_new_side_is_the_best_of_n_by_the_reward_model(config, folder, prompts_file):
    result = run(replace(config, best_of=5, batch_size=3, completions_per_prompt=2), folder)

    drawn = [row for rows in read_kept(folder.path / "new.jsonl").values() for row in rows]
    judge = load_judge(config.reward_model)
    prompts = [json.loads(line) for line in prompts_file.read_text().splitlines()]
    messages = {prompt["id"]: prompt["messages"] for prompt in prompts}
    scores = {
        (row.id, row.index): score
        for row in drawn
        for score in judge.scores(
            [Conversation(messages[row.id], row.completion, 0, row.truncated)]
        )
    }
    pairs = read_pairs(folder)
    assert [(pair.id, pair.index) for pair in pairs] == [
        (n, k) for n in range(1, 6) for k in (0, 1)
    ]
    assert len(scores) == 50
    for pair in pairs:
        group = [scores[pair.id, 5 * pair.index + k] for k in range(5)]
        assert pair.new_score == pytest.approx(max(group), abs=1e-4)
    assert (result["best_of"], result["kl"]) == (5, best_of_n_kl(5))
    assert result["score_best"] == pytest.approx(sum(pair.new_score for pair in pairs) / 10)
    assert result["score_first"] < result["score_best"]


def test_members_are_combined_as_the_run_says(config, ensemble_folder, folder, prompts_file):
    config = replace(config, reward_model=str(ensemble_folder), best_of=3)
    judge = load_judge(ensemble_folder)
    prompts = [json.loads(line) for line in prompts_file.read_text().splitlines()]
    messages = {prompt["id"]: prompt["messages"] for prompt in prompts}

    for ensemble in ("mean", "worst"):
        run(replace(config, ensemble=ensemble), folder)
        for pair in read_pairs(folder):
            said = Conversation(messages[pair.id], pair.new, 0, pair.new_truncated)
            (expected,) = judge.scores([said], ensemble=ensemble)
            assert pair.new_score == pytest.approx(expected, abs=1e-4)


def test_the_best_of_n_takes_n_answers_that_are_written_and_scored(config, folder, prompts_file):
    drawn = Opinion(dict.fromkeys([(1, n) for n in range(8)]), {}, seconds=2.0)

    first, resumed = (run(replace(config, best_of=4), folder) for _ in range(2))

    assert seconds_per_answer(0.5, drawn, 4) == 4 * (0.5 + 0.25)
    assert seconds_per_answer(0.5, drawn, 1) == 0.5
    assert first["seconds_per_answer"] > 0
    assert resumed["seconds_per_answer"] is None  # its answers were there already


# --- rewards of PPO -----------------------------------------------------------------------------
LONG = {"kind": "length", "target": 1000}  # n tokens score n / 1000


def drawn_by_prompt(folder):
    return {n: [row for row in sorted(here(folder, "new")) if row.id == n] for n in range(1, 6)}


@pytest.mark.parametrize(("weight", "best"), [(1.0, max), (-1.0, min)])
def test_a_rule_alone_picks_the_longest_or_the_shortest(config, folder, prompts_file, weight, best):
    rules = [{**LONG, "weight": weight}]

    result = run(replace(config, reward_model="", rewards=rules, best_of=4), folder)

    chosen = [best(rows, key=lambda row: row.n_tokens) for rows in drawn_by_prompt(folder).values()]
    assert [pair.new for pair in read_pairs(folder)] == [row.completion for row in chosen]
    assert result["length_new"] == sum(row.n_tokens for row in chosen) / 5
    assert result["by_source"]["length"]["new"] == pytest.approx(result["length_new"] / 1000)
    assert result["score_best"] > result["score_first"]


def test_several_sources_pick_by_their_weighted_sum(config, folder, prompts_file):
    rules = [{**LONG, "weight": 20.0}, {"kind": "regex", "pattern": "the", "weight": -0.5}]

    run(replace(config, reward_weight=0.3, score_clip=1.0, rewards=rules, best_of=4), folder)

    judge = load_judge(config.reward_model)
    messages = {line.id: line.messages for line in read_prompts(prompts_file)}

    def score(row):
        said = Conversation(messages[row.id], row.completion, row.n_tokens, row.truncated)
        liked = max(-1.0, min(1.0, judge.scores([said])[0]))
        return 0.3 * liked + 20 * row.n_tokens / 1000 - 0.5 * ("the" in row.completion)

    for pair in read_pairs(folder):
        scores = [score(row) for row in drawn_by_prompt(folder)[pair.id]]
        assert pair.new_score == pytest.approx(max(scores), abs=1e-4)


@pytest.mark.parametrize(("penalty", "n_cut"), [(0.0, 5), (1.0, 0)])
def test_what_is_cut_off_pays_as_in_ppo(config, folder, prompts_file, penalty, n_cut):
    settings = {"reward_model": "", "rewards": [LONG], "best_of": 8, "max_new_tokens": 8}

    run(replace(config, **settings, missing_eos_penalty=penalty), folder)

    # Each prompt has answers of both kinds, and what is cut off is as long as it may be.
    assert sum(pair.new_truncated for pair in read_pairs(folder)) == n_cut


class StopsIn(RunFolder):
    """A run's folder whose admin asks to stop when a phase begins."""

    def __init__(self, path, name):
        super().__init__(path)
        self.name = name

    def phase(self, name):
        super().phase(name)
        if name == self.name:
            self.interrupt()


@pytest.mark.parametrize(
    "phase", ["answers of the new policy", "answers of the old policy", "scoring"]
)
def test_a_stopped_evaluation_ends_as_if_it_had_not_been(
    config, folder, prompts_file, phase, tmp_path
):
    config = replace(config, best_of=2)
    straight = RunFolder(tmp_path / "straight")
    straight.path.mkdir()
    shutil.copy(prompts_file, straight.path)
    run(config, straight)

    with pytest.raises(Stopped):
        run(config, StopsIn(folder.path, phase))
    run(config, folder)

    assert read_pairs(folder) == read_pairs(straight)


def test_prompts_that_are_too_long_are_counted(config, folder, prompts_file):
    result = run(replace(config, max_prompt_tokens=14, reward_model=""), folder)

    assert (result["n_pairs"], result["left_out"]) == (3, {"too_long": 2})

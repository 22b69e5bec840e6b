"""Scoring open comparisons by the members of a reward model."""

import json
import shutil

import pytest
import torch

from rlhf.training.artifacts import RunError, Stopped, write_json
from rlhf.training.config import OrderQueueConfig
from rlhf.training.information import most_informative
from rlhf.training.models import RewardStatistics, ScalarHead, save_reward_head
from rlhf.training.order_queue import run
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import load_judge

QUESTION = [{"role": "user", "content": "Why is the lamp red?"}]
TEXTS = {
    1: "No.",
    2: "Thanks for asking! Try the lamp.",
    3: "Maybe. Turn the lamp and fix it and clean the old window and open the door.",
}


@pytest.fixture
def ensemble(reward_folder, tiny_reference, tmp_path):
    """Three members on one base that differ in their heads."""
    folder = tmp_path / "ensemble"
    shutil.copytree(reward_folder, folder)
    write_json(folder / "model.json", tiny_reference)
    for number in (10, 2):
        member = folder / "members" / str(number)
        shutil.copytree(reward_folder, member)
        torch.manual_seed(number)
        save_reward_head(ScalarHead(64), RewardStatistics(0.0, 1.0), member)
    return folder


@pytest.fixture
def ask(folder, ensemble):
    """Order comparisons that are given as lists of completions, and read the scores."""

    def ask(*comparisons, **settings):
        lines = [
            {
                "id": number,
                "messages": QUESTION,
                "completions": [{"id": c, "text": TEXTS[c], "truncated": False} for c in ids],
            }
            for number, ids in enumerate(comparisons, 1)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder.path / "comparisons.jsonl").write_text(text)
        result = run(OrderQueueConfig(str(ensemble), **settings), folder)
        scores = (folder.path / "artifact" / "scores.jsonl").read_text().splitlines()
        return result, [json.loads(line) for line in scores]

    return ask


def test_information_comes_from_every_members_scores(ask, ensemble):
    result, scores = ask([1, 2], [1, 2, 3], closeness=0.1)

    said = [Conversation(QUESTION, text, 0, truncated=False) for text in TEXTS.values()]
    by_member = load_judge(ensemble).raw_scores(said, lambda: False).T.tolist()
    of_pair = most_informative([row[:2] for row in by_member], closeness=0.1)
    of_three = most_informative(by_member, closeness=0.1)
    assert of_pair.disagreement > 0
    assert [(row["id"], *list(row.values())[1:]) for row in scores] == [
        (1, pytest.approx(of_pair.total), pytest.approx(of_pair.disagreement)),
        (2, pytest.approx(of_three.total), pytest.approx(of_three.disagreement)),
    ]
    assert (result["n_scored"], result["n_completions"], result["members"]) == (2, 3, 3)
    assert result["savings"] == {"layers": 2, "trunk_layers": 0, "merged": True, "notes": []}


def test_a_comparison_that_is_too_long_stays_unscored(ask):
    result, scores = ask([1, 3], [1, 2], max_tokens=28)

    assert [row["id"] for row in scores] == [2]
    assert result["left_out"] == {"too_long": 1}


def test_nothing_short_enough_is_said_before_anything_is_scored(ask):
    with pytest.raises(RunError, match="all 2 open comparisons are longer than max_tokens=3"):
        ask([1, 2], [1, 3], max_tokens=3)


def test_scores_that_are_no_numbers_are_refused(ask, ensemble):
    head = ScalarHead(64)
    torch.nn.init.constant_(head.linear.weight, torch.nan)
    save_reward_head(head, RewardStatistics(0.0, 1.0), ensemble / "members" / "2")

    with pytest.raises(RunError, match="the reward model's scores are not finite"):
        ask([1, 2])


def test_a_stop_is_heard(ask, folder):
    folder.interrupt()

    with pytest.raises(Stopped):
        ask([1, 2])

import errno
import os

import pytest
import torch
from torch.testing import assert_close

from rlhf.training import trunk
from rlhf.training.artifacts import RunError, Stopped
from rlhf.training.config import RewardModelConfig
from rlhf.training.forward import backbone_of
from rlhf.training.models import load_policy
from rlhf.training.reward_data import Group
from rlhf.training.reward_forward import Row, Scorer, collate_rows, shares_prompts
from rlhf.training.reward_model import make_classifier
from rlhf.training.savings import (
    IN_WINDOWS,
    RUN_ALONE,
    SCORES_DIFFER,
    Savings,
    prompts_note,
    trunk_note,
)
from rlhf.training.trunk import trunk_states

CPU = torch.device("cpu")
GROUPS = [
    Group([1, 9, 8], [[7, 2], [6, 6, 6, 2], [7, 7]], [], 0),
    Group([1, 9, 8, 8, 4], [[2], []], [], 1),
    Group([1], [[5, 2]], [], 2),
]


def never():
    return False


@pytest.fixture
def classifier(tiny_reference):
    """A reward model with random weights and its adapter on the top layer, or on all."""

    def classifier(layers=1):
        torch.manual_seed(0)
        policy, _ = load_policy(tiny_reference)
        model = make_classifier(policy, RewardModelConfig({}, lora_rank=4, adapter_layers=layers))
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.2)
        return model.eval()

    return classifier


def alone(model, group):
    """Of each completion the score of the whole conversation by itself."""
    backbone, head = backbone_of(model), model.get_base_model().score
    conversations = [[*group.prompt, *completion] for completion in group.completions]
    with torch.no_grad():
        return [
            head(backbone(torch.tensor([ids])).last_hidden_state[0, -1]).item()
            for ids in conversations
        ]


def test_completions_see_their_prompt_and_themselves():
    batch = collate_rows([Row([5, 6], [[7, 2], [8]])], CPU)

    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, 2, 8]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 2]]
    assert batch.inputs["attention_mask"][0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert (batch.row.tolist(), batch.end.tolist()) == ([0, 0], [3, 4])


def test_single_completions_need_no_mask():
    batch = collate_rows([Row([5, 6], [[7, 2]]), Row([5], [[]])], CPU)

    assert list(batch.inputs) == ["input_ids"]
    assert (batch.row.tolist(), batch.end.tolist()) == ([0, 1], [3, 0])


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("layers", [1, None])
def test_scores_are_those_of_the_conversations_alone(classifier, tmp_path, share_prompts, layers):
    model = classifier(layers)
    scorer = Scorer(model, GROUPS, share_prompts=share_prompts, reuse_trunk=True)
    scorer.keep_trunk(tmp_path / "trunk", never)

    scores = scorer.score_groups([0, 1, 2], never)

    assert len(scorer.rows) == (3 if share_prompts else 6)
    assert (scorer.states is not None) == (layers == 1)
    assert_close(scores, [alone(model, group) for group in GROUPS], atol=1e-5, rtol=0)


@pytest.mark.parametrize("share_prompts", [True, False])
def test_gradients_are_those_of_the_conversations_alone(classifier, tmp_path, share_prompts):
    gradients = []
    for lean in (True, False):
        model = classifier(1)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name or ".score.modules_to_save" in name)
        scorer = Scorer(model, GROUPS, share_prompts=lean and share_prompts, reuse_trunk=lean)
        scorer.keep_trunk(tmp_path / f"trunk-{lean}", never)
        scorer.scores(range(len(scorer.rows))).square().sum().backward()
        learning = [p.grad for p in model.parameters() if p.requires_grad]
        gradients.append(torch.cat([gradient.flatten() for gradient in learning]))

    assert gradients[0].abs().max() > 0.01
    assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_a_model_that_attends_in_windows_gets_a_row_for_each_completion(classifier):
    model = classifier()
    assert shares_prompts(model)
    backbone_of(model).config.sliding_window = 4

    scorer = Scorer(model, GROUPS, share_prompts=True, reuse_trunk=True)

    assert len(scorer.rows) == 6
    (note,) = scorer.savings(RewardModelConfig({}, adapter_layers=1)).notes
    assert note.endswith(f": {IN_WINDOWS}.")


def test_what_was_not_asked_for_needs_no_reason(classifier):
    model = classifier()
    backbone_of(model).config.sliding_window = 4
    config = RewardModelConfig({}, adapter_layers=1, share_prompts=False, reuse_trunk=False)

    scorer = Scorer(model, GROUPS, share_prompts=False, reuse_trunk=False)

    assert scorer.savings(config) == Savings(2, 0, True, [], False, 6, 6)


def test_layers_that_cannot_be_run_alone_are_said_to_be_so(classifier):
    model = classifier()
    backbone_of(model).config.layer_types = ["sliding_attention", "full_attention"]

    scorer = Scorer(model, GROUPS, share_prompts=True, reuse_trunk=True)

    assert scorer.savings(RewardModelConfig({}, adapter_layers=1)).notes == [
        trunk_note(2, 1, 2, RUN_ALONE)
    ]


def test_rounding_is_no_reason_for_more_rows(classifier):
    model = classifier()

    def rounded(module, inputs, states):  # otherwise in rows of another length
        return states + 1e-4 * states.norm(dim=-1, keepdim=True) / states.shape[1]

    backbone_of(model).norm.register_forward_hook(rounded)

    assert shares_prompts(model)


def test_a_model_that_does_not_heed_positions_gets_a_row_for_each_completion(classifier):
    model = classifier()
    backbone = backbone_of(model)
    run = backbone.forward
    backbone.forward = lambda *inputs, position_ids=None, **more: run(*inputs, **more)

    assert not shares_prompts(model)
    scorer = Scorer(model, GROUPS, share_prompts=True, reuse_trunk=False)
    assert scorer.savings(RewardModelConfig({})).notes == [prompts_note(SCORES_DIFFER)]


def test_the_lower_layers_alone_are_run_for_the_trunks_states(classifier):
    model = classifier()
    backbone = backbone_of(model)
    batch = collate_rows([Row([1, 9, 8], [[7, 2]])], CPU)
    with torch.no_grad():
        expected = backbone(**batch.inputs, output_hidden_states=True).hidden_states[-2]
    ran = []
    backbone.layers[-1].register_forward_hook(lambda *_: ran.append(1))

    states = trunk_states(backbone, 1, batch.inputs)

    assert_close(states, expected)
    assert ran == []


def test_large_states_are_kept_in_a_file_that_leaves_nothing_behind(
    classifier, tmp_path, monkeypatch
):
    scorer = Scorer(classifier(), GROUPS, share_prompts=True, reuse_trunk=True)
    scorer.keep_trunk(tmp_path / "memory", never)
    in_memory = scorer.states.states.clone()
    scorer.states = None
    monkeypatch.setattr(trunk, "MOST_IN_MEMORY", 0)

    scorer.keep_trunk(tmp_path / "file", never)

    assert scorer.states.is_mapped
    assert torch.equal(scorer.states.states, in_memory)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_for_the_states_is_said(classifier, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trunk, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    scorer = Scorer(classifier(), GROUPS, share_prompts=True, reuse_trunk=True)

    with pytest.raises(RunError, match="GB of disk space are needed"):
        scorer.keep_trunk(tmp_path / "file", never)

    assert list(tmp_path.iterdir()) == []


def test_scores_are_right_before_the_trunk_is_kept(classifier):
    model = classifier()
    scorer = Scorer(model, GROUPS, share_prompts=True, reuse_trunk=True)

    assert_close(scorer.score_groups([2], never), [alone(model, GROUPS[2])], atol=1e-5, rtol=0)


def test_a_stop_leaves_no_file_of_states(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(trunk, "MOST_IN_MEMORY", 0)
    scorer = Scorer(classifier(), GROUPS, share_prompts=True, reuse_trunk=True)

    with pytest.raises(Stopped):
        scorer.keep_trunk(tmp_path / "file", lambda: True)

    assert list(tmp_path.iterdir()) == []


def test_it_stops_between_two_batches(classifier, tmp_path):
    scorer = Scorer(classifier(), GROUPS, share_prompts=True, reuse_trunk=True)

    with pytest.raises(Stopped):
        scorer.keep_trunk(tmp_path / "trunk", lambda: True)
    with pytest.raises(Stopped):
        scorer.score_groups([0], lambda: True)


def test_micro_batches_hold_so_many_tokens_or_one_group(classifier):
    scorer = Scorer(classifier(), GROUPS, share_prompts=True, reuse_trunk=False)

    # Rows of 11, 6 and 3 tokens.
    assert list(scorer.micro_batches([0, 1, 2], 12)) == [[2, 1], [0]]
    assert list(scorer.micro_batches([0, 1, 2], 1)) == [[2], [1], [0]]

import json
import math
import random
from collections import defaultdict

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from trl import RewardTrainer

from rlhf.training.artifacts import DIVERGED, RunError, RunFolder, Stopped, read_json
from rlhf.training.config import RewardModelConfig
from rlhf.training.data import Pair, read_pairs
from rlhf.training.forward import backbone_of, collate, score
from rlhf.training.models import encode, encode_completion, load_policy, load_reward_adapter
from rlhf.training.reward_model import (
    HeldOut,
    SimilarLengths,
    SoftCollator,
    encode_pairs,
    make_classifier,
    make_trainer,
    run,
    score_conversations,
    score_statistics,
    share,
    soft_loss,
    unused_ending,
)
from rlhf.training.tiny import write_answer, write_question

PROMPT = [{"role": "user", "content": "Why?"}]
CPU = torch.device("cpu")


def make_pair(chosen="No.", rejected="Try the cup.", p_chosen=1.0, split="train", **truncated):
    return Pair(
        PROMPT, chosen, rejected, p_chosen, split,
        truncated.get("chosen_truncated", False), truncated.get("rejected_truncated", False),
    )  # fmt: skip


def write_inputs(path, n, seed=0):
    """n judged pairs of people who like short answers, one in ten undecided; a fifth held out."""
    rng = random.Random(seed)
    rows, prompts = [], []
    for number in range(n):
        prompt = [{"role": "user", "content": write_question(rng)}]
        shorter, longer = sorted((write_answer(rng), write_answer(rng)), key=len)
        rows.append({
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": shorter}],
            "rejected": [{"role": "assistant", "content": longer}],
            "p_chosen": 0.5 if number % 10 == 1 else 1.0,
            "split": "test" if number % 5 == 0 else "train",
        })  # fmt: skip
        prompts.append({"id": number, "messages": prompt})
    (path / "data").mkdir()
    (path / "data" / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))


def events(folder, kind):
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


@pytest.fixture(scope="module")
def policy(tiny_reference):
    return load_policy(tiny_reference)


@pytest.fixture
def setup(tiny_reference, folder):
    """A function that makes a trainer of fresh weights for some pairs."""

    def setup(pairs, **settings):
        config = RewardModelConfig(tiny_reference, lora_rank=4, **settings)
        policy, tokenizer = load_policy(tiny_reference)
        train, test, _ = encode_pairs(tokenizer, pairs, config.max_tokens)
        tokenizer.pad_token_id = unused_ending([*train, *test], [])
        model = make_classifier(policy, config, tokenizer.pad_token_id)
        return make_trainer(model, tokenizer, train, HeldOut(test, 4, folder), config)

    return setup


@pytest.fixture(scope="module")
def trained(tiny_reference, tmp_path_factory):
    """The folder and the result of a whole run on 150 pairs."""
    folder = RunFolder(tmp_path_factory.mktemp("trained"))
    write_inputs(folder.path, 150)
    config = RewardModelConfig(tiny_reference, learning_rate=1e-3, max_new_tokens=30)
    return folder, run(config, folder)


# --- data -------------------------------------------------------------------------------------
def test_a_pair_is_encoded_as_ppo_scores_it(policy):
    _, tokenizer = policy
    prompt = encode(tokenizer, PROMPT)

    ((pair,), _, _) = encode_pairs(tokenizer, [make_pair(rejected_truncated=True)], 100)

    assert pair.chosen_ids == [*prompt, *encode_completion(tokenizer, "No.")]
    assert pair.rejected_ids == [*prompt, *encode_completion(tokenizer, "Try the cup.")[:-1]]
    assert (pair.p_chosen, pair.length, pair.longer) == (1.0, len(prompt) + 4, -1)


def test_chosen_is_what_most_preferred(policy):
    _, tokenizer = policy

    (pair, mirrored), _, _ = encode_pairs(
        tokenizer, [make_pair("No.", "Yes.", 0.25), make_pair("Yes.", "No.", 0.75)], 100
    )

    assert pair == mirrored


def test_pairs_that_are_too_long_are_left_out_and_counted(policy):
    _, tokenizer = policy
    fits, long = make_pair(), make_pair(rejected="Try the cup. " * 20)

    train, test, left_out = encode_pairs(tokenizer, [fits, long, fits._replace(split="test")], 40)

    assert (len(train), len(test), left_out) == (1, 1, {"too_long": 1})


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([], "the export holds no judged comparison"),
        ([make_pair(split="test")] * 3, "of the export's 3 pairs, all are held out"),
        (
            [make_pair(rejected="No. " * 90)] * 2,
            "all 2 pairs to learn from are longer than max_tok",
        ),
    ],
)
def test_without_pairs_to_learn_from_the_reason_is_said(policy, pairs, sentence):
    with pytest.raises(RunError, match=sentence):
        encode_pairs(policy[1], pairs, 50)


def test_the_padding_is_a_token_with_which_no_conversation_ends(policy):
    (pair,), _, _ = encode_pairs(policy[1], [make_pair()], 100)
    assert pair.chosen_ids[-1] == pair.rejected_ids[-1] == 2  # the end token

    assert unused_ending([pair], []) == 0
    assert unused_ending([pair], [[5, 0], [5, 1]]) == 3


def test_the_collator_keeps_soft_labels_beside_chosen_and_rejected():
    rows = [
        {"chosen_ids": [5, 6, 2], "rejected_ids": [5, 2], "p_chosen": 1.0},
        {"chosen_ids": [7, 2], "rejected_ids": [7, 8], "p_chosen": 0.5},
    ]

    batch = SoftCollator(pad_token_id=0)(rows)

    assert batch["input_ids"].tolist() == [[5, 6, 2], [7, 2, 0], [5, 2, 0], [7, 8, 0]]
    assert batch["p_chosen"].tolist() == [1.0, 0.5]


def test_every_epoch_has_all_rows_in_an_order_of_its_own():
    sampler = SimilarLengths([5, 1, 4, 2, 3, 9, 8, 7, 6, 0], batch_size=4, seed=0)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))

    assert [sorted(order) for order in orders] == [list(range(10))] * 3
    assert orders[0] == orders[2] != orders[1]


def test_a_batch_has_rows_of_similar_length():
    lengths = list(range(32))

    order = list(SimilarLengths(lengths, batch_size=4, seed=0))

    batches = [sorted(order[start : start + 4]) for start in range(0, 32, 4)]
    assert sorted(batches) == [list(range(start, start + 4)) for start in range(0, 32, 4)]
    assert batches != sorted(batches)


# --- loss and score ---------------------------------------------------------------------------
def test_the_soft_loss_by_hand():
    margins, p_chosen = torch.tensor([0.0, math.log(3)]), torch.tensor([0.5, 0.75])

    # sigmoid(log 3) = 3/4: the cross-entropy of 3/4 with itself
    expected = (math.log(2) - (0.75 * math.log(0.75) + 0.25 * math.log(0.25))) / 2
    assert_close(soft_loss(margins, p_chosen).item(), expected)


def test_the_soft_loss_is_that_of_so_many_independent_votes():
    margin = torch.tensor([0.3])

    votes = [soft_loss(margin, torch.tensor([vote])) for vote in (1.0, 1.0, 1.0, 0.0)]

    assert_close(soft_loss(margin, torch.tensor([0.75])), torch.stack(votes).mean())


def test_sure_labels_and_no_labels_are_plain_trl(setup):
    trainer = setup([make_pair(), make_pair("Yes.", "Open the big door.")])
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    plain = {name: tensor for name, tensor in batch.items() if name != "p_chosen"}

    expected = RewardTrainer.compute_loss(trainer, trainer.model, dict(plain))

    assert_close(trainer.compute_loss(trainer.model, dict(batch)), expected)
    assert_close(trainer.compute_loss(trainer.model, dict(plain)), expected)


def test_a_tie_pulls_the_scores_together_and_counts_for_no_accuracy(setup):
    trainer = setup([make_pair(p_chosen=0.5)])
    batch = trainer.data_collator([trainer.train_dataset[0]])

    loss = trainer.compute_loss(trainer.model, batch)

    assert loss.item() > math.log(2)  # the least it could be, at equal scores
    assert trainer._metrics["train"]["accuracy"] == []


def test_scores_are_read_at_the_end_token_whatever_the_padding(setup):
    trainer = setup([make_pair(), make_pair("Yes.", "Open the big door and the old box.")])
    model, head = trainer.model.eval(), trainer.model.base_model.model.score
    conversations = [[1, 9, 8, 2], [1, 2], [1, 9, 8, 7, 9, 9, 4, 2]]

    scores = score_conversations(model, conversations, 3, trainer.folder)

    with torch.no_grad():
        backbone = model.get_base_model().model
        alone = [head(backbone(torch.tensor([ids]))[0][0, -1]).item() for ids in conversations]
    assert_close(scores, alone, atol=1e-5, rtol=0)


def test_the_classifier_has_the_policys_own_weights_and_a_head_of_the_right_scale(policy):
    model, _ = load_policy({"base": policy[0].name_or_path, "adapters": []})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    classifier = make_classifier(model, RewardModelConfig({}), 0)

    base = classifier.get_base_model()
    embeddings = base.model.embed_tokens.weight
    assert embeddings.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert torch.equal(embeddings, before["model.embed_tokens.weight"])
    assert 0.8 < base.score.weight.std() * math.sqrt(65) < 1.2
    trainable = {
        name.split(".")[-3] for name, p in classifier.named_parameters() if p.requires_grad
    }
    assert trainable == {"lora_A", "lora_B", "modules_to_save"}


def test_the_micro_batch_size_does_not_change_what_is_learnt(setup):
    pairs = [make_pair(p_chosen=p) for p in (1.0, 0.75, 0.5, 1.0)]
    weights = []
    for size in (1, 2, 4):
        trainer = setup(pairs, batch_size=4, micro_batch_size=size, epochs=2)
        trainer.train()
        weights.append(
            torch.cat([p.flatten() for p in trainer.model.parameters() if p.requires_grad])
        )

    assert_close(weights[0], weights[2], atol=1e-5, rtol=0)
    assert_close(weights[1], weights[2], atol=1e-5, rtol=0)


def test_a_loss_that_is_not_finite_ends_the_run(setup):
    trainer = setup([make_pair()])
    with torch.no_grad():
        trainer.model.base_model.model.score.modules_to_save["default"].weight.fill_(math.nan)

    with pytest.raises(
        RunError, match=r"the loss became nan at step 1: lower the learning"
    ) as caught:
        trainer.train()

    assert caught.value.exit_code == DIVERGED


def test_scores_that_are_not_finite_end_the_run():
    with pytest.raises(RunError, match="the trained scores are not finite"):
        score_statistics([0.5, math.nan])


# --- held-out pairs ---------------------------------------------------------------------------
def test_a_share_comes_with_its_wilson_interval():
    assert share(8, 10) == (0.8, pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert share(0, 0) == (None, None, None)


def test_accuracies_are_over_decided_pairs(setup, folder):
    pairs = [
        make_pair("No.", "Open the big door.", split="test"),
        make_pair("Open the big door.", "No.", split="test"),
        make_pair("Open the big door.", "No.", split="test"),
        make_pair("Yes.", "No.", split="test"),  # of equal length
        make_pair("Open the big door.", "No.", 0.5, split="test"),
    ]
    trainer = setup([make_pair(), *pairs])
    (held_out,) = (c.held_out for c in trainer.callback_handler.callbacks if hasattr(c, "held_out"))

    result = held_out.evaluate(trainer.model, 7)

    (event,) = events(folder, "metrics")
    assert (result["n_test"], result["longer_accuracy"]) == (4, 2.5 / 4)
    assert result["accuracy"] in (0.25, 0.5, 0.75)  # of 1 and 2, 3 only one side can be right
    assert event["step"] == 7
    assert event["values"]["eval_accuracy"] == result["accuracy"]


def test_without_held_out_pairs_the_accuracy_is_unknown(setup, folder):
    trainer = setup([make_pair()])

    result = HeldOut([], 4, folder).evaluate(trainer.model, 1)

    assert result == dict.fromkeys(
        ["loss", "accuracy", "accuracy_low", "accuracy_high", "longer_accuracy", "longer_low",
         "longer_high"]
    ) | {"n_test": 0}  # fmt: skip


# --- the whole run ----------------------------------------------------------------------------
def test_a_reward_model_learns_that_short_answers_are_liked(trained):
    _, result = trained

    assert (result["n_train"], result["n_test"], result["left_out"]) == (120, 30, {"too_long": 0})
    assert result["accuracy"] >= 0.75
    assert result["accuracy_low"] > 0.5
    assert result["longer_accuracy"] < 0.2


def test_a_run_reports_progress_and_metrics_of_every_step(trained):
    folder, _ = trained

    per_step = defaultdict(set)
    for event in events(folder, "metrics"):
        per_step[event["step"]] |= event["values"].keys()
    training = {"loss", "accuracy", "margin", "learning_rate", "grad_norm"}
    held_out = {"eval_loss", "eval_accuracy", "eval_margin"}
    assert training | held_out == per_step[15] == per_step[30]
    assert per_step[14] == training
    assert [e["step"] for e in events(folder, "progress") if e["total"] == 30] == [*range(1, 31)]
    assert [e["step"] for e in events(folder, "checkpoint")] == [30]


def test_the_artifact_is_an_adapter_for_the_language_model_with_a_head_beside(trained):
    folder, result = trained
    artifact = folder.path / "artifact"

    assert sorted(path.name for path in artifact.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "head.safetensors", "model.json",
        "reward.json",
    ]  # fmt: skip
    assert all(".lora_" in name for name in load_file(artifact / "adapter_model.safetensors"))
    assert read_json(artifact / "reward.json") == {
        "mean": result["score_mean"],
        "std": result["score_std"],
    }


def test_on_the_language_model_the_artifact_scores_as_the_trained_classifier(
    trained, tiny_reference
):
    folder, result = trained
    base, tokenizer = load_policy(tiny_reference)
    model = PeftModel.from_pretrained(base, folder.path / "artifact", adapter_name="reward")
    head, _ = load_reward_adapter(model, folder.path / "artifact")
    kept = json.loads((folder.path / "policy_samples.jsonl").read_text().splitlines()[0])[1]
    lines = [json.loads(line) for line in (folder.path / "prompts.jsonl").read_text().splitlines()]
    messages = {line["id"]: line["messages"] for line in lines}

    batch = collate(
        [encode(tokenizer, messages[row[0]]) for row in kept],
        [encode_completion(tokenizer, row[2], truncated=row[4]) for row in kept],
        CPU,
    )
    with torch.no_grad():
        scores = score(backbone_of(model), head, batch)

    assert len(scores) == 32
    assert_close(scores.mean().item(), result["score_mean"], atol=1e-5, rtol=0)
    assert_close(scores.std(correction=0).item(), result["score_std"], atol=1e-5, rtol=0)


class StopsAt(RunFolder):
    """A run's folder whose admin asks to stop after the training step `step`."""

    def __init__(self, path, step):
        super().__init__(path)
        self.step = step

    def progress(self, step, total, eta_seconds=None):
        super().progress(step, total, eta_seconds)
        if total > 1 and step == self.step:
            self.interrupt()


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tiny_reference, tmp_path):
    config = RewardModelConfig(tiny_reference, epochs=2, lora_rank=4, max_new_tokens=20)
    weights = []
    for name in ("straight", "stopped"):
        path = tmp_path / name
        path.mkdir()
        write_inputs(path, 40)
        if name == "stopped":
            with pytest.raises(Stopped):
                run(config, StopsAt(path, step=6))
            assert [step for step, _ in RunFolder(path).checkpoints()] == [6]
        run(config, RunFolder(path))
        weights.append(load_file(path / "artifact" / "adapter_model.safetensors"))

    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_stopping_within_a_step_saves_the_step_before(setup, folder):
    trainer = setup([make_pair()] * 8, batch_size=4, micro_batch_size=1)
    reporter = next(c for c in trainer.callback_handler.callbacks if hasattr(c, "held_out"))
    trainer.state.global_step = 3
    folder.interrupt()

    with pytest.raises(Stopped):
        reporter.on_substep_end(trainer.args, trainer.state, trainer.control)


def test_a_run_on_an_empty_export_says_so(tiny_reference, folder):
    (folder.path / "data").mkdir()
    (folder.path / "data" / "data.jsonl").touch()

    with pytest.raises(RunError, match="the export holds no judged comparison"):
        run(RewardModelConfig(tiny_reference), folder)


def test_inputs_as_an_export_writes_them_are_read(tmp_path):
    write_inputs(tmp_path, 10)

    pairs = read_pairs(tmp_path / "data" / "data.jsonl")

    assert [pair.split for pair in pairs].count("test") == 2

"""DPO and KTO, on the tiny model."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from rlhf.training import dpo, kto
from rlhf.training.artifacts import RunError, RunFolder, Stopped
from rlhf.training.config import DPOConfig, KTOConfig
from rlhf.training.data import Pair
from rlhf.training.forward import (
    collate,
    completion_logprobs,
    token_logprobs,
    vocabulary_head,
)
from rlhf.training.models import load_policy
from rlhf.training.parameters import make_trainable
from rlhf.training.preference import (
    Answers,
    Row,
    by_vote,
    encode_rows,
    n_tokens,
    next_token_states,
    steps_of_epoch,
)
from rlhf.training.virtual_tokens import prefix_of

KINDS = [(dpo, DPOConfig), (kto, KTOConfig)]
GOOD, BAD = "Please do.", "It is a long long red cup on a long red table."


@pytest.fixture
def make_config(tiny_reference):
    def make(kind, **settings):
        small = {"min_pairs": 2, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 5e-3,
                 "lora_rank": 4, "samples": 2, "max_new_tokens": 6, "warmup_steps": 0.0}  # fmt: skip
        return kind(model=tiny_reference, **small | settings)

    return make


@pytest.fixture
def tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder)


def pair(number=0, **fields):
    prompt = [{"role": "user", "content": f"What is a red cup {number}?"}]
    return Pair(prompt, GOOD, BAD, 1.0, "train", False, False)._replace(**fields)


def write_votes(folder, n=8, p_chosen=1.0):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Why is the {noun} red?"}],
            "chosen": [{"role": "assistant", "content": GOOD}],
            "rejected": [{"role": "assistant", "content": BAD}],
            "p_chosen": p_chosen,
            "split": "test" if number % 4 == 3 else "train",
        }
        for number, noun in zip(range(n), ("cup", "lamp", "door", "tea") * n, strict=False)
    ]
    (folder.path / "data").mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder.path / "data" / "data.jsonl").write_text(text)


def events(folder, kind):
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def policy_of(folder):
    return load_file(folder.path / "artifact" / "adapter_model.safetensors")


# --- pairs --------------------------------------------------------------------------------------
def test_what_most_preferred_stands_first_and_ties_and_long_pairs_are_left_out(
    make_config, tokenizer
):
    pairs = [pair(1), pair(2, p_chosen=0.25), pair(3, p_chosen=0.5), pair(4, split="test"),
             pair(5, chosen=" ".join([BAD] * 20)), pair(6, weight=0.0)]  # fmt: skip

    rows = encode_rows(tokenizer, pairs, make_config(DPOConfig, max_tokens=60), "majority")

    first, turned = rows.train
    assert (turned.chosen, turned.rejected) == (first.rejected, first.chosen)
    assert first.chosen[-1] == tokenizer.eos_token_id
    assert (len(rows.test), rows.prompts) == (1, [pairs[3].prompt])
    assert rows.left_out == {"too_long": 1, "ties": 1, "of_no_weight": 1}


def test_an_answer_that_was_cut_off_does_not_learn_to_end(make_config, tokenizer):
    pairs = [pair(1, rejected_truncated=True), pair(2)]

    cut, whole = encode_rows(tokenizer, pairs, make_config(DPOConfig), "majority").train

    assert whole.rejected == [*cut.rejected, tokenizer.eos_token_id]


def test_each_vote_is_a_row_of_its_own_and_ties_are_none():
    row, turned = Row([1], [2], [3]), Row([1], [3], [2])

    assert by_vote(row, pair(p_chosen=0.75, n_judgments=4)) == [row, row, row, turned]
    # Of five votes three for, one against, one tie: p = 3.5 / 5.
    assert by_vote(row, pair(p_chosen=0.7, tie_share=0.2, n_judgments=5)).count(row) == 3
    # The rejected one was preferred, and stands first in the row.
    assert by_vote(row, pair(p_chosen=0.0, n_judgments=2)) == [row, row]


def test_answers_of_kto_are_good_or_bad_and_their_kl_is_measured_on_another_ones(make_config):
    rows = [Row([1], [2], [3]), Row([4], [5], [6])]
    config = make_config(KTOConfig, batch_size=3, micro_batch_size=3)

    data = dataset = kto.dataset_of(rows, config).to_dict()

    # Of four answers the last would be alone in its micro-batch.
    answers = [ids for (ids,) in dataset["completion_ids"]]
    assert len(answers) == 3
    assert data["KL_completion_ids"] == [[answers[-1]], [answers[0]], [answers[1]]]
    assert all((ids in (2, 5)) == label for ids, label in zip(answers, data["label"], strict=True))


def test_tokens_of_a_row_are_those_of_both_conversations():
    assert n_tokens(Row(prompt=[1, 2, 3], chosen=[4], rejected=[5, 6])) == 2 * 3 + 1 + 2


def test_steps_of_an_epoch_count_micro_batches_as_the_trainer_does(make_config):
    config = make_config(DPOConfig, batch_size=8, micro_batch_size=4)

    assert [steps_of_epoch(n, config) for n in (8, 9, 12, 16, 17)] == [1, 2, 2, 2, 3]


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_answers_are_read_as_they_were_drawn(make_config, tokenizer, folder, method):
    """Virtual tokens stand before the prompt, here too."""
    config = make_config(DPOConfig, method=method, samples=3)
    model = make_trainable(load_policy(config.model)[0], config)
    answers = Answers(tokenizer, [pair(1).prompt, pair(2).prompt], {2}, config, folder)
    written = answers.write(model, 1)

    batch = collate(answers.ids, [each.ids for each in written], model.device)
    states = next_token_states(model, batch, prefix_of(model))

    found, _ = token_logprobs(states, vocabulary_head(model), batch.targets, config.temperature)
    assert len(written) == 4  # to each prompt as many
    drawn = [logprob for each in written for logprob in each.logprobs]
    assert found.tolist() == pytest.approx(drawn, abs=1e-3)


def test_more_answers_are_drawn_than_are_shown(make_config, tokenizer, folder):
    config = make_config(DPOConfig, samples=40)
    model, _ = load_policy(config.model)
    answers = Answers(tokenizer, [pair(n).prompt for n in range(20)], {2}, config, folder)

    shown, written = answers.show(model, 0), answers.write(model, 1)

    assert (len(shown), len(written)) == (16, 40)
    assert [each.ids for each in shown] == [each.ids for each in written[:16]]
    assert len(events(folder, "sample")) == 2 * 16


# --- runs ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_a_run_learns_the_votes_and_says_how_far_it_went(make_config, folder, module, kind):
    write_votes(folder)

    result = module.run(make_config(kind, epochs=3), folder)

    first, *_ = events(folder, "metrics")
    assert first["values"]["margin"] == pytest.approx(0.0, abs=1e-3)  # it starts at the reference
    assert result["n_train"] == 6
    assert (result["n_test"], result["accuracy"]) == (2, 1.0)
    assert result["tokens"]["learned"] % 3 == 0  # of three epochs
    assert 4 <= result["tokens"]["written"] <= 2 * 2 * 6  # two answers before and two after
    assert result["margin"] > 1
    assert result["kl"] > 0
    assert result["kl_se"] is None  # all held-out pairs are of one prompt
    assert (result["n_samples"], result["note"]) == (2, "")
    assert {event["step"] for event in events(folder, "sample")} == {0, result["steps"]}
    assert any(t.any() for name, t in policy_of(folder).items() if "lora_B" in name)


@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_a_stopped_run_goes_on_to_the_same_weights(
    make_config, folder, tmp_path_factory, module, kind
):
    config = make_config(kind, epochs=2)
    whole = RunFolder(tmp_path_factory.mktemp("whole"))
    for each in (whole, folder):
        write_votes(each)
    module.run(config, whole)
    say = folder.progress
    folder.progress = lambda step, *rest: (say(step, *rest), step == 2 and folder.interrupt())

    with pytest.raises(Stopped):
        module.run(config, folder)
    assert [step for step, _ in folder.checkpoints()] == [2]
    module.run(config, RunFolder(folder.path))

    shutil.rmtree(folder.path / "artifact")  # as if it had been killed while it measured the result
    module.run(config, RunFolder(folder.path))

    ours, theirs = policy_of(folder), policy_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("method", ["lora", "prefix", "full"])
def test_the_reference_is_the_policy_that_learning_starts_from(make_config, folder, method):
    """Also where what is added starts at random: a prefix."""
    config = make_config(DPOConfig, method=method)
    base, tokenizer = load_policy(config.model)
    rows = [Row([5, 6, 7], [8, 9], [10, 11, 12]), Row([5], [9, 9, 9], [10])]
    batch = collate([row.prompt for row in rows], [row.chosen for row in rows], base.device)
    with torch.no_grad():
        logprobs = completion_logprobs(base.base_model, base.get_output_embeddings(), batch, 1.0)
    expected = [part.sum().item() for part in logprobs.split([2, 3])]

    trainer = dpo.make_trainer(config, folder, make_trainable(base, config), tokenizer, rows)

    found = trainer.train_dataset["ref_chosen_logps"]
    assert list(found) == pytest.approx(expected, abs=1e-3)
    assert list(getattr(trainer.model, "peft_config", {})) == (
        ["default"] if method != "full" else []
    )


def test_full_fine_tuning_makes_a_whole_model(make_config, folder):
    write_votes(folder)

    result = dpo.run(make_config(DPOConfig, method="full", learning_rate=1e-3), folder)

    assert (result["train"], result["accuracy"]) == ("full", 1.0)
    assert result["kl"] > 0  # against the model as it was, which is loaded again
    load_policy({"base": str(folder.path / "artifact"), "adapters": []})


def test_a_learnt_prefix_starts_some_way_from_the_policy_without_it(make_config, folder):
    write_votes(folder)
    config = make_config(DPOConfig, method="prefix", virtual_tokens=16, learning_rate=1e-9)

    result = dpo.run(config, folder)

    assert result["kl"] > 1e-3
    assert result["margin"] != pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_ties_alone_teach_nothing(make_config, folder, module, kind):
    write_votes(folder, p_chosen=0.5)

    with pytest.raises(RunError, match="all 6 pairs to learn from are ties"):
        module.run(make_config(kind), folder)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_sentence(make_config, folder, monkeypatch):
    write_votes(folder)
    nothing = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(dpo.DPOTrainer, "_compute_loss", lambda *_: nothing)

    with pytest.raises(RunError, match="the loss became nan at step 1: lower the learning rate"):
        dpo.run(make_config(DPOConfig), folder)

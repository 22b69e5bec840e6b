"""Supervised and domain tuning of the tiny model."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from rlhf.training import reward_trainer, supervised
from rlhf.training.artifacts import RunError, RunFolder, Stopped, write_json
from rlhf.training.forward import backbone_of, layers_of
from rlhf.training.models import load_policy
from rlhf.training.parameters import callbacks
from rlhf.training.supervised import evaluation_steps, plan, run, start
from rlhf.training.supervised_config import DomainConfig, SupervisedConfig
from rlhf.training.supervised_data import Part, encode_conversation, read_parts
from rlhf.training.supervised_trainer import Reporter, SupervisedTrainer
from rlhf.training.trainer_settings import warm_up_then_fall

QUESTIONS = ("How do I open the door?", "What is a red cup?", "Why?", "Tell me about my lamp.")


def conversation(number, answer, split="train"):
    question = f"{QUESTIONS[number % 4]} {number}"
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        "split": split,
    }


def write_dataset(folder, name, rows):
    (folder.path / name).mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder.path / name / "data.jsonl").write_text(text)
    return {"name": name, "folder": name}


@pytest.fixture
def polite(folder):
    """What the tiny model rarely says, and always the same."""
    answers = ["Thanks for asking! Please use the key." for _ in range(12)]
    rows = [conversation(n, answer) for n, answer in enumerate(answers)]
    return write_dataset(folder, "polite", [*rows, *(conversation(n, answers[0], "test") for n in (90, 91))])  # fmt: skip


def config_of(reference, *datasets, kind=SupervisedConfig, **settings):
    small = {"lora_rank": 4, "batch_size": 4, "learning_rate": 5e-3, "max_tokens": 64}
    return kind(model=reference, datasets=list(datasets), **{**small, **settings})


def events(folder, kind):
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def losses(folder, metric="eval_loss"):
    return {
        event["step"]: event["values"][metric]
        for event in events(folder, "metrics")
        if metric in event["values"]
    }


# --- it learns --------------------------------------------------------------------------------
def test_held_out_answers_become_likely_and_the_adapter_loads(tiny_reference, folder, polite):
    result = run(config_of(tiny_reference, polite, epochs=4, learning_rate=2e-2), folder)

    held_out = result["held_out"]
    assert held_out["loss_after"] < 0.6 * held_out["loss_before"]
    assert held_out["perplexity_after"] == pytest.approx(
        torch.tensor(held_out["loss_after"]).exp().item(), rel=1e-4
    )
    assert (result["n_train"], held_out["n_rows"], result["steps"]) == (12, 2, 12)
    assert list(losses(folder)) == [0, 3, 6, 9, 12]
    load_policy({**tiny_reference, "adapters": [str(folder.path / "artifact")]})


def test_whole_weights_learn_too_and_make_a_model_of_their_own(tiny_reference, folder, polite):
    result = run(
        config_of(tiny_reference, polite, method="full", learning_rate=1e-3, epochs=1), folder
    )

    assert result["is_whole"]
    assert result["held_out"]["loss_after"] < result["held_out"]["loss_before"]
    load_policy({"base": str(folder.path / "artifact"), "adapters": []})


def test_text_is_learnt_to_its_last_token(tiny_reference, folder):
    text = "The old door is red and the small lamp is blue. "
    rows = [{"text": text * 3, "split": split} for split in ["train"] * 4 + ["test"]]
    config = config_of(
        tiny_reference, write_dataset(folder, "tales", rows), kind=DomainConfig, max_tokens=16,
        learning_rate=2e-2, epochs=4,
    )  # fmt: skip

    result = run(config, folder)

    held_out = result["held_out"]
    n_tokens = 3 * 12 + 2  # words and stops, the last space, and an end: 3 blocks
    assert held_out["n_tokens"] == n_tokens - 3  # nobody can foresee the first of a block
    assert held_out["loss_after"] < 0.7 * held_out["loss_before"]
    assert result["tokens"] == {"learned": 4 * 4 * n_tokens}


def test_each_dataset_has_a_held_out_loss_of_its_own(tiny_reference, folder, polite):
    curt = write_dataset(
        folder, "curt", [conversation(n, "No.", "test" if n > 5 else "train") for n in range(7)]
    )
    config = config_of(
        tiny_reference, polite, curt, weights={"curt": 2.0}, mixing="alternating", epochs=1
    )

    result = run(config, folder)

    assert [(each["name"], each["n_train"], each["weight"]) for each in result["datasets"]] == [
        ("polite", 12, 1.0), ("curt", 6, 2.0),
    ]  # fmt: skip
    assert result["steps"] == 6
    for each in result["datasets"]:
        assert losses(folder, f"eval_loss/{each['name']}")[6] == each["loss_after"]


def test_without_a_held_out_row_nobody_says_what_was_learnt(tiny_reference, folder):
    only = write_dataset(folder, "few", [conversation(1, "Yes."), conversation(2, "No.")])

    result = run(config_of(tiny_reference, only, epochs=1), folder)

    assert result["held_out"]["loss_after"] is None
    assert result["note"].startswith("No row was held out")


def test_a_run_without_datasets_is_refused(tiny_reference, folder):
    with pytest.raises(RunError, match="no dataset to learn from"):
        run(config_of(tiny_reference), folder)


# --- what the loss is of ----------------------------------------------------------------------
def trainer_on(folder, config):
    learner = start(config)
    stops = {learner.tokenizer.eos_token_id}
    parts = read_parts(folder, config, learner.tokenizer, stops)
    batches = plan(parts, config)[0].epochs[0]
    reporter = Reporter(folder, 0, len(batches), [], None)
    return SupervisedTrainer(
        learner.model, learner.tokenizer, parts[0].train, batches, config, reporter
    )


@torch.no_grad()
def loss_of_step(trainer, step):
    model = trainer.model.eval()
    outputs = [model(**inputs, use_cache=False, fused_lm_head=True)
               for inputs in trainer.collated(trainer.batches[step])]  # fmt: skip
    return sum(-each.log_probs.sum().item() for each in outputs)


def test_packed_conversations_do_not_see_one_another(tiny_reference, folder, polite):
    """The sum of all losses is the same, whatever shares a row."""
    one_step = {"batch_size": 12, "micro_batch_tokens": 4096, "max_tokens": 64}
    apart = trainer_on(folder, config_of(tiny_reference, polite, **one_step))
    packed = trainer_on(folder, config_of(tiny_reference, polite, packing=True, **one_step))

    assert len(packed.rows) < len(apart.rows)
    assert loss_of_step(packed, 0) == pytest.approx(loss_of_step(apart, 0), rel=1e-5)


def test_the_gradient_does_not_depend_on_the_micro_batches(tiny_reference, folder, polite):
    gradients = []
    for tokens in (30, 4096):
        config = config_of(tiny_reference, polite, micro_batch_tokens=tokens)
        trainer = trainer_on(folder, config)
        trainer.training_step(trainer.model, {"step": 0})
        gradients.append([p.grad for p in trainer.model.parameters() if p.grad is not None])

    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_the_held_out_loss_is_transformers_own(tiny_reference, folder):
    model, tokenizer = load_policy(tiny_reference)
    rows = [conversation(n, "Try it.") for n in range(3)]
    config = config_of(tiny_reference, write_dataset(folder, "three", rows))

    trainer = trainer_on(folder, config)

    measured = trainer.measure(trainer.rows)

    total = 0.0
    for row in rows:
        (example,) = encode_conversation(tokenizer, row["messages"], {tokenizer.eos_token_id})
        ids, labels = (torch.tensor([values]) for values in example)
        total += 4 * model(input_ids=ids, labels=labels).loss.item()
    assert measured.counts == [4, 4, 4]  # "Try", " it", "." and the end
    assert sum(measured.sums) == pytest.approx(total, rel=1e-5)


# --- stopped and resumed ----------------------------------------------------------------------
class Ends:
    """Ends a run after a step, as a request to stop or a kill would."""

    def __init__(self, folder, step, how):
        self.folder, self.step, self.how = folder, step, how
        self.progress = folder.progress

    def __enter__(self):
        def progress(step, *args):
            self.progress(step, *args)
            if step == self.step and self.how == Stopped:
                self.folder.interrupt()
            elif step == self.step:
                raise Killed

        self.folder.progress = progress

    def __exit__(self, *_):
        self.folder.progress, self.folder._interrupted = self.progress, False


class Killed(BaseException):
    pass


def weights(folder):
    (file,) = (folder.path / "artifact").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize(
    ("how", "step"),
    [
        (Stopped, 2),
        pytest.param(Killed, 2, marks=pytest.mark.slow),  # after the checkpoint of step 1
        pytest.param(Stopped, 5, marks=pytest.mark.slow),  # in the training for the learning curve
        pytest.param(Killed, 5, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_ended_early_goes_on_as_if_it_had_not(
    tiny_reference, folder, polite, tmp_path, monkeypatch, how, step
):
    monkeypatch.setattr(reward_trainer, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)  # after each step
    config = config_of(tiny_reference, polite, epochs=1, learning_curve=step > 3)
    (tmp_path / "other").mkdir()
    other = RunFolder(tmp_path / "other")
    (other.path / "polite").symlink_to(folder.path / "polite")
    whole = run(config, other)

    with Ends(folder, step, how), pytest.raises(how):
        run(config, folder)
    resumed = run(config, folder)

    assert resumed == whole
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(tensor, weights(other)[name], atol=0, rtol=0)


class Moving(TrainerCallback):
    """Notes which layers move in each step. The trainer asks it after the run's own callbacks."""

    def __init__(self):
        self.layers = {}

    def on_step_begin(self, args, state, control, model, **kwargs):
        _, layers = layers_of(backbone_of(model))
        self.layers[state.global_step] = [
            number for number, layer in enumerate(layers)
            if any(parameter.requires_grad for parameter in layer.parameters())
        ]  # fmt: skip


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_gradual_unfreezing_goes_on_where_it_was(
    tiny_reference, folder, polite, tmp_path, monkeypatch, method
):
    watch = Moving()
    monkeypatch.setattr(supervised, "callbacks", lambda *given: [*callbacks(*given), watch])
    config = config_of(tiny_reference, polite, method=method, epochs=2, unfreeze_every=4 / 3)
    (tmp_path / "other").mkdir()
    other = RunFolder(tmp_path / "other")
    (other.path / "polite").symlink_to(folder.path / "polite")
    schedule = {0: [1], 1: [1], 2: [1], 3: [1], 4: [0, 1], 5: [0, 1]}  # the second in step 4 of 6
    whole = run(config, other)
    assert watch.layers == schedule

    with Ends(folder, 2, Stopped), pytest.raises(Stopped):
        run(config, folder)
    watch.layers.clear()
    resumed = run(config, folder)

    assert watch.layers == {step: schedule[step] for step in (2, 3, 4, 5)}
    assert resumed == whole
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(tensor, weights(other)[name], atol=0, rtol=0)


def test_a_killed_run_measures_what_was_before_only_once(tiny_reference, folder, polite):
    (folder.path / "trained").mkdir()
    one = {"loss": 9.0, "perplexity": 8103.08, "n_rows": 2, "n_tokens": 18}
    write_json(folder.path / "trained" / "before.json", {"all": one, "datasets": {"polite": one}})

    result = run(config_of(tiny_reference, polite, epochs=1), folder)

    assert result["held_out"]["loss_before"] == 9.0


# --- the learning rate ------------------------------------------------------------------------
def test_it_rises_in_the_first_steps_and_falls_to_the_last_and_is_never_0():
    rates = [warm_up_then_fall(0.4, 5)(done) for done in range(5)]

    assert rates == pytest.approx([0.5, 0.8, 0.6, 0.4, 0.2])
    assert [warm_up_then_fall(0.05, 1)(0), warm_up_then_fall(1.0, 4)(0)] == [1.0, 0.25]


def test_a_run_of_one_step_learns(tiny_reference, folder, polite):
    result = run(config_of(tiny_reference, polite, epochs=1, batch_size=64), folder)

    assert result["steps"] == 1
    assert result["held_out"]["loss_after"] < result["held_out"]["loss_before"]


# --- the learning curve -----------------------------------------------------------------------
@pytest.mark.slow
def test_the_learning_curve_trains_on_parts_of_the_rows_each_from_the_start(
    tiny_reference, folder, polite
):
    config = config_of(tiny_reference, polite, epochs=1, learning_curve=True)

    result = run(config, folder)

    assert [(point["share"], point["n_rows"]) for point in result["learning_curve"]] == [
        (0.1, 1), (0.25, 3), (0.5, 6), (1.0, 12),
    ]  # fmt: skip
    assert result["learning_curve"][-1]["loss"] == result["held_out"]["loss_after"]
    assert "reason" in result["forecast"]


def test_parts_of_packed_data_are_counted_in_conversations(tiny_reference, folder, polite):
    config = config_of(tiny_reference, polite, packing=True, learning_curve=True)
    parts = read_parts(folder, config, start(config).tokenizer, {2})

    sizes = [training.n_rows for training in plan(parts, config)]

    assert (sizes[0], len(parts[0].train) < 12) == (12, True)
    assert sizes[1:] == sorted(sizes[1:])
    assert sizes[1] == parts[0].conversations()[plan(parts, config)[1].epochs[0][0][0]]


def test_held_out_rows_are_measured_four_times_at_most():
    assert evaluation_steps(7) == [2, 4, 6, 7]
    assert evaluation_steps(1) == [1]


def test_a_part_knows_how_long_its_rows_are(tiny_reference, folder, polite):
    config = config_of(tiny_reference, polite)
    part: Part = read_parts(folder, config, start(config).tokenizer, {2})[0]

    assert part.lengths() == [len(row["input_ids"]) for row in part.train]

"""The runs *DPO* and *KTO*: a policy learns from votes directly, by TRL's trainers.

    data.jsonl -> pairs as tokens -> log-probabilities of the reference, once -> TRL -> artifact/

Both hold the policy near the one that they start from; beta is the price. Loss, optimiser, schedule and
checkpoints are TRL's. Ours differ in that

* texts become tokens by `models.encode`, as in every other run here: an answer that was cut off does not
  end with the end token, and control tokens that are spelt out in a text stay text;
* the reference's log-probabilities are computed once, before training, with the adapter off (with full
  fine-tuning, before the first step): there is no second model while it learns;
* it stops between two micro-batches, and its checkpoints are whole or absent.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, NamedTuple

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from rlhf.training.artifacts import (
    DIVERGED,
    RunError,
    RunFolder,
    Stopped,
    read_json,
    write_json,
)
from rlhf.training.context import at_most
from rlhf.training.data import Pair, read_pairs
from rlhf.training.forward import (
    Batch,
    backbone_of,
    collate,
    layers_of,
    similar_lengths,
    token_kls,
    vocabulary_head,
)
from rlhf.training.generate import Sampled, sample
from rlhf.training.models import decode, encode, encode_completion, load_policy, stop_ids
from rlhf.training.parameter_settings import VIRTUAL
from rlhf.training.parameters import Anchored, callbacks, load, make_trainable, save
from rlhf.training.ppo_math import standard_error
from rlhf.training.preference_config import ANSWERS_AT_ONCE, PreferenceConfig
from rlhf.training.reward_checks import check_chat_template, check_pairs
from rlhf.training.reward_report import share
from rlhf.training.reward_trainer import Reporter
from rlhf.training.trainer_settings import WarmingUp, shared_settings
from rlhf.training.virtual_tokens import begun, prefix_of

TOKENS_AT_ONCE = 2048  # without gradients, padding included
EVALUATIONS = 4  # on held-out pairs, the last one after training
NO_HELD_OUT = (
    "No judged pair was held out, so the accuracy is unknown: judge comparisons of more prompts."
)


# --- pairs ------------------------------------------------------------------------------------
class Row(NamedTuple):
    """Two completions of a prompt, as tokens; `chosen` is what most, or this vote, preferred."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def n_tokens(self) -> int:
        """Of the longer conversation."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def n_tokens(row: Row) -> int:
    """Of both conversations."""
    return 2 * len(row.prompt) + len(row.chosen) + len(row.rejected)


class Rows(NamedTuple):
    train: list[Row]
    test: list[Row]  # one a decided pair
    prompts: list[
        list[dict[str, str]]
    ]  # to sample: held-out ones, or of training if there are none
    left_out: dict[str, int]  # pairs, by reason


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    config: PreferenceConfig,
    votes: str,
    longest_asked: int | None = None,
) -> Rows:
    """The decided pairs as rows; ties say nothing of a preference. With `votes="each"` every vote on a
    pair of training is a row, which is what a soft label means, in expectation. Prompts of more tokens than
    `longest_asked` leave no room for an answer, and are not sampled.

    Raises RunError if fewer than `min_pairs` pairs are left to learn from, or no prompt to sample.
    """
    found: dict[str, list[Row]] = {"train": [], "test": []}
    prompts: dict[str, list[list[dict[str, str]]]] = {"train": [], "test": []}
    left_out = {"too_long": 0, "ties": 0, "of_no_weight": 0}
    n_learnt = 0
    for pair in pairs:
        row = encode_row(tokenizer, pair)
        if pair.p_chosen == 0.5:
            left_out["ties"] += 1
        elif pair.weight == 0:
            left_out["of_no_weight"] += 1
        elif row.n_tokens > config.max_tokens:
            left_out["too_long"] += 1
        else:
            is_each = votes == "each" and pair.split == "train"
            found[pair.split] += by_vote(row, pair) if is_each else [row]
            n_learnt += pair.split == "train"
            of_split = prompts[pair.split]
            has_room = longest_asked is None or len(row.prompt) <= longest_asked
            if has_room and len(of_split) < config.samples and pair.prompt not in of_split:
                of_split.append(pair.prompt)
    if n_learnt < config.min_pairs:
        raise RunError(
            f"only {n_learnt} decided pairs to learn from have at most max_tokens={config.max_tokens} "
            f"tokens, and min_pairs={config.min_pairs}: judge shorter completions, or raise max_tokens if the model can read more"
        )
    if not (sampled := prompts["test"] or prompts["train"]):
        raise RunError(
            f"no prompt leaves room for an answer of max_new_tokens={config.max_new_tokens} in what the model can "
            "read: choose fewer, or import shorter prompts"
        )
    return Rows(found["train"], found["test"], sampled, left_out)


def encode_row(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> Row:
    """The side that most preferred first."""
    chosen, rejected = (
        encode_completion(tokenizer, text, truncated=truncated)
        for text, truncated in (
            (pair.chosen, pair.chosen_truncated),
            (pair.rejected, pair.rejected_truncated),
        )
    )
    if pair.p_chosen < 0.5:
        chosen, rejected = rejected, chosen
    return Row(encode(tokenizer, pair.prompt), chosen, rejected)


def by_vote(row: Row, pair: Pair) -> list[Row]:
    """One row per vote that is no tie. Example: of four votes three for, one against: three rows, and
    one the other way round."""
    for_it = max(pair.p_chosen, 1 - pair.p_chosen) - pair.tie_share / 2
    n_for = round(for_it * pair.n_judgments)
    n_against = round((1 - for_it - pair.tie_share) * pair.n_judgments)
    other = row._replace(chosen=row.rejected, rejected=row.chosen)
    return [row] * max(1, n_for) + [other] * n_against


# --- log-probabilities ------------------------------------------------------------------------
@torch.no_grad()
def sequence_logprobs(
    model: nn.Module,
    rows: Sequence[tuple[list[int], list[int]]],
    should_stop: Callable[[], bool],
) -> Tensor:
    """Log-probability of each completion after its prompt, (N,), fp32, by the head that TRL has put on
    the model, so that it holds for every way of tuning. Raises Stopped before the next micro-batch."""
    found = torch.zeros(len(rows))
    device = next(model.parameters()).device
    for places in similar_lengths([len(p) + len(c) for p, c in rows], TOKENS_AT_ONCE):
        if should_stop():
            raise Stopped
        prompts, completions = zip(*(rows[place] for place in places), strict=True)
        batch = collate(prompts, completions, device)
        ids = batch.inputs["input_ids"]  # (B, L)
        labels = torch.full_like(ids, -100)
        labels[:, 1:][batch.before[:, :-1]] = batch.targets
        column = torch.arange(ids.shape[1], device=device)
        logprobs = model(
            input_ids=ids,
            attention_mask=(column <= batch.last.unsqueeze(1)).long(),
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        ).log_probs[:, 1 - ids.shape[1] :]  # virtual tokens come first
        found[places] = logprobs.sum(1).float().cpu()
    return found


def adapter_off(model: nn.Module) -> AbstractContextManager[None]:
    """The block computes with the policy that learning started from; of a model that learns as a whole
    that is true before its first step only."""
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()


# --- trainers ---------------------------------------------------------------------------------
class FromVotes(WarmingUp, Anchored):
    """Before a trainer of TRL: rows that are tokens already, and a run's folder to report to."""

    REFERENCES: ClassVar[dict[str, str]]  # columns of completions, and where their log-probs go

    def __init__(self, *args: Any, reporter: Reporter, **kwargs: Any) -> None:
        self.reporter, self.folder = reporter, reporter.folder
        super().__init__(*args, callbacks=[reporter, *kwargs.pop("callbacks", [])], **kwargs)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        """TRL's own asks a copy of the fresh adapter. Where that says something already, as drawn
        words do, it is not the policy that learning starts from."""
        model: Any = self.model  # type: ignore[attr-defined]
        if isinstance(model, PeftModel) and "ref" in model.peft_config:
            model.delete_adapter("ref")
        prompts = dataset["prompt_ids"]
        for column, target in self.REFERENCES.items():
            if column in dataset.column_names:
                rows = list(zip(prompts, dataset[column], strict=True))
                with adapter_off(model):
                    found = sequence_logprobs(model, rows, self.folder.should_stop)
                dataset = dataset.add_column(target, found.tolist())
        return dataset

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        self.reporter.stop_if_asked()
        loss = super().compute_loss(*args, **kwargs)
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}: lower the "  # type: ignore[attr-defined]
                f"learning rate ({self.args.learning_rate:g}) and start again",
                DIVERGED,
            )
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Let TRL write beside the run's checkpoints, then move the whole into its place."""
        step = self.state.global_step  # type: ignore[attr-defined]
        written = Path(self.args.output_dir) / f"checkpoint-{step}"
        try:
            with self.folder.writing_checkpoint(step) as target:
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
                for file in written.iterdir():
                    file.rename(target / file.name)
        finally:
            shutil.rmtree(written, ignore_errors=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No README.md in checkpoints."""


class PreferenceReporter(Reporter):
    """TRL's names of what is reported, in ours; its rewards are beta times a log-ratio."""

    beta: float = 1.0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        logs = logs or {}
        plain = {"loss": "loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm",
                 "accuracy": "rewards/accuracies"}  # fmt: skip
        nats = {"margin": "rewards/margins", "logratio/chosen": "rewards/chosen",
                "logratio/rejected": "rewards/rejected"}  # fmt: skip
        values = {name: float(logs[given]) for name, given in plain.items() if given in logs}
        values |= {
            name: float(logs[given]) / self.beta for name, given in nats.items() if given in logs
        }
        if values:
            self.folder.metrics(state.global_step, values)


def trainer_settings(
    config: PreferenceConfig, folder: RunFolder, *, on_cpu: bool, n_steps: int
) -> dict[str, Any]:
    """What TRL's configurations of both kinds are told."""
    return {
        **shared_settings(folder, n_steps, config.seed, on_cpu=on_cpu),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.batch_size // config.micro_batch_size,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup_steps,  # a share
        "max_grad_norm": config.max_grad_norm,
        "beta": config.beta,
        "max_length": None,  # left out and counted already
        "precompute_ref_log_probs": True,
    }


def steps_of_epoch(n_rows: int, config: PreferenceConfig) -> int:
    micro_batches = math.ceil(n_rows / config.micro_batch_size)
    return math.ceil(micro_batches * config.micro_batch_size / config.batch_size)


def shuffled(rows: Sequence[Any], seed: int) -> list[Any]:
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows


def train(trainer: Any) -> None:
    """Train, from the newest checkpoint if there is one. Raises Stopped with all of it saved."""
    checkpoints = trainer.folder.checkpoints()
    done = checkpoints[-1][0] if checkpoints else 0
    try:
        trainer.train(resume_from_checkpoint=str(checkpoints[-1][1]) if checkpoints else None)
    except Stopped:
        if trainer.state.global_step > done:
            trainer._save_checkpoint(trainer.model, trial=None)
        raise


# --- what comes of it -------------------------------------------------------------------------
class HeldOut:
    """Pairs that nothing is learnt from: whether the policy has moved as people would have it."""

    def __init__(self, rows: Sequence[Row], trainer: Any, folder: RunFolder) -> None:
        self.rows, self.model, self.folder = rows, trainer.model, folder
        with adapter_off(self.model):
            self.at_start = self._differences()

    def _differences(self) -> Tensor:
        """How much likelier chosen is than rejected, (N,), in nats."""
        sides = [[(row.prompt, getattr(row, side)) for row in self.rows] for side in SIDES]
        chosen, rejected = (
            sequence_logprobs(self.model, side, self.folder.should_stop) for side in sides
        )
        return chosen - rejected

    def evaluate(self, step: int) -> dict[str, Any]:
        """Accuracy with its interval and mean margin; reported as metrics of the step."""
        margins = self._differences() - self.at_start
        hits, n = int((margins > 0).sum()), len(margins)
        value, low, high = share(hits, n)
        if n:
            mean = float(margins.mean())
            self.folder.metrics(step, {"eval_accuracy": hits / n, "eval_margin": mean})
        return {
            "accuracy": value,
            "accuracy_low": low,
            "accuracy_high": high,
            "margin": float(margins.mean()) if n else None,
            "n_test": n,
        }


SIDES = ("chosen", "rejected")


class Answers:
    """What the policy writes to held-out prompts, always with the same random numbers."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[list[dict[str, str]]],
        stop: set[int],
        config: PreferenceConfig,
        folder: RunFolder,
    ) -> None:
        self.tokenizer, self.stop, self.config, self.folder = tokenizer, stop, config, folder
        self.prompts = list(prompts)[: config.samples]
        self.counted = (
            folder.path / "written.json"
        )  # tokens by step: a resumed run writes only the last
        ids = [encode(tokenizer, messages) for messages in self.prompts]
        self.n = math.ceil(config.samples / len(ids))  # to each
        self.ids = ids * self.n  # all prompts once, then all once more

    def show(self, model: nn.Module, step: int) -> list[Sampled]:
        """The first ones, which the run's page has as the answers of this step."""
        written = self._write(model, 0)
        self._count(step, written)
        for place, (messages, answer) in enumerate(zip(self.prompts, written, strict=False)):
            self.folder.sample(step, place, messages, decode(self.tokenizer, answer.ids))
        return written

    def write(self, model: nn.Module, step: int) -> list[Sampled]:
        """All of them, in the order of `ids`."""
        rest = range(ANSWERS_AT_ONCE, len(self.ids), ANSWERS_AT_ONCE)
        written = self.show(model, step) + [a for start in rest for a in self._write(model, start)]
        self._count(step, written)
        return written

    def _write(self, model: nn.Module, start: int) -> list[Sampled]:
        device = next(model.parameters()).device
        return sample(
            model,
            self.ids[start : start + ANSWERS_AT_ONCE],
            stop=self.stop,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            generator=torch.Generator(device).manual_seed(self.config.seed + start),
            should_stop=self.folder.should_stop,
        )

    def n_written(self) -> int:
        """Tokens, those of before a stop included."""
        return sum(self._by_step().values())

    def _count(self, step: int, written: Sequence[Sampled]) -> None:
        n_tokens = sum(len(one.ids) for one in written)
        write_json(self.counted, {**self._by_step(), str(step): n_tokens})

    def _by_step(self) -> dict[str, int]:
        return read_json(self.counted) if self.counted.exists() else {}

    @torch.no_grad()
    def kls(self, model: nn.Module, start: nn.Module, written: Sequence[Sampled]) -> Tensor:
        """Of each answer from the policy to the one that it started from, (N,), in nats: the sum over its
        tokens of the exact KL of what could have come there."""
        device = next(model.parameters()).device
        prefix = prefix_of(model)
        found = torch.zeros(len(written))
        lengths = [len(p) + len(w.ids) for p, w in zip(self.ids, written, strict=True)]
        for places in similar_lengths(lengths, TOKENS_AT_ONCE):
            if self.folder.should_stop():
                raise Stopped
            answers = [written[place].ids for place in places]
            batch = collate([self.ids[place] for place in places], answers, device)
            own = next_token_states(model, batch, prefix)
            with adapter_off(model):
                before = next_token_states(start, batch)
            heads = vocabulary_head(model), vocabulary_head(start)
            of_tokens = token_kls((own, heads[0]), (before, heads[1]), self.config.temperature)
            parts = of_tokens.cpu().split([len(ids) for ids in answers])
            found[places] = torch.stack([part.sum() for part in parts])
        return found


def next_token_states(model: nn.Module, batch: Batch, prefix: DynamicCache | None = None) -> Tensor:
    """The hidden states that the completions' tokens are drawn from, (N, D), after the prefix of virtual
    tokens, if there is one."""
    cache = begun(prefix, len(batch.last)) if prefix else None
    found = backbone_of(model)(**batch.inputs, past_key_values=cache, use_cache=cache is not None)
    return found.last_hidden_state[batch.before]


# --- the run ----------------------------------------------------------------------------------
def carry_out(
    config: PreferenceConfig,
    folder: RunFolder,
    make_trainer: Callable[..., Any],
    votes: str = "majority",
) -> dict[str, Any]:
    """An export in, artifact/ with the policy out: an adapter, or a whole model.

    `make_trainer(model, tokenizer, rows)` is what DPO and KTO differ in.
    """
    taken = config.virtual_tokens if config.method in VIRTUAL else 0
    config = replace(config, max_tokens=at_most(config.max_tokens, config.model, taken))
    longest_asked = at_most(config.max_tokens, config.model, taken + config.max_new_tokens)
    folder.phase("checking the votes")
    pairs = read_pairs(folder.path / config.data / "data.jsonl")
    check_pairs(pairs, config)
    folder.phase("loading the model")
    model, tokenizer = load(config.model, config)
    check_chat_template(tokenizer, Path(config.model["base"]))
    rows = encode_rows(tokenizer, pairs, config, votes, longest_asked)
    answers = Answers(tokenizer, rows.prompts, stop_ids(model, tokenizer), config, folder)
    torch.manual_seed(config.seed)
    model = make_trainable(model, config)
    folder.phase("log-probabilities of the reference")
    trainer = make_trainer(model, tokenizer, rows.train)
    held_out = HeldOut(rows.test, trainer, folder)
    trainer.reporter.evaluate = held_out.evaluate
    if not folder.checkpoints():
        folder.phase("answers before training")
        with adapter_off(model):
            answers.show(model.get_base_model() if isinstance(model, PeftModel) else model, 0)
    folder.phase("learning")
    train(trainer)
    steps = trainer.state.global_step
    trainer.optimizer = trainer.lr_scheduler = None  # room for what measures
    folder.phase("measuring the result")
    found = held_out.evaluate(steps)
    measured = measure(model, answers, steps, config)
    folder.phase("writing the policy")
    with folder.writing_artifact() as artifact:
        saved = save(model, tokenizer, artifact, config)
    return {
        **saved,
        **found,
        **measured,
        "n_train": len(rows.train),
        "steps": steps,
        "tokens": {
            "written": answers.n_written(),
            "learned": config.epochs * sum(map(n_tokens, rows.train)),
        },
        "left_out": rows.left_out,
        "note": "" if found["n_test"] else NO_HELD_OUT,
    }


def measure(
    model: nn.Module, answers: Answers, step: int, config: PreferenceConfig
) -> dict[str, Any]:
    """KL to the policy before training with its standard error, and length, on fresh answers. With full
    fine-tuning that policy is loaded once more."""
    written = answers.write(model, step)
    start: nn.Module = model
    if not isinstance(model, PeftModel):
        start, _ = load_policy(config.model, dtype=torch.float32)
    kls = answers.kls(model, start, written)
    lengths = fmean(len(answer.ids) for answer in written)
    return {
        "kl": float(kls.mean()),
        "kl_se": standard_error(kls.view(answers.n, -1).T),
        "length_last": lengths,
        "n_samples": len(written),
    }


def reporter_of(config: PreferenceConfig, folder: RunFolder, n_steps: int) -> PreferenceReporter:
    every = math.ceil(n_steps / EVALUATIONS)
    reporter = PreferenceReporter(folder, 0, n_steps, range(every, n_steps, every), None)
    reporter.beta = config.beta
    return reporter


def own_callbacks(model: nn.Module, config: PreferenceConfig, n_steps: int) -> list[Any]:
    """Those of how parameters move. `n_steps`: of an epoch."""
    n_layers = len(layers_of(backbone_of(model))[1])
    return callbacks(config, n_layers, n_steps)

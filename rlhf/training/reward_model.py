"""The run *reward model*: a LoRA adapter and a scalar head learn people's preferences.

TRL's RewardTrainer does the training. Ours differs in that

* tokens come from our own `encode`, so that training and PPO score the same ids;
* the label is soft: of n judgments of a pair, the share p that prefer `chosen`. The loss
  -(p logsigmoid(Δ) + (1 - p) logsigmoid(-Δ)) is that of n independent votes, and a tie is p = 1/2
  (Bradley-Terry; docs/reward-model.md). Nothing is flattened to a majority;
* the head starts from N(0, 1/sqrt(d + 1)), computes in fp32 and is saved beside the adapter;
* it stops within a micro-batch and goes on where it stopped.

The backbone is the very policy whose answers will be scored, its own adapters merged in.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Sampler
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from rlhf.training.artifacts import DIVERGED, RunError, RunFolder, Stopped, write_json
from rlhf.training.config import RewardModelConfig
from rlhf.training.data import Pair, read_pairs, read_prompts
from rlhf.training.generate import EncodedPrompt, encode_prompts, generate_all
from rlhf.training.models import (
    RewardStatistics,
    ScalarHead,
    encode,
    encode_completion,
    load_policy,
    lora_config,
    save_reward_head,
)

SECONDS_BETWEEN_CHECKPOINTS = 60.0
NOTHING_HELD_OUT = (
    "No judged pair was held out, so the accuracy is unknown: judge comparisons of more prompts."
)
MAX_REPORTS = 500  # of training metrics, so that a long run's page stays light


def run(config: RewardModelConfig, folder: RunFolder) -> dict[str, Any]:
    folder.phase("loading the model")
    policy, tokenizer = load_policy(config.model)
    pairs = read_pairs(folder.path / config.data / "data.jsonl")
    train, test, left_out = encode_pairs(tokenizer, pairs, config.max_tokens)
    # Sampled first: the policy and the reward model share their weights in memory.
    folder.phase("sampling from the policy")
    samples = sample_policy(policy, tokenizer, config, folder)

    folder.phase("training")
    tokenizer.pad_token_id = unused_ending([*train, *test], samples)
    model = make_classifier(policy, config, tokenizer.pad_token_id)
    held_out = HeldOut(test, 2 * config.micro_batch_size, folder)
    trainer = make_trainer(model, tokenizer, train, held_out, config)
    _train(trainer, folder)

    folder.phase("evaluating")
    evaluation = held_out.evaluate(model, trainer.state.global_step)
    scores = score_conversations(model, samples, held_out.batch_size, folder)
    scale = score_statistics(scores)
    with folder.writing_artifact() as artifact:
        save_reward_model(model, scale, config.model, artifact)
    return {
        **evaluation,
        "score_mean": scale.mean,
        "score_std": scale.std,
        "n_train": len(train),
        "left_out": left_out,
        "note": "" if evaluation["n_test"] else NOTHING_HELD_OUT,
    }


# --- data -------------------------------------------------------------------------------------
class EncodedPair(NamedTuple):
    """Two whole conversations as tokens, and what is needed to learn and to judge from them."""

    chosen_ids: list[int]
    rejected_ids: list[int]
    p_chosen: float  # at least 1/2
    length: int  # tokens of the longer conversation, for batches of similar length
    longer: int  # 1 if the chosen completion has more tokens, -1 if fewer, 0 if as many


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], max_tokens: int
) -> tuple[list[EncodedPair], list[EncodedPair], dict[str, int]]:
    """The pairs to learn from, those held out, and how many were left out for which reason.

    No pair is cut: one that is too long is left out. Raises RunError if none is left to learn.
    """
    splits: dict[str, list[EncodedPair]] = {"train": [], "test": []}
    too_long = 0
    for pair in pairs:
        encoded = _encode_pair(tokenizer, pair)
        if encoded.length > max_tokens:
            too_long += 1
        else:
            splits[pair.split].append(encoded)
    if not splits["train"]:
        raise RunError(_nothing_to_learn(pairs, max_tokens))
    return splits["train"], splits["test"], {"too_long": too_long}


def _encode_pair(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> EncodedPair:
    prompt = encode(tokenizer, pair.prompt)
    chosen = encode_completion(tokenizer, pair.chosen, truncated=pair.chosen_truncated)
    rejected = encode_completion(tokenizer, pair.rejected, truncated=pair.rejected_truncated)
    p_chosen = pair.p_chosen
    if p_chosen < 0.5:  # so that "chosen" is what most preferred, in every metric
        chosen, rejected, p_chosen = rejected, chosen, 1 - p_chosen
    longer = (len(chosen) > len(rejected)) - (len(chosen) < len(rejected))
    length = len(prompt) + max(len(chosen), len(rejected))
    return EncodedPair([*prompt, *chosen], [*prompt, *rejected], p_chosen, length, longer)


def _nothing_to_learn(pairs: Sequence[Pair], max_tokens: int) -> str:
    n_train = sum(pair.split == "train" for pair in pairs)
    if n_train == 0:
        return (
            f"there are no pairs to learn from: of the export's {len(pairs)} pairs, all are held "
            "out. Judge comparisons of more prompts, and export again"
            if pairs
            else "there are no pairs to learn from: the export holds no judged comparison"
        )
    return (
        f"all {n_train} pairs to learn from are longer than max_tokens={max_tokens}: raise it, or "
        "judge shorter completions"
    )


def sample_policy(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: RewardModelConfig,
    folder: RunFolder,
) -> list[list[int]]:
    """Conversations that the policy ends itself, as tokens: the yardstick of the score's scale."""
    prompts, _ = encode_prompts(
        tokenizer,
        read_prompts(folder.path / config.prompts),
        config.max_tokens,
    )
    per_prompt = math.ceil(config.policy_samples / len(prompts))
    chosen = _spread(prompts, math.ceil(config.policy_samples / per_prompt))
    completions = generate_all(
        policy,
        tokenizer,
        chosen,
        completions_per_prompt=per_prompt,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.policy_samples,
        seed=config.seed,
        kept=folder.path / "policy_samples.jsonl",
        folder=folder,
    )
    ids = {prompt.line.id: prompt.ids for prompt in chosen}
    return [
        [*ids[row.id], *encode_completion(tokenizer, row.completion, truncated=row.truncated)]
        for row in completions
    ]


def _spread(prompts: Sequence[EncodedPrompt], n: int) -> list[EncodedPrompt]:
    """n prompts from all over the list."""
    return [prompts[index * len(prompts) // n] for index in range(n)]


def unused_ending(pairs: Sequence[EncodedPair], samples: Sequence[Sequence[int]]) -> int:
    """A token with which no conversation ends.

    The classifier reads its score at the last token that differs from the padding token. That of
    the embedded model is its end token, with which every conversation ends: the score would be
    read one token early, whatever the attention mask. TRL and transformers both copy the padding
    token from the tokenizer to the model, so the tokenizer is where it has to be set.
    """
    endings = {ids[-1] for ids in samples}
    endings.update(ids[-1] for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids))
    return next(token for token in range(len(endings) + 1) if token not in endings)


# --- the model --------------------------------------------------------------------------------
class Fp32Head(torch.nn.Linear):
    """The score in fp32 whatever the backbone computes in, as ScalarHead does it in PPO."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.float())


def make_classifier(policy: PreTrainedModel, config: RewardModelConfig, padding: int) -> PeftModel:
    """A sequence classifier around the policy's own backbone, with an adapter and a head to learn.

    The backbone is not copied: from now on the policy carries the adapter too.
    """
    settings = copy.deepcopy(policy.config)
    settings.num_labels = 1
    settings.get_text_config().pad_token_id = padding
    try:
        with torch.device("meta"):  # allocates nothing: all of it is replaced
            model = AutoModelForSequenceClassification.from_config(settings)
    except ValueError:
        raise RunError(
            f"transformers has no sequence classifier for {settings.model_type} models: a reward "
            "model cannot be trained on this policy"
        ) from None
    setattr(model, model.base_model_prefix, policy.base_model)
    torch.manual_seed(config.seed)
    size = settings.get_text_config().hidden_size
    model.score = Fp32Head(size, 1, bias=False, device=policy.device)
    torch.nn.init.normal_(model.score.weight, std=(size + 1) ** -0.5)  # Ziegler et al. 2019
    lora = lora_config(policy, config.lora_rank, config.adapter_layers)
    lora.modules_to_save = ["score"]  # learn the head, and keep it in every checkpoint
    return get_peft_model(model, lora)


def save_reward_model(
    model: PeftModel, scale: RewardStatistics, reference: dict[str, Any], folder: Path
) -> None:
    """Adapter, head, score statistics, and model.json: the policy that the adapter lies on.

    The adapter is one for the causal language model: the head's weights are not in it.
    """
    state = get_peft_model_state_dict(model)
    adapter = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    weight = adapter.pop("base_model.model.score.weight")
    save_file(adapter, folder / "adapter_model.safetensors")
    settings = copy.deepcopy(model.peft_config["default"])
    settings.modules_to_save = None
    settings.inference_mode = True
    settings.save_pretrained(str(folder))
    head = ScalarHead(weight.shape[1])
    head.load_state_dict({"linear.weight": weight, "linear.bias": torch.zeros(1)})
    save_reward_head(head, scale, folder)
    write_json(folder / "model.json", reference)


# --- held-out pairs ---------------------------------------------------------------------------
class HeldOut:
    """The pairs that nothing is learnt from, and how well a model orders them."""

    def __init__(self, pairs: Sequence[EncodedPair], batch_size: int, folder: RunFolder) -> None:
        self.pairs = pairs
        self.batch_size = batch_size  # conversations per forward
        self.folder = folder

    def evaluate(self, model: PeftModel, step: int) -> dict[str, Any]:
        """Loss and accuracy, and the accuracy of "the longer one wins" on the same pairs.

        Accuracies are over the pairs that people decided: of a tie, nobody can be right. A pair
        of equal lengths is half a hit for length. None where nothing was held out.
        """
        model.eval()
        conversations = [ids for pair in self.pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
        scores = score_conversations(model, conversations, self.batch_size, self.folder)
        margins = torch.tensor(scores[::2]) - torch.tensor(scores[1::2])  # (pairs,)
        p_chosen = torch.tensor([pair.p_chosen for pair in self.pairs])
        decided = p_chosen != 0.5
        n = int(decided.sum())
        accuracy, low, high = share(int((margins[decided] > 0).sum()), n)
        hits = sum((pair.longer + 1) / 2 for pair in self.pairs if pair.p_chosen != 0.5)
        longer, longer_low, longer_high = share(hits, n)
        loss = soft_loss(margins, p_chosen).item() if self.pairs else None
        if accuracy is not None and loss is not None:
            values = {"loss": loss, "accuracy": accuracy, "margin": margins[decided].mean().item()}
            self.folder.metrics(step, {f"eval_{name}": value for name, value in values.items()})
        return {
            "n_test": n,
            "loss": loss,
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "longer_accuracy": longer,
            "longer_low": longer_low,
            "longer_high": longer_high,
        }


# --- training ---------------------------------------------------------------------------------
class SoftCollator(DataCollatorForPreference):
    """TRL's collator, which also keeps `p_chosen`. Chosen come first, then rejected: (2B, L)."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        if "p_chosen" in examples[0]:
            batch["p_chosen"] = torch.tensor([example["p_chosen"] for example in examples])
        return batch


class SimilarLengths(Sampler[int]):
    """All rows in batches of similar length, which need little padding, in random order.

    Seed and epoch alone decide the order. transformers' own sampler draws from the global random
    numbers instead: after a resume in the second epoch it would repeat the order of the first.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(self.seed * 1_000_003 + self.epoch)
        order = rng.sample(range(len(self.lengths)), len(self.lengths))
        whole = len(order) - len(order) % self.batch_size
        pool = 8 * self.batch_size  # sorted together: larger pools pad less, and mix less
        batches = []
        for start in range(0, whole, pool):
            rows = sorted(order[start : min(start + pool, whole)], key=self.lengths.__getitem__)
            batches += [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        rng.shuffle(batches)
        batches.append(order[whole:])
        return itertools.chain.from_iterable(batches)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch


class SoftRewardTrainer(RewardTrainer):
    """TRL's trainer with soft labels, and with checkpoints that are whole or absent."""

    loss_is_scaled_for_ga = False  # a mean over the micro-batch

    def __init__(self, *args: Any, folder: RunFolder, **kwargs: Any) -> None:
        self.folder = folder
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SimilarLengths:
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return SimilarLengths(list(self.train_dataset["length"]), batch_size, self.args.seed)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Any:
        """TRL's loss and metrics; with `p_chosen` (B,) in the inputs, the loss for soft labels."""
        p_chosen = inputs.pop("p_chosen", None)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if p_chosen is not None:
            chosen, rejected = outputs.logits.squeeze(-1).chunk(2)  # (B,) each
            loss = soft_loss(chosen - rejected, p_chosen)
            self._correct_accuracy(chosen > rejected, p_chosen != 0.5)
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}: lower the "
                f"learning rate ({self.args.learning_rate:g}) and start again",
                DIVERGED,
            )
        return (loss, outputs) if return_outputs else loss

    def _correct_accuracy(self, is_right: Tensor, is_decided: Tensor) -> None:
        """Nobody can be right about a tie: TRL's accuracy of this batch, over decided pairs."""
        values = self._metrics["train"]["accuracy"]
        values.pop()
        if is_decided.any():
            values.append(is_right[is_decided].float().mean().item())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL averages what was collected since the last report: nothing, if all were ties."""
        if not self._metrics["train"]["accuracy"]:
            del self._metrics["train"]["accuracy"]
        super().log(logs, start_time)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Let TRL write beside the run's checkpoints, then move the whole into its place."""
        written = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            with self.folder.writing_checkpoint(self.state.global_step) as target:
                super()._save_checkpoint(model, trial)
                for file in written.iterdir():
                    file.rename(target / file.name)
        finally:
            shutil.rmtree(written, ignore_errors=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No README.md in checkpoints."""


def soft_loss(margins: Tensor, p_chosen: Tensor) -> Tensor:
    """Mean over pairs of -(p logsigmoid(Δ) + (1 - p) logsigmoid(-Δ)); margins Δ and p are (B,)."""
    return -(p_chosen * F.logsigmoid(margins) + (1 - p_chosen) * F.logsigmoid(-margins)).mean()


class Reporter(TrainerCallback):
    """Tells the run's folder how it goes, and hears its request to stop."""

    def __init__(self, held_out: HeldOut) -> None:
        self.held_out = held_out
        self.folder = held_out.folder
        self.saved = time.monotonic()
        self.began = time.monotonic()
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began, self.first_step = time.monotonic(), state.global_step

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_if_asked()  # the unfinished step is done again after a resume

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        per_step = (time.monotonic() - self.began) / (state.global_step - self.first_step)
        self.folder.progress(
            state.global_step, state.max_steps, per_step * (state.max_steps - state.global_step)
        )
        self._stop_if_asked()
        is_last = state.global_step == state.max_steps
        if is_last or time.monotonic() - self.saved > SECONDS_BETWEEN_CHECKPOINTS:
            control.should_save = True

    def on_epoch_end(
        self, args: Any, state: Any, control: Any, model: PeftModel, **kwargs: Any
    ) -> None:
        if state.global_step < state.max_steps:  # the last time is when the run evaluates
            self.held_out.evaluate(model, state.global_step)
            model.train()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = time.monotonic()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        names = ("loss", "accuracy", "margin", "learning_rate", "grad_norm")
        if values := {name: float(logs[name]) for name in names if logs and name in logs}:
            self.folder.metrics(state.global_step, values)

    def _stop_if_asked(self) -> None:
        if self.folder.should_stop():
            raise Stopped


def make_trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[EncodedPair],
    held_out: HeldOut,
    config: RewardModelConfig,
) -> SoftRewardTrainer:
    n_steps = math.ceil(len(train) / config.batch_size) * config.epochs
    return SoftRewardTrainer(
        model,
        RewardConfig(
            output_dir=str(held_out.folder.path / ".trainer"),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.micro_batch_size,
            gradient_accumulation_steps=config.batch_size // config.micro_batch_size,
            learning_rate=config.learning_rate,
            warmup_steps=0.05,  # share of all steps
            lr_scheduler_type="linear",
            max_length=None,  # left out and counted already
            # Precision is the weights' own (bf16 base, fp32 adapter on a GPU), as in PPO.
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=model.device.type == "cpu",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            logging_steps=max(1, n_steps // MAX_REPORTS),
            logging_nan_inf_filter=False,  # a NaN ends the run, it is not averaged away
            save_strategy="no",  # the reporter says when
            seed=config.seed,
            report_to="none",
            disable_tqdm=True,
        ),
        data_collator=SoftCollator(pad_token_id=tokenizer.pad_token_id),
        train_dataset=Dataset.from_list([pair._asdict() for pair in train]),
        processing_class=tokenizer,
        callbacks=[Reporter(held_out)],
        folder=held_out.folder,
    )


def _train(trainer: SoftRewardTrainer, folder: RunFolder) -> None:
    """Train, from the newest checkpoint if there is one. Raises Stopped with all of it saved."""
    checkpoints = folder.checkpoints()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoints[-1][1]) if checkpoints else None)
    except Stopped:
        if trainer.state.global_step > (checkpoints[-1][0] if checkpoints else 0):
            trainer._save_checkpoint(trainer.model, trial=None)
        raise


# --- measuring --------------------------------------------------------------------------------
@torch.inference_mode()
def score_conversations(
    model: PeftModel, conversations: Sequence[Sequence[int]], batch_size: int, folder: RunFolder
) -> list[float]:
    """The score of each conversation, in order; batches are made of similar lengths."""
    padding = model.config.get_text_config().pad_token_id
    order = sorted(range(len(conversations)), key=lambda index: len(conversations[index]))
    scores = [0.0] * len(conversations)
    for start in range(0, len(order), batch_size):
        if folder.should_stop():
            raise Stopped
        rows = order[start : start + batch_size]
        ids = [torch.tensor(conversations[row]) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        input_ids = pad(ids, batch_first=True, padding_value=padding)  # (B, L)
        mask = pad([torch.ones_like(row) for row in ids], batch_first=True)
        logits = model(
            input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device)
        ).logits
        for row, value in zip(rows, logits.squeeze(-1).tolist(), strict=True):
            scores[row] = value
    return scores


def score_statistics(scores: Sequence[float]) -> RewardStatistics:
    """Mean and standard deviation over the policy's samples, with which PPO normalises."""
    values = torch.tensor(scores, dtype=torch.float64)
    mean, std = values.mean().item(), values.std(correction=0).item()
    if not math.isfinite(std):
        raise RunError("the trained scores are not finite: lower the learning rate", DIVERGED)
    return RewardStatistics(mean, std)


def share(hits: float, n: int) -> tuple[float | None, float | None, float | None]:
    """hits / n and its Wilson interval at 95 %; None for all three when n is 0."""
    if n == 0:
        return None, None, None
    low, high = proportion_confint(hits, n, method="wilson")
    return hits / n, float(low), float(high)

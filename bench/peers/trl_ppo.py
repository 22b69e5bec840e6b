"""The same measurement as bench/ppo.py, of the PPOTrainer in TRL 1.12, the last TRL that had one.

    bench/peers/setup                    # makes bench/peers/.venv with the peer's own packages
    bench/peers/.venv/bin/python bench/peers/trl_ppo.py --model DIR --prompts FILE [...]

Its best case: a LoRA policy (rank 16, all linear layers) whose reference is the same model without
the adapter, k1, one micro-batch per minibatch unless --micro-batch says otherwise, and for the
--fixed-length comparison no stop token. Its reward and value models are whole models. Prints one
JSON line. `rollout` is what it spends in generate(), `score` the rest up to the first epoch.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import datasets
import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--response-tokens", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--fixed-length", action="store_true")
    return parser.parse_args()


class Clock(TrainerCallback):
    """When each update ended."""

    def __init__(self) -> None:
        self.times = [time.monotonic()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.monotonic())


def main() -> None:
    arguments = parse_arguments()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="left")
    # Its masks are made by comparing with the padding token, so that has to be one of its own.
    tokenizer.pad_token = tokenizer.unk_token
    prompts = read_prompts(arguments, tokenizer)
    policy = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(
            arguments.model, num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id
        )
        for _ in range(2)
    )
    lengths, rollouts = watch(tokenizer.eos_token_id)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=arguments.micro_batch,
                gradient_accumulation_steps=arguments.batch // arguments.micro_batch,
                local_rollout_forward_batch_size=arguments.batch,
                num_mini_batches=1,
                num_ppo_epochs=arguments.epochs,
                total_episodes=arguments.updates * arguments.batch,
                response_length=arguments.response_tokens,
                stop_token=None if arguments.fixed_length else "eos",
                temperature=0.7,
                kl_estimator="k1",
                learning_rate=1e-4,
                num_sample_generations=0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                seed=0,
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=reward,
            value_model=value,
            train_dataset=datasets.Dataset.from_dict({"input_ids": prompts}),
            peft_config=LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[clock],
        )
        clock.times = [time.monotonic()]
        trainer.train()
    print(json.dumps(report(clock.times, rollouts, lengths, arguments)))


def read_prompts(arguments: argparse.Namespace, tokenizer: Any) -> list[list[int]]:
    """Those that fit, repeated: the trainer hangs on a dataset smaller than one batch."""
    encoded = [
        tokenizer.apply_chat_template(
            json.loads(line)["prompt"], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for line in arguments.prompts.read_text().splitlines()
    ]
    fitting = [ids for ids in encoded if len(ids) <= arguments.prompt_tokens]
    return fitting * (arguments.batch // len(fitting) + 1)


def watch(eos: int) -> tuple[list[float], list[float]]:
    """Lengths up to the end token and seconds of each rollout, from now on."""
    lengths: list[float] = []
    seconds: list[float] = []
    original = ppo_trainer.batch_generation

    def timed(model: Any, queries: torch.Tensor, *rest: Any, **named: Any) -> Any:
        began = time.monotonic()
        ids, logits = original(model, queries, *rest, **named)
        seconds.append(time.monotonic() - began)
        responses = ids[:, queries.shape[1] :]
        ended = (responses == eos).int()
        first = torch.where(ended.any(1), ended.argmax(1) + 1, responses.shape[1])
        lengths.append(float(first.float().mean()))
        return ids, logits

    ppo_trainer.batch_generation = timed
    return lengths, seconds


def report(
    times: list[float], rollouts: list[float], lengths: list[float], arguments: argparse.Namespace
) -> dict[str, Any]:
    whole = statistics.median(b - a for a, b in itertools.pairwise(times))
    length = arguments.response_tokens if arguments.fixed_length else statistics.fmean(lengths)
    return {
        "implementation": "trl",
        "critic": "full",
        "adapter_layers": "all",
        "fixed_length": arguments.fixed_length,
        "seconds_per_update": round(whole, 2),
        "rollout": round(statistics.median(rollouts), 2),
        "completions_per_s": round(arguments.batch / whole, 3),
        "tokens_per_s": round(arguments.batch * length / whole, 1),
        "length": round(length, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "peft", "trl")
        },
    }


if __name__ == "__main__":
    main()

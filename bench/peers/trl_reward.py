"""The same measurement as bench/reward.py, of TRL's own RewardTrainer: the script that its
documentation would have one write.

    python bench/peers/trl_reward.py --model DIR --data FILE [--pairs 240] [--max-tokens 256]
        [--epochs 1] [--batch 8] [--checkpointing default|off]

The project builds on TRL 1.16 itself, so this runs in the project's own .venv: bench/peers/setup is
for the older TRL of trl_ppo.py. LoRA of rank 16 on all linear layers, and the head; for the rest
TRL's defaults, except

* fp32 in place of its bf16, which a CPU without hardware for it computes more slowly;
* gradient checkpointing, which is its default and trades time for memory, can be switched off;
* the padding token is one with which no conversation ends: the score is read at the last token that
  differs from it, and many models pad with their end token;
* nothing is filtered by length, because all pairs fit, and nothing is saved.

Learns from the first --pairs pairs of FILE and is measured by the next as many, of other prompts
(bench/preference_data.py). `seconds` are those of training alone. Prints one JSON line.
"""

import argparse
import importlib.metadata
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from datasets import Dataset
from peft import LoraConfig
from statsmodels.stats.proportion import proportion_confint
from transformers import AutoTokenizer
from trl import RewardConfig, RewardTrainer

from bench.preference_data import Selection, select_pairs
from rlhf.training.data import Pair


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--checkpointing", choices=("default", "off"), default="default")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    selection = select_pairs(arguments.data, tokenizer, arguments.pairs, arguments.max_tokens)
    tokenizer.pad_token = padding_token(tokenizer, selection.train[0])
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            model=str(arguments.model),
            args=RewardConfig(
                output_dir=folder,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=arguments.batch,
                per_device_eval_batch_size=1,  # its accuracy is a mean over batches
                gradient_checkpointing=arguments.checkpointing == "default",
                max_length=None,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=as_dataset(selection.train),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=16,
                lora_alpha=32,
                target_modules="all-linear",
                modules_to_save=["score"],
                task_type="SEQ_CLS",
            ),
        )
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
        accuracy = trainer.evaluate(as_dataset(selection.held_out))["eval_accuracy"]
    print(json.dumps(report(selection, seconds, accuracy, arguments)))


def as_dataset(pairs: list[Pair]) -> Dataset:
    """TRL's conversational preference format with an explicit prompt."""
    return Dataset.from_list(
        [
            {
                "prompt": pair.prompt,
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
            }
            for pair in pairs
        ]
    )


def padding_token(tokenizer: Any, pair: Pair) -> str:
    """A special token with which no conversation ends: as the template has it, all end alike."""
    conversation = [*pair.prompt, {"role": "assistant", "content": pair.chosen}]
    ids = tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
    endings = (tokenizer.eos_token, tokenizer.convert_ids_to_tokens(ids[-1]))
    others = [token for token in tokenizer.all_special_tokens if token not in endings]
    return others[0] if others else sys.exit("The tokenizer has no special token to pad with.")


def report(
    selection: Selection, seconds: float, accuracy: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    n = len(selection.held_out)
    low, high = proportion_confint(round(accuracy * n), n, method="wilson")
    return {
        "implementation": "trl",
        "adapter_layers": "all",
        "members": 1,
        "checkpointing": arguments.checkpointing,
        "pairs": arguments.pairs,
        "max_tokens": arguments.max_tokens,
        "epochs": arguments.epochs,
        "pairs_per_s": round(arguments.epochs * arguments.pairs / seconds, 3),
        "tokens_per_s": round(arguments.epochs * selection.tokens / seconds, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "heldout_accuracy": round(accuracy, 4),
        "accuracy_low": round(low, 4),
        "accuracy_high": round(high, 4),
        "seconds": round(seconds, 2),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "peft", "trl")
        },
    }


if __name__ == "__main__":
    main()

"""Pairs a second, memory and held-out accuracy of training a reward model.

    python bench/reward.py --data FILE [--model DIR] [--pairs 240] [--max-tokens 256] [--epochs 1]
        [--batch 8] [--adapter-layers all|K] [--members 1] [--micro-batch-tokens 1024]
        [--without prompts|trunk] [--plain] [--learning-curve]

FILE holds known choices (HH-RLHF's, say, as the importer reads them) or is the data.jsonl of an
export. Learns from its first --pairs pairs and is measured by the next as many, of other prompts
(bench/preference_data.py). --without prompts runs every conversation by itself, --without trunk all of
them through all layers each time, and --plain both, which changes no score; if one of these savings is
missing without being switched off, it ends with a sentence and exit status 1. Prints one JSON line;
--learning-curve also trains on 10, 25 and 50 % of the pairs, each from the same start, and says what
more of them would bring (docs/fine-tuning.md).
`savings` say what was in force (docs/reward-model.md), `seconds` are those of training alone, all
members together, and `pairs_per_s` counts each pair once per epoch, however many members learn from it.
"""

import argparse
import importlib.metadata
import itertools
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from transformers import AutoTokenizer

from bench.ppo import convert_embedded
from bench.preference_data import Selection, select_pairs
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import RewardModelConfig
from rlhf.training.forecast import forecast_accuracy
from rlhf.training.models import load_policy
from rlhf.training.reward_data import encode_pairs, numbered
from rlhf.training.reward_forward import Scorer
from rlhf.training.reward_model import (
    HeldOut,
    learning_curve,
    make_classifier,
    mean_scores,
    plan,
    score_statistics,
    start_afresh,
)
from rlhf.training.reward_trainer import PreferenceTrainer, Reporter, train


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--adapter-layers", default="all")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--micro-batch-tokens", type=int, default=1024)
    parser.add_argument("--without", choices=["prompts", "trunk"], action="append", default=[])
    parser.add_argument("--learning-curve", action="store_true")
    parser.add_argument("--plain", action="store_const", dest="without", const=["prompts", "trunk"])
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        model = str(arguments.model or convert_embedded(Path(folder)))
        selection = select_pairs(
            arguments.data,
            AutoTokenizer.from_pretrained(model),
            arguments.pairs,
            arguments.max_tokens,
        )
        result = measure(model, selection, arguments, RunFolder(folder))
    print(json.dumps(result))


def measure(
    model: str, selection: Selection, arguments: argparse.Namespace, folder: RunFolder
) -> dict[str, Any]:
    config = RewardModelConfig(
        {"base": model, "adapters": []},
        epochs=arguments.epochs,
        batch_size=arguments.batch,
        adapter_layers=(
            None if arguments.adapter_layers == "all" else int(arguments.adapter_layers)
        ),
        members=arguments.members,
        max_tokens=arguments.max_tokens,
        micro_batch_tokens=arguments.micro_batch_tokens,
        reuse_trunk="trunk" not in arguments.without,
        share_prompts="prompts" not in arguments.without,
        learning_curve=arguments.learning_curve,
    )
    policy, tokenizer = load_policy(config.model)
    pairs = [*selection.train, *(pair._replace(split="test") for pair in selection.held_out)]
    encoded = encode_pairs(tokenizer, pairs, config.max_tokens, config.micro_batch_tokens)
    classifier = make_classifier(policy, config)
    test = HeldOut(
        numbered(encoded.test, 0), scorer_of(classifier, numbered(encoded.test, 0), config), folder
    )
    seconds, scores = {}, {}
    scorer = scorer_of(classifier, encoded.train, config)
    savings = scorer.savings(config)
    if savings.notes:
        sys.exit(" ".join(savings.notes))
    trainings = plan(encoded.train, config)
    for number, training in enumerate(trainings):
        epoch_ends = list(itertools.accumulate(map(len, training.epochs)))
        reporter = Reporter(folder, number * 10**6, training.n_steps, epoch_ends, lambda step: None)
        start_afresh(classifier, training.seed)
        trainer = PreferenceTrainer(
            classifier, tokenizer, scorer, training.groups, training.epochs, config, reporter
        )
        began = time.monotonic()
        scorer.keep_trunk(folder.path / "trunk", folder.should_stop)
        train(trainer)
        seconds[training.name] = time.monotonic() - began
        scores[training.name] = test.scores()
    members = [name for name in scores if name.startswith("member-")]
    scales = [score_statistics(list(itertools.chain(*scores[name]))) for name in members]
    whole = mean_scores([scores[name] for name in members], scales)
    took = sum(seconds[name] for name in members)
    found = report(test.evaluation(whole), took, selection, arguments)
    if config.learning_curve:
        kept = {name: {"test": of_name} for name, of_name in scores.items()}
        curve = learning_curve(trainings, kept, test, whole, encoded.train)
        forecast = forecast_accuracy(curve)
        found |= {"learning_curve": curve, "forecast": forecast.get("ahead") or forecast["reason"]}
    return found | {"savings": savings.to_json()}


def scorer_of(classifier: Any, groups: Any, config: RewardModelConfig) -> Scorer:
    return Scorer(
        classifier, groups, share_prompts=config.share_prompts, reuse_trunk=config.reuse_trunk
    )


def report(
    found: dict[str, Any], seconds: float, selection: Selection, arguments: argparse.Namespace
) -> dict[str, Any]:
    return {
        "implementation": "preferendum",
        "adapter_layers": arguments.adapter_layers,
        "members": arguments.members,
        "without": arguments.without,
        "micro_batch_tokens": arguments.micro_batch_tokens,
        "pairs": arguments.pairs,
        "max_tokens": arguments.max_tokens,
        "epochs": arguments.epochs,
        "pairs_per_s": round(arguments.epochs * arguments.pairs / seconds, 3),
        "tokens_per_s": round(arguments.epochs * selection.tokens / seconds, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "heldout_accuracy": round(found["accuracy"], 4),
        "accuracy_low": round(found["accuracy_low"], 4),
        "accuracy_high": round(found["accuracy_high"], 4),
        "seconds": round(seconds, 2),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "peft", "trl")
        },
    }


if __name__ == "__main__":
    main()

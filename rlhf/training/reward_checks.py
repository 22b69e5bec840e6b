"""What a reward model, DPO or KTO cannot learn from, said before anything heavy is loaded.

The votes are looked at without torch, the lengths with nothing but the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.training.artifacts import RunError, RunFolder
from rlhf.training.config import RewardModelConfig
from rlhf.training.data import Pair, read_pairs
from rlhf.training.preference_config import PreferenceConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_input(config: RewardModelConfig, folder: RunFolder) -> None:
    """Raises RunError for what is wrong with the votes, the tokenizer or the lengths."""
    folder.phase("checking the votes")
    pairs = read_pairs(folder.path / config.data / "data.jsonl")
    check_pairs(pairs, config)
    bases = [Path(reference["base"]) for reference in (config.model, config.base) if reference]
    if all(base.is_dir() for base in bases):  # else whoever loads the model says so
        from transformers import AutoTokenizer  # noqa: PLC0415 (takes seconds; most errors need none)

        for base in bases:
            tokenizer = AutoTokenizer.from_pretrained(base)
            check_chat_template(tokenizer, base)
        check_lengths(tokenizer, pairs, config, _longest(config))


def _longest(config: RewardModelConfig) -> int | None:
    """What the base can read, in tokens."""
    from rlhf.training.classifiers import load_reader  # noqa: PLC0415 (imports torch)

    reference = config.base or config.model
    if not (Path(reference["base"]) / "config.json").is_file():
        return None  # whoever loads the model says so
    return load_reader(reference).longest


def check_pairs(pairs: Sequence[Pair], config: RewardModelConfig | PreferenceConfig) -> None:
    """Raises RunError unless people decided at least `min_pairs` of the pairs to learn from."""
    train = [pair for pair in pairs if pair.split == "train"]
    if not pairs:
        raise RunError("there are no pairs to learn from: the export holds no judged comparison")
    if not train:
        raise RunError(
            f"there are no pairs to learn from: of the export's {len(pairs)} pairs, all are held "
            "out. Judge comparisons of more prompts, and export again"
        )
    if not any(pair.weight for pair in train):
        raise RunError(
            f"all {len(train)} pairs to learn from have weight 0: give some of them more"
        )
    n = len(decided_pairs(pairs))
    if n == 0:
        raise RunError(
            f"all {len(train)} pairs to learn from are ties, which do not say what people prefer: "
            "judge more comparisons, and export again"
        )
    if n < config.min_pairs:
        raise RunError(
            f"only {n} of the {len(train)} pairs to learn from are decided, and "
            f"min_pairs={config.min_pairs}: judge more comparisons and export again, or lower "
            "min_pairs if this is only to try"
        )


def decided_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs to learn from that say what people prefer, and count."""
    return [p for p in pairs if p.split == "train" and p.p_chosen != 0.5 and p.weight > 0]


def check_chat_template(tokenizer: PreTrainedTokenizerBase, base: Path) -> None:
    if not tokenizer.chat_template:
        raise RunError(
            f"the tokenizer in {base} has no chat template, which says how a conversation becomes "
            "text: put its chat_template.jinja there, or import the model again, which adds a "
            "plain one"
        )


def check_lengths(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    config: RewardModelConfig,
    longest: int | None = None,
) -> None:
    """Raises RunError if fewer than `min_pairs` decided pairs are short enough to learn from, for the
    run and for a base that takes at most `longest` tokens.

    Stops at the first so many: of a large export only some pairs become tokens here.
    """
    from rlhf.training.models import encode, encode_completion  # noqa: PLC0415 (imports torch)

    decided, n = decided_pairs(pairs), 0
    most = min(config.max_tokens, longest or config.max_tokens)
    for pair in decided:
        prompt = len(encode(tokenizer, pair.prompt))
        chosen = encode_completion(tokenizer, pair.chosen, truncated=pair.chosen_truncated)
        rejected = encode_completion(tokenizer, pair.rejected, truncated=pair.rejected_truncated)
        n += prompt + max(len(chosen), len(rejected)) <= most
        if n == config.min_pairs:
            return
    found = "none" if n == 0 else f"only {n}"
    if most < config.max_tokens:
        raise RunError(
            f"of {len(decided)} decided pairs to learn from, {found} have at most {most} tokens, which "
            f"is all that the base can read, and min_pairs={config.min_pairs}: choose another base, "
            "or judge shorter completions"
        )
    raise RunError(
        f"of {len(decided)} decided pairs to learn from, {found} have at most "
        f"max_tokens={config.max_tokens} tokens, and min_pairs={config.min_pairs}: raise "
        "max_tokens, or judge shorter completions"
    )

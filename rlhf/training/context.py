"""How many tokens a model can read at once, and how a run keeps within them.

Beyond them, models with learned positions (GPT-2, OPT) have no place to look up, and those with rotary ones
compute on with what they have never learned. Both are kept within what their configuration says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from rlhf.training.artifacts import RunError
from rlhf.training.models import check_folders
from rlhf.training.virtual_tokens import n_virtual_tokens


def context_of(reference: dict[str, Any]) -> int | None:
    """Of `{"base": folder, "adapters": […]}`, less what virtual tokens take; None: as many as there is memory
    for. Raises RunError for missing files."""
    check_folders(reference)
    found = places_in(AutoConfig.from_pretrained(reference["base"], trust_remote_code=False))
    return None if found is None else found - n_virtual_tokens(reference["adapters"])


def places_in(config: PretrainedConfig) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def room_beside(reference: dict[str, Any], taken: int) -> int | None:
    """Tokens that the model can read beside those that are taken, by its answer or by virtual tokens; None: any
    number. Raises RunError if there are none."""
    context = context_of(reference)
    if context is None:
        return None
    if context <= taken:
        raise RunError(
            f"The model has room for {context} tokens at once, and {taken} are to be written or learned: "
            "that leaves none for a prompt. Choose fewer, or another model."
        )
    return context - taken


def at_most(tokens: int, reference: dict[str, Any], taken: int = 0) -> int:
    """So many tokens, or as many as the model has room for beside those that are taken.

    Example: 512 tokens beside an answer of 128, in a context of 256 -> 128. Raises RunError if there is no room.
    """
    room = room_beside(reference, taken)
    return tokens if room is None else min(tokens, room)


def windows(
    before: Sequence[int], ids: Sequence[int], longest: int | None
) -> Iterator[tuple[list[int], list[int]]]:
    """What is read, and what of it is new: each token is new once, in windows of `longest` tokens, with half a
    window before it where there is so much.

    Example: before [0], ids [1, 2, 3, 4, 5, 6] and 4 tokens -> ([0], [1, 2, 3]), ([2, 3], [4, 5]), ([4, 5], [6]).
    """
    whole = [*before, *ids]
    longest = longest or len(whole)
    start, end = len(before), min(longest, len(whole))
    yield whole[:start], whole[start:end]
    while end < len(whole):
        start, end = end, min(end + longest - longest // 2, len(whole))
        yield whole[start - longest // 2 : start], whole[start:end]

"""Scores of many completions at the cost of few tokens: shared prompts, and a trunk that is kept.

A row is a prompt followed by one completion or several. Each completion sees the prompt and itself, and
counts its positions on from the prompt's end, so that its score is what it would be alone; the prompt is
computed once. Where adapters lie on the top k layers only, what enters layer L - k does not change in
training: it is computed once for every row and kept, in memory or in a file, for all epochs, all members
of an ensemble and all evaluations. Encoders (classifiers.py) do neither: their tokens see all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from rlhf.training.artifacts import Stopped
from rlhf.training.classifiers import encoder_scores, score_head
from rlhf.training.config import RewardModelConfig
from rlhf.training.forward import backbone_of, is_alike, layers_of, similar_lengths, top_layers
from rlhf.training.models import is_encoder, merges_adapters, n_reusing_layers, using_adapter
from rlhf.training.reward_data import Group
from rlhf.training.savings import (
    IN_WINDOWS,
    NO_TRUNK_OF_ENCODERS,
    RUN_ALONE,
    SCORES_DIFFER,
    SEES_ALL,
    Savings,
    prompts_note,
    trunk_note,
)
from rlhf.training.trunk import TrunkStates, trunk_states

TOKENS_AT_ONCE = 2048  # per forward without gradients, padding included


# --- rows -------------------------------------------------------------------------------------
class Row(NamedTuple):
    """A prompt and one completion or more, as they run through the model together."""

    prompt: list[int]
    completions: list[list[int]]

    @property
    def n_tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


class Batch(NamedTuple):
    """B rows of up to L tokens, with C completions in all."""

    inputs: dict[str, Tensor]  # as the backbone takes them
    row: Tensor  # (C,) of each completion
    end: Tensor  # (C,) column of its last token


def collate_rows(
    rows: Sequence[Row], device: torch.device, states: Sequence[Tensor] | None = None
) -> Batch:
    """One micro-batch, padded on the right. `states`, the trunk's of each row (tokens, D), take the
    place of the tokens.

    Example: prompt [5, 6] with completions [7, 2] and [8] -> input_ids [5, 6, 7, 2, 8], position_ids
    [0, 1, 2, 3, 2], ends [3, 4]; the 8 sees 5, 6 and itself. Rows of one completion each need no
    mask: under causal attention no real token sees the padding.
    """
    inputs: dict[str, Tensor] = {}
    if states is not None:
        inputs["inputs_embeds"] = pad_sequence(list(states), batch_first=True).to(device)
    else:
        ids = [torch.tensor([*row.prompt, *chain(*row.completions)]) for row in rows]
        inputs["input_ids"] = pad_sequence(ids, batch_first=True).to(device)
    if any(len(row.completions) > 1 for row in rows):
        segments, positions = zip(*map(_layout, rows), strict=True)
        inputs["position_ids"] = pad_sequence(list(positions), batch_first=True).to(device)
        inputs["attention_mask"] = _mask(pad_sequence(list(segments), batch_first=True)).to(device)
    places = [(number, end) for number, row in enumerate(rows) for end in _ends(row)]
    row_of, end_of = torch.tensor(places).T
    return Batch(inputs, row_of.to(device), end_of.to(device))


def _layout(row: Row) -> tuple[Tensor, Tensor]:
    """Of each token its segment, 0 for the prompt, 1 for the first completion, …, and its position."""
    start = len(row.prompt)
    segments = [0] * start
    positions = list(range(start))
    for number, completion in enumerate(row.completions, 1):
        segments += [number] * len(completion)
        positions += range(start, start + len(completion))
    return torch.tensor(segments), torch.tensor(positions)


def _mask(segments: Tensor) -> Tensor:
    """(B, L) -> (B, 1, L, L): may token i see token j? Padding counts as prompt: it sees something,
    so that no row of the softmax is empty, and comes after all that counts."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    of_prompt = segments.unsqueeze(1) == 0
    of_the_same = segments.unsqueeze(1) == segments.unsqueeze(2)
    return (causal & (of_prompt | of_the_same)).unsqueeze(1)


def _ends(row: Row) -> Iterator[int]:
    """Column of each completion's last token; of one that says nothing, the prompt's last."""
    end = len(row.prompt) - 1
    for completion in row.completions:
        end += len(completion)
        yield end if completion else len(row.prompt) - 1


def row_scores(layers: nn.Module, head: nn.Module, batch: Batch) -> Tensor:
    """Raw scores under the active adapter, (C,), read at each completion's last token."""
    hidden = layers(**batch.inputs, use_cache=False).last_hidden_state  # (B, L, D)
    return head(hidden[batch.row, batch.end]).squeeze(-1)


@torch.no_grad()
def shares_prompts(model: nn.Module) -> bool:
    """Whether completions that share a row score as each would alone: not where a model attends in
    windows, has its own idea of positions, or takes no mask."""
    if attends_in_windows(model):
        return False
    backbone = backbone_of(model)
    together = [Row([1, 2, 3, 4], [[5, 6], [7], [5, 8, 9]])]
    alone = [Row([1, 2, 3, 4], [completion]) for completion in together[0].completions]
    try:
        found, expected = (
            backbone(**batch.inputs, use_cache=False).last_hidden_state[batch.row, batch.end]
            for batch in (collate_rows(rows, backbone.device) for rows in (together, alone))
        )
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return is_alike(found, expected)


def attends_in_windows(model: nn.Module) -> bool:
    config = backbone_of(model).config.get_text_config()
    return bool(getattr(config, "sliding_window", None))


# --- scoring ----------------------------------------------------------------------------------
class Scorer:
    """The rows of some groups of completions, and how a reward model scores them."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        groups: Sequence[Group],
        *,
        share_prompts: bool,
        reuse_trunk: bool,
    ) -> None:
        self.model = model
        self.head = score_head(model)
        self.is_encoder = is_encoder(model.config)
        self.groups = list(groups)
        self.rows: list[Row] = []
        self.rows_of: list[list[int]] = []  # of each group
        self.shares_prompts = share_prompts and not self.is_encoder and shares_prompts(model)
        for group in groups:
            together = [Row(group.prompt, group.completions)]
            alone = [Row(group.prompt, [completion]) for completion in group.completions]
            added = together if self.shares_prompts else alone
            self.rows_of.append(list(range(len(self.rows), len(self.rows) + len(added))))
            self.rows += added
        self.top = n_reusing_layers(model) if reuse_trunk and not self.is_encoder else 0
        self.states: TrunkStates | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def layers(self) -> nn.Module:
        backbone = backbone_of(self.model)
        return top_layers(backbone, self.top) if self.states else backbone

    def savings(self, config: RewardModelConfig) -> Savings:
        """What is in force of that which the configuration asks for."""
        n = len(layers_of(backbone_of(self.model))[1])
        asked = config.adapter_layers or n
        notes = []
        if config.reuse_trunk and asked < n and not self.top:
            reason = NO_TRUNK_OF_ENCODERS if self.is_encoder else RUN_ALONE
            notes.append(trunk_note(n, asked, n, reason))
        if config.share_prompts and not self.shares_prompts:
            notes.append(prompts_note(self._why_apart()))
        return Savings(
            n,
            self.top,
            merges_adapters(self.model) if isinstance(self.model, PeftModel) else None,
            notes,
            self.shares_prompts,
            len(self.rows),
            sum(len(group.completions) for group in self.groups),
        )

    def _why_apart(self) -> str:
        if self.is_encoder:
            return SEES_ALL
        return IN_WINDOWS if attends_in_windows(self.model) else SCORES_DIFFER

    def keep_trunk(self, file: Path, should_stop: Callable[[], bool]) -> None:
        """Compute the lower layers' states of all rows, if they can be used again.

        Batches are made in one way only, so that a resumed run has the same states to the last bit.
        """
        if not self.top or self.states:
            return
        backbone = backbone_of(self.model)
        lengths = [row.n_tokens for row in self.rows]
        states = TrunkStates(lengths, backbone.get_input_embeddings().weight, file)
        for places in similar_lengths(lengths, TOKENS_AT_ONCE):
            if should_stop():
                raise Stopped
            batch = collate_rows([self.rows[place] for place in places], self.device)
            computed = trunk_states(backbone, self.top, batch.inputs)
            for place, of_row in zip(places, computed, strict=True):
                states[place].copy_(of_row[: lengths[place]])
        self.states = states

    def scores(self, rows: Sequence[int]) -> Tensor:
        """Raw scores of all completions of these rows, (C,), row after row."""
        states = [self.states[row] for row in rows] if self.states else None
        chosen = [self.rows[row] for row in rows]
        is_adapted = isinstance(self.model, PeftModel)
        with using_adapter(self.model, "default") if is_adapted else nullcontext():
            if self.is_encoder:
                return encoder_scores(
                    self.model,
                    [row.prompt for row in chosen],
                    [row.completions[0] for row in chosen],
                )
            batch = collate_rows(chosen, self.device, states)
            return row_scores(self.layers, self.head, batch)

    @torch.no_grad()
    def score_groups(
        self, groups: Sequence[int], should_stop: Callable[[], bool]
    ) -> list[list[float]]:
        """Of each group the scores of its completions."""
        rows = [row for group in groups for row in self.rows_of[group]]
        found: dict[int, list[float]] = {}
        lengths = [self.rows[row].n_tokens for row in rows]
        for places in similar_lengths(lengths, TOKENS_AT_ONCE):
            if should_stop():
                raise Stopped
            chosen = [rows[place] for place in places]
            sizes = [len(self.rows[row].completions) for row in chosen]
            for row, values in zip(chosen, self.scores(chosen).split(sizes), strict=True):
                found[row] = values.tolist()
        return [list(chain(*(found[row] for row in self.rows_of[group]))) for group in groups]

    def micro_batches(self, groups: Sequence[int], tokens: int) -> Iterator[list[int]]:
        """The groups, those of similar length together, in micro-batches of up to `tokens` tokens with
        their padding, or of one group: a group is never divided, because its pairs are not."""
        batch: list[int] = []
        n_rows = 0
        for group in sorted(groups, key=self._longest):
            n_added = len(self.rows_of[group])
            if batch and (n_rows + n_added) * self._longest(group) > tokens:
                yield batch
                batch, n_rows = [], 0
            batch.append(group)
            n_rows += n_added
        if batch:
            yield batch

    def _longest(self, group: int) -> int:
        return max(self.rows[row].n_tokens for row in self.rows_of[group])

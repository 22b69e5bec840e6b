"""Sampling completions from a policy, and the run *generate completions*.

The decode loop is our own, so that the log-probability of each sampled token is kept (PPO needs
them) and finished rows leave the batch: the cost follows the real lengths, not the longest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError, RunFolder, Stopped, whole_lines
from rlhf.training.config import GenerateConfig
from rlhf.training.context import room_beside
from rlhf.training.data import Generated, PromptLine, read_prompts
from rlhf.training.forward import Watch, backbone_of, vocabulary_head, watching
from rlhf.training.models import (
    decode,
    default_device,
    encode,
    load_policy,
    stop_ids,
)
from rlhf.training.prompting import arrange_all, prompter_of, prompting_result
from rlhf.training.trunk import TrunkStates
from rlhf.training.virtual_tokens import begun, prefix_of

PREFILL = 8  # prompts of similar length computed together


class Sampled(NamedTuple):
    """One completion as it was sampled. `ids` ends with the stop token unless `truncated`."""

    ids: list[int]
    logprobs: list[float]  # of each token, at the sampling temperature
    entropies: list[float]  # of the distribution each token was drawn from, in nats
    truncated: bool
    values: list[float]  # of the state before each token; empty without a value head
    states: Tensor | None  # (prompt + completion, D) that entered the watched layer


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop: set[int],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    completions_per_prompt: int = 1,
    value_head: nn.Module | None = None,
    watch: nn.Module | None = None,
    states_file: Path = Path("trunk.states"),
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Sampled]:
    """Sample from the full distribution (no top-k, no top-p), as the log-probabilities assume.

    Several completions of a prompt share its prefill; they stand next to each other in the list.
    On the way, `value_head` says the value of each state, and what enters the layer `watch` is
    kept, if it is large in `states_file`. Raises Stopped as soon as `should_stop()` says so.
    """
    n, device = completions_per_prompt, generator.device
    shape = len(prompts) * n, max_new_tokens
    ids = torch.zeros(shape, dtype=torch.long, device=device)
    logprobs, entropies, values = torch.zeros(3, *shape, device=device)
    n_tokens = torch.zeros(shape[0], dtype=torch.long, device=device)
    truncated = torch.ones(shape[0], dtype=torch.bool, device=device)
    stop_tokens = torch.tensor(sorted(stop), device=device)
    with watching(watch) as watched:
        lengths = [len(prompt) + max_new_tokens for prompt in prompts for _ in range(n)]
        room = partial(TrunkStates, lengths, file=states_file)
        decoding = Decoding(model, prompts, n, device, watched, room, prefix_of(model))
        for step in range(max_new_tokens):
            if should_stop():
                raise Stopped
            rows = decoding.rows
            logits = decoding.logits(temperature)  # (rows, V)
            norm = logits.logsumexp(-1, keepdim=True)
            probabilities = (logits - norm).exp_()
            token = draw(probabilities, generator)  # (rows, 1)
            ids[rows, step] = token.squeeze(1)
            logprobs[rows, step] = (logits.gather(-1, token) - norm).squeeze(1)
            entropies[rows, step] = norm.squeeze(1) - (probabilities * logits).sum(-1)
            if value_head:
                values[rows, step] = value_head(decoding.hidden)
            n_tokens[rows] = step + 1
            truncated[rows] = ~torch.isin(token.squeeze(1), stop_tokens)
            going = truncated[rows] & (step < max_new_tokens - 1)
            if watch:  # what enters the layer with the last token is wanted too
                decoding.advance(token)
                decoding.keep(going)
            else:
                decoding.keep(going)
                decoding.advance(token[going])
            if not len(decoding.rows):
                break
    return [
        Sampled(
            ids[row, :length].tolist(),
            logprobs[row, :length].tolist(),
            entropies[row, :length].tolist(),
            bool(truncated[row]),
            values[row, :length].tolist() if value_head else [],
            decoding.states_of(row, length),
        )
        for row, length in enumerate(n_tokens.tolist())
    ]


def draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One token per row of (rows, V), (rows, 1)."""
    number = torch.rand(
        len(probabilities), 1, generator=generator, device=generator.device, dtype=torch.float64
    )
    return invert(probabilities, number)


def invert(probabilities: Tensor, number: Tensor) -> Tensor:
    """The tokens, (rows, 1), at which the distribution functions of (rows, V) reach these numbers.

    `torch.multinomial` draws a random number for every token of the vocabulary instead of one.
    """
    cumulated = probabilities.double().cumsum(-1)
    token = torch.searchsorted(cumulated, number * cumulated[:, -1:], right=True)
    return token.clamp_(max=probabilities.shape[-1] - 1)


class Decoding:
    """A batch of unfinished completions with their key-value cache: one token further at a time.

    The same prompt `n` times is computed once. Prompts are padded on the right, where no real token
    sees the padding; the mask hides it from the tokens that follow.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        n: int,
        device: torch.device,
        watched: Watch | None = None,
        room: Callable[[Tensor], TrunkStates] | None = None,
        prefix: DynamicCache | None = None,
    ) -> None:
        """`room` makes the room for what enters the watched layer, given a first state; `prefix` are
        the keys and values of virtual tokens before every prompt."""
        self.backbone, self.head, self.watched = backbone_of(model), vocabulary_head(model), watched
        self.prompts, self.n, self.room, self.prefix = prompts, n, room, prefix
        self.states: TrunkStates | None = None  # of each completion, if a layer is watched
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        groups = [order[start : start + PREFILL] for start in range(0, len(order), PREFILL)]
        prefilled = [self._prefill(group, device) for group in groups]
        self.cache = joined([cache for _, cache in prefilled])
        if n > 1:
            self.cache.batch_repeat_interleave(n)
        self.hidden = torch.cat([hidden for hidden, _ in prefilled]).repeat_interleave(n, 0)
        lengths = torch.tensor([len(prompts[place]) for place in order], device=device)
        column = torch.arange(int(lengths.max()), device=device)
        mask = (column < lengths.unsqueeze(1)).long()
        virtual = mask.new_ones(len(mask), prefix.get_seq_length() if prefix else 0)
        self.mask = torch.cat([virtual, mask], 1).repeat_interleave(n, 0)  # (rows, width)
        # Which completion a line of the batch is.
        self.rows = torch.tensor(
            [place * n + k for place in order for k in range(n)], device=device
        )

    def _prefill(self, places: Sequence[int], device: torch.device) -> tuple[Tensor, DynamicCache]:
        """The last token's hidden state and the cache of these prompts."""
        cache = begun(self.prefix, len(places))
        ids = [torch.tensor(self.prompts[place]) for place in places]
        hidden = self.backbone(
            input_ids=pad_sequence(ids, batch_first=True).to(device),
            past_key_values=cache,
            use_cache=True,
        )
        self._keep_prompts(places)
        last = torch.tensor([len(prompt) - 1 for prompt in ids])
        return hidden.last_hidden_state[torch.arange(len(last)), last], cache

    def _keep_prompts(self, places: Sequence[int]) -> None:
        """What has entered the watched layer with these prompts, for each of their completions."""
        if not self.watched:
            return
        if self.states is None:
            assert self.room is not None
            self.states = self.room(self.watched.states)
        for place, states in zip(places, self.watched.states, strict=True):
            length = len(self.prompts[place])
            for k in range(self.n):
                self.states[place * self.n + k][:length] = states[:length]

    def states_of(self, row: int, n_tokens: int) -> Tensor | None:
        """What has entered the watched layer with a prompt and so many tokens after it."""
        if self.states is None:
            return None
        return self.states[row][: len(self.prompts[row // self.n]) + n_tokens]

    def logits(self, temperature: float) -> Tensor:
        """Of the next token, at the sampling temperature: (rows, V), fp32."""
        return self.head(self.hidden).float().div_(temperature)

    def advance(self, token: Tensor) -> None:
        """Append one token, (rows, 1), to every row."""
        if not len(self.rows):
            return
        positions = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(token), 1)], 1)
        self.hidden = self.backbone(
            input_ids=token,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        if self.watched and self.states:
            self.states.put(self.rows, positions[:, 0], self.watched.states[:, 0])

    def keep(self, going: Tensor) -> None:
        """Drop the rows that are finished: the cost follows the real lengths."""
        if going.all():
            return
        places = going.nonzero().squeeze(1)
        if len(places):
            self.cache.batch_select_indices(places)
        self.rows, self.mask, self.hidden = (
            self.rows[places],
            self.mask[places],
            self.hidden[places],
        )


def joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """One cache of all rows, padded on the right to the longest."""
    width = max(cache.get_seq_length() for cache in caches)

    def pad(states: Tensor) -> Tensor:  # (rows, heads, tokens, size)
        return F.pad(states, (0, 0, 0, width - states.shape[-2]))

    whole = DynamicCache()
    for number, layers in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        keys, values = (
            [pad(getattr(layer, name)) for layer in layers] for name in ("keys", "values")
        )
        whole.update(torch.cat(keys), torch.cat(values), number)
    return whole


class EncodedPrompt(NamedTuple):
    line: PromptLine
    ids: list[int]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, lines: Sequence[PromptLine], max_prompt_tokens: int
) -> tuple[list[EncodedPrompt], int]:
    """Prompts that fit, and how many were left out as too long: none is cut in the middle.

    Raises RunError if none is left.
    """
    encoded = [EncodedPrompt(line, encode(tokenizer, line.messages)) for line in lines]
    fitting = [prompt for prompt in encoded if len(prompt.ids) <= max_prompt_tokens]
    if not encoded:
        raise RunError("There are no prompts to answer.")
    if not fitting:
        shortest = min(len(prompt.ids) for prompt in encoded)
        raise RunError(
            f"All {len(encoded)} prompts are longer than {max_prompt_tokens} tokens; the shortest "
            f"has {shortest}. Raise the limit on prompt tokens or import shorter prompts."
        )
    return fitting, len(encoded) - len(fitting)


def encode_arranged(
    reference: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    lines: Sequence[PromptLine],
    max_prompt_tokens: int,
    max_new_tokens: int,
    folder: RunFolder,
    side: str = "",
) -> tuple[list[EncodedPrompt], int]:
    """As `encode_prompts`, with what a prompt version puts around each, and room for the answer.

    Which prompts are too long is decided by the prompts alone, so that a policy answers the same ones with and
    without it; the whole has a budget of its own. Only what has no room in the model's context even without
    examples and passages is left out besides.
    """
    room = room_beside(reference, max_new_tokens)
    limit = max_prompt_tokens if room is None else min(max_prompt_tokens, room)
    prompts, too_long = encode_prompts(tokenizer, lines, limit)
    prompter = prompter_of(reference, tokenizer.all_special_tokens, room)
    if prompter is None:
        return prompts, too_long

    def count(messages: list[dict[str, str]]) -> int:
        return len(encode(tokenizer, messages))

    fitting = [prompt.line for prompt in prompts]
    arranged = arrange_all(prompter, fitting, count, folder, side)
    whole = [EncodedPrompt(line, encode(tokenizer, line.messages)) for line in arranged]
    if room is None:
        return whole, too_long
    with_room = [prompt for prompt in whole if len(prompt.ids) <= room]
    if not with_room:
        raise RunError(
            f"What the prompt version puts around each prompt leaves no room in the {room} tokens that the "
            "model can read before an answer: shorten its instructions, or choose another model."
        )
    return with_room, too_long + len(whole) - len(with_room)


def length_buckets(prompts: Sequence[EncodedPrompt], size: int) -> Iterator[list[EncodedPrompt]]:
    """Batches of prompts of similar length, which need little padding."""
    ordered = sorted(prompts, key=lambda prompt: (len(prompt.ids), prompt.line.id))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


class GenerationBatch(NamedTuple):
    """What is sampled at once: `n` completions each, the first of them number `first`."""

    prompts: list[EncodedPrompt]
    first: int
    n: int


def generation_batches(
    prompts: Sequence[EncodedPrompt], completions_per_prompt: int, batch_size: int
) -> list[GenerationBatch]:
    """Up to `batch_size` completions each: of several prompts, or a part of those of one."""
    n = min(completions_per_prompt, batch_size)
    return [
        GenerationBatch(bucket, first, min(n, completions_per_prompt - first))
        for bucket in length_buckets(prompts, batch_size // n)
        for first in range(0, completions_per_prompt, n)
    ]


def generate_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[EncodedPrompt],
    *,
    completions_per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int,
    kept: Path,
    folder: RunFolder,
    done: int = 0,
    total: int | None = None,
) -> list[Generated]:
    """Completions of all prompts, in batches of similar length.

    Each finished batch is appended to `kept`, and batches found there are not done again: a
    stopped or killed run goes on where it was. A batch's seed is its number, so that the text
    does not depend on where the run was interrupted. Progress counts from `done` up to `total`.
    """
    batches = generation_batches(prompts, completions_per_prompt, batch_size)
    total = total if total is not None else len(batches)
    finished = read_kept(kept)
    device = next(model.parameters()).device
    stop = stop_ids(model, tokenizer)
    began = time.monotonic()
    fresh = 0
    for number, batch in enumerate(batches):
        if number in finished:
            continue
        if folder.should_stop():
            raise Stopped
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + number)
        sampled = sample(
            model,
            [prompt.ids for prompt in batch.prompts],
            stop=stop,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            generator=generator,
            completions_per_prompt=batch.n,
            should_stop=folder.should_stop,
        )
        finished[number] = [
            Generated(
                batch.prompts[row // batch.n].line.id,
                batch.first + row % batch.n,
                decode(tokenizer, completion.ids),
                len(completion.ids),
                completion.truncated,
            )
            for row, completion in enumerate(sampled)
        ]
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps([number, finished[number]], ensure_ascii=False) + "\n")
        fresh += 1
        report_batch(folder, batch.prompts, finished[number], step=done + number + 1)
        per_batch = (time.monotonic() - began) / fresh
        left = total - done - len(finished)
        folder.progress(done + len(finished), total, eta_seconds=per_batch * left)
    return sorted(completion for number in finished for completion in finished[number])


def n_written(completions: Iterable[Generated]) -> int:
    """Tokens of all answers, those of before a stop included."""
    return sum(row.n_tokens for row in completions)


def report_batch(
    folder: RunFolder, batch: Sequence[EncodedPrompt], generated: Sequence[Generated], step: int
) -> None:
    """Mean length and the first answer of a batch, for the run's page."""
    tokens = [completion.n_tokens for completion in generated]
    truncated = [completion.truncated for completion in generated]
    folder.metrics(
        step,
        {
            "length/mean": sum(tokens) / len(tokens),
            "length/truncated_share": sum(truncated) / len(truncated),
        },
    )
    folder.sample(step, 0, batch[0].line.messages, generated[0].completion)


def read_kept(path: Path) -> dict[int, list[Generated]]:
    """Finished batches by number. A half-written last line, of a killed run, is not counted."""
    finished: dict[int, list[Generated]] = {}
    for line in whole_lines(path):
        number, rows = json.loads(line)
        finished[number] = [Generated(*row) for row in rows]
    return finished


def run(config: GenerateConfig, folder: RunFolder) -> dict[str, Any]:
    """The run: prompts.jsonl in, artifact/completions.jsonl out."""
    folder.phase("loading the model")
    model, tokenizer = load_policy(config.model, default_device(), may_wrap=True)
    lines = read_prompts(folder.path / config.prompts)
    prompts, too_long = encode_arranged(
        config.model, tokenizer, lines, config.max_prompt_tokens, config.max_new_tokens, folder
    )
    folder.phase("generating")
    began = time.monotonic()
    completions = generate_all(
        model,
        tokenizer,
        prompts,
        completions_per_prompt=config.completions_per_prompt,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=config.seed,
        kept=folder.path / "generated.jsonl",
        folder=folder,
    )
    seconds = time.monotonic() - began
    with folder.writing_artifact() as artifact:
        rows = [json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in completions]
        (artifact / "completions.jsonl").write_text("".join(rows), encoding="utf-8")
    return {
        "n_prompts": len(prompts),
        "n_completions": len(completions),
        "left_out": {"too_long": too_long},
        **prompting_result(folder),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(sum(row.n_tokens for row in completions) / seconds, 1),
        "tokens": {"written": n_written(completions)},
    }

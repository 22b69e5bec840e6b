"""Sampling completions from a policy, and the run *generate completions*.

The decode loop is our own, so that the log-probability of each sampled token is kept (PPO needs
them) and finished rows leave the batch: the cost follows the real lengths, not the longest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError, RunFolder, Stopped
from rlhf.training.config import GenerateConfig
from rlhf.training.data import PromptLine, read_prompts
from rlhf.training.models import (
    decode,
    default_device,
    encode,
    gather_logprobs,
    load_policy,
    stop_ids,
)


class Sampled(NamedTuple):
    """One completion as it was sampled. `ids` ends with the stop token unless `truncated`."""

    ids: list[int]
    logprobs: list[float]  # of each token, at the sampling temperature
    entropies: list[float]  # of the distribution each token was drawn from, in nats
    truncated: bool


@torch.no_grad()
def sample(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop: set[int],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    completions_per_prompt: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Sampled]:
    """Sample from the full distribution (no top-k, no top-p: rlhf-notes B1).

    Several completions of a prompt share its prefill; they stand next to each other in the list.
    Raises Stopped as soon as `should_stop()` says so.
    """
    device = generator.device
    n = completions_per_prompt
    rows = len(prompts) * n
    width = max(len(ids) for ids in prompts)
    input_ids = torch.zeros(len(prompts), width, dtype=torch.long)
    attention_mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):  # on the right: every row ends with its last token
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1
    attention_mask = attention_mask.to(device)
    cache = DynamicCache()
    output = model(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    if n > 1:
        cache.batch_repeat_interleave(n)
    logits = output.logits[:, -1].repeat_interleave(n, 0)  # (rows, V)
    attention_mask = attention_mask.repeat_interleave(n, 0)
    positions = attention_mask.sum(1)  # (rows,) of the next token

    stop_tokens = torch.tensor(sorted(stop), device=device)
    alive = torch.arange(rows, device=device)  # which row each line of the batch is
    ids: list[list[int]] = [[] for _ in range(rows)]
    logprobs: list[list[float]] = [[] for _ in range(rows)]
    entropies: list[list[float]] = [[] for _ in range(rows)]
    truncated = [True] * rows
    for step in range(max_new_tokens):
        if should_stop():
            raise Stopped
        probabilities = (logits.float() / temperature).softmax(-1)  # (alive, V)
        token = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)  # (alive,)
        logprob = gather_logprobs(logits, token, temperature)
        entropy = torch.special.entr(probabilities).sum(-1)
        ended = torch.isin(token, stop_tokens)
        for row, *values, is_end in zip(
            alive.tolist(), token.tolist(), logprob.tolist(), entropy.tolist(), ended.tolist(),
            strict=True,
        ):  # fmt: skip
            ids[row].append(values[0])
            logprobs[row].append(values[1])
            entropies[row].append(values[2])
            if is_end:
                truncated[row] = False
        going = ~ended
        if not going.any() or step == max_new_tokens - 1:
            break
        if not going.all():
            keep = going.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            alive, token, positions = alive[keep], token[keep], positions[keep]
            attention_mask = attention_mask[keep]
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(alive), 1)], 1)
        logits = model(
            input_ids=token.unsqueeze(1),
            attention_mask=attention_mask,
            position_ids=positions.unsqueeze(1),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        positions = positions + 1
    return list(map(Sampled, ids, logprobs, entropies, truncated))


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


def length_buckets(prompts: Sequence[EncodedPrompt], size: int) -> Iterator[list[EncodedPrompt]]:
    """Batches of prompts of similar length, which need little padding."""
    ordered = sorted(prompts, key=lambda prompt: (len(prompt.ids), prompt.line.id))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


class Generated(NamedTuple):
    """One line of completions.jsonl."""

    id: int  # of the prompt
    index: int  # type: ignore[assignment]  # among the prompt's completions; hides tuple.index
    completion: str
    n_tokens: int
    truncated: bool


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
    size = max(1, batch_size // completions_per_prompt)
    batches = list(length_buckets(prompts, size))
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
            [prompt.ids for prompt in batch],
            stop=stop,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            generator=generator,
            completions_per_prompt=completions_per_prompt,
            should_stop=folder.should_stop,
        )
        finished[number] = [
            Generated(
                batch[row // completions_per_prompt].line.id,
                row % completions_per_prompt,
                decode(tokenizer, completion.ids),
                len(completion.ids),
                completion.truncated,
            )
            for row, completion in enumerate(sampled)
        ]
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps([number, finished[number]], ensure_ascii=False) + "\n")
        fresh += 1
        report_batch(folder, batch, finished[number], step=done + number + 1)
        per_batch = (time.monotonic() - began) / fresh
        left = total - done - len(finished)
        folder.progress(done + len(finished), total, eta_seconds=per_batch * left)
    return sorted(completion for number in finished for completion in finished[number])


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
    if not path.exists():
        return finished
    content = path.read_text(encoding="utf-8")
    whole, _, rest = content.rpartition("\n")
    for line in whole.splitlines():
        number, rows = json.loads(line)
        finished[number] = [Generated(*row) for row in rows]
    if rest:  # cut it off, so that the next line starts at a line's start
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return finished


def run(config: GenerateConfig, folder: RunFolder) -> dict[str, Any]:
    """The run: prompts.jsonl in, artifact/completions.jsonl out."""
    folder.phase("loading the model")
    model, tokenizer = load_policy(config.model, default_device())
    prompts, too_long = encode_prompts(
        tokenizer, read_prompts(folder.path / config.prompts), config.max_prompt_tokens
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
        lines = [json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in completions]
        (artifact / "completions.jsonl").write_text("".join(lines), encoding="utf-8")
    return {
        "n_prompts": len(prompts),
        "n_completions": len(completions),
        "left_out": {"too_long": too_long},
        "seconds": round(seconds, 1),
        "tokens_per_second": round(sum(row.n_tokens for row in completions) / seconds, 1),
    }

"""A model that says which of two answers is better, asked twice: with each of the two standing first.

A model here is not made to write: what counts is whether A or B is the likelier word at the place of the
answer, and how much likelier: what a place is worth to it is the same in both questions, so it cancels out between
them. One elsewhere writes, and is believed only if it says nothing but a letter. What a prompt version puts
around a question stands around this one. How far such a verdict can be trusted is for its agreement with
people to say (suite.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError, RunFolder, Stopped, whole_lines
from rlhf.training.ask import Asker
from rlhf.training.config import is_endpoint
from rlhf.training.data import PromptLine
from rlhf.training.endpoint import prompt_tokens
from rlhf.training.forward import (
    backbone_of,
    collate,
    hidden_states,
    similar_lengths,
    vocabulary_head,
)
from rlhf.training.models import encode, load_policy
from rlhf.training.prompting import JUDGE, Count, arrange_all, prompter_of
from rlhf.training.virtual_tokens import begun, n_virtual_tokens, prefix_of

TOKENS_AT_ONCE = 2048  # padding included
REPLY_TOKENS = 16  # of a judge elsewhere: a letter, and what some put around it

# What the judge is asked, for the page too. Texts are put in as they are.
PROMPT = """\
Two assistants were asked the same. Decide which of their answers is better for whoever asked: more helpful, \
more correct, and safe. Length by itself is no merit, and neither is the order in which they stand.

[What was asked]
{question}

[Answer A]
{a}

[Answer B]
{b}

Which answer is better? Reply with one letter only, A or B."""
Either = TypeVar("Either")
VERDICT = re.compile(r"[\s*_`\"'(\[]*(?:[Aa]nswer:?\s*)?[*_`\"'(\[]*([AB])[\s*_`\"')\].]*")


class Contest(NamedTuple):
    """Two answers to what was asked."""

    messages: list[dict[str, str]]
    new: str
    old: str


class Verdicts(NamedTuple):
    """Of each contest: with the new answer as A, and with the new answer as B; "" could not be read."""

    pairs: list[tuple[str, str]]
    mass: float | None  # mean probability of a letter at all; None for a judge elsewhere
    askers: list[Asker]
    leanings: list[float | None]  # nats, above 0 to the new answer; None where nobody can know


class Said(NamedTuple):
    """To one question: the likelier letter, how likely a letter is, and log P(A) / P(B)."""

    letter: str  # "" where both are as likely, or the question is too long
    mass: float | None = None
    odds: float | None = None


def leaning(first: Said, second: Said) -> float | None:
    """Of a pair, from both orders. Example: log odds of 3 with the new answer as A, and of 2 with the old one
    there: 0.5, although it says A both times."""
    if first.odds is None or second.odds is None:
        return None
    return (first.odds - second.odds) / 2


def question(contest: Contest, *, is_swapped: bool = False) -> list[dict[str, str]]:
    """What the judge is asked; swapped, the new answer is B."""
    first, second = (contest.old, contest.new) if is_swapped else (contest.new, contest.old)
    said = "\n\n".join(f"{m['role']}: {m['content']}" for m in contest.messages)
    # One pass, so that an answer that holds "{b}" stays as it is.
    texts = {"question": said, "a": first, "b": second}
    content = re.sub(r"\{(question|a|b)\}", lambda found: texts[found[1]], PROMPT)
    return [{"role": "user", "content": content}]


def parse(reply: str) -> str:
    """ "A" or "B" if the reply says that and nothing else; otherwise "". Example: "**B**." -> "B"."""
    found = VERDICT.fullmatch(reply)
    return found[1] if found else ""


def judge_all(
    reference: dict[str, Any], contests: Sequence[Contest], folder: RunFolder
) -> Verdicts:
    """All verdicts; those found in judged.jsonl, of before a stop, are not asked for again.

    Raises Stopped.
    """
    questions = [
        question(contest, is_swapped=swapped) for contest in contests for swapped in (False, True)
    ]
    if is_endpoint(reference):
        replies, asker = _ask(reference, questions, folder)
        pairs = _paired([parse(reply) for reply in replies])
        return Verdicts(pairs, None, [asker], [None] * len(pairs))
    said = _local(reference, questions, folder)
    mass = [each.mass for each in said if each.mass is not None]
    return Verdicts(
        _paired([each.letter for each in said]), sum(mass) / len(mass) if mass else None, [],
        [leaning(*both) for both in _paired(said)],
    )  # fmt: skip


def _paired(said: Sequence[Either]) -> list[tuple[Either, Either]]:
    return list(zip(said[::2], said[1::2], strict=True))


def _ask(
    reference: dict[str, Any], questions: Sequence[list[dict[str, str]]], folder: RunFolder
) -> tuple[list[str], Asker]:
    """A reply to each; empty where there was none."""
    asker = Asker(
        reference, folder, side=JUDGE, completions_per_prompt=1, max_new_tokens=REPLY_TOKENS,
        temperature=0.0, seed=0,
    )  # fmt: skip
    lines = arranged(reference, questions, prompt_tokens, folder)
    replies = {row.id: row.completion for row in asker.ask_all(lines)}
    return [replies.get(number, "") for number in range(len(questions))], asker


def arranged(
    reference: dict[str, Any],
    questions: Sequence[list[dict[str, str]]],
    count: Count,
    folder: RunFolder,
    control_tokens: Sequence[str] = (),
) -> list[PromptLine]:
    """The questions as the judge is asked them, by their numbers."""
    lines = [PromptLine(number, messages) for number, messages in enumerate(questions)]
    return arrange_all(prompter_of(reference, control_tokens), lines, count, folder, JUDGE)


def _local(
    reference: dict[str, Any], questions: Sequence[list[dict[str, str]]], folder: RunFolder
) -> list[Said]:
    kept = folder.path / "judged.jsonl"
    said = {number: Said(*row) for number, *row in map(json.loads, whole_lines(kept))}
    missing = [number for number in range(len(questions)) if number not in said]
    if missing:
        model, tokenizer = load_policy(reference, may_wrap=True)
        lines = arranged(
            reference, questions, lambda messages: len(encode(tokenizer, messages)), folder,
            tokenizer.all_special_tokens,
        )  # fmt: skip
        prompts = [encode(tokenizer, lines[number].messages) for number in missing]
        longest = model.config.get_text_config().max_position_embeddings
        longest -= n_virtual_tokens(reference["adapters"])
        for found in _letters(model, tokenizer, prompts, longest, folder):
            rows = {missing[place]: each for place, each in found}
            with kept.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps([number, *each]) + "\n" for number, each in rows.items())
            said |= rows
            folder.progress(len(said), len(questions))
    return [said[number] for number in range(len(questions))]


def _letters(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    longest: int,
    folder: RunFolder,
) -> Iterator[list[tuple[int, Said]]]:
    """Batches of (place, Said). Raises Stopped between two of them."""
    letters = {letter: torch.tensor(letter_ids(tokenizer, letter)) for letter in "AB"}
    too_long = [place for place, ids in enumerate(prompts) if len(ids) >= longest]
    if too_long:
        yield [(place, Said("")) for place in too_long]
    fitting = [place for place in range(len(prompts)) if place not in set(too_long)]
    for group in similar_lengths([len(prompts[place]) for place in fitting], TOKENS_AT_ONCE):
        if folder.should_stop():
            raise Stopped
        places = [fitting[k] for k in group]
        likely = at_the_answer(model, [prompts[place] for place in places])  # (B, V)
        chances = {letter: likely[:, ids].sum(1).tolist() for letter, ids in letters.items()}
        yield [
            (place, said_by(a, b))
            for place, a, b in zip(places, chances["A"], chances["B"], strict=True)
        ]


def said_by(a: float, b: float) -> Said:
    """By the chances of both letters. Example: 0.6 and 0.3 -> A, 0.9, log 2"""
    letter = "A" if a > b else "B" if b > a else ""
    return Said(letter, a + b, math.log(a / b) if a and b else None)


@torch.no_grad()
def at_the_answer(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Probabilities of the first token of a reply, (B, V)."""
    prefix = prefix_of(model)
    if prefix is None:
        batch = collate(prompts, [[0]] * len(prompts), model.device)
        hidden = hidden_states(backbone_of(model), batch)[batch.before]  # (B, D)
    else:  # virtual tokens stand before each: one by one, so that no padding stands between
        hidden = torch.cat([_last_after(model, prefix, ids) for ids in prompts])
    return vocabulary_head(model)(hidden).float().softmax(-1).cpu()


def _last_after(
    model: PreTrainedModel, prefix: DynamicCache, ids: Sequence[int]
) -> torch.Tensor:  # (1, D)
    cache = begun(prefix, 1)
    tokens = torch.tensor([ids], device=model.device)
    hidden = backbone_of(model)(input_ids=tokens, past_key_values=cache, use_cache=True)
    return hidden.last_hidden_state[:, -1]


def letter_ids(tokenizer: PreTrainedTokenizerBase, letter: str) -> list[int]:
    """The tokens that are this letter, with and without a space before it. Raises RunError if there are
    none."""
    found = set()
    for text in (letter, f" {letter}"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            found.add(ids[0])
    if not found:
        raise RunError(
            f"The judge cannot say {letter}: its tokenizer has no token for that letter. Choose another "
            "judge."
        )
    return sorted(found)

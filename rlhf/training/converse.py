"""The run *live conversations*: two answers to whatever somebody says, as long as people talk.

Whoever asks leaves a file in `asked/`, and finds one of the same name in `answered/`:

    asked/NAME.json      {"messages": [{"role": …, "content": …}, …]}, ends with a user turn
    answered/NAME.json   {"answers": [{"side": "policy" | "rival", "text": …, "truncated": …}, …]}
                         or {"error": a sentence}

Both answers are there at the same moment, so that speed says nothing of who wrote which. Questions
that wait together are answered together. The run ends by itself when nobody has asked for a while,
and at once when it is asked to stop: what has been said is not its to keep.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.artifacts import (
    ANSWERED,
    ASKED,
    TALKING,
    RunFolder,
    Stopped,
    read_json,
    write_json,
)
from rlhf.training.config import ConverseConfig
from rlhf.training.generate import sample
from rlhf.training.models import Message, decode, encode, load_policy, stop_ids

POLL_SECONDS = 0.05
STALE_SECONDS = 300  # whoever asked so long ago does not wait any more
ATTEMPTS = 3  # at two different answers

TOO_LONG = (
    "This conversation has become too long for the model ({tokens} tokens, and the limit is "
    "{limit}): begin a new one."
)


class Speaker(NamedTuple):
    """One of the two sides, and how many of the two answers it gives."""

    side: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    n_answers: int


class Question(NamedTuple):
    path: Path
    messages: list[Message]


class Answer(NamedTuple):
    side: str
    text: str
    truncated: bool
    n_tokens: int


def run(config: ConverseConfig, folder: RunFolder) -> dict[str, Any]:
    """Answer until nobody asks any more. How many turns there were, and how long one took."""
    folder.phase("loading")
    speakers = load_speakers(config)
    generator = torch.Generator(speakers[0].model.device).manual_seed(config.seed)
    for name in (ASKED, ANSWERED):
        (folder.path / name).mkdir(exist_ok=True)
    folder.phase(TALKING)
    turns = 0
    seconds: list[float] = []  # of questions that were answered together
    asked_last = time.monotonic()
    while time.monotonic() - asked_last < config.idle_minutes * 60:
        if folder.should_stop():
            raise Stopped
        questions = waiting_questions(folder.path / ASKED)[: config.batch_size]
        if not questions:
            time.sleep(POLL_SECONDS)
            continue
        began = time.monotonic()
        answers = answer_all(questions, speakers, config, generator, folder)
        asked_last = time.monotonic()
        seconds.append(asked_last - began)
        turns += len(answers) // 2
        report(folder, turns, seconds[-1], answers)
    return {
        "turns": turns,
        "seconds_median": statistics.median(seconds) if seconds else None,
    }


def load_speakers(config: ConverseConfig) -> list[Speaker]:
    if not config.rival:
        return [Speaker("policy", *load_policy(config.model, may_wrap=True), n_answers=2)]
    return [
        Speaker(side, *load_policy(reference, may_wrap=True), n_answers=1)
        for side, reference in (("policy", config.model), ("rival", config.rival))
    ]


def waiting_questions(folder: Path) -> list[Question]:
    """The oldest first. Those that nobody waits for any more are removed."""
    questions = []
    for path in sorted(folder.glob("*.json"), key=_asked_at):
        if time.time() - _asked_at(path) > STALE_SECONDS:
            path.unlink(missing_ok=True)
        else:
            questions.append(Question(path, read_json(path)["messages"]))
    return questions


def _asked_at(path: Path) -> float:
    return path.stat().st_mtime


def answer_all(
    questions: Sequence[Question],
    speakers: Sequence[Speaker],
    config: ConverseConfig,
    generator: torch.Generator,
    folder: RunFolder,
) -> list[Answer]:
    """Write the answers of all sides to all questions; those that were written."""
    written: list[Answer] = []
    fitting = []
    for question in questions:
        tokens = max(len(encode(side.tokenizer, question.messages)) for side in speakers)
        if tokens > config.max_prompt_tokens:
            sentence = TOO_LONG.format(tokens=tokens, limit=config.max_prompt_tokens)
            _reply(folder, question, {"error": sentence})
        else:
            fitting.append(question)
    for question, answers in zip(
        fitting, two_answers_each(fitting, speakers, config, generator, folder), strict=True
    ):
        fields = [{"side": a.side, "text": a.text, "truncated": a.truncated} for a in answers]
        _reply(folder, question, {"answers": fields})
        written += answers
    return written


def _reply(folder: RunFolder, question: Question, content: dict[str, Any]) -> None:
    """The answer first: a process that is killed in between is asked again, and loses nothing."""
    write_json(folder.path / ANSWERED / question.path.name, content)
    question.path.unlink(missing_ok=True)


def two_answers_each(
    questions: Sequence[Question],
    speakers: Sequence[Speaker],
    config: ConverseConfig,
    generator: torch.Generator,
    folder: RunFolder,
) -> list[list[Answer]]:
    """Two answers to each question; sampled anew, a few times, where both say the same."""
    found: list[list[Answer]] = [[] for _ in questions]
    for _ in range(ATTEMPTS):
        places = [n for n, answers in enumerate(found) if len({a.text for a in answers}) < 2]
        if not places:
            break
        sides = [
            sample_side(speaker, [questions[n].messages for n in places], config, generator, folder)
            for speaker in speakers
        ]
        for row, n in enumerate(places):
            found[n] = [answer for side in sides for answer in side[row]]
    return found


def sample_side(
    speaker: Speaker,
    conversations: Sequence[list[Message]],
    config: ConverseConfig,
    generator: torch.Generator,
    folder: RunFolder,
) -> list[list[Answer]]:
    """What one side says to each conversation."""
    n = speaker.n_answers
    sampled = sample(
        speaker.model,
        [encode(speaker.tokenizer, messages) for messages in conversations],
        stop=stop_ids(speaker.model, speaker.tokenizer),
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        generator=generator,
        completions_per_prompt=n,
        should_stop=folder.should_stop,
    )
    answers = [
        Answer(speaker.side, decode(speaker.tokenizer, one.ids), one.truncated, len(one.ids))
        for one in sampled
    ]
    return [answers[start : start + n] for start in range(0, len(answers), n)]


def report(folder: RunFolder, turn: int, seconds: float, answers: Sequence[Answer]) -> None:
    if not answers:
        return
    folder.metrics(
        turn,
        {
            "seconds": seconds,
            "length/mean": statistics.fmean(answer.n_tokens for answer in answers),
            "length/truncated_share": statistics.fmean(answer.truncated for answer in answers),
        },
    )

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.artifacts import (
    ANSWERED,
    ASKED,
    TALKING,
    RunError,
    RunFolder,
    Stopped,
    read_json,
    write_json,
)
from rlhf.training.ask import Asker
from rlhf.training.config import ConverseConfig, is_endpoint
from rlhf.training.context import room_beside
from rlhf.training.data import PromptLine
from rlhf.training.endpoint import prompt_tokens
from rlhf.training.generate import sample
from rlhf.training.models import (
    Message,
    decode,
    default_device,
    encode,
    load_policy,
    stop_ids,
)
from rlhf.training.prompting import Prompter, prompter_of

POLL_SECONDS = 0.05
STALE_SECONDS = 300  # whoever asked so long ago does not wait any more
ATTEMPTS = 3  # at two different answers

TOO_LONG = (
    "This conversation has become too long for the model ({tokens} tokens, and the limit is "
    "{limit}): begin a new one."
)
NO_ANSWER = "The model has not answered this: say it in other words, or once more in a moment."
ASKED_AS = {"policy": "new", "rival": "old"}  # what the files of both sides are called


class Answer(NamedTuple):
    side: str
    text: str
    truncated: bool
    n_tokens: int


@dataclass
class Speaker:
    """One of the two sides, with weights that are here, and how many of the two answers it gives."""

    side: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    n_answers: int
    prompter: Prompter | None = None  # of a prompt version
    room: int | None = None  # tokens that it can read before an answer; None: any number
    n_written: int = 0  # tokens so far, those of answers that nobody was shown included

    def count(self, messages: list[Message]) -> int:
        return len(encode(self.tokenizer, messages))

    def needed(self, messages: list[Message]) -> int:
        """Tokens of the conversation, or of the whole prompt where that has no room."""
        n = self.count(messages)
        if self.room is None or not self.prompter:
            return n
        whole = len(self.encode(messages))
        return whole if whole > self.room else n

    def encode(self, messages: list[Message]) -> list[int]:
        """With what a prompt version puts around them, which has a budget of its own."""
        if self.prompter:
            messages = self.prompter.arrange(messages, self.count).messages
        return encode(self.tokenizer, messages)

    def answers(
        self,
        conversations: Sequence[list[Message]],
        config: ConverseConfig,
        generator: torch.Generator,
        folder: RunFolder,
    ) -> list[list[Answer]]:
        """What it says to each conversation."""
        sampled = sample(
            self.model,
            [self.encode(messages) for messages in conversations],
            stop=stop_ids(self.model, self.tokenizer),
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            generator=generator,
            completions_per_prompt=self.n_answers,
            should_stop=folder.should_stop,
        )
        self.n_written += sum(len(one.ids) for one in sampled)
        answers = [
            Answer(self.side, decode(self.tokenizer, one.ids), one.truncated, len(one.ids))
            for one in sampled
        ]
        n = self.n_answers
        return [answers[start : start + n] for start in range(0, len(answers), n)]


class SpeakerElsewhere:
    """The same for a side that is asked over HTTP, or a prompt version of one."""

    def __init__(self, side: str, reference: dict[str, Any], n_answers: int) -> None:
        self.side, self.reference, self.n_answers = side, reference, n_answers
        self.prompter = prompter_of(reference)
        self.room: int | None = None  # nobody here knows
        self.n_written = 0  # by weights that are here; what it asks for is counted as it is asked

    def count(self, messages: list[Message]) -> int:
        return prompt_tokens(messages)

    needed = count

    def answers(
        self,
        conversations: Sequence[list[Message]],
        config: ConverseConfig,
        generator: torch.Generator,
        folder: RunFolder,
    ) -> list[list[Answer]]:
        """Fewer, where it refuses to answer or cannot be reached. Raises RunError if it cannot be asked at all,
        or no more may be spent."""
        asker = Asker(
            self.reference,
            folder,
            completions_per_prompt=self.n_answers,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=config.seed,
            side=ASKED_AS[self.side],
            is_live=True,
        )
        first = 1 + max((each.prompt for each in asker.exchanges()), default=0)
        whole = [self._arranged(messages) for messages in conversations]
        lines = [PromptLine(first + place, messages) for place, messages in enumerate(whole)]
        found: list[list[Answer]] = [[] for _ in lines]
        for row in asker.ask_all(lines):
            if row.id >= first:
                answer = Answer(self.side, row.completion, row.truncated, row.n_tokens)
                found[row.id - first].append(answer)
        if asker.note():
            raise RunError(asker.note())
        return found

    def _arranged(self, messages: list[Message]) -> list[Message]:
        return self.prompter.arrange(messages, self.count).messages if self.prompter else messages


class Question(NamedTuple):
    path: Path
    messages: list[Message]


def run(config: ConverseConfig, folder: RunFolder) -> dict[str, Any]:
    """Answer until nobody asks any more. How many turns there were, and how long one took."""
    folder.phase("loading")
    speakers = load_speakers(config)
    generator = torch.Generator(default_device()).manual_seed(config.seed)
    for name in (ASKED, ANSWERED):
        (folder.path / name).mkdir(exist_ok=True)
    folder.phase(TALKING)
    turns = n_told = 0
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
        n_written = sum(speaker.n_written for speaker in speakers)
        report(folder, turns, seconds[-1], answers, n_written - n_told)
        n_told = n_written if answers else n_told
    return {
        "turns": turns,
        "seconds_median": statistics.median(seconds) if seconds else None,
    }


def load_speakers(config: ConverseConfig) -> list[Speaker | SpeakerElsewhere]:
    if not config.rival:
        return [_load("policy", config.model, 2, config)]
    return [_load("policy", config.model, 1, config), _load("rival", config.rival, 1, config)]


def _load(
    side: str, reference: dict[str, Any], n_answers: int, config: ConverseConfig
) -> Speaker | SpeakerElsewhere:
    if is_endpoint(reference):
        return SpeakerElsewhere(side, reference, n_answers)
    model, tokenizer = load_policy(reference, may_wrap=True)
    room = room_beside(reference, config.max_new_tokens)
    prompter = prompter_of(reference, tokenizer.all_special_tokens, room)
    return Speaker(side, model, tokenizer, n_answers, prompter, room)


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
    speakers: Sequence[Speaker | SpeakerElsewhere],
    config: ConverseConfig,
    generator: torch.Generator,
    folder: RunFolder,
) -> list[Answer]:
    """Write the answers of all sides to all questions; those that were written."""
    written: list[Answer] = []
    fitting = []
    rooms = [side.room for side in speakers if side.room is not None]
    limit = min([config.max_prompt_tokens, *rooms])
    for question in questions:
        tokens = max(side.needed(question.messages) for side in speakers)
        if tokens > limit:
            sentence = TOO_LONG.format(tokens=tokens, limit=limit)
            _reply(folder, question, {"error": sentence})
        else:
            fitting.append(question)
    for question, answers in zip(
        fitting, two_answers_each(fitting, speakers, config, generator, folder), strict=True
    ):
        if len(answers) < 2:
            _reply(folder, question, {"error": NO_ANSWER})
            continue
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
    speakers: Sequence[Speaker | SpeakerElsewhere],
    config: ConverseConfig,
    generator: torch.Generator,
    folder: RunFolder,
) -> list[list[Answer]]:
    """Two answers to each question; sampled anew, a few times, where both say the same. One that is
    missing is not waited for any longer."""
    found: list[list[Answer]] = [[] for _ in questions]
    places = list(range(len(questions)))
    for _ in range(ATTEMPTS):
        if not places:
            break
        sides = [
            speaker.answers([questions[n].messages for n in places], config, generator, folder)
            for speaker in speakers
        ]
        for row, n in enumerate(places):
            found[n] = [answer for side in sides for answer in side[row]]
        places = [n for n in places if _say_the_same(found[n])]
    return found


def _say_the_same(answers: Sequence[Answer]) -> bool:
    return len(answers) == 2 and answers[0].text == answers[1].text


def report(
    folder: RunFolder, turn: int, seconds: float, answers: Sequence[Answer], n_written: int
) -> None:
    """`n_written`: tokens by weights that are here."""
    if not answers:
        return
    folder.metrics(
        turn,
        {
            "seconds": seconds,
            "tokens/written": float(n_written),
            "length/mean": statistics.fmean(answer.n_tokens for answer in answers),
            "length/truncated_share": statistics.fmean(answer.truncated for answer in answers),
        },
    )

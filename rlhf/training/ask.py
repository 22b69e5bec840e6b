"""Answers to many prompts from an endpoint, and the run *generate completions* that asks one.

Every reply is written to a file at once, with what it cost, so a run that is stopped or killed goes
on where it was and pays for nothing twice. No torch here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.training.artifacts import RunError, RunFolder, Stopped, whole_lines
from rlhf.training.config import EndpointRef, GenerateConfig
from rlhf.training.data import Generated, PromptLine, read_prompts
from rlhf.training.endpoint import (
    Access,
    Dialect,
    Fault,
    Reply,
    ask,
    client_of,
    most_it_costs,
    prompt_tokens,
)
from rlhf.training.prompting import (
    arrange_all,
    prompter_of,
    prompting_result,
    without_prompting,
)

logger = logging.getLogger(__name__)

TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a question is asked again
BUSY_SECONDS = 600.0  # in which it may put off everybody
IN_VAIN = 3  # prompts one after the other: then it is not they, and the run ends
POLL_SECONDS = 0.5
REPORT_SECONDS = 1.0
STOP_SECONDS = 60.0  # that what is under way may take to arrive when the run shall end

# Of a run, in the names of files: an evaluation asks for two, a suite has a judge besides.
SIDES = {"": "", "new": "-new", "old": "-old", "judge": "-judge"}

# Why a prompt gets no answer. The last two may be otherwise when the run is resumed.
FILTERED, TOO_LONG, REJECTED, NO_ANSWER = "filtered", "too_long", "rejected", "no_answer"
FINAL = (FILTERED, TOO_LONG)


class Question(NamedTuple):
    line: PromptLine
    indices: list[int]  # of the answers that one request asks for


class Exchange(NamedTuple):
    """One request and what came of it: a line of the file."""

    prompt: int
    answers: list[Generated] = []
    skipped: str = ""  # why this prompt is asked nothing more; empty: it may be
    fault: str = ""  # the name of what went wrong
    n_refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimated: bool = False  # these two
    cost: float = 0.0


class SpendingLimit(Exception):
    """The next request could cost more than may be spent."""


class Ended(Exception):
    """Nothing more is to be asked."""


class Pace:
    """When the next request may be sent."""

    def __init__(self, per_minute: int | None) -> None:
        self.alone = self.interval = 60 / per_minute if per_minute else 0.0
        self.next = 0.0

    def share(self, n: int) -> None:
        """From now on so many ask, each at its part of the rate."""
        self.interval = self.alone * n

    def turn(self, now: float) -> float:
        """Seconds to wait: each caller gets a moment of its own."""
        moment = max(now, self.next)
        self.next = moment + self.interval
        return moment - now

    def hold(self, until: float) -> None:
        """Who has no turn yet gets none before."""
        self.next = max(self.next, until)


class Asker:
    """Asks an endpoint for answers to prompts, several at once.

    All of it happens in one thread, so that nothing here needs a lock. `side` tells two askers of a
    run apart; progress counts from `done` up to `total`. `is_live`: somebody waits for these answers, and
    others come later; so what is spent is all that is reported, and having no answer fails nothing.
    """

    def __init__(
        self,
        reference: dict[str, Any],
        folder: RunFolder,
        *,
        completions_per_prompt: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        side: str = "",
        done: int = 0,
        total: int | None = None,
        is_live: bool = False,
    ) -> None:
        self.endpoint = EndpointRef.from_dict(without_prompting(reference))
        self.name = f"{self.endpoint.model} at {self.endpoint.address}"
        self.access = Access.from_environment(self.endpoint.endpoint)
        self.folder, self.side, self.done, self.total = folder, side, done, total
        self.is_live = is_live
        self.n, self.max_new_tokens = completions_per_prompt, max_new_tokens
        self.temperature, self.seed = temperature, seed
        self.dialect = Dialect()
        self.pace = Pace(self.endpoint.requests_per_minute)
        self.queue: deque[Question] = deque()
        self.answers: dict[tuple[int, int], Generated] = {}  # by prompt and index
        self.skipped: dict[int, str] = {}  # by prompt
        self.faults: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.cost = 0.0  # of this side
        self.spent = 0.0  # of both sides, if both ask this endpoint: they share a budget
        self.reserved = 0.0  # what the requests under way may cost
        self.in_vain, self.answered = 0, time.monotonic()  # the latest answer: now, to begin with
        self.ending: Exception | None = None
        self.fresh: list[tuple[PromptLine, Generated]] = []  # not reported yet

    # --- all questions ------------------------------------------------------------------------
    def ask_all(self, lines: Sequence[PromptLine]) -> list[Generated]:
        """Answers, ordered by prompt and index; `skipped` and `ending` say why some are missing.

        Raises Stopped, and RunError if there is no answer at all or the endpoint cannot be asked.
        """
        self.lines = lines
        self._take_up()
        self.total = self.total or len(lines) * self.n
        for line in lines:
            missing = [k for k in range(self.n) if (line.id, k) not in self.answers]
            if missing and line.id not in self.skipped:
                self.queue.append(Question(line, missing))
        self.n_before, self.began, self.reported = len(self.answers), time.monotonic(), 0.0
        asyncio.run(self._ask_all())
        self._report()
        if self.ending and not isinstance(self.ending, SpendingLimit):
            raise self.ending
        if not self.answers and not self.is_live:
            raise RunError(f"{self.name} gave no answer. {self._why_none()}")
        return [self.answers[place] for place in sorted(self.answers)]

    def exchanges(self) -> list[Exchange]:
        """What this side has asked so far, before the run was stopped or killed, too."""
        return read_exchanges(self._file_of(self.side))

    def _file_of(self, side: str) -> Path:
        return self.folder.path / f"asked-{self.endpoint.endpoint}{SIDES[side]}.jsonl"

    def _take_up(self) -> None:
        """What was asked before the run was stopped or killed."""
        self.file = self._file_of(self.side)
        for path in map(self._file_of, SIDES):
            for exchange in read_exchanges(path):
                self.spent += exchange.cost
                if path == self.file:
                    self._remember(exchange)
        self.skipped = {pk: why for pk, why in self.skipped.items() if why in FINAL}

    async def _ask_all(self) -> None:
        self.ended = asyncio.Event()
        tasks: dict[asyncio.Task[None], Question] = {}
        async with client_of(self.endpoint, self.access) as self.client:
            while True:
                self._begin(tasks)
                if not tasks:
                    return
                await asyncio.wait(tasks, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in tasks if task.done()]:
                    self._finish(task, tasks.pop(task))
                if self.ending and time.monotonic() > self.ended_at + STOP_SECONDS:
                    for task in tasks:
                        task.cancel()
                if time.monotonic() > self.reported + REPORT_SECONDS:
                    self._report()

    def _begin(self, tasks: dict[asyncio.Task[None], Question]) -> None:
        """Ask as much as may be asked at once."""
        if self.folder.should_stop():
            self._end(Stopped())
        if self.pace.alone:
            self.pace.share(self.folder.sharers(self.endpoint.endpoint))
        while self.queue and not self.ending and len(tasks) < self.endpoint.requests_at_once:
            question = self.queue.popleft()
            if len(question.indices) > 1 and not self.dialect.takes_n:
                self._put_first([Question(question.line, [index]) for index in question.indices])
                continue
            if not self._can_pay(self._price(question)):
                self._put_first([question])
                if not tasks:  # else what is under way may turn out cheaper
                    self._end(SpendingLimit())
                return
            self.reserved += self._price(question)
            tasks[asyncio.create_task(self._ask(question))] = question

    def _put_first(self, questions: Sequence[Question]) -> None:
        """Not last, so that a run that ends early has all answers to the prompts that it has begun."""
        self.queue.extendleft(reversed(questions))

    def _finish(self, task: asyncio.Task[None], question: Question) -> None:
        self.reserved -= self._price(question)
        if task.cancelled() or isinstance(error := task.exception(), Ended):
            return
        if isinstance(error, Exception):
            return self._end(error)
        missing = [k for k in question.indices if (question.line.id, k) not in self.answers]
        if missing and question.line.id not in self.skipped:  # fewer than it was asked for
            self.dialect.takes_n = False
            self._put_first([Question(question.line, missing)])

    def _end(self, reason: Exception) -> None:
        """Nothing more is asked; what is under way may still arrive. The first reason counts."""
        if self.ending is None:
            self.ending, self.ended_at = reason, time.monotonic()
            self.ended.set()

    # --- one question -------------------------------------------------------------------------
    async def _ask(self, question: Question) -> None:
        """Ask until there is an answer, or it is clear that there will be none.

        Raises Ended, and RunError if the endpoint cannot be asked anything.
        """
        failures = 0
        for attempt in count():
            await self._sleep(self.pace.turn(time.monotonic()))
            try:
                reply = await self._ask_once(question)
            except Fault as fault:
                self._note(question, fault)
                if not fault.again:
                    return self._leave_out(question, fault)
                failures += not self._is_only_busy(fault)
                if failures == TRIES:
                    return self._give_up(question, fault)
                await self._pause(attempt, fault)
            else:
                return self._record(question, reply)

    def _is_only_busy(self, fault: Fault) -> bool:
        """It answers others of our requests meanwhile: whoever waits for their turn has not failed."""
        waited = time.monotonic() - self.answered
        return fault.name == "too_many_requests" and waited < BUSY_SECONDS

    def _leave_out(self, question: Question, fault: Fault) -> None:
        if not fault.prompt_only:
            raise RunError(f"{self.name}: {fault} What was answered before is kept.")
        self.skipped[question.line.id] = fault.name if fault.name in FINAL else REJECTED
        n_rejected = sum(why == REJECTED for why in self.skipped.values())
        if not self.answers and n_rejected >= IN_VAIN:
            raise RunError(f"{self.name} has rejected the first {n_rejected} prompts. {fault}")

    def _give_up(self, question: Question, fault: Fault) -> None:
        self.skipped[question.line.id] = NO_ANSWER
        self.in_vain += 1
        if self.in_vain >= IN_VAIN:
            raise RunError(
                f"{self.name}: {self.in_vain} prompts one after the other got no answer in {TRIES} "
                f"tries each. {fault} What was answered before is kept: resume when it is back."
            )

    async def _ask_once(self, question: Question) -> Reply:
        return await ask(
            self.client,
            self.endpoint,
            self.access,
            question.line.messages,
            max_tokens=self.max_new_tokens,
            temperature=self.temperature,
            n=len(question.indices),
            seed=seed_of(self.seed, question.line.id, question.indices[0]),
            dialect=self.dialect,
        )

    async def _pause(self, attempt: int, fault: Fault) -> None:
        """At random within bounds, so that not all come back at the same moment."""
        if fault.wait is not None:  # all are to wait
            self.pace.hold(time.monotonic() + fault.wait)
        longest = min(FIRST_PAUSE * 2 ** min(attempt, 9), LONGEST_PAUSE)
        await self._sleep(longest * random.uniform(0.5, 1.0))
        if not self._can_pay(0.0):  # what was lost has been counted
            self._end(SpendingLimit())

    async def _sleep(self, seconds: float) -> None:
        """Raises Ended as soon as nothing more is to be asked."""
        if seconds > 0 and not self.ended.is_set():
            try:
                await asyncio.wait_for(self.ended.wait(), seconds)
            except TimeoutError:
                return
        if self.ended.is_set():
            raise Ended

    # --- what came of it ----------------------------------------------------------------------
    def _record(self, question: Question, reply: Reply) -> None:
        line, choices, usage = question.line, reply.choices, reply.usage
        share = usage.completion_tokens // max(1, len(choices))  # it says how many in all
        answers = [
            Generated(line.id, index, choice.text, share, choice.truncated)
            for index, choice in zip(question.indices, choices, strict=False)
        ]
        self._write(
            Exchange(
                line.id,
                answers,
                skipped=FILTERED if reply.n_filtered else "",
                n_refused=sum(choice.refused for choice in choices),
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                is_estimated=usage.is_estimated,
                cost=usage.cost(self.endpoint),
            )
        )
        self.in_vain, self.answered = 0, time.monotonic()
        self.fresh += [(line, answer) for answer in answers]

    def _note(self, question: Question, fault: Fault) -> None:
        """A request that came to nothing. If an answer may have been written, it counts as paid."""
        logger.warning("prompt %s: %s", question.line.id, fault)
        self._write(
            Exchange(
                question.line.id,
                skipped=fault.name if fault.name in FINAL else "",
                fault=fault.name,
                prompt_tokens=prompt_tokens(question.line.messages) if fault.may_cost else 0,
                is_estimated=fault.may_cost,
                cost=self._price(question) if fault.may_cost else 0.0,
            )
        )

    def _write(self, exchange: Exchange) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(exchange._asdict(), ensure_ascii=False) + "\n")
        self.spent += exchange.cost
        self._remember(exchange)

    def _remember(self, exchange: Exchange) -> None:
        for answer in exchange.answers:
            self.answers[answer.id, answer.index] = answer
        if exchange.skipped:
            self.skipped[exchange.prompt] = exchange.skipped
        if exchange.fault:
            self.faults[exchange.fault] += 1
        self.cost += exchange.cost
        self.counts["requests"] += 1
        for name in ("prompt_tokens", "completion_tokens"):
            self.counts[name] += getattr(exchange, name)
        self.counts["refused"] += exchange.n_refused
        self.counts["estimated"] += exchange.is_estimated

    # --- money --------------------------------------------------------------------------------
    def _price(self, question: Question) -> float:
        return most_it_costs(
            self.endpoint, question.line.messages, len(question.indices), self.max_new_tokens
        )

    def _can_pay(self, price: float) -> bool:
        budget = self.access.budget
        return budget is None or self.spent + self.reserved + price <= budget

    # --- reports ------------------------------------------------------------------------------
    def _report(self) -> None:
        """Progress, and how the answers since the last report are."""
        n, self.reported = len(self.answers), time.monotonic()
        self._report_usage()
        if self.is_live:
            return
        per_answer = (self.reported - self.began) / max(1, n - self.n_before)
        assert self.total is not None
        left = self.total - self.done - n
        self.folder.progress(self.done + n, self.total, eta_seconds=per_answer * left)
        if self.fresh:
            answers = [answer for _, answer in self.fresh]
            self.folder.metrics(self.done + n, length_metrics(answers))
            line, first = self.fresh[0]
            self.folder.sample(self.done + n, 0, line.messages, first.completion)
            self.fresh = []

    def _report_usage(self) -> None:
        self.folder.event(
            "usage",
            endpoint=self.endpoint.endpoint,
            side=self.side,
            spent=self.cost,
            **{
                name: self.counts[name]
                for name in ("requests", "prompt_tokens", "completion_tokens")
            },
        )

    def result(self) -> dict[str, Any]:
        """What the run's page says of the asking."""
        return {
            "side": self.side,
            **{
                name: self.counts[name]
                for name in ("requests", "prompt_tokens", "completion_tokens")
            },
            "estimated": self.counts["estimated"],
            "refused": self.counts["refused"],
            "empty": sum(not answer.completion.strip() for answer in self.answers.values()),
            "spent": round(self.cost, 6),
            "has_price": bool(self.endpoint.prompt_price or self.endpoint.completion_price),
            "faults": dict(self.faults),
        }

    def reasons(self) -> dict[int, str]:
        """Why prompts have not all their answers."""
        places = ((line.id, k) for line in self.lines for k in range(self.n))
        lacking = {pk for pk, k in places if (pk, k) not in self.answers}
        return {pk: self.skipped.get(pk, "spending_limit") for pk in sorted(lacking)}

    def note(self) -> str:
        """A sentence, if the run ended before its end."""
        if not isinstance(self.ending, SpendingLimit):
            return ""
        return (
            f"The spending limit was reached: {self.spent:.4g} of {self.access.budget:.4g} is spent, and "
            "another answer could cost more than the rest."
        )

    def _why_none(self) -> str:
        return self.note() or ", ".join(
            f"{why.replace('_', ' ')}: {n} prompts"
            for why, n in Counter(self.reasons().values()).items()
        )


def read_exchanges(path: Path) -> list[Exchange]:
    """Of the file that an asker has written."""
    rows = [json.loads(line) for line in whole_lines(path)]
    return [
        Exchange(**{**row, "answers": [Generated(*answer) for answer in row["answers"]]})
        for row in rows
    ]


def seed_of(seed: int, prompt: int, index: int) -> int:
    """Of one request. It follows from what is asked, not from when; below 2³¹, as most take it."""
    return (seed * 1_000_003 + prompt * 1009 + index) % 2**31


def length_metrics(answers: Sequence[Generated]) -> dict[str, float]:
    return {
        "length/mean": sum(answer.n_tokens for answer in answers) / len(answers),
        "length/truncated_share": sum(answer.truncated for answer in answers) / len(answers),
    }


def short_enough(lines: Sequence[PromptLine], max_prompt_tokens: int) -> list[PromptLine]:
    """Prompts that are not too long, by estimate: nobody here knows the tokens of a model elsewhere.

    Raises RunError if there is none.
    """
    found = [line for line in lines if prompt_tokens(line.messages) <= max_prompt_tokens]
    if not lines:
        raise RunError("There are no prompts to answer.")
    if not found:
        raise RunError(
            f"All {len(lines)} prompts are longer than about {max_prompt_tokens} tokens. Raise the "
            "limit on prompt tokens or import shorter prompts."
        )
    return found


def run(config: GenerateConfig, folder: RunFolder) -> dict[str, Any]:
    """The run: prompts.jsonl in, artifact/completions.jsonl out."""
    prompts = read_prompts(folder.path / config.prompts)
    lines = short_enough(prompts, config.max_prompt_tokens)
    lines = arrange_all(prompter_of(config.model), lines, prompt_tokens, folder)
    folder.phase("asking the endpoint")
    asker = Asker(
        config.model,
        folder,
        completions_per_prompt=config.completions_per_prompt,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
    )
    began = time.monotonic()
    completions = asker.ask_all(lines)
    seconds = time.monotonic() - began
    with folder.writing_artifact() as artifact:
        rows = [json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in completions]
        (artifact / "completions.jsonl").write_text("".join(rows), encoding="utf-8")
    left_out = Counter(too_long=len(prompts) - len(lines))
    left_out.update(asker.reasons().values())
    return {
        "n_prompts": len({row.id for row in completions}),
        "n_completions": len(completions),
        "left_out": dict(left_out),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(sum(row.n_tokens for row in completions) / seconds, 1),
        "asked": [asker.result()],
        **prompting_result(folder),
        **({"note": note} if (note := asker.note()) else {}),
    }

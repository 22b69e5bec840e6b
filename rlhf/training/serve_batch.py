"""Answers that are written together, one token further at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rlhf.training.artifacts import RunError
from rlhf.training.generate import Decoding, invert
from rlhf.training.models import decode, encode
from rlhf.training.prompting import prompter_of
from rlhf.training.serve_models import Base
from rlhf.training.serve_text import Writing

if TYPE_CHECKING:
    from rlhf.training.serve import Request, Ticket


class TooLong(RunError):
    """The messages leave no room for an answer."""


class Row(NamedTuple):
    """One of the answers to one request."""

    ticket: Ticket
    index: int  # type: ignore[assignment]  # among the request's answers; hides tuple.index
    writing: Writing


def encode_messages(base: Base, ticket: Ticket) -> list[int]:
    """The tokens of a request's messages. Raises TooLong, or RunError if the template refuses them."""
    try:
        ids = _encode_request(base, ticket.request)
    except RunError:
        raise
    except Exception as error:  # templates are programs, and raise what they like
        raise RunError(f"The model's chat template does not take these messages: {error}") from None
    limit = base.context_for(ticket.request.reference["adapters"])
    if limit is not None and len(ids) >= limit:
        raise TooLong(
            f"The messages have {len(ids)} tokens, and the model reads {limit} with its answer: "
            "shorten them."
        )
    return ids


def _encode_request(base: Base, request: Request) -> list[int]:
    """With what the version puts around the messages, if it is a prompt version."""
    messages: Sequence[dict[str, str]] = request.messages
    prompter = prompter_of(request.reference, base.tokenizer.all_special_tokens)
    if prompter and messages[-1]["role"] == "user":
        whole = prompter.arrange(messages, lambda each: len(encode(base.tokenizer, each)))
        messages = whole.messages
    return encode(base.tokenizer, messages)


class Batch:
    """Requests to one version with equally many answers each, which have waited together."""

    def __init__(
        self,
        base: Base,
        reference: dict[str, Any],
        tickets: Sequence[Ticket],
        prompts: Sequence[list[int]],
    ) -> None:
        self.base, self.reference = base, reference
        n = tickets[0].request.n
        self.rows = [
            Row(ticket, index, _writing(base, ticket, len(prompt)))
            for ticket, prompt in zip(tickets, prompts, strict=True)
            for index in range(n)
        ]
        self.prompt_tokens = dict(zip(tickets, map(len, prompts), strict=True))
        model = base.use(reference["adapters"])
        device = next(model.parameters()).device
        self.temperature, self.top_p = (
            torch.tensor([[getattr(row.ticket.request, name)] for row in self.rows], device=device)
            for name in ("temperature", "top_p")
        )  # (rows, 1) each
        self.generators = {ticket: _generator(ticket, device) for ticket in tickets}
        prefix = base.prefix(reference["adapters"])
        self.decoding = Decoding(model, prompts, n, device, prefix=prefix)

    @property
    def is_going(self) -> bool:
        return len(self.decoding.rows) > 0

    def step(self) -> None:
        """One token for every answer that goes on, and what can be read of it for who waits."""
        self.base.use(self.reference["adapters"])
        self._leave_out(lambda row: row.ticket.is_gone)
        if not self.is_going:
            return
        places = self.decoding.rows
        rows = [self.rows[place] for place in places.tolist()]
        token = next_tokens(
            self.decoding.logits(1.0),
            self.temperature[places],
            self.top_p[places],
            self._draw(rows),
        )
        for row, number in zip(rows, token.flatten().tolist(), strict=True):
            if text := row.writing.add(number):
                row.ticket.send({"index": row.index, "text": text})
            if row.writing.finish_reason:
                row.ticket.send({"index": row.index, "finish_reason": row.writing.finish_reason})
        going = self._going()
        self.decoding.keep(going)
        self.decoding.advance(token[going])
        self._say_goodbye(rows)

    def give_up(self) -> None:
        self.decoding.rows = self.decoding.rows[:0]

    def _draw(self, rows: Sequence[Row]) -> Tensor:
        """A number per row, (rows, 1), from its request's own generator: what others ask at the same
        time changes nothing."""
        numbers = [
            torch.rand(1, generator=generator, device=generator.device, dtype=torch.float64)
            for generator in (self.generators[row.ticket] for row in rows)
        ]
        return torch.stack(numbers)

    def _leave_out(self, is_over: Callable[[Row], bool]) -> None:
        over = [is_over(self.rows[place]) for place in self.decoding.rows.tolist()]
        self.decoding.keep(~torch.tensor(over, device=self.decoding.rows.device))

    def _going(self) -> Tensor:
        places = self.decoding.rows
        going = [self.rows[place].writing.finish_reason is None for place in places.tolist()]
        return torch.tensor(going, device=places.device)

    def _say_goodbye(self, rows: Sequence[Row]) -> None:
        """The count of tokens, to whose answers have all ended with this step."""
        for ticket in dict.fromkeys(row.ticket for row in rows):
            writings = [row.writing for row in self.rows if row.ticket is ticket]
            if all(writing.finish_reason for writing in writings):
                ticket.finish(
                    prompt_tokens=self.prompt_tokens[ticket],
                    completion_tokens=sum(len(writing.ids) for writing in writings),
                )


def _writing(base: Base, ticket: Ticket, prompt_tokens: int) -> Writing:
    """An empty answer, as long as asked for, or as the model's context allows."""
    request = ticket.request
    limits = [request.max_tokens]
    context = base.context_for(request.reference["adapters"])
    if context is not None:
        limits.append(context - prompt_tokens)
    return Writing(
        partial(decode, base.tokenizer),
        end_tokens=base.stop,
        stops=request.stop,
        max_tokens=min(limits),
    )


def _generator(ticket: Ticket, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if ticket.request.seed is None:
        generator.seed()
        return generator
    return generator.manual_seed(ticket.request.seed)


def next_tokens(logits: Tensor, temperature: Tensor, top_p: Tensor, number: Tensor) -> Tensor:
    """One token per row, (rows, 1), of (rows, V); the rest is (rows, 1). Temperature 0: the likeliest."""
    is_greedy = temperature == 0
    probabilities = (logits / temperature.masked_fill(is_greedy, 1.0)).softmax(-1)
    if (top_p < 1).any():
        probabilities = keep_top(probabilities, top_p)
    return torch.where(is_greedy, logits.argmax(-1, keepdim=True), invert(probabilities, number))


def keep_top(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Zero but for the likeliest tokens that make up `top_p` together, one at least (Holtzman 2020).

    Example: [0.5, 0.3, 0.2] and 0.6 -> [0.5, 0.3, 0.0]
    """
    ordered, tokens = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # what is likelier
    kept = ordered.masked_fill((before >= top_p) & (before > 0), 0.0)
    return torch.zeros_like(probabilities).scatter_(-1, tokens, kept)


def grouped(tickets: Sequence[Ticket]) -> Iterator[list[Ticket]]:
    """Those that may be written together, in the order in which the first of each came."""
    groups: dict[str, list[Ticket]] = {}
    for ticket in tickets:
        groups.setdefault(f"{ticket.request.reference} {ticket.request.n}", []).append(ticket)
    yield from groups.values()

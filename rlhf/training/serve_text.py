"""What of an answer may be sent while it is written: whole characters, and nothing of a stop text.

No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

INCOMPLETE = "\ufffd"  # what the bytes of half a character decode to


def cut_at_stop(text: str, stops: Sequence[str]) -> str | None:
    """What comes before the first stop text; None if there is none.

    Example: "One. Two. Three", ["Th", "Tw"] -> "One. "
    """
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None


def sendable(text: str, stops: Sequence[str]) -> str:
    """Without an end that the next token may change: half a character, the beginning of a stop text.

    Example: "Hello #", ["###"] -> "Hello "
    """
    text = text.rstrip(INCOMPLETE)
    longest = max(
        (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])),
        default=0,
    )
    return text[: len(text) - longest]


class Writing:
    """One answer while it is written: its tokens, how much of its text was sent, and why it ended."""

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        *,
        end_tokens: set[int],
        stops: Sequence[str],
        max_tokens: int,
    ) -> None:
        self.ids: list[int] = []
        self.finish_reason: str | None = None  # "stop" or "length", as OpenAI calls them
        self._decode, self._end_tokens = decode, end_tokens
        self._stops, self._max_tokens = stops, max_tokens
        self._sent = 0  # characters

    def add(self, token: int) -> str:
        """Append a token; the text that can be sent now."""
        self.ids.append(token)
        text = self._decode(self.ids)
        before_stop = cut_at_stop(text, self._stops)
        if token in self._end_tokens or before_stop is not None:
            self.finish_reason = "stop"
        elif len(self.ids) >= self._max_tokens:
            self.finish_reason = "length"
        if before_stop is not None:
            text = before_stop
        elif self.finish_reason is None:
            text = sendable(text, self._stops)
        fresh = text[self._sent :]
        self._sent = max(self._sent, len(text))
        return fresh

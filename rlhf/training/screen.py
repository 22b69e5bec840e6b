"""The run *screen data*: what is wrong with prompts, answers or rows, before anything learns from them.

    artifact/findings.jsonl   {"key", "kind", "place", "split", "code", "start", "end",
                              "before", "span", "after", "note"} a line

`start` and `end` are in characters of the text, `span` is what stands there, cut off if it is long, `before`
and `after` what is around it. Findings about a text as a whole have no span, and its beginning as `after`.

Rows are read one after another. What is kept of each is some hash values and its length, so memory follows
the number of rows and not their size. Stopped or killed, a screening begins anew: it takes some two minutes
for 100,000 rows, and its file takes its place only when it is whole. No torch, unless there is a classifier.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from rlhf.training.artifacts import RunError, RunFolder, Stopped, read_json
from rlhf.training.hashes import sha256_of
from rlhf.training.screen_alike import Index, Like, normalised, widened
from rlhf.training.screen_config import CLASSES, ScreenConfig, count_by_severity
from rlhf.training.screen_leaks import HeldOut
from rlhf.training.screen_patterns import (
    Match,
    control_tokens,
    encoding,
    pattern_of_tokens,
    personal,
    unsafe,
)
from rlhf.training.screen_rows import ANSWER, TEST, Row, held_out_prompts, n_rows_at_most, read_rows

FINDINGS = "findings.jsonl"
AROUND = 80  # characters before and after a finding
BEGINNING = 200  # characters shown of a text as a whole
LONGEST_SPAN = 200  # characters shown of what was found
PER_ROW = 5  # findings of one class kept of a row
REPORT_EVERY = 500  # rows
FEWEST_LENGTHS = 30  # texts of a kind, below which no length is called unusual
SHORTEST_ANSWER = 50  # characters; shorter answers are the same to many prompts, rightly
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def run(config: ScreenConfig, folder: RunFolder) -> dict[str, Any]:
    """How many rows were looked at, and what was found: counts, and the hash of the file of findings."""
    started = time.monotonic()
    folder.phase("reading held-out prompts")
    screening = Screening(config, folder)
    folder.phase("screening")
    with folder.writing_artifact() as artifact:
        path = artifact / FINDINGS
        with path.open("w", encoding="ascii") as file:
            screening.carry_out(file)
    path = folder.path / "artifact" / FINDINGS
    return {
        "screened": config.screened,
        "n_rows": screening.rows.total(),
        "rows": dict(screening.rows),
        "counts": screening.counts(),
        "severities": count_by_severity(screening.counts()),
        "findings_sha256": sha256_of(path),
        "rows_per_second": screening.rows.total() / max(time.monotonic() - started, 1e-6),
    }


class Screening:
    """What is kept while rows go by."""

    def __init__(self, config: ScreenConfig, folder: RunFolder) -> None:
        self.config = config
        self.folder = folder
        self.rows: Counter[str] = Counter()  # by kind
        self._with: Counter[str] = Counter()  # rows with a finding, by class
        self._held_out_with: Counter[str] = Counter()  # those of them that are held out
        self._findings: Counter[str] = Counter()
        self._tokens = pattern_of_tokens(special_tokens(config.tokenizers))
        self._lengths: dict[str, array[float]] = defaultdict(lambda: array("f"))
        self._indexes: dict[tuple[str, str], Index] = {}
        self._held_out = self._read_held_out()

    def _read_held_out(self) -> HeldOut:
        held_out = HeldOut(self.config.near_percent)
        if "leakage" in self.config.checks:
            for row in held_out_prompts(self.folder.path):
                self._stop_if_asked()
                held_out.add(row.asked[0], row.place)
        return held_out

    def carry_out(self, file: IO[str]) -> None:
        """Write the findings of all rows; lengths are known only after the last, so they come last."""
        rows = self._read()
        if self.config.classifier:
            rows = self._classified(rows, file)
        for row in rows:
            self._write(file, row, list(self._matches(row)))
        if "length" in self.config.checks:
            self._write_lengths(file)

    def _read(self) -> Iterator[Row]:
        total = n_rows_at_most(self.folder.path, self.config.screened)
        for n, row in enumerate(read_rows(self.folder.path, self.config.screened), 1):
            self._stop_if_asked()
            self.rows[row.kind] += 1
            self._lengths[row.kind].append(math.log1p(len(row.text)))
            if n % REPORT_EVERY == 0:
                self.folder.progress(n, total)
            yield row

    def _stop_if_asked(self) -> None:
        if self.folder.should_stop():
            raise Stopped

    def _matches(self, row: Row) -> Iterator[Match]:
        checks = self.config.checks
        if "length" in checks and not row.text.strip():
            yield Match("empty", 0, 0)
        if "leakage" in checks:
            yield from self._leaks(row)
        if "duplicates" in checks:
            yield from self._duplicates(row)
        if "personal" in checks:
            yield from personal(row.text)
        if "tokens" in checks:
            yield from control_tokens(row.text, self._tokens)
        if "encoding" in checks:
            yield from encoding(row.text)
        if "unsafe" in checks:
            yield from unsafe(row.text)

    def _leaks(self, row: Row) -> Iterator[Match]:
        if leak := self._held_out.leak_in(row):
            same = "word for word" if leak.code == "quoted_leak" else "the same"
            yield Match(leak.code, 0, 0, said_of(leak.like, "held-out ", same))

    def _duplicates(self, row: Row) -> Iterator[Match]:
        length = len(widened(normalised(row.text)))
        if not length or (row.kind == ANSWER and length < SHORTEST_ANSWER):
            return
        index = self._indexes.setdefault((row.kind, row.split), Index(self.config.near_percent))
        if like := index.add(row.text, row.place):
            code = "exact_duplicate" if like.percent == 100 else "near_duplicate"
            yield Match(code, 0, 0, said_of(like))

    def _classified(self, rows: Iterator[Row], file: IO[str]) -> Iterator[Row]:
        from rlhf.training.screen_classifier import classify  # noqa: PLC0415 (imports torch)

        for row, note in classify(rows, self.config):
            if note:
                self._write(file, row, [Match("classifier", 0, 0, note)])
            yield row

    # --- lengths ------------------------------------------------------------------------------
    def _write_lengths(self, file: IO[str]) -> None:
        usual = {kind: Usual.of(values) for kind, values in self._lengths.items()}
        limit = self.config.length_z
        if not any(
            usual[kind].has_outlier(values, limit) for kind, values in self._lengths.items()
        ):
            return
        for row in read_rows(self.folder.path, self.config.screened):
            self._stop_if_asked()
            z = usual[row.kind].z(math.log1p(len(row.text)))
            if abs(z) > limit and row.text.strip():
                code = "too_long" if z > 0 else "too_short"
                middle = round(math.expm1(usual[row.kind].median))
                note = f"{len(row.text):,} characters; half of all have {middle:,} or fewer"
                self._write(file, row, [Match(code, 0, 0, note)])

    # --- writing ------------------------------------------------------------------------------
    def _write(self, file: IO[str], row: Row, matches: Sequence[Match]) -> None:
        of_row: Counter[str] = Counter()
        for match in matches:
            of_row[match.code] += 1
            if of_row[match.code] <= PER_ROW:
                file.write(json.dumps(finding(row, match)) + "\n")
        self._with.update(of_row.keys())
        if row.split == TEST:
            self._held_out_with.update(of_row.keys())
        self._findings.update(of_row)

    def counts(self) -> dict[str, dict[str, Any]]:
        """{code: {"rows", "held_out" of these, "findings"}}, in the order of `CLASSES`."""
        return {
            code: {
                "rows": self._with[code],
                "held_out": self._held_out_with[code],
                "findings": self._findings[code],
            }
            for code in CLASSES
            if self._with[code]
        }


def finding(row: Row, match: Match) -> dict[str, Any]:
    whole = match.start == match.end
    after = row.text[match.end : match.end + (BEGINNING if whole else AROUND)]
    return {
        "key": row.key,
        "kind": row.kind,
        "place": row.place,
        "split": row.split,
        "code": match.code,
        "start": match.start,
        "end": match.end,
        "before": row.text[max(0, match.start - AROUND) : match.start],
        "span": row.text[match.start : match.end][:LONGEST_SPAN],
        "after": after,
        "note": match.note,
    }


def said_of(like: Like, what: str = "", same: str = "the same") -> str:
    how = same if like.percent == 100 else f"about {like.percent} % alike"
    excerpt = " ".join(like.excerpt.split())
    return f"{how}: {what}{like.place}, “{excerpt}”"


class Usual(NamedTuple):
    """The median of log lengths, and what is one deviation from it."""

    median: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Usual:
        """By the median absolute deviation; where more than half are equally long, by the mean one
        (Iglewicz and Hoaglin 1993). No deviation, so no outlier, where there are few or all are equal."""
        if len(values) < FEWEST_LENGTHS:
            return cls(0.0, math.inf)
        median = statistics.median(values)
        distances = [abs(value - median) for value in values]
        middle = statistics.median(distances) * 1.4826
        deviation = middle or statistics.fmean(distances) * 1.2533
        return cls(median, deviation or math.inf)

    def z(self, value: float) -> float:
        return (value - self.median) / self.deviation

    def has_outlier(self, values: Iterable[float], limit: float) -> bool:
        return any(abs(self.z(value)) > limit for value in values)


# --- tokenizers -------------------------------------------------------------------------------
def special_tokens(folders: Iterable[str]) -> set[str]:
    """Those that the tokenizers in these folders treat as one token, read from their files."""
    return set(chain.from_iterable(_special_in(Path(folder)) for folder in folders))


def _special_in(folder: Path) -> Iterator[str]:
    for name in TOKENIZER_FILES:
        if not (folder / name).exists():
            continue
        try:
            content = read_json(folder / name)
        except ValueError as error:
            raise RunError(
                f"{folder / name} is no JSON, so its special tokens are unknown: {error}"
            ) from None
        added = content.get("added_tokens") or []
        added += list((content.get("added_tokens_decoder") or {}).values())
        yield from (token["content"] for token in added if token.get("special"))
        for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
            token = content.get(key)
            yield from [token] if isinstance(token, str) else []

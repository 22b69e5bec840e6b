"""What a run reports in events.jsonl, copied to the database.

The process appends lines and never waits for us; we remember how many bytes we have copied.
Lines may come twice, because a resumed run repeats the steps since its checkpoint.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from django.utils import timezone

from rlhf.models import Endpoint, EndpointUse, Metrics, Run, Sample
from rlhf.training.artifacts import following_no_link

logger = logging.getLogger(__name__)

READ_BYTES = 2**20  # copied in one transaction
COUNTED = ("requests", "prompt_tokens", "completion_tokens")  # of an endpoint's use
NO_NAN = json.JSONDecoder(parse_constant=lambda _: None)  # which no page and no database takes


class Reports(NamedTuple):
    """New events, sorted by what becomes of them."""

    offset: int  # bytes of events.jsonl that are copied with these
    fields: dict[str, Any]  # of the row: phase, step, total_steps, eta_seconds, seen, error
    metrics: dict[int, dict[str, float | None]]  # values by step
    samples: dict[tuple[int, int], dict[str, Any]]  # by step and index
    uses: dict[tuple[int, str], dict[str, Any]]  # what was spent so far, by endpoint and side

    def __bool__(self) -> bool:
        return bool(self.fields)


def load_line(line: bytes) -> Any:
    """A line of JSON, without what PostgreSQL refuses: NaN in JSON and NUL characters in text."""
    line = re.sub(rb"(?<!\\)((?:\\\\)*)\\u0000", rb"\1\\ufffd", line)
    return NO_NAN.decode(line.decode())


def read_reports(path: Path, offset: int) -> Reports:
    """The complete lines after `offset`, at most about a megabyte of them.

    A last line without its end is being written, and waits for the next call.
    """
    reports = Reports(offset, {}, {}, {}, {})
    try:
        with open(path, "rb", opener=following_no_link) as file:
            file.seek(offset)
            lines = file.readlines(READ_BYTES)
    except OSError:  # not there yet, or replaced by a link
        return reports
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    for event in _parse(lines, path):
        try:
            _sort_in(event, reports)
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("%s: left out the event %.200s: %r", path, event, error)
    return reports._replace(offset=offset + sum(map(len, lines)))


def _parse(lines: Iterable[bytes], path: Path) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            event = load_line(line)
        except ValueError:
            logger.warning("%s: left out a line that is no JSON: %.200r", path, line)
            continue
        if isinstance(event, dict):
            yield event


def _sort_in(event: dict[str, Any], reports: Reports) -> None:
    fields = reports.fields
    match event["type"]:
        case "phase":
            fields["phase"] = str(event["name"])[: Run._meta.get_field("phase").max_length]
        case "progress":
            eta = event.get("eta_seconds")
            fields["step"], fields["total_steps"] = int(event["step"]), int(event["total"])
            fields["eta_seconds"] = None if eta is None else float(eta)
        case "metrics":
            reports.metrics.setdefault(int(event["step"]), {}).update(event["values"])
        case "sample":
            reports.samples[int(event["step"]), int(event["index"])] = {
                "prompt": event["prompt"],
                "completion": str(event["completion"]),
                "score": event.get("score"),
            }
        case "usage":
            reports.uses[int(event["endpoint"]), str(event["side"])] = {
                "spent": float(event["spent"]),
                **{name: int(event[name]) for name in COUNTED},
            }
        case "error":
            fields["error"] = str(event["message"])
    moment = datetime.fromtimestamp(float(event["time"]), tz=UTC)
    fields["seen"] = min(moment, timezone.now())


def store_reports(run: Run, reports: Reports) -> None:
    """Metrics and samples; a later report of the same step takes the place of the earlier.

    Values of one step may be reported in several parts.
    """
    known = {
        row.step: row.values for row in Metrics.objects.filter(run=run, step__in=reports.metrics)
    }
    Metrics.objects.bulk_create(
        [
            Metrics(run=run, step=step, values={**known.get(step, {}), **values})
            for step, values in reports.metrics.items()
        ],
        update_conflicts=True,
        unique_fields=["run", "step"],
        update_fields=["values"],
    )
    Sample.objects.bulk_create(
        [
            Sample(run=run, step=step, index=index, **fields)
            for (step, index), fields in reports.samples.items()
        ],
        update_conflicts=True,
        unique_fields=["run", "step", "index"],
        update_fields=["prompt", "completion", "score"],
    )
    known_endpoints = endpoints_asked(run) if reports.uses else set()
    for (endpoint, side), use in reports.uses.items():
        if endpoint in known_endpoints:
            EndpointUse.objects.update_or_create(
                endpoint_id=endpoint, run=run, side=side, defaults=use
            )


def endpoints_asked(run: Run) -> set[int]:
    """By their numbers; of a prompt version, that of the policy elsewhere that writes."""
    versions = [each.writer.pk for each in (run.policy, run.rival, run.judge) if each]
    return set(Endpoint.objects.filter(version__in=versions).values_list("pk", flat=True))


def end_last_line(path: Path) -> None:
    """Close a line that a killed process has left half-written, so that the next starts its own."""
    try:
        with open(path, "rb+", opener=following_no_link) as file:
            size = file.seek(0, 2)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
    except FileNotFoundError:
        pass

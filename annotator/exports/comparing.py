"""Two exports of a project beside each other: pairs that came, that went, and that changed.

Both files are in the order of comparisons, so they are read side by side, one comparison at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from annotator.exports.derived import aside, is_as_made, path_of
from annotator.exports.files import read_lines
from annotator.hashes import check_file
from annotator.models import Export

DATA = "data.jsonl"
SHOWN = 100  # of each kind; all are counted
LOOKED_AT = ("p_chosen", "n_judgments", "margin")  # what makes a pair a changed one
EXCERPT = 80  # characters of a text

Pairs = dict[tuple[str, str], Mapping[str, Any]]  # by their two texts, in alphabetical order


def comparison_of(before: Export, after: Export) -> dict[str, Any]:
    """What differs: {"added": {"n", "rows"}, "removed": …, "changed": …, "same": n}.

    Rows are excerpts, SHOWN at most. Raises ValueError if the exports are of different projects,
    OSError if a file is missing, and FileChanged if one is not what was frozen.
    """
    if before.project_id != after.project_id:
        raise ValueError(f"Exports {before.pk} and {after.pk} are of different projects.")
    for export in (before, after):
        check_file(export, DATA)
    found: dict[str, Any] = {kind: {"n": 0, "rows": []} for kind in ("added", "removed", "changed")}
    same = 0
    for old, new in _side_by_side(before, after):
        for key in old.keys() | new.keys():
            kind = _kind(old.get(key), new.get(key))
            if kind == "same":
                same += 1
                continue
            found[kind]["n"] += 1
            if len(found[kind]["rows"]) < SHOWN:
                found[kind]["rows"].append(_excerpt(old.get(key), new.get(key)))
    return {"before": before.pk, "after": after.pk, **found, "same": same}


def kept_comparison(before: Export, after: Export, *, make: bool = True) -> dict[str, Any] | None:
    """The same, kept with the later export, as neither changes any more; None if it is not there
    and is not to be made."""
    path = path_of(after, f"compared-with-{before.pk}.json")
    if is_as_made(after, path.name):
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    if not make:
        return None
    found = comparison_of(before, after)
    with aside(after, path.name) as unfinished:
        unfinished.write_text(json.dumps(found, ensure_ascii=False))
    return found


def _side_by_side(before: Export, after: Export) -> Iterator[tuple[Pairs, Pairs]]:
    """The pairs of one comparison in each; empty where an export does not have it."""
    old, new = _by_comparison(before), _by_comparison(after)
    left, right = next(old, None), next(new, None)
    while left or right:
        first = min(number for number, _ in filter(None, (left, right)))
        pairs: list[Pairs] = [{}, {}]
        if left and left[0] == first:
            pairs[0], left = left[1], next(old, None)
        if right and right[0] == first:
            pairs[1], right = right[1], next(new, None)
        yield pairs[0], pairs[1]


def _by_comparison(export: Export) -> Iterator[tuple[int, Pairs]]:
    rows = read_lines(export.folder / DATA)
    for number, group in groupby(rows, key=lambda row: row["comparison"]):
        yield number, {_texts(row): row for row in group}


def _texts(row: Mapping[str, Any]) -> tuple[str, str]:
    chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
    return min(chosen, rejected), max(chosen, rejected)


def _kind(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    alike = old["chosen"] == new["chosen"] and all(old.get(k) == new.get(k) for k in LOOKED_AT)
    return "same" if alike else "changed"


def _excerpt(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    """Shares are those of what the newer row, or the only one, prefers."""
    row = new or old
    assert row is not None
    return {
        "comparison": row["comparison"],
        "prompt": row["prompt"][-1]["content"][:EXCERPT],
        "chosen": row["chosen"][0]["content"][:EXCERPT],
        "rejected": row["rejected"][0]["content"][:EXCERPT],
        "before": _votes(old, row),
        "after": _votes(new, row),
    }


def _votes(of: Mapping[str, Any] | None, row: Mapping[str, Any]) -> dict[str, Any] | None:
    if of is None:
        return None
    p = of["p_chosen"] if of["chosen"] == row["chosen"] else 1 - of["p_chosen"]
    return {"p_chosen": p, "n_judgments": of["n_judgments"]}

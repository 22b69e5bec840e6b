"""A lineage as a picture: where its boxes and lines are.

Time goes down, from round to round, and in a round from left to right: votes, export, reward model,
policy. A run is a line in the box of what it made. Rounds in the middle of a long lineage, and
boxes beyond the first few of a kind in a round, become one box each.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rlhf.lineage import WROTE, Edge, Graph, Node
from rlhf.models import ModelKind, RunKind

COLUMNS = {
    "votes": 0, "judgment": 0, "completion": 0, "annotator": 0,
    "export": 1,
    "reward": 2, "base": 2, "dataset": 2,
    "policy": 3, "endpoint": 3, "prompt": 3,
}  # fmt: skip
ALWAYS_DRAWN = ("votes", "export", "dataset", "reward", "base", "policy", "endpoint", "prompt")
KINDS = {
    "votes": ("Votes", "votes"),
    "judgment": ("Vote", "votes"),
    "completion": ("Answer", "answers"),
    "annotator": ("Annotator", "annotators"),
    "export": ("Export", "exports"),
    "dataset": ("Dataset", "datasets"),
    "reward": ("Reward model", "reward models"),
    "base": ("Base of reward models", "bases of reward models"),
    "policy": ("Policy", "policies"),
    "endpoint": ("Policy elsewhere", "policies elsewhere"),
    "prompt": ("Prompt version", "prompt versions"),
}
WIDTH, HEIGHT = 210, 70
COLUMN_GAP, ROW_GAP, GAP = 60, 44, 16
MARGIN = 12
PER_CELL = 4  # boxes of a kind in a round
ROUNDS_FIRST, ROUNDS_LAST = 2, 3  # that are drawn of a long lineage


Row = tuple[int, int]  # the round, and a part of it:
IMPORTED, ANSWERS, MADE = range(3)
BEFORE_ALL = (-1, MADE)


class Place(NamedTuple):
    row: Row
    column: int


class Box(NamedTuple):
    key: str
    x: float
    y: float
    width: float
    kind: str  # in words
    name: str
    notes: list[str]
    node: Node | None  # None: several, that are not drawn one by one
    run: Node | None  # that made it
    has_box_above: bool = False  # of the same kind and round: lines come from its side

    @property
    def bottom(self) -> float:
        return self.y + HEIGHT


class Line(NamedTuple):
    path: str
    is_wrote: bool  # drawn dashed: answers were judged, nothing was trained


class RowLabel(NamedTuple):
    y: float
    text: str


class Picture(NamedTuple):
    width: float
    height: float
    boxes: list[Box]
    lines: list[Line]
    rows: list[RowLabel]
    is_cut: bool


def draw(graph: Graph, of: Node, *, is_back: bool = False, everything: bool = False) -> Picture:
    """What leads to `of`, if it `is_back`, or what it leads to. With `everything`, nothing is put together
    into one box."""
    made_by = {
        edge.target: graph.nodes[edge.source] for edge in graph.edges if edge.role == "made by"
    }
    shown = [
        node
        for node in graph.nodes.values()
        if node.kind in ALWAYS_DRAWN or node.kind == "completion" or node.key == of.key
    ]
    cells: dict[Place, list[Node]] = defaultdict(list)
    for node in shown:
        first = not is_back and node.key == of.key and node.kind not in ALWAYS_DRAWN
        row = BEFORE_ALL if first else _row(node, made_by.get(node.key))
        cells[Place(row, COLUMNS[node.kind])].append(node)
    rows = sorted({place.row for place in cells})
    middle = [] if everything else rows[ROUNDS_FIRST : len(rows) - ROUNDS_LAST]
    if len(middle) < 2:
        middle = []  # a box for one row saves nothing
    boxes: dict[str, Box] = {}
    stands_for: dict[str, str] = {}  # node -> the box that it is in
    labels = []
    y = float(MARGIN)
    for row in rows:
        if row in middle[1:]:
            continue
        labels.append(RowLabel(y + 10, _row_name(row) if row not in middle else ""))
        y += 20
        if row in middle:
            hidden = [n for place, nodes in cells.items() if place.row in middle for n in nodes]
            box = _group("middle", MARGIN, y, _span(4), _rounds(middle), hidden)
            boxes[box.key] = box
            stands_for |= dict.fromkeys((node.key for node in hidden), box.key)
            y = box.bottom + ROW_GAP
            continue
        bottom = y
        for column in range(4):
            nodes = cells.get(Place(row, column), [])
            for box, inside in _stack(nodes, row, column, y, made_by, everything=everything):
                boxes[box.key] = box
                stands_for |= dict.fromkeys((node.key for node in inside), box.key)
                bottom = max(bottom, box.bottom)
        y = bottom + ROW_GAP
    lines = _lines(graph, boxes, stands_for, made_by)
    is_cut = any(box.node is None for box in boxes.values())
    height = y - ROW_GAP + MARGIN
    return Picture(2 * MARGIN + _span(4), height, list(boxes.values()), lines, labels, is_cut)


def _row(node: Node, run: Node | None) -> Row:
    if node.kind == "completion":
        return node.round, ANSWERS
    is_version = node.kind in ModelKind.values
    if is_version and (run is None or run.facts["run_kind"] == RunKind.IMPORT_MODEL):
        return node.round, IMPORTED
    return node.round, MADE


def _span(n: int) -> float:
    return n * WIDTH + (n - 1) * COLUMN_GAP


def _row_name(row: Row) -> str:
    number, part = row
    if row == BEFORE_ALL or part == ANSWERS or row == (0, MADE):  # of no round
        return ""
    return "Imported" if part == IMPORTED else f"Round {number}"


def _rounds(rows: Sequence[Row]) -> str:
    first, last = rows[0][0], rows[-1][0]
    return f"Round {first}" if first == last else f"Rounds {first} to {last}"


def _group(key: str, x: float, y: float, width: float, name: str, nodes: Sequence[Node]) -> Box:
    counts = Counter(node.kind for node in nodes if node.kind != "votes")
    said = ", ".join(
        f"{n} {KINDS[kind][1] if n != 1 else KINDS[kind][0].lower()}" for kind, n in counts.items()
    )
    return Box(key, x, y, width, "Not drawn one by one", name, [said], None, None)


def _stack(
    nodes: Sequence[Node],
    row: Row,
    column: int,
    y: float,
    made_by: Mapping[str, Node],
    *,
    everything: bool,
) -> Iterable[tuple[Box, list[Node]]]:
    """The boxes of one cell, one below the other, each with the nodes that it stands for."""
    x = MARGIN + column * (WIDTH + COLUMN_GAP)
    drawn = list(nodes)
    if not everything and len(nodes) > PER_CELL:
        drawn = drawn[: PER_CELL - 1]
    for n, node in enumerate(drawn):
        box = _box(node, x, y, made_by.get(node.key))
        yield box._replace(has_box_above=n > 0), [node]
        y += HEIGHT + GAP
    if hidden := list(nodes[len(drawn) :]):
        key = f"more-{row[0]}-{row[1]}-{column}"
        box = _group(key, x, y, WIDTH, f"{len(hidden)} more", hidden)
        yield box._replace(has_box_above=True), hidden


def _box(node: Node, x: float, y: float, run: Node | None) -> Box:
    return Box(node.key, x, y, WIDTH, KINDS[node.kind][0], node.name, _notes(node), node, run)


def _notes(node: Node) -> list[str]:
    if node.kind == "export":
        n = node.facts["pairs"]
        return [f"{n:,} pair{'s' if n != 1 else ''}"]
    if node.kind == "dataset":
        n = node.facts["rows"]
        return [f"{n:,} row{'s' if n != 1 else ''}"]
    if node.kind == "votes":
        people = node.facts["annotators"]
        by = [] if people is None else [f"{people:,} {'people' if people != 1 else 'person'}"]
        versions = ", ".join(sorted(node.facts["guideline_versions"], key=int))
        under = [f"guidelines {versions}"] if versions else []
        return [", ".join([*by, *under])] if by or under else []
    return []


# --- lines --------------------------------------------------------------------------------------
def _lines(
    graph: Graph,
    boxes: Mapping[str, Box],
    stands_for: Mapping[str, str],
    made_by: Mapping[str, Node],
) -> list[Line]:
    """One for each two boxes that are connected, directly or by a run that is in the box of what it made."""
    of_run = {run.key: key for key, run in made_by.items()}
    drawn: dict[tuple[str, str], bool] = {}
    for edge in _first_votes_only(graph):
        source = stands_for.get(edge.source)
        target = stands_for.get(of_run.get(edge.target, edge.target))
        if source and target and source != target:
            drawn[source, target] = drawn.get((source, target), True) and edge.role == WROTE
    return [
        Line(_path(boxes[source], boxes[target]), is_wrote)
        for (source, target), is_wrote in drawn.items()
    ]


def _first_votes_only(graph: Graph) -> Iterator[Edge]:
    """Without the lines from a policy to later votes on its answers: each export has the votes of the one
    before, so that there would be a line from each policy to each of them."""
    drawn = set()
    for edge in graph.edges:  # in the order of the exports
        if edge.role == WROTE and edge.source in drawn:
            continue
        if edge.role == WROTE:
            drawn.add(edge.source)
        yield edge


def _path(source: Box, target: Box) -> str:
    """From side to side within a round, and from below to above into a later one; into a box with another
    one above it, from the side."""
    is_below = target.y >= source.bottom
    if is_below and not target.has_box_above:
        return _downwards(source, target)
    if source.x + source.width <= target.x:
        return _sideways(source.x + source.width, source.y, target.x, target.y)
    if source.x == target.x:
        return _around(source, target)
    return _sideways(source.x, source.y, target.x + target.width, target.y, to_left=True)


def _sideways(x1: float, y1: float, x2: float, y2: float, *, to_left: bool = False) -> str:
    y1, y2 = y1 + HEIGHT / 2, y2 + HEIGHT / 2
    bend = (-1 if to_left else 1) * COLUMN_GAP / 2
    return f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"


def _around(source: Box, target: Box) -> str:
    """Along the left side of what is between the two."""
    x, y1, y2 = source.x, source.y + HEIGHT / 2, target.y + HEIGHT / 2
    left = x - COLUMN_GAP / 2
    return f"M{x:g} {y1:g}C{left:g} {y1:g} {left:g} {y2:g} {x:g} {y2:g}"


def _downwards(source: Box, target: Box) -> str:
    """Where one of the two is as wide as several columns, straight down from or to the other."""
    x1, x2 = source.x + source.width / 2, target.x + target.width / 2
    if source.width > WIDTH:
        x1 = min(max(x2, source.x), source.x + source.width)
    if target.width > WIDTH:
        x2 = min(max(x1, target.x), target.x + target.width)
    y1, y2 = source.bottom, target.y
    bend = min(60.0, (y2 - y1) / 2)
    return f"M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"

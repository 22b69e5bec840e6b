"""The description of the formats is true."""

import json
import re
from pathlib import Path

from annotator.exports.files import FORMATS
from annotator.exports.shapes import COLUMNS, JUDGED, SHAPES, VOTES
from annotator.formats.entries import Answer
from annotator.formats.shapes import OTHERS, entry_of, recognise

TEXT = (Path(__file__).parents[2] / "docs" / "data-format.md").read_text()


BLOCKS = [block.splitlines() for block in re.findall(r"```json\n(.*?)\n```", TEXT, re.DOTALL)]


def test_every_example_of_a_row_can_be_imported():
    entries = [[entry_of(json.loads(line)) for line in block] for block in BLOCKS]

    prompts, (transcript,), (comparison,), choices, _, _, (votes,), (known,), *others = entries
    assert [len(entry.messages) for entry in prompts] == [1, 2]
    assert [message["role"] for message in transcript.messages] == ["user", "assistant", "user"]
    assert comparison.answers[1] == Answer("It is", "model-b", is_truncated=True)
    assert all(choice == choices[0] for choice in choices)
    assert [vote.annotator for vote in votes.votes] == ["7", "8"]
    assert known.expected == [[1, 2], [0]]
    assert all(len(entry.answers) == 2 for block in others for entry in block)


def test_every_shape_of_another_tool_has_an_example():
    shown = {recognise(json.loads(line)) for block in BLOCKS for line in block}

    assert OTHERS.keys() - shown == {"pair of an export", "showing of an export"}


def test_every_column_is_described_in_order():
    table = TEXT[TEXT.index("| column | type |") : TEXT.index("Every line has all columns")]
    described = [
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]

    assert described == list(COLUMNS)


def names_in(heading):
    """What the first cells of the table below this row name, in order."""
    rows = TEXT[TEXT.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_every_field_of_a_vote_is_described():
    of_comparison = names_in("| field of a comparison |")

    assert set(names_in("| field of a frozen judgment |")) == set(JUDGED)
    of_votes = set(of_comparison) - {"judgments", "rulings"}
    of_showing = set(names_in("| field of a showing |"))
    assert set(VOTES) - set(JUDGED) == of_votes | of_showing


def test_every_shape_and_format_is_described():
    assert names_in("| shape | for |") == list(SHAPES)
    assert names_in("| format | is |") == list(FORMATS)

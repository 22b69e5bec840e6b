"""The description of the formats is true."""

import re
from pathlib import Path

from annotator.exporting import COLUMNS
from annotator.formats.entries import Answer
from annotator.jsonl import parse_line

TEXT = (Path(__file__).parents[2] / "docs" / "data-format.md").read_text()


def test_every_example_of_a_line_can_be_imported():
    blocks = re.findall(r"```json\n(.*?)\n```", TEXT, re.DOTALL)
    entries = [[parse_line(line.encode()) for line in block.splitlines()] for block in blocks]

    prompts, (transcript,), (comparison,), choices, (known,) = entries
    assert [len(entry.messages) for entry in prompts] == [1, 2]
    assert [message["role"] for message in transcript.messages] == ["user", "assistant", "user"]
    assert comparison.answers[1] == Answer("It is", "model-b", is_truncated=True)
    assert all(choice == choices[0] for choice in choices)
    assert known.expected == [[1, 2], [0]]


def test_every_column_is_described_in_order():
    table = TEXT[TEXT.index("| column | type |") : TEXT.index("Every line has all columns")]
    described = [
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]

    assert described == list(COLUMNS)

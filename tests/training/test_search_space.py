import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.training.config import RewardModelConfig
from rlhf.training.search_space import (
    Choice,
    Range,
    fixed,
    format_space,
    parse_space,
    types_of,
    varied,
)

TYPES = {
    "rate": (float,),
    "rank": (int,),
    "layers": (int, type(None)),
    "ties": (str,),
    "curve": (bool,),
}
FLOATS = st.floats(1e-9, 1e9)
WHOLE = st.integers(-1000, 1000)


def ranges(name, numbers):
    pairs = st.lists(numbers, min_size=2, max_size=2, unique=True).map(sorted)
    return st.builds(
        lambda pair, log: Range(name, *pair, log and pair[0] > 0), pairs, st.booleans()
    )


def choices(name, values, at_least=1):
    several = st.lists(values, min_size=at_least, max_size=4, unique=True)
    return several.map(lambda found: Choice(name, tuple(found)))


SPACES = st.tuples(
    choices("ties", st.sampled_from(["half", "davidson", "rao-kupper"]), at_least=2),
    ranges("rate", FLOATS) | choices("rate", FLOATS),
    ranges("rank", WHOLE) | choices("rank", WHOLE),
    choices("layers", st.none() | WHOLE),
    choices("curve", st.booleans()),
).map(list)


@settings(max_examples=50)
@given(SPACES)
def test_what_is_written_is_read_back(space):
    assert parse_space(format_space(space), TYPES) == space


@settings(max_examples=50)
@given(st.text())
def test_any_text_is_read_or_refused_with_a_sentence(text):
    try:
        found = varied(parse_space(text, TYPES))
    except ValueError as error:
        found = "the space" in str(error)

    assert found


def test_lines_say_what_varies_and_what_does_not():
    text = "rate = 1e-5 .. 1e-3 log  # wide\n\nrank in 4, 8\nties = half\nlayers = 1..6"

    space = parse_space(text, TYPES)

    assert varied(space) == [
        Range("rate", 1e-5, 1e-3, True),
        Choice("rank", (4, 8)),
        Range("layers", 1, 6),
    ]
    assert fixed(space) == {"ties": "half"}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "rte = 1 .. 2",
            "there is no setting 'rte' to vary; there are curve, layers, rank, rate, ties",
        ),
        ("rate 1 .. 2", "“rate 1 .. 2” is no setting: write NAME = LOW .. HIGH, "),
        ("rate = 2 .. 1", "rate = 2 .. 1: the first number must be below the second"),
        ("rate = 0 .. 1 log", "rate = 0 .. 1 log: a range with log must begin above 0"),
        ("rate = 1 .. nan", "rate must be a number, not 'nan'"),
        ("rank = 1 .. 2.5", "rank must be a whole number, not '2.5'"),
        ("ties = 1 .. 2", "ties is no number: write ties in A, B"),
        ("curve in true, yes", "curve must be true or false, not 'yes'"),
        ("layers in 4, all", "layers must be a whole number or none, not 'all'"),
        ("rank in 4, 4", "rank has a value twice: 4, 4"),
        (f"rank = 1 .. {'9' * 400}", "rank must be a whole number between -9007199254740992 and"),
        (f"rank in 1, -{'9' * 400}", "rank must be a whole number between -9007199254740992 and"),
        (f"rate = 1 .. {'9' * 400}", "rate must be a number, not '999"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(line, sentence):
    with pytest.raises(ValueError, match="line 2 of the space: ") as refused:
        parse_space(f"curve in true, false\n{line}", TYPES)
    assert sentence in str(refused.value)


def test_a_setting_given_twice_is_refused():
    with pytest.raises(ValueError, match="line 2 of the space: rank is given twice"):
        parse_space("rank in 1, 2\nrank = 3", TYPES)


def test_a_space_in_which_nothing_varies_is_refused():
    with pytest.raises(ValueError, match="nothing varies in the space"):
        parse_space("rank = 3", TYPES)


def test_models_files_and_lists_cannot_be_varied():
    types = types_of(RewardModelConfig)

    assert types["adapter_layers"] == (int, type(None))
    assert not {"model", "base", "data", "prompts"} & set(types)

"""Protocols: as JSON and back, what they cannot be, and what they allow of a verdict."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator.ballots import choices
from annotator.models import Verdict
from annotator.protocols import (
    MANY,
    PRESETS,
    RATIONALES,
    Criterion,
    Protocol,
    check,
    check_spans,
    from_json,
    preset_of,
    to_json,
)

TEXT = st.text("ab é日🙂|:", min_size=1, max_size=30).map(str.strip).filter(bool)


def labels(at_least, at_most):
    return st.lists(TEXT, min_size=at_least, max_size=at_most, unique=True).map(tuple)


CRITERIA = st.lists(
    st.builds(Criterion, st.from_regex(r"[a-z][a-z0-9_]{0,29}", fullmatch=True), TEXT, TEXT),
    max_size=3,
    unique_by=lambda criterion: criterion.key,
).map(tuple)
PROTOCOLS = st.builds(
    Protocol,
    strengths=labels(1, 4),
    allow_tie=st.booleans(),
    allow_all_bad=st.booleans(),
    all_bad_label=st.just("") | TEXT,
    allow_unrankable=st.booleans(),
    many=st.sampled_from(list(MANY)),
    criteria=CRITERIA,
    rationale=st.sampled_from(list(RATIONALES)),
    reasons=labels(0, 9),
    rewrite=st.booleans(),
    span_labels=labels(0, 5),
    flags=labels(0, 5),
)


@settings(max_examples=50)
@given(PROTOCOLS)
def test_a_protocol_is_the_same_after_json(protocol):
    assert from_json(to_json(protocol)) == protocol


def test_a_project_without_settings_is_an_arena():
    assert from_json({}) == Protocol()
    assert to_json(PRESETS["arena"].protocol) == {}


@pytest.mark.parametrize("key", list(PRESETS))
def test_every_preset_is_found_again(key):
    assert preset_of(from_json(to_json(PRESETS[key].protocol))) == key


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"strength": ["a"]}, "a protocol has no strength; it has strengths, allow_tie"),
        ({"strengths": []}, "strengths must be 1 to 4 labels, not ()"),
        ({"strengths": list("abcde")}, "strengths must be 1 to 4 labels"),
        ({"strengths": ["a", "a"]}, "the labels in strengths must differ: a, a"),
        ({"strengths": ["two\nlines"]}, "1 to 60 characters on one line, not 'two\\nlines'"),
        ({"flags": "unsafe"}, "flags must be 0 to 5 labels, not 'unsafe'"),
        ({"flags": [""]}, "a label in flags is 1 to 60 characters"),
        ({"many": "all"}, "many must be one of ranking, best, not 'all'"),
        ({"rationale": True}, "rationale must be one of off, optional, required, not True"),
        ({"allow_tie": 1}, "allow_tie must be true or false, not 1"),
        ({"criteria": [{"key": "a"}]}, "a criterion has a key, a name and a question"),
        ({"criteria": [{"key": "A b", "name": "x", "question": "y"}]}, "not 'A b'"),
    ],
)
def test_what_a_protocol_cannot_be_is_told(value, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        from_json(value)


def said(verdict=Verdict.RANKING, ranking=((1,), (2,)), **fields):
    """Of answers 1 and 2."""
    nothing = {
        "strength": None, "criteria": {}, "rationale": "", "reasons": [], "flags": {},
        "spans": [], "rewrite": "",
    }  # fmt: skip
    ranking = [list(group) for group in ranking] if verdict == Verdict.RANKING else []
    return {"verdict": verdict, "ranking": ranking} | nothing | fields


STEPS = Protocol(strengths=("slightly better", "better"))
HONEST = Protocol(criteria=(Criterion("honest", "Honest", "Which is truer?"),))


@pytest.mark.parametrize(
    ("protocol", "order", "verdict", "sentence"),
    [
        (STEPS, [1, 2], said(), "Say how much better it is: in 2 steps."),
        (STEPS, [1, 2], said(strength=3), "Say how much better it is: in 2 steps."),
        (STEPS, [1, 2], said(ranking=[[1, 2]], strength=1), "was not asked"),
        (STEPS, [1, 2, 3], said(ranking=[[1], [2], [3]], strength=1), "was not asked"),
        (Protocol(), [1, 2], said(strength=1), "was not asked"),
        (Protocol(allow_tie=False), [1, 2], said(ranking=[[1, 2]]), "asks for a decision"),
        (Protocol(allow_tie=False), [1, 2, 3], said(ranking=[[1], [2, 3]]), "asks for a decision"),
        (Protocol(many="best"), [1, 2, 3], said(ranking=[[1], [2], [3]]), "Pick one answer"),
        (Protocol(allow_all_bad=False), [1, 2], said(Verdict.ALL_BAD), "asks for a choice"),
        (Protocol(), [1, 2], said(Verdict.UNRANKABLE), "what you cannot rank you can skip"),
        (HONEST, [1, 2], said(), "Say also which answer is better in: Honest."),
        (Protocol(), [1, 2], said(rationale="So."), "does not ask for reasons in words"),
        (Protocol(rationale="required"), [1, 2], said(rationale=" "), "Say in a few words why."),
        (Protocol(rationale="required"), [1, 2], said(Verdict.ALL_BAD), "Say in a few words why."),
        (Protocol(), [1, 2], said(reasons=["Clear"]), "no reasons called Clear"),
        (Protocol(flags=("x",)), [1, 2], said(flags={"3": ["x"]}), "another answer"),
        (Protocol(flags=("x",)), [1, 2], said(flags={"1": ["x", "x"]}), "given twice"),
        (Protocol(), [1, 2], said(rewrite="Mine."), "does not ask for an answer of your own"),
        (Protocol(), [1, 2], said(Verdict.SKIPPED, rationale="So."), "skipped is not judged"),
    ],
)
def test_what_a_protocol_does_not_allow_is_told(protocol, order, verdict, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check(protocol, order, verdict)


@pytest.mark.parametrize(
    ("protocol", "order", "verdict"),
    [
        (STEPS, [1, 2], said(strength=2)),
        (STEPS, [1, 2], said(ranking=[[1, 2]])),
        (STEPS, [1, 2, 3], said(ranking=[[1], [2], [3]])),
        (Protocol(many="best"), [1, 2, 3], said(ranking=[[3], [1, 2]])),
        (HONEST, [1, 2], said(criteria={"honest": {"ranking": [[1, 2]], "strength": None}})),
        (HONEST, [1, 2], said(Verdict.ALL_BAD)),
        (Protocol(rationale="required"), [1, 2], said(Verdict.SKIPPED)),
        (Protocol(allow_unrankable=True), [1, 2], said(Verdict.UNRANKABLE)),
    ],
)
def test_what_a_protocol_allows(protocol, order, verdict):
    check(protocol, order, verdict)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (2, 1), (-1, 2), (0, 4), (0.0, 2), ("0", 2)])
def test_a_span_lies_within_its_answer(start, end):
    with pytest.raises(ValueError, match="is not within its answer"):
        check_spans([{"completion": 7, "start": start, "end": end, "label": "x"}], {7: 3})


@settings(max_examples=50)
@given(PROTOCOLS, st.integers(2, 9))
def test_no_two_choices_share_a_key_or_a_value(protocol, n):
    offered = choices(protocol, n)

    for names in ([choice.key for choice in offered], [choice.value for choice in offered]):
        assert len(set(names)) == len(names)

import math

import pytest

from rlhf.training.artifacts import RunError, RunFolder, write_json
from rlhf.training.model_judge import (
    Contest,
    Said,
    judge_all,
    leaning,
    letter_ids,
    parse,
    question,
    said_by,
)
from rlhf.training.tiny import build_tokenizer
from tests.rlhf.stand_in import StandIn

WHY = [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", "A"),
        (" **B**.\n", "B"),
        ("Answer: A", "A"),
        ('"B"', "B"),
        ("a", ""),
        ("A or B", ""),
        ("A is better", ""),
        ("Neither", ""),
        ("", ""),
    ],
)
def test_a_verdict_is_a_letter_and_nothing_else(reply, verdict):
    assert parse(reply) == verdict


def test_the_swapped_question_has_the_new_answer_last():
    contest = Contest(WHY, "new one", "old one")

    (plain,), (swapped,) = question(contest), question(contest, is_swapped=True)

    assert "[Answer A]\nnew one\n\n[Answer B]\nold one" in plain["content"]
    assert "[Answer A]\nold one\n\n[Answer B]\nnew one" in swapped["content"]
    assert "[What was asked]\nuser: Why?" in plain["content"]


def test_texts_that_look_like_places_of_the_question_stay_as_they_are():
    (asked,) = question(Contest(WHY, "{b} {0}", "{question}"))

    assert "[Answer A]\n{b} {0}\n\n[Answer B]\n{question}" in asked["content"]


def test_a_tokenizer_without_the_letter_is_refused():
    tokenizer = build_tokenizer()

    assert len(letter_ids(tokenizer, "A")) == 2
    with pytest.raises(RunError, match="The judge cannot say 東"):
        letter_ids(tokenizer, "東")


def test_what_stands_first_cancels_out_between_both_orders():
    first, second = said_by(0.8, 0.1), said_by(0.4, 0.1)

    assert (first.letter, second.letter) == ("A", "A")
    assert leaning(first, second) == pytest.approx(math.log(2) / 2)
    assert leaning(first, Said("")) is None


def test_a_question_that_is_too_long_has_no_verdict(tiny_reference, folder):
    contests = [Contest(WHY, "Yes. " * 1000, "No."), Contest(WHY, "Yes.", "No.")]

    verdicts = judge_all(tiny_reference, contests, folder)

    assert verdicts.pairs[0] == ("", "")
    assert set(verdicts.pairs[1]) <= {"A", "B"}
    assert [nats is None for nats in verdicts.leanings] == [True, False]
    assert judge_all(tiny_reference, contests, folder) == verdicts


# --- prompt versions --------------------------------------------------------------------------
@pytest.fixture
def strict(tmp_path):
    write_json(tmp_path / "prompting.json", {"system": "Be strict."})
    return {"prompting": str(tmp_path / "prompting.json")}


def test_a_prompt_version_is_asked_with_what_it_puts_around_a_question(
    tiny_reference, strict, folder, tmp_path
):
    (tmp_path / "plain").mkdir()
    contests = [Contest(WHY, "Yes.", "No.")]

    plain = judge_all(tiny_reference, contests, RunFolder(tmp_path / "plain"))
    verdicts = judge_all({**tiny_reference, **strict}, contests, folder)

    assert verdicts.mass != plain.mass
    assert len((folder.path / "prompting-judge.jsonl").read_text().splitlines()) == 2


def test_a_prompt_version_of_a_judge_elsewhere_is_sent_the_whole_question(strict, folder):
    with StandIn() as server:
        judge_all({**server.reference(), **strict}, [Contest(WHY, "Yes.", "No.")], folder)

    system, asked = server.asked[0]["messages"]
    assert system == {"role": "system", "content": "Be strict."}
    assert asked["content"].startswith("Two assistants were asked the same.")

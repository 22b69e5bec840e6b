# ruff: noqa: RUF001 (texts in several scripts)
import pytest

from rlhf.training.screen_leaks import HeldOut, Inside, ends_there
from rlhf.training.screen_rows import ANSWER, PROMPT, ROW, Asked, Row, asked_in, text_of

SEA = "Please write a short poem about the sea, the gulls and an old sailor who cannot sleep."
SKY = "请用三句话解释为什么天空在晴天是蓝色的。"


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


ANSWERED = {"role": "assistant", "content": "Waves."}


def held_out(*prompts):
    found = HeldOut(85)
    for number, messages in enumerate(prompts, 1):
        found.add(asked_in(messages)[0], f"prompt {number}")
    return found


def leak_in(held, *messages):
    row = Row("k", PROMPT, "line 1", text_of(messages), "train", asked_in(messages))
    leak = held.leak_in(row)
    return leak and leak.code


@pytest.mark.parametrize("before", [[], [system("Be brief.")]])
@pytest.mark.parametrize("held_before", [[], [system("You are a helpful assistant.")]])
def test_a_system_message_makes_a_prompt_no_other_one(held_before, before):
    assert leak_in(held_out([*held_before, user(SEA)]), *before, user(SEA)) == "exact_leak"


def test_two_system_messages_make_two_prompts_of_a_short_one():
    held = held_out([system("To German."), user("Hello")])

    found = [
        leak_in(held, *before, user("hello"))
        for before in ([system("to  German.")], [], [system("To Thai.")])
    ]

    assert found == ["exact_leak", "exact_leak", None]


@pytest.mark.parametrize("talk", [
    [user(SEA), ANSWERED, user("Thanks! And one of the moon?")],
    [user("Hi!"), ANSWERED, user(SEA)],
])  # fmt: skip
def test_each_turn_of_a_conversation_is_compared(talk):
    assert leak_in(held_out([user(SEA)]), *talk) == "exact_leak"


def test_a_short_turn_of_several_is_no_leak():
    assert leak_in(held_out([user("Go on.")]), user(SEA), ANSWERED, user("Go on.")) is None


@pytest.mark.parametrize("text", [
    "\u200b".join(SEA), SEA.replace("e", "е"), SEA.replace("fi", "ﬁ").upper(),
    SEA.replace("poem", "po\u00adem"),
])  # fmt: skip
def test_what_nobody_sees_makes_a_prompt_no_other_one(text):
    assert leak_in(held_out([user(SEA)]), user(text)) == "exact_leak"


def test_short_prompts_in_chinese_are_nearly_the_same_too():
    held = held_out([user(SKY)])

    assert leak_in(held, user(f"请{SKY}")) == "near_leak"
    assert leak_in(held, user("请写一首关于大海的诗，不要太长。")) is None


@pytest.mark.parametrize("question", [SEA, SKY])
def test_a_document_with_a_held_out_prompt_in_it_is_a_leak(question):
    held = held_out([user(question)])
    text = f"Chapter 1. {'Something else. ' * 9}{question} Waves, foam. {'And more. ' * 9}"

    leak = held.leak_in(Row("k", ROW, "line 1", text, "train"))

    assert (leak.code, leak.like.place) == ("quoted_leak", "prompt 1")
    assert held.leak_in(Row("k", ROW, "line 1", text, "test")) is None
    assert held.leak_in(Row("k", ANSWER, "line 1", text, "train")) is None


def test_a_prompt_within_instructions_is_a_leak():
    text = (
        f"Question: {SEA}\n\nThink step by step, and answer truthfully, completely and with sources."
        * 2
    )

    assert leak_in(held_out([user(SEA)]), user(text)) == "quoted_leak"


@pytest.mark.parametrize(("after", "expected"), [
    (" of words by their length", None), (", which is long", None), ("\nwithout sorted()", "quoted_leak"),
    (". Use Python.", "quoted_leak"), ("", "quoted_leak"),
])  # fmt: skip
def test_the_beginning_of_a_longer_sentence_is_another_prompt(after, expected):
    held = held_out([user("Write a function that sorts a list")])

    assert (
        leak_in(
            held,
            user(f"{'I am learning to program. ' * 9}Write a function that sorts a list{after}"),
        )
        == expected
    )


def test_a_long_prompt_need_not_end_a_sentence():
    assert [ends_there("a" * n, " b") for n in (99, 100)] == [False, True]


def test_a_text_is_found_wherever_it_begins():
    inside = Inside()
    inside.add("who is it that knocks at my door?", "it")

    found = [inside.find("x" * n + " Who is it that knocks at my door? Me.") for n in range(40)]

    assert found == ["it"] * 40


def test_prompts_that_begin_alike_are_found_by_what_they_do_not_share():
    inside = Inside()
    for n in range(200):
        inside.add(f"please translate this sentence into german: {n} times {n * n}", n)

    assert max(map(len, inside._anchors.values())) < 120
    assert inside.find("So: please translate this sentence into German: 7 times 49") == 7


def test_a_prompt_without_words_is_no_leak():
    assert held_out([user(" ")]).leak_in(Row("k", ROW, "line 1", "", "train", [Asked("")])) is None

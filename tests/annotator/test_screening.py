"""What is found in answers before anybody is asked to compare them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.screening import (
    MADE_BY,
    MODELS,
    NAMES,
    VERBS,
    default_checks,
    near_identical,
    reason_to_hold,
    self_naming,
)

ALL = ["empty", "near_identical", "self_naming", "truncated"]
PARIS = "The capital of France is Paris, which lies on the Seine and has two million people."


def found(*texts, checks=ALL, percent=95):
    return reason_to_hold([(text, False) for text in texts], checks, percent)


def test_answers_that_differ_are_asked():
    assert found("Paris.", "Lyon, I think.", PARIS) == ""


def test_an_answer_that_says_nothing_is_found():
    assert found("Paris.", " \n") == "Answer B is empty."


def test_an_answer_that_was_cut_off_is_found_beside_one_that_was_not():
    answers = [("Paris.", False), ("Lyon is", True)]

    assert reason_to_hold(answers, default_checks(), 95) == (
        "Answer B was cut off at the length limit."
    )
    assert reason_to_hold(answers, [], 95) == ""


def test_answers_that_were_all_cut_off_are_compared_by_how_they_begin():
    assert reason_to_hold([("Paris is", True), ("Lyon is", True)], default_checks(), 95) == ""


def test_answers_that_differ_in_spaces_and_capitals_are_the_same():
    assert found("Yes.\n\nOf course!", "yes. of  course!") == (
        "Answers A and B are the same but for spaces and capitals."
    )


def test_answers_that_are_nearly_identical_are_found_from_the_stated_ratio_on():
    nearly = PARIS.replace("lies", "sits")

    assert found("No.", PARIS, nearly, percent=90) == "Answers B and C are 97 % alike."
    assert found("No.", PARIS, nearly, percent=98) == ""
    assert found(PARIS, PARIS + "!", percent=100) == ""


def test_a_different_number_is_never_nearly_identical():
    assert near_identical([f"{PARIS} In 1900 too.", f"{PARIS} In 1901 too."], 90) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello! I'm ChatGPT, and I can help.", "I'm ChatGPT"),
        ("I am the Claude of old.", "I am the Claude"),
        (
            "Sorry, but as an AI language model developed by OpenAI, I cannot.",
            "as an AI language model developed by OpenAI",
        ),
        ("It is sad, as a model trained by Google, to hear.", "as a model trained by Google"),
        ("Sorry. As a model made by OpenAI, I cannot.", "As a model made by OpenAI"),
        ("I am an AI assistant created by Acme.", "I am an AI assistant created by Acme"),
        ("I was trained by Google on text.", "I was trained by Google"),
        ("Ich bin Qwen2.5 und helfe gern.", "Ich bin Qwen2.5"),
        ("Je suis un modèle développé par Mistral.", "Je suis un modèle développé par Mistral"),
        ("I'm Google Gemini, ask me.", "I'm Google Gemini"),
        ("I am OpenAI's GPT-4 here.", "I am OpenAI's GPT-4"),
        ("I\u2019m Microsoft Copilot!", "I\u2019m Microsoft Copilot"),
        ("I am Meta AI.", "I am Meta AI"),
        (
            "I am an artificial intelligence developed by OpenAI.",
            "I am an artificial intelligence developed by OpenAI",
        ),
        ("OpenAI trained me to be helpful.", "OpenAI trained me"),
        ("Sure. Anthropic made me, after all.", "Anthropic made me"),
        (
            "Being an AI model developed by OpenAI, I cannot.",
            "Being an AI model developed by OpenAI",
        ),
        (
            "Ich bin ein Sprachmodell, das von OpenAI entwickelt wurde.",
            "Ich bin ein Sprachmodell, das von OpenAI entwickelt",
        ),
        (
            "Ich bin ein von Google trainiertes KI-Modell.",
            "Ich bin ein von Google trainiertes KI-Modell",
        ),
        (
            "Soy un agente que fue creado por Anthropic.",
            "Soy un agente que fue creado por Anthropic",
        ),
        ("I'm an AI assistant from Anthropic.", "I'm an AI assistant from Anthropic"),
        ("I am a large language model by Google.", "I am a large language model by Google"),
        ("I'm based on GPT-4.", "I'm based on GPT-4."),
        ("Well, I'm powered by Llama 3.", "I'm powered by Llama"),
        ("My name's Claude. Ask away.", "My name's Claude"),
        ("This is ChatGPT. Ask me!", "This is ChatGPT"),
        ("Hello! This is Gemini, your assistant.", "Hello! This is Gemini"),
        ("I'm an agent trained by OpenAI.", "I'm an agent trained by OpenAI"),
        ("我是由阿里云开发的通义千问。", "我是由阿里云开发的通义千问"),
        ("私はChatGPTです。", "私はChatGPT"),
    ],
)
def test_an_answer_that_says_who_wrote_it_is_found(text, words):
    assert self_naming(text) == words
    assert found("Paris.", text) == f"Answer B says who wrote it: “{words}”."


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I cannot do that.",  # so do they all: nothing is given away
        "There are models such as ChatGPT, and a model made by Meta.",
        "Claude Monet painted it; I was trained by my mother.",
        "It is as good as a model trained by Google, as we know the model made by Meta.",
        "As llamas go, it was a tall one.",
        "Google trained me as an engineer, she wrote.",
        "I am Google's biographer, and Microsoft hired me.",
        "Being a model developed by hand, it breaks.",
        "Being an agent of change is hard; OpenAI was founded in 2015.",
        "Ich bin Lehrer, und das Modell wurde von einer Schule entwickelt.",
        "My uncle works at Meta. AI is his field.",
        "I'm an agent trained by the FBI.",
        "Soy un agente entrenado por el FBI.",
        "I'm an AI researcher from Google, she said.",
        "I am an engineer from Microsoft.",
        "I'm based on the coast, and my film is based on Llama Llama Red Pajama.",
        "This is Gemini season, and that is ChatGPT.",
        "Which of them is it? This is ChatGPT.",
    ],
)
def test_an_answer_that_only_speaks_of_models_is_not_found(text):
    assert self_naming(text) == ""


def test_what_is_not_asked_for_is_not_found():
    assert found("", "I am ChatGPT.", "I am ChatGPT.", checks=[]) == ""


def test_the_patterns_take_no_time_on_long_answers_of_their_own_words():
    for words in (
        "I am as ", "I am a model made ", ". as ", ", as a model made ", "OpenAI trained me as ",
        "being a model made by ", "Ich bin ein Modell von Google ", "Ich bin ein von Google trainiertes ",
    ):  # fmt: skip
        assert self_naming(words * 1000) == ""  # would not end if they went back and forth


@given(st.from_regex(re.compile(MODELS, re.IGNORECASE), fullmatch=True))
def test_the_words_looked_for_first_are_in_every_name_of_a_model(name):
    assert any(word in name.casefold() for word in NAMES)


@given(st.from_regex(re.compile(MADE_BY, re.IGNORECASE), fullmatch=True))
def test_the_words_looked_for_first_are_in_every_way_to_say_made_by(words):
    assert any(word in words.casefold() for word in VERBS)

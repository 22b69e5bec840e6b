# ruff: noqa: RUF001 (texts in several languages)
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.training.screen_patterns import (
    control_tokens,
    encoding,
    pattern_of_tokens,
    personal,
    unsafe,
)

TOKENS = pattern_of_tokens(["<|tool|>", "</s>", "word"])


def found(detect, text):
    return [(match.code, text[match.start : match.end]) for match in detect(text)]


# --- personal data ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to anna.muster+x@firma.co.uk, please", ("email", "anna.muster+x@firma.co.uk")),
        ("Пишите на ivan@почта.рф или ivan@mail.ru.", ("email", "ivan@mail.ru")),
        ("Tel. +49 (0)30 901820, Mo–Fr", ("phone", "+49 (0)30 901820")),
        ("Call (212) 555-0147 now", ("phone", "(212) 555-0147")),
        ("電話は+81 3-1234-5678です。", ("phone", "+81 3-1234-5678")),
        ("IBAN DE89 3704 0044 0532 0130 00 EUR", ("iban", "DE89 3704 0044 0532 0130 00")),
        ("compte FR1420041010050500013M02606.", ("iban", "FR1420041010050500013M02606")),
        ("my Visa 4111 1111 1111 1111, 12/27", ("card", "4111 1111 1111 1111")),
        ("Amex 378282246310005", ("card", "378282246310005")),
        ("CPF 111.444.777-35", ("national_id", "111.444.777-35")),
        ("CF: RSSMRA85T10A562S", ("national_id", "RSSMRA85T10A562S")),
        ("mi DNI es 12345678Z", ("national_id", "12345678Z")),
        ("AHV-Nr. 756.9217.0769.85", ("national_id", "756.9217.0769.85")),
        ("hetu 131052-308T", ("national_id", "131052-308T")),
        ("Steuer-ID: 36 574 261 809", ("national_id", "36 574 261 809")),
        ("BSN 111222333", ("national_id", "111222333")),
        ("Schreib an　ＡＮＮＡ＠firma．de。", ("email", "ＡＮＮＡ＠firma．de")),
        ("卡号：４１１１ １１１１ １１１１ １１１１", ("card", "４１１１ １１１１ １１１１ １１１１")),
        ("البطاقة ٤١١١ ١١١١ ١١١١ ١١١١ شكرا", ("card", "٤١١١ ١١١١ ١١١١ ١١١١")),
        ("call 212‑555‑0147", ("phone", "212‑555‑0147")),
        ("iban de89 3704 0044 0532 0130 00 bitte sehr", ("iban", "de89 3704 0044 0532 0130 00")),
        ("my ip is 1.8.1.4", ("ip_address", "1.8.1.4")),
        ("5.9.6.7:8080 answers", ("ip_address", "5.9.6.7")),
        ("from 93.184.216.34 at noon", ("ip_address", "93.184.216.34")),
        ("addr 2606:2800:220:1:248:1893:25c8:1946", ("ip_address", "2606:2800:220:1:248:1893:25c8:1946")),
    ],
)  # fmt: skip
def test_personal_data_is_found_where_it_stands(text, expected):
    assert found(personal, text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "someone@example.com, me@localhost.test",
        "the picture logo@2x.png, and @handle",
        "GB00 WEST 1234 5698 7654 32 has wrong check digits",
        "4111 1111 1111 1112 fails Luhn",
        "order 1234567812345670 is of no issuer",
        "π is 3.14159265358979323846, e is 2.718281828459045",
        "ISBN 978-3-16-148410-0, published 2024-01-01 at 12:30:45",
        "192.168.0.1, 127.0.0.1, 10.0.0.7 and 8.8.8.8",
        "Version 6.3.1.12, release 93.184.216.34",
        "numpy 1.8.1.4, Python 3.11.4.2, see section 3.1.4.1, from 2.4.1.7 on",
        "git clone git@github.com:owner/name.git",
        "111222333 apples, 36574261809 stars",
        "1 000 000 + 2 000 000 = 3 000 000; 100-200-300",
        "a ratio of 16:9, chapter 3:16, C::D, f(x)::g",
        "2 + 1234567 = 1234569",
        "DE 89 und AB12",
    ],
)
def test_numbers_that_look_like_personal_data_are_left_alone(text):
    assert found(personal, text) == []


# --- unsafe text ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You ASSHOLE!", ("toxic_words", "ASSHOLE")),
        ("Du Hurensohn", ("toxic_words", "Hurensohn")),
        ("Tell me how to build a pipe bomb", ("unsafe_words", "Tell me how to build a pipe bomb")),
        ("Anleitung für eine Rohrbombe", ("unsafe_words", "Anleitung für eine Rohrbombe")),
        ("So: how do I make a bomb?", ("unsafe_words", "how do I make a bomb")),
        ("Write malware that encrypts a disk", ("unsafe_words", "Write malware")),
        ("All Jews should be killed.", ("unsafe_words", "All Jews should be killed")),
        ("Comment tuer ma femme ?", ("unsafe_words", "Comment tuer ma femme")),
        ("¿Cómo hago una bomba?", ("unsafe_words", "Cómo hago una bomba")),
        ("Vou te matar!", ("unsafe_words", "Vou te matar")),
        ("Come costruire una bomba", ("unsafe_words", "Come costruire una bomba")),
        ("Как взломать чужой телефон?", ("unsafe_words", "Как взломать чужой телефон")),
        ("请问怎么制造炸弹？", ("unsafe_words", "怎么制造炸弹")),
        ("爆弾の作り方を教えて", ("unsafe_words", "爆弾の作り方")),
        ("폭탄 만드는 방법", ("unsafe_words", "폭탄 만드는")),
        ("كيف أقتل زوجتي؟", ("unsafe_words", "كيف أقتل زوجتي")),
        ("बम कैसे बनाएं?", ("unsafe_words", "बम कैसे बना")),
        ("你这个傻逼", ("toxic_words", "傻逼")),
        ("you stupid bitch", ("toxic_words", "you stupid bitch")),
    ],
)
def test_words_of_the_lists_are_found(text, expected):
    assert found(unsafe, text) == [expected]


@pytest.mark.parametrize(
    "text",
    ["Scunthorpe United", "Le train est en retard", "how to write a bath bomb recipe",
     "Slutet gott, programmet är slut", "faggots and peas", "A bitch is a female dog",
     "How do I kill someone's process?", "How to kill a parent process", "recipe for ricin-free castor oil",
     "How to build a bomb shelter", "How can I prevent someone from making a bomb?",
     "Как убить время?", "怎么防止别人制造炸弹？", "Comment faire une bombe glacée ?",
     "Sussex and Essex", "The pipe bomb of 1996 killed two people"],
)  # fmt: skip
def test_words_that_only_look_alike_are_left_alone(text):
    assert found(unsafe, text) == []


# --- encodings --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Das ist schÃ¶n.", [("mojibake", "Ã¶")]),
        ("a\x00b", [("control_character", "\x00")]),
        ("half \ud83d of it", [("lone_surrogate", "\ud83d")]),
        ("caf\ufffd", [("replacement_character", "\ufffd")]),
    ],
)
def test_broken_encodings_are_found(text, expected):
    assert found(encoding, text) == expected


def test_mojibake_is_found_with_what_it_may_have_been():
    (match,) = encoding("Das ist schÃ¶n.")

    assert match.note == "perhaps “schön.”"


@pytest.mark.parametrize(
    "text",
    [
        "Müller, Ångström, Łukasiewicz, Nguyễn Thị Ánh, Đorđević, Ñuñez",
        "L’été à Besançon — “c’est ça”, dit-il…",
        "İstanbul'da şüphesiz; ÆØÅ; Ünïcödé Ðæmon",
        "привет мир, Ελληνικά, עברית, العربية, हिन्दी, 日本語の文字、中文。",
        "A IRMÃ DE JOÃO VIU A MAÇÃ E O PÃO.",
        "£5 – 20 °C ± 3 µm × 4 → ½ • ™ 👍🏽 👩‍🔬",
        "line one\r\n\tline two",
    ],
)
def test_letters_of_other_languages_are_no_broken_encoding(text):
    assert found(encoding, text) == []


# --- control tokens ---------------------------------------------------------------------------
def test_control_tokens_of_templates_and_of_tokenizers_are_found():
    text = "Hi <|im_end|> and [INST] a word </s> <|tool|>"

    assert [part for _, part in found(lambda t: control_tokens(t, TOKENS), text)] == [
        "<|im_end|>", "[INST]", "</s>", "<|tool|>",
    ]  # fmt: skip


def test_markup_of_others_is_no_control_token():
    text = "<s>struck</s>, [citation], <div>, a | b, <|> and word"

    assert found(lambda t: control_tokens(t, pattern_of_tokens(["word"])), text) == []


# --- all of them ------------------------------------------------------------------------------
PIECES = st.sampled_from(
    ["a@b.de", "+49 30 901820", "4111111111111111", "DE89370400440532013000", "\x00", "\ud83d", "Ã¶",
     "<|im_end|>", "asshole", "how to build a pipe bomb", "93.184.216.34", "756.9217.0769.85", " ", "é", "。"]
)  # fmt: skip


@settings(max_examples=25)
@given(st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join))
def test_what_is_found_lies_within_the_text_and_is_not_empty(text):
    matches = [*personal(text), *unsafe(text), *encoding(text), *control_tokens(text, TOKENS)]

    assert [m for m in matches if not 0 <= m.start < m.end <= len(text)] == []


@settings(max_examples=25)
@given(st.lists(PIECES | st.text(max_size=8), max_size=12).map(" ".join))
def test_what_is_found_is_found_again_by_itself(text):
    parts = found(personal, text)
    named = ("national_id", "ip_address")  # these depend on what stands before them

    assert [p for p in parts if p[0] not in named and found(personal, p[1]) != [p]] == []

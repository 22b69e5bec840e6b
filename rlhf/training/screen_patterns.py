"""What can be found in one text: personal data, unsafe words, broken encodings, control tokens.

Pure functions from a text to `Match`es. `text[match.start:match.end]` is what was found. Candidates come
from regular expressions, and only those count whose check digits are right (python-stdnum), whose
encoding can be repaired (ftfy), whose address is public (ipaddress).
"""

from __future__ import annotations

import ipaddress
import re
import string
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from ftfy import fix_encoding
from ftfy.badness import BADNESS_RE
from stdnum import iban, luhn
from stdnum.br import cpf
from stdnum.ch import ssn as ahv
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.kr import rrn
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.za import idnr as za_idnr

from rlhf.training.screen_words import (
    AGAINST,
    PHRASES,
    PHRASES_ANYWHERE,
    TOXIC,
    TOXIC_ANYWHERE,
    UNSAFE,
    UNSAFE_ANYWHERE,
)

LONGEST_WORD = (
    20  # characters before and after what looks wrongly decoded; not all languages have spaces
)
MOST_MOJIBAKE = 100  # of one text: where there are so many, all of it is
CONTEXT = 40  # characters before a number, in which its name must stand if digits say little


class Match(NamedTuple):
    code: str  # of CLASSES
    start: int  # in characters
    end: int
    note: str = ""


# --- personal data ----------------------------------------------------------------------------
# What is written with other digits, or with letters as wide as a Chinese character, one for one.
PLAIN = {
    code: str(digit)
    for code in range(128, sys.maxunicode + 1)
    if (digit := unicodedata.decimal(chr(code), None)) is not None
}
PLAIN |= {ord(c) + 0xFEE0: c for c in string.ascii_letters + "@.+-"}
PLAIN |= {0x3000: " ", 0x2010: "-", 0x2011: "-"}


def plainly_written(text: str) -> str:
    """With ASCII digits, and ASCII letters for full-width ones; what stands where remains so."""
    return text if text.isascii() else text.translate(PLAIN)


EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9](?:[\w.+%-]{0,62}[\w+%-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}"
    r"[A-Za-z]{2,24}(?![\w-])",
    re.ASCII,  # in scripts without spaces a letter may stand right before it, here and below
)
RESERVED = re.compile(
    r"(?:^|[.@])(?:example\.(?:com|net|org)|example|test|invalid|localhost)$", re.IGNORECASE
)
FILE_ENDINGS = ("png", "jpg", "jpeg", "gif", "webp", "svg")  # picture@2x.png
NOBODY = (
    "git",
    "hg",
    "svn",
)  # by whose name repositories are reached: git@github.com:owner/name.git


def emails(text: str) -> Iterator[Match]:
    if "@" not in text:
        return
    for found in EMAIL.finditer(text):
        name, _, domain = found[0].lower().rpartition("@")
        is_address = not RESERVED.search(domain) and not domain.endswith(FILE_ENDINGS)
        if is_address and name not in NOBODY:
            yield Match("email", *found.span())


# Quantifiers within repeated groups are possessive (+), so that a text made for it cannot take for ever.
# Groups of digits with one separator between them, after + or 00 and a country code; or (555) 010-9999.
PHONE = re.compile(
    r"(?<![\w+.,/=-])(?:(?:\+|00)[1-9]\d{0,2}(?:[ .\u00a0/-]?\(?\d{1,5}+\)?){2,6}|"
    r"(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{4})(?![\w-]|[.,]\d)",
    re.ASCII,
)


def phones(text: str) -> Iterator[Match]:
    for found in PHONE.finditer(text):
        if 8 <= sum(c.isdigit() for c in found[0]) <= 15:
            yield Match("phone", *found.span())


IBAN = re.compile(
    r"(?<![a-z0-9])[a-z]{2}\d{2}(?:[ \u00a0]?[a-z0-9]{1,4}+){3,9}(?![a-z0-9])",
    re.ASCII | re.IGNORECASE,
)


def ibans(text: str) -> Iterator[Match]:
    for found in IBAN.finditer(text):
        candidate = found[0]
        while len(candidate) >= 15:
            if iban.is_valid(candidate.replace("\u00a0", " ").upper()):
                yield Match("iban", found.start(), found.start() + len(candidate))
                break
            # A word may follow: "… 0130 00 EUR".
            candidate = candidate.rpartition(" ")[0]


CARD = re.compile(r"(?<![\d.,+-])\d(?:[ -]?\d){11,18}(?![\d-]|[.,]\d)", re.ASCII)
# How long the numbers of an issuer are, by how they begin (ISO/IEC 7812).
ISSUERS = [
    (re.compile(r"4"), (13, 16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|64[4-9]|65"), (16, 17, 18, 19)),
    (re.compile(r"35(?:2[89]|[3-8]\d)"), (16, 17, 18, 19)),
    (re.compile(r"30[0-5]|36|3[89]"), (14, 16)),
    (re.compile(r"62"), (16, 17, 18, 19)),
]


def cards(text: str) -> Iterator[Match]:
    for found in CARD.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        of_issuer = any(p.match(digits) and len(digits) in lengths for p, lengths in ISSUERS)
        if of_issuer and len(set(digits)) > 1 and luhn.is_valid(digits):
            yield Match("card", *found.span())


class NationalId(NamedTuple):
    country: str
    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]
    name: re.Pattern[str] | None = None  # that must stand before it; None: its form says enough


def _national(
    country: str, pattern: str, is_valid: Callable[[str], bool], name: str = ""
) -> NationalId:
    before, after = r"(?<![\w.+-])", r"(?![\w-]|[.,]\d)"
    named = re.compile(rf"\b(?:{name})\b", re.IGNORECASE) if name else None
    return NationalId(
        country, re.compile(f"{before}(?:{pattern}){after}", re.ASCII), is_valid, named
    )


NATIONAL_IDS = [
    _national("Brazil", r"\d{3}\.\d{3}\.\d{3}-\d{2}", cpf.is_valid),
    _national("China", r"\d{17}[\dX]", ric.is_valid),
    _national("Finland", r"\d{6}[-+A]\d{3}[0-9A-Y]", hetu.is_valid),
    _national("France", r"[12] ?\d\d ?\d\d ?\d[\dAB] ?\d{3} ?\d{3} ?\d\d", nir.is_valid),
    _national("Germany", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", idnr.is_valid, r"steuer\S*|idnr\.?"),
    _national("India", r"[2-9]\d{3} \d{4} \d{4}", aadhaar.is_valid),
    _national("Italy", r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", codicefiscale.is_valid),
    _national("Korea", r"\d{6}-\d{7}", rrn.is_valid),
    _national("Netherlands", r"\d{9}", bsn.is_valid, r"bsn|burgerservicenummer|sofinummer"),
    _national("Poland", r"\d{11}", pesel.is_valid, r"pesel\S*"),
    _national("South Africa", r"\d{13}", za_idnr.is_valid, r"id(?:entity)?(?: number| no\.?)?"),
    _national("Spain", r"\d{8}-?[A-Z]", dni.is_valid),
    _national("Spain", r"[XYZ]-?\d{7}-?[A-Z]", nie.is_valid),
    _national("Sweden", r"(?:\d\d)?\d{6}[-+]\d{4}", personnummer.is_valid),
    _national("Switzerland", r"756\.\d{4}\.\d{4}\.\d{2}", ahv.is_valid),
    _national("United Kingdom", r"\d{3} \d{3} \d{4}", nhs.is_valid, "nhs"),
]  # fmt: skip


def national_ids(text: str) -> Iterator[Match]:
    for kind in NATIONAL_IDS:
        for found in kind.pattern.finditer(text):
            before = text[max(0, found.start() - CONTEXT) : found.start()]
            if (kind.name is None or kind.name.search(before)) and kind.is_valid(found[0]):
                yield Match("national_id", *found.span(), kind.country)


IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII)
# At least three groups are written out: C::D is code, and 3:16 a time or a verse.
IPV6 = re.compile(
    r"(?<![\w:.])(?=(?:[0-9A-Fa-f]{1,4}::?){2,7}[0-9A-Fa-f]{1,4})[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])",
    re.ASCII,
)
VERSION = re.compile(r"(?:version|release|v|build)[ .:]*$", re.IGNORECASE)
# What 1.8.1.4 must stand beside, or it is a version, or a section: before it, and after it.
OF_A_NETWORK = re.compile(
    r"\b(?:ip|ipv4|address|adresse|dirección|host|server|ping|dns|gateway|router|ssh|curl)\b|://|@",
    re.IGNORECASE,
)
PORT = re.compile(r":\d{2,5}\b|/\d{1,2}\b")
SMALL = re.compile(r"\d{1,2}(?:\.\d{1,2}){3}")
RESOLVERS = ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "2001:4860:4860::8888")


def ip_addresses(text: str) -> Iterator[Match]:
    for pattern in (IPV4, IPV6):
        for found in pattern.finditer(text):
            before = text[max(0, found.start() - CONTEXT) : found.start()]
            is_named = OF_A_NETWORK.search(before) or PORT.match(text, found.end())
            is_version = VERSION.search(before) or (SMALL.fullmatch(found[0]) and not is_named)
            if not is_version and _is_public(found[0]):
                yield Match("ip_address", *found.span())


def _is_public(address: str) -> bool:
    try:
        return address not in RESOLVERS and ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def personal(text: str) -> Iterator[Match]:
    text = plainly_written(text)
    yield from emails(text)
    yield from ip_addresses(text) if "." in text or ":" in text else ()
    if any(c.isdigit() for c in text):
        exact = [*ibans(text), *cards(text), *national_ids(text)]
        yield from exact
        yield from (m for m in phones(text) if not any(_overlap(m, other) for other in exact))


def _overlap(one: Match, other: Match) -> bool:
    return one.start < other.end and other.start < one.end


# --- unsafe text ------------------------------------------------------------------------------
def _one_of(patterns: Iterable[str]) -> str:
    return "|".join(patterns)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


TOXIC_WORDS = _compiled(rf"(?<!\w)(?:{_one_of(chain(*TOXIC.values()))})(?:s|es|e|en)?(?!\w)")
TOXIC_PARTS = _compiled(_one_of(chain(*TOXIC_ANYWHERE.values())))
UNSAFE_PHRASES = [
    _compiled(rf"(?<!\w)(?:{_one_of(PHRASES)})(?!\w)"),
    *(_compiled(rf"(?<!\w)(?:{how})\b.{{0,40}}?\b(?:{what})(?!\w)") for how, what in UNSAFE),
]
UNSAFE_PARTS = [
    _compiled(_one_of(PHRASES_ANYWHERE)),
    *(_compiled(rf"(?:{one}).{{0,40}}?(?:{other})") for one, other in UNSAFE_ANYWHERE),
]
DONE_AGAINST = _compiled(AGAINST)


def unsafe(text: str) -> Iterator[Match]:
    has_parts = not text.isascii()
    for words in (TOXIC_WORDS, *([TOXIC_PARTS] if has_parts else [])):
        for found in words.finditer(text):
            yield Match("toxic_words", *found.span())
    for phrase in (*UNSAFE_PHRASES, *(UNSAFE_PARTS if has_parts else [])):
        for found in phrase.finditer(text):
            if not DONE_AGAINST.search(found[0]):
                yield Match("unsafe_words", *found.span())


# --- broken encodings -------------------------------------------------------------------------
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")
SURROGATES = re.compile(r"[\ud800-\udfff]+")
REPLACEMENT = re.compile("\ufffd+")
# "IRMÃ DE": Portuguese in capitals, which looks like à read wrongly.
CAPITALS = re.compile(r"[A-ZÀ-Þ]Ã[ \n,.;:!?)-]")


def encoding(text: str) -> Iterator[Match]:
    for found in CONTROL_CHARACTERS.finditer(text):
        yield Match("control_character", *found.span(), _code_point(found[0][0]))
    for found in SURROGATES.finditer(text):
        yield Match("lone_surrogate", *found.span(), _code_point(found[0][0]))
    for found in REPLACEMENT.finditer(text):
        yield Match("replacement_character", *found.span())
    if not text.isascii():
        yield from mojibake(text)


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X}"


def mojibake(text: str) -> Iterator[Match]:
    """Where ftfy finds characters that hardly ever follow one another, and can repair the word."""
    for found in islice(BADNESS_RE.finditer(text), MOST_MOJIBAKE):
        start, end = _word_around(text, *found.span())
        word = text[start:end]
        if CAPITALS.search(text[max(0, found.start() - 1) : found.end() + 1]):
            continue
        if (repaired := fix_encoding(word)) != word:
            yield Match("mojibake", *found.span(), f"perhaps “{repaired[:40]}”")


def _word_around(text: str, start: int, end: int) -> tuple[int, int]:
    """As far as the next spaces: what was decoded wrongly is often a sequence of such characters."""
    first, last = max(0, start - LONGEST_WORD), min(len(text), end + LONGEST_WORD)
    while start > first and not text[start - 1].isspace():
        start -= 1
    while end < last and not text[end].isspace():
        end += 1
    return start, end


# --- control tokens ---------------------------------------------------------------------------
# Of the common templates. Not <s> and </s>, which are HTML, unless a tokenizer of the project has them.
COMMON_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|end|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<start_of_turn>",
    "<end_of_turn>", "<|start_of_role|>", "<|end_of_role|>", "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|endofprompt|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
)  # fmt: skip


def pattern_of_tokens(special: Iterable[str] = ()) -> re.Pattern[str]:
    """For the common control tokens and those given; words like any other are no control tokens."""
    marked = {token for token in special if re.search(r"[^\w\s]", token) and len(token) > 2}
    longest_first = sorted({*COMMON_TOKENS, *marked}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


def control_tokens(text: str, pattern: re.Pattern[str]) -> Iterator[Match]:
    for found in pattern.finditer(text):
        yield Match("control_token", *found.span())

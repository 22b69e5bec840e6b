"""What is found in answers before anybody is asked to compare them. Pure functions.

A comparison in which something is found is held back with the reason, as a sentence; a reviewer may
have it asked all the same. Nothing is thrown away.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from string import ascii_uppercase as LETTERS
from typing import NamedTuple

import regex
from rapidfuzz import fuzz

MAX_REASON = 200  # characters, as many as the column holds
MAX_QUOTE = 80


class Check(NamedTuple):
    name: str
    label: str


CHECKS = [
    Check("empty", "an answer is empty"),
    Check("near_identical", "two answers are identical or nearly so"),
    Check("self_naming", "an answer says which model wrote it"),
    Check("truncated", "an answer was cut off at the length limit and another was not"),
]


def default_checks() -> list[str]:
    return [check.name for check in CHECKS]


def reason_to_hold(
    answers: Iterable[tuple[str, bool]], checks: Collection[str], near_identical_percent: int
) -> str:
    """Why answers, each a text and whether it was cut off, should not be shown as they are; empty
    if nothing is found. The letters are those of the order given.

    Where all answers were cut off, how they begin can be compared: a short limit cuts most of them.

    Example: [("Yes.", False), ("", False)] -> "Answer B is empty."
    """
    answers = list(answers)
    texts = [text for text, _ in answers]
    is_one_whole = not all(is_truncated for _, is_truncated in answers)
    for letter, (text, is_truncated) in zip(LETTERS, answers, strict=False):
        if "empty" in checks and not text.strip():
            return f"Answer {letter} is empty."
        if "truncated" in checks and is_truncated and is_one_whole:
            return f"Answer {letter} was cut off at the length limit."
        if "self_naming" in checks and (words := self_naming(text)):
            return f"Answer {letter} says who wrote it: “{words}”."[:MAX_REASON]
    if "near_identical" in checks and (found := near_identical(texts, near_identical_percent)):
        one, other, percent = found
        how = "the same but for spaces and capitals" if percent == 100 else f"{percent} % alike"
        return f"Answers {LETTERS[one]} and {LETTERS[other]} are {how}."
    return ""


# --- nearly the same --------------------------------------------------------------------------
NUMBER = regex.compile(r"\d+")


def near_identical(texts: Sequence[str], percent: int) -> tuple[int, int, int] | None:
    """The first two texts that are at least so much alike, and how much; None if no two are.

    How much two texts are alike is Indel similarity: 100 · (1 - d / n), with d characters to insert
    or delete to make one of the other, and n in both together. Texts with different numbers are never
    nearly identical, however long: one digit is what makes a result right.
    """
    plain = [normalised(text) for text in texts]
    for one, other in combinations(range(len(plain)), 2):
        if plain[one] == plain[other]:
            return one, other, 100
        similarity = fuzz.ratio(plain[one], plain[other], score_cutoff=percent)
        if similarity >= percent and _numbers(plain[one]) == _numbers(plain[other]):
            return one, other, min(int(similarity), 99)
    return None


def normalised(text: str) -> str:
    """Without differences of capitals, white space and Unicode's compatible forms."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _numbers(text: str) -> list[str]:
    return NUMBER.findall(text)


# --- models that introduce themselves ---------------------------------------------------------
# Names that are hardly anything else: no "Falcon", "Phi" or "Command".
MODELS = (
    r"chat ?gpt|gpt-?[3-9o][\w.-]*|claude|gemini|gemma|bard|palm ?2|lamda|llama|alpaca|vicuna|"
    r"mi[sx]tral|qwen[\w.-]*|tongyi|通义千问|千问|deepseek|深度求索|smollm[\w.-]*|chatglm[\w.-]*|"
    r"kimi|grok|copilot|bing chat|baichuan|internlm|ernie bot|文心一言|doubao|豆包|hunyuan|混元|"
    r"stablelm|open[- ]?assistant|olmo|tülu|nemotron|jamba|exaone|meta ai"
)
MAKERS = (
    r"open ?ai|anthropic|google|deepmind|meta(?: ai)?|mistral ai|alibaba|阿里巴巴|阿里云|hugging ?face|"
    r"deepseek|深度求索|moonshot|月之暗面|zhipu|智谱|baidu|百度|bytedance|字节跳动|tencent|腾讯|xai|"
    r"microsoft|nvidia|cohere|stability ai|lmsys|laion|allen institute|ai2|ai21|ibm"
)
# "I am …", "my name is …" in some languages; "as …", but not in "models such as …".
I_AM = (
    r"i am|i['\u2019]m|my name is|my name['\u2019]s|call me|ich bin|ich heiße|mein name ist|je suis|je m['\u2019]appelle|"
    r"mon nom est|soy|me llamo|mi nombre es|sono|mi chiamo|(?:eu )?sou|meu nome é|ik ben|jestem|"
    r"я|меня зовут|(?:^|(?<=[.!?]\s+))(?:as|als|comme|como|come)"
)
MADE_BY = (
    r"(?:made|built|created|developed|trained|designed) by|(?:entwickelt|trainiert|erstellt) von|"
    r"(?:développée?|créée?|entraînée?|conçue?) par|(?:desarrollad|cread|entrenad)[oa] por|"
    r"(?:sviluppat|creat|addestrat)[oa] da|(?:desenvolvid|criad|treinad)[oa] (?:por|pela|pelo)|"
    r"(?:разработан|создан|обучен)\w* (?:компанией )?"
)
# One of these stands in whatever the patterns find; looking for them takes a tenth of the time.
NAMES = (
    "gpt", "claude", "gemini", "gemma", "bard", "palm", "lamda", "llama", "alpaca", "vicuna",
    "mistral", "mixtral", "qwen", "tongyi", "千问", "deepseek", "深度求索", "smollm", "chatglm", "kimi",
    "grok", "copilot", "bing chat", "baichuan", "internlm", "ernie bot", "文心一言", "doubao", "豆包",
    "hunyuan", "混元", "stablelm", "assistant", "olmo", "tülu", "nemotron", "jamba", "exaone", "meta ai",
)  # fmt: skip
VERBS = (
    *(f"{verb} by" for verb in ("made", "built", "created", "developed", "trained", "designed")),
    *(f"{verb} von" for verb in ("entwickelt", "trainiert", "erstellt")),
    "développé", "créé", "entraîné", "conçu",
    *(f"{verb}{end} por" for verb in ("desarrollad", "cread", "entrenad") for end in "oa"),
    *(f"{verb}{end} da" for verb in ("sviluppat", "creat", "addestrat") for end in "oa"),
    *(f"{verb}{end} p" for verb in ("desenvolvid", "criad", "treinad") for end in "oa"),
    "разработан", "создан", "обучен",
)  # fmt: skip
GERMAN_VERBS = ("entwickelt", "trainiert", "erstellt", "geschaffen")
# What all of these need: fewer to look for, and most answers have none.
PREPOSITIONS = (
    " by", " von", " par", " por", " da", " pela", " pelo", "разработан", "создан", "обучен",
)  # fmt: skip
KIND = (
    r"model\w*|(?:sprach)?modell\w*|modèle|modelo|modello|модель|assistante?|assistent\w*|asistente|chatbot|"
    r"ai|ki|ia|llm|artificial intelligence|künstliche intelligenz|intelligence artificielle|"
    r"inteligencia artificial|intelligenza artificiale|inteligência artificial"
)
# People are agents too, and were trained by somebody: an agent is a model if a maker of models made it.
MADE_AGENT = rf"agente?\b[^.!?\n]{{0,40}}\b(?:{MADE_BY})\s*(?:{MAKERS})\b"
AI = r"(?:ai|llm|chatbot|language model)(?:\s+(?:assistant|agent|model|system|chatbot))?"
# Who is told of by a maker: "trained me as an engineer" stands in stories.
OF_ME = r"me\b(?=\s*(?:[.,;:!?)\n]|$)|\s+(?:and|but|so|on|using)\b|\s+to (?:be|help|assist|answer|provide|follow|refuse|avoid)\b)"
MADE_ME = ("made me", "built me", "created me", "developed me", "trained me", "designed me")
SELF_NAMING = [
    (needed, [regex.compile(pattern, regex.IGNORECASE | regex.MULTILINE) for pattern in patterns])
    for needed, *patterns in (
        # "I am ChatGPT", "As the Qwen2.5 …", "I'm OpenAI's GPT-4"
        (
            (NAMES,),
            rf"(?<!\w)(?:{I_AM})[\s\u2014\u2013-]+(?:(?:the|an?|der|die|das|le|la|el|il|o)\s+)?"
            rf"(?:(?:{MAKERS})(?:['\u2019]s?)?\s+)?(?:{MODELS})(?!\w)",
        ),
        (
            (PREPOSITIONS, VERBS),
            # "as a model made by …", "I'm an AI assistant created by …"
            rf"(?<!\w)(?:{I_AM})\b[^.!?\n]{{0,60}}\b(?:(?:{KIND})\b[^.!?\n]{{0,40}}\b(?:{MADE_BY})\s*[^\s.,!?]+|{MADE_AGENT})",
            # "…, but as an AI language model developed by …": in the middle of a sentence nothing may
            # stand between, for much else begins with "as"
            rf"(?<=[,;:(\u2014\u2013]\s*|\b(?:but|and|that|aber|mais|pero|ma|mas)\s+)(?:as|als|comme|como|come)\s+"
            rf"(?:(?:an?|eine?|une?|uno|uma?)\s+)?(?:[\w-]+\s+){{0,2}}(?:{KIND})\b[^.!?\n]{{0,40}}\b(?:{MADE_BY})\s*[^\s.,!?]+",
            # "I was trained by OpenAI"
            rf"\bi(?: was| have been|['\u2019]ve been) (?:{MADE_BY}) (?:{MAKERS})\b",
            # "Being an AI model developed by OpenAI"
            rf"(?:^|(?<=[.!?]\s+))being\s+an?\s+(?:[\w-]+\s+){{0,2}}(?:{KIND})\b[^.!?\n]{{0,40}}\b(?:{MADE_BY})\s*(?:{MAKERS})\b",
        ),
        # "I'm an AI assistant from Anthropic"
        (
            ((" from ", " by "),),
            rf"\bi(?: am|['\u2019]m)\s+an?\s+(?:[\w-]+\s+){{0,2}}{AI},?\s+(?:from|by)\s+(?:{MAKERS})\b",
        ),
        # "I'm based on GPT-4"
        (
            (("based on", "built on", "powered by"), NAMES),
            rf"\bi(?: am|['\u2019]m)\s+(?:\w+\s+)?(?:based on|built on|powered by)\s+(?:the\s+)?"
            rf"(?:(?:{MAKERS})(?:['\u2019]s?)?\s+)?(?:{MODELS})(?!\w)",
        ),
        # "This is ChatGPT.", as on the telephone; elsewhere it may be a list of models
        (
            (("this is",), NAMES),
            rf"\A\s*(?:(?:hi|hello|hey)(?: there)?[.!,]\s+)?this is (?:(?:{MAKERS})(?:['\u2019]s?)?\s+)?"
            rf"(?:{MODELS})(?=\s*(?:[.!]|\Z|\n|speaking\b|here\b|,\s*(?:your|made|built|created|developed|trained|an?\s+{AI})\b))",
        ),
        # "OpenAI trained me."
        (
            (MADE_ME,),
            rf"\b(?:{MAKERS})(?: has)? (?:made|built|created|developed|trained|designed) {OF_ME}",
        ),
        # "Ich bin ein Modell, das von OpenAI entwickelt wurde", "ein von OpenAI entwickeltes Modell"
        (
            ((" von ",), GERMAN_VERBS),
            rf"(?<!\w)(?:{I_AM})\b[^.!?\n]{{0,60}}\b(?:{KIND})\b[^.!?\n]{{0,20}}\bvon\s+(?:{MAKERS})\b[^.!?\n]{{0,20}}\b(?:entwickelt|trainiert|erstellt|geschaffen)",
            rf"(?<!\w)(?:{I_AM})\s+(?:\w+\s+)?von\s+(?:{MAKERS})\s+(?:entwickelt|trainiert|erstellt|geschaffen)\w*\s+(?:[\w-]+\s+)?[\w-]*(?:{KIND})\b",
        ),
        ((("我",),), rf"我(?:是|叫|的名字是)[^。!?\n]{{0,20}}(?:{MODELS}|{MAKERS})"),
        ((("私", "わたし", "僕"),), rf"(?:私|わたし|僕)は[^。!?\n]{{0,20}}(?:{MODELS}|{MAKERS})"),
    )
]


def self_naming(text: str) -> str:
    """The words with which an answer says which model wrote it; empty if it does not.

    Example: "As a model made by OpenAI, I cannot." -> "As a model made by OpenAI"
    """
    folded = text.casefold()
    for needed, patterns in SELF_NAMING:
        if not all(any(map(folded.__contains__, words)) for words in needed):
            continue
        for pattern in patterns:
            if found := pattern.search(text):
                return " ".join(found[0].split())[:MAX_QUOTE]
    return ""

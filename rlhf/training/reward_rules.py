"""Rewards that need no model: rule functions of the text, and the lines in which they are written.

A rule is a dict with its `kind`, the settings of that kind and a few that all have; `KINDS` lists
them. Written by hand it is a line such as `length target=80 weight=0.2`. No torch: the web process
checks these.
"""

from __future__ import annotations

import importlib
import math
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import regex

from rlhf.training.artifacts import RunError

Message = dict[str, str]
Rule = dict[str, Any]


class Conversation(NamedTuple):
    """A prompt and a completion as text: what a source of rewards is shown."""

    prompt: list[Message]
    completion: str
    n_tokens: int  # of the completion as it was sampled, the end token included
    truncated: bool


# --- settings ---------------------------------------------------------------------------------
class Setting(NamedTuple):
    convert: Callable[[str], Any]
    default: Any = None  # None: it must be given


SHARED = {"name": Setting(str, ""), "weight": Setting(float, 1.0), "clip": Setting(float, 5.0)}
ENSEMBLES = ("mean", "worst", "uncertainty")  # how members of a reward model become one score
SCALE = {"mean": Setting(float, 0.0), "std": Setting(float, 1.0)}
KINDS: dict[str, dict[str, Setting]] = {
    "length": {"target": Setting(int), "unit": Setting(str, "tokens"), **SCALE, **SHARED},
    "regex": {"pattern": Setting(str), "count": Setting(int, 1), **SCALE, **SHARED},
    "sentiment": {**SCALE, **SHARED},
    "callable": {"function": Setting(str), **SCALE, **SHARED},
    # Its mean and deviation are saved with it. The web process looks up the folder.
    "reward_model": {
        "version": Setting(str),
        "folder": Setting(str, ""),
        "ensemble": Setting(str, "mean"),
        "uncertainty_coefficient": Setting(float, 1.0),
        **SHARED,
    },
}
FIRST_NAME = "reward_model"  # of the reward model that a run names apart from the list
RESERVED_NAMES = ("mean", "std", "raw_mean", "disagreement")  # of metrics: score/mean is the sum
LONGEST_PATTERN = 500  # characters
MOST_REPETITIONS = 10_000  # the compiled pattern holds what is repeated as often as it says


def complete(rule: Rule) -> Rule:
    """The rule with its defaults. Raises ValueError with a sentence if it makes no sense."""
    kind = rule.get("kind")
    if kind not in KINDS:
        raise ValueError(f"there is no kind of reward {kind!r}; there are {', '.join(KINDS)}")
    settings = KINDS[kind]
    if unknown := sorted(set(rule) - {"kind", *settings}):
        raise ValueError(f"{kind} has no setting {unknown[0]!r}; it has {', '.join(settings)}")
    whole = {"kind": kind}
    for name, setting in settings.items():
        if rule.get(name, setting.default) is None:
            raise ValueError(f"{kind} needs {name}=…")
        whole[name] = rule.get(name, setting.default)
    _check(whole)
    return whole


def _check(rule: Rule) -> None:
    for name in ("weight", "mean", "std", "clip"):
        if not math.isfinite(rule.get(name, 1.0)):
            raise ValueError(f"{name}={rule[name]} must be a number")
    for name in ("std", "clip", "target", "count"):
        if rule.get(name, 1) <= 0:
            raise ValueError(f"{name}={rule[name]} must be above 0")
    if rule["name"] and not re.fullmatch(r"[a-z][a-z0-9_]{0,29}", rule["name"]):
        raise ValueError(
            f"name={rule['name']} must be small letters, digits and _, 30 at most, a letter first"
        )
    if rule["name"] in RESERVED_NAMES:
        raise ValueError(f"name={rule['name']} is the name of another metric: choose another")
    if rule["kind"] == "length" and rule["unit"] not in ("tokens", "words"):
        raise ValueError(f"unit={rule['unit']} must be tokens or words")
    if rule["kind"] == "regex":
        _check_pattern(rule["pattern"])
    if rule["kind"] == "reward_model":
        check_ensemble(rule["ensemble"], rule["uncertainty_coefficient"])


def check_ensemble(ensemble: str, uncertainty_coefficient: float) -> None:
    """Raises ValueError if members cannot be combined like this."""
    if ensemble not in ENSEMBLES:
        raise ValueError(f"ensemble={ensemble} must be one of {', '.join(ENSEMBLES)}")
    if not 0 <= uncertainty_coefficient < math.inf:
        raise ValueError(
            f"uncertainty_coefficient={uncertainty_coefficient} must be a number of at least 0"
        )


def _check_pattern(pattern: str) -> None:
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"the pattern has {len(pattern)} characters; {LONGEST_PATTERN} may be")
    if not pattern or "\n" in pattern or "\r" in pattern:
        raise ValueError("a pattern is one line that is not empty; \\n stands for a new line")
    counts = re.findall(r"\d+", "".join(re.findall(r"\{[\d,]*", re.sub(r"\s", "", pattern))))
    if math.prod(max(1, int(count)) for count in counts) > MOST_REPETITIONS:
        raise ValueError(f"the pattern {pattern} repeats too often: {{…}} up to 10,000 in all")
    try:
        regex.compile(pattern)
    except (regex.error, OverflowError) as error:
        raise ValueError(f"the pattern {pattern} is no regular expression: {error}") from None


def check_function(rule: Rule, allowed: Sequence[str]) -> None:
    """Raises ValueError if the rule calls a function that the machine's admin has not allowed."""
    if rule["kind"] == "callable" and rule["function"] not in allowed:
        known = ", ".join(allowed) or "none"
        raise ValueError(
            f"{rule['function']} is not in PREFERENDUM_REWARD_FUNCTIONS, the list of the functions "
            f"that may be called ({known})"
        )


def names_of(has_reward_model: bool, rules: Sequence[Rule]) -> list[str]:
    """The name of each source, for its metric: its own, or its kind, numbered where it recurs.

    Raises ValueError if two are given the same. Example: reward_model, length, length_2.
    """
    given = [rule["name"] for rule in rules if rule.get("name")]
    if twice := [name for name in given if given.count(name) > 1]:
        raise ValueError(f"two rewards have the name {twice[0]}")
    if has_reward_model and FIRST_NAME in given:
        raise ValueError(f"{FIRST_NAME} is the name of the run's reward model: choose another")
    names = [FIRST_NAME] if has_reward_model else []
    for rule in rules:
        kind = rule["kind"]
        candidates = [kind, *(f"{kind}_{n}" for n in range(2, len(rules) + 3))]
        free = (name for name in candidates if name not in (*given, *names))
        names.append(rule.get("name") or next(free))
    return names


# --- lines ------------------------------------------------------------------------------------
def parse_lines(text: str, allowed: Sequence[str] = ()) -> list[Rule]:
    """One rule per line that is not empty. Raises ValueError that names the line.

    Values with spaces or backslashes stand in quotes, as in a shell.
    Example: "length target=80 weight=0.2" -> [{"kind": "length", "target": 80, "weight": 0.2}]
    """
    rules = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        try:
            rules.append(_parse_line(line))
            check_function(rules[-1], allowed)
        except ValueError as error:
            raise ValueError(f"Line {number}: {error}.") from None
    try:
        names_of(True, rules)
    except ValueError as error:
        raise ValueError(f"In these lines, {error}.") from None
    return rules


def _parse_line(line: str) -> Rule:
    kind, *words = shlex.split(line)
    rule: Rule = {"kind": kind}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is no setting; write NAME=VALUE, without spaces around =")
        if name in rule:
            raise ValueError(f"{name} is given twice")
        setting = KINDS.get(kind, {}).get(name, Setting(str))
        try:
            rule[name] = setting.convert(value)
        except ValueError:
            kind_of_number = "a whole number" if setting.convert is int else "a number"
            raise ValueError(f"{name}={value} must be {kind_of_number}") from None
    if "folder" in rule:
        raise ValueError("a reward model is named by version=…, its folder is looked up")
    complete(rule)
    return rule


def format_lines(rules: Sequence[Rule]) -> str:
    """What `parse_lines` reads."""
    return "\n".join(
        " ".join(
            [rule["kind"]]
            + [
                f"{name}={shlex.quote(str(value))}"
                for name, value in rule.items()
                if name not in ("kind", "folder")
            ]
        )
        for rule in rules
    )


# --- scores -----------------------------------------------------------------------------------
PATTERN_SECONDS = 1.0  # for one completion: some patterns would take years

POSITIVE_WORDS = """
amazing appreciate awesome beautiful best better bless brilliant celebrate cheerful comfortable
congratulations delight delighted delightful enjoy enjoyed excellent exciting fantastic friendly fun
generous gentle glad good gorgeous grateful great happily happy helpful honest hope hopeful ideal
impressive inspiring interesting joy joyful kind kindly like love loved lovely lucky nice perfect
perfectly pleasant please pleased pleasure positive proud recommend safe smile success successful
superb sure sweet terrific thank thankful thanks valuable warm welcome well win wise wonderful
"""
NEGATIVE_WORDS = """
afraid angry annoyed annoying ashamed awful bad badly bitter blame bored boring broken complain
confused cruel damage danger dangerous depressed disappointed disappointing disaster disgusting
dislike dreadful dull dumb evil fail failed failure fear foolish harm harmful hate hated horrible
hurt idiot inferior insult jealous lie lonely lose loser loss lost mad mean mess miserable nasty
negative pain painful pathetic poor rude ruin sad sadly scared selfish shame sick sorry stupid
terrible tragic ugly unfair unfortunately unhappy upset useless waste weak worse worst worthless
wrong
"""
POSITIVE, NEGATIVE = frozenset(POSITIVE_WORDS.split()), frozenset(NEGATIVE_WORDS.split())

ScoreFunction = Callable[[list[list[Message]], list[str]], Sequence[float]]


def scores_of(rule: Rule, conversations: Sequence[Conversation]) -> list[float]:
    """Raw scores by a complete rule of any kind that is a function of one text."""
    if rule["kind"] == "length":
        return [length_score(c, rule["target"], rule["unit"]) for c in conversations]
    if rule["kind"] == "regex":
        pattern = regex.compile(rule["pattern"])
        return [regex_score(c.completion, pattern, rule["count"]) for c in conversations]
    assert rule["kind"] == "sentiment"
    return [sentiment_score(c.completion) for c in conversations]


def length_score(conversation: Conversation, target: int, unit: str) -> float:
    """1 at the target, falling evenly to 0 at nothing and at twice as much, and 0 beyond."""
    in_words = unit == "words"
    n = len(conversation.completion.split()) if in_words else conversation.n_tokens
    return 1 - min(1.0, abs(n - target) / target)


def regex_score(text: str, pattern: regex.Pattern[str], count: int) -> float:
    """The share of `count` matches that there are; more of them give no more. Example: 1 of 2: 0.5.

    Raises RunError if the search takes too long.
    """
    matches = 0
    try:
        for _ in pattern.finditer(text, timeout=PATTERN_SECONDS):
            matches += 1
            if matches == count:
                break
    except TimeoutError:
        raise RunError(
            f"The pattern {pattern.pattern} took more than {PATTERN_SECONDS:g} s on an answer of "
            f"{len(text)} characters: write one without repetitions within repetitions."
        ) from None
    return matches / count


def sentiment_score(text: str) -> float:
    """(positive - negative) / (positive + negative) words of our short lists, 0 without any.

    It knows some two hundred English words one by one: no negation, no irony, no other language.
    """
    words = re.findall(r"[a-z]+", text.lower())
    positive = sum(word in POSITIVE for word in words)
    negative = sum(word in NEGATIVE for word in words)
    return (positive - negative) / max(1, positive + negative)


def load_function(path: str, allowed: Sequence[str]) -> ScoreFunction:
    """The function of a dotted path. Raises RunError if it is not allowed or not there."""
    try:
        check_function({"kind": "callable", "function": path}, allowed)
        module, _, name = path.rpartition(".")
        function = getattr(importlib.import_module(module), name)
    except ValueError as error:
        raise RunError(f"{error}.") from None
    except (ImportError, AttributeError) as error:
        raise RunError(f"The reward function {path} cannot be loaded: {error}.") from None
    if not callable(function):
        raise RunError(f"The reward function {path} is no function.")
    return function


def call_function(
    path: str, function: ScoreFunction, conversations: Sequence[Conversation]
) -> list[float]:
    """Its scores. Raises RunError if it fails, or gives anything but a finite number for each."""
    try:
        found = function(
            [conversation.prompt for conversation in conversations],
            [conversation.completion for conversation in conversations],
        )
        scores = [float(score) for score in found]
    except Exception as error:  # whatever somebody else's code may raise
        raise RunError(
            f"The reward function {path} failed: {type(error).__name__}: {error}"
        ) from error
    if len(scores) != len(conversations):
        raise RunError(
            f"The reward function {path} gave {len(scores)} scores for {len(conversations)} "
            "completions."
        )
    for score in scores:
        if not math.isfinite(score):
            raise RunError(f"The reward function {path} gave the score {score}.")
    return scores

"""What a screening looks for, how severe each finding is, and what its run is told.

No torch here: the web process builds and checks this, and names findings by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlhf.training.config_base import Config, _require


class Check(NamedTuple):
    name: str
    label: str


class FindingClass(NamedTuple):
    code: str
    check: str
    severity: str
    label: str
    explanation: str


CHECKS = [
    Check("duplicates", "Exact and near duplicates"),
    Check("leakage", "Held-out prompts in what is learned from"),
    Check("personal", "Personal data"),
    Check("unsafe", "Unsafe and toxic text"),
    Check("encoding", "Broken encodings"),
    Check("tokens", "Control tokens of chat templates"),
    Check("length", "Outlying lengths"),
]
SEVERITIES = ("high", "medium", "low")  # from the worst

CLASSES = {
    found.code: found
    for found in (
        FindingClass("exact_leak", "leakage", "high", "Held-out prompt",
                     "The same prompt is held out, but for spaces and capitals: what is measured on it "
                     "would be learned by heart."),
        FindingClass("near_leak", "leakage", "high", "Nearly a held-out prompt",
                     "A held-out prompt is nearly the same."),
        FindingClass("quoted_leak", "leakage", "high", "Contains a held-out prompt",
                     "A held-out prompt stands in it, word for word."),
        FindingClass("iban", "personal", "high", "Bank account",
                     "An IBAN whose check digits are right."),
        FindingClass("card", "personal", "high", "Payment card",
                     "A card number of a known issuer whose check digit is right (Luhn)."),
        FindingClass("national_id", "personal", "high", "National identity number",
                     "A number of one of the countries in the documentation, with right check digits."),
        FindingClass("email", "personal", "high", "E-mail address",
                     "Addresses of example domains are left alone."),
        FindingClass("control_token", "tokens", "high", "Control token",
                     "It ends a turn, or begins one, wherever the text is put into a chat template."),
        FindingClass("lone_surrogate", "encoding", "high", "Half a character",
                     "One half of a UTF-16 pair, which is no character and cannot be written as UTF-8."),
        FindingClass("control_character", "encoding", "high", "Control character",
                     "NUL, or another control character that is no line break and no tab."),
        FindingClass("phone", "personal", "medium", "Phone number",
                     "In international form, or as they are written in North America."),
        FindingClass("mojibake", "encoding", "medium", "Wrongly decoded text",
                     "UTF-8 that was read as another encoding, such as Ã¶ for ö (by ftfy)."),
        FindingClass("replacement_character", "encoding", "medium", "Replacement character",
                     "It stands where a character was lost."),
        FindingClass("toxic_words", "unsafe", "medium", "Toxic words",
                     "Words of a short list. Quoting them is found too, and what is meant badly without "
                     "them is not."),
        FindingClass("unsafe_words", "unsafe", "medium", "Unsafe request or advice",
                     "Phrases of a short list. It finds what is asked bluntly, and little else."),
        FindingClass("classifier", "unsafe", "medium", "Found by the classifier",
                     "The classifier that the screening was given says so."),
        FindingClass("exact_duplicate", "duplicates", "medium", "Duplicate",
                     "An earlier one is the same but for spaces and capitals."),
        FindingClass("empty", "length", "medium", "Empty", "There is nothing but white space."),
        FindingClass("near_duplicate", "duplicates", "low", "Near duplicate",
                     "An earlier one is nearly the same."),
        FindingClass("ip_address", "personal", "low", "IP address",
                     "Public addresses; private and reserved ones are left alone."),
        FindingClass("too_short", "length", "low", "Unusually short",
                     "Far below what the others have, by the median of the lengths' logarithms."),
        FindingClass("too_long", "length", "low", "Unusually long",
                     "Far above what the others have, by the median of the lengths' logarithms."),
    )
}  # fmt: skip
NOTHING = "nothing"  # is put into quarantine


def is_as_severe(severity: str, least: str) -> bool:
    """Whether findings of this severity are put into quarantine from `least` on."""
    return least != NOTHING and SEVERITIES.index(severity) <= SEVERITIES.index(least)


@dataclass(frozen=True)
class ScreenConfig(Config):
    screened: str = "project"  # its prompts and answers; or "export-3", or "dataset-7"
    checks: list[str] = field(default_factory=lambda: [check.name for check in CHECKS])
    quarantine_from: str = "high"  # "medium", "low", or "nothing"
    near_percent: int = 85  # of all character 5-grams of two texts, those that both have
    length_z: float = 6.0  # robust standard deviations of log length, at either end
    tokenizers: list[str] = field(
        default_factory=list
    )  # folders, whose special tokens are looked for
    classifier: str = ""  # folder of a transformers sequence classifier; empty: none
    classifier_label: str = ""  # its label that means unsafe
    classifier_threshold: float = 0.5  # of that label's probability

    def __post_init__(self) -> None:
        known = [check.name for check in CHECKS]
        unknown = [name for name in self.checks if name not in known]
        _require(not unknown, f"checks={unknown} must be among {known}")
        _require(bool(self.checks), "checks is empty: choose at least one")
        froms = (*SEVERITIES, NOTHING)
        _require(
            self.quarantine_from in froms,
            f"quarantine_from={self.quarantine_from!r} must be one of {froms}",
        )
        _require(
            50 <= self.near_percent <= 100, f"near_percent={self.near_percent} must be 50 to 100"
        )
        _require(self.length_z >= 2, f"length_z={self.length_z} must be at least 2")
        _require(
            bool(self.classifier) == bool(self.classifier_label),
            "a classifier needs the label that means unsafe, and the label a classifier: "
            f"classifier={self.classifier!r}, classifier_label={self.classifier_label!r}",
        )
        _require(
            0 < self.classifier_threshold < 1,
            f"classifier_threshold={self.classifier_threshold} must be between 0 and 1",
        )


def count_by_severity(counts: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Rows with a finding of each severity, added up over the classes; a row with two counts twice."""
    return {
        severity: sum(c["rows"] for code, c in counts.items() if CLASSES[code].severity == severity)
        for severity in SEVERITIES
    }

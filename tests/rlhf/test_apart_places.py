"""That no setting which may hold a path is forgotten in bin/apart: whoever adds one has to say which it is."""

import runpy
from dataclasses import fields
from typing import get_type_hints

from rlhf.processes import APART
from rlhf.training.config import CONFIGS, ModelRef
from rlhf.training.reward_rules import KINDS

PLACES = runpy.run_path(str(APART))["PLACES"]

# Settings that hold words, and never a path. (What holds a number alone needs no mention.)
WORDS = {
    "anchor", "annotators", "checks", "classifier_label", "critic", "demonstrations", "dtype", "ensemble",
    "keep", "kl_estimator", "loss", "method", "missing_eos", "mixing", "name", "objective", "passage_prefix",
    "pruner", "quarantine_from", "query_prefix", "sampler", "scale_advantages", "screened", "source", "space",
    "tasks", "text", "ties", "train", "trainer", "tries", "votes", "way", "weights",
}  # fmt: skip
OPENED_OTHERWISE = {
    "output",  # to be written
    "accelerate_config",  # a name; the command says the path
}
WORDS_OF_RULES = {"ensemble", "function", "name", "pattern", "unit", "version"}
NUMBERS = (int, float, bool, int | None, float | None)


def test_a_setting_is_a_place_or_known_to_hold_no_path():
    able = {
        field.name
        for config in CONFIGS.values()
        for field in fields(config)
        if get_type_hints(config)[field.name] not in NUMBERS
    }

    assert able == WORDS | OPENED_OTHERWISE | set(PLACES)


def test_so_is_a_setting_of_a_reward():
    able = {name for kind in KINDS.values() for name, each in kind.items() if each.convert is str}

    assert able == WORDS_OF_RULES | set(PLACES["rewards"])


def test_all_that_says_where_a_policy_lies_is_a_place():
    assert {field.name for field in fields(ModelRef)} <= set(PLACES["model"])

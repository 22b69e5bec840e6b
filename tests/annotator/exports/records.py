"""Records as votes.jsonl has them, written as short as a test wants to read them."""


def judgment(*groups, annotator="1", verdict=None, **fields):
    """A ranking as tie groups of places; without groups "all bad"."""
    return {
        "annotator": annotator,
        "verdict": verdict or ("ranking" if groups else "all_bad"),
        "ranking": [list(group) for group in groups],
        "strength": None,
        "strength_of": None,
        "is_pick": False,
        "criteria": [],
        "reasons": [],
        "rationale": "",
        "flags": [],
        "spans": [],
        "rewrite": "",
        "order": list(range(sum(map(len, groups)) or 2)),
        "seconds": 2.5,
        "first_interaction_ms": 800,
        "ui_version": "0.1.0",
        "guideline_version": 1,
        "given": "2026-11-21T10:00:00+00:00",
        "judgment": 1,
        "showing": 1,
    } | fields


def record(*judgments, completions=("a", "b"), rulings=()):
    return {
        "prompt": [{"role": "user", "content": "Why?"}],
        "completions": list(completions),
        "sources": [f"model-{text}" for text in completions],
        "truncated": [False] * len(completions),
        "judgments": list(judgments),
        "rulings": list(rulings),
        "split": "train",
        "comparison": 7,
        "prompt_key": "k",
        "round": 1,
        "arm": "",
    }

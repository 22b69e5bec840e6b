"""Keys of the comparing page, and those that somebody has put in their place.

Pages and scripts know an action by its usual key; only what is pressed and what is printed on the
buttons follow a person's own key map, `User.key_map`: {usual key: own key}, where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping

from annotator.ballots import FLAG_KEYS

ACTIONS = {
    "1": "A is better; first button or rank",
    "2": "B is better; second button or rank",
    **{str(n): f"Button or rank {n}" for n in range(3, 9)},
    "9": "Both bad; button or rank 9",
    "0": "Tie",
    "x": "All bad",
    "n": "Unrankable",
    "Enter": "Send",
    "s": "Skip",
    "u": "Undo",
    "j": "Next answer or question",
    "k": "Previous answer or question",
    **{key: f"Flag {place}" for place, key in enumerate(FLAG_KEYS, 1)},
    "h": "Text of the answer in hand, to mark passages in it",
    "g": "Guidelines",
    "d": "Differences between the answers",
    "?": "Sheet with all keys",
}


def label(key: str) -> str:
    """As printed on a button."""
    return "↵" if key == "Enter" else key.upper()


def key_map_of(own: Mapping[str, str]) -> dict[str, str]:
    """The map with what differs from the usual keys, in lower case. An empty key is the usual one.

    Raises ValueError, with a sentence for each mistake, if a key is none or has two actions.
    """
    key_map = {usual: key.strip().lower() for usual, key in own.items() if usual in ACTIONS}
    key_map = {usual: key for usual, key in key_map.items() if key not in ("", usual)}
    mistakes = [
        f"{ACTIONS[usual]}: “{key}” is not one letter, digit or sign."
        for usual, key in key_map.items()
        if len(key) != 1 or not key.isprintable()
    ]
    actions_of: dict[str, list[str]] = {}
    for usual, does in ACTIONS.items():
        actions_of.setdefault(key_map.get(usual, usual), []).append(does)
    mistakes += [
        f"“{label(key)}” would be the key of {' and of '.join(f'“{does}”' for does in actions)}: "
        "give each its own."
        for key, actions in actions_of.items()
        if len(actions) > 1
    ]
    if mistakes:
        raise ValueError(*mistakes)
    return key_map

"""The queue: who is handed which comparison, and what becomes of the verdict.

A comparison has `overlap` places. A live assignment holds one, a judgment that counts keeps it, a
skip, an “unrankable”, an expired lease or a release gives it back. `Comparison.taken` counts the places in use; it
moves only here, in the same transaction as the row that explains it, and the database refuses to
let it pass `overlap`. Known answers and repetitions take no place.

The same code runs on SQLite, where transactions that write exclude one another, and on PostgreSQL,
where locked rows are skipped.

Everybody locks rows in one order, so that no two wait for each other: the membership, judgments,
comparisons, showings; of judgments and of comparisons the lower number first. Who has written to a
showing waits for no comparison any more: they have locked it before (`lock_comparisons`).
"""

from __future__ import annotations

from annotator.assignment.claiming import (
    NotHandedOut,
    NotMoved,
    claim,
    hand_out,
    move,
    save_draft,
    show_anew,
)
from annotator.assignment.finding import Lock, Part, forget_order
from annotator.assignment.leases import end_holds, release, release_all, release_expired, renew
from annotator.assignment.showing import (
    has_draft,
    hash_shown,
    held_by,
    is_qualified,
    membership_of,
    payload_hash,
    shown,
    was_taken_back,
)
from annotator.assignment.standing import (
    Progress,
    QueueState,
    last_judgment,
    may_begin_real_work,
    progress,
    queue_state,
    quota_reached,
    who_may_vote,
    why_nothing,
    with_room,
)
from annotator.assignment.verdicts import (
    NotRecorded,
    NotUndone,
    correct,
    record,
    undo_last,
    void_some,
)

__all__ = [
    "Lock",
    "NotHandedOut",
    "NotMoved",
    "NotRecorded",
    "NotUndone",
    "Part",
    "Progress",
    "QueueState",
    "claim",
    "correct",
    "end_holds",
    "forget_order",
    "hand_out",
    "has_draft",
    "hash_shown",
    "held_by",
    "is_qualified",
    "last_judgment",
    "may_begin_real_work",
    "membership_of",
    "move",
    "payload_hash",
    "progress",
    "queue_state",
    "quota_reached",
    "record",
    "release",
    "release_all",
    "release_expired",
    "renew",
    "save_draft",
    "show_anew",
    "shown",
    "undo_last",
    "void_some",
    "was_taken_back",
    "who_may_vote",
    "why_nothing",
    "with_room",
]

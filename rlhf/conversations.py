"""Live conversations: an annotator talks to the policy, and every turn is a comparison.

    say → two answers, at the same moment → the verdict → the better one stays, and so on

Answers are screened as prepared ones are. Where something is found the model is asked once more; what
is found then is held back for a reviewer, and the conversation goes on with one answer of which nothing
is found by itself, or, if there is none, as if nothing had been said.

The answers are written by a run of the kind *live conversations*, with which files are exchanged
(`rlhf/training/converse.py`). A turn is a row; whatever is asked twice, reloaded or left alone, the
row says where it stands:

    waiting ──▶ shown ──▶ done | dropped
       └──────────────────────▶ dropped

Where no such run listens there is nobody to talk to; prepared comparisons are what is left.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction

from annotator import assignment as queue
from annotator.models import (
    Assignment,
    AssignmentState,
    Comparison,
    Completion,
    Judgment,
    Message,
    Project,
    Prompt,
    Purpose,
    User,
    Verdict,
    canonical_key,
)
from annotator.screening import reason_to_hold
from rlhf.generation import Answer, add_completions, kept
from rlhf.models import Conversation, ModelVersion, Run, RunKind, Status, Turn, TurnState
from rlhf.training.artifacts import ANSWERED, ASKED, TALKING, read_json, write_json

NOBODY = "Nobody is there to talk to any more: the model has left. What you said has not been lost."
UNFIT = (
    "Neither of the two answers could be shown: this project holds back answers that are empty, that "
    "were cut off or that say who wrote them. Say it in other words, or once more."
)
SILENT = "The model had left before it could answer. Say it again when it is back."


class NobodyListens(Exception):
    """No model is there to talk to. The message is a sentence for the annotator."""


def listener_of(project: Project) -> Run | None:
    """The run that answers in this project at the moment."""
    listening = project.runs.filter(kind=RunKind.CONVERSE, status=Status.RUNNING, phase=TALKING)
    return next((run for run in listening if not run.is_silent), None)


def conversation_of(project: Project, annotator: User) -> Conversation | None:
    """The one that the annotator is in."""
    return Conversation.objects.filter(project=project, annotator=annotator, is_over=False).first()


def end(conversation: Conversation) -> None:
    """Nothing more is said in it. What is on the screen may still be judged, like any comparison."""
    Conversation.objects.filter(pk=conversation.pk).update(is_over=True)
    conversation.turns.filter(state__in=TurnState.open()).update(state=TurnState.DROPPED)


# --- saying something -------------------------------------------------------------------------
def say(project: Project, annotator: User, text: str) -> Turn:
    """Ask the model. Whoever has an open turn gets that one: it comes first.

    Raises NobodyListens.
    """
    run = listener_of(project)
    if run is None:
        raise NobodyListens(NOBODY)
    try:
        with transaction.atomic():
            conversation, _ = Conversation.objects.get_or_create(
                project=project, annotator=annotator, is_over=False
            )
            turn = Turn.objects.create(conversation=conversation, run=run, text=text)
    except IntegrityError:  # said twice at once, or in two tabs
        conversation = Conversation.objects.get(project=project, annotator=annotator, is_over=False)
        return conversation.turns.get(state__in=TurnState.open())
    _ask(turn)
    return turn


def _ask(turn: Turn) -> None:
    write_json(turn.run.folder / ASKED / turn.file_name, {"messages": turn.messages})


# --- where a turn stands ----------------------------------------------------------------------
def look_after(conversation: Conversation) -> Turn | None:
    """Move the open turn on as far as it goes by itself; the latest turn as it is now.

    Answers that have come are shown, a verdict that was given, here or on the comparing page, is
    followed, and what cannot go on is dropped with a sentence.
    """
    turn = conversation.turns.filter(state__in=TurnState.open()).first()
    if turn is not None and turn.state == TurnState.WAITING:
        _look_for_answers(turn)
    if turn is not None and turn.state == TurnState.SHOWN:
        _look_for_verdict(turn)
    conversation.refresh_from_db()
    return conversation.turns.order_by("-pk").first()


def _look_for_answers(turn: Turn) -> None:
    answered = turn.run.folder / ANSWERED / turn.file_name
    if answered.exists():
        return _take_answers(turn, read_json(answered))
    turn.run.refresh_from_db()
    if turn.run.status != Status.RUNNING or turn.run.is_silent:
        return _drop(turn, SILENT)
    # An answer is there before its question goes, so that one of both is always found.
    if not (turn.run.folder / ASKED / turn.file_name).exists() and not answered.exists():
        _ask(turn)  # it could not be written, or was too old when the model came to it
    return None


def _drop(turn: Turn, sentence: str) -> None:
    Turn.objects.filter(pk=turn.pk, state__in=TurnState.open()).update(
        state=TurnState.DROPPED, error=sentence
    )
    turn.state = TurnState.DROPPED


def _take_answers(turn: Turn, content: dict[str, Any]) -> None:
    if "error" in content:
        return _drop(turn, content["error"])
    answers = content["answers"]
    texts = [(answer["text"], answer["truncated"]) for answer in answers]
    # Where both say the same, the model has tried several times already.
    if len(set(texts)) > 1 and _finds(turn.conversation.project, texts) and _ask_anew(turn):
        return None
    try:
        return _show_answers(turn, answers)
    except queue.NotHandedOut as error:  # they may judge no more, since they said it
        return _drop(turn, str(error))


def _finds(project: Project, texts: list[tuple[str, bool]]) -> str:
    return reason_to_hold(texts, project.screening, project.near_identical_percent)


def _ask_anew(turn: Turn) -> bool:
    """Once a turn: what was answered is put aside. False if it was, or the model has left."""
    answered = turn.run.folder / ANSWERED / turn.file_name
    aside = answered.with_name(f"{turn.pk}-first.json")
    turn.run.refresh_from_db()
    if aside.exists() or turn.run.status != Status.RUNNING or turn.run.is_silent:
        return False
    try:
        answered.rename(aside)
    except FileNotFoundError:
        return True  # another tab was first
    _ask(turn)
    return True


@transaction.atomic
def _show_answers(turn: Turn, answers: list[dict[str, Any]]) -> None:
    """Both answers become a comparison, which its annotator has on the screen from then on, unless it
    is held back."""
    waiting = Turn.objects.select_for_update(of=("self",)).filter(state=TurnState.WAITING)
    if not waiting.filter(pk=turn.pk).exists():
        return turn.refresh_from_db()  # another tab was first
    completions = _store_answers(turn, answers)
    comparison = Comparison.objects.create_from(
        completions,
        overlap=1,
        round_number=turn.run.round_number,
        purpose=Purpose.TRAINING,
        origin=turn.run.origin,
    )
    if comparison is None or comparison.hold:  # None: twice the same, or asked before
        fit = [
            answer
            for answer in completions
            if not turn.conversation.project.reason_to_hold([answer], Purpose.TRAINING)
        ]
        whole = [answer for answer in fit if not answer.is_truncated]
        return _continue_with(turn, random.choice(whole or fit)) if fit else _drop(turn, UNFIT)
    queue.hand_out(comparison, turn.conversation.annotator)
    turn.comparison, turn.state = comparison, TurnState.SHOWN
    turn.save(update_fields=["comparison", "state"])
    return None


def _store_answers(turn: Turn, answers: list[dict[str, Any]]) -> list[Completion]:
    """With their lineage: which model version wrote which."""
    prompt = _store_prompt(turn.conversation, turn.messages)
    versions: dict[str, ModelVersion | None] = {"policy": turn.run.policy, "rival": turn.run.rival}
    stored: list[Completion] = []
    for answer in answers:
        version = versions[answer["side"]]
        assert version is not None
        said = Answer(prompt.pk, answer["text"], answer["truncated"])
        stored += kept(add_completions(turn.run, version, [said]))
    return stored


def _store_prompt(conversation: Conversation, messages: list[Message]) -> Prompt:
    """All turns of a conversation are on the side of the split on which its first words are: they
    repeat one another."""
    project = conversation.project
    first = canonical_key(messages[:1])
    prompt, _ = Prompt.objects.get_or_create(
        project=project,
        key=canonical_key(messages),
        defaults={"messages": messages, "split": project.split_of(first)},
    )
    prompt.ask_models(project.split_of(first))
    return prompt


# --- the verdict ------------------------------------------------------------------------------
def _look_for_verdict(turn: Turn) -> None:
    assert turn.comparison is not None
    annotator = turn.conversation.annotator
    said = Judgment.objects.filter(comparison=turn.comparison, annotator=annotator, voided=None)
    if judgment := said.first():
        return _follow(turn, judgment)
    if _is_on_screen(turn.comparison, annotator):
        return None
    try:
        queue.hand_out(turn.comparison, annotator)  # they were away for longer than a lease
    except queue.NotHandedOut as error:
        _drop(turn, str(error))
    return None


def _is_on_screen(comparison: Comparison, annotator: User) -> bool:
    live = Assignment.objects.filter(comparison=comparison, annotator=annotator)
    return live.filter(state=AssignmentState.LIVE).exists()


def _follow(turn: Turn, judgment: Judgment) -> None:
    """The best answer stays in the conversation; of a tie, the one that was shown first. Without a
    best one nothing was said: they may put it in other words."""
    if judgment.verdict != Verdict.RANKING:
        return _drop(turn, "")
    best = judgment.ranking[0]
    shown_first = next(pk for pk in judgment.assignment.order if pk in best)
    with transaction.atomic():
        open_turn = Turn.objects.select_for_update(of=("self",)).filter(state=TurnState.SHOWN)
        if open_turn.filter(pk=turn.pk).exists():
            _continue_with(turn, Completion.objects.get(pk=shown_first))
    return None


def _continue_with(turn: Turn, completion: Completion) -> None:
    conversation = turn.conversation
    conversation.messages = [*turn.messages, completion.message()]
    conversation.save(update_fields=["messages"])
    turn.state = TurnState.DONE
    turn.save(update_fields=["state"])


# --- for the pages ----------------------------------------------------------------------------
class Standing(NamedTuple):
    """Live conversations in a project, for who looks at it."""

    is_listening: bool
    run: Run | None  # queued or running


def standing_of(project: Project) -> Standing:
    run = project.runs.active().filter(kind=RunKind.CONVERSE).first()
    return Standing(listener_of(project) is not None, run)

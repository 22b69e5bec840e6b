"""One question to a version, wherever its weights are: to the model server, or to the endpoint that has it.

Either way the answer is the lines that the model server writes (rlhf/training/serve.py).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from rlhf import endpoint_chat, model_server
from rlhf.model_server import Line, ModelServerError
from rlhf.models import ModelVersion
from rlhf.training.artifacts import RunError
from rlhf.training.endpoint import prompt_tokens
from rlhf.training.prompting import Message, Prompter, prompter_of
from rlhf.training.retrieval import collection_of


def lines_of(version: ModelVersion, question: dict[str, Any]) -> Generator[Line]:
    """The lines of the answer; `question` as rlhf/training/serve.py describes it. Raises ModelServerError."""
    if version.is_asked_here:
        return model_server.ask(question)
    return _lines_from_elsewhere(version, question)


def _lines_from_elsewhere(version: ModelVersion, question: dict[str, Any]) -> Generator[Line]:
    try:
        messages = _arranged(version, question["messages"])
    except RunError as refusal:
        raise ModelServerError(str(refusal), "request") from refusal
    yield from endpoint_chat.answer(version.writer, question | {"messages": messages})


def _arranged(version: ModelVersion, messages: list[Message]) -> list[Message]:
    """With what a prompt version puts around them. Raises RunError."""
    prompter = prompter_of(version.reference())
    if prompter is None or messages[-1]["role"] != "user":
        return messages
    _refuse_encoder(version, prompter)
    return prompter.arrange(messages, prompt_tokens).messages


def _refuse_encoder(version: ModelVersion, prompter: Prompter) -> None:
    collection = prompter.prompting.collection
    if collection and collection_of(collection).is_dense:
        raise RunError(
            f"{version} finds passages by an encoder, which only runs have: compare its answers in an "
            "evaluation or a gate, or make a version whose collection has none."
        )

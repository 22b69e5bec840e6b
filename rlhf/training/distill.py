"""The run *distill*: demonstrations for a smaller model, written by a better one.

The teacher answers each prompt n times, a reward model or rules pick the best answer, and what is left
after the filters is a dataset that supervised tuning learns from (Kim and Rush 2016, on the level of
sequences; the best of n as in Stiennon et al. 2020). Against forgetting, a share of the rows can be
rehearsal: the student's own answers to other prompts, before it has learnt anything (Scialom et al. 2022).

    teacher.jsonl, student.jsonl    answers so far: a run that is stopped or killed goes on after them
    held-out-prompts.jsonl          the same, to prompts that say what the settings are worth to a search
    artifact/data.jsonl             {"messages", "source", "score", …} per line

A prompt version teaches with what it puts around each prompt, and the rows have the prompt alone: the student is
to answer so without it (context distillation, Askell et al. 2021).

A run that is killed while it scores scores again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf.training.artifacts import RunError, RunFolder
from rlhf.training.ask import Asker, short_enough
from rlhf.training.config import is_endpoint
from rlhf.training.data import Generated, PromptLine, read_prompts
from rlhf.training.distill_choice import (
    Candidate,
    Chosen,
    choose,
    first_good,
    histogram,
    mean_of,
    rehearsal_rows,
    share_out,
    worth,
)
from rlhf.training.distill_config import DistillConfig
from rlhf.training.endpoint import prompt_tokens
from rlhf.training.evaluate import asked_result
from rlhf.training.generate import encode_arranged, generate_all, n_written
from rlhf.training.models import load_policy
from rlhf.training.prompting import arrange_all, prompter_of, prompting_result
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import load_sources, score_texts

HELD_OUT = "held-out prompts"

Messages = Mapping[int, list[dict[str, str]]]  # by prompt


class Written(NamedTuple):
    answers: list[Generated]  # ordered by prompt
    left_out: Counter[str]  # prompts without any, by reason
    asker: Asker | None = None  # who has asked for them, if that was an endpoint


def run(config: DistillConfig, folder: RunFolder) -> dict[str, Any]:
    n_measured = measure(config, folder) if config.eval_prompts else 0
    lines = read_prompts(folder.path / config.prompts)
    taught, rehearsed = share_out(lines, config.rehearsal_share)
    written = write("teacher", config.model, taught, config.completions_per_prompt, config, folder)
    own = Written([], Counter())
    if rehearsed:
        assert config.student is not None
        own = write(
            "student", config.student, rehearsed, config.completions_per_prompt, config, folder
        )
    messages = {line.id: line.messages for line in lines}
    folder.phase("scoring")
    candidates, chosen, unused = pick(written.answers, messages, config, folder)
    if not chosen:
        raise RunError(
            f"No answer of the teacher is left to learn from: {in_words(written.left_out + unused)}. Allow "
            "longer answers, a lower score or refusals, or choose another teacher."
        )
    good, unusable = first_good(own.answers, drop_refusals=config.drop_refusals)
    kept = good[: rehearsal_rows(len(chosen), len(good), config.rehearsal_share)]
    with folder.writing_artifact() as artifact:
        rows = [json.dumps(row, ensure_ascii=False) for row in rows_of(chosen, kept, messages)]
        (artifact / "data.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return {
        "n_rows": len(rows),
        "n_teacher": len(chosen),
        "n_rehearsal": len(kept),
        "n_candidates": len(candidates),
        "left_out": dict(written.left_out + unused + own.left_out + unusable),
        "length_mean": mean_of([float(each.answer.n_tokens) for each in chosen]),
        **what_choosing_gains(chosen, candidates),
        **asked_result([written.asker] if written.asker else []),
        **prompting_result(folder),
        "tokens": {
            "written": n_measured
            + sum(n_written(each.answers) for each in (written, own) if not each.asker)
        },
    }


def measure(config: DistillConfig, folder: RunFolder) -> int:
    """Report what would be picked for held-out prompts; how many tokens that took. It comes first, so that a
    search can end a trial here."""
    lines = read_prompts(folder.path / config.held_out)
    written = write(HELD_OUT, config.model, lines, config.completions_per_prompt, config, folder)
    messages = {line.id: line.messages for line in lines}
    candidates, chosen, _ = pick(written.answers, messages, config, folder)
    folder.metrics(0, worth(chosen, candidates, len(lines)))
    return n_written(written.answers)


def pick(
    answers: Sequence[Generated], messages: Messages, config: DistillConfig, folder: RunFolder
) -> tuple[list[Candidate], list[Chosen], Counter[str]]:
    """All answers with their scores, the best to each prompt, and why prompts have none."""
    candidates = score_all(answers, messages, config, folder)
    chosen, unused = choose(
        candidates, lowest_score=config.lowest_score, drop_refusals=config.drop_refusals
    )
    return candidates, chosen, unused


def write(
    name: str, reference: dict[str, Any], lines: Sequence[PromptLine], n: int,
    config: DistillConfig, folder: RunFolder,
) -> Written:  # fmt: skip
    """`n` answers to each prompt that is not too long; those of before a stop are kept."""
    folder.phase(f"answers of the {name}")
    if is_endpoint(reference):
        short = short_enough(lines, config.max_prompt_tokens)
        asked = arrange_all(prompter_of(reference), short, prompt_tokens, folder)
        asker = Asker(
            reference,
            folder,
            completions_per_prompt=n,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=config.seed,
        )
        answers = asker.ask_all(asked)
        unanswered = set(asker.reasons()) - {row.id for row in answers}
        reasons = Counter(why for pk, why in asker.reasons().items() if pk in unanswered)
        reasons["too_long"] += len(lines) - len(asked)
        return Written(answers, +reasons, asker)
    policy, tokenizer = load_policy(reference, may_wrap=True)
    prompts, too_long = encode_arranged(
        reference, tokenizer, lines, config.max_prompt_tokens, config.max_new_tokens, folder
    )
    answers = generate_all(
        policy,
        tokenizer,
        prompts,
        completions_per_prompt=n,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=2 * config.seed + (name == "student"),
        kept=folder.path / f"{name.replace(' ', '-')}.jsonl",
        folder=folder,
    )
    return Written(answers, +Counter(too_long=too_long))


def score_all(
    answers: Sequence[Generated], messages: Messages, config: DistillConfig, folder: RunFolder
) -> list[Candidate]:
    """By the weighted sum of all sources, as PPO would score them; None where there is no source."""
    if not config.is_scored:
        return [Candidate(answer, None) for answer in answers]
    sources = load_sources(None, config)
    conversations = [
        Conversation(messages[row.id], row.completion, row.n_tokens, row.truncated)
        for row in answers
    ]
    totals = score_texts(sources, conversations, folder.should_stop).totals.tolist()
    return [Candidate(answer, score) for answer, score in zip(answers, totals, strict=True)]


def rows_of(
    chosen: Sequence[Chosen], rehearsal: Sequence[Generated], messages: Messages
) -> Iterator[dict[str, Any]]:
    """The lines of data.jsonl; who the teacher is, is added when they become a dataset."""
    for best in chosen:
        yield {
            "messages": conversation(messages[best.prompt], best.answer),
            "source": "teacher",
            "score": best.score,
            "mean_score": best.mean_score,
            "best_of": best.n,
        }
    for answer in rehearsal:
        yield {"messages": conversation(messages[answer.id], answer), "source": "rehearsal"}


def conversation(prompt: list[dict[str, str]], answer: Generated) -> list[dict[str, str]]:
    return [*prompt, {"role": "assistant", "content": answer.completion}]


def what_choosing_gains(
    chosen: Sequence[Chosen], candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """Empty without scores."""
    best = [each.score for each in chosen if each.score is not None]
    every = [each.score for each in candidates if each.score is not None]
    if not every:
        return {}
    return {
        "score_best": mean_of(best),
        "score_mean": mean_of(every),
        "scores": histogram({"all": every, "chosen": best}),
    }


def in_words(reasons: Mapping[str, int]) -> str:
    """Example: {"cut_off": 3, "empty": 1} -> "3 cut off, 1 empty"."""
    return ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in reasons.items())

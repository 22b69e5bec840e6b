"""The run *evaluation suite*: what a version is like, on questions and text that it has not learned from.

    losses        of general text and of reference answers to held-out prompts, and of the same text by the
                  version that it is compared with: what was forgotten
    answers       to held-out prompts, and what can be counted in them
    scores        of a reward model and of rules
    judge         a model's opinion of the answers beside the rival's, and how far it agrees with people
    tasks         of lm-evaluation-harness

Each step is kept in a file when it is done, answers and verdicts in batches, so a run that was stopped or
killed goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError, RunFolder, Stopped, read_json, write_json
from rlhf.training.ask import Asker, short_enough
from rlhf.training.config import is_endpoint
from rlhf.training.context import at_most, context_of, windows
from rlhf.training.data import Generated, PromptLine, read_prompts
from rlhf.training.endpoint import prompt_tokens
from rlhf.training.evaluate import asked_result, left_out
from rlhf.training.forward import (
    backbone_of,
    collate,
    completion_logprobs,
    similar_lengths,
    vocabulary_head,
)
from rlhf.training.generate import (
    EncodedPrompt,
    encode_arranged,
    generate_all,
    generation_batches,
    n_written,
)
from rlhf.training.model_judge import PROMPT, Contest, Verdicts, judge_all
from rlhf.training.models import encode_completion, load_policy
from rlhf.training.prompting import JUDGE, arrange_all, prompter_of, prompting_result
from rlhf.training.reward_rules import Conversation, complete, names_of, scores_of
from rlhf.training.rewards import load_judge
from rlhf.training.suite_config import SuiteConfig
from rlhf.training.suite_metrics import (
    NEW,
    TIE,
    UNCLEAR,
    Estimate,
    accuracy,
    bleu,
    both_orders,
    chrf,
    distinct,
    exact_match,
    forgetting,
    is_share,
    is_unsafe,
    kappa_estimate,
    leans,
    mean,
    mean_part,
    ratio,
    refuses,
    repetition,
    rouge_l,
    self_bleu,
    share,
    win_rate,
)
from rlhf.training.suite_tasks import TaskAnswer, TaskResults, no_results, run_tasks
from rlhf.training.virtual_tokens import is_virtual

TOKENS_AT_ONCE = 2048  # padding included
NO_WEIGHTS = "a policy elsewhere does not show how likely a text is to it"
VIRTUAL = (
    "virtual tokens stand before whatever it reads, and are left out where losses are computed"
)
RIVAL = "there is no loss of the version that it is compared with: {}"
NO_REFERENCES = "no held-out prompt has a reference answer"
TOO_LONG = "every reference answer is, with its prompt, longer than what is read at once"
NO_TEXT = "a policy of the project has learned from all of this text: choose another dataset of it"
NO_PEOPLE = "no people's votes to compare with"
NO_VERDICT = {"judge": None, "leaning": None}
SHARES = ("exact_match", "truncated", "refused", "unsafe")  # an answer is it, or is not
PARTS = ("rouge_l", "repetition")  # from 0 to 1


Rows = Sequence[tuple[list[int], list[int]]]  # the tokens of a prompt and of its completion


class Inputs(NamedTuple):
    """What was chosen at the launch: the same for every version, as long as nothing is imported."""

    lines: list[PromptLine]
    references: dict[int, list[str]]  # by prompt
    texts: list[str]
    pairs: list[tuple[Contest, str]]  # that people have judged, and what most of them said


class Loss(NamedTuple):
    """Of one text: its negative log-likelihood in nats, and its tokens."""

    nats: float
    n_tokens: int


def run(config: SuiteConfig, folder: RunFolder) -> dict[str, Any]:
    """Figures for the result; in artifact/ what stands behind them: answers.jsonl, texts.jsonl and, of
    tasks, tasks.jsonl."""
    inputs = read_inputs(config, folder.path)
    new = Side("new", config.model, config, folder)
    metrics, texts = losses_of(new, inputs, config, folder)
    measured = measured_on(new, inputs, folder)
    read = read_so_far(new, inputs, folder)
    tasks = TaskResults(*kept(folder, "task-results", lambda: _tasks(new, config)))
    metrics |= {f"task/{name}": Estimate(*figure) for name, figure in tasks.figures.items()}
    task_answers = [TaskAnswer(*answer) for answer in tasks.answers]
    answers = new.answers(inputs.lines)
    if not answers:
        raise RunError("no prompt was answered: raise max_prompt_tokens")
    new.forget()  # the weights, before a judge and a reward model take their place
    values = values_of(answers, inputs, config, folder)
    metrics |= figures_of(answers, values, inputs.references)
    rival, opinion, verdicts = judgement(answers, inputs, config, folder)
    metrics |= opinion.pop("metrics", {})
    rows = [
        {
            "id": row.id, "answer": row.completion, "truncated": row.truncated,
            "rival": rival.get(row.id), **verdicts.get(row.id, NO_VERDICT), "values": values[row.id],
        }
        for row in answers
    ]  # fmt: skip
    _write(folder, rows, inputs, texts, task_answers)
    askers = [*new.askers, *opinion.pop("askers", [])]
    written = new.n_written + opinion.pop("n_written", 0)
    missing = left_out(len(inputs.lines) - len(answers), new.askers)
    if missing["too_long"]:  # which prompts those are goes by the version's tokens and context
        measured["answers"] = digest([row.id for row in answers])
    return {
        "n_prompts": len(answers),
        "left_out": missing,
        "conditions": conditions(config, folder.path),
        "measured_on": measured,
        "texts": texts_read(config, folder.path),
        **read,
        "task_answers": sorted({name for answer in task_answers for name in answer.values}),
        "lower_is_better": tasks.lower,
        "metrics": {name: figure._asdict() for name, figure in metrics.items()},
        **({"judge": opinion} if opinion else {}),
        **asked_result(askers),
        **prompting_result(folder),
        "tokens": {"written": written},
    }


def kept(folder: RunFolder, name: str, compute: Callable[[], Any]) -> Any:
    """What a step gives, as JSON; of a step that was done before a stop, what it gave then."""
    path = folder.path / f"suite-{name}.json"
    if path.exists():
        return read_json(path)
    if folder.should_stop():
        raise Stopped
    found = compute()
    write_json(path, found)
    return found


# --- inputs -----------------------------------------------------------------------------------
def read_inputs(config: SuiteConfig, folder: Path) -> Inputs:
    references: dict[int, list[str]] = {}
    for row in _rows(folder / config.references):
        references.setdefault(row["id"], []).append(row["text"])
    return Inputs(
        read_prompts(folder / config.prompts),
        references,
        [row["text"] for row in _rows(folder / config.texts)],
        [
            (Contest(row["messages"], row["first"], row["second"]), row["people"])
            for row in _rows(folder / config.pairs)
        ],
    )


def texts_read(config: SuiteConfig, folder: Path) -> dict[str, int]:
    """{"n": …, "learned": …}: how many, and how many were left out; empty if the launch did not say so."""
    path = folder / config.general
    return read_json(path) if path.exists() else {}


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def measured_on(new: Side, inputs: Inputs, folder: RunFolder) -> dict[str, str]:
    """What figures are of, as digests: two versions can be compared by those of which it is the same. Losses
    per token are of texts in the version's own tokens: other tokenizers cut them otherwise."""
    found = {"references": digest(sorted(inputs.references.items()))}
    if new.why_no_losses:
        return found
    own = kept(folder, "tokens-own", lambda: _cut(new.answer_rows(inputs.lines, inputs.references)))
    general = kept(folder, "tokens-general", lambda: _cut(new.text_rows(inputs.texts)))
    return {**found, "own": own, "general": general}


def _cut(rows: Rows) -> str:
    """Of what losses are of; not of what stands before it, which a prompt version may change."""
    return digest([completion for _, completion in rows])


def read_so_far(new: Side, inputs: Inputs, folder: RunFolder) -> dict[str, Any]:
    """For the result, of what losses are of: which references have none, and how long texts were read."""
    if new.why_no_losses:
        return {}

    def compute() -> dict[str, Any]:
        n_references = sum(map(len, inputs.references.values()))
        n = len(new.answer_rows(inputs.lines, inputs.references))
        n_windows = [len(windows) for windows in new.windows_of(inputs.texts)]
        several = sum(n > 1 for n in n_windows)
        return {
            "references": {"n": n, "too_long": n_references - n},
            **({"windows": {"tokens": new.window, "texts": several}} if several else {}),
        }

    return kept(folder, "read", compute)


def digest(found: Any) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def conditions(config: SuiteConfig, folder: Path) -> str:
    """The same for two runs whose figures can be compared: prompts, general text and sampling."""
    digest = hashlib.sha256()
    for name in (config.prompts, config.texts):
        if (folder / name).exists():
            digest.update((folder / name).read_bytes())
    sampling = (config.max_new_tokens, config.temperature)
    digest.update(json.dumps(sampling).encode())
    return digest.hexdigest()[:16]


# --- a version --------------------------------------------------------------------------------
class Side:
    """One of the versions. Its weights are loaded when something is left to do with them, once."""

    def __init__(
        self, name: str, reference: dict[str, Any], config: SuiteConfig, folder: RunFolder
    ) -> None:
        self.name, self.reference, self.config, self.folder = name, reference, config, folder
        self.askers: list[Asker] = []
        self.n_written = 0  # tokens, by weights that are here

    @property
    def has_weights(self) -> bool:
        return not is_endpoint(self.reference)

    @property
    def why_no_losses(self) -> str:
        """A reason, if it cannot be told how likely a text is to it; else empty."""
        if not self.has_weights:
            return NO_WEIGHTS
        return VIRTUAL if any(map(is_virtual, self.reference["adapters"])) else ""

    @cached_property
    def policy(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        self.folder.phase(f"loading the {self.name} policy")
        return load_policy(self.reference, may_wrap=True)

    @cached_property
    def window(self) -> int | None:
        """Tokens of general text that are read at once: as many as both versions can, so that the same stands
        before each token for both. None: all."""
        sides = [self, *([self.other] if self.other and not self.other.why_no_losses else [])]
        found = [context for side in sides if (context := context_of(side.reference)) is not None]
        return min(found, default=None)

    @property
    def other(self) -> Side | None:
        """What it is compared with."""
        is_new = self.name == "new"
        reference = self.config.rival if is_new else self.config.model
        name = "old" if is_new else "new"
        return None if reference is None else Side(name, reference, self.config, self.folder)

    def forget(self) -> None:
        self.__dict__.pop("policy", None)

    def answers(self, lines: Sequence[PromptLine]) -> list[Generated]:
        """One to each prompt that is short enough, by prompt. Batches of before a stop are kept."""
        sampling: dict[str, Any] = {
            "completions_per_prompt": 1,
            "max_new_tokens": self.config.max_new_tokens,
            "temperature": self.config.temperature,
            "seed": self.config.seed,
        }
        if not self.has_weights:
            self.folder.phase(f"asking the {self.name} policy")
            self.askers = [Asker(self.reference, self.folder, side=self.name, **sampling)]
            short = short_enough(lines, self.config.max_prompt_tokens)
            prompter = prompter_of(self.reference)
            asked = arrange_all(prompter, short, prompt_tokens, self.folder, self.name)
            return self.askers[0].ask_all(asked)
        written = self._write(lines, sampling)
        self.n_written = n_written(written)
        return written

    def _write(self, lines: Sequence[PromptLine], sampling: dict[str, Any]) -> list[Generated]:
        model, tokenizer = self.policy
        prompts = self._prompts(lines)
        # The rival's reports stand after those of the version, in the same chart.
        n_batches = len(generation_batches(prompts, 1, self.config.batch_size))
        done = n_batches if self.name == "old" else 0
        self.folder.phase(f"answers of the {self.name} policy")
        return generate_all(
            model, tokenizer, prompts, **sampling, batch_size=self.config.batch_size,
            kept=self.folder.path / f"{self.name}.jsonl", folder=self.folder,
            done=done, total=done + n_batches,
        )  # fmt: skip

    def text_losses(self, texts: Sequence[str]) -> list[Loss]:
        """Of running text, from its first token on; of one that is longer than the window, all its windows
        together."""
        found = iter(self._losses(self.text_rows(texts)))
        of_texts = [[next(found) for _ in windows] for windows in self.windows_of(texts)]
        return [
            Loss(sum(loss.nats for loss in each), sum(loss.n_tokens for loss in each))
            for each in of_texts
        ]

    def text_rows(self, texts: Sequence[str]) -> Rows:
        return [window for windows in self.windows_of(texts) for window in windows]

    def windows_of(self, texts: Sequence[str]) -> list[Rows]:
        _, tokenizer = self.policy
        start = tokenizer.bos_token_id
        before = [tokenizer.eos_token_id if start is None else start]
        encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return [list(windows(before, ids, self.window)) for ids in encoded]

    def answer_losses(
        self, lines: Sequence[PromptLine], references: dict[int, list[str]]
    ) -> list[Loss]:
        """Of reference answers, with their end, after their prompts; those that are too long left out."""
        return self._losses(self.answer_rows(lines, references))

    def answer_rows(self, lines: Sequence[PromptLine], references: dict[int, list[str]]) -> Rows:
        _, tokenizer = self.policy
        rows = [
            (prompt.ids, encode_completion(tokenizer, text))
            for prompt in self._prompts(lines)
            for text in references.get(prompt.line.id, [])
        ]
        longest = at_most(self.config.max_tokens, self.reference)
        return [row for row in rows if len(row[0]) + len(row[1]) <= longest]

    def _prompts(self, lines: Sequence[PromptLine]) -> list[EncodedPrompt]:
        _, tokenizer = self.policy
        limits = self.config.max_prompt_tokens, self.config.max_new_tokens
        return encode_arranged(self.reference, tokenizer, lines, *limits, self.folder, self.name)[0]

    @torch.no_grad()
    def _losses(self, rows: Rows) -> list[Loss]:
        """Of each completion after its prompt, in the order they came. Raises Stopped."""
        model, _ = self.policy
        backbone, head = backbone_of(model), vocabulary_head(model)
        found = {place: Loss(0.0, 0) for place, row in enumerate(rows) if not row[1]}
        places = [place for place, row in enumerate(rows) if row[1]]
        lengths = [len(rows[place][0]) + len(rows[place][1]) for place in places]
        for among in similar_lengths(lengths, TOKENS_AT_ONCE):
            group = [places[each] for each in among]
            if self.folder.should_stop():
                raise Stopped
            prompts, completions = zip(*(rows[place] for place in group), strict=True)
            batch = collate(prompts, completions, model.device)
            logprobs = completion_logprobs(backbone, head, batch, 1.0)
            parts = logprobs.split([len(completion) for completion in completions])
            for place, part in zip(group, parts, strict=True):
                found[place] = Loss(-float(part.sum()), len(part))
            self.folder.progress(len(found), len(rows))
        return [found[place] for place in range(len(rows))]


# --- losses -----------------------------------------------------------------------------------
def losses_of(
    new: Side, inputs: Inputs, config: SuiteConfig, folder: RunFolder
) -> tuple[dict[str, Estimate], list[dict[str, Any]]]:
    """Figures of how likely texts are, and the same text by text."""
    if why := new.why_no_losses:
        nothing = Estimate(None, reason=why)
        names = ("own_loss", "own_perplexity", "general_loss", "general_perplexity", "forgetting")
        return dict.fromkeys(names, nothing), []
    before: list[Loss] = []
    old = Side("old", config.rival, config, folder) if config.rival is not None else None
    if old is not None and not old.why_no_losses:
        before = _kept_losses(folder, "general-old", lambda: old.text_losses(inputs.texts))
        old.forget()
    own = _kept_losses(folder, "own", lambda: new.answer_losses(inputs.lines, inputs.references))
    general = _kept_losses(folder, "general", lambda: new.text_losses(inputs.texts))
    why = TOO_LONG if inputs.references else NO_REFERENCES
    own_loss = per_token(own) if own else Estimate(None, reason=why)
    general_loss = per_token(general) if general else Estimate(None, reason=NO_TEXT)
    found = {
        "own_loss": own_loss,
        "own_perplexity": own_loss.scaled(math.exp),
        "general_loss": general_loss,
        "general_perplexity": general_loss.scaled(math.exp),
    }
    if old is not None and old.why_no_losses:
        found["forgetting"] = Estimate(None, reason=RIVAL.format(old.why_no_losses))
    elif old is not None and not inputs.texts:
        found["forgetting"] = Estimate(None, reason=NO_TEXT)
    if before:
        found["forgetting"] = grown = forgetting(
            [loss.nats for loss in general],
            [loss.nats for loss in before],
            [loss.n_tokens for loss in before],
        )
        report_forgetting(grown, config.forgetting_bound, folder)
    rows = [
        {
            "text": text, "nats": loss.nats, "n_tokens": loss.n_tokens,
            "nats_before": before[place].nats if before else None,
        }
        for place, (text, loss) in enumerate(zip(inputs.texts, general, strict=True))
    ]  # fmt: skip
    return found, rows


def _kept_losses(folder: RunFolder, name: str, compute: Callable[[], list[Loss]]) -> list[Loss]:
    folder.phase(f"losses: {name.replace('-', ', ')}")
    return [Loss(*row) for row in kept(folder, f"losses-{name}", compute)]


def per_token(losses: Sequence[Loss]) -> Estimate:
    return ratio([loss.nats for loss in losses], [loss.n_tokens for loss in losses])


def report_forgetting(grown: Estimate, bound: float, folder: RunFolder) -> None:
    """For the run's alarms."""
    if grown.value is not None:
        low = grown.value if grown.low is None else grown.low
        folder.metrics(
            0, {"forgetting": grown.value, "forgetting/low": low, "forgetting/bound": bound}
        )


# --- answers ----------------------------------------------------------------------------------
def values_of(
    answers: Sequence[Generated], inputs: Inputs, config: SuiteConfig, folder: RunFolder
) -> dict[int, dict[str, float]]:
    """What can be said of each answer by itself, by prompt."""
    messages = {line.id: line.messages for line in inputs.lines}
    conversations = [
        Conversation(messages[row.id], row.completion, row.n_tokens, row.truncated)
        for row in answers
    ]
    found: dict[int, dict[str, float]] = {
        row.id: counted(row, inputs.references.get(row.id, [])) for row in answers
    }
    columns = {}
    if config.reward_model:
        folder.phase("scoring")
        columns["reward"] = kept(folder, "scores", lambda: _scores(conversations, config, folder))
    rules = [complete(rule) for rule in config.rewards]
    for name, rule in zip(names_of(False, rules), rules, strict=True):
        columns[f"rule/{name}"] = scores_of(rule, conversations)
    for name, column in columns.items():
        for row, value in zip(answers, column, strict=True):
            found[row.id][name] = value
    return found


def _scores(
    conversations: Sequence[Conversation], config: SuiteConfig, folder: RunFolder
) -> list[float]:
    return load_judge(config.reward_model).scores(
        conversations, folder.should_stop, config.ensemble, config.uncertainty_coefficient
    )


def counted(row: Generated, references: Sequence[str]) -> dict[str, float]:
    text = row.completion
    against = (
        {"exact_match": exact_match(text, references), "rouge_l": rouge_l(text, references)}
        if references
        else {}
    )
    return {
        **against,
        "length": float(row.n_tokens),
        "truncated": float(row.truncated),
        "repetition": repetition(text),
        "refused": float(refuses(text)),
        "unsafe": float(is_unsafe(text)),
    }


def figures_of(
    answers: Sequence[Generated],
    values: dict[int, dict[str, float]],
    references: dict[int, list[str]],
) -> dict[str, Estimate]:
    """Means of what stands with each answer, and figures of all answers together."""
    names = dict.fromkeys(name for row in values.values() for name in row)
    found = {
        name: mean_of(name, [row[name] for row in values.values() if name in row]) for name in names
    }
    referred = [row for row in answers if references.get(row.id)]
    if not referred:
        nothing = Estimate(None, reason=NO_REFERENCES)
        found |= dict.fromkeys(("exact_match", "rouge_l", "chrf", "bleu"), nothing)
    else:
        texts = [row.completion for row in referred]
        wanted = [references[row.id] for row in referred]
        found |= {"chrf": chrf(texts, wanted), "bleu": bleu(texts, wanted)}
    every = [row.completion for row in answers]
    return found | {
        "distinct_1": Estimate(distinct(every, 1), n=len(every)),
        "distinct_2": Estimate(distinct(every, 2), n=len(every)),
        "self_bleu": self_bleu(every),
    }


def mean_of(name: str, values: Sequence[float]) -> Estimate:
    """Of what stands with each answer, which is one to a prompt."""
    if name in SHARES or (name.startswith("rule/") and is_share(values)):
        return share(values)
    return mean_part(values) if name in PARTS else mean(values)


# --- the judge --------------------------------------------------------------------------------
def judgement(
    answers: Sequence[Generated], inputs: Inputs, config: SuiteConfig, folder: RunFolder
) -> tuple[dict[int, str], dict[str, Any], dict[int, dict[str, Any]]]:
    """The rival's answers, the judge's figures, and what it says of each prompt; empty without a judge."""
    if config.judge is None or config.rival is None:
        return {}, {}, {}
    old = Side("old", config.rival, config, folder)
    rival = {row.id: row.completion for row in old.answers(inputs.lines)}
    old.forget()
    messages = {line.id: line.messages for line in inputs.lines}
    shown = [row for row in answers if row.id in rival]
    contests = [Contest(messages[row.id], row.completion, rival[row.id]) for row in shown]
    folder.phase("judging")
    verdicts = judge_all(config.judge, [*contests, *(pair for pair, _ in inputs.pairs)], folder)
    people = [said for _, said in inputs.pairs]
    opinion = opinion_of(verdicts, len(contests), people)
    opinion |= prompting_result(folder, [JUDGE])
    opinion["askers"] = [*old.askers, *verdicts.askers]
    opinion["n_written"] = old.n_written
    by_prompt = {
        row.id: {"judge": both_orders(*pair), "leaning": nats}
        for row, pair, nats in zip(shown, verdicts.pairs, verdicts.leanings, strict=False)
    }
    return rival, opinion, by_prompt


def opinion_of(verdicts: Verdicts, n_new: int, people: Sequence[str]) -> dict[str, Any]:
    """What the judge says of the new answers, which come first, and how far it agrees with people where they
    have voted."""
    letters = [letter for pair in verdicts.pairs for letter in pair if letter]
    every = [both_orders(*pair) for pair in verdicts.pairs]
    by_leaning = [leans(nats) for nats in verdicts.leanings]
    outcomes = every[:n_new]
    return {
        "metrics": {"judge_win_rate": win_rate(outcomes)},
        **agreement(every[n_new:], people),
        "leaning": {
            "win_rate": win_rate(by_leaning[:n_new])._asdict(),
            **agreement(by_leaning[n_new:], people),
        },
        "n_pairs": len(outcomes),
        "wins": sum(outcome == NEW for outcome in outcomes),
        "ties": sum(outcome == TIE for outcome in outcomes),
        "unclear": sum(outcome == UNCLEAR for outcome in outcomes),
        "unparsed": sum(not letter for pair in verdicts.pairs for letter in pair),
        "says_a": sum(letter == "A" for letter in letters) / len(letters) if letters else None,
        "mass": verdicts.mass,
        "prompt": PROMPT,
    }


def agreement(judge: Sequence[str], people: Sequence[str]) -> dict[str, Any]:
    """On the same pairs, without those of which the judge could not be read."""
    clear = [both for both in zip(judge, people, strict=True) if both[0] != UNCLEAR]
    if not clear:
        nobody = Estimate(None, reason=NO_PEOPLE)._asdict()
        return {"kappa": nobody, "accuracy": nobody}
    said, wanted = zip(*clear, strict=True)
    return {
        "kappa": kappa_estimate(said, wanted)._asdict(),
        "accuracy": accuracy(said, wanted)._asdict(),
    }


# --- the rest ---------------------------------------------------------------------------------
def _tasks(new: Side, config: SuiteConfig) -> TaskResults:
    if not config.tasks or new.why_no_losses:  # which the harness would compute too
        return no_results(config.tasks, new.why_no_losses)
    new.folder.phase("tasks of lm-evaluation-harness")
    return run_tasks(*new.policy, config.tasks, config.task_limit)


def _write(
    folder: RunFolder,
    rows: Sequence[dict[str, Any]],
    inputs: Inputs,
    texts: Sequence[dict[str, Any]],
    task_answers: Sequence[TaskAnswer],
) -> None:
    messages = {line.id: line.messages for line in inputs.lines}
    answers = [
        {
            **row,
            "messages": messages[row["id"]],
            "references": inputs.references.get(row["id"], []),
        }
        for row in rows
    ]
    with folder.writing_artifact() as artifact:
        files = {
            "answers.jsonl": answers,
            "texts.jsonl": texts,
            "tasks.jsonl": [answer._asdict() for answer in task_answers],
        }
        for name, lines in files.items():
            content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (artifact / name).write_text(content, encoding="utf-8")

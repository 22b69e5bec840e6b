"""What a run of any kind but PPO, RLOO and GRPO (estimates.py) will take: arithmetic, and no database.

A run is made of parts that come one after the other: a model is loaded, writes, reads, learns. The letters
are those of `estimates.estimate`: L layers; f and g seconds of a layer's forward and training of a token, h and
u of the head's. Padding, checkpoints, and what the length of a text adds to attention are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlhf.estimates import (
    BACKWARD,
    FULL,
    LEARNED,
    LOGITS_BYTES,
    MIB,
    SAMPLED_BYTES,
    START_SECONDS,
    WRITTEN,
    Estimate,
    Probe,
)
from rlhf.training.config import EvaluateConfig, GenerateConfig, RewardModelConfig
from rlhf.training.distill_config import DistillConfig
from rlhf.training.parameter_settings import ParameterSettings
from rlhf.training.preference_config import (
    ANSWERS_AT_ONCE,
    DPOConfig,
    KTOConfig,
    PreferenceConfig,
)
from rlhf.training.suite_config import SuiteConfig
from rlhf.training.supervised_config import SupervisedConfig

CURVE = (0.1, 0.25, 0.5)  # shares of the data that a learning curve learns from besides
EVALUATIONS = 4  # of what is held out, during a training
MEASURED_ROWS = 200  # held-out rows of a dataset that are measured, at most
JUDGES_TOKENS = 120  # around the question and the two answers
VERDICT_TOKENS = 2  # of a judge elsewhere


class Work(NamedTuple):
    """What a part of a run takes. Learned tokens count as often as there are epochs."""

    seconds: float | None = 0.0  # None: nobody can say
    memory_mib: float = 0.0  # of the process, meanwhile
    read: float = 0.0  # tokens
    written: float = 0.0
    learned: float = 0.0

    def times(self, n: float) -> Work:
        """As much so often; the memory is used again."""
        seconds = None if self.seconds is None else n * self.seconds
        return Work(seconds, self.memory_mib, n * self.read, n * self.written, n * self.learned)


Parts = Mapping[str, Work]  # by whose it is: "policy", "rival", "reward_model", "base", "judge"


class Elsewhere(NamedTuple):
    """A policy that is asked over HTTP, as far as its time goes."""

    seconds_per_request: float | None  # None: nobody has asked it in a run yet
    characters_per_token: float = 4.0  # as endpoint.estimated_tokens
    template_tokens: float = 4.0

    def tokens_of(self, characters: float) -> float:
        return characters / self.characters_per_token


Writer = Probe | Elsewhere


class Texts(NamedTuple):
    """Mean lengths in tokens: of a prompt with its template, of an answer with its end."""

    prompt: float
    answer: float

    @property
    def both(self) -> float:
        return self.prompt + self.answer


class Pairs(NamedTuple):
    """Of an export."""

    train: float  # how many pairs may be learned from
    tied: float  # of them, those that do not say what people prefer
    test: float
    texts: Texts
    shared: float  # tokens of a pair where its comparison's prompt and answers are counted once
    votes: float = 1.0  # on a pair


class Rows(NamedTuple):
    """Of a dataset."""

    train: float  # how many are shown in an epoch
    test: float
    tokens: float  # of each


class Scorer(NamedTuple):
    """A reward model whose base has been measured."""

    probe: Probe
    members: int = 1


def in_turn(*parts: Work) -> Work:
    """One after the other: seconds and tokens add up, memory is that of the largest."""
    seconds: float | None = 0.0
    for part in parts:
        seconds = None if seconds is None or part.seconds is None else seconds + part.seconds
    return Work(
        seconds,
        max((part.memory_mib for part in parts), default=0.0),
        sum(part.read for part in parts),
        sum(part.written for part in parts),
        sum(part.learned for part in parts),
    )


def estimate_of(parts: Parts, texts: Texts, start_seconds: float = START_SECONDS) -> Estimate:
    """The whole run, with the time in which Python starts."""
    whole = in_turn(Work(start_seconds), *parts.values())
    return Estimate(
        memory_mib=whole.memory_mib,
        minutes=None if whole.seconds is None else whole.seconds / 60,
        tokens_generated=whole.written,
        tokens_trained=whole.learned,
        prompt_tokens=texts.prompt,
        answer_tokens=texts.answer,
        tokens_read=whole.read,
    )


# --- parts ------------------------------------------------------------------------------------
def load(writer: Writer) -> Work:
    if isinstance(writer, Elsewhere):
        return Work()
    return Work(writer.load_seconds, writer.resident_mib)


def write(
    writer: Writer, texts: Texts, n_prompts: float, *, n: int = 1, longest: int, batch_size: int
) -> Work:
    """`n` answers to each prompt, as generate.generate_all batches them: `batch_size` answers at once, or
    `n` answers to as many prompts as that gives; the largest number of answers to a prompt that a batch holds
    share its reading.

        tokens read · L · f + batches · longest · decode_step + tokens written · decode_token

    Elsewhere a request asks for all answers to a prompt.
    """
    written = n_prompts * n * texts.answer
    if isinstance(writer, Elsewhere):
        pace = writer.seconds_per_request
        seconds = None if pace is None else n_prompts * pace
        return Work(seconds, read=n_prompts * texts.prompt, written=written)
    at_once = min(n, batch_size)
    per_prompt = math.ceil(n / at_once)
    batches = math.ceil(n_prompts / (batch_size // at_once)) * per_prompt
    read = n_prompts * per_prompt * texts.prompt
    prefill = read * writer.layers * writer.layer_forward
    decode = batches * longest * writer.decode_step + written * writer.decode_token
    rows = min(batch_size, n_prompts * n)
    cache = rows * (texts.prompt + longest) * writer.cache_bytes
    memory = cache + rows * writer.vocabulary * SAMPLED_BYTES
    return Work(prefill + decode, writer.resident_mib + memory / MIB, read, written)


def read(probe: Probe, tokens: float, headed: float = 0.0, layers: int | None = None) -> Work:
    """Tokens through some layers, all if none are named, and `headed` of them through the vocabulary head:
    tokens · layers · f + headed · h."""
    n_layers = probe.layers if layers is None else layers
    seconds = tokens * n_layers * probe.layer_forward + headed * probe.head_forward
    memory = probe.resident_mib + (LOGITS_BYTES / MIB if headed else 0.0)
    return Work(seconds, memory, tokens)


def score(scorer: Scorer | None, tokens: float) -> Work:
    """A reward model is loaded and reads conversations of so many tokens, each member by itself."""
    if scorer is None:
        return Work()
    return in_turn(load(scorer.probe), read(scorer.probe, scorer.members * tokens))


def score_all(scorers: Sequence[Scorer], tokens: float) -> Work:
    """One after the other; all of them are loaded before the first reads."""
    parts = [score(scorer, tokens) for scorer in scorers]
    return in_turn(*parts)._replace(memory_mib=sum(part.memory_mib for part in parts))


class Moving(NamedTuple):
    """What learns of a model."""

    layers: int  # from the top, that gradients go back through
    numbers: float
    factor: float = 1.0  # of a backward pass against that of an adapter


def moving(
    probe: Probe, method: str, adapter_layers: int | None, lora_rank: int, virtual_tokens: int = 0
) -> Moving:
    """By the method of ParameterSettings. IA³ learns three vectors of each layer, prompt tuning one and prefix
    tuning a key and a value of each layer for each virtual token."""
    layers = min(adapter_layers or probe.layers, probe.layers)
    numbers = {
        "lora": layers * lora_rank * probe.adapter_parameters,
        "full": layers * probe.layer_parameters,
        "ia3": 3.0 * layers * probe.hidden_size,
        "prompt": float(virtual_tokens * probe.hidden_size),
        "prefix": 2.0 * virtual_tokens * probe.layers * probe.hidden_size,
    }
    return Moving(layers, numbers[method], FULL if method == "full" else 1.0)


def learn(
    probe: Probe, tokens: float, headed: float, moves: Moving, *, at_once: float,
    is_trunk_kept: bool = False,
) -> Work:  # fmt: skip
    """tokens · ((L - k) · f + k · g) + headed · u, where k layers move; the first summand is nothing where the
    trunk is kept. `at_once`: tokens of a micro-batch.

    Memory: the loaded model, what learns with its optimiser, and the larger of the activations and the
    writing of a checkpoint.
    """
    below = 0 if is_trunk_kept else probe.layers - moves.layers
    of_token = below * probe.layer_forward + moves.layers * probe.layer_train * moves.factor
    update = BACKWARD * at_once * moves.layers * probe.activation_bytes + LOGITS_BYTES
    memory = LEARNED * moves.numbers + max(update, WRITTEN * moves.numbers)
    return Work(
        tokens * of_token + headed * probe.head_train,
        probe.resident_mib + memory / MIB,
        learned=tokens,
    )


# --- kinds that write -------------------------------------------------------------------------
def generating(config: GenerateConfig, policy: Writer, texts: Texts, n_prompts: int) -> Parts:
    written = write(
        policy,
        texts,
        n_prompts,
        n=config.completions_per_prompt,
        longest=config.max_new_tokens,
        batch_size=config.batch_size,
    )
    return {"policy": in_turn(load(policy), written)}


def evaluating(
    config: EvaluateConfig, policy: Writer, rival: Writer, texts: Texts, of_rival: Texts,
    n_prompts: int, scorers: Sequence[Scorer] = (),
) -> Parts:  # fmt: skip
    """The new side writes `best_of` answers for each that the old side writes, and all are scored."""
    n_old = config.completions_per_prompt
    n_new = n_old * config.best_of
    longest, size = config.max_new_tokens, config.batch_size
    new = write(policy, texts, n_prompts, n=n_new, longest=longest, batch_size=size)
    old = write(rival, of_rival, n_prompts, n=n_old, longest=longest, batch_size=size)
    return {
        "policy": in_turn(load(policy), new),
        "rival": in_turn(load(rival), old),
        "reward_model": score_all(
            scorers, n_prompts * (n_new * texts.both + n_old * of_rival.both)
        ),
    }


def distilling(
    config: DistillConfig, teacher: Writer, student: Writer | None, texts: Texts, n_prompts: int,
    scorers: Sequence[Scorer] = (),
) -> Parts:  # fmt: skip
    """The student, if any, answers its share of the prompts, as often and at the teacher's length."""
    n_own = round(config.rehearsal_share * n_prompts) if student is not None else 0
    n_taught, n = n_prompts - n_own, config.completions_per_prompt
    longest, size = config.max_new_tokens, config.batch_size
    taught = write(teacher, texts, n_taught, n=n, longest=longest, batch_size=size)
    own = Work()
    if student is not None and n_own:
        answers = write(student, texts, n_own, n=n, longest=longest, batch_size=size)
        own = in_turn(load(student), answers)
    return {
        "policy": in_turn(load(teacher), taught),
        "rival": own,
        "reward_model": score_all(scorers, n_taught * n * texts.both),
    }


def measuring(
    config: SuiteConfig, policy: Writer, rival: Writer | None, judge: Writer | None, texts: Texts,
    n_prompts: int, general_tokens: float, n_judged: int, scorer: Scorer | None = None,
    around: float = 0.0,
) -> Parts:  # fmt: skip
    """A suite, with one reference answer to each prompt. A rival reads the general text, and writes only for a
    judge, who reads each pair in both orders; `n_judged` more of which people's opinion is known. `around`: tokens
    that stand around each of the judge's questions."""
    longest, size = config.max_new_tokens, config.batch_size
    answers = write(policy, texts, n_prompts, longest=longest, batch_size=size)
    own, others = in_turn(load(policy), answers), Work()
    if isinstance(policy, Probe):
        references = read(policy, n_prompts * texts.both, n_prompts * texts.answer)
        own = in_turn(own, references, read(policy, general_tokens, general_tokens))
    if isinstance(rival, Probe):
        others = in_turn(load(rival), read(rival, general_tokens, general_tokens))
    if rival is not None and judge is not None:
        written = write(rival, texts, n_prompts, longest=longest, batch_size=size)
        others = in_turn(others, load(rival), written)
    return {
        "policy": own,
        "rival": others,
        "reward_model": score(scorer, n_prompts * texts.both),
        "judge": judging(judge, judged_tokens(texts) + around, n_prompts + n_judged)
        if judge is not None
        else Work(),
    }


def judged_tokens(texts: Texts) -> float:
    """What a judge is asked: the prompt, two answers, and what it is to do with them."""
    return texts.prompt + 2 * texts.answer + JUDGES_TOKENS


def judging(judge: Writer, tokens: float, n_pairs: float) -> Work:
    """A model here reads; one elsewhere also writes a letter."""
    if isinstance(judge, Elsewhere):
        asked = Texts(tokens, VERDICT_TOKENS)
        return write(judge, asked, 2 * n_pairs, longest=VERDICT_TOKENS, batch_size=1)
    return in_turn(load(judge), read(judge, 2 * n_pairs * tokens, 2 * n_pairs))


# --- kinds that learn -------------------------------------------------------------------------
def rewarding(
    config: RewardModelConfig, policy: Probe, pairs: Pairs, base: Probe | None = None
) -> Parts:
    """The policy writes the answers that fix the scale; then it, or the base, learns: once for each member
    and, for the learning curve, from parts of the pairs. What is held out is read after each epoch. Where the
    trunk is kept, the layers below those that move are computed once for all of that."""
    n = config.policy_samples
    samples = write(policy, pairs.texts, n, longest=config.max_new_tokens, batch_size=n)
    wrote = in_turn(load(policy), samples)
    probe = base or policy
    of_pair = pairs.shared if config.share_prompts else 2 * pairs.texts.both
    curve = (*CURVE, 1.0) if config.members > 1 else CURVE
    times = (config.members + (sum(curve) if config.learning_curve else 0.0)) * config.epochs
    method = "full" if config.train == "full" else "lora"
    moves = moving(probe, method, config.adapter_layers, config.lora_rank)
    is_kept = config.reuse_trunk and moves.layers < probe.layers
    learned = in_turn(
        read(probe, (pairs.train + pairs.test) * of_pair, layers=probe.layers - moves.layers)
        if is_kept
        else Work(),
        learn(
            probe,
            times * pairs.train * of_pair,
            0.0,
            moves,
            at_once=max(config.micro_batch_tokens, of_pair),
            is_trunk_kept=is_kept,
        ),
        read(probe, times * pairs.test * of_pair, layers=moves.layers if is_kept else None),
    )
    if base is None:
        return {"policy": in_turn(wrote, learned)}
    return {"policy": wrote, "base": in_turn(load(base), learned)}


def tuning(config: SupervisedConfig, probe: Probe, datasets: Sequence[Rows]) -> Parts:
    """Supervised and domain tuning. What is held out is measured before, and up to four times during each
    training; a learning curve trains from the start on parts of the rows. The pull towards the base's
    distribution reads all once more."""
    shares = [1.0, *(CURVE if config.learning_curve else ())]
    shown = sum(rows.train * rows.tokens for rows in datasets)
    held_out = sum(min(MEASURED_ROWS, rows.test) * rows.tokens for rows in datasets)
    tokens = sum(shares) * config.epochs * shown
    longest = max((rows.tokens for rows in datasets), default=0.0)
    measured = (1 + EVALUATIONS * len(shares)) * held_out
    pulled = read(probe, tokens, tokens) if config.anchor == "kl" else Work()
    learned = learn(
        probe, tokens, tokens, _moving(probe, config),
        at_once=max(config.micro_batch_tokens, longest),
    )  # fmt: skip
    loaded = load(probe).times(len(shares))
    return {"policy": in_turn(loaded, learned, pulled, read(probe, measured, measured))}


def preferring(config: PreferenceConfig, probe: Probe, pairs: Pairs) -> Parts:
    """DPO and KTO, without ties: the reference reads all answers once; each epoch learns from them; held-out pairs are
    read before, and four times during it; a few answers are written before and more after, which both policies read. KTO also reads each
    prompt with another's answer, once for the reference and in each epoch."""
    texts = pairs.texts
    rows = pairs.train - pairs.tied
    if isinstance(config, DPOConfig) and config.votes == "each":
        rows *= pairs.votes
    tokens, answers = 2 * rows * texts.both, 2 * rows * texts.answer
    mismatched = 1 if isinstance(config, KTOConfig) and config.loss == "kto" else 0
    passes = 1 + mismatched * (1 + config.epochs)
    held_out = (1 + EVALUATIONS) * 2 * pairs.test
    n, shown = config.samples, min(config.samples, ANSWERS_AT_ONCE)
    before, after = (
        write(probe, texts, answers, longest=config.max_new_tokens, batch_size=shown)
        for answers in (shown, n)
    )
    of_micro_batch = config.micro_batch_size * (1 if isinstance(config, KTOConfig) else 2)
    return {
        "policy": in_turn(
            load(probe),
            read(probe, passes * tokens, passes * answers),
            before,
            after,
            learn(
                probe,
                config.epochs * tokens,
                config.epochs * answers,
                _moving(probe, config),
                at_once=of_micro_batch * texts.both,
            ),
            read(probe, held_out * texts.both, held_out * texts.answer),
            read(probe, 2 * n * texts.both, 2 * n * texts.answer),
        )
    }


def _moving(probe: Probe, config: ParameterSettings) -> Moving:
    return moving(
        probe, config.method, config.adapter_layers, config.lora_rank, config.virtual_tokens
    )


# --- the others -------------------------------------------------------------------------------
def adding_up(probe: Probe, element_bytes: int = 4) -> Parts:
    """Merging weights, combining adapters: a model is loaded and written, which takes as long again."""
    weights = probe.parameters * (element_bytes - probe.element_bytes) / MIB
    return {"policy": Work(2 * probe.load_seconds, probe.resident_mib + max(0.0, weights))}


def paced(units: float, seconds_per_unit: float, memory_mib: float = 0.0) -> Parts:
    """What goes by no model that was measured: as earlier runs went, from start to end."""
    return {"policy": Work(units * seconds_per_unit, memory_mib)}

"""What a run of PPO, RLOO or GRPO will take on this machine, before it starts: memory, minutes, tokens.

`estimate` is arithmetic on a probe, the seconds and bytes that rlhf/training/probe.py has measured
of the model; `estimate_run` finds what it needs to know in the database. The arithmetic of all other kinds
is in work.py, and expecting.py finds what they need.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import psutil
from django.conf import settings
from django.db.models import Count, Sum
from django.db.models.functions import Length

from annotator.models import Completion, Prompt, Split
from rlhf.costs import charged_to, price_of, seconds_of
from rlhf.models import ONLINE, ModelKind, ModelVersion, Run
from rlhf.training.config import EvaluateConfig, GroupConfig, PPOConfig
from rlhf.training.distill_config import DistillConfig

START_SECONDS = 10.0  # of Python and its libraries
# Bytes per number that learns: weight, gradient and Adam's two moments; the copy that a stopped
# step goes back to; and while a checkpoint is written a second copy, and the file in memory.
LEARNED, KEPT, WRITTEN = 16, 12, 24
FROZEN = 4
LOGITS_BYTES = 3 * 4 * 2**22  # forward.LOGITS_AT_ONCE, their probabilities and one more of the size
SAMPLED_BYTES = 24  # per answer and word of the vocabulary: logits, probabilities, their sums
BACKWARD = 1.25  # gradients on the way, and what the allocator does not give back
BESIDE = 2.0  # activations where adapters run beside the weights, as by TRL, against in one product
FULL = 1.5  # a backward pass through everything, against one that reaches only adapters
SAMPLE = 200  # rows that say how long prompts and answers are
AT_ONCE = 32  # answers decoded together, where one figure has to do
MIB = 2**20


class Probe(NamedTuple):
    """One model on one machine. Seconds and bytes are per token, and of one layer where named so."""

    load_seconds: float
    decode_step: float  # seconds of decoding one token each, whatever the number of answers
    decode_token: float  # and for each answer besides
    layer_forward: float
    layer_train: float  # forward and backward
    layer_merge: float  # of adding an adapter to a layer's weights, whatever the tokens
    head_forward: float
    head_train: float
    resident_mib: float  # of the process with the model loaded
    parameters: int
    layers: int
    hidden_size: int
    vocabulary: int
    element_bytes: int  # 4: fp32
    layer_parameters: float
    adapter_parameters: float  # of a layer, per rank
    cache_bytes: float  # of keys and values, all layers
    activation_bytes: float
    template_tokens: float
    characters_per_token: float

    @classmethod
    def from_json(cls, measured: Mapping[str, Any]) -> Self | None:
        """None if something is missing: nothing was measured, or by an earlier version."""
        if any(measured.get(name) is None for name in cls._fields):
            return None
        return cls(**{name: measured[name] for name in cls._fields})

    @property
    def is_exact(self) -> bool:
        return self.element_bytes == 4

    # Tokens per second, with adapters on all layers.
    @property
    def decode_speed(self) -> float:
        return AT_ONCE / (self.decode_step + AT_ONCE * self.decode_token)

    @property
    def forward_speed(self) -> float:
        return 1 / (self.layers * self.layer_forward + self.head_forward)

    @property
    def train_speed(self) -> float:
        return 1 / (self.layers * self.layer_train + self.head_train)

    def tokens_of(self, characters: float) -> float:
        return characters / self.characters_per_token


class Tokens(Protocol):
    """How many tokens a text has, as far as is known."""

    @property
    def template_tokens(self) -> float: ...

    def tokens_of(self, characters: float) -> float: ...


class Estimate(NamedTuple):
    memory_mib: float  # at most; 0: next to nothing, as where another machine computes
    minutes: float | None  # None: nobody can say
    tokens_generated: float
    tokens_trained: float  # each as often as there are epochs
    prompt_tokens: float  # what it assumes: mean length of a prompt with its template
    answer_tokens: float  # and of an answer, its end token included
    tokens_read: float = 0.0  # without learning from them

    @property
    def seconds(self) -> float | None:
        return None if self.minutes is None else 60 * self.minutes


def estimate(
    config: PPOConfig,
    probe: Probe,
    *,
    prompt_tokens: float,
    answer_tokens: float,
    reward_layers: Sequence[int] = (),
    held_out: int = 0,
) -> Estimate:
    """What rlhf/training/ppo.py will take. `reward_layers`: on how many layers the adapter of each
    reward model lies that shares the policy's base, one for each of its members; `held_out`: prompts
    of an evaluation.

    With B answers a step, p and m tokens of prompt and answer, X = B·(p + m), M = B·m, T the limit,
    n answers per prompt, L layers of which the policy's adapter lies on k, a reward model's on r,
    and an adapter critic's on v, the first reward model's r, or k if there is none; `top` = the
    largest of k and all r if the trunk is reused, else L; f and g seconds of a layer's forward and
    training, h and u of the head's, c of merging a layer (0 in bf16, where nothing is merged):

        rollout  B/n·p·L·f + T·decode_step + M·decode_token + k·c
        score    the reference X·top·f + M·h, and as much for the policy in bf16; X·top·f + r·c for
                 each adapter of a reward model; X·top·f + v·c for an adapter critic, X·L·f for a
                 full one
        update   epochs · (X·((top - k)·f + k·g) + M·u), and for the critic X·((top - v)·f + v·g)
                 (adapter), X·L·1.5·g (full) or nothing (head, none); g includes merging the layer

    A run is its steps, the rollout and score of each evaluation in batches of B, one answer per
    prompt (or of one batch that measures the result, if no prompt is held out), and loading.
    By TRL's trainer (group_trl.py) the trunk is not reused, every answer is padded to T tokens in the update,
    whose X and M are therefore larger, and before it the policy and the reference are asked by TRL:
    2 · (X·L·f + M·h); its activations are twice as many.

    Padding elsewhere, checkpoints, what the length of a conversation adds to attention, sources of rewards
    that share no base with the policy, and sharing the work among processes are left out.

    Memory: the loaded model, adapters and what learns with its optimiser; then the largest of the
    rollout (merged weights, cache, logits), the update (activations of a micro-batch, logits) and
    the writing of a checkpoint.
    """
    seconds = START_SECONDS + probe.load_seconds * (2 if config.critic == "full" else 1)
    cost = _Cost(config, probe, prompt_tokens, answer_tokens, reward_layers)
    size, prompts = config.batch_size, config.batch_size // config.completions_per_prompt
    seconds += config.steps * (cost.rollout(size, prompts) + cost.score(size) + cost.update())
    if held_out:
        batches = [size] * (held_out // size) + [held_out % size] * (held_out % size > 0)
        once = sum(cost.rollout(n, n) + cost.score(n) for n in batches)
        seconds += evaluations(config) * once
    else:
        seconds += cost.rollout(size, prompts) + cost.score(size)
    generated = config.steps * config.batch_size * answer_tokens
    return Estimate(
        memory_mib=probe.resident_mib + cost.memory_bytes() / MIB,
        minutes=seconds / 60,
        tokens_generated=generated,
        tokens_trained=config.epochs * generated,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
    )


def evaluations(config: PPOConfig) -> int:
    """How often the held-out prompts are answered, once before the first step."""
    return 1 + len(config.evaluation_steps) if config.evaluation_steps else 0


class _Cost:
    """The parts of a step, in the letters of `estimate`."""

    def __init__(
        self, config: PPOConfig, probe: Probe, p: float, m: float, rewards: Sequence[int]
    ) -> None:
        self.config, self.probe, self.p, self.m = config, probe, p, m
        self.k = min(config.adapter_layers or probe.layers, probe.layers)
        self.rewards, self.v = rewards, rewards[0] if rewards else self.k
        self.is_trl = isinstance(config, GroupConfig) and config.trainer == "trl"
        is_reused = config.reuse_trunk and not self.is_trl
        self.top = max([self.k, *rewards]) if is_reused else probe.layers
        self.longest = config.max_new_tokens if self.is_trl else m
        self.x = config.batch_size * (p + self.longest)
        self.of_answers = config.batch_size * self.longest
        self.merge = probe.layer_merge if probe.is_exact else 0.0

    def rollout(self, answers: int, prompts: int) -> float:
        probe, config = self.probe, self.config
        prefill = prompts * self.p * probe.layers * probe.layer_forward
        decode = config.max_new_tokens * probe.decode_step + answers * self.m * probe.decode_token
        return prefill + decode + self.k * self.merge

    def score(self, answers: int) -> float:
        probe = self.probe
        of_layer = answers * (self.p + self.m) * probe.layer_forward
        one = self.top * of_layer
        reference = one + answers * self.m * probe.head_forward
        policy = 0.0 if probe.is_exact else reference
        rewards = sum(one + layers * self.merge for layers in self.rewards)
        adapter, full = one + self.v * self.merge, probe.layers * of_layer
        values = {"none": 0.0, "head": 0.0, "adapter": adapter, "full": full}[self.config.critic]
        return reference + policy + rewards + values

    def update(self) -> float:
        probe, config = self.probe, self.config
        policy = self._train(self.k) * (FULL if config.train == "full" else 1.0)
        policy += self.of_answers * probe.head_train
        before = 0.0
        if self.is_trl:
            of_tokens = probe.layers * probe.layer_forward
            before = 2 * (self.x * of_tokens + self.of_answers * probe.head_forward)
        full = self.x * probe.layers * FULL * probe.layer_train
        adapter = self._train(self.v)
        critic = {"none": 0.0, "head": 0.0, "adapter": adapter, "full": full}[config.critic]
        return before + config.epochs * (policy + critic)

    def _train(self, adapted: int) -> float:
        """Forward through `top` layers and backward through those with the adapter."""
        probe = self.probe
        again = probe.layer_forward if self.config.gradient_checkpointing else 0.0
        backward = adapted * (probe.layer_train + again)
        return self.x * ((self.top - adapted) * probe.layer_forward + backward)

    def memory_bytes(self) -> float:
        """What comes to the loaded model."""
        config, probe = self.config, self.probe
        of_adapter = config.lora_rank * probe.adapter_parameters
        adapter = of_adapter * self.v
        critic = {"none": 0.0, "head": 0.0, "adapter": adapter, "full": probe.parameters}
        policy = of_adapter if config.train == "adapter" else probe.layer_parameters
        learned = policy * self.k + critic[config.critic]
        merged = (
            max([self.k, *self.rewards]) * probe.layer_parameters * 4 if probe.is_exact else 0.0
        )
        is_reused = self.top < probe.layers
        states = self.x * probe.hidden_size * probe.element_bytes if is_reused else 0.0
        rollout = self.x * probe.cache_bytes + config.batch_size * probe.vocabulary * SAMPLED_BYTES
        update = BACKWARD * self._activations() + LOGITS_BYTES
        kept = KEPT * learned if config.checkpoint_every > 1 else 0.0
        working = kept + states + max(merged + rollout, update)
        writing = kept + WRITTEN * learned
        frozen = FROZEN * of_adapter * sum(self.rewards)
        return frozen + LEARNED * learned + max(working, writing)

    def _activations(self) -> float:
        config, probe = self.config, self.probe
        tokens = max(config.micro_batch_tokens, self.p + self.longest)
        layers = {
            "none": self.k,
            "head": self.k,
            "adapter": max(self.k, self.v),
            "full": probe.layers,
        }
        n = layers[config.critic]
        if config.gradient_checkpointing:  # what enters each layer, and one layer computed again
            return tokens * (n * probe.hidden_size * probe.element_bytes + probe.activation_bytes)
        return tokens * n * probe.activation_bytes * (BESIDE if self.is_trl else 1.0)


# --- of a run that is about to start ------------------------------------------------------------
def probe_of(policy: ModelVersion) -> dict[str, Any]:
    """Its speed as it was measured; empty if it was not, or where nobody trains any more."""
    measured = policy.root().probe
    if Probe.from_json(measured) is None:
        return {}
    trained_on = policy.project.runs.exclude(host="").values_list("host", flat=True).first()
    trainer = measured.get("trainer", measured.get("host"))  # older probes know only the process's
    return measured if trained_on in (None, trainer) else {}


def probe_in(result: Mapping[str, Any]) -> Probe | None:
    """Of a run's result."""
    return Probe.from_json(result.get("probe", {}))


def free_memory_mib(measured: Mapping[str, Any]) -> float | None:
    """What a run may use where the probe was made; None if that is another machine, or a GPU."""
    if measured.get("host") != socket.gethostname() or measured.get("device") != "CPU":
        return None
    free = psutil.virtual_memory().available / MIB
    return min(free, settings.RUN_MEMORY_LIMIT_MIB or free)


def estimate_run(
    policy: ModelVersion, reward_model: ModelVersion | None, config: PPOConfig
) -> Estimate | None:
    """None if the policy's speed has not been measured."""
    probe = Probe.from_json(probe_of(policy))
    if probe is None:
        return None
    shared = [
        version
        for version in reward_models(policy, reward_model, config)
        if not needs_second_model(policy, version)
    ]
    return estimate(
        config,
        probe,
        prompt_tokens=min(prompt_tokens(policy.project_id, probe), config.max_prompt_tokens),
        answer_tokens=min(answer_tokens(policy, probe), config.max_new_tokens),
        reward_layers=[
            _adapter_layers(version, probe) for version in shared for _ in range(_members(version))
        ],
        held_out=min(_held_out(policy), config.eval_prompts) if evaluations(config) else 0,
    )


def reward_models(
    policy: ModelVersion,
    reward_model: ModelVersion | None,
    config: PPOConfig | EvaluateConfig | DistillConfig,
) -> list[ModelVersion]:
    """All that a run asks: the one it is given, and those that its rules name."""
    names = [rule["version"] for rule in config.rewards if rule["kind"] == "reward_model"]
    named = ModelVersion.objects.filter(
        project=policy.project_id, kind=ModelKind.REWARD, name__in=names
    )
    by_name = {version.name: version for version in named.select_related("parent")}
    return [*filter(None, [reward_model]), *(by_name[name] for name in names if name in by_name)]


def _adapter_layers(reward_model: ModelVersion, probe: Probe) -> int:
    asked = reward_model.settings.get("adapter_layers")
    return min(asked or probe.layers, probe.layers)


def _members(reward_model: ModelVersion) -> int:
    """How many adapters it has: one, unless it is an ensemble."""
    return reward_model.details.get("members", 1)


def _held_out(policy: ModelVersion) -> int:
    return Prompt.objects.filter(project=policy.project_id, split=Split.TEST).count()


def needs_second_model(policy: ModelVersion, reward_model: ModelVersion) -> bool:
    """Its adapter lies on other weights, which are loaded besides."""
    return reward_model.reference() != policy.reference()


def prompt_tokens(project_id: int, tokens: Tokens, *splits: Split) -> float:
    """Mean over some of the project's prompts, those to train on if no splits are named, with the template."""
    prompts = Prompt.objects.filter(project=project_id, split__in=splits or (Split.TRAIN,))
    chosen = prompts.order_by("key")[:SAMPLE].values_list("messages", flat=True)
    lengths = [sum(len(message["content"]) for message in messages) for messages in chosen]
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    return tokens.template_tokens + tokens.tokens_of(mean)


def answer_tokens(version: ModelVersion, tokens: Tokens) -> float:
    """Mean over its newest answers, or over those of the version that it comes from if it has written none,
    with the end token; infinite without any."""
    written = Completion.objects.filter(generated__model_version=version).order_by("-pk")
    lengths = list(written.values_list(Length("text"), flat=True)[:SAMPLE])
    if lengths:
        return tokens.tokens_of(sum(lengths) / len(lengths)) + 1
    return answer_tokens(version.parent, tokens) if version.parent else float("inf")


# --- afterwards ---------------------------------------------------------------------------------
class Comparison(NamedTuple):
    """A value as it was estimated, and as it came out; None if that is not known."""

    label: str
    unit: str  # empty: seconds, shown as a duration
    estimated: float | None
    actual: float | None
    note: str = ""


def comparisons(run: Run) -> list[Comparison]:
    """Estimate against actual, of a run that has ended well; empty if none was made. What none was expected
    of is left out."""
    if not (expected := run.estimate):
        return []
    seconds = seconds_of(run)
    minutes = expected["minutes"]
    estimated = None if minutes is None else 60 * minutes
    resumed = ""
    if run.attempts:
        resumed = (
            "not known, because the run was resumed" if seconds is None else "of all its starts"
        )
    used = used_by(run)
    rest = [
        Comparison("Memory", "MiB", expected["memory_mib"], *_memory_used(run)),
        Comparison("Read", "tokens", expected.get("tokens_read"), used.read),
        Comparison("Written", "tokens", expected["tokens_generated"], used.written),
        Comparison("Learned from", "tokens", expected["tokens_trained"], used.learned),
    ]
    return [
        Comparison("Time", "", estimated, seconds, resumed),
        *_money(run, estimated, seconds, used.spent, resumed),
        *(row for row in rest if row.estimated),
    ]


def _money(
    run: Run, estimated: float | None, seconds: float | None, spent: float, resumed: str
) -> list[Comparison]:
    """Hours, tokens and what endpoints were paid; empty where nothing has a price."""
    price = price_of(run.project)
    expected_spent = run.estimate.get("spent", 0.0) + run.estimate.get("charged", 0.0)
    spent += charged_to(run)
    if not (price.per_hour or expected_spent or spent):
        return []

    def with_hours(of: float | None, paid: float) -> float | None:
        if not price.per_hour:
            return paid
        return None if of is None else price.of_seconds(of) + paid

    note = resumed if price.per_hour else ""
    expected, actual = with_hours(estimated, expected_spent), with_hours(seconds, spent)
    return [Comparison("Cost", price.currency, expected, actual, note)]


class Used(NamedTuple):
    """Tokens that a run has read, written and learned from; None where nobody has counted."""

    read: float | None
    written: float | None
    learned: float | None
    spent: float = 0.0  # on endpoints


def used_by(run: Run) -> Used:
    """By what was counted at its end, and what endpoints say of themselves. What models here read is not
    counted."""
    asked = run.endpoint_uses.aggregate(
        n=Count("pk"),
        read=Sum("prompt_tokens"),
        written=Sum("completion_tokens"),
        spent=Sum("spent"),
    )
    counted = run.result.get("tokens", {})
    written, learned = counted.get("written"), counted.get("learned")
    if run.kind in ONLINE and not counted:  # of before they were counted at the end
        lengths = run.metrics.values_list("values__length/mean", flat=True)
        written = sum(filter(None, lengths)) * run.config["batch_size"] or None
        learned = written and written * run.config["epochs"]
    if asked["n"]:
        written = (written or 0) + asked["written"]
    return Used(asked["read"], written, learned, asked["spent"] or 0.0)


def _memory_used(run: Run) -> tuple[float | None, str]:
    """And what is to be known about it. Only the memory of processes is watched."""
    if run.estimate.get("device", "CPU") != "CPU":
        return None, "of the GPU; what was used of it is not measured"
    note = "of one process; used by all together" if run.config.get("accelerate_config") else ""
    return run.result.get("peak_mib"), note

"""Proximal Policy Optimization of a language model against a reward model, on one small box.

The algorithm is that of Ziegler et al. 2019 and Stiennon et al. 2020, with the details that Huang
et al. 2023 (The N Implementation Details of RLHF with PPO) and 2024 (The N+ …) found to matter;
docs/ppo.md names the source of each. ppo_models.py says which models there are, ppo_rollout.py what
a rollout holds, ppo_checkpoint.py what is kept of a run, ppo_selection.py which policy it ends with.

B completions of up to T tokens; a rollout is one batch of them, N the tokens of some of them in a
row. Everything random in a step comes from the seed and the step's number, so a resumed run repeats
exactly what it would have done. Several processes share the work of a step (parallel.py).

RLOO and GRPO are the same loop without a critic, with advantages of their own (group_advantages.py), or
that of TRL's trainers with the same rollouts (group_trl.py).
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlhf.training import parallel
from rlhf.training.artifacts import (
    DIVERGED,
    RunError,
    RunFolder,
    Stopped,
    writing_folder,
)
from rlhf.training.config import GRPOConfig, PPOConfig
from rlhf.training.context import at_most
from rlhf.training.data import read_prompts
from rlhf.training.forward import (
    Batch,
    collate,
    completion_logprobs,
    hidden_states,
    layers_of,
    score,
    similar_lengths,
    token_logprobs,
    vocabulary_head,
)
from rlhf.training.generate import EncodedPrompt, Sampled, encode_prompts, sample
from rlhf.training.group_advantages import group_relative, kl_loss, leave_one_out
from rlhf.training.models import decode, save_adapter
from rlhf.training.ppo_checkpoint import State, copied, restore, save_checkpoint, snapshot
from rlhf.training.ppo_math import (
    adapt_kl_coefficient,
    charge_missing_end,
    disagreement_of,
    estimate_advantages,
    kl_estimates,
    normalise_scores,
    policy_loss,
    shape_rewards,
    standard_error,
    total_scores,
    value_loss,
    whiten,
)
from rlhf.training.ppo_models import Models, load_models, savings_of
from rlhf.training.ppo_rollout import Rollout, Targets, joined, report_rollout, rollout_metrics
from rlhf.training.ppo_selection import (
    Evaluation,
    best,
    folder_of,
    is_due,
    outcome,
    read_held_out,
    remove_beaten,
)
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import Source
from rlhf.training.savings import tell_savings
from rlhf.training.trainer_settings import warm_up_then_fall


# --- setting up -------------------------------------------------------------------------------
def make_state(models: Models, config: PPOConfig) -> State:
    optimizer = torch.optim.Adam(
        [
            {"params": models.policy_parameters(), "lr": config.learning_rate},
            {"params": models.value_parameters(), "lr": config.value_learning_rate},
        ],
        eps=config.adam_eps,
    )
    allocate(optimizer)
    total = config.steps * config.epochs * config.minibatches  # optimiser steps
    rate = warm_up_then_fall(config.warmup_steps, total)
    frozen = config.critic_warmup_steps * config.epochs * config.minibatches
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, [lambda done: 0.0 if done < frozen else rate(done), rate]
    )
    return State(optimizer, scheduler, config.kl_coefficient)


def allocate(optimizer: torch.optim.Adam) -> None:
    """Make all gradients and moments at once. Made in the first update, between activations that go
    again, they would keep the heap from shrinking: a tenth of the peak."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros(()), **moments}


def seeded(config: PPOConfig, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the run's seed and the given numbers alone."""
    seed = config.seed
    for number in numbers:
        seed = seed * 1_000_003 + number + 1
    return torch.Generator(device).manual_seed(seed % 2**63)


def prompts_of_step(
    prompts: Sequence[EncodedPrompt], step: int, config: PPOConfig
) -> list[EncodedPrompt]:
    """The next prompts of an endless seeded shuffle: each comes once per pass, none is dropped, and
    fewer prompts than a step needs are repeated within it."""
    chosen = []
    n = config.batch_size // config.completions_per_prompt
    for place in range(step * n, (step + 1) * n):
        epoch, index = divmod(place, len(prompts))
        order = torch.randperm(len(prompts), generator=seeded(config, 0, epoch))
        chosen.append(prompts[int(order[index])])
    return chosen


# --- rollout ----------------------------------------------------------------------------------
def make_rollout(
    models: Models,
    prompts: Sequence[EncodedPrompt],
    config: PPOConfig,
    step: int,
    folder: RunFolder,
    *,
    with_values: bool = True,
) -> tuple[Rollout, dict[str, float]]:
    """Completions of the prompts with their scores, and the seconds that both took.

    The critic is not asked `with_values=False`, where nothing is learnt from them.
    """
    mine = list(parallel.share(prompts))
    part = None
    started = time.monotonic()
    rolled_out = started
    with suppress(Stopped):  # the other processes have to hear of it
        folder.phase("rollout")
        completions = collect_rollout(models, mine, config, step, folder)
        rolled_out = time.monotonic()
        folder.phase("score")
        part = score_rollout(models, mine, completions, config, folder, with_values)
    rollout = joined(parallel.gather(part))
    seconds = {
        "seconds/rollout": rolled_out - started,
        "seconds/score": time.monotonic() - rolled_out,
    }
    return rollout, seconds


def collect_rollout(
    models: Models, prompts: list[EncodedPrompt], config: PPOConfig, step: int, folder: RunFolder
) -> list[Sampled]:
    """The completions of each prompt, next to each other, sampled from the policy."""
    models.train(False)
    with models.using("policy") as layers:
        sampled = sample(
            models.writer,
            [prompt.ids for prompt in prompts],
            stop=models.stop,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            completions_per_prompt=config.completions_per_prompt,
            generator=seeded(config, 1, step, parallel.rank(), device=models.device),
            value_head=models.value_head if config.critic == "head" else None,
            watch=layers_of(layers)[1][0] if models.top else None,
            states_file=folder.path / f"trunk-{parallel.rank()}.states",
            should_stop=folder.should_stop,
        )
    if parallel.count() > 1:  # sent to the others, a part of the states would take all with it
        return [one._replace(states=whole(one.states)) for one in sampled]
    return sampled


def whole(states: Tensor | None) -> Tensor | None:
    return None if states is None else states.clone()


@torch.no_grad()
def score_rollout(
    models: Models,
    prompts: list[EncodedPrompt],
    completions: list[Sampled],
    config: PPOConfig,
    folder: RunFolder,
    with_values: bool = True,
) -> Rollout:
    """Reference log-probabilities, values and scores of the completions, by teacher forcing."""
    prompts = [prompt for prompt in prompts for _ in range(config.completions_per_prompt)]
    b, t = len(completions), max(len(completion.ids) for completion in completions)
    lengths = torch.tensor([len(completion.ids) for completion in completions])
    mask = torch.arange(t) < lengths.unsqueeze(1)
    rollout = Rollout(
        prompts,
        completions,
        mask,
        logprobs=torch.zeros(b, t),
        ref_logprobs=torch.zeros(b, t),
        values=torch.zeros(b, t),
        entropies=torch.zeros(b, t),
        raw_scores={s.name: torch.zeros(b, len(s.statistics)) for s in models.rewards},
        truncated=torch.tensor([completion.truncated for completion in completions]),
    )
    for row, completion in enumerate(completions):
        rollout.logprobs[row, mask[row]] = torch.tensor(completion.logprobs)
        rollout.entropies[row, mask[row]] = torch.tensor(completion.entropies)
        if completion.values:
            rollout.values[row, mask[row]] = torch.tensor(completion.values)

    def logprobs_of(model: nn.Module, layers: nn.Module, batch: Batch) -> Tensor:
        return completion_logprobs(layers, vocabulary_head(model), batch, config.temperature)

    def fill(target: Tensor, role: str | None, compute: Callable[..., Tensor]) -> None:
        with models.using(role) as layers:
            for rows, batch in batches(models, rollout, torch.arange(b), role, config, folder):
                found = compute(layers, batch=batch).float().cpu()
                if target.dim() == 2:  # (B, T), of which the tokens of these rows were found
                    found = target[rows].masked_scatter(mask[rows], found)
                target[rows] = found

    fill(rollout.ref_logprobs, None, partial(logprobs_of, models.model))
    if not models.is_exact:
        fill(rollout.logprobs, "policy", partial(logprobs_of, models.writer))
    has_critic = with_values and config.critic != "none"
    if has_critic and (config.critic != "head" or not models.is_exact):
        role = "policy" if config.critic == "head" else "value"
        fill(rollout.values, role, partial(state_values, head=models.value_head))
    said = conversations(models, prompts, completions)
    for source in models.rewards:
        scores = rollout.raw_scores[source.name]  # (B, M)
        if source.score_text:
            scores[:] = source.score_text(said, folder.should_stop)
        for place, member in enumerate(source.members):
            fill(scores[:, place], member.adapter, partial(score, head=member.head))
    return rollout


def conversations(
    models: Models, prompts: list[EncodedPrompt], completions: list[Sampled]
) -> list[Conversation]:
    """As text, for the sources of rewards that are not on the shared base."""
    return [
        Conversation(prompt.line.messages, decode(models.tokenizer, c.ids), len(c.ids), c.truncated)
        for prompt, c in zip(prompts, completions, strict=True)
    ]


def state_values(layers: nn.Module, head: nn.Module, batch: Batch) -> Tensor:
    """The critic's value of the state before each completion token, (N,)."""
    return head(hidden_states(layers, batch)[batch.before])


def batches(
    models: Models,
    rollout: Rollout,
    rows: Tensor,
    role: str | None,
    config: PPOConfig,
    folder: RunFolder,
) -> Iterator[tuple[Tensor, Batch]]:
    """The rows in micro-batches, as the layers of the role want them: as the trunk's states, or as
    tokens. Raises Stopped before the next one if that was asked for."""
    reuse = models.reuses_trunk(role)
    for group in micro_batches(rows, rollout, config.micro_batch_tokens):
        if folder.should_stop():
            raise Stopped
        completions = [rollout.completions[row] for row in group.tolist()]
        yield (
            group,
            collate(
                [rollout.prompts[row].ids for row in group.tolist()],
                [completion.ids for completion in completions],
                models.device,
                [c.states for c in completions if c.states is not None] if reuse else None,
            ),
        )


def micro_batches(rows: Tensor, rollout: Rollout, tokens: int) -> Iterator[Tensor]:
    """The rows in groups of similar length: bounded memory, the same sums."""
    lengths = [len(rollout.prompts[r].ids) + len(rollout.completions[r].ids) for r in rows.tolist()]
    for group in similar_lengths(lengths, tokens):
        yield rows[group]


class Weighed(NamedTuple):
    """What the sources of rewards say of a rollout."""

    parts: dict[str, Tensor]  # (B,) the normalised, clipped scores by source
    scores: Tensor  # (B,) their weighted sum, with the penalty for missing ends
    disagreement: Tensor | None  # (B,) of the first source with several members


def weigh(rollout: Rollout, sources: Sequence[Source], config: PPOConfig) -> Weighed:
    members = {
        source.name: normalise_scores(rollout.raw_scores[source.name], source.statistics)
        for source in sources
    }  # (B, M) each
    parts = {source.name: source.combine(members[source.name]) for source in sources}
    ensemble = next((scores for scores in members.values() if scores.shape[1] > 1), None)
    scores = charge_missing_end(
        total_scores(list(parts.values()), [source.weight for source in sources]),
        rollout.mask.sum(1),
        rollout.truncated,
        mode=config.missing_eos,
        penalty=config.missing_eos_penalty,
        limit=config.max_new_tokens,
        ramp=config.missing_eos_ramp,
    )
    return Weighed(parts, scores, None if ensemble is None else disagreement_of(ensemble))


def make_targets(
    rollout: Rollout, sources: Sequence[Source], kl_coefficient: float, config: PPOConfig
) -> Targets:
    """Scores to rewards to advantages and returns."""
    parts, scores, disagreement = weigh(rollout, sources, config)
    is_in_loss = config.estimator == "grpo"
    rewards = shape_rewards(
        scores,
        rollout.logprobs,
        rollout.ref_logprobs,
        rollout.mask,
        0.0 if is_in_loss else kl_coefficient,
        config.kl_estimator,
    )
    advantages, returns = advantages_of(rewards, rollout, config)
    kl_in_loss = kl_coefficient if is_in_loss else 0.0
    return Targets(parts, scores, rewards, advantages, returns, disagreement, kl_in_loss)


def advantages_of(rewards: Tensor, rollout: Rollout, config: PPOConfig) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (B, T) each, from rewards (B, T). Without a critic all tokens of a
    completion share one advantage, and there are no returns to predict."""
    if config.estimator == "gae":
        advantages, returns = estimate_advantages(
            rewards, rollout.values, rollout.mask, config.gamma, config.lam
        )
        return whiten(advantages, rollout.mask), returns
    totals, n = rewards.sum(1), config.completions_per_prompt
    if isinstance(config, GRPOConfig):
        of_completions = group_relative(totals, n, config.scale_advantages)
    else:
        of_completions = leave_one_out(totals, n)
    return of_completions.unsqueeze(1) * rollout.mask, torch.zeros_like(rewards)


# --- update -----------------------------------------------------------------------------------
Sums = dict[str, float]


def add(sums: Sums, **values: Tensor | float) -> None:
    for name, value in values.items():
        sums[name] += float(value)


def update(
    models: Models,
    state: State,
    rollout: Rollout,
    targets: Targets,
    config: PPOConfig,
    folder: RunFolder,
) -> dict[str, float]:
    """`epochs` passes in `minibatches` optimiser steps each, accumulated over micro-batches.

    If the policy has moved beyond `target_kl_update`, the optimiser steps that are left are not
    taken. The schedule counts them all the same: a step's learning rate depends on its number only.
    """
    models.train()
    sums: Sums = defaultdict(float)  # over the tokens of all updates
    norms: dict[str, float] = {}
    left = config.epochs * config.minibatches
    for minibatch in minibatches(len(rollout.completions), state.step, config):
        state.optimizer.zero_grad(set_to_none=False)
        moved = None
        with suppress(Stopped):  # the other processes have to hear of it
            moved = accumulate(models, rollout, targets, minibatch, config, folder, sums)
        parallel.sum_gradients(models.parameters(), is_stopped=moved is None)
        far = config.target_kl_update
        if far is not None and sum(parallel.gather(moved)) > far:
            break
        norms = optimiser_step(models, state, config)
        left -= 1
    for _ in range(left):
        state.scheduler.step()
    total = parallel.add_up(dict(sums))
    n = max(1.0, total["tokens"])
    return {
        "policy/loss": total["policy_loss"] / n,
        "policy/clip_fraction": total["clipped"] / n,
        "policy/approx_kl": total["approx_kl"] / n,
        "policy/ratio_first": total["ratio_first"],
        "policy/updates_left_out": left,
        "policy/approx_kl_first": total["approx_kl_first"],
        "policy/clip_fraction_first": total["clip_fraction_first"],
        "policy/bits": torch.finfo(models.dtype).bits,
        "value/loss": total.get("value_loss", 0.0) / n,
        "value/clip_fraction": total.get("value_clipped", 0.0) / n,
        "log_ratio_clamped": total["clamped"],
        "nonfinite_steps": state.nonfinite_steps,
        **norms,
    }


def minibatches(n: int, step: int, config: PPOConfig) -> Iterator[Tensor]:
    """The rows of each optimiser step: every pass in an order of its own."""
    for epoch in range(config.epochs):
        order = torch.randperm(n, generator=seeded(config, 2, step, epoch))
        yield from order.chunk(config.minibatches)


def accumulate(
    models: Models,
    rollout: Rollout,
    targets: Targets,
    minibatch: Tensor,
    config: PPOConfig,
    folder: RunFolder,
    sums: Sums,
) -> float:
    """Add up the minibatch's gradient over micro-batches: the policy's, then a separate critic's.

    Token losses are divided by the tokens of the whole minibatch: the gradient is the same
    whatever the size of the micro-batches and the number of processes. Gives back this process's
    share of how far the policy is from the one that sampled: KL in nats per token.
    """
    tokens = int(rollout.mask[minibatch].sum())
    mine = parallel.share(minibatch)
    moved = 0.0

    def on(values: Tensor, rows: Tensor) -> Tensor:
        return values[rows][rollout.mask[rows]].to(models.device)  # (N,)

    def add_value(values: Tensor, rows: Tensor) -> Tensor:
        value = value_loss(
            values,
            on(rollout.values, rows),
            on(targets.returns, rows),
            config.value_clip_range,
        )
        add(sums, value_loss=value.loss.detach(), value_clipped=value.clipped)
        return config.value_coefficient * value.loss / tokens

    with models.using("policy") as layers:
        for rows, batch in batches(models, rollout, mine, "policy", config, folder):
            hidden = hidden_states(layers, batch)[batch.before]  # (N, D)
            logprobs, _ = token_logprobs(
                hidden, vocabulary_head(models.writer), batch.targets, config.temperature
            )
            policy = policy_loss(
                logprobs,
                on(rollout.logprobs, rows),
                on(targets.advantages, rows),
                config.clip_range,
                config.log_ratio_clamp,
                clip_range_high=config.clip_range_high,
                dual_clip=config.dual_clip,
            )
            loss = policy.loss / tokens
            if targets.kl_in_loss:
                ref = on(rollout.ref_logprobs, rows)
                distance = kl_loss(logprobs, ref, config.log_ratio_clamp)
                loss = loss + targets.kl_in_loss * distance / tokens
            if config.critic == "head":
                loss = loss + add_value(models.value_head(hidden), rows)
            loss.backward()
            if not sums["tokens"]:  # before any update; the processes' shares are added up
                n = len(batch.targets) * parallel.count()
                add(
                    sums,
                    ratio_first=policy.ratio.sum() / n,
                    approx_kl_first=policy.approx_kl / n,
                    clip_fraction_first=policy.clipped / n,
                )
            moved += float(policy.approx_kl) / tokens
            add(
                sums,
                tokens=len(batch.targets),
                policy_loss=policy.loss.detach(),
                clipped=policy.clipped,
                approx_kl=policy.approx_kl,
                clamped=policy.clamped,
            )
    if config.critic in ("adapter", "full"):
        with models.using("value") as layers:
            for rows, batch in batches(models, rollout, mine, "value", config, folder):
                add_value(state_values(layers, models.value_head, batch), rows).backward()
    return moved


def optimiser_step(models: Models, state: State, config: PPOConfig) -> dict[str, float]:
    """Clip, then step; a gradient that is not finite is thrown away before it touches a weight.

    Raises RunError after `max_nonfinite_steps` of those in a row.
    """
    policy_norm = torch.nn.utils.clip_grad_norm_(models.policy_parameters(), config.max_grad_norm)
    value_norm = torch.nn.utils.clip_grad_norm_(models.value_parameters(), config.max_grad_norm)
    if torch.isfinite(policy_norm) and torch.isfinite(value_norm):
        state.optimizer.step()
        state.nonfinite_in_a_row = 0
    else:
        state.nonfinite_steps += 1
        state.nonfinite_in_a_row += 1
    if state.nonfinite_in_a_row >= config.max_nonfinite_steps:
        raise RunError(
            f"The gradient was not finite {state.nonfinite_in_a_row} times in a row at step "
            f"{state.step + 1}. The weights of the last checkpoint are intact. Lower the learning "
            f"rate ({config.learning_rate:g}) or raise the KL coefficient "
            f"({config.kl_coefficient:g}).",
            DIVERGED,
        )
    state.scheduler.step()
    return {"grad_norm/policy": float(policy_norm), "grad_norm/value": float(value_norm)}


# --- training ---------------------------------------------------------------------------------
def train(
    models: Models,
    prompts: list[EncodedPrompt],
    config: PPOConfig,
    folder: RunFolder,
    held_out: Sequence[EncodedPrompt] = (),
) -> State:
    """Roll out, score, shape rewards, estimate advantages, update; until `steps` are done."""
    state = make_state(models, config)
    if checkpoints := folder.checkpoints():
        restore(models, state, checkpoints[-1][1])
    if state.step and not state.evaluations:  # a checkpoint of before there were evaluations
        held_out = ()
    if held_out and not state.evaluations:
        folder.metrics(0, evaluate(models, held_out, state, config, folder))
    seconds: list[float] = []
    while state.step < config.steps:
        began = time.monotonic()
        # A step that is stopped midway is done again from here, if not from where it can be had.
        is_kept = state.step == 0 or state.step in dict(folder.checkpoints())
        kept = copied(snapshot(models, state)) if folder.is_writer and not is_kept else None
        try:
            metrics = train_step(models, state, prompts, config, folder)
            state.step += 1
            if held_out and is_due(state.step, config):
                metrics |= evaluate(models, held_out, state, config, folder)
        except Stopped:
            if kept:
                save_checkpoint(kept, folder)
            raise
        folder.metrics(state.step, metrics)
        seconds.append(time.monotonic() - began)
        left = (config.steps - state.step) * sum(seconds[-5:]) / len(seconds[-5:])
        folder.progress(state.step, config.steps, eta_seconds=left)
        if state.step % config.checkpoint_every == 0 or state.step == config.steps:
            folder.phase("checkpoint")
            save_checkpoint(snapshot(models, state), folder)
            remove_beaten(state.evaluations, folder)
    return state


def train_step(
    models: Models,
    state: State,
    prompts: list[EncodedPrompt],
    config: PPOConfig,
    folder: RunFolder,
) -> dict[str, float]:
    chosen = prompts_of_step(prompts, state.step, config)
    rollout, seconds = make_rollout(models, chosen, config, state.step, folder)
    targets = make_targets(rollout, models.rewards, state.kl_coefficient, config)
    report_rollout(models, rollout, targets, state.step + 1, config, folder)
    folder.phase("update")
    scored = time.monotonic()
    metrics = rollout_metrics(rollout, targets, state)
    metrics |= update(models, state, rollout, targets, config, folder)
    metrics |= seconds | {"seconds/update": time.monotonic() - scored}
    if config.critic == "none":
        metrics = {name: v for name, v in metrics.items() if "value" not in name}
    if config.target_kl is not None:
        state.kl_coefficient = adapt_kl_coefficient(
            state.kl_coefficient,
            metrics["kl/k1"],
            target=config.target_kl,
            completions=config.batch_size,
            horizon=config.kl_horizon,
        )
    if state.first_score is None:
        state.first_score = metrics["score/mean"]
    return metrics


# --- evaluation -------------------------------------------------------------------------------
def evaluate(
    models: Models,
    held_out: Sequence[EncodedPrompt],
    state: State,
    config: PPOConfig,
    folder: RunFolder,
) -> dict[str, float]:
    """Answer the held-out prompts, with the same random numbers each time, and keep the policy if it
    is the best so far. The price of the KL is the configured one, also where it adapts."""
    config = replace(config, completions_per_prompt=1)
    size = config.batch_size // parallel.count() * parallel.count()
    means, sources = [], []
    for start in range(0, len(held_out), size):
        chosen = held_out[start : start + size]
        seed = -1 - start  # of no step
        rollout, _ = make_rollout(models, chosen, config, seed, folder, with_values=False)
        parts, scores, _ = weigh(rollout, models.rewards, config)
        kl = kl_estimates(rollout.logprobs, rollout.ref_logprobs, rollout.mask)
        means.append(torch.stack([scores, kl.k1, kl.k3, rollout.mask.sum(1).float()]))
        sources.append(torch.stack(list(parts.values())))
    measured = torch.cat(means, 1)  # (4, held-out prompts)
    score, k1, k3, length = measured.mean(1).tolist()
    found = Evaluation(
        state.step, score - config.kl_coefficient * k1, score, k1, k3, length,
        kl_se=standard_error(measured[1].unsqueeze(1)),
        parts=dict(zip(parts, torch.cat(sources, 1).mean(1).tolist(), strict=True)),
    )  # fmt: skip
    state.evaluations.append(found)
    if config.keep == "best" and folder.is_writer and best(state.evaluations) is found:
        with writing_folder(folder_of(found, folder)) as path:
            save_policy(models, path)
    return found.metrics


# --- the run ----------------------------------------------------------------------------------
def run(
    config: PPOConfig, folder: RunFolder, learn: Callable[..., State] = train
) -> dict[str, Any]:
    """prompts.jsonl and a reward model in, artifact/ with the policy out: an adapter, or a model.

    `learn` in the way of `train`, or of group_trl.train.
    """
    if (size := config.batch_size // config.minibatches) < parallel.count():
        raise RunError(
            f"{parallel.count()} processes cannot share minibatches of {size} completions: raise "
            "batch_size, lower minibatches, or start fewer processes."
        )
    if (n := config.batch_size // config.completions_per_prompt) < parallel.count():
        raise RunError(
            f"{parallel.count()} processes cannot share {n} prompts: raise batch_size, lower "
            "completions_per_prompt, or start fewer processes."
        )
    limit = at_most(config.max_prompt_tokens, config.model, config.max_new_tokens)
    config = replace(config, max_prompt_tokens=limit)
    folder.phase("loading the models")
    models = load_models(config)
    savings = savings_of(models, config)
    tell_savings(savings, folder)
    prompts, too_long = encode_prompts(
        models.tokenizer, read_prompts(folder.path / config.prompts), config.max_prompt_tokens
    )
    for source in models.rewards:
        if source.memory_mib is not None:
            folder.metrics(0, {f"memory_mib/{source.name}": source.memory_mib})
    held_out, held_out_too_long = read_held_out(models.tokenizer, config, folder)
    state = learn(models, prompts, config, folder, held_out)
    top = best(state.evaluations)
    kept = top and (top if config.keep == "best" else state.evaluations[-1])
    result = (
        outcome(state.evaluations, kept)
        if kept
        else measure(models, prompts, state, config, folder)
    )
    if folder.is_writer:
        with folder.writing_artifact() as artifact:
            if kept and config.keep == "best":
                shutil.copytree(folder_of(kept, folder), artifact, dirs_exist_ok=True)
            else:
                save_policy(models, artifact)
    return {
        "train": config.train,
        "steps": state.step,
        "completions": state.step * config.batch_size,
        "n_prompts": len(prompts),
        "left_out": {"too_long": too_long, "held_out_and_too_long": held_out_too_long},
        "nonfinite_steps": state.nonfinite_steps,
        "n_held_out": len(held_out),
        "best_step": top.step if top else None,
        "savings": savings.to_json(),
        **result,
    }


def save_policy(models: Models, folder: Path) -> None:
    if models.own_policy:
        models.own_policy.save_pretrained(folder)
        models.tokenizer.save_pretrained(folder)
    else:
        save_adapter(models.model, "policy", folder)


def measure(
    models: Models,
    prompts: list[EncodedPrompt],
    state: State,
    config: PPOConfig,
    folder: RunFolder,
) -> dict[str, Any]:
    """Without held-out prompts: the finished policy on one more rollout, which it does not learn
    from."""
    folder.phase("measuring the result")
    chosen = prompts_of_step(prompts, config.steps, config)
    rollout, _ = make_rollout(models, chosen, config, config.steps, folder)
    targets = make_targets(rollout, models.rewards, config.kl_coefficient, config)
    found = rollout_metrics(rollout, targets, state)
    k1 = kl_estimates(rollout.logprobs, rollout.ref_logprobs, rollout.mask).k1
    return {
        "kept_step": state.step,
        "score_first": state.first_score,
        "score_last": found["score/mean"],
        "kl": found["kl/k1"],
        "kl_se": standard_error(k1.view(-1, config.completions_per_prompt)),
        "kl_k3": found["kl/k3"],
        "length_last": found["length/mean"],
        "note": "No held-out prompts were evaluated, so the last step was kept.",
    }

"""The arithmetic of PPO: pure functions on tensors, no device, no configuration.

Notation: B completions of up to T tokens. `True` in a mask means "counts"; what padding positions
hold never reaches a result. References: PPO (Schulman et al. 2017), GAE (Schulman et al. 2016),
RLHF (Ziegler et al. 2019), http://joschu.net/blog/kl-approx.html for the KL estimators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions that count, a scalar; 0 if there is none."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over all positions that count; 0 elsewhere.

    The variance is the biased one, with a floor, so that a batch of one token stays finite.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return ((values - mean) / (variance + 1e-8).sqrt()).masked_fill(~mask, 0.0)


def repeated_share(tokens: Sequence[int], n: int = 3) -> float:
    """Share of a text's n-grams that it has had before; 0 if it is shorter than two of them.

    Example: [1, 2, 3, 1, 2, 3] has four 3-grams, of which the last repeats the first: 0.25.
    """
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class KL(NamedTuple):
    """Estimates of KL(policy ‖ reference) per completion, each (B,), in nats.

    With r = reference / policy on tokens sampled from the policy: k1 = -log r is unbiased and may
    be negative on a sample, k2 = ½(log r)² is biased with low variance, k3 = (r - 1) - log r is
    unbiased and never negative.
    """

    k1: Tensor
    k2: Tensor
    k3: Tensor


def kl_of_tokens(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> KL:
    """Each token's share of the estimates: (B, T), (B, T), (B, T) -> three (B, T), 0 at padding."""
    log_r = (ref_logprobs - logprobs).masked_fill(~mask, 0.0)
    return KL(k1=-log_r, k2=0.5 * log_r**2, k3=log_r.exp() - 1 - log_r)


def kl_estimates(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> KL:
    """(B, T), (B, T), (B, T) -> three (B,)."""
    return KL(*(tokens.sum(1) for tokens in kl_of_tokens(logprobs, ref_logprobs, mask)))


def standard_error(values: Tensor) -> float | None:
    """Of the mean of what was measured on P prompts, n times on each, (P, n). Answers to one prompt are alike,
    so it is the prompts' means that count; None of a single prompt.

    Example: [[1, 3], [4, 4]] has the means 2 and 4, whose error is √2 / √2 = 1.
    """
    means = values.mean(1)
    return float(means.std() / math.sqrt(len(means))) if len(means) > 1 else None


def normalise_scores(scores: Tensor, statistics: Sequence[tuple[float, float]]) -> Tensor:
    """Raw scores of the M members of one source, (B, M), each in its own standard deviations.

    `statistics` are the members' means and deviations.
    """
    columns = zip(scores.unbind(1), statistics, strict=True)
    return torch.stack([(column - mean) / max(std, 1e-6) for column, (mean, std) in columns], 1)


def combine_members(scores: Tensor, ensemble: str, uncertainty_coefficient: float) -> Tensor:
    """What the M members of a reward model say together, (B, M) -> (B,). One member says the same
    in all modes, to the last bit.

    "mean"; "worst", the lowest; "uncertainty", the mean less the coefficient times the
    disagreement. They are MO, WCO and UWO of Coste et al. 2023 (arXiv 2310.02743), but that theirs
    subtracts the variance: the deviation is in the score's own unit.

    Example: members that say 1 and 3, with a coefficient of 0.5, give 2, 1 and 2 - 0.5 · 1 = 1.5.
    """
    if ensemble == "worst":
        return scores.amin(1)
    mean = scores.mean(1)
    if ensemble == "uncertainty":
        return mean - uncertainty_coefficient * disagreement_of(scores)
    return mean


def disagreement_of(scores: Tensor) -> Tensor:
    """Standard deviation over the members, (B, M) -> (B,); 0 with one member."""
    return scores.std(1, correction=0)


def total_scores(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum of the normalised scores of each source, (B,) each, (B,)."""
    return torch.stack([weight * part for part, weight in zip(parts, weights, strict=True)]).sum(0)


def charge_missing_end(
    scores: Tensor,
    lengths: Tensor,
    truncated: Tensor,
    *,
    mode: str,
    penalty: float,
    limit: int,
    ramp: float,
) -> Tensor:
    """Scores, (B,), after what a completion pays for not ending by itself within `limit` tokens.

    `truncated` says which ones ended with none of the stop tokens. Modes:
    "penalty": these lose the penalty; running to the limit is never the cheaper way.
    "replace": their score is -penalty, whatever the reward model says of half an answer (the -1 of
    Huang et al. 2023 and 2024).
    "ramp": whoever reaches into the last part of the limit pays, whether it ends there or not:
    penalty · max(0, (length - (1 - ramp) · limit) / (ramp · limit)). It is the soft overlong
    punishment of DAPO (arXiv 2503.14476, equation 13).

    Example of the ramp: penalty 1, limit 100, ramp 0.2: 80 tokens pay 0, 90 pay 0.5, 100 pay 1.
    """
    if mode == "penalty":
        return scores - penalty * truncated.float()
    if mode == "replace":
        return scores.masked_fill(truncated, -penalty)
    free = (1 - ramp) * limit
    return scores - penalty * ((lengths - free) / (limit - free)).clamp(min=0.0)


def shape_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    kl_coefficient: float,
    kl_estimator: str = "k1",
) -> Tensor:
    """Per-token rewards, (B, T): -β·(log π - log π_ref) everywhere, plus the score (B,) at the last
    real token, which is the end token or where the completion was cut off.

    k1 is the only estimator whose expected gradient, as a reward, is the KL's own; the others
    punish distance to either side.
    """
    kl = getattr(kl_of_tokens(logprobs, ref_logprobs, mask), kl_estimator)
    rewards = -kl_coefficient * kl
    last = mask.sum(1) - 1
    rewards[torch.arange(len(rewards)), last] += scores
    return rewards


def estimate_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, each (B, T), 0 at padding.

    Nothing is bootstrapped beyond the last real token, also where a completion was cut off.
    """
    values = values.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(rewards)
    carried = rewards.new_zeros(len(rewards))
    next_value = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        # δ_t = r_t + γ V_{t+1} - V_t;   A_t = δ_t + γ λ A_{t+1}
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        carried = (delta + gamma * lam * carried) * mask[:, t]
        advantages[:, t] = carried
        next_value = values[:, t]
    return advantages, (advantages + values).masked_fill(~mask, 0.0)


class PolicyLoss(NamedTuple):
    loss: Tensor  # scalar, summed over tokens: the caller divides by the minibatch's tokens
    ratio: Tensor  # (N,), without gradient
    clipped: Tensor  # tokens where a clip decided the objective
    approx_kl: Tensor  # k3 of new against old, summed over tokens
    clamped: Tensor  # tokens whose log-ratio was clamped


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_range: float,
    log_ratio_clamp: float,
    *,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """The clipped surrogate objective, PPO equation 7, negated. All inputs (N,), of real tokens.

    `clip_range_high` is the range upwards where it differs (clip-higher of DAPO, arXiv 2503.14476).
    `dual_clip` = c > 1 holds the loss of a bad token (A < 0) at c·|A|, however much likelier it
    became (Ye et al. 2020, arXiv 1912.09729, equation 5).
    """
    log_ratio = logprobs - old_logprobs
    clamped = (log_ratio.detach().abs() > log_ratio_clamp).sum()
    log_ratio = log_ratio.clamp(-log_ratio_clamp, log_ratio_clamp)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    high = clip_range if clip_range_high is None else clip_range_high
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + high)
    losses = torch.maximum(unclipped, clipped)
    is_clipped = clipped > unclipped
    if dual_clip is not None:
        ceiling = torch.where(advantages < 0, -dual_clip * advantages, torch.inf)
        is_clipped = is_clipped | (losses > ceiling)
        losses = torch.minimum(losses, ceiling)
    with torch.no_grad():
        # KL(old ‖ new) on tokens of the old policy: r = new / old, k3 = (r - 1) - log r
        approx_kl = (ratio - 1 - log_ratio).sum()
    return PolicyLoss(losses.sum(), ratio.detach(), is_clipped.sum(), approx_kl, clamped)


class ValueLoss(NamedTuple):
    loss: Tensor  # scalar, summed over tokens
    clipped: Tensor  # tokens where the clipped loss was the larger one


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None
) -> ValueLoss:
    """½·max((V - R)², (V_clipped - R)²), the value kept within clip_range of the old one. (N,)"""
    squared = (values - returns) ** 2
    if clip_range is None:
        return ValueLoss(0.5 * squared.sum(), torch.zeros((), dtype=torch.long))
    near = old_values + (values - old_values).clamp(-clip_range, clip_range)
    squared_near = (near - returns) ** 2
    return ValueLoss(
        0.5 * torch.maximum(squared, squared_near).sum(), (squared_near > squared).sum()
    )


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the tokens that count.

    1 is a perfect critic, 0 one that says the mean. NaN if the returns do not vary.
    """
    returns, values = returns[mask], values[mask]
    variance = returns.var(correction=0)
    if variance < 1e-12:
        return float("nan")
    return float(1 - (returns - values).var(correction=0) / variance)


def adapt_kl_coefficient(
    coefficient: float, kl: float, *, target: float, completions: int, horizon: int
) -> float:
    """Proportional controller of Ziegler et al. 2019, § 2.2: the error is clipped to ±0.2.

    Example: at 0.1, with a KL of twice the target, 100 completions and a horizon of 1000:
    0.1 · (1 + 0.2 · 100 / 1000) = 0.102.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * completions / horizon)


def best_of_n_kl(n: int) -> float:
    """KL of "the best of n completions" from the policy they are sampled from, in nats.

    log n - (n - 1) / n (Stiennon et al. 2020, appendix G.3): exact where no completion comes twice
    and no two score the same, else more than there is (Beirami et al. 2024, arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n

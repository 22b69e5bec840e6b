"""What votes cost under a reward model: the loss of a pair, by hand-checkable formulas.

Δ is the score of `chosen` less that of `rejected`; p the share of the votes that prefer `chosen`, a tie
counting half; t the share of ties. All tensors are (B,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf.training.config import RewardModelConfig


def soft_loss(margins: Tensor, p_chosen: Tensor) -> Tensor:
    """-(p log σ(Δ) + (1 - p) log σ(-Δ)): of n independent votes under Bradley-Terry, over n."""
    return -(p_chosen * F.logsigmoid(margins) + (1 - p_chosen) * F.logsigmoid(-margins))


def davidson_loss(margins: Tensor, p_chosen: Tensor, tie_share: Tensor, tie: Tensor) -> Tensor:
    """Ties as a third outcome. With ν = exp(tie), λ = exp(score): P(tie) = ν √(λ₁λ₂) / z,
    P(win) = λ₁ / z, z = λ₁ + λ₂ + ν √(λ₁λ₂) (Davidson 1970).

    `tie` is a scalar. At Δ = 0 the share of ties is ν / (2 + ν).
    """
    half = margins / 2
    z = torch.stack([half, -half, tie.expand_as(half)]).logsumexp(0)
    wins, losses = outcomes(p_chosen, tie_share)
    return z - wins * half + losses * half - tie_share * tie


def rao_kupper_loss(margins: Tensor, p_chosen: Tensor, tie_share: Tensor, tie: Tensor) -> Tensor:
    """A win needs a lead: with log ν = softplus(tie) > 0, P(win) = σ(Δ - log ν), and
    P(tie) = (ν² - 1) σ(Δ - log ν) σ(-Δ - log ν) (Rao and Kupper 1967)."""
    lead = F.softplus(tie)
    win, loss = F.logsigmoid(margins - lead), F.logsigmoid(-margins - lead)
    wins, losses = outcomes(p_chosen, tie_share)
    return -(wins * win + losses * loss + tie_share * (log_expm1(2 * lead) + win + loss))


def log_expm1(x: Tensor) -> Tensor:
    """log(exp(x) - 1) of x > 0."""
    return x + torch.log(-torch.expm1(-x))


def outcomes(p_chosen: Tensor, tie_share: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the votes for `chosen` and for `rejected`, without the ties."""
    return p_chosen - tie_share / 2, 1 - p_chosen - tie_share / 2


def first_tie(kind: str, tie_shares: Sequence[float]) -> float:
    """Where the tie parameter starts: as many ties as there are, if all scores were equal.

    Davidson: ν = 2t / (1 - t). Rao-Kupper, at Δ = 0: t = (ν - 1) / (ν + 1).
    """
    share = min(max(sum(tie_shares) / max(1, len(tie_shares)), 0.01), 0.9)
    if kind == "davidson":
        return math.log(2 * share / (1 - share))
    lead = math.log((1 + share) / (1 - share))
    return math.log(math.expm1(lead))  # the inverse of softplus


def all_bad_losses(worth: Tensor, n_bad: Tensor, n_ranked: Tensor, level: Tensor) -> Tensor:
    """-(n_bad log P + n_ranked log(1 - P)) of each comparison, (C,): whoever judges it chooses between
    "none of these", worth exp(level), and ranking its answers, worth the sum of exp(score).

    P = exp(level) / (exp(level) + Σ exp(score)) = σ(level - worth), `worth` the logarithm of the sum.
    """
    return -(n_bad * F.logsigmoid(level - worth) + n_ranked * F.logsigmoid(worth - level))


def first_level(n_answers: float, bad_share: float) -> float:
    """Where the level starts: as many judgments say "all bad" of so many answers, if all scores were 0."""
    share = min(max(bad_share, 0.01), 0.9)
    return math.log(n_answers * share / (1 - share))


def smoothed(p_chosen: Tensor, epsilon: float) -> Tensor:
    """Nobody is surer than 1 - epsilon: votes are noisy, even where all agree."""
    return p_chosen.clamp(epsilon, 1 - epsilon)


def vote_losses(
    margins: Tensor, p_chosen: Tensor, tie_share: Tensor, strength: Tensor,
    config: RewardModelConfig, tie: Tensor | None,
) -> Tensor:  # fmt: skip
    """The loss of each pair, or of each vote, as the settings say, (B,). `strength` is how strongly
    people prefer `chosen`, `tie` the learned parameter of ties, if they are an outcome."""
    if config.label_smoothing:
        p_chosen = smoothed(p_chosen, config.label_smoothing)
    margins = margins - config.margin_coefficient * strength
    if tie is None:
        return soft_loss(margins, p_chosen)
    loss = davidson_loss if config.ties == "davidson" else rao_kupper_loss
    return loss(margins, p_chosen, tie_share, tie)

"""Advantages of completions among those of the same prompt, which need no critic: RLOO and GRPO.

Pure functions on tensors, no configuration. B completions; the n of a prompt stand next to each other.
References: RLOO (Ahmadian et al. 2024, arXiv 2402.14740), GRPO (Shao et al. 2024, arXiv 2402.03300).
"""

from __future__ import annotations

from torch import Tensor

STD_FLOOR = 1e-4  # as in TRL: a group whose scores are all alike has advantages of 0


def leave_one_out(rewards: Tensor, n: int) -> Tensor:
    """Each reward less the mean of the n - 1 others of its prompt, (B,) -> (B,). Raises ValueError for
    n < 2: one completion alone has nothing to be compared with.

    Example: rewards 1, 2, 6 of one prompt -> 1 - 4, 2 - 3.5, 6 - 1.5 = -3, -1.5, 4.5.
    """
    groups = _groups(rewards, n)
    others = (groups.sum(1, keepdim=True) - groups) / (n - 1)
    return (groups - others).flatten()


def group_relative(scores: Tensor, n: int, scale: str) -> Tensor:
    """Each score less the mean of its prompt's n, (B,) -> (B,), in standard deviations of the "group"
    (GRPO), of the whole "batch" (Hu et al. 2025, arXiv 2508.08221), or as it is ("none", Dr. GRPO, Liu
    et al. 2025, arXiv 2503.20783). The deviations are those with n - 1.

    Example: scores 1, 3 of one prompt -> -1, 1; in deviations of the group, √2: -0.71, 0.71.
    """
    groups = _groups(scores, n)
    advantages = groups - groups.mean(1, keepdim=True)
    if scale == "group":
        advantages = advantages / (groups.std(1, keepdim=True) + STD_FLOOR)
    elif scale == "batch":
        advantages = advantages / (scores.std() + STD_FLOOR)
    return advantages.flatten()


def kl_loss(logprobs: Tensor, ref_logprobs: Tensor, clamp: float) -> Tensor:
    """k3 of the policy against the reference on the policy's own tokens, (N,), (N,) -> a scalar, summed
    over tokens, with its gradient: the term that GRPO adds to the loss in place of a reward.

    The log-ratio is clamped, so that one token that has become impossible does not end the run.
    """
    log_r = (ref_logprobs - logprobs).clamp(-clamp, clamp)
    return (log_r.exp() - 1 - log_r).sum()


def _groups(values: Tensor, n: int) -> Tensor:
    if n < 2:
        raise ValueError(f"{n} completion a prompt has no others to be compared with: 2 at least")
    return values.reshape(-1, n)

import pytest
import torch
from torch.testing import assert_close

from rlhf.training.group_advantages import group_relative, kl_loss, leave_one_out


def test_each_completion_is_compared_with_the_others_of_its_prompt():
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])

    assert leave_one_out(rewards, 3).tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]


def test_scores_are_relative_to_their_group_in_its_deviations_or_in_those_of_the_batch():
    scores = torch.tensor([1.0, 3.0, 0.0, 8.0])  # deviations √2 and √32, of all √(38 / 3)

    assert group_relative(scores, 2, "none").tolist() == [-1.0, 1.0, -4.0, 4.0]
    half = 0.5**0.5
    assert_close(
        group_relative(scores, 2, "group"),
        torch.tensor([-half, half, -half, half]),
        atol=1e-4,
        rtol=0,
    )
    of_batch = torch.tensor([-1.0, 1.0, -4.0, 4.0]) / (38 / 3) ** 0.5
    assert_close(group_relative(scores, 2, "batch"), of_batch, atol=1e-4, rtol=0)


def test_a_group_that_scores_alike_teaches_nothing():
    assert group_relative(torch.full((4,), 2.5), 4, "group").tolist() == [0.0] * 4


@pytest.mark.parametrize("advantages", [leave_one_out, lambda x, n: group_relative(x, n, "group")])
def test_one_completion_alone_has_nothing_to_be_compared_with(advantages):
    with pytest.raises(ValueError, match="2 at least"):
        advantages(torch.ones(3), 1)


def test_the_kl_of_the_loss_is_0_at_the_reference_and_pulls_towards_it():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    reference = torch.tensor([-1.0, -3.0])  # the second token has become likelier by e

    loss = kl_loss(logprobs, reference, clamp=20.0)
    loss.backward()

    assert loss.item() == pytest.approx(torch.tensor(-1.0).exp().item())  # (e⁻¹ - 1) + 1
    # d/dx (e^(r - x) - (r - x)) = 1 - e^(r - x)
    assert logprobs.grad.tolist() == pytest.approx([0.0, 1 - torch.tensor(-1.0).exp().item()])

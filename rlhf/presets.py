"""Settings of a PPO run that go together, by how much time one has. All else stays as it is."""

from __future__ import annotations

from typing import Any, NamedTuple


class Preset(NamedTuple):
    key: str
    label: str
    description: str
    settings: dict[str, Any]  # fields of PPOConfig


PRESETS = {
    preset.key: preset
    for preset in (
        Preset(
            "quick",
            "Quick look",
            "Few steps with a high learning rate: does anything move, and where to?",
            {
                "steps": 8, "batch_size": 16, "max_new_tokens": 48, "epochs": 1, "minibatches": 2,
                "learning_rate": 5e-4, "value_learning_rate": 5e-4, "kl_coefficient": 0.05,
                "critic": "head",
            },
        ),
        Preset(
            "careful",
            "Careful",
            "Small updates, and a KL of 6 nats that it holds to.",
            {
                "steps": 40, "batch_size": 32, "max_new_tokens": 64, "epochs": 2, "minibatches": 2,
                "learning_rate": 1e-4, "value_learning_rate": 2e-4, "kl_coefficient": 0.1,
                "target_kl": 6.0, "critic": "adapter",
            },
        ),
        Preset(
            "overnight",
            "Overnight",
            "Many steps on larger batches with half the learning rate: the least noise.",
            {
                "steps": 200, "batch_size": 64, "max_new_tokens": 128, "epochs": 2,
                "minibatches": 4, "learning_rate": 5e-5, "value_learning_rate": 1e-4,
                "kl_coefficient": 0.1, "target_kl": 6.0, "critic": "adapter",
                "checkpoint_every": 5,
            },
        ),
    )
}  # fmt: skip

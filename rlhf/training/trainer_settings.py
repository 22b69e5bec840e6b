"""What all of TRL's trainers are told here, whatever they train."""

from __future__ import annotations

from typing import Any

from rlhf.training.artifacts import RunFolder

MAX_REPORTS = 500  # of training metrics, so that a long run's page stays light


def shared_settings(folder: RunFolder, n_steps: int, seed: int, *, on_cpu: bool) -> dict[str, Any]:
    return {
        "output_dir": str(folder.path / ".trainer"),
        "lr_scheduler_type": "linear",
        # Precision is the weights' own (bf16 base, fp32 adapter on a GPU), as in PPO.
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": False,
        "logging_steps": max(1, n_steps // MAX_REPORTS),
        "logging_nan_inf_filter": False,  # a NaN ends the run, it is not averaged away
        "save_strategy": "no",  # the reporter says when
        "seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
    }


def on_one_gpu(settings: Any) -> Any:
    """This process uses one; TRL refuses to be given several."""
    if settings.n_gpu > 1:
        settings._n_gpu = 1
    return settings

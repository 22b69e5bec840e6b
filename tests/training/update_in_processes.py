"""One PPO update on a rollout that lies ready, by each of the processes that were launched.

    accelerate launch --config_file FILE -m tests.training.update_in_processes FOLDER

FOLDER holds rollout.pt: (config, rollout, targets). Each process leaves weights-RANK.pt there.
"""

import sys
from pathlib import Path

import torch

from rlhf.training import parallel, ppo
from rlhf.training.artifacts import RunFolder
from rlhf.training.ppo_models import load_models

path = Path(sys.argv[1])
config, rollout, targets = torch.load(path / "rollout.pt", weights_only=False)
models = load_models(config)
folder = RunFolder(path, is_writer=parallel.rank() == 0)
metrics = ppo.update(models, ppo.make_state(models, config), rollout, targets, config, folder)
weights = [parameter.detach() for parameter in models.parameters()]
torch.save((weights, metrics), path / f"weights-{parallel.rank()}.pt")

"""A cheap stand-in for the run of a trial: `python toy_trial.py TRIAL_DIR`.

It reports a held-out loss three times, (log10 of the learning rate + 4)² at the end. Its seed says how
it is to behave.
"""

import math
import sys
from pathlib import Path

from rlhf.training.artifacts import DISK_FULL, RunFolder

STOPS_THE_SEARCH, FAILS, FILLS_THE_DISK, IS_SILENT, IS_STUBBORN = 1, 2, 3, 4, 5


def main(folder):
    _, config = folder.read_config()
    seed, loss = config["seed"], (math.log10(config["learning_rate"]) + 4) ** 2
    if seed in (FAILS, FILLS_THE_DISK):
        folder.event("error", message="the toy is broken")
        return DISK_FULL if seed == FILLS_THE_DISK else 1
    done = max((step for step, _ in folder.checkpoints()), default=0)
    for step in range(done + 1, 4):
        if folder.should_stop():
            folder.write_result("stopped")
            return 0
        if seed != IS_SILENT:
            folder.metrics(10 * step, {"eval_loss": loss + 3 - step})
        with folder.writing_checkpoint(step):
            pass
        if seed == STOPS_THE_SEARCH and step == 2 and not done:
            (folder.path / "../../stop").resolve().touch()
            (folder.path / "stop").touch()
        if seed == IS_STUBBORN and step == 2:
            while not folder.should_stop():
                pass
    with folder.writing_artifact() as artifact:
        (artifact / "loss.txt").write_text(str(loss))
    folder.write_result("succeeded", started_at=done)
    return 0


if __name__ == "__main__":
    sys.exit(main(RunFolder(Path(sys.argv[1]))))

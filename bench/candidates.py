"""Candidates beside the base, by people and by a model as judge; and which passages words and an encoder find.

    python bench/candidates.py [--model tiny|DIR] [--encoder DIR …] [--judge DIR] [--asked 24] [--seed 0]

What is learnt and asked is as in bench/ways.py: short and polite answers to shipped prompts, and questions on
headings of docs/. Every candidate goes through the evaluation suite with the base as its rival, and a model that
judges their answers twice, either one first. The same pairs are judged, blind, by the simulated people of
bench/routes.py, who like short and polite answers and know nothing of the manual; a pair is what most of those
who vote on it say. Prints Markdown:

    a line per candidate     wins of its answers against the base's, a tie as half, by people, by the judge and by
                             what it leans to in both orders together; in how many pairs its verdict stays when
                             the answers change places; ROUGE-L of the answers on the manual against the first
                             sentence below the heading, and tokens of all answers
    a line per two voices    how far they agree on all of these pairs: right on those that the second one decides,
                             ties as half, and Cohen's kappa. The taste is what people would say without error
    a line per search        the passage with the sentence that a question is about, among the first ones found: for
                             the questions that the suite asks, of all files, and for those of questions.jsonl,
                             which ask for the same in other words; of these the right file too

Intervals are 95 %. --encoder is a folder with a sentence encoder, without it the model itself; of several the
first one quotes passages. --judge is the model itself if nothing is said. Without --model it is the embedded
one. Seconds go to standard error.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from bench.ppo import ROOT
from bench.routes import Trained, carry_out, draw_people, votes_on
from bench.supervised import model_folder
from bench.ways import (
    TINY,
    WHOLE,
    Bench,
    Made,
    docs,
    documents,
    passages,
    retrieval,
    rows_in,
    sections,
    similar,
)
from rlhf.taste import TIE_POINTS, taste
from rlhf.training.__main__ import prepare_libraries
from rlhf.training.retrieval import Collection
from rlhf.training.retrieval_metrics import Relevant, gains_of, hit_at_k, ndcg, reciprocal_rank
from rlhf.training.suite_metrics import (
    NEW,
    OLD,
    TIE,
    UNCLEAR,
    Estimate,
    accuracy,
    kappa_estimate,
    leans,
    mean,
    win_rate,
)

TUNED = "both, mixed"  # of bench/ways.py
FOUND = 10  # passages of which a search is measured
Candidate = Callable[[Bench, Path], Made]  # of the collection that an encoder finds passages in
CANDIDATES: dict[str, Candidate] = {
    "few-shot": lambda bench, _: similar(bench),
    "retrieval, by words": lambda bench, _: retrieval(bench, "by words", bench.base),
    "retrieval, by the encoder": lambda bench, dense: retrieval(
        bench, "by the encoder", bench.base, dense
    ),
    "tuned": lambda bench, _: bench.way(TUNED),
    "tuned, retrieval by words": lambda bench, _: retrieval(
        bench, "tuned, by words", bench.way(TUNED).reference
    ),
}


# --- who says what of a pair --------------------------------------------------------------------
class Said(NamedTuple):
    """Of a pair: the candidate's answer and the base's to one prompt. As the suite's outcomes."""

    judge: str
    leaning: str
    people: str
    taste: str


def judge_pairs(suite: Trained, seed: int) -> list[Said]:
    """Without pairs that everybody skipped."""
    rng = random.Random(seed)
    people = draw_people(rng)
    found = []
    for row in rows_in(suite.artifact / "answers.jsonl"):
        texts = [row["answer"], row["rival"]]
        if votes := votes_on(texts, people, rng):
            model = row["judge"], leans(row["leaning"])
            found.append(Said(*model, most_say(votes), true_outcome(*texts)))
    return found


def most_say(votes: Sequence[dict[str, str]]) -> str:
    """Example: of "chosen" (the candidate's), "tie" and "tie" -> "new"."""
    said = [vote["prefers"] for vote in votes]
    return outcome_of(said.count("chosen") - said.count("rejected"))


def true_outcome(new: str, old: str) -> str:
    difference = taste(new) - taste(old)
    return TIE if abs(difference) < TIE_POINTS else outcome_of(difference)


def outcome_of(difference: float) -> str:
    if not difference:
        return TIE
    return NEW if difference > 0 else OLD


# --- the candidates -----------------------------------------------------------------------------
def compare(bench: Bench, collection: Path, judge: str) -> list[Said]:
    """Prints the table; all pairs."""
    every: list[Said] = []
    judges = ["wins by the judge", "by its leaning", "stays"]
    head(["candidate", "wins by people", *judges, "ROUGE-L, manual", "tokens"])
    suite = evaluate(bench, "base")
    line(["base", "", "", "", "", *counted(bench, suite)])
    against = {"rival": bench.base, "judge": {"base": judge, "adapters": []}}
    for name, make in CANDIDATES.items():
        suite = evaluate(bench, name, make(bench, collection).reference, **against)
        pairs = judge_pairs(suite, bench.seed)
        every += pairs
        opinion = suite.result["judge"]
        wins = Estimate(**suite.result["metrics"]["judge_win_rate"])
        leaning = Estimate(**opinion["leaning"]["win_rate"])
        people = win_rate([said.people for said in pairs])
        rates = [share(each) for each in (people, wins, leaning)]
        line([name, *rates, f"{100 * stays(opinion):.0f} %", *counted(bench, suite)])
        told = {name: opinion[name] for name in ("n_pairs", "ties", "unclear", "says_a", "mass")}
        print(name, told, file=sys.stderr, flush=True)
    return every


def evaluate(
    bench: Bench, name: str, reference: dict[str, Any] | None = None, **settings: Any
) -> Trained:
    suite = bench.evaluate(name, reference or bench.base, max_prompt_tokens=1024, **settings)
    tell(f"suite of {name}", suite)
    return suite


def stays(opinion: dict[str, Any]) -> float:
    """The share of pairs of which the judge says the same, whichever answer stands first."""
    read = opinion["n_pairs"] - opinion["unclear"]
    return (read - opinion["ties"]) / read


def counted(bench: Bench, suite: Trained) -> list[str]:
    """Questions on the manual are asked after all others."""
    rows = rows_in(suite.artifact / "answers.jsonl")
    manual = [row["values"] for row in rows if row["id"] > len(bench.manners.asked)]
    rouge_l = mean([values["rouge_l"] for values in manual])
    return [interval(rouge_l, "{:.2f}"), f"{suite.result['metrics']['length']['value']:.0f}"]


VOICES = (
    ("judge", "people"), ("leaning", "people"), ("judge", "taste"), ("leaning", "taste"),
    ("people", "taste"),
)  # fmt: skip


def agreement(pairs: Sequence[Said]) -> None:
    head(["who", "right on", "decided pairs", "kappa"])
    for names in VOICES:
        said = [tuple(getattr(pair, name) for name in names) for pair in pairs]
        one, other = zip(*(both for both in said if UNCLEAR not in both), strict=True)
        right, kappa = accuracy(one, other), kappa_estimate(one, other)
        line([" and ".join(names), share(right), str(right.n), interval(kappa, "{:.2f}")])


# --- passages -----------------------------------------------------------------------------------
def index(bench: Bench, encoder: str, number: int) -> Path:
    folder = bench.place / f"index {number}"
    folder.mkdir()
    run = carry_out(folder, "index", {"collection": str(documents(bench)), "encoder": encoder})
    tell(f"index by {encoder}", run)
    return run.artifact


def asked() -> dict[str, list[Relevant]]:
    """Questions with what is to be found for them, by the kind of both."""
    files = [file for part in docs() for file in part]
    known = {(each.file, each.heading): each for each in sections(files)}
    rows = rows_in(ROOT / "bench" / "questions.jsonl")
    if unknown := [row for row in rows if (row["file"], row["heading"]) not in known]:
        sys.exit(
            f"No such section begins with a sentence: {unknown[0]}. See bench/questions.jsonl."
        )
    reworded = [(row["question"], known[row["file"], row["heading"]]) for row in rows]
    return {
        "heading, passage": [
            Relevant(each.question, having(each.sentence)) for each in known.values()
        ],
        "other words, passage": [
            Relevant(question, having(each.sentence)) for question, each in reworded
        ],
        "other words, file": [Relevant(question, [each.title]) for question, each in reworded],
    }


def having(sentence: str) -> list[str]:
    """Names of the passages."""
    return [each.name for each in passages() if sentence in " ".join(each.text.split())]


def measure_searches(collections: dict[str, Path]) -> None:
    head(["asked by, wanted", "n", "found by", "hit@1", "hit@5", "MRR", f"nDCG@{FOUND}"])
    for kind, rows in asked().items():
        for name, folder in collections.items():
            figures = found_by(Collection(folder), rows, by_words=name == BY_WORDS)
            line([kind, str(len(rows)), name, *(interval(each, "{:.2f}") for each in figures)])


BY_WORDS = "BM25"


def found_by(collection: Collection, rows: Sequence[Relevant], *, by_words: bool) -> list[Estimate]:
    gains = [
        gains_of(collection.find(row.question, FOUND, by_words=by_words), row.relevant)
        for row in rows
    ]
    ranked = zip(gains, rows, strict=True)
    return [
        mean([hit_at_k(each, 1) for each in gains]),
        mean([hit_at_k(each, 5) for each in gains]),
        mean([reciprocal_rank(each) for each in gains]),
        mean([ndcg(each, len(row.relevant), FOUND) for each, row in ranked]),
    ]


# --- the tables ---------------------------------------------------------------------------------
def head(names: Sequence[str]) -> None:
    print()
    line(names)
    line(["---"] * len(names))


def line(cells: Iterable[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def share(figure: Estimate) -> str:
    return interval(figure.scaled(lambda value: 100 * value), "{:.0f}", " %")


def interval(figure: Estimate, form: str, unit: str = "") -> str:
    """Example: "57 % (44 to 69)"."""
    if figure.value is None:
        return figure.reason
    value = form.format(figure.value) + unit
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({form.format(figure.low)} to {form.format(figure.high)})"


def tell(what: str, run: Trained) -> None:
    print(f"{what}: {run.seconds:.0f} s, {run.cpu_seconds:.0f} of a processor", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="A model folder, or tiny; else SmolLM2.")
    parser.add_argument("--encoder", nargs="+", default=[], metavar="DIR")
    parser.add_argument("--judge", default="", metavar="DIR")
    parser.add_argument("--asked", type=int, help="Prompts of either task that the suite asks.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prepare_libraries()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = str(model_folder(arguments.model, place))
        preset = TINY if arguments.model == "tiny" else WHOLE._replace(asked=24)
        if arguments.asked:
            preset = preset._replace(asked=arguments.asked)
        bench = Bench(model, place, preset, arguments.seed)
        bench.texts = []  # what is forgotten, bench/ways.py says
        collections = {BY_WORDS: documents(bench)}
        for number, encoder in enumerate(arguments.encoder or [model]):
            collections[Path(encoder).name] = index(bench, encoder, number)
        measure_searches(collections)
        dense = [*collections.values()][1]
        agreement(compare(bench, dense, arguments.judge or model))


if __name__ == "__main__":
    main()

"""Model cards: what a version is, what it was made of, and how good it is, written from the lineage.

Markdown with the YAML header that model hubs read. No names of people, and no paths of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from annotator.models import Export, Project
from rlhf.combining import parts_of
from rlhf.downloads import CARD, adapters_below, base_of
from rlhf.evaluation import WinRate, win_rates
from rlhf.gate_models import GateState
from rlhf.lineage import describe
from rlhf.models import Dataset, ModelKind, ModelVersion, Run, RunKind, Status
from rlhf.quarantine import passed_in_words
from rlhf.rounds import ancestors_of
from rlhf.templatetags.quantities import decimals, percent
from rlhf.training.hashes import find_problems

MOST_EVALUATIONS = 50

# Of models that need no download, whose licence is known; others say it in their folder, or nowhere.
EMBEDDED = ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
TINY = ("a toy model trained on made-up small talk", "apache-2.0")

TRAINED: dict[str, str] = {
    RunKind.SUPERVISED: "fine-tuned on demonstrations of good answers",
    RunKind.DOMAIN: "pre-trained further on running text of a field",
}

HIDDEN = {  # where things lie, and what is said elsewhere
    "model", "rival", "reward_model", "base", "prompts", "held_out", "data", "output", "rewards",
    "accelerate_config", "comparisons", "datasets",
}  # fmt: skip


# --- where things come from -------------------------------------------------------------------
def source_of(base: ModelVersion) -> tuple[str, str | None]:
    """Where an imported model is from, and its licence if that is known."""
    config = base.run.config if base.run else {}
    if config.get("source") == "embedded":
        return EMBEDDED
    if config.get("source") == "tiny":
        return TINY
    name = config["location"] if config.get("source") == "hub" else base.name
    return name, licence_in(Path(base.path)) if _is_as_imported(base, CARD) else None


def _is_as_imported(base: ModelVersion, name: str) -> bool:
    """Whether that file is what was imported, or nobody recorded what was."""
    recorded = {each: file for each, file in base.files.items() if each == name}
    is_known = recorded or not base.files
    return bool(is_known) and not any(find_problems(Path(base.path), recorded, may_hold_more=True))


def licence_in(folder: Path) -> str | None:
    """What the header of the folder's README.md says. Example: "apache-2.0\""""
    try:
        lines = (folder / CARD).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if not lines or lines[0] != "---":
        return None
    for line in lines[1:]:
        if line == "---":
            return None
        if line.startswith("license:"):
            return line.removeprefix("license:").strip().strip("\"'") or None
    return None


def trainings_of(version: ModelVersion) -> list[Run]:
    """The runs that trained it and what it comes from, its own first; and their reward models' and
    their parts' runs."""
    found: dict[int, Run] = {}
    for each in [version, *ancestors_of(version)]:
        run = each.run
        while run is not None and run.kind != RunKind.IMPORT_MODEL:
            found.setdefault(run.pk, run)
            for part in parts_of(run):
                found |= {of_part.pk: of_part for of_part in trainings_of(part.version)}
            run = run.reward_model.run if run.reward_model else None
    return sorted(found.values(), key=lambda run: -run.pk)


def evaluations_of(version: ModelVersion) -> list[tuple[Run, WinRate]]:
    """What people said of it, where they said anything yet; gates have a section of their own."""
    runs = version.project.runs.without_gates().filter(
        kind=RunKind.EVALUATE, status=Status.SUCCEEDED, policy=version
    )
    judged = list(runs.select_related("rival", "policy", "reward_model")[:MOST_EVALUATIONS])
    rates = win_rates(judged)
    return [(run, rates[run.pk]) for run in judged if rates[run.pk].rate is not None]


# --- the card ---------------------------------------------------------------------------------
def card_of(version: ModelVersion) -> str:
    base = base_of(version)
    source, licence = source_of(base.root())
    trainings = trainings_of(version)
    datasets = [each for run in trainings for each in run.datasets.select_related("export")]
    learnt = [run.export for run in trainings] + [each.export for each in datasets]
    exports = {export.pk: export for export in learnt if export}
    parts = [
        _header(version, source, licence),
        f"# {_text(version.name)}",
        _summary(version, source),
        _section("Use", _use(version, base, source)),
        _section("Descent", _descent(version, source)),
        _section("Licence", [_licence(source, licence)]),
        _section("Votes it learned from", _votes(exports.values())),
        _section("Whose answers were judged", _writers(version)),
        _section("Datasets it learned from", _datasets(datasets)),
        _section("Training", _training(trainings)),
        _section("Evaluation", _evaluation(version)),
        _section("Limits", _limits(version)),
        _section("Files", _files(version)),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    return text.replace(
        "\u00a0", " "
    )  # pages keep a number and its % on one line; a file is searched


def _header(version: ModelVersion, source: str, licence: str | None) -> str:
    """YAML, whose strings JSON's are."""
    fields: dict[str, Any] = {
        "license": licence or "other",
        "base_model": source,
        "library_name": "transformers" if version.is_whole_model else "peft",
        "tags": ["preferendum", "rlhf", version.run.kind if version.run else version.kind],
    }
    if version.kind == ModelKind.POLICY:
        fields["pipeline_tag"] = "text-generation"
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n\n".join([f"## {title}", *lines]) if lines else ""


def _summary(version: ModelVersion, source: str) -> str:
    project = _text(version.project.name)
    if version.run is None or version.run.kind == RunKind.IMPORT_MODEL:
        return f"{_text(source)}, as the project “{project}” in Preferendum starts from it."
    if version.kind == ModelKind.REWARD:
        what = "A reward model: it gives an answer a number, higher where people liked such answers"
    elif version.run.kind == RunKind.COMBINE:
        what = "A policy: a language model that is the adapters of others, added up with weights"
    else:
        what = f"A policy: a language model that was {_how_trained(version.run)}"
    return f"{what}, in round {version.run.round_number} of the project “{project}” in Preferendum."


def _how_trained(run: Run) -> str:
    by_votes = f"trained by {run.get_kind_display()} on what people preferred"
    return TRAINED.get(run.kind, by_votes)


def _use(version: ModelVersion, base: ModelVersion, source: str) -> list[str]:
    if version.kind != ModelKind.POLICY:
        return [
            "A reward model is scored by Preferendum itself: docs/reward-model.md there says what its "
            "files hold."
        ]
    whole = _code(
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
    )
    if version.is_whole_model:
        return [whole]
    folders = [f"parents/{n}-{each.name}" for n, each in enumerate(adapters_below(version), 1)]
    merged = [] if version.has_virtual_tokens else ["The merged weights load by themselves:", whole]
    return [
        *merged,
        f"The adapter is loaded onto its base, {_text(source)}"
        f"{'' if base.parent is None else f' as trained in full to {_text(base.name)}'}, from "
        "within its folder:",
        _code(
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM",
            "",
            f"model = AutoModelForCausalLM.from_pretrained({json.dumps(source, ensure_ascii=False)})",
            *_loading(folders, is_merged=not version.has_virtual_tokens),
        ),
    ]


def _loading(below: Sequence[str], *, is_merged: bool) -> list[str]:
    """Virtual tokens are put around the weights, never into them."""
    folders = [*below, "."] if is_merged else below
    named = ", ".join(json.dumps(each, ensure_ascii=False) for each in folders)
    lines = [
        f"for folder in [{named}]:",
        "    model = PeftModel.from_pretrained(model, folder).merge_and_unload()",
    ]
    around = [] if is_merged else ['model = PeftModel.from_pretrained(model, ".")']
    return [*(lines if folders else []), *around]


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _descent(version: ModelVersion, source: str) -> list[str]:
    chain = [version, *ancestors_of(version)][::-1]
    lines = []
    for number, each in enumerate(chain, 1):
        made = f", made by {each.run} of round {each.run.round_number}" if each.run else ""
        origin = f" from {_text(source)}" if each.parent_id is None else ""
        day = each.created.date().isoformat()
        kind = each.get_kind_display().lower()
        lines.append(f"{number}. {_text(each.name)}: {kind}{origin}{made}, {day}")
    return ["\n".join(lines)]


def _licence(source: str, licence: str | None) -> str:
    if licence is None:
        return (
            f"That of {_text(source)}, which its files here do not state: look it up where the model "
            "came from before you pass this one on. The votes may have terms of their own."
        )
    return f"{_text(source)} is under {licence}, and so is what was made of it, unless its makers say otherwise."


def _votes(exports: Iterable[Export]) -> list[str]:
    rows = []
    for export in sorted(exports, key=lambda each: each.pk):
        counts = export.manifest.get("counts", {})
        versions = export.manifest.get("guideline_versions", {})
        told = ", ".join(f"{version} ({n} votes)" for version, n in versions.items())
        rows.append(
            [
                str(export.pk),
                str(export.n_rows),
                str(export.n_judgments),
                str(counts.get("annotators", export.annotators.count())),
                told or "not noted",
                f"`{export.sha256}`",
            ]
        )
    if not rows:
        return []
    names = [
        "Export",
        "Pairs",
        "Votes",
        "Annotators",
        "Guideline versions",
        "SHA-256 of data.jsonl",
    ]
    return [_table(names, rows)]


def _writers(version: ModelVersion) -> list[str]:
    """Nothing if no vote is in its lineage."""
    described = describe(version)
    if not described["exports"]:
        return []
    named = {"Policies in its lineage": "policies", "Answers from elsewhere": "sources"}
    lines = [
        f"* {label}: {', '.join(map(_text, described[kind]))}"
        for label, kind in named.items()
        if described[kind]
    ]
    return ["\n".join(lines)] if lines else []


def _datasets(datasets: Iterable[Dataset]) -> list[str]:
    rows = [
        [_text(each.name), each.get_kind_display(), str(each.n_rows), _text(each.origin),
         f"`{each.files['data.jsonl']['sha256']}`"]
        for each in {each.pk: each for each in datasets}.values()
    ]  # fmt: skip
    names = ["Dataset", "Holds", "Rows", "From", "SHA-256 of data.jsonl"]
    return [_table(names, rows)] if rows else []


def _training(runs: Sequence[Run]) -> list[str]:
    lines = []
    for run in runs:
        kind = run.get_kind_display()
        lines.append(f"### {kind}, run {run.pk} of round {run.round_number}")
        models = {"Policy": run.policy, "Reward model": run.reward_model, "Base": run.base}
        used = [f"{label}: {_text(each.name)}" for label, each in models.items() if each]
        if run.export_id:
            used.append(f"Export: {run.export_id}")
        used += [f"Part: {part.weight:g} × {_text(part.version.name)}" for part in parts_of(run)]
        lines.append("; ".join(used))
        lines += [f"Screening: {_text(each)}." for each in passed_in_words(run)]
        lines += _quality(run)
        lines += _held_out(run)
        lines.append(_table(["Setting", "Value"], list(_settings(run.config))))
        for version in run.outputs.order_by("pk") if run.kind == RunKind.SEARCH else ():
            lines.append(f"The trial that is {_text(version.name)} had these settings:")
            lines.append(_table(["Setting", "Value"], list(_settings(version.settings))))
    return lines


def _quality(run: Run) -> list[str]:
    """How good a reward model is: with what a policy can be no better judged than."""
    accuracy = run.result.get("accuracy")
    if run.kind != RunKind.REWARD_MODEL or accuracy is None:
        return []
    low, high = run.result.get("accuracy_low"), run.result.get("accuracy_high")
    return [
        f"Right on {percent(accuracy)} of held-out votes (95 % interval {percent(low)} to "
        f"{percent(high)})."
    ]


def _held_out(run: Run) -> list[str]:
    """What a supervised or domain run came to."""
    held_out = run.result.get("held_out") or {}
    before, after = held_out.get("perplexity_before"), held_out.get("perplexity_after")
    if before is None or after is None:
        return []
    return [
        f"Perplexity on {held_out['n_rows']} held-out rows: {decimals(before, 2)} before, "
        f"{decimals(after, 2)} after."
    ]


def _settings(config: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, value in config.items():
        if name not in HIDDEN and not isinstance(value, dict | list):
            yield [f"`{name}`", f"`{json.dumps(value)}`"]
    for rule in config.get("rewards") or []:
        shown = {name: value for name, value in rule.items() if name != "folder"}
        yield ["`rewards`", f"`{json.dumps(shown, ensure_ascii=False)}`"]


def _evaluation(version: ModelVersion) -> list[str]:
    if version.kind != ModelKind.POLICY:
        return []
    rows = []
    for run, rate in evaluations_of(version):
        side = f"best of {run.best_of}" if run.best_of > 1 else "single answers"
        interval = f"{percent(rate.low)} to {percent(rate.high)}"
        rival = _text(run.rival.name) if run.rival else ""
        decided = str(rate.wins + rate.losses)
        row = [rival, side, percent(rate.rate), interval, decided, str(rate.n_judgments)]
        rows.append(row)
    gates = _gates(version)
    if not rows:
        return gates or ["People have not judged it against another policy yet."]
    names = ["Against", "As", "Preferred", "95 % interval", "Decided comparisons", "Votes"]
    lines = [
        "Blind, on held-out prompts, by the project's own annotators. A tie is not decided.",
        _table(names, rows),
        *gates,
    ]
    if "score_last" in version.details:
        score, kl = version.details["score_last"], version.details.get("kl")
        lines.append(
            f"By its reward model: score {decimals(score, 2)} at a KL of {decimals(kl, 2)} nats per "
            "answer from where it started."
        )
    return lines


def _gates(version: ModelVersion) -> list[str]:
    """What blind tests of it came to that end by themselves, with the interval that holds for these."""
    rows = []
    for gate in version.gates.filter(state=GateState.DECIDED).select_related("incumbent"):
        found, by = gate.found, " by a person" if gate.decided_by_id else ""
        share, interval = "", ""
        if "mean" in found:
            share = percent(found["mean"])
            interval = f"{percent(found['low'])} to {percent(found['high'])}"
        outcome = f"{gate.get_decision_display()}{by}"
        votes = str(found.get("n_votes", ""))
        rows.append([_text(gate.incumbent.name), outcome, share, interval, votes])
    if not rows:
        return []
    names = ["Gate against", "Outcome", "Win probability", "Interval", "Votes"]
    return [
        "Gates: blind as well, and over as soon as the votes had decided. Their interval holds whenever that "
        "was; a tie is half a win.",
        _table(names, rows),
    ]


def _limits(version: ModelVersion) -> list[str]:
    project: Project = version.project
    prompts = project.prompts.count()
    return [
        f"What it learned is the taste of this project's annotators, on its {prompts} prompts, by the "
        "guideline versions above. Other people, other prompts and other languages were not asked.",
        "Nothing here measures whether it tells the truth or does harm. A policy trained against a "
        "reward model learns that model's mistakes as well, and more of them the further it moves.",
    ]


def _files(version: ModelVersion) -> list[str]:
    """As they were made; downloads are packed anew, their settings name another base."""
    return [
        f"* `{name}`: {file['bytes']:,} bytes, SHA-256 `{file['sha256']}`"
        for name, file in sorted(version.files.items())
    ]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _text(name: str) -> str:
    """A name that somebody has typed, which is no markup."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#" else c for c in name.replace("\n", " "))

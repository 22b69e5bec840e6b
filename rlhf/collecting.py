"""What a succeeded run leaves behind, taken over into the database.

`COLLECT[kind](run)` runs once, in the transaction that marks the run as succeeded, and gives back
what it adds to the run's result. An error undoes all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from annotator.models import Project, canonical_key
from rlhf.distilling import store_demonstrations
from rlhf.documents import keep_collection
from rlhf.evaluation import store_pairs
from rlhf.gate_models import Gate
from rlhf.gate_pairs import store_gate_pairs
from rlhf.generation import store_completions
from rlhf.models import ModelKind, ModelVersion, Round, Run, RunKind
from rlhf.questions import store_order
from rlhf.screening import collect_screen
from rlhf.training.artifacts import read_json
from rlhf.training.config_base import LONGEST_NAME
from rlhf.training.search_config import TRIALS


def collect_import_model(run: Run) -> dict[str, Any]:
    """A policy, or a base of reward models; the first policy of a project begins round 1."""
    files = files_of(run)
    details = {name: value for name, value in run.result.items() if name != "probe"}
    version = ModelVersion.objects.create(
        project=run.project,
        name=unused_name(run.project, " ".join(run.result["name"].split())[:LONGEST_NAME]),
        kind=run.result.get("kind", ModelKind.POLICY),  # of before there were bases: a policy
        run=run,
        path=existing_folder(Path(run.result["artifact"])),
        details=details,
        files=files,
        probe=probe_of(run),
    )
    if version.kind == ModelKind.POLICY and not run.project.rounds.exists():
        Round.objects.create(project=run.project, number=1, policy=version)
    return {"model_version": version.pk}


def collect_probe(run: Run) -> dict[str, Any]:
    assert run.policy is not None
    ModelVersion.objects.filter(pk=run.policy.root().pk).update(probe=probe_of(run))
    return {}


def probe_of(run: Run) -> dict[str, Any]:
    """What it has measured, and whose trainer started it: a container or a cluster's node, whose name
    stands in the probe itself, may never be met again. Empty if nothing was measured."""
    measured = run.result.get("probe")
    return {**measured, "trainer": run.host} if measured else {}


def collect_reward_model(run: Run) -> dict[str, Any]:
    return add_version(run, ModelKind.REWARD, "reward")


def collect_policy(run: Run) -> dict[str, Any]:
    return add_version(run, ModelKind.POLICY, "policy", run.config.get("name", ""))


def collect_online(run: Run) -> dict[str, Any]:
    """With the tokens that it wrote, and learned from as often as there are epochs."""
    return {**collect_policy(run), "tokens": tokens_so_far(run)}


def tokens_so_far(run: Run) -> dict[str, int]:
    """Of runs that say it as they go: PPO, RLOO and GRPO by their steps, conversations by their turns."""
    if run.kind == RunKind.CONVERSE:
        turns = run.metrics.values_list("values__tokens/written", flat=True)
        return {"written": round(sum(filter(None, turns)))}
    lengths = run.metrics.values_list("values__length/mean", flat=True)
    written = round(sum(filter(None, lengths)) * run.config["batch_size"])
    return {"written": written, "learned": written * run.config["epochs"]}


def collect_evaluate(run: Run) -> dict[str, Any]:
    """Comparisons for people; those of a gate, if it was launched by one."""
    gate = Gate.objects.select_related("run").filter(run=run).first()
    return store_gate_pairs(run, gate) if gate else store_pairs(run)


def collect_converse(run: Run) -> dict[str, Any]:
    """What was said has been taken over turn by turn."""
    n_comparisons = run.turns.exclude(comparison=None).count()
    return {"n_comparisons": n_comparisons, "tokens": tokens_so_far(run)}


def collect_merge(run: Run) -> dict[str, Any]:
    """Its files belong to the version that was merged, and may be deleted again; their hashes stay in the
    run's result."""
    existing_folder(Path(run.result["output"]))
    return {}


def collect_index(run: Run) -> dict[str, Any]:
    """The next version of the collection, with the embeddings of its passages."""
    source = run.project.collections.get(path=run.config["collection"])
    found = {name: run.result[name] for name in ("found",) if name in run.result}
    by_words = {"found_by_words": source.details["found"]} if "found" in source.details else {}
    collection = keep_collection(
        run.project,
        source.name,
        Path(existing_folder(run.folder / "artifact")),
        files_of(run),
        source.n_documents,
        source.n_passages,
        {**source.details, **by_words, **found, "encoder": run.config["encoder"]},
        run=run,
        user=run.created_by,
    )
    return {"collection": collection.pk, "name": str(collection)}


def collect_combine(run: Run) -> dict[str, Any]:
    return add_version(run, ModelKind.POLICY, "combined", run.config["name"])


def collect_search(run: Run) -> dict[str, Any]:
    """What its trials made stays with them until somebody promotes one (searching.promote); which files
    these were is kept here, as the list in a trial's folder can be changed with them."""
    results = (run.folder / TRIALS).glob("*/result.json")
    made = {path.parent.name: read_json(path).get("files", {}) for path in sorted(results)}
    return {"made": {number: canonical_key(files) for number, files in made.items()}}


def collect_suite(run: Run) -> dict[str, Any]:
    """Its answers stay in its folder; which datasets it has read is noted."""
    existing_folder(run.folder / "artifact")
    names = [run.config.get(name) for name in ("text", "demonstrations")]
    run.datasets.add(*run.project.datasets.filter(name__in=names))
    return {}


def add_version(run: Run, kind: ModelKind, stem: str, name: str = "") -> dict[str, Any]:
    """A version that comes from the run's policy. Example of a name, if none was given: policy-r2-v15,
    by run 15 of round 2."""
    files = files_of(run)
    version = ModelVersion.objects.create(
        project=run.project,
        name=unused_name(run.project, name or f"{stem}-r{run.round_number}-v{run.pk}"),
        kind=kind,
        parent=run.policy,
        run=run,
        path=existing_folder(run.folder / "artifact"),
        details=run.result,
        files=files,
    )
    return {"model_version": version.pk}


def files_of(run: Run) -> dict[str, Any]:
    """The SHA-256 of the model's files, as the process that wrote them says; they are taken out of its
    result, because they belong to the version. Empty if it does not say."""
    return run.result.pop("files", {})


def unused_name(project: Project, name: str) -> str:
    """The name itself, or with -2, -3, … where the project has it already."""
    taken = set(project.model_versions.filter(name__startswith=name).values_list("name", flat=True))
    candidates = [name, *(f"{name}-{n}" for n in range(2, len(taken) + 2))]
    return next(candidate for candidate in candidates if candidate not in taken)


def existing_folder(path: Path) -> str:
    if not path.is_dir():
        raise FileNotFoundError(f"the run's {path} is missing")
    return str(path)


COLLECT: dict[str, Callable[[Run], dict[str, Any]]] = {
    RunKind.IMPORT_MODEL: collect_import_model,
    RunKind.GENERATE: store_completions,
    RunKind.REWARD_MODEL: collect_reward_model,
    RunKind.PPO: collect_online,
    RunKind.EVALUATE: collect_evaluate,
    RunKind.PROBE: collect_probe,
    RunKind.ORDER_QUEUE: store_order,
    RunKind.CONVERSE: collect_converse,
    RunKind.MERGE: collect_merge,
    RunKind.COMBINE: collect_combine,
    RunKind.SUPERVISED: collect_policy,
    RunKind.DOMAIN: collect_policy,
    RunKind.RLOO: collect_online,
    RunKind.GRPO: collect_online,
    RunKind.DPO: collect_policy,
    RunKind.KTO: collect_policy,
    RunKind.SEARCH: collect_search,
    RunKind.DISTILL: store_demonstrations,
    RunKind.INDEX: collect_index,
    RunKind.SUITE: collect_suite,
    RunKind.SCREEN: collect_screen,
}

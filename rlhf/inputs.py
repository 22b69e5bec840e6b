"""What a run needs before it can start: refuse what cannot work, fill its folder.

The prompts and votes that a run reads are copied into its folder, so that it can be repeated from
there as long as its models are where they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from django.conf import settings

from annotator.hashes import MANIFEST, FileChanged
from annotator.models import Export, Project, Prompt, QueueOrder, Split
from rlhf import suite_inputs
from rlhf.combining import find_parts
from rlhf.dataset_inputs import (
    check_datasets,
    hashes_of_datasets,
    link_datasets,
    link_or_copy,
    problem_with_held_out,
    references_of,
)
from rlhf.downloads import base_of
from rlhf.endpoints import EndpointRefused, check_version
from rlhf.generation import prompts_lacking_completions, write_prompts
from rlhf.integrity import (
    HASHED_AT_LAUNCH,
    FilesChanged,
    files_of_export,
    folders_of,
    problems_of_export,
    recorded,
    refuse_changed,
)
from rlhf.models import (
    FROM_PAIRS,
    ONLINE,
    Dataset,
    DocumentCollection,
    ModelKind,
    ModelVersion,
    RunKind,
)
from rlhf.processes import accelerate_configs
from rlhf.questions import write_comparisons
from rlhf.screening import CannotScreen, policy_folders, write_input
from rlhf.training.artifacts import write_json
from rlhf.training.config import CONFIGS, Config, RewardModelConfig
from rlhf.training.hashes import HASHES, Files, find_problems, in_a_sentence, sha256_of
from rlhf.training.reward_rules import Rule, check_function, complete
from rlhf.training.search_config import EVAL_PROMPTS, INPUTS, settings_fixed

READ_BY_RUNS = ("data.jsonl", "demonstrations.jsonl", MANIFEST)  # of an export
SINGLE_VOTES = "votes.jsonl"  # has the comparisons whose answers all were called bad


class RunRefused(Exception):
    """A run cannot be started or resumed. The message is a sentence for the admin."""


NEEDED: dict[str, list[str]] = {
    RunKind.IMPORT_MODEL: [],
    RunKind.GENERATE: ["policy"],
    RunKind.REWARD_MODEL: ["policy", "export"],
    RunKind.PPO: ["policy"],
    RunKind.EVALUATE: ["policy", "rival"],
    RunKind.PROBE: ["policy"],
    RunKind.ORDER_QUEUE: ["reward_model"],
    RunKind.CONVERSE: ["policy"],
    RunKind.MERGE: ["policy"],
    RunKind.COMBINE: ["policy"],
    RunKind.SUPERVISED: ["policy", "datasets"],
    RunKind.DOMAIN: ["policy", "datasets"],
    RunKind.RLOO: ["policy"],
    RunKind.GRPO: ["policy"],
    RunKind.DPO: ["policy", "export"],
    RunKind.KTO: ["policy", "export"],
    RunKind.SEARCH: [],  # what its trials need
    RunKind.DISTILL: ["policy"],
    RunKind.INDEX: [],
    RunKind.SUITE: ["policy"],
    RunKind.SCREEN: [],
}
MISSING_SENTENCES = {
    "policy": "There is no policy to start from: import a model first.",
    "rival": "There is no second policy to compare with.",
    "export": "There is no export to learn from: create one first.",
    "reward_model": "There is no reward model to ask by: train one first.",
    "datasets": "There is no dataset to learn from: make one first.",
}
VERSION_KINDS = {
    "policy": [ModelKind.POLICY],
    "rival": [ModelKind.POLICY],
    "reward_model": [ModelKind.REWARD],
    "base": [ModelKind.POLICY, ModelKind.BASE],
    "judge": [ModelKind.POLICY],
}
WRITE_ANSWERS = [  # by our own decoder
    RunKind.GENERATE, RunKind.EVALUATE, RunKind.CONVERSE, RunKind.DISTILL, RunKind.SUITE,
]  # fmt: skip
READ_NO_PROMPTS = (
    RunKind.IMPORT_MODEL, RunKind.PROBE, RunKind.CONVERSE, RunKind.MERGE, RunKind.COMBINE,
    RunKind.SUPERVISED, RunKind.DOMAIN, RunKind.INDEX, *FROM_PAIRS,
)  # fmt: skip
ASK_ELSEWHERE = [  # the others need a policy's weights
    RunKind.GENERATE, RunKind.EVALUATE, RunKind.DISTILL, RunKind.SUITE, RunKind.CONVERSE,
]  # fmt: skip
PUT_AROUND = [  # each question what a prompt version says
    RunKind.GENERATE, RunKind.EVALUATE, RunKind.DISTILL, RunKind.SUITE, RunKind.CONVERSE,
]  # fmt: skip


ASKED = ("policy", "rival", "judge")
TRIED_HERE = "the trials of a search, those of distillations too, start from a policy that is here."
ELSEWHERE_CAN = (
    "it can write answers, in “Generate completions”, “Evaluate”, “Distillation”, “Evaluation suite” and “Live "
    "conversations”, and nothing else."
)
PROMPTED_CAN = (
    "it can write answers, in “Generate completions”, “Evaluate”, “Evaluation suite” and “Live conversations”, and "
    "teach in “Distillation”."
)


def version_kinds(run_kind: str, name: str) -> list[ModelKind]:
    """What a run of this kind can take for its policy, rival, reward model or base."""
    is_student = run_kind == RunKind.DISTILL and name == "rival"
    is_asked = run_kind in ASK_ELSEWHERE and name in ASKED and not is_student
    is_prompted = run_kind in PUT_AROUND and name in ASKED and not is_student
    return [
        *VERSION_KINDS[name],
        *([ModelKind.ENDPOINT] if is_asked else []),
        *([ModelKind.PROMPT] if is_prompted else []),
    ]


def takes(run_kind: str, name: str, version: ModelVersion) -> bool:
    """Also whether it takes the policy that a prompt version is put around."""
    kinds = version_kinds(run_kind, name)
    return version.kind in kinds and version.writer.kind in kinds


def why_not(run_kind: str, name: str, version: ModelVersion) -> str:
    """Why a run of this kind cannot take a version of its project there, and what to choose instead; empty if
    it can."""
    kinds, writer = version_kinds(run_kind, name), version.writer
    is_prompt = version.kind == ModelKind.PROMPT
    if ModelKind.POLICY in kinds and writer.kind == ModelKind.ENDPOINT and writer.kind not in kinds:
        around = f"{version} is a prompt version, and " if is_prompt else ""
        return (
            f"{around}{writer} is a policy elsewhere, of which nobody here has the weights: "
            f"{TRIED_HERE if run_kind == RunKind.SEARCH else ELSEWHERE_CAN} Choose a policy that is here."
        )
    if ModelKind.POLICY in kinds and is_prompt and version.kind not in kinds:
        return (
            f"{version} is a prompt version and has no weights of its own: "
            f"{TRIED_HERE if run_kind == RunKind.SEARCH else PROMPTED_CAN} Choose {writer} instead."
        )
    return "" if version.kind in kinds else f"{version} is no {_wanted(name)} of this project."


def _wanted(name: str) -> str:
    return " or ".join(kind.label.lower() for kind in VERSION_KINDS[name])


@dataclass(frozen=True)
class Order:
    """What a run is asked to do, before it is one."""

    project: Project
    kind: str
    round_number: int
    settings: dict[str, Any]  # of its config, without models and paths
    policy: ModelVersion | None = None
    rival: ModelVersion | None = None
    reward_model: ModelVersion | None = None
    base: ModelVersion | None = None  # of a reward model; None: the policy
    export: Export | None = None
    max_prompts: int | None = None  # a sample of so many; None: all
    datasets: tuple[Dataset, ...] = ()
    judge: ModelVersion | None = None  # of pairs of answers, in a suite

    @property
    def versions(self) -> dict[str, ModelVersion]:
        named = {name: getattr(self, name) for name in VERSION_KINDS}
        return {name: version for name, version in named.items() if version is not None}


# --- refusing ---------------------------------------------------------------------------------
def config_of(order: Order) -> Config:
    """The run's whole configuration. Raises RunRefused if it cannot work."""
    if order.kind not in CONFIGS:
        raise RunRefused(f"There is no kind of run {order.kind!r}.")
    if order.kind == RunKind.SEARCH:
        return _search(order)
    try:
        _check(order)
    except OSError as error:  # no permission, a name too long: pathlib passes these on
        raise RunRefused(f"{error.filename} cannot be read: {error.strerror}.") from error
    try:
        return CONFIGS[order.kind].from_dict({**order.settings, **_references(order)})
    except (TypeError, ValueError) as error:
        raise RunRefused(f"These settings do not work: {error}") from error


def _search(order: Order) -> Config:
    for name, version in order.versions.items():
        _check_kind(order, name, version)
    tried = tried_by(order)
    trial = config_of(tried)
    _check_held_out(tried)
    values = {name: value for name, value in order.settings.items() if name != "rewards"}
    try:
        return CONFIGS[order.kind].from_dict({**values, "settings": trial.to_dict()})
    except (TypeError, ValueError) as error:
        raise RunRefused(f"This search does not work: {error}.") from error


def tried_by(order: Order) -> Order:
    """What each trial of a search is asked to do, before anything varies. Raises RunRefused."""
    kind, space = order.settings.get("tries", ""), order.settings.get("space", "")
    try:
        settings = settings_fixed(kind, space)
    except ValueError as error:
        raise RunRefused(f"This search does not work: {error}.") from error
    if kind == RunKind.DISTILL:
        settings = EVAL_PROMPTS | settings
    taken = {field.name for field in fields(CONFIGS[kind])}  # type: ignore[arg-type]
    for name in ("reward_model", "base"):
        if getattr(order, name) is not None and name not in taken:
            label = name.replace("_", " ")
            raise RunRefused(f"Runs of kind {kind} take no {label}: leave it empty.")
    if rewards := order.settings.get("rewards"):
        settings["rewards"] = rewards
    return replace(order, kind=kind, settings=settings)


def _check_held_out(tried: Order) -> None:
    """Before any trial learns: what they are compared by is measured on what is held out."""
    if tried.datasets and (problem := problem_with_held_out(tried.datasets)):
        raise RunRefused(problem)
    if tried.export is not None and tried.export.manifest.get("counts", {}).get("rows_test") == 0:
        raise RunRefused(
            f"No pair of export {tried.export.pk} is held out, so nothing could tell which trial is "
            "better: judge comparisons of more prompts, and export again."
        )
    is_asked = tried.kind in (*ONLINE, RunKind.DISTILL)
    if is_asked and not tried.project.prompts.filter(split=Split.TEST).exists():
        raise RunRefused(_nothing_to_compare_by(tried.project))


def _check(order: Order) -> None:
    for name in NEEDED[order.kind]:
        if not getattr(order, name):
            raise RunRefused(MISSING_SENTENCES[name])
    if order.max_prompts is not None and order.max_prompts < 1:
        raise RunRefused(f"A sample has at least 1 prompt, and not {order.max_prompts}.")
    _check_versions(order)
    if order.export is not None:
        _check_export(order.project, order.export)
        _check_votes(order.export, order.settings.get("min_pairs", RewardModelConfig.min_pairs))
    if order.kind in ONLINE and not (order.reward_model or order.settings.get("rewards")):
        raise RunRefused("There is nothing to reward: train a reward model first, or add a rule.")
    if problem := check_datasets(order.project, order.kind, order.datasets):
        raise RunRefused(problem)
    is_single = order.settings.get("best_of", 1) == 1
    if order.kind == RunKind.EVALUATE and order.policy == order.rival and is_single:
        raise RunRefused(
            f"{order.policy} cannot be compared with itself: choose another policy, or the best of "
            "several answers."
        )
    if order.kind == RunKind.CONVERSE and order.policy == order.rival:
        raise RunRefused(f"{order.policy} would write both answers: leave the second policy empty.")
    if order.kind == RunKind.SUITE:
        _check_suite(order)
    if order.kind == RunKind.MERGE and order.policy and order.policy.is_whole_model:
        raise RunRefused(f"{order.policy} is a whole model already: download it as it is.")
    if order.kind == RunKind.ORDER_QUEUE and order.project.queue_order == QueueOrder.DRAWN:
        raise RunRefused(
            "The questions of this project are drawn at random: choose “Most informative first” in "
            "its settings."
        )
    if order.kind == RunKind.INDEX:
        _check_collection(order)
    if order.settings.get("source") == "folder":
        _check_source(order.settings.get("location", ""))
    file = order.settings.get("accelerate_config")
    if file and file not in accelerate_configs():
        raise RunRefused(f"There is no file {file} for accelerate in {settings.ACCELERATE_DIR}.")


def check_suite_to_come(order: Order) -> None:
    """Of a suite whose policy has not been made yet, for which the one that it is made from stands. Raises
    RunRefused if what the suite names cannot be used."""
    _check_versions(order)
    if problem := suite_inputs.problem_with_datasets(order.project, order.settings):
        raise RunRefused(problem)


def _check_suite(order: Order) -> None:
    if order.policy == order.rival:
        raise RunRefused(f"{order.policy} cannot be compared with itself: choose another version.")
    if problem := suite_inputs.problem_with_datasets(order.project, order.settings):
        raise RunRefused(problem)


def _check_versions(order: Order) -> None:
    for name, version in order.versions.items():
        _check_kind(order, name, version)
        if version.has_virtual_tokens and order.kind not in WRITE_ANSWERS:
            raise RunRefused(
                f"{version} is virtual tokens before the prompt, which cannot be merged into weights: it "
                "can write answers, talk and be evaluated. Choose the policy that it was trained from."
            )
        _check_answering(version)


def why_not_answering(version: ModelVersion) -> str:
    """Why nobody can ask it now, as a launch would say it; empty if it can be asked."""
    try:
        _check_answering(version)
    except RunRefused as refusal:
        return str(refusal)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}."
    return ""


def _check_answering(version: ModelVersion) -> None:
    if version.writer.kind == ModelKind.ENDPOINT:
        _check_endpoint(version.writer)
    if version.kind != ModelKind.ENDPOINT:
        _check_files(version)


def _check_kind(order: Order, name: str, version: ModelVersion) -> None:
    if version.project_id != order.project.pk:
        raise RunRefused(f"{version} is no {_wanted(name)} of this project.")
    if problem := why_not(order.kind, name, version):
        raise RunRefused(problem)


def _check_endpoint(version: ModelVersion) -> None:
    try:
        check_version(version)
    except EndpointRefused as refusal:
        raise RunRefused(str(refusal)) from refusal


def _check_files(version: ModelVersion) -> None:
    for folder in folders_of(version):
        if not Path(folder).is_dir():
            raise RunRefused(
                f"The files of {version} are missing: there is no folder {folder}. Put it back from a "
                "backup or a download, or choose another version."
            )
    try:
        refuse_changed(version, hash_up_to=HASHED_AT_LAUNCH)
    except FilesChanged as changed:
        raise RunRefused(str(changed)) from changed


def _check_export(project: Project, export: Export) -> None:
    if export.project_id != project.pk:
        raise RunRefused(f"Export {export.pk} is not of this project.")
    if not export.n_rows:
        raise RunRefused(
            f"Export {export.pk} has no pairs to learn from: nobody has ranked a comparison in it."
        )
    if not (export.folder / "data.jsonl").is_file():
        raise RunRefused(f"The files of export {export.pk} are missing from {export.folder}.")
    if changed := list(problems_of_export(export, hash_up_to=HASHED_AT_LAUNCH)):
        raise RunRefused(f"Export {export.pk} is not what was frozen: {in_a_sentence(changed)}.")


def _check_votes(export: Export, min_pairs: int) -> None:
    """By what its manifest counts; which ties are held out, only the run itself can see."""
    counts = export.manifest.get("counts")
    if counts is None:
        return
    rows, decided = counts["rows"], counts["rows"] - counts["rows_tied"]
    if not counts["rows_train"]:
        raise RunRefused(
            f"All {rows} pairs of export {export.pk} are held out, so there is nothing to learn "
            "from: judge comparisons of more prompts, and export again."
        )
    if not decided:
        raise RunRefused(
            f"All {rows} pairs of export {export.pk} are ties, which do not say what people "
            "prefer: judge more comparisons, and export again."
        )
    if (most := min(decided, counts["rows_train"])) < min_pairs:
        raise RunRefused(
            f"Export {export.pk} has at most {most} decided pairs to learn from, fewer than "
            f"{min_pairs}: judge more comparisons and export again, or lower “Fewest pairs” under "
            "“More settings” if this is only to try."
        )


def _check_source(location: str) -> None:
    if not Path(location).exists():
        raise RunRefused(f"There is no model folder or file {location}.")


def collection_of(order: Order) -> DocumentCollection:
    """Which an index run is about. Raises RunRefused."""
    collection = order.project.collections.filter(pk=order.settings.get("collection", 0)).first()
    if collection is None:
        raise RunRefused("This project has no such collection of documents: add one first.")
    return collection


def _check_collection(order: Order) -> None:
    collection = collection_of(order)
    expected = collection.files
    if changed := list(find_problems(Path(collection.path), expected, hash_up_to=HASHED_AT_LAUNCH)):
        raise RunRefused(f"{collection} is not what was frozen: {in_a_sentence(changed)}.")


def _references(order: Order) -> dict[str, Any]:
    """The settings that say where models are."""
    references: dict[str, Any] = {}
    if order.kind == RunKind.SCREEN:
        references["tokenizers"] = policy_folders(order.project)
    if order.kind == RunKind.IMPORT_MODEL:
        references["output"] = _import_output(order.settings)
    if order.policy is not None:
        references["model"] = order.policy.reference()
    if order.kind == RunKind.MERGE and order.policy is not None:
        references["output"] = str(order.policy.merged_folder)
    if order.kind == RunKind.COMBINE:
        references["parts"] = _parts(order)
    if order.kind == RunKind.INDEX:
        references["collection"] = collection_of(order).path
    if order.rival is not None:
        name = "student" if order.kind == RunKind.DISTILL else "rival"
        references[name] = order.rival.reference()
    if order.judge is not None:
        references["judge"] = order.judge.reference()
    if order.reward_model is not None:
        references["reward_model"] = order.reward_model.path
    if order.base is not None and order.base != order.policy:
        references["base"] = order.base.reference()
    if order.datasets:
        references["datasets"] = references_of(order.datasets)
    if order.settings.get("rewards"):
        references["rewards"] = [_reward(order.project, rule) for rule in order.settings["rewards"]]
    return references


def _reward(project: Project, rule: Rule) -> Rule:
    """A source of rewards that may be used, with the folder if it is a reward model."""
    check_function(complete(rule), settings.REWARD_FUNCTIONS)
    if rule["kind"] != "reward_model":
        return rule
    versions = project.model_versions.filter(kind=ModelKind.REWARD, name=rule["version"])
    if (version := versions.select_related("parent").first()) is None:
        raise ValueError(f"this project has no reward model {rule['version']}")
    _check_files(version)
    return {**rule, "folder": version.path}


def _parts(order: Order) -> list[dict[str, Any]]:
    """The policies that are combined, with their adapters' folders."""
    parts = find_parts(order.project, order.settings.get("parts") or [])
    for version, _ in parts:
        _check_files(version)
        if (base := base_of(version)) != order.policy:
            raise ValueError(f"{version} is an adapter of {base}, and not of {order.policy}")
    return [
        {"version": str(version), "weight": weight, "adapters": version.reference()["adapters"]}
        for version, weight in parts
    ]


def _import_output(values: dict[str, Any]) -> str:
    """Models that are the same for everybody are kept once; a local folder is copied per run."""
    source, location = values.get("source", ""), values.get("location", "")
    if source == "folder":
        return "artifact"
    return str(Path(settings.MODELS_DIR) / (location.replace("/", "--") or source))


# --- filling the folder -----------------------------------------------------------------------
def write_inputs(order: Order, config: Config, folder: Path) -> None:
    """Copy what the run reads. Raises RunRefused if there is nothing, OSError if the disk is full."""
    if order.kind == RunKind.SEARCH:
        inputs, trial = folder / INPUTS, tried_by(order)
        inputs.mkdir()
        return write_inputs(trial, config_of(trial), inputs)
    if order.kind == RunKind.SCREEN:
        try:
            return write_input(order.project, order.settings["screened"], folder)
        except CannotScreen as error:
            raise RunRefused(str(error)) from error
    if order.export is not None:
        _copy_export(order.export, _hashes_of_export(order)["data"], folder / "data")
    link_datasets(order.datasets, folder)
    if hashes := _hashes(order):
        write_json(folder / HASHES, hashes)
    if order.kind in READ_NO_PROMPTS:
        return
    if order.kind == RunKind.ORDER_QUEUE:
        if not write_comparisons(folder / config.to_dict()["comparisons"], order.project):
            raise RunRefused("No comparison for training is open: there is nothing left to ask.")
        return
    if order.kind == RunKind.SUITE:
        try:
            n_prompts = suite_inputs.write(folder, order.project, config, order.max_prompts)
        except FileChanged as changed:
            raise RunRefused(str(changed)) from changed
        if not n_prompts:
            raise RunRefused(_no_prompts(order))
        return
    values = config.to_dict()
    prompts = Prompt.objects.filter(project=order.project)
    limit = order.max_prompts
    if order.kind == RunKind.GENERATE:
        wanted = values["completions_per_prompt"]
        prompts = prompts_lacking_completions(order.project, order.round_number, wanted)
    elif order.kind == RunKind.EVALUATE:
        prompts = prompts.filter(split=Split.TEST)
    else:
        prompts = prompts.filter(split=Split.TRAIN)
    if order.kind == RunKind.REWARD_MODEL:
        limit = values["policy_samples"]
    is_distilled = order.kind == RunKind.DISTILL and values["eval_prompts"]
    if order.kind in ONLINE or is_distilled:
        held_out = Prompt.objects.filter(project=order.project, split=Split.TEST)
        n = write_prompts(folder / values["held_out"], held_out, values["eval_prompts"])
        if is_distilled and not n:
            raise RunRefused(_nothing_to_compare_by(order.project))
    if not write_prompts(folder / "prompts.jsonl", prompts, limit):
        raise RunRefused(_no_prompts(order))


def folders_read(order: Order) -> list[str]:
    """All folders of models and documents that the run reads, those included on which a model stands that its
    configuration names: for a launcher that shows it nothing else."""
    if order.kind == RunKind.SEARCH:
        order = tried_by(order)
    named = [*(order.settings.get("rewards") or []), *(order.settings.get("parts") or [])]
    asked = [each.get("version") for each in named]
    versions = [*order.versions.values(), *order.project.model_versions.filter(name__in=asked)]
    folders = [folder for version in versions for folder in folders_of(version)]
    if order.kind == RunKind.INDEX:
        folders.append(collection_of(order).path)
    return list(dict.fromkeys(folders))


def _hashes(order: Order) -> dict[str, Files]:
    """What the run's process checks before it begins: {folder: {file: …}}."""
    return {
        **recorded(order.project, folders_read(order)),
        **_hashes_of_import(order),
        **_hashes_of_export(order),
        **hashes_of_datasets(order.datasets),
    }


def _hashes_of_import(order: Order) -> dict[str, Files]:
    """Of a model that some project has imported before: it is taken as it lies there."""
    if order.kind != RunKind.IMPORT_MODEL:
        return {}
    folder = Path(_import_output(order.settings)).resolve()
    before = ModelVersion.objects.filter(path=folder).exclude(files={}).order_by("pk").last()
    return {str(folder): before.files} if before and folder.is_dir() else {}


def files_read(order: Order) -> tuple[str, ...]:
    """Of an export. Single votes are for reward models alone, and the files made of them for nobody."""
    return (*READ_BY_RUNS, SINGLE_VOTES) if order.kind == RunKind.REWARD_MODEL else READ_BY_RUNS


def _hashes_of_export(order: Order) -> dict[str, Files]:
    """The manifest's hash is that of the file which `_check_export` has just compared."""
    export = order.export
    if export is None:
        return {}
    known = {**files_of_export(export), MANIFEST: {"sha256": sha256_of(export.folder / MANIFEST)}}
    return {"data": {name: known[name] for name in files_read(order) if name in known}}


def _copy_export(export: Export, names: Iterable[str], target: Path) -> None:
    target.mkdir()
    for name in names:
        link_or_copy(export.folder / name, target / name)


def _nothing_to_compare_by(project: Project) -> str:
    return (
        "No prompt is held out, by which trials could be compared "
        f"({project.held_out_percent} % of new ones are): import more."
    )


def _no_prompts(order: Order) -> str:
    if not Prompt.objects.filter(project=order.project).exclude(split=Split.GOLD).exists():
        return "This project has no prompts yet: import some first."
    percent = order.project.held_out_percent
    if order.kind in (RunKind.EVALUATE, RunKind.SUITE):
        return f"No prompt is held out for evaluation ({percent} % of new ones are): import more."
    if order.kind == RunKind.GENERATE:
        return (
            f"Every prompt has its answers of round {order.round_number} already: import more "
            "prompts, or start the next round."
        )
    return f"All prompts are held out for evaluation ({percent} % of new ones are): import more."

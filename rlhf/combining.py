"""Adapters as parts: which policies can be combined, and of which a combined one was made.

Parts are named, as sources of rewards are: names of versions never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from annotator.models import Project
from rlhf.downloads import adapters_below, base_of
from rlhf.models import ModelKind, ModelVersion, Run, RunKind
from rlhf.training.artifacts import read_json
from rlhf.training.combine_config import Part as Named

MOST_LISTED = 50


class Part(NamedTuple):
    version: ModelVersion
    weight: float


def can_be_part(version: ModelVersion) -> bool:
    """Whether it is LoRA adapters without DoRA, all the way down to its base."""
    if version.kind != ModelKind.POLICY or version.is_whole_model:
        return False
    return all(_is_plain_lora(Path(each.path)) for each in [*adapters_below(version), version])


def _is_plain_lora(folder: Path) -> bool:
    file = folder / "adapter_config.json"
    if not file.is_file():
        return False
    config = read_json(file)
    return config.get("peft_type") == "LORA" and not config.get("use_dora")


def candidates(project: Project) -> list[ModelVersion]:
    """The newest policies that can be parts."""
    rows = project.model_versions.filter(kind=ModelKind.POLICY).exclude(parent=None)
    return [version for version in rows[:MOST_LISTED] if can_be_part(version)]


def find_parts(project: Project, named: Sequence[Named]) -> list[Part]:
    """The policies that are named, with their weights. Raises ValueError with a sentence."""
    names = [part["version"] for part in named]
    versions = {each.name: each for each in project.model_versions.filter(name__in=names)}
    for name in names:
        if name not in versions:
            raise ValueError(f"this project has no policy {name}")
        if not can_be_part(versions[name]):
            raise ValueError(f"{name} is no plain LoRA adapter: only those can be added up")
    first = base_of(versions[names[0]])
    for name in names:
        if (other := base_of(versions[name])) != first:
            raise ValueError(
                f"{names[0]} is an adapter of {first}, and {name} of {other}: only adapters of one base "
                "can be added up"
            )
    return [Part(versions[part["version"]], part["weight"]) for part in named]


def parts_of(run: Run | None) -> list[Part]:
    """Of what a run combined its policy; empty if it is another kind of run."""
    if run is None or run.kind != RunKind.COMBINE:
        return []
    named = run.config["parts"]
    rows = run.project.model_versions.filter(name__in=[part["version"] for part in named])
    versions = {each.name: each for each in rows.select_related("run", "parent")}
    return [Part(versions[part["version"]], part["weight"]) for part in named]

"""From votes to weights: which exports, reward models and policies carry somebody's votes.

A version carries them if it was trained on an export that has them, or comes from a version that
does: its parent, the policy or the base that its run started from, or a reward model that its run asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from annotator.models import ExportAnnotator, Project, User
from rlhf.models import ACTIVE, RESUMABLE, ModelKind, ModelVersion, Run, RunKind

MAKE_VERSIONS = [RunKind.REWARD_MODEL, RunKind.PPO]  # by training


class Carriers(NamedTuple):
    """All that carries the votes of one person, newest first."""

    exports: list[ExportAnnotator]
    reward_models: list[ModelVersion]
    policies: list[ModelVersion]
    runs: list[Run]  # under way on one of these; what they make will carry them too

    @property
    def is_empty(self) -> bool:
        return not (self.exports or self.reward_models or self.policies or self.runs)


def carriers_of(project: Project, annotator: User) -> Carriers:
    """Three queries, however long the loop has gone on; no file is read."""
    exports = list(
        ExportAnnotator.objects.filter(export__project=project, annotator=annotator)
        .select_related("export")
        .order_by("-export")
    )
    numbers = {row.export_id for row in exports}
    versions = list(
        ModelVersion.objects.filter(project=project)
        .select_related("run", "project")
        .defer("details", "probe", "run__result", "run__alarms", "run__estimate")
        .order_by("pk")
    )
    by_name = {version.name: version.pk for version in versions}
    carrying: set[int] = set()
    for version in versions:  # what a version comes from was there before it
        if _carries(version.parent_id, version.run, numbers, carrying, by_name):
            carrying.add(version.pk)
    carriers = [version for version in reversed(versions) if version.pk in carrying]
    return Carriers(
        exports=exports,
        reward_models=[version for version in carriers if version.kind == ModelKind.REWARD],
        policies=[version for version in carriers if version.kind == ModelKind.POLICY],
        runs=[
            run
            for run in project.runs.filter(
                status__in=[*ACTIVE, *RESUMABLE], kind__in=MAKE_VERSIONS
            ).select_related("project")
            if _carries(None, run, numbers, carrying, by_name)
        ],
    )


def _carries(
    parent_id: int | None,
    run: Run | None,
    exports: set[int],
    carrying: set[int],
    by_name: Mapping[str, int],
) -> bool:
    if parent_id in carrying:
        return True
    if run is None:
        return False
    rules = run.config.get("rewards") or []
    asked = {by_name.get(rule.get("version", "")) for rule in rules}
    sources = {run.policy_id, run.reward_model_id, run.base_id, *asked}
    return run.export_id in exports or not carrying.isdisjoint(sources)

"""What an admin is asked before a run: a few settings in view, the others folded.

A form yields what `runs.launch` takes: the models and the export to use, limited to those of the
project, and `settings`, the values of the run's config. Defaults are the config's own.
"""

from __future__ import annotations

from typing import Any

from rlhf.forms.answers import EvaluateForm, GenerateForm
from rlhf.forms.base import RunForm
from rlhf.forms.combining import CombineForm
from rlhf.forms.distilling import DistillForm
from rlhf.forms.group import GRPOForm, RLOOForm
from rlhf.forms.importing import ImportModelForm
from rlhf.forms.index import IndexForm
from rlhf.forms.others import ConverseForm, MergeForm, OrderQueueForm, ProbeForm
from rlhf.forms.ppo import PPOForm
from rlhf.forms.preference import DPOForm, KTOForm
from rlhf.forms.reward_model import RewardModelForm
from rlhf.forms.screening import ScreenForm
from rlhf.forms.searching import SearchForm
from rlhf.forms.suite import SuiteForm
from rlhf.forms.supervised import DomainForm, SupervisedForm
from rlhf.models import Run, RunKind
from rlhf.training.reward_rules import format_lines
from rlhf.training.search_config import INPUTS

__all__ = [
    "FORMS",
    "CombineForm",
    "ConverseForm",
    "DistillForm",
    "DomainForm",
    "EvaluateForm",
    "GenerateForm",
    "ImportModelForm",
    "IndexForm",
    "MergeForm",
    "OrderQueueForm",
    "PPOForm",
    "ProbeForm",
    "RewardModelForm",
    "RunForm",
    "ScreenForm",
    "SearchForm",
    "SuiteForm",
    "SupervisedForm",
    "settings_like",
]

FORMS: dict[str, type[RunForm]] = {
    form.kind: form
    for form in (
        ImportModelForm,
        GenerateForm,
        RewardModelForm,
        PPOForm,
        EvaluateForm,
        ProbeForm,
        OrderQueueForm,
        ConverseForm,
        MergeForm,
        ScreenForm,
        CombineForm,
        SupervisedForm,
        DomainForm,
        RLOOForm,
        GRPOForm,
        DPOForm,
        KTOForm,
        SearchForm,
        DistillForm,
        IndexForm,
        SuiteForm,
    )
}


def settings_like(run: Run) -> dict[str, Any]:
    """Initial values of the run's form: what it was started with."""
    rows = {
        name: getattr(run, name)
        for name in ("policy", "rival", "reward_model", "base", "judge", "export")
    }
    rows["datasets"] = list(run.datasets.all())
    rewards = format_lines(run.rewards)
    return {**run.config, **rows, "rewards": rewards, "max_prompts": _number_of_prompts(run)}


def _number_of_prompts(run: Run) -> int | None:
    """Only its folder knows of how many prompts it was given a sample."""
    folder = run.folder / INPUTS if run.kind == RunKind.SEARCH else run.folder
    try:
        with (folder / "prompts.jsonl").open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:  # it reads none, or its folder has been cleared away
        return None

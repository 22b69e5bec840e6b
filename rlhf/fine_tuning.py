"""The ways to a better policy, side by side: when to take which, what it needs, where it begins."""

from __future__ import annotations

from typing import NamedTuple

from django.db.models import Count
from django.urls import reverse

from annotator.models import Project
from rlhf.models import DatasetKind, ModelKind, RunKind, Status


class Route(NamedTuple):
    title: str
    when: str  # one sentence
    kind: RunKind | None  # whose form it begins with; None: it is no run
    needs: tuple[str, ...] = ("policy",)  # keys of NEEDS
    query: str = ""  # of the form's address
    page: str = "rlhf:new_run"  # it begins with


class Need(NamedTuple):
    label: str
    is_there: bool
    url: str  # where one gets it


class Card(NamedTuple):
    route: Route
    url: str
    needs: list[Need]
    n_done: int  # runs of the kind that succeeded


# Roughly in the order in which to try them.
ROUTES = [
    Route(
        "Examples in the prompt",
        "Always first: good answers stand before the question, and nothing is trained.",
        None,
        page="rlhf:new_prompt",
    ),
    Route(
        "Retrieval",
        "What a good answer has to know stands in your documents: the passages that fit best are quoted "
        "before the question, and nothing is trained.",
        None,
        ("policy", "documents"),
        page="rlhf:new_prompt",
    ),
    Route(
        "Domain tuning",
        "The model does not know your field's words: let it read your texts, as it was pre-trained.",
        RunKind.DOMAIN,
        ("policy", "text"),
    ),
    Route(
        "Supervised fine-tuning",
        "You can show what a good answer looks like: rewrites, best answers, or conversations from "
        "elsewhere.",
        RunKind.SUPERVISED,
        ("policy", "demonstrations"),
    ),
    Route(
        "Distillation",
        "A better model is at hand, here or elsewhere: it writes, a reward model or rules pick, and your "
        "policy learns from that.",
        RunKind.DISTILL,
    ),
    Route(
        "DPO",
        "You have votes on pairs, and want a policy from them in one step, without a reward model.",
        RunKind.DPO,
        ("policy", "export"),
    ),
    Route(
        "KTO",
        "The same, with each answer by itself: chosen ones are good, rejected ones bad, and the one kind "
        "may count more than the other. Ties and “all bad” teach neither of them.",
        RunKind.KTO,
        ("policy", "export"),
    ),
    Route(
        "Reward model",
        "People can say which answer is better, more easily than write it: the first step to PPO, and "
        "to the best of n.",
        RunKind.REWARD_MODEL,
        ("policy", "export"),
    ),
    Route(
        "Best of n",
        "You have a reward model or rules, time at each answer, and want no training: the best of "
        "several answers is shown.",
        RunKind.EVALUATE,
        ("policy", "reward_model"),
        "?best_of=16",
    ),
    Route(
        "PPO",
        "You have a reward model or rules, and want a policy that is better at every answer.",
        RunKind.PPO,
        ("policy", "reward_model"),
    ),
    Route(
        "GRPO",
        "As PPO, with several answers to each prompt in place of a value function: less memory.",
        RunKind.GRPO,
        ("policy", "reward_model"),
    ),
    Route(
        "RLOO",
        "The same, with the mean of the other answers as the measure, and the KL in the reward.",
        RunKind.RLOO,
        ("policy", "reward_model"),
    ),
    Route(
        "Combine adapters",
        "Two policies have learned different things: their adapters are added up, and nothing is trained.",
        RunKind.COMBINE,
        ("trained",),
    ),
    Route(
        "Search",
        "You do not know which settings to take: several runs are tried, the best is kept.",
        RunKind.SEARCH,
    ),
]


def cards_of(project: Project) -> list[Card]:
    """Each route with what the project has for it; six queries, however many routes there are."""
    needs = _needs(project)
    succeeded = project.runs.filter(status=Status.SUCCEEDED).order_by().values("kind")
    done = dict(succeeded.annotate(n=Count("pk")).values_list("kind", "n"))
    return [
        Card(
            route,
            _url(project, route),
            [needs[name] for name in route.needs],
            0 if route.query or not route.kind else done.get(route.kind, 0),
        )
        for route in ROUTES
    ]


def _url(project: Project, route: Route) -> str:
    kind = [route.kind] if route.kind else []
    return reverse(route.page, args=[project.slug, *kind]) + route.query


def _needs(project: Project) -> dict[str, Need]:
    versions = set(project.model_versions.order_by().values_list("kind", flat=True).distinct())
    kinds = set(project.datasets.order_by().values_list("kind", flat=True).distinct())
    trained = project.model_versions.filter(kind=ModelKind.POLICY).exclude(parent=None).count()
    datasets = reverse("rlhf:datasets", args=[project.slug])
    importing = reverse("rlhf:new_run", args=[project.slug, RunKind.IMPORT_MODEL])
    exports = reverse("annotator:exports", args=[project.slug])
    reward = reverse("rlhf:new_run", args=[project.slug, RunKind.REWARD_MODEL])
    documents = reverse("rlhf:collections", args=[project.slug])
    supervised = reverse("rlhf:new_run", args=[project.slug, RunKind.SUPERVISED])
    return {
        "policy": Need("a policy", ModelKind.POLICY in versions, importing),
        "reward_model": Need("a reward model", ModelKind.REWARD in versions, reward),
        "export": Need("an export", project.exports.exists(), exports),
        "demonstrations": Need(
            "a dataset of demonstrations", DatasetKind.DEMONSTRATIONS in kinds, datasets
        ),
        "text": Need("a dataset of text", DatasetKind.TEXT in kinds, datasets),
        "documents": Need("documents", project.collections.exists(), documents),
        "trained": Need("two trained policies", trained >= 2, supervised),
    }

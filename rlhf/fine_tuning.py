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
    kind: RunKind  # whose form it begins with
    needs: tuple[str, ...] = ("policy",)  # keys of NEEDS
    query: str = ""  # of the form's address


class Need(NamedTuple):
    label: str
    is_there: bool
    url: str  # where one gets it


class Card(NamedTuple):
    route: Route
    url: str
    needs: list[Need]
    n_done: int  # runs of the kind that succeeded


# Roughly in the order in which to try them; a prompt version comes before all of them.
ROUTES = [
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
        "The same where answers are called good or bad one by one, or all of a pair are bad.",
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
        "You have a reward model and time at each answer, and want no training: the best of several "
        "answers is shown.",
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
        "Search",
        "You do not know which settings to take: several runs are tried, the best is kept.",
        RunKind.SEARCH,
    ),
]


def cards_of(project: Project) -> list[Card]:
    """Each route with what the project has for it; four queries, however many routes there are."""
    needs = _needs(project)
    succeeded = project.runs.filter(status=Status.SUCCEEDED).order_by().values("kind")
    done = dict(succeeded.annotate(n=Count("pk")).values_list("kind", "n"))
    return [
        Card(
            route,
            reverse("rlhf:new_run", args=[project.slug, route.kind]) + route.query,
            [needs[name] for name in route.needs],
            0 if route.query else done.get(route.kind, 0),
        )
        for route in ROUTES
    ]


def _needs(project: Project) -> dict[str, Need]:
    versions = set(project.model_versions.order_by().values_list("kind", flat=True).distinct())
    kinds = set(project.datasets.order_by().values_list("kind", flat=True).distinct())
    datasets = reverse("rlhf:datasets", args=[project.slug])
    importing = reverse("rlhf:new_run", args=[project.slug, RunKind.IMPORT_MODEL])
    exports = reverse("annotator:exports", args=[project.slug])
    reward = reverse("rlhf:new_run", args=[project.slug, RunKind.REWARD_MODEL])
    return {
        "policy": Need("a policy", ModelKind.POLICY in versions, importing),
        "reward_model": Need("a reward model", ModelKind.REWARD in versions, reward),
        "export": Need("an export", project.exports.exists(), exports),
        "demonstrations": Need(
            "a dataset of demonstrations", DatasetKind.DEMONSTRATIONS in kinds, datasets
        ),
        "text": Need("a dataset of text", DatasetKind.TEXT in kinds, datasets),
    }

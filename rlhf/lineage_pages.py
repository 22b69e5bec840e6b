"""The page of a lineage, its JSON, and the check of its files. For reviewers and admins.

They see names of annotators, as they do beside each vote; what leaves the server has numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from annotator.access import Access, HtmxRequest, get_access
from annotator.models import Project, Role, User
from rlhf import integrity, lineage
from rlhf.lineage import Edge, Graph, Lineage, Node
from rlhf.lineage_picture import draw
from rlhf.models import FileCheck, RunKind
from rlhf.prompting import put_around

KINDS = ("version", "export", "dataset", "judgment", "completion", "annotator")
PEOPLE_SHOWN = 50
LISTED = 400  # things, in words; the JSON has all
# In a round, the last made first.
RANK = {"policy": 3, "endpoint": 3, "prompt": 3, "reward": 2, "dataset": 2, "export": 1}


@require_safe
@login_required
def lineage_page(request: HtmxRequest, slug: str, kind: str, pk: int) -> HttpResponse:
    access, found = _get_lineage(request, slug, kind, pk)
    everything = "all" in request.GET
    links = _links(access.project, found.whole)
    back = draw(found.back, found.of, is_back=True, everything=everything)
    forward = draw(found.forward, found.of, everything=everything)
    context = {
        **access._asdict(),
        "kind": kind,
        "pk": pk,
        "of": found.of,
        "own_page": _own_page(access.project, found.of),
        "back": [(box, links.get(box.key)) for box in back.boxes] if len(back.boxes) > 1 else [],
        "back_picture": back,
        "back_in_words": _in_words(found.back, links),
        "forward": [(box, links.get(box.key)) for box in forward.boxes]
        if len(forward.boxes) > 1
        else [],
        "forward_picture": forward,
        "forward_in_words": _in_words(found.forward, links),
        "people": _people(found.back),
        "guidelines": [node for node in found.back.nodes.values() if node.kind == "guidelines"],
        "runs": {key: link for key, link in links.items() if key.startswith("run-")},
        "everything": everything,
        "around": put_around(access.project, pk) if kind == "completion" else None,
        **_check_context(access, kind, pk),
    }
    return render(request, "rlhf/lineage.html", context)


@require_safe
@login_required
def lineage_json(request: HtmxRequest, slug: str, kind: str, pk: int) -> JsonResponse:
    _, found = _get_lineage(request, slug, kind, pk)
    return JsonResponse(lineage.as_json(found))


@require_POST
@login_required
def check_files(request: HtmxRequest, slug: str, kind: str, pk: int) -> HttpResponse:
    access, found = _get_lineage(request, slug, kind, pk)
    integrity.ask_for_check(access.project, found.of.key, request.user)
    if not request.htmx:
        return redirect("rlhf:lineage", slug, kind, pk)
    return render(
        request, "rlhf/_file_check.html", {**access._asdict(), **_check_context(access, kind, pk)}
    )


@require_safe
@login_required
def file_check(request: HtmxRequest, slug: str, kind: str, pk: int) -> HttpResponse:
    access = get_access(request, slug, Role.REVIEWER)
    context = {**access._asdict(), **_check_context(access, kind, pk)}
    return render(request, "rlhf/_file_check.html", context)


def _get_lineage(request: HtmxRequest, slug: str, kind: str, pk: int) -> tuple[Access, Lineage]:
    access = get_access(request, slug, Role.REVIEWER)
    found = lineage.find(access.project, kind, pk)
    if found is None:
        raise Http404(f"This project has no {kind} {pk}.")
    return access, found


def _check_context(access: Access, kind: str, pk: int) -> dict[str, Any]:
    check = FileCheck.objects.filter(project=access.project, key=f"{kind}-{pk}").first()
    return {"check": check, "kind": kind, "pk": pk}


# --- where things have pages --------------------------------------------------------------------
def _links(project: Project, graph: Graph) -> dict[str, str]:
    """Boxes lead from one lineage to the next; where there is none, to the page of what they are."""
    return {key: link for key, node in graph.nodes.items() if (link := _link(project, node))}


def _link(project: Project, node: Node) -> str:
    kind = node.key.split("-")[0]
    if kind in KINDS:
        return reverse("rlhf:lineage", args=[project.slug, kind, node.number])
    if kind == "run":
        return reverse("rlhf:run", args=[project.slug, node.number])
    if kind == "votes":
        return reverse("annotator:comparisons", args=[project.slug]) + f"?export={node.number}"
    if kind == "guidelines":
        return reverse("annotator:guideline_version", args=[project.slug, node.number])
    return ""


def _own_page(project: Project, node: Node) -> str:
    if node.key.startswith("version"):
        return reverse("rlhf:model_version", args=[project.slug, node.number])
    if node.kind == "dataset":
        return reverse("rlhf:dataset", args=[project.slug, node.number])
    return reverse("annotator:exports", args=[project.slug]) if node.kind == "export" else ""


# --- in words -------------------------------------------------------------------------------------
class Sentence(NamedTuple):
    node: Node
    link: str
    made_of: list[tuple[Edge, Node, str]]


def _in_words(graph: Graph, links: Mapping[str, str]) -> list[Sentence]:
    """What each thing was made of, the latest first; a run is told of with what it made. People are in
    a list of their own."""
    to: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        if graph.nodes[edge.source].kind not in ("annotator", "guidelines"):
            to.setdefault(edge.target, []).append(edge)
    made = [node for node in graph.nodes.values() if node.key in to and node.kind != "run"]
    imported = {
        edge.target
        for edge in graph.edges
        if graph.nodes[edge.source].facts.get("run_kind") == RunKind.IMPORT_MODEL
    }
    made.sort(
        key=lambda node: (
            node.round,
            node.key not in imported,
            RANK.get(node.kind, 0),
            node.number or 0,
        ),
        reverse=True,
    )
    sentences = []
    for node in made[:LISTED]:
        edges = list(to[node.key])
        for edge in to[node.key]:
            edges += to.get(edge.source, []) if graph.nodes[edge.source].kind == "run" else []
        made_of = [(edge, graph.nodes[edge.source], links.get(edge.source, "")) for edge in edges]
        sentences.append(Sentence(node, links.get(node.key, ""), made_of))
    return sentences


def _people(graph: Graph) -> list[tuple[User, int]]:
    """Who voted, and how often in the export that has most of them; the most first."""
    most: dict[int, int] = {}
    for edge in graph.edges:
        person = graph.nodes[edge.source]
        if person.kind == "annotator" and person.number is not None:
            n = edge.facts.get("judgments", 1)
            most[person.number] = max(n, most.get(person.number, 0))
    shown = dict(sorted(most.items(), key=lambda item: -item[1])[:PEOPLE_SHOWN])
    people = User.objects.in_bulk(list(shown))
    return [(people[pk], n) for pk, n in shown.items() if pk in people]

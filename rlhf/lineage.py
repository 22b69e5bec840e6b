"""From votes to weights, and back: where a model version comes from, and what carries a vote.

A version carries votes if it was trained on an export that has them, or comes from a version that
does: its parent, the policy or the base that its run started from, or a reward model that its run asked.
A prompt version carries those by which its examples were chosen.

All exports, versions and the runs that made them are one graph, from what was used to what was made of it.
A lineage is the part of it that leads to a node, and the part that it leads to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.db.models import F, QuerySet

from annotator.models import (
    Completion,
    Export,
    ExportAnnotator,
    Judgment,
    Project,
    User,
)
from annotator.tracing import Doubts, exports_with_completion, exports_with_judgment
from annotator.withdrawing import known_here
from rlhf.models import (
    ACTIVE,
    MAKE_POLICIES,
    RESUMABLE,
    Dataset,
    GeneratedCompletion,
    ModelKind,
    ModelVersion,
    Run,
    RunKind,
    Status,
)

MAKE_VERSIONS = [  # of other versions
    RunKind.REWARD_MODEL, RunKind.COMBINE, RunKind.SUPERVISED, RunKind.DOMAIN, RunKind.SEARCH,
    *MAKE_POLICIES,
]  # fmt: skip
WRITE_ANSWERS = [RunKind.GENERATE, RunKind.CONVERSE]
ANNOTATORS_LISTED = 1000  # of all exports of a lineage together


# --- what carries somebody's votes --------------------------------------------------------------
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
    """A few queries, however long the loop has gone on; no file is read."""
    exports = list(
        ExportAnnotator.objects.filter(export__project=project, annotator=annotator)
        .select_related("export")
        .order_by("-export")
    )
    numbers = {row.export_id for row in exports}
    versions = _versions_of(project)
    learnt = exports_by_datasets(project)
    by_name = {version.name: version.pk for version in versions}
    taught = versions_by_datasets(project, by_name)
    carrying: set[int] = set()
    for version in versions:  # what a version comes from was there before it
        chose_examples = annotator.pk in (version.annotators or [])  # type: ignore[attr-defined]
        if chose_examples or _carries(
            version.parent_id, version.run, numbers, carrying, by_name, learnt, taught
        ):
            carrying.add(version.pk)
    carriers = [version for version in reversed(versions) if version.pk in carrying]
    return Carriers(
        exports=exports,
        reward_models=[version for version in carriers if version.kind == ModelKind.REWARD],
        policies=[
            version for version in carriers if version.kind in (ModelKind.POLICY, ModelKind.PROMPT)
        ],
        runs=[
            run
            for run in project.runs.filter(
                status__in=[*ACTIVE, *RESUMABLE], kind__in=MAKE_VERSIONS
            ).select_related("project")
            if _carries(None, run, numbers, carrying, by_name, learnt, taught)
        ],
    )


def _versions_of(project: Project) -> list[ModelVersion]:
    """Oldest first, with the runs that made them, and without what weighs much; `annotators` are those by
    whose votes the examples of a prompt version were chosen."""
    versions = ModelVersion.objects.filter(project=project).select_related("run", "project")
    large = ("details", "files", "probe", "run__result", "run__alarms", "run__estimate")
    return list(versions.defer(*large).annotate(annotators=F("details__annotators")).order_by("pk"))


def _carries(
    parent_id: int | None,
    run: Run | None,
    exports: set[int],
    carrying: set[int],
    by_name: Mapping[str, int],
    learnt: Mapping[int, set[int]],
    taught: Mapping[int, set[int]],
) -> bool:
    if parent_id in carrying:
        return True
    if run is None:
        return False
    if run.export_id in exports or not exports.isdisjoint(learnt.get(run.pk, ())):
        return True
    return not carrying.isdisjoint({*_used_by(run, by_name), *taught.get(run.pk, ())})


def versions_by_datasets(project: Project, by_name: Mapping[str, int]) -> dict[int, set[int]]:
    """Of each run that learnt from datasets, the versions that wrote these or picked their rows."""
    datasets = Dataset.objects.filter(project=project, runs__isnull=False, run__isnull=False)
    found: dict[int, set[int]] = defaultdict(set)
    for dataset in datasets.distinct().select_related("run").prefetch_related("runs"):
        assert dataset.run is not None
        for learner in dataset.runs.all():
            found[learner.pk].update(_used_by(dataset.run, by_name))
    return found


def exports_by_datasets(project: Project) -> dict[int, set[int]]:
    """Of each run that learnt from datasets, the exports that these were made of; one query."""
    rows = Dataset.objects.filter(project=project, runs__isnull=False, export__isnull=False)
    found: dict[int, set[int]] = defaultdict(set)
    for run, export in rows.order_by().values_list("runs", "export"):
        found[run].add(export)
    return found


def _used_by(run: Run, by_name: Mapping[str, int]) -> dict[int, str]:
    """The versions that a run trained with or combined, and as what."""
    asked = [by_name.get(rule.get("version", "")) for rule in run.rewards]
    parts = [by_name.get(part["version"]) for part in run.config.get("parts") or []]
    used = {
        **dict.fromkeys(asked, "rewarded by"),
        **dict.fromkeys(parts, "combined from"),
        run.reward_model_id: "rewarded by",
        run.base_id: "made from",
        run.policy_id: "started from",
    }
    if RunKind.DISTILL in (run.kind, run.config.get("tries")):
        used |= {run.rival_id: "rehearsed by", run.policy_id: "taught by"}
    return {pk: role for pk, role in used.items() if pk is not None}


# --- the graph of a project ---------------------------------------------------------------------
class Node(NamedTuple):
    """Something that was used, made or said."""

    key: str  # its kind and number. Example: "export-3"
    kind: (
        str  # policy, reward, base, run, export, votes, source, judgment, completion, annotator, …
    )
    number: int | None
    name: str
    round: int
    facts: dict[str, Any] = {}


class Edge(NamedTuple):
    """`source` was used for `target`, or made it."""

    source: str
    target: str
    role: str  # read from the target. Example: run 7 was "started from" version 3
    facts: dict[str, Any] = {}


WROTE = "about answers of"  # votes, of the policy that wrote what was voted on


class Graph(NamedTuple):
    nodes: dict[str, Node]
    edges: list[Edge]

    def part(self, keys: set[str]) -> Graph:
        """These nodes and the edges among them, in the same order."""
        nodes = {key: node for key, node in self.nodes.items() if key in keys}
        edges = [edge for edge in self.edges if edge.source in keys and edge.target in keys]
        return Graph(nodes, edges)

    def ancestors(self, starts: Iterable[str]) -> Graph:
        return self.part(_reached(starts, ((edge.target, edge.source) for edge in self.edges)))

    def descendants(self, starts: Iterable[str], *, without: str = "") -> Graph:
        """`without`: a role of edges that are not followed."""
        followed = [edge for edge in self.edges if edge.role != without]
        found = self.part(_reached(starts, ((edge.source, edge.target) for edge in followed)))
        return Graph(found.nodes, [edge for edge in found.edges if edge.role != without])


def _reached(starts: Iterable[str], steps: Iterable[tuple[str, str]]) -> set[str]:
    next_to = defaultdict(list)
    for here, there in steps:
        next_to[here].append(there)
    reached = set(starts)
    ahead = list(reached)
    while ahead:
        new = [key for key in next_to[ahead.pop()] if key not in reached]
        reached.update(new)
        ahead.extend(new)
    return reached


def version_key(pk: int) -> str:
    return f"version-{pk}"


def export_key(pk: int) -> str:
    return f"export-{pk}"


def dataset_key(pk: int) -> str:
    return f"dataset-{pk}"


def graph_of(project: Project) -> Graph:
    """All of it but people, in a few queries: it grows with exports, datasets and versions, not with
    votes."""
    versions = _versions_of(project)
    exports = list(project.exports.order_by("pk"))
    writers = _runs_that_wrote(project, exports)
    nodes: list[Node] = []
    edges: list[Edge] = []
    by_name = {version.name: version.pk for version in versions}
    for export in exports:
        of_votes = _votes_of(export, by_name, writers)
        nodes += [*of_votes.nodes.values(), _export_node(export)]
        edges += [*of_votes.edges, Edge(f"votes-{export.pk}", export_key(export.pk), "frozen from")]
    for version in versions:
        edges += _edges_to(version, by_name)
        if version.run is not None:
            nodes.append(_run_node(version.run))
        nodes.append(_version_node(version))
    of_datasets = _datasets_of(project, by_name)
    return _plus(
        Graph({node.key: node for node in nodes}, edges),
        of_datasets.nodes.values(),
        of_datasets.edges,
    )


def _datasets_of(project: Project, by_name: Mapping[str, int]) -> Graph:
    """The datasets, what each was made of, and the runs that learnt from it and have made something."""
    nodes, edges = [], []
    for dataset in project.datasets.order_by("pk").select_related("run", "export"):
        key = dataset_key(dataset.pk)
        made_in = dataset.run or dataset.export
        number = made_in.round_number if made_in else 0
        facts = {"rows": dataset.n_rows, "origin": dataset.origin}
        nodes.append(Node(key, "dataset", dataset.pk, dataset.name, number, facts))
        if dataset.export_id is not None:
            edges.append(Edge(export_key(dataset.export_id), key, "made from"))
        if dataset.run is not None:
            nodes.append(_run_node(dataset.run))
            edges.append(Edge(f"run-{dataset.run.pk}", key, "made by"))
            edges += [
                Edge(version_key(pk), f"run-{dataset.run.pk}", role)
                for pk, role in _used_by(dataset.run, by_name).items()
            ]
    learnt = ModelVersion.objects.filter(project=project, run__datasets__isnull=False)
    pairs = learnt.order_by("pk").values_list("run", "run__datasets").distinct()
    edges += [Edge(dataset_key(dataset), f"run-{run}", "learned from") for run, dataset in pairs]
    return Graph({node.key: node for node in nodes}, edges)


def _version_node(version: ModelVersion) -> Node:
    number = version.run.round_number if version.run else 0
    return Node(version_key(version.pk), version.kind, version.pk, version.name, number)


def _run_node(run: Run) -> Node:
    facts = {"run_kind": run.kind, "status": run.status}
    return Node(f"run-{run.pk}", "run", run.pk, str(run), run.round_number, facts)


def _edges_to(version: ModelVersion, by_name: Mapping[str, int]) -> Iterator[Edge]:
    """To a version and to the run that made it."""
    target = version_key(version.pk)
    used = _used_by(version.run, by_name) if version.run else {}
    if version.parent_id is not None and version.parent_id not in used:
        yield Edge(version_key(version.parent_id), target, "comes from")
    if version.run is None:
        return
    run = f"run-{version.run.pk}"
    for pk, role in used.items():
        yield Edge(version_key(pk), run, role)
    if version.run.export_id is not None:
        yield Edge(export_key(version.run.export_id), run, "learned from")
    yield Edge(run, target, "made by")


def _export_node(export: Export) -> Node:
    facts = {"pairs": export.n_rows, "sha256": export.sha256}
    name = f"export {export.pk}"
    return Node(export_key(export.pk), "export", export.pk, name, export.round_number, facts)


def _votes_of(export: Export, by_name: Mapping[str, int], writers: Sequence[Run]) -> Graph:
    """The votes that an export froze, as one node, and who wrote what they are about."""
    manifest = export.manifest
    key = f"votes-{export.pk}"
    facts = {
        "judgments": export.n_judgments,
        "annotators": manifest.get("counts", {}).get("annotators"),
        "comparisons": manifest.get("counts", {}).get("comparisons"),
        "guideline_versions": manifest.get("guideline_versions", {}),
    }
    name = f"{export.n_judgments:,} vote{'s' if export.n_judgments != 1 else ''}"
    nodes = [Node(key, "votes", export.pk, name, export.round_number, facts)]
    edges = []
    for source, n in _sources_of(export, writers).items():
        about = {} if n is None else {"answers": n}
        if source in by_name:
            edges.append(Edge(version_key(by_name[source]), key, WROTE, about))
        else:
            other = f"source-{source}"
            nodes.append(Node(other, "source", None, source, export.round_number))
            edges.append(Edge(other, key, WROTE, about))
    return Graph({node.key: node for node in nodes}, edges)


def _sources_of(export: Export, writers: Sequence[Run]) -> dict[str, int | None]:
    """Whose answers the votes are about, and how many. Of an export whose manifest does not say so:
    the policies that had written answers by then, up to its round; their number is not known."""
    if "sources" in export.manifest:
        return export.manifest["sources"]
    wrote = [
        run
        for run in writers
        if run.round_number <= export.round_number
        and run.started is not None
        and run.started <= export.created
    ]
    policies = [policy for run in wrote for policy in (run.policy, run.rival) if policy]
    return {policy.name: None for policy in policies}


def _runs_that_wrote(project: Project, exports: Sequence[Export]) -> list[Run]:
    """Not asked for if all exports say themselves whose answers they are about."""
    if all("sources" in export.manifest for export in exports):
        return []
    runs = project.runs.filter(kind__in=WRITE_ANSWERS).exclude(status=Status.QUEUED)
    return list(runs.select_related("policy", "rival").order_by("pk"))


# By key of an export: how many votes it has, where that is known, or why it is not sure that it has any.
Facts = dict[str, dict[str, Any]]


# --- the lineage of one thing -------------------------------------------------------------------
class Lineage(NamedTuple):
    """Where something comes from, and what comes from it. Both parts have it itself."""

    of: Node
    back: Graph
    forward: Graph

    @property
    def whole(self) -> Graph:
        nodes = {**self.back.nodes, **self.forward.nodes}
        known = {(edge.source, edge.target, edge.role) for edge in self.back.edges}
        edges = [edge for edge in self.forward.edges if edge[:3] not in known]
        return Graph(nodes, [*self.back.edges, *edges])


def find(project: Project, kind: str, number: str | int) -> Lineage | None:
    """Of what an address or a check names: version 7, export 3, dataset 2, judgment, completion or annotator."""
    if kind == "version" and (version := project.model_versions.filter(pk=number).first()):
        return of_version(version)
    if kind == "export" and (export := project.exports.filter(pk=number).first()):
        return of_export(export)
    if kind == "dataset" and (dataset := project.datasets.filter(pk=number).first()):
        return of_dataset(dataset)
    if kind == "judgment" and (judgment := project.judgments.filter(pk=number).first()):
        return of_judgment(judgment)
    if kind == "completion":
        completions = Completion.objects.filter(prompt__project=project, pk=number)
        if completion := completions.select_related("prompt__project").first():
            return of_completion(completion)
    if kind == "annotator" and (annotator := known_here(project).filter(pk=number).first()):
        return of_annotator(project, annotator)
    return None


def of_version(version: ModelVersion) -> Lineage:
    graph = graph_of(version.project)
    key = version_key(version.pk)
    return Lineage(graph.nodes[key], _with_people(graph.ancestors([key])), graph.descendants([key]))


def of_export(export: Export) -> Lineage:
    """What carries it: what learned from it, not what people said of that model's answers later."""
    graph = graph_of(export.project)
    key = export_key(export.pk)
    forward = graph.descendants([key], without=WROTE)
    return Lineage(graph.nodes[key], _with_people(graph.ancestors([key])), forward)


def of_dataset(dataset: Dataset) -> Lineage:
    graph = graph_of(dataset.project)
    key = dataset_key(dataset.pk)
    return Lineage(graph.nodes[key], _with_people(graph.ancestors([key])), graph.descendants([key]))


def of_annotator(project: Project, annotator: User) -> Lineage:
    rows = ExportAnnotator.objects.filter(export__project=project, annotator=annotator)
    exports = {export_key(row.export_id): {"judgments": row.n_judgments} for row in rows}
    node = _person_node(annotator.pk)
    return Lineage(node, Graph({node.key: node}, []), _from_exports(project, node, exports))


def of_completion(completion: Completion) -> Lineage:
    project = completion.prompt.project
    first = completion.comparisons.order_by("pk").first()
    node = _completion_node(completion, first.round_number if first else 1)
    graph = _plus(graph_of(project), [node], [])
    graph = _plus(graph, *_written_by([completion], graph))
    exports = _with_doubts(exports_with_completion(completion))
    return Lineage(node, graph.ancestors([node.key]), _from_exports(project, node, exports))


def of_judgment(judgment: Judgment) -> Lineage:
    """Where what was judged comes from, and what carries the vote."""
    project = judgment.project
    number = judgment.comparison.round_number
    node = Node(f"judgment-{judgment.pk}", "judgment", judgment.pk, f"vote {judgment.pk}", number)
    completions = list(judgment.comparison.completions.order_by("pk"))
    person, guidelines = (
        _person_node(judgment.annotator_id),
        _guidelines_node(judgment.guideline_version),
    )
    shown = [_completion_node(completion, number) for completion in completions]
    edges = [
        Edge(person.key, node.key, "given by"),
        Edge(guidelines.key, node.key, "given under"),
        *(Edge(each.key, node.key, "is about") for each in shown),
    ]
    graph = _plus(graph_of(project), [person, guidelines, *shown, node], edges)
    graph = _plus(graph, *_written_by(completions, graph))
    exports = _with_doubts(exports_with_judgment(judgment))
    return Lineage(node, graph.ancestors([node.key]), _from_exports(project, node, exports))


def _with_doubts(exports: Doubts) -> Facts:
    return {
        export_key(export.pk): {"doubt": doubt} if doubt else {}
        for export, doubt in exports.items()
    }


def _from_exports(project: Project, node: Node, exports: Facts) -> Graph:
    """What carries a vote or an answer that these exports carry."""
    edges = [Edge(node.key, export, "has", facts) for export, facts in exports.items()]
    graph = _plus(graph_of(project), [node], edges)
    return graph.descendants([node.key], without=WROTE)


def _plus(graph: Graph, nodes: Iterable[Node], edges: Iterable[Edge]) -> Graph:
    return Graph({**graph.nodes, **{node.key: node for node in nodes}}, [*graph.edges, *edges])


def _written_by(completions: Sequence[Completion], graph: Graph) -> tuple[list[Node], list[Edge]]:
    """Who wrote answers: model versions by the row that says so, others by the name of their source."""
    rows = GeneratedCompletion.objects.filter(completion__in=completions)
    writer = {row.completion_id: version_key(row.model_version_id) for row in rows}
    nodes, edges = [], []
    for completion in completions:
        source = writer.get(completion.pk)
        if source not in graph.nodes:
            source = f"source-{completion.source}"
            nodes.append(Node(source, "source", None, completion.source, 0))
        edges.append(Edge(source, f"completion-{completion.pk}", "written by"))
    return nodes, edges


def _completion_node(completion: Completion, round_number: int = 0) -> Node:
    pk = completion.pk
    return Node(f"completion-{pk}", "completion", pk, f"answer {pk}", round_number)


def _person_node(pk: int) -> Node:
    return Node(f"annotator-{pk}", "annotator", pk, f"annotator {pk}", 0)


def _guidelines_node(number: int) -> Node:
    return Node(f"guidelines-{number}", "guidelines", number, f"guidelines {number}", 0)


def _with_people(graph: Graph) -> Graph:
    """With who voted, and under which guidelines, for each node of votes; with numbers, no names."""
    votes = [node for node in graph.nodes.values() if node.kind == "votes"]
    nodes, edges = [], []
    rows: QuerySet[ExportAnnotator] = ExportAnnotator.objects.filter(
        export__in=[node.number for node in votes]
    )
    for row in rows.order_by("-n_judgments", "pk")[:ANNOTATORS_LISTED]:
        person = _person_node(row.annotator_id)
        nodes.append(person)
        facts = {"judgments": row.n_judgments}
        edges.append(Edge(person.key, f"votes-{row.export_id}", "given by", facts))
    for node in votes:
        for version, n in node.facts["guideline_versions"].items():
            guidelines = _guidelines_node(int(version))
            nodes.append(guidelines)
            edges.append(Edge(guidelines.key, node.key, "given under", {"judgments": n}))
    return _plus(graph, nodes, edges)


# --- as JSON, and in words ----------------------------------------------------------------------
def as_json(lineage: Lineage) -> dict[str, Any]:
    """`{"of": key, "nodes": […], "edges": […], "back": [keys], "forward": [keys]}`. People are numbers,
    as in exports: names stay in the database."""
    whole = lineage.whole
    return {
        "of": lineage.of.key,
        "nodes": [
            {"id": node.key, **{name: value for name, value in node._asdict().items() if name not in ("key", "facts")}, **node.facts}
            for node in whole.nodes.values()
        ],
        "edges": [
            {"source": edge.source, "target": edge.target, "role": edge.role, **edge.facts}
            for edge in whole.edges
        ],
        "back": list(lineage.back.nodes),
        "forward": list(lineage.forward.nodes),
    }  # fmt: skip


def describe(version: ModelVersion) -> dict[str, Any]:
    """Where a version comes from, for its model card: `as_json`, what of it is worth a sentence each,
    and the SHA-256 of its files."""
    lineage = of_version(version)
    back = lineage.back.nodes.values()
    named = {
        kind: [node.name for node in back if node.kind == kind and node != lineage.of]
        for kind in ("policy", "base", "reward", "run", "source", "dataset")
    }
    exports = [node for node in back if node.kind == "export"]
    votes = [node for node in back if node.kind == "votes"]
    most = max(votes, key=lambda node: node.facts["judgments"], default=None)
    return {
        "name": version.name,
        "kind": version.kind,
        "policies": named["policy"],
        "bases": named["base"],
        "reward_models": named["reward"],
        "runs": named["run"],
        "datasets": named["dataset"],
        "sources": named["source"],
        "exports": [{"number": node.number, **node.facts} for node in exports],
        "judgments": most.facts["judgments"] if most else 0,  # each export has those before it
        "annotators": sum(node.kind == "annotator" for node in back),
        "guideline_versions": sorted(
            node.number for node in back if node.kind == "guidelines" and node.number
        ),
        "files": version.files,
        "graph": as_json(lineage),
    }

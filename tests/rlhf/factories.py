"""Small real objects of the rlhf app, with the folders that belong to them."""

import hashlib
import json
from pathlib import Path

import factory
from django.conf import settings
from django.utils import timezone

from annotator.models import Assignment, Comparison, Completion, Export, Judgment
from rlhf.datasets import create_dataset
from rlhf.gate_models import Gate, Promotion
from rlhf.models import DatasetKind, Endpoint, ModelKind, ModelVersion, Round, Run, RunKind, Status
from rlhf.training.prompting import PROMPTING
from tests.factories import ProjectFactory, UserFactory

PAIR = '{"chosen": 1}\n'


class PolicyFactory(factory.django.DjangoModelFactory):
    """An imported policy whose folder exists."""

    class Meta:
        model = ModelVersion

    project = factory.SubFactory(ProjectFactory)
    name = factory.Sequence(lambda n: f"policy-{n}")
    kind = ModelKind.POLICY
    path = factory.LazyAttribute(lambda version: made_folder(version.name))


class RewardModelFactory(PolicyFactory):
    kind = ModelKind.REWARD
    name = factory.Sequence(lambda n: f"reward-{n}")
    parent = factory.SubFactory(PolicyFactory, project=factory.SelfAttribute("..project"))


class ExportFactory(factory.django.DjangoModelFactory):
    """An export of one pair, with its files."""

    class Meta:
        model = Export
        skip_postgeneration_save = True

    project = factory.SubFactory(ProjectFactory)
    sha256 = hashlib.sha256(PAIR.encode()).hexdigest()
    round_number = 1
    n_rows = 1
    n_judgments = 1
    manifest = {}

    @factory.post_generation
    def files(export, create, extracted, **kwargs):
        export.folder.mkdir(parents=True)
        (export.folder / "data.jsonl").write_text(PAIR)
        (export.folder / "manifest.json").write_text(json.dumps(export.manifest))


def make_dataset(project, name="tales", kind=DatasetKind.TEXT, rows=({"text": "Once."},)):
    return create_dataset(project, name, kind, rows, origin="a test")


def learn_from(dataset, kind=RunKind.DOMAIN):
    """A policy that a run has made of the dataset."""
    project = dataset.project
    run = RunFactory(project=project, kind=kind, status=Status.SUCCEEDED)
    run.datasets.add(dataset)
    return PolicyFactory(project=project, run=run, parent=PolicyFactory(project=project))


def promote_trial(base, tries, details=None, **fields):
    """A search's trial of such runs as a model version, as `searching.promote` makes it."""
    run = RunFactory(
        project=base.project, kind=RunKind.SEARCH, status=Status.SUCCEEDED, policy=base,
        config={"tries": tries, "settings": {}}, **fields,
    )  # fmt: skip
    factory_of = RewardModelFactory if tries == RunKind.REWARD_MODEL else PolicyFactory
    found = {"trial": 1, "seconds": 90.0, "settings": {}, **(details or {})}
    return factory_of(project=base.project, parent=base, run=run, details=found)


class RoundFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Round

    project = factory.SubFactory(ProjectFactory)
    number = 1
    policy = factory.SubFactory(PolicyFactory, project=factory.SelfAttribute("..project"))


class RunFactory(factory.django.DjangoModelFactory):
    """A run with its folder, as `launch` would leave it."""

    class Meta:
        model = Run
        skip_postgeneration_save = True

    project = factory.SubFactory(ProjectFactory)
    kind = RunKind.IMPORT_MODEL
    status = Status.QUEUED
    config = {"source": "tiny", "location": "", "output": "artifact"}

    @factory.post_generation
    def files(run, create, extracted, **kwargs):
        run.folder.mkdir(parents=True)
        content = {"kind": run.kind, "config": run.config}
        (run.folder / "config.json").write_text(json.dumps(content))


SAMPLING = {"temperature": 1.0, "max_new_tokens": 8, "seed": 0}


class GenerateRunFactory(RunFactory):
    kind = RunKind.GENERATE
    policy = factory.SubFactory(PolicyFactory, project=factory.SelfAttribute("..project"))
    config = {**SAMPLING, "completions_per_prompt": 2}


class EvaluateRunFactory(GenerateRunFactory):
    kind = RunKind.EVALUATE
    rival = factory.SubFactory(PolicyFactory, project=factory.SelfAttribute("..project"))


def made_folder(name):
    folder = Path(settings.MODELS_DIR) / name
    folder.mkdir(parents=True)
    return str(folder)


def write_artifact(run, name, lines):
    (run.folder / "artifact").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "artifact" / name).write_text(text)


def make_comparison(prompt, *texts, **fields):
    completions = [Completion.objects.create(prompt=prompt, text=text) for text in texts]
    return Comparison.objects.create_from(completions, **fields)


def make_judgment(comparison, *groups, verdict="ranking"):
    """What somebody new says: groups of completions, best first. No place is taken for it."""
    annotator = UserFactory()
    assignment = Assignment.objects.create(
        comparison=comparison,
        project=comparison.project,
        annotator=annotator,
        order=[entry.completion_id for entry in comparison.entries.all()],
        payload_hash="",
        state="judged",
        guideline_version=1,
        lease_until=timezone.now(),
    )
    return Judgment.objects.create(
        assignment=assignment,
        comparison=comparison,
        project=comparison.project,
        annotator=annotator,
        verdict=verdict,
        ranking=[[completion.pk for completion in group] for group in groups],
        guideline_version=1,
    )


class EndpointFactory(factory.django.DjangoModelFactory):
    """A policy elsewhere, at an address where nobody answers."""

    class Meta:
        model = Endpoint

    version = factory.SubFactory(
        PolicyFactory, kind=ModelKind.ENDPOINT, path="http://127.0.0.1:9/v1"
    )
    address = "http://127.0.0.1:9/v1"
    model = "toy"


def prompt_version(policy, **fields):
    """A policy, here or elsewhere, with an instruction before each question."""
    version = PolicyFactory(project=policy.project, parent=policy, kind=ModelKind.PROMPT, **fields)
    (Path(version.path) / PROMPTING).write_text(json.dumps({"system": "Be brief."}))
    return version


class GateFactory(factory.django.DjangoModelFactory):
    """A gate whose run has not ended yet; what is current is written down."""

    class Meta:
        model = Gate
        skip_postgeneration_save = True

    project = factory.SubFactory(ProjectFactory)
    candidate = factory.SubFactory(PolicyFactory, project=factory.SelfAttribute("..project"))
    incumbent = factory.SubFactory(PolicyFactory, project=factory.SelfAttribute("..project"))
    run = factory.SubFactory(
        EvaluateRunFactory,
        project=factory.SelfAttribute("..project"),
        policy=factory.SelfAttribute("..candidate"),
        rival=factory.SelfAttribute("..incumbent"),
        status=Status.SUCCEEDED,
    )
    alpha = 0.05
    margin = 0.1
    budget = 100
    same_share = 0.1

    @factory.post_generation
    def written_down(gate, create, extracted, **kwargs):
        first = {"version": gate.incumbent, "reason": "The first."}
        Promotion.objects.get_or_create(project=gate.project, number=1, defaults=first)

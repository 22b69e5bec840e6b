"""Policies that are the adapters of others, added up: from the form to the lineage."""

import json
from pathlib import Path

import pytest
from django.urls import reverse

from annotator.exporting import create_export
from annotator.models import Role
from rlhf.collecting import collect_combine
from rlhf.combining import candidates
from rlhf.forms import CombineForm
from rlhf.inputs import RunRefused
from rlhf.lineage import carriers_of, of_version
from rlhf.model_cards import card_of
from rlhf.models import RunKind, Status
from rlhf.runs import launch
from rlhf.training.combine_config import CombineConfig
from tests.factories import ComparisonFactory, MembershipFactory, ProjectFactory, make_judgment
from tests.rlhf.factories import PolicyFactory, RewardModelFactory, RunFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="essays", overlap=1)


@pytest.fixture
def base(project):
    return PolicyFactory(project=project, name="base")


@pytest.fixture
def adapter(base):
    def make(name, parent=base, **config):
        run = RunFactory(
            project=base.project, kind=RunKind.PPO, status=Status.SUCCEEDED, policy=parent
        )
        version = PolicyFactory(project=base.project, name=name, parent=parent, run=run)
        settings = {"peft_type": "LORA", "use_dora": False, "r": 4} | config
        (Path(version.path) / "adapter_config.json").write_text(json.dumps(settings))
        return version

    return make


@pytest.fixture
def admin(client, project):
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)
    return client


def parts(*versions):
    return [{"version": version.name, "weight": 0.5} for version in versions]


def combined(*versions, name=""):
    """A policy made of these, as a run that has succeeded leaves it."""
    base, project = versions[0].root(), versions[0].project
    run = launch(
        project,
        RunKind.COMBINE,
        {"parts": parts(*versions), "name": name},
        round_number=1,
        policy=base,
    )
    (run.folder / "artifact").mkdir()
    run.result = {"train": "adapter", "method": "lora", "way": "cat", "rank": 8}
    run.status = Status.SUCCEEDED
    run.save()
    collect_combine(run)
    return run.outputs.get()


def test_the_form_suggests_the_policy_that_was_asked_for_and_the_newest_other(
    project, base, adapter
):
    kind, curt, dora = adapter("kind"), adapter("curt"), adapter("dora", use_dora=True)

    assert candidates(project) == [curt, kind]
    assert CombineForm(project, initial={"policy": kind})["parts"].value() == "0.5 kind\n0.5 curt"
    assert CombineForm(project, initial={"policy": dora})["parts"].value() == "0.5 curt\n0.5 kind"


def test_the_form_as_it_is_shown_can_be_sent(project, adapter):
    adapter("kind")

    form = CombineForm(project, CombineForm(project).as_sent().data)

    assert form.is_valid(), form.errors
    assert form.settings["parts"] == [{"version": "kind", "weight": 1.0}]
    defaults = CombineConfig({}, form.settings["parts"])
    assert form.settings == {name: getattr(defaults, name) for name in form.settings}


@pytest.mark.parametrize("name", ["two\nlines", "x" * 101])
def test_its_name_is_one_line(project, adapter, name):
    with pytest.raises(RunRefused, match="must be one line of at most 100 characters"):
        combined(adapter("kind"), name=name)


def test_a_form_that_is_sent_starts_a_run_on_the_parts_adapters(admin, project, base, adapter):
    kind = adapter("kind")
    later = adapter("later", parent=kind)
    url = reverse("rlhf:new_run", args=["essays", "combine"])
    shown = {
        "token": "0d2bd2b0-3c14-4d53-8d3c-2f7ed2a7c7a1",
        "way": "svd",
        "density": 0.5,
        "seed": 0,
    }

    admin.post(url, {**shown, "parts": "0.7 later\n-0.2 kind", "rank": 4})

    run = project.runs.get(kind=RunKind.COMBINE)
    assert run.policy == base
    assert run.config["model"] == base.reference()
    assert run.config["parts"] == [
        {"version": "later", "weight": 0.7, "adapters": [kind.path, later.path]},
        {"version": "kind", "weight": -0.2, "adapters": [kind.path]},
    ]


def test_a_program_starts_it_with_the_same_lines(admin, project, adapter):
    adapter("kind")

    answer = admin.post(
        "/api/v1/projects/essays/runs/",
        {"kind": "combine", "parts": "0.5 kind", "name": "half as kind"},
        content_type="application/json",
    )

    assert answer.status_code == 201
    assert answer.json()["config"]["name"] == "half as kind"


def test_only_lora_adapters_of_one_base_are_added_up(project, base, adapter):
    other = PolicyFactory(project=project, name="other")
    settings = {"token": "0d2bd2b0-3c14-4d53-8d3c-2f7ed2a7c7a1", "way": "cat"}
    adapter("kind")
    adapter("dora", use_dora=True)
    adapter("elsewhere", parent=other)

    errors = [
        CombineForm(project, {**settings, "parts": f"1 kind\n1 {name}"}).errors["parts"]
        for name in ("dora", "elsewhere", "gone")
    ]

    assert errors == [
        ["This does not work: dora is no plain LoRA adapter: only those can be added up."],
        [
            "This does not work: kind is an adapter of base, and elsewhere of other: only adapters of one "
            "base can be added up."
        ],
        ["This does not work: this project has no policy gone."],
    ]


def test_virtual_tokens_are_trained_on_by_nobody(project, base, adapter):
    prefix = adapter("prefix", peft_type="PREFIX_TUNING")
    prefix.details = {"method": "prefix"}
    prefix.save()

    with pytest.raises(RunRefused, match="prefix is virtual tokens before the prompt"):
        launch(project, RunKind.MERGE, {}, round_number=1, policy=prefix)


def test_what_it_makes_has_the_name_that_was_given_and_says_of_what_it_is(admin, base, adapter):
    kind, curt = adapter("kind"), adapter("curt")

    version = combined(kind, curt, name="both")
    page = admin.get(version.get_absolute_url()).content.decode()

    assert (version.name, version.parent) == ("both", base)
    assert version.reference() == {"base": base.path, "adapters": [version.path]}
    assert f'0.5 × <a href="{kind.get_absolute_url()}">kind</a>' in page
    assert "Part: 0.5 × kind; Part: 0.5 × curt" in card_of(version)


def test_it_carries_the_votes_of_its_parts(project, base, adapter):
    anna = MembershipFactory(project=project, user__username="anna").user
    make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    learned = RunFactory(
        project=project,
        kind=RunKind.REWARD_MODEL,
        status=Status.SUCCEEDED,
        policy=base,
        export=create_export(project),
    )
    reward = RewardModelFactory(project=project, parent=base, run=learned)
    kind, curt = adapter("kind"), adapter("curt")
    kind.run.reward_model = reward
    kind.run.save()

    version = combined(kind, curt)

    assert carriers_of(project, anna).policies == [version, kind]
    assert {f"version-{kind.pk}", f"version-{curt.pk}"} <= of_version(version).back.nodes.keys()

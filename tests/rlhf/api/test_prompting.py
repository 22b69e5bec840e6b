import json

import pytest

from annotator.models import Role
from rlhf.models import ModelVersion
from tests.factories import MembershipFactory, ProjectFactory, api_client
from tests.rlhf.factories import PolicyFactory
from tests.rlhf.test_prompting import judged

pytestmark = pytest.mark.django_db

TEA = "/api/v1/projects/tea/"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def admin(project):
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


def post(client, address, **content):
    return client.post(address, json.dumps(content), content_type="application/json")


def test_a_prompt_version_is_made_and_read(project, admin):
    policy, answer = PolicyFactory(project=project), judged(project, "good", "bad")

    made = post(admin, f"{TEA}prompting/", policy=policy.pk, system="Be brief.", examples=[answer.pk])  # fmt: skip

    assert (made.status_code, made.json()["kind"], made.json()["parent"]) == (201, "prompt", policy.pk)  # fmt: skip
    found = admin.get(f"/api/v1/models/{made.json()['id']}/prompting/").json()
    assert (found["system"], found["examples"][0]["answer"]) == ("Be brief.", "good")


def test_the_budget_is_what_fits_the_policy_that_is_named(project, admin):
    small = PolicyFactory(project=project, details={"context_tokens": 512})
    PolicyFactory(project=project)

    post(admin, f"{TEA}prompting/", policy=small.pk, system="Be brief.")

    assert small.children.get().details["budget_tokens"] == 384


def test_a_held_out_answer_is_refused_as_an_example(project, admin):
    PolicyFactory(project=project)
    secret = judged(project, "secret", "bad", split="test")

    answer = post(admin, f"{TEA}prompting/", examples=[secret.pk])

    assert answer.status_code == 422
    assert f"Answer {secret.pk} is to a held-out prompt" in json.dumps(answer.json())
    assert not ModelVersion.objects.filter(kind="prompt").exists()


def test_documents_become_a_collection_with_its_figures(project, admin):
    made = post(
        admin, f"{TEA}documents/", name="Pets",
        documents=[{"title": "Cats", "text": "They purr."}, {"title": "Dogs", "text": "They bark."}],
        relevant=[{"question": "purr", "relevant": ["Cats"]}],
    )  # fmt: skip

    assert made.status_code == 201
    assert (made.json()["n_passages"], made.json()["details"]["found"]["mrr"]) == (2, 1.0)
    assert [row["id"] for row in admin.get(f"{TEA}documents/").json()["results"]] == [made.json()["id"]]  # fmt: skip


def test_reviewers_read_and_make_nothing(project):
    reviewer = api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)

    assert reviewer.get(f"{TEA}documents/").json()["results"] == []
    assert (
        post(reviewer, f"{TEA}documents/", name="x", documents=[{"text": "y"}]).status_code == 404
    )
    assert post(reviewer, f"{TEA}prompting/", system="x").status_code == 404

import uuid

import pytest
from django.urls import reverse

from rlhf.models import ModelKind, ModelVersion
from rlhf.prompting import Draft, create_prompt_version
from rlhf.training.screen_rows import answer_key
from tests.factories import MembershipFactory, PromptFactory
from tests.rlhf.factories import PolicyFactory, RunFactory
from tests.rlhf.test_prompting import judged

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(client):
    membership = MembershipFactory(role="admin")
    client.force_login(membership.user)
    client.project = membership.project
    return client


@pytest.fixture
def policy(admin):
    return PolicyFactory(project=admin.project, name="polite")


def address(project, name="prompt_lab", query=""):
    return reverse(f"rlhf:{name}", args=[project.slug]) + query


def as_sent(policy, **fields):
    sent = {"token": uuid.uuid4(), "policy": policy.pk, "system": "Be brief.", "template": "{prompt}", "selection": "hand",
            "shots": 4, "seed": 0, "budget_tokens": 200, "passages": 3}  # fmt: skip
    return sent | fields


def test_a_version_is_saved_with_the_examples_in_the_order_ticked(admin, policy):
    first, second = judged(admin.project, "one", "b"), judged(admin.project, "two", "b", wins=3)

    response = admin.post(
        address(admin.project, "new_prompt"), as_sent(policy, examples=[first.pk, second.pk])
    )

    version = ModelVersion.objects.get(kind=ModelKind.PROMPT)
    assert response.url == version.get_absolute_url()
    page = admin.get(response.url).content.decode()
    assert page.index("one") < page.index("two")


def test_a_form_that_is_sent_twice_makes_one_version_and_a_changed_one_another(admin, policy):
    new, form = address(admin.project, "new_prompt"), as_sent(policy, selection="similar")
    judged(admin.project, "good", "bad")

    first = admin.post(new, form)
    judged(admin.project, "fine", "poor")  # one more to choose from
    again = admin.post(new, form)
    changed = admin.post(new, {**form, "system": "Be kind."})

    newest, oldest = ModelVersion.objects.filter(kind=ModelKind.PROMPT)
    assert (first.url, again.url) == (oldest.get_absolute_url(), oldest.get_absolute_url())
    assert changed.url == newest.get_absolute_url()


def test_the_preview_shows_the_whole_prompt_for_a_held_out_one(admin, policy):
    PromptFactory(project=admin.project, split="test", messages=[{"role": "user", "content": "Why?"}])  # fmt: skip

    response = admin.post(
        address(admin.project, "new_prompt"),
        as_sent(policy, template="Q: {prompt}", do="preview"),
        headers={"HX-Request": "true"},
    )

    assert [(m["role"], m["content"]) for m in response.context["preview"]["arranged"].messages] == [
        ("system", "Be brief."), ("user", "Q: Why?"),
    ]  # fmt: skip
    assert ModelVersion.objects.filter(kind=ModelKind.PROMPT).count() == 0


def test_an_example_that_gives_a_held_out_answer_away_is_refused(admin, policy):
    secret = judged(admin.project, "secret", "b", split="test")

    response = admin.post(
        address(admin.project, "new_prompt"), as_sent(policy, examples=[secret.pk])
    )

    assert response.status_code == 422
    assert f"Answer {secret.pk} is to a held-out prompt" in response.context["form"].errors["examples"][0]  # fmt: skip


def test_a_new_version_begins_as_an_older_one_was(admin, policy):
    answer = judged(admin.project, "good", "bad")
    old = create_prompt_version(admin.project, Draft(policy, "Be kind.", examples=[answer.pk]))

    form = admin.get(address(admin.project, "new_prompt", f"?like={old.pk}")).context["form"]

    assert form["system"].value() == "Be kind."
    assert [(each.completion, ticked) for each, ticked in form.candidates()] == [(answer, True)]


def test_a_new_version_says_which_examples_of_the_older_one_are_gone(admin, policy):
    answers = [judged(admin.project, text, "bad") for text in ("good", "ada@x.org")]
    draft = Draft(policy, examples=[answer.pk for answer in answers])
    old = create_prompt_version(admin.project, draft, name="old")
    screen = RunFactory(
        project=admin.project, kind="screen", status="succeeded", config={"screened": "project"}
    )
    screen.quarantined.create(key=answer_key(answers[1].prompt.key, "ada@x.org"), code="email")

    page = admin.get(address(admin.project, "new_prompt", f"?like={old.pk}"))

    assert "1 of the 2 examples of old can be none any more" in page.content.decode()
    assert [ticked for _, ticked in page.context["form"].candidates()] == [True]


def test_two_versions_are_compared_part_by_part(admin, policy):
    first = create_prompt_version(admin.project, Draft(policy, "Be kind."))
    second = create_prompt_version(admin.project, Draft(policy, "Be very kind."))

    response = admin.get(
        address(admin.project, "prompt_comparison", f"?first={first.pk}&second={second.pk}")
    )

    changed = {part: is_changed for part, _, is_changed in response.context["parts"]}
    assert changed == {"System message": True, "Template": False, "Settings": False, "Examples": False}  # fmt: skip


def test_the_list_takes_as_many_queries_for_three_versions_as_for_one(
    admin, policy, django_assert_num_queries
):
    create_prompt_version(admin.project, Draft(policy, "1"))
    admin.get(address(admin.project))  # what is asked once per process
    with django_assert_num_queries(7):
        admin.get(address(admin.project))
    create_prompt_version(admin.project, Draft(policy, "2"))
    create_prompt_version(admin.project, Draft(policy, "3"))

    with django_assert_num_queries(7):
        response = admin.get(address(admin.project))

    assert len(response.context["rows"]) == 3


@pytest.mark.parametrize("name", ["prompt_lab", "new_prompt", "collections"])
def test_annotators_see_nothing_of_it(client, name):
    membership = MembershipFactory()
    client.force_login(membership.user)

    assert client.get(address(membership.project, name)).status_code == 404


# --- before a training run ------------------------------------------------------------------------
def ppo_form(admin):
    return admin.get(reverse("rlhf:new_run", args=[admin.project.slug, "ppo"]))


def with_example(policy):
    answer = judged(policy.project, "good", "bad")
    return create_prompt_version(policy.project, Draft(policy, examples=[answer.pk]))


def test_the_form_of_a_training_run_asks_whether_few_shot_was_tried(admin, policy):
    create_prompt_version(admin.project, Draft(policy, "Be brief."), name="brief")
    assert "Has few-shot prompting been tried?" in ppo_form(admin).content.decode()

    with_example(policy)

    assert "Few-shot prompting so far: <a" in ppo_form(admin).content.decode()


def test_it_asks_no_more_when_told_so(admin, policy):
    here = reverse("rlhf:new_run", args=[admin.project.slug, "ppo"])

    response = admin.post(address(admin.project, "dismiss_prompt_lab"), {"back": here})

    assert response.url == here
    assert ppo_form(admin).context["few_shot"] is None


def test_what_was_tried_is_shown_to_those_who_are_not_asked_any_more(admin, policy):
    admin.post(address(admin.project, "dismiss_prompt_lab"))
    with_example(policy)

    page = ppo_form(admin).content.decode()

    assert "Few-shot prompting so far: <a" in page
    assert "Do not show this again" not in page


def test_it_sends_nobody_elsewhere(admin):
    response = admin.post(
        address(admin.project, "dismiss_prompt_lab"), {"back": "https://evil.example/"}
    )

    assert response.url == address(admin.project)

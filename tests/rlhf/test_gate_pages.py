import json
import re
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from annotator.models import Role
from rlhf import gating
from rlhf.current import current_policy
from rlhf.forms.gate import GateForm
from rlhf.gate_chart import chart_of
from rlhf.gate_models import Gate
from rlhf.models import ModelVersion
from rlhf.sequential import Point
from tests.factories import (
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    UserFactory,
    api_client,
)
from tests.rlhf.factories import (
    EndpointFactory,
    GateFactory,
    PolicyFactory,
    RoundFactory,
    prompt_version,
)
from tests.rlhf.gates import LOSS, WIN, vote, voting_gate
from tests.rlhf.model_server_stand_in import YES, model_server_that_says
from tests.rlhf.test_outlooks import MEASURED

pytestmark = pytest.mark.django_db


@pytest.fixture
def gate():
    return voting_gate(project=ProjectFactory(slug="tea"))


@pytest.fixture
def admin(client, gate):
    return sign_in(client, gate.project, Role.ADMIN)


@pytest.fixture
def program(gate):
    return api_client(MembershipFactory(project=gate.project, role=Role.ADMIN).user)


def sign_in(client, project, role):
    client.force_login(MembershipFactory(project=project, role=role).user)
    return client


def url(name, *args):
    return reverse(f"rlhf:{name}", args=["tea", *args])


# --- the pages --------------------------------------------------------------------------------
def test_annotators_see_nothing_of_gates(client, gate):
    sign_in(client, gate.project, Role.ANNOTATOR)

    for address in (url("gates"), url("gate", gate.pk), url("gate_status", gate.pk)):
        assert client.get(address).status_code == 404
    assert gate.candidate.name not in client.get(url("project")).content.decode()


def test_the_form_suggests_what_is_here_before_what_is_paid_for(gate):
    here = prompt_version(gate.candidate)
    elsewhere = EndpointFactory(version__project=gate.project).version

    field = GateForm(gate.project)["candidate"]

    assert field.initial == here
    assert elsewhere in field.field.queryset


def test_reviewers_look_and_admins_act(client, gate):
    sign_in(client, gate.project, Role.REVIEWER)

    assert client.get(url("gate", gate.pk)).status_code == 200
    actions = ("stop_gate", "overrule_gate", "roll_back")
    assert [client.post(url(name, 1)).status_code for name in actions] == [404, 404, 404]


def test_page_says_how_it_stands(admin, gate):
    empty = admin.get(url("gate", gate.pk)).content.decode()
    vote(gate, WIN, WIN, LOSS)
    page = admin.get(url("gate", gate.pk)).content.decode()

    assert "nobody has judged a pair yet" in empty
    assert ("2 won" in page, "diagram-band" in page, 'hx-trigger="every 10s"' in page) == (
        True, True, True,
    )  # fmt: skip


def test_page_says_that_a_prompt_with_several_pairs_counts_once(client):
    gate = voting_gate(project=ProjectFactory(slug="tea"), per_prompt=2)
    sign_in(client, gate.project, Role.ADMIN)
    vote(gate, WIN, LOSS, WIN)

    page = client.get(url("gate", gate.pk)).content.decode()

    assert ("<dt>Prompts</dt>" in page, "1 tied, 0 lost, of 10: the 20 pairs" in page) == (
        True,
        True,
    )


def test_page_and_program_are_told_what_keeps_a_candidate_from_becoming_current(
    admin, program, gate
):
    ModelVersion.objects.filter(pk=gate.candidate.pk).update(path="/nowhere/x")
    addresses = (url("gate", gate.pk), f"/api/v1/projects/tea/gates/{gate.pk}/")

    before = [
        who.get(address).content.decode()
        for who, address in zip((admin, program), addresses, strict=True)
    ]
    vote(gate, *[WIN] * 8)
    after = [command("tea")["gate"]["note"], admin.get(addresses[0]).content.decode()]

    assert all("could not become current now: The files of" in text for text in before)
    assert all("The gate waits, asks nobody any more" in text for text in after)


def test_a_decided_gate_asks_no_more(admin, gate):
    vote(gate, *[WIN] * 8)
    gating.settle(gate)

    page = admin.get(url("gate_status", gate.pk)).content.decode()

    assert "<strong>Promoted.</strong>" in page
    assert "hx-trigger" not in page


def test_a_gate_is_opened_with_the_form_as_it_is_shown(client):
    project = RoundFactory(project__slug="tea").project
    candidate = PolicyFactory(project=project)
    PromptFactory.create_batch(10, project=project, split="test")
    sign_in(client, project, Role.ADMIN)
    form = client.get(url("new_gate")).context["form"]

    answer = client.post(url("new_gate"), form.as_sent())

    gate = Gate.objects.get()
    assert (answer["Location"], gate.candidate) == (url("gate", gate.pk), candidate)
    assert (form.initial["budget"], gate.budget) == (74, 74)  # what 10 prompts are enough for


def test_before_the_first_gate_the_pages_say_what_none_has_promoted(client):
    project = RoundFactory(project__slug="tea").project
    second = RoundFactory(project=project, number=2)
    sign_in(client, project, Role.REVIEWER)

    pages = [client.get(url(name)).content.decode() for name in ("project", "gates")]

    for page in pages:
        assert f">{second.policy.name}</a>, which no gate has promoted." in page
        assert "clients get it only once people prefer it in a gate" in page
    assert "Another one takes its place only through a gate" in pages[1]


def test_the_first_form_of_a_later_round_says_where_a_lost_gate_leads(client):
    project = RoundFactory(project__slug="tea").project
    base, second = current_policy(project), RoundFactory(project=project, number=2)
    PromptFactory.create_batch(10, project=project, split="test")
    sign_in(client, project, Role.ADMIN)

    page = client.get(url("new_gate")).content.decode()

    assert f">{second.policy.name}</a>, which no gate has promoted." in page
    assert f"from {base.name} again, unless people prefer the candidate" in page


def test_the_form_says_what_a_gate_will_take_before_it_opens(client):
    project = RoundFactory(project__slug="tea").project
    endpoint = EndpointFactory(version__project=project, completion_price=2.0)
    PromptFactory.create_batch(10, project=project, split="test")
    project.model_versions.exclude(pk=endpoint.version_id).update(probe=MEASURED)
    sign_in(client, project, Role.ADMIN)
    form = GateForm(project, initial={"candidate": endpoint.version})

    few, many = [
        client.post(url("gate_estimate"), {**form.as_sent(), "budget": budget}).context["outlook"]
        for budget in (10, 30)
    ]
    none = client.post(url("gate_estimate"), {**form.as_sent(), "budget": 10_000})

    assert 0 < few["spent"] < many["spent"]
    assert 0 < few["estimate"].tokens_generated < many["estimate"].tokens_generated
    assert "lower the budget" in none.content.decode()


def test_what_is_refused_comes_back_with_the_sentence(admin, gate):
    sent = admin.get(url("new_gate")).context["form"].as_sent()

    answer = admin.post(url("new_gate"), sent)

    assert answer.status_code == 422
    assert f"Gate {gate.pk} is testing" in answer.content.decode()


def test_overruling_without_a_reason_comes_back(admin, gate):
    asked = {"decision": "promote", "was": "open", "after": "1"}
    refused = admin.post(url("overrule_gate", gate.pk), {**asked, "reason": ""})
    accepted = admin.post(url("overrule_gate", gate.pk), {**asked, "reason": "So."})

    assert (refused.status_code, accepted.status_code) == (422, 302)
    assert current_policy(gate.project) == gate.candidate


def test_who_overrules_from_an_old_page_is_told_and_may_do_it_again(admin, gate):
    seen = hidden_on(admin.get(url("gate", gate.pk)))
    gating.overrule(gate, "promote", UserFactory(username="ada"), "It is kinder.")
    asked = {"decision": "reject", "reason": "It is rude."}

    refused = admin.post(url("overrule_gate", gate.pk), {**asked, **seen})
    kept = current_policy(gate.project)
    again = admin.post(url("overrule_gate", gate.pk), {**asked, **hidden_on(refused)})

    assert "it was promoted by ada. Look again" in refused.content.decode()
    assert (refused.status_code, kept) == (422, gate.candidate)
    assert (again.status_code, current_policy(gate.project)) == (302, gate.incumbent)


def test_a_form_that_does_not_say_what_was_seen_changes_nothing(admin, gate):
    answer = admin.post(url("overrule_gate", gate.pk), {"decision": "promote", "reason": "So."})

    assert (answer.status_code, Gate.objects.get().decision) == (422, "")
    assert answer.content.decode().count("look again before you overrule it") == 1


def hidden_on(page):
    found = re.findall(r'name="(was|after)" value="(\w+)"', page.content.decode())
    return dict(found)


def test_one_click_rolls_back(admin, gate):
    vote(gate, *[WIN] * 8)
    gating.settle(gate)

    page = admin.get(url("gates")).content.decode()
    admin.post(url("roll_back", 1), {"after": "2"})

    assert f'Roll back<span class="visually-hidden"> to {gate.incumbent.name}' in page
    assert current_policy(gate.project) == gate.incumbent


def test_number_of_queries_does_not_depend_on_gates(admin, gate, django_assert_num_queries):
    gating.overrule(gate, "promote", None, "Because.")
    with django_assert_num_queries(13):
        admin.get(url("gates"))
    GateFactory(project=gate.project, state="decided", decision="reject")
    with django_assert_num_queries(13):
        admin.get(url("gates"))


def test_page_says_that_what_is_current_cannot_be_asked(admin, gate):
    ModelVersion.objects.filter(pk=gate.incumbent.pk).update(path="/nowhere/x")

    page = admin.get(url("gates")).content.decode()

    assert "Nobody can ask it now: The files of" in page


def test_chart_begins_with_everything_possible():
    chart = chart_of([Point(10, 0.5, 0.25, 0.75)], margin=0.1)

    assert chart.band == "44.0,10.0 338.0,57.0 338.0,151.0 44.0,198.0"
    assert [tick.label for tick in chart.x_ticks] == ["0", "2", "5", "8", "10"]
    assert chart_of([], margin=0.1) is None


# --- for programs -----------------------------------------------------------------------------
def test_a_program_looks_overrules_and_rolls_back(program, gate):
    api = "/api/v1/projects/tea"
    vote(gate, WIN, LOSS)

    seen = program.get(f"{api}/gates/{gate.pk}/").json()
    overruled = program.post(
        f"{api}/gates/{gate.pk}/overrule/", {"decision": "promote", "reason": "So."},
        content_type="application/json",
    ).json()  # fmt: skip
    back = program.post(
        f"{api}/current/roll-back/", {"to": 1, "after": 2}, content_type="application/json"
    ).json()

    assert (seen["state"], seen["votes"], seen["mean"]) == ("voting", 2, 0.5)
    assert (overruled["decision"], overruled["reason"]) == ("promote", "So.")
    assert back["model_version"] == gate.incumbent.pk
    assert [row["number"] for row in program.get(f"{api}/current/history/").json()["results"]] == [
        3, 2, 1,
    ]  # fmt: skip


def test_a_program_that_says_what_it_saw_is_told_if_that_is_no_longer_so(program, gate):
    address = f"/api/v1/projects/tea/gates/{gate.pk}/"
    after = program.get(address).json()["promotion"]
    gating.overrule(gate, "promote", None, "It is kinder.")
    asked = {"decision": "reject", "reason": "It is rude.", "was": "open", "after": after}

    stale = program.post(f"{address}overrule/", asked, content_type="application/json")
    moved = program.post(
        f"{address}overrule/", {**asked, "was": "promote"}, content_type="application/json"
    )

    assert (stale.status_code, moved.status_code, after) == (422, 422, 1)
    assert "it was promoted. Look again" in stale.json()["detail"]
    assert "Another policy has just become current" in moved.json()["detail"]


def test_a_program_opens_one_and_is_told_what_is_wrong(program, gate):
    api = "/api/v1/projects/tea/gates/"
    asked = {"candidate": gate.incumbent.pk}

    wrong = program.post(api, asked, content_type="application/json")
    second = program.post(api, {}, content_type="application/json")

    assert wrong.json()["errors"][0]["pointer"] == "#/candidate"
    assert (second.status_code, "is testing" in second.json()["detail"]) == (422, True)


def test_current_is_a_model_for_openai_s_clients(program, gate, settings, tmp_path):
    settings.MODEL_SERVER_SOCKET = tmp_path / "model_server.sock"
    body = json.dumps({"model": "current", "messages": [{"role": "user", "content": "May I?"}]})

    with model_server_that_says(*YES):
        answer = program.post(
            "/api/v1/projects/tea/current/chat/completions", body, content_type="application/json"
        ).json()
    nowhere = program.post(
        "/api/v1/projects/nowhere/current/chat/completions", body, content_type="application/json"
    )

    assert answer["model"] == gate.incumbent.name
    assert nowhere.status_code == 404


# --- the command ------------------------------------------------------------------------------
def command(*arguments):
    out = StringIO()
    call_command("gate", *arguments, stdout=out)
    return json.loads(out.getvalue())


def test_command_records_what_the_votes_have_decided(gate):
    vote(gate, *[WIN] * 8)

    found = command("tea")

    assert (found["current"], found["gate"]["decision"]) == (gate.candidate.name, "promote")


def test_command_can_say_what_was_seen(gate):
    seen = command("tea")
    gating.overrule(gate, "promote", None, "It is kinder.")
    asked = ("--reject", str(gate.pk), "--reason", "It is rude.")

    with pytest.raises(CommandError, match=r"it was promoted\. Look again"):
        command("tea", *asked, "--was", "open")
    with pytest.raises(CommandError, match="Another policy has just become current"):
        command("tea", *asked, "--after", str(seen["promotion"]))
    with pytest.raises(CommandError, match="Another policy has just become current"):
        command("tea", "--roll-back", "--after", "1")
    assert current_policy(gate.project) == gate.candidate


def test_command_says_what_cannot_be_done(gate):
    with pytest.raises(CommandError, match="Say why"):
        command("tea", "--promote", str(gate.pk))
    with pytest.raises(CommandError, match="no earlier current policy"):
        command("tea", "--roll-back")
    with pytest.raises(CommandError, match="not the current one"):
        command("tea", "--candidate", gate.incumbent.name)
    with pytest.raises(CommandError, match="no model version nobody"):
        command("tea", "--candidate", "nobody")

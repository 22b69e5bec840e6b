import json

import pytest
from django.urls import reverse

from annotator.models import Comparison, Role
from annotator.secrets import unseal
from rlhf import endpoints, runs, supervision
from rlhf.endpoints import EndpointBusy, EndpointRefused, Trial, budget_of, clean_address
from rlhf.forms import FORMS
from rlhf.inputs import RunRefused
from rlhf.models import Endpoint, EndpointUse, ModelKind, Run, RunKind, Status
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import EndpointRef
from rlhf.training.endpoint import Usage
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    EndpointFactory,
    EvaluateRunFactory,
    GenerateRunFactory,
    PolicyFactory,
    prompt_version,
)
from tests.rlhf.stand_in import StandIn

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}
KEY = "sk-very-secret"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", held_out_percent=0)


@pytest.fixture
def admin(client, project):
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)
    return client


@pytest.fixture
def server():
    with StandIn(key=KEY, takes=["n"]) as server:
        yield server


@pytest.fixture
def version(project, server):
    endpoint = Endpoint(address=server.address, model="toy")
    return endpoints.add_endpoint(project, "elsewhere", endpoint, KEY)


def sent(server, **fields):
    values = {"requests_at_once": 4, "timeout_seconds": 20, "address": server.address}
    return {**values, "model": "toy", "key": KEY, **fields}


# --- addresses --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://localhost:11434/v1/", "http://localhost:11434/v1"),
        ("http://127.0.0.1:8000/v1/chat/completions", "http://127.0.0.1:8000/v1"),
        ("https://LOCALHOST", "https://localhost"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
    ],
)
def test_an_address_is_what_the_paths_are_added_to(text, address):
    assert clean_address(text) == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("localhost:11434", "begins with http"),
        ("ftp://localhost/v1", "begins with http"),
        ("http://localhost:99999/v1", "is no address"),
        ("http://me:secret@localhost/v1", "holds no password"),
        ("http://localhost/v1?key=1", "holds no password"),
        ("http://169.254.169.254/v1", "and not 169.254.169.254"),
        ("http://2130706433/v1", "and not 2130706433"),
        ("http://localhost.evil.example/v1", "and not localhost.evil.example"),
        ("http://evil.example\\@localhost/v1", "and not|is no address|holds no password"),
    ],
)
def test_other_addresses_are_refused_with_a_sentence(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        clean_address(text)


def test_the_owner_of_the_machine_says_which_hosts_may_be_asked(settings):
    settings.ENDPOINT_HOSTS = [".example.org"]

    assert clean_address("https://api.example.org/v1") == "https://api.example.org/v1"
    with pytest.raises(ValueError, match=r"may ask .example.org, and not localhost"):
        clean_address("http://localhost/v1")


# --- adding, trying ---------------------------------------------------------------------------
def test_an_endpoint_is_added_and_its_key_is_never_shown_again(admin, project, server):
    url = reverse("rlhf:new_endpoint", args=["tea"])

    response = admin.post(url, sent(server, limit="5", prompt_price="1"), follow=True)

    version = project.model_versions.get()
    assert (version.name, version.kind) == ("toy", ModelKind.ENDPOINT)
    assert (version.endpoint.limit, version.endpoint.prompt_price) == (5.0, 1.0)
    assert unseal(version.endpoint.sealed_key) == KEY
    assert "kept, encrypted" in response.content.decode()
    assert response.content.decode().count("/playground/?model=") == 1
    change = admin.get(reverse("rlhf:endpoint", args=["tea", version.pk]))
    assert KEY not in response.content.decode() + change.content.decode()
    assert KEY not in version.endpoint.sealed_key


def test_a_form_sent_twice_adds_one(admin, project, server):
    url = reverse("rlhf:new_endpoint", args=["tea"])
    admin.post(url, sent(server))

    page = admin.post(url, sent(server)).content.decode()
    assert "This project asks that model already, as toy" in page

    admin.post(url, sent(server, name="toy in spring"))
    assert project.model_versions.count() == 2


def test_its_names_are_one_line_each(admin, project, server):
    url = reverse("rlhf:new_endpoint", args=["tea"])

    response = admin.post(url, sent(server, name="two\nlines", model="a\tb"))

    assert set(response.context["form"].errors) == {"name", "model"}
    assert not project.model_versions.exists()


def test_a_form_that_is_tried_adds_nothing(admin, project, server):
    url = reverse("rlhf:new_endpoint", args=["tea"])

    page = admin.post(url, sent(server, do="try"), headers=HTMX).content.decode()

    assert f"{endpoints.TRIAL}, answer 0" in page
    assert "10 + 5 tokens of prompt and answer" in page
    assert KEY not in page
    assert not project.model_versions.exists()


def test_a_wrong_key_is_a_sentence_without_the_key(admin, server):
    url = reverse("rlhf:new_endpoint", args=["tea"])

    page = admin.post(url, sent(server, do="try", key="wrong-key"), headers=HTMX).content.decode()

    assert "It does not accept the key (401): Incorrect API key provided" in page
    assert "wrong-key" not in page


def test_its_models_are_listed_before_one_is_chosen(admin, server):
    url = reverse("rlhf:new_endpoint", args=["tea"])

    page = admin.post(url, sent(server, do="models", model=""), headers=HTMX).content.decode()

    assert '<option value="another"></option><option value="toy"></option>' in page


def test_what_is_wrong_with_the_form_is_said_where_it_is_tried(admin, server):
    url = reverse("rlhf:new_endpoint", args=["tea"])

    response = admin.post(url, sent(server, do="try", address="nonsense"), headers=HTMX)

    assert response.status_code == 422
    assert "Address: “nonsense” is no address of an endpoint" in response.content.decode()


def test_a_try_of_a_saved_one_counts_as_spent(version):
    version.endpoint.completion_price = 1e6

    trial = endpoints.try_endpoint(version.endpoint, KEY)

    assert trial == Trial("", f"{endpoints.TRIAL}, answer 0", False, trial.seconds, 10, 5, False)
    assert endpoints.spent_on(version.endpoint) == 5.0


def test_a_new_key_replaces_the_old_and_none_keeps_it(admin, version):
    url = reverse("rlhf:endpoint", args=["tea", version.pk])
    limits = {"requests_at_once": 2, "timeout_seconds": 20}

    def kept():
        return unseal(Endpoint.objects.get().sealed_key)

    admin.post(url, limits)
    assert kept() == KEY
    admin.post(url, limits | {"key": "another"})
    assert kept() == "another"
    admin.post(url, limits | {"forget_key": "on"})
    assert Endpoint.objects.get().sealed_key == ""


def test_what_no_run_has_used_can_be_removed(admin, project, version):
    url = reverse("rlhf:remove_endpoint", args=["tea", version.pk])
    run = GenerateRunFactory(project=project, policy=version)

    page = admin.post(url, follow=True).content.decode()
    assert "elsewhere was used by runs" in page

    run.delete()
    admin.post(url)
    assert not project.model_versions.exists()


@pytest.mark.parametrize("role", [Role.REVIEWER, Role.ANNOTATOR])
def test_only_admins_add_change_ask_and_remove(client, project, version, role):
    client.force_login(MembershipFactory(project=project, role=role).user)
    pages = [reverse("rlhf:new_endpoint", args=["tea"])]
    pages += [
        reverse(f"rlhf:{name}", args=["tea", version.pk])
        for name in ("endpoint", "ask_endpoint", "remove_endpoint")
    ]

    assert [client.post(page).status_code for page in pages] == [404] * 4


# --- what takes one ---------------------------------------------------------------------------
def test_only_what_asks_for_answers_offers_one(project, version):
    PolicyFactory(project=project, name="here")

    def offered(kind, name="policy"):
        return {str(row) for row in FORMS[kind](project).fields[name].queryset}

    for kind in (RunKind.PPO, RunKind.REWARD_MODEL, RunKind.PROBE):
        assert offered(kind) == {"here"}
    assert offered(RunKind.REWARD_MODEL, "base") == {"here"}
    assert offered(RunKind.GENERATE) == offered(RunKind.EVALUATE, "rival") == {"here", "elsewhere"}


def test_other_runs_refuse_one_and_its_prompt_versions(project, version):
    for asked in (version, prompt_version(version)):
        with pytest.raises(
            RunRefused, match="elsewhere is a policy elsewhere, of which nobody here"
        ):
            runs.launch(project, RunKind.PROBE, {}, round_number=1, policy=asked)


def test_people_talk_to_it_or_to_what_a_prompt_makes_of_it(project, version):
    prompted = prompt_version(version)

    run = runs.launch(project, RunKind.CONVERSE, {}, round_number=1, policy=prompted, rival=version)

    assert (run.config["model"], run.config["rival"]) == (prompted.reference(), version.reference())
    assert json.loads(endpoints.grants_of(run))[str(version.pk)]["key"] == KEY


def test_a_host_that_is_not_allowed_any_more_is_refused(project, version, settings):
    settings.ENDPOINT_HOSTS = ["api.example.org"]
    PromptFactory(project=project)

    with pytest.raises(RunRefused, match=r"may ask api.example.org, and not 127.0.0.1"):
        runs.launch(project, RunKind.GENERATE, {}, round_number=1, policy=version)


def test_another_secret_key_makes_the_run_fail_with_a_sentence(version, settings):
    run = GenerateRunFactory(project=version.project, policy=version)
    settings.SECRET_KEY = "another key of the server, made when the old one was lost"

    supervision.supervise(run.pk)

    run.refresh_from_db()
    assert run.status == Status.FAILED
    assert "it was kept under another PREFERENDUM_SECRET_KEY" in run.error


# --- spending ---------------------------------------------------------------------------------
def test_a_run_may_spend_what_the_others_have_left():
    endpoint = EndpointFactory(limit=10.0, limit_per_run=6.0)
    run = GenerateRunFactory(project=endpoint.version.project, policy=endpoint.version)
    assert budget_of(endpoint, run) == 6.0

    EndpointUse.objects.create(endpoint=endpoint, run=run, spent=3.0)
    EndpointUse.objects.create(endpoint=endpoint, spent=7.0)  # a try

    assert budget_of(endpoint, run) == 3.0  # of which it has spent all already
    assert budget_of(endpoint) == 0.0


def test_nothing_starts_when_all_is_spent(project, version):
    Endpoint.objects.update(limit=1.0)
    EndpointUse.objects.create(endpoint=version.endpoint, spent=1.0)
    version.refresh_from_db()

    with pytest.raises(EndpointRefused, match="The spending limit of elsewhere, 1 in all, is"):
        endpoints.check_version(version)


def grant(run, endpoint):
    return json.loads(endpoints.grants_of(run))[str(endpoint.pk)]["budget"]


def test_runs_at_the_same_time_set_aside_what_they_may_spend():
    endpoint = EndpointFactory(limit=10.0, limit_per_run=6.0)
    first, second, third = running(endpoint, 3)
    assert [grant(run, endpoint) for run in (first, second)] == [6.0, 4.0]

    with pytest.raises(EndpointRefused, match=r"is set aside for runs that ask it now \(10\)"):
        grant(third, endpoint)

    EndpointUse.objects.create(endpoint=endpoint, run=first, spent=1.0)
    Run.objects.filter(pk=first.pk).update(status=Status.SUCCEEDED)
    assert grant(third, endpoint) == 5.0
    assert grant(second, endpoint) == 4.0  # resumed: its own is not set aside from itself


def running(endpoint, n):
    """Runs of a round each: a round has one of a kind at a time."""
    policy = endpoint.version
    about = {"project": policy.project, "policy": policy, "status": Status.RUNNING}
    return [GenerateRunFactory(round_number=number, **about) for number in range(1, n + 1)]


def test_who_asks_by_hand_leaves_what_runs_have_set_aside():
    endpoint = EndpointFactory(limit=10.0, limit_per_run=6.0)
    grant(*running(endpoint, 1), endpoint)

    use = endpoints.reserve(endpoint, 3.0)

    with pytest.raises(EndpointRefused, match=r"This could cost 1\.5, and 1 is left"):
        endpoints.reserve(endpoint, 1.5)
    endpoints.settle(use, endpoint_ref(endpoint), Usage(0, 0, is_estimated=False))
    assert endpoints.spent_on(endpoint) == 0.0


def endpoint_ref(endpoint):
    return EndpointRef.from_dict(endpoint.reference())


def test_a_rate_is_shared_with_the_runs_that_ask_as_well():
    endpoint = EndpointFactory(requests_per_minute=4)
    first, second = running(endpoint, 2)
    grant(first, endpoint)

    for _ in range(2):
        endpoints.reserve(endpoint, 0.0)

    with pytest.raises(EndpointBusy, match="4 times a minute, shared with the runs"):
        endpoints.reserve(endpoint, 0.0)
    grant(second, endpoint)
    assert endpoints.sharing_of([endpoint.version]) == {str(endpoint.pk): 3}


def test_the_process_of_a_run_is_told_how_many_share_the_rate():
    endpoint = EndpointFactory(requests_per_minute=60)
    run, other = running(endpoint, 2)
    folder = RunFolder(run.folder)
    assert folder.sharers(endpoint.pk) == 1

    for each in (run, other):
        grant(each, endpoint)
    supervision._say_who_shares(run)

    assert folder.sharers(endpoint.pk) == 2


# --- the whole way ----------------------------------------------------------------------------
def test_an_endpoint_writes_answers_that_people_compare(project, version, server, admin):
    """With the real process, which has the key in its environment and nowhere else."""
    Endpoint.objects.update(completion_price=1e6)
    version.refresh_from_db()
    PromptFactory.create_batch(3, project=project)
    settings = {"completions_per_prompt": 2, "max_new_tokens": 8}

    run = runs.launch(project, RunKind.GENERATE, settings, round_number=1, policy=version)
    run = runs.run_to_end(run)

    assert (run.status, run.error) == (Status.SUCCEEDED, "")
    assert Comparison.objects.filter(project=project, origin=run.origin).count() == 3
    assert set(version.completions.values_list("completion__source", flat=True)) == {"elsewhere"}
    use = EndpointUse.objects.get()
    assert (use.run, use.requests, use.completion_tokens, use.spent) == (run, 3, 30, 30.0)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    written = [path.read_text() for path in run.folder.rglob("*") if path.is_file()]
    assert not any(KEY in text for text in written)
    page = admin.get(run.get_absolute_url()).content.decode()
    assert "30 + 30" in page
    assert KEY not in page + json.dumps(run.config)
    assert "30 <span" in admin.get(version.get_absolute_url()).content.decode()


def test_both_sides_of_an_evaluation_get_what_they_ask_with(project, version, server):
    here = PolicyFactory(project=project)
    run = EvaluateRunFactory(project=project, policy=here, rival=version)
    alone = GenerateRunFactory(project=project, policy=here)

    assert json.loads(endpoints.grants_of(run)) == {str(version.pk): {"key": KEY, "budget": None}}
    assert endpoints.grants_of(alone) == ""

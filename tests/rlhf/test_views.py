import json
import uuid
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotator.models import Role
from rlhf import estimates
from rlhf.alarms import as_json, find_alarms
from rlhf.gate_models import GateState
from rlhf.models import Metrics, Run, RunKind, Sample, Status
from rlhf.presets import PRESETS
from rlhf.training.config import PPOConfig
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory, UserFactory
from tests.rlhf.factories import (
    EvaluateRunFactory,
    GateFactory,
    GenerateRunFactory,
    PolicyFactory,
    RewardModelFactory,
    RoundFactory,
    RunFactory,
    make_comparison,
    make_judgment,
)

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", name="Tea")


@pytest.fixture
def policy(project):
    return PolicyFactory(project=project, name="secret-policy")


@pytest.fixture
def run(project, policy):
    """A running PPO run that has reported something."""
    run = RunFactory(
        project=project, kind=RunKind.PPO, status=Status.RUNNING, policy=policy, phase="rollout",
        step=3, total_steps=10, eta_seconds=100,
    )  # fmt: skip
    Metrics.objects.create(run=run, step=3, values={"kl/k1": 1.25})
    prompt = [{"role": "user", "content": "Why?"}]
    Sample.objects.create(run=run, step=3, index=0, prompt=prompt, completion="Because.")
    (run.folder / "log.txt").write_text("all is well\n")
    (run.folder / "rollouts").mkdir()
    line = {"id": 1, "completion": "Because it is blue.", "score": 1.0, "kl": 2.0}
    (run.folder / "rollouts" / "step-00001.jsonl").write_text(json.dumps(line) + "\n")
    return run


def sign_in(client, project, role):
    user = MembershipFactory(project=project, role=role).user
    client.force_login(user)
    return user


@pytest.fixture
def admin(client, project):
    return sign_in(client, project, Role.ADMIN)


def url(name, *args):
    return reverse(f"rlhf:{name}", args=args)


def pages_of(run):
    """Everything that tells about a run or a model version, with what it would give away."""
    slug = run.project.slug
    of_run = {
        "runs": "secret-policy",
        "model_versions": "secret-policy",
    }
    addresses = {url(name, slug): text for name, text in of_run.items()}
    for name, text in {
        "run": "secret-policy",
        "run_status": "Rollout",
        "run_charts": "kl/k1",
        "run_metrics": "kl/k1",
        "run_samples": "Because.",
        "run_log": "all is well",
        "rollouts": "Because it is blue.",
    }.items():
        addresses[url(name, slug, run.pk)] = text
    addresses[url("model_version", slug, run.policy_id)] = "secret-policy"
    return addresses


# --- who may see and do what -------------------------------------------------------------------
@pytest.mark.parametrize("role", [Role.REVIEWER, Role.ADMIN])
def test_reviewers_and_admins_see_runs_and_model_versions(client, run, role):
    sign_in(client, run.project, role)

    for address, text in pages_of(run).items():
        assert text in client.get(address).content.decode(), address


def test_annotators_see_neither(client, run):
    sign_in(client, run.project, Role.ANNOTATOR)

    for address, text in pages_of(run).items():
        response = client.get(address)
        assert response.status_code == 404, address
        assert text not in response.content.decode()


def test_admins_of_another_project_see_neither(client, run):
    sign_in(client, ProjectFactory(), Role.ADMIN)

    for address in [*pages_of(run), url("project", "tea"), url("loop_strip", "tea")]:
        assert client.get(address).status_code == 404, address


def test_a_run_is_not_reached_through_another_project(client, run):
    other = ProjectFactory(slug="coffee")
    sign_in(client, other, Role.ADMIN)

    for name in ("run", "run_status", "run_charts", "run_metrics", "run_samples", "run_log",
                 "rollouts"):  # fmt: skip
        assert client.get(url(name, "coffee", run.pk)).status_code == 404, name
    for name in ("stop_run", "resume_run"):
        assert client.post(url(name, "coffee", run.pk)).status_code == 404, name
    assert client.get(url("model_version", "coffee", run.policy_id)).status_code == 404


def test_whoever_is_not_signed_in_is_asked_to(client, run):
    for address in [*pages_of(run), url("project", "tea")]:
        response = client.get(address)
        assert response.url == f"/sign-in/?next={address}"


def test_reviewers_change_nothing(client, run):
    sign_in(client, run.project, Role.REVIEWER)
    form = {"source": "embedded", "token": uuid.uuid4(), "after": "1"}

    for address in [
        url("stop_run", "tea", run.pk),
        url("resume_run", "tea", run.pk),
        url("new_run", "tea", RunKind.IMPORT_MODEL),
        url("next_round", "tea"),
    ]:
        assert client.post(address, form).status_code == 404, address
    assert client.get(url("new_run", "tea", RunKind.IMPORT_MODEL)).status_code == 404
    assert list(Run.objects.values_list("pk", "status")) == [(run.pk, Status.RUNNING)]


@pytest.mark.parametrize(
    ("role", "is_told"), [(Role.ANNOTATOR, False), (Role.REVIEWER, True), (Role.ADMIN, True)]
)
def test_annotators_are_not_told_which_policy_was_made(client, project, policy, role, is_told):
    sign_in(client, project, role)
    RoundFactory(project=project, policy=policy)
    ppo = RunFactory(project=project, kind=RunKind.PPO, status=Status.SUCCEEDED)
    made = PolicyFactory(project=project, name="more-polite", parent=policy, run=ppo)

    for name in ("project", "loop_strip"):
        page = client.get(url(name, "tea")).content.decode()

        assert "Blind evaluation" in page
        for secret in (made.name, made.get_absolute_url(), ppo.get_absolute_url()):
            assert (secret in page) == is_told


def test_alarms_stand_on_the_runs_page_and_are_counted_in_the_list(client, run, admin):
    Run.objects.filter(pk=run.pk).update(
        alarms=as_json(find_alarms([(step, {"kl/k1": 40.0 + step}) for step in (1, 8, 30)]))
    )

    status = " ".join(client.get(url("run_status", "tea", run.pk)).content.decode().split())
    runs = " ".join(client.get(url("runs", "tea")).content.decode().split())

    assert "<strong>Red.</strong> KL above 50 nats" in status
    assert "At step 30." in status
    assert "At 2 steps, from 1 to 8." in status
    assert '<span class="alarm-count" data-level="red">2 alarms</span>' in runs
    asked = url("rollouts", "tea", run.pk) + "?suspicious=on&amp;first=1&amp;last=8"
    assert f'<a id="alarm-kl-klk1-yellow" href="{asked}">Suspicious answers of steps 1' in status
    assert client.get(url("run_charts", "tea", run.pk)).json()["alarms"][0]["steps"] == [30]


# --- presets and estimate of a PPO run --------------------------------------------------------
MEASURED = {
    "load_seconds": 1.0, "decode_step": 0.1, "decode_token": 0.01, "layer_forward": 1e-4,
    "layer_train": 3e-4, "layer_merge": 0.01, "head_forward": 1e-3, "head_train": 2e-3,
    "resident_mib": 900.0, "parameters": 10**8, "layers": 30, "hidden_size": 576,
    "vocabulary": 49152, "element_bytes": 4, "layer_parameters": 3.5e6,
    "adapter_parameters": 10176.0, "cache_bytes": 46080.0, "activation_bytes": 40000.0,
    "template_tokens": 30, "characters_per_token": 4.4, "host": "calculator", "device": "CPU",
    "cores": 2, "measured": "2026-11-21T12:00:00+00:00",
}  # fmt: skip


@pytest.fixture
def measured(project, policy, admin):
    """A policy whose speed is known, with a reward model on it."""
    type(policy).objects.filter(pk=policy.pk).update(probe=MEASURED)
    return RewardModelFactory(project=project, parent=policy)


def ppo_form(client, **query):
    return client.get(url("new_run", "tea", RunKind.PPO), query).context["form"]


def test_preset_fills_in_the_form_without_javascript(client, measured):
    form = ppo_form(client, preset="overnight")

    assert form["steps"].value() == PRESETS["overnight"].settings["steps"]
    assert form["policy"].value() == measured.parent_id
    assert ppo_form(client, preset="no such")["steps"].value() == PPOConfig.steps


def test_preset_chosen_on_the_form_keeps_what_was_typed_and_starts_nothing(client, measured):
    sent = {**ppo_form(client).as_sent().data, "steps": "7"}

    address = url("new_run", "tea", RunKind.PPO) + "?preset=quick"
    response = client.post(address, sent, headers=HTMX)

    assert "Kept as you had set it: Steps." in response.content.decode()
    assert response.context["form"]["critic"].value() == "head"
    assert '<details class="card" open>' in response.content.decode()  # the critic stands there
    assert not Run.objects.exists()


def test_form_says_what_the_run_will_take(client, measured):
    page = client.get(url("new_run", "tea", RunKind.PPO)).content.decode()

    assert "Measured on calculator (CPU, 2 cores), 2026-11-21." in page


def test_estimate_follows_the_fields(client, measured):
    sent = ppo_form(client).as_sent().data

    few, many, wrong, empty = (
        client.post(url("estimate", "tea"), {**sent, **changes}, headers=HTMX)
        for changes in ({"steps": 10}, {"steps": 20}, {"minibatches": 5}, {"steps": ""})
    )

    found = [response.context["outlook"]["estimate"] for response in (few, many)]
    assert found[1].tokens_generated == 2 * found[0].tokens_generated
    assert "minibatches=5 must divide batch_size=32" in wrong.content.decode()
    assert "when the settings are complete" in empty.content.decode()


def test_estimate_needs_no_javascript_and_starts_nothing(client, measured):
    sent = {**ppo_form(client).as_sent().data, "steps": "7", "estimate": "yes"}

    response = client.post(url("new_run", "tea", RunKind.PPO), sent)

    assert response.status_code == 200
    assert response.context["form"]["steps"].value() == "7"
    assert response.context["outlook"]["estimate"].tokens_generated == 7 * 32 * 64
    assert not Run.objects.exists()


def test_estimate_stays_when_the_run_is_refused(client, measured):
    active = RunFactory(project=measured.project, kind=RunKind.PPO, status=Status.RUNNING)
    sent = ppo_form(client).as_sent().data

    response = client.post(url("new_run", "tea", RunKind.PPO), sent)

    assert f"{active} of round 1 is running" in response.content.decode()
    assert response.context["outlook"]["estimate"].tokens_generated == 20 * 32 * 64


def test_measured_speed_stands_on_the_policys_page_and_leads_to_ppo(client, measured):
    page = client.get(measured.parent.get_absolute_url()).content.decode()
    run = RunFactory(
        project=measured.project, kind=RunKind.PROBE, status=Status.SUCCEEDED,
        policy=measured.parent, result={"probe": MEASURED},
    )  # fmt: skip
    result = client.get(run.get_absolute_url()).content.decode()

    for text in (page, result):
        assert "<dt>Measured on</dt><dd>calculator" in text
    assert f"{url('new_run', 'tea', RunKind.PPO)}?policy={measured.parent_id}" in result


def test_notices_of_the_estimate_tell_of_second_models_and_processes(
    client, measured, settings, tmp_path
):
    settings.ACCELERATE_DIR = tmp_path
    (tmp_path / "two.yaml").write_text("")
    sent = ppo_form(client).as_sent().data
    other = RewardModelFactory(project=measured.project)
    second, several = (
        "A reward model with weights of its own",
        "This is what one process would take.",
    )

    plain, ruled, changed = (
        client.post(url("estimate", "tea"), {**sent, **changes}).content.decode()
        for changes in (
            {"rewards": f"reward_model version={measured.name} name=again"},
            {"rewards": f"reward_model version={other.name}"},
            {"accelerate_config": "two.yaml"},
        )
    )

    assert [(second in text, several in text) for text in (plain, ruled, changed)] == [
        (False, False), (True, False), (False, True),
    ]  # fmt: skip


def test_form_offers_to_measure_what_has_not_been_measured(client, measured):
    type(measured).objects.filter(pk=measured.parent_id).update(probe={})

    page = client.get(url("new_run", "tea", RunKind.PPO)).content.decode()

    assert "has not been measured yet" in page
    address = f"{url('new_run', 'tea', RunKind.PROBE)}?policy={measured.parent_id}"
    assert address in page
    assert client.get(address).context["form"]["policy"].value() == measured.parent_id


def test_form_warns_if_the_memory_may_not_be_enough(client, measured, settings, monkeypatch):
    monkeypatch.setattr(estimates.socket, "gethostname", lambda: "calculator")
    settings.RUN_MEMORY_LIMIT_MIB = 1000

    page = client.get(url("new_run", "tea", RunKind.PPO)).content.decode()

    assert "A run may use 1,000 MiB here at the moment." in page


def test_estimate_is_kept_with_the_run_and_shown_beside_what_it_took(client, measured):
    PromptFactory(project=measured.project, split="train")
    sent = ppo_form(client).as_sent().data
    client.post(url("new_run", "tea", RunKind.PPO), sent)
    run = Run.objects.get()
    now = timezone.now()
    Run.objects.update(
        status=Status.SUCCEEDED, started=now - timedelta(minutes=4), finished=now,
        result={"peak_mib": 1234},
    )  # fmt: skip

    page = client.get(run.get_absolute_url()).content.decode()

    assert run.estimate["minutes"] > 1
    assert "Estimate against actual" in page
    assert '<td class="number">1,230</td>' in page


def test_only_admins_are_given_an_estimate(client, project):
    sign_in(client, project, Role.REVIEWER)

    assert client.post(url("estimate", "tea")).status_code == 404


# --- all answers of a PPO run ------------------------------------------------------------------
def write_answers(run, *texts):
    lines = [{"id": 1, "completion": text, "score": 0.0, "kl": 0.0} for text in texts]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "rollouts" / "step-00001.jsonl").write_text(text)


def test_answers_come_in_pages_that_keep_what_was_asked_for(client, run, admin):
    write_answers(run, *[f"answer {number}." for number in range(25)])

    page = client.get(url("rollouts", "tea", run.pk), {"text": "answer", "order": "score-high"})

    text = page.content.decode()
    assert "answer 19." in text
    assert "answer 20." not in text
    assert "?text=answer&amp;order=score-high&amp;page=2" in text
    further = client.get(url("rollouts", "tea", run.pk), {"text": "answer", "page": 2})
    assert "answer 20." in further.content.decode()


def test_answers_are_escaped_and_long_ones_folded(client, run, admin):
    write_answers(run, "<script>alert(1)</script>", "word " * 200)

    text = client.get(url("rollouts", "tea", run.pk)).content.decode()

    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<details>") == 1


@pytest.mark.parametrize(
    ("status", "asked", "sentence"),
    [
        (Status.RUNNING, {}, "The answers appear here after the first step."),
        (Status.STOPPED, {}, "This run has kept no answers"),
        (Status.RUNNING, {"text": "x", "first": "²"}, "No answer of this run fits."),
    ],
)
def test_no_answers_are_explained(client, run, admin, status, asked, sentence):
    Run.objects.filter(pk=run.pk).update(status=status)
    (run.folder / "rollouts" / "step-00001.jsonl").unlink()

    assert sentence in client.get(url("rollouts", "tea", run.pk), asked).content.decode()


def test_only_ppo_has_answers_step_by_step(client, project, admin):
    run = GenerateRunFactory(project=project)

    assert client.get(url("rollouts", "tea", run.pk)).status_code == 404


# --- the loop ----------------------------------------------------------------------------------
def test_project_page_shows_the_next_action(client, project, admin):
    page = client.get(url("project", "tea")).content.decode()

    assert page.count("button primary") == 1
    assert "Import prompts" in page


def test_strip_asks_again_only_while_a_run_is_active(client, project, run, admin):
    address = url("loop_strip", "tea")
    assert f'hx-get="{address}"' in client.get(address).content.decode()

    Run.objects.update(status=Status.FAILED)

    assert "hx-get" not in client.get(address).content.decode()


def test_rounds_are_shown_side_by_side(client, project, policy, admin):
    RoundFactory(project=project, policy=policy)
    result = {"accuracy": 0.75, "accuracy_low": 0.61, "accuracy_high": 0.86, "longer_accuracy": 0.5}
    RunFactory(project=project, kind=RunKind.REWARD_MODEL, status=Status.SUCCEEDED, result=result)

    page = client.get(url("project", "tea")).content.decode()

    for text in ("secret-policy", "75\u00a0%", "(61\u00a0% to 86\u00a0%)", "50\u00a0%"):
        assert text in page


def test_result_of_ppo_says_which_step_was_kept(client, project, admin):
    result = {"kept_step": 15, "best_step": 15, "n_held_out": 32, "score_first": 0.1,
              "score_last": 0.9, "steps": 20, "completions": 640}  # fmt: skip
    run = RunFactory(project=project, kind=RunKind.PPO, status=Status.SUCCEEDED, result=result)

    page = client.get(run.get_absolute_url()).content.decode()

    assert '<dd>step 15 <span class="muted">the best on 32 held-out prompts' in page


def test_result_says_which_savings_it_had_and_why_one_is_missing(client, project, admin):
    note = "All 2 layers run each time, not the top 1 alone: it was made so."
    savings = {"layers": 2, "trunk_layers": 0, "merged": True, "notes": [note]}
    result = {"savings": savings, "left_out": {"too_long": 0, "held_out_and_too_long": 3}}
    run = RunFactory(project=project, kind=RunKind.PPO, status=Status.SUCCEEDED, result=result)

    page = client.get(run.get_absolute_url()).content.decode()

    assert "All 2 layers run each time; adapters are in one product with the weights." in page
    assert f'<p class="notice">{note}</p>' in page
    assert '3 <span class="muted">held out and too long</span>' in page


def test_next_round_starts_and_shows_the_project(client, project, policy, admin):
    RoundFactory(project=project, policy=policy)
    ppo = RunFactory(project=project, kind=RunKind.PPO, status=Status.SUCCEEDED)
    new = PolicyFactory(project=project, parent=policy, run=ppo)
    PromptFactory(project=project)

    for _ in range(2):
        response = client.post(url("next_round", "tea"), {"after": "1"})
        assert response.url == url("project", "tea")

    assert list(project.rounds.values_list("number", "policy")) == [(1, policy.pk), (2, new.pk)]


def test_next_round_that_is_refused_says_why(client, project, admin):
    response = client.post(url("next_round", "tea"), {"after": "1"}, follow=True)

    assert "Round 1 has made no new policy yet: run PPO first, or let" in response.content.decode()


@pytest.mark.parametrize("after", ["", "x", "-1", "²"])
def test_next_round_of_no_round_is_no_page(client, project, admin, after):
    assert client.post(url("next_round", "tea"), {"after": after}).status_code == 404


# --- starting ----------------------------------------------------------------------------------
def sent_form(**changes):
    return {"source": "embedded", "token": str(uuid.uuid4())} | changes


def test_form_starts_a_run(client, project, admin):
    address = url("new_run", "tea", RunKind.IMPORT_MODEL)

    response = client.post(address, sent_form())

    run = Run.objects.get()
    assert response.url == run.get_absolute_url()
    assert (run.kind, run.created_by, run.config["source"]) == ("import_model", admin, "embedded")


def test_form_sent_twice_starts_one_run(client, project, admin):
    form = sent_form()
    address = url("new_run", "tea", RunKind.IMPORT_MODEL)

    first, second = client.post(address, form), client.post(address, form)

    assert first.url == second.url == Run.objects.get().get_absolute_url()


def test_htmx_is_sent_to_the_page_of_the_run(client, project, admin):
    address = url("new_run", "tea", RunKind.IMPORT_MODEL)

    response = client.post(address, sent_form(), headers=HTMX)

    assert response.headers["HX-Redirect"] == Run.objects.get().get_absolute_url()


def test_invalid_form_comes_back_with_its_errors(client, project, admin):
    address = url("new_run", "tea", RunKind.IMPORT_MODEL)

    response = client.post(address, sent_form(source="folder", location="/no/such"))

    assert response.status_code == 422
    assert "There is no folder “/no/such” on this machine." in response.content.decode()
    assert not Run.objects.exists()


def test_refusal_is_an_error_of_the_form(client, project, policy, admin):
    shown = client.get(url("new_run", "tea", RunKind.GENERATE)).context["form"]
    form = {bound.html_name: bound.value() or 0 for bound in shown if bound.name != "max_prompts"}

    response = client.post(url("new_run", "tea", RunKind.GENERATE), form, headers=HTMX)

    page = response.content.decode()
    assert response.status_code == 422
    assert "This project has no prompts yet: import some first." in page
    assert page.startswith('<form id="run_form"')


def test_form_of_no_kind_is_no_page(client, project, admin):
    assert client.get(url("new_run", "tea", "nonsense")).status_code == 404


@pytest.mark.parametrize("kind", RunKind.values)
def test_form_of_an_empty_project_opens(client, project, admin, kind):
    page = client.get(url("new_run", "tea", kind)).content.decode()

    assert ("disabled>Start</button>" in page) == (kind != RunKind.IMPORT_MODEL)


@pytest.fixture
def failed(project, policy):
    """A run that was not started with what its form suggests."""
    PolicyFactory(project=project)
    config = {"completions_per_prompt": 4, "batch_size": 8, "model": {}, "prompts": "prompts.jsonl"}
    run = GenerateRunFactory(project=project, policy=policy, status=Status.FAILED, config=config)
    (run.folder / "prompts.jsonl").write_text("{}\n" * 20)
    return run


@pytest.mark.parametrize("status", [Status.FAILED, Status.STOPPED, Status.LOST])
def test_run_that_did_not_get_to_its_end_can_be_started_with_other_settings(
    client, admin, failed, status
):
    Run.objects.update(status=status)
    address = f"{url('new_run', 'tea', RunKind.GENERATE)}?like={failed.pk}"
    assert f'href="{address}"' in client.get(failed.get_absolute_url()).content.decode()

    form = client.get(address).context["form"]

    names = ("policy", "completions_per_prompt", "batch_size", "max_prompts", "seed")
    assert [form[name].value() for name in names] == [failed.policy_id, 4, 8, 20, 0]


def test_form_like_a_run_is_that_of_its_kind_and_project_only(client, failed):
    sign_in(client, ProjectFactory(slug="coffee"), Role.ADMIN)
    elsewhere = url("new_run", "coffee", RunKind.GENERATE)
    assert client.get(elsewhere, {"like": failed.pk}).status_code == 404

    sign_in(client, failed.project, Role.ADMIN)
    other_kind = url("new_run", "tea", RunKind.PPO)
    assert client.get(other_kind, {"like": failed.pk}).status_code == 404


# --- watching ----------------------------------------------------------------------------------
FRAGMENTS = ["run_status", "run_metrics", "run_samples", "run_log"]


@pytest.mark.parametrize("name", FRAGMENTS)
def test_fragment_asks_again_only_while_the_run_is_active(client, run, admin, name):
    address = url(name, "tea", run.pk)
    assert f'hx-get="{address}"' in client.get(address).content.decode()

    Run.objects.update(status=Status.SUCCEEDED)

    assert "hx-trigger" not in client.get(address).content.decode()


@pytest.mark.parametrize("name", FRAGMENTS)
def test_page_holds_every_fragment(client, run, admin, name):
    fragment = client.get(url(name, "tea", run.pk)).content.decode().split("hx-get")[0]

    assert fragment in client.get(run.get_absolute_url()).content.decode()


def test_status_tells_how_far_it_is(client, run, admin):
    page = client.get(url("run_status", "tea", run.pk)).content.decode()

    for text in ("Running", "Rollout", 'value="3" max="10"', "3 of 10, about 2 minutes left"):
        assert text in page


def test_charts_send_what_is_new(client, run, admin):
    response = client.get(url("run_charts", "tea", run.pk), {"after": "2"})

    assert response.json()["series"] == {"kl/k1": {"x": [3], "y": [1.25]}}


@pytest.mark.parametrize("after", ["", "-1", "x", "²", "9" * 30])
def test_charts_take_nonsense_for_the_beginning(client, run, admin, after):
    response = client.get(url("run_charts", "tea", run.pk), {"after": after})

    assert response.json()["last_step"] == 3


def test_earlier_samples_stay_while_one_reads_them(client, run, admin):
    Sample.objects.create(run=run, step=5, index=0, prompt=[], completion="Later.")

    page = client.get(url("run_samples", "tea", run.pk), {"step": "3"}).content.decode()

    assert "Because." in page
    assert "every 5s" not in page


def test_plain_failure_is_told_in_its_sentence(client, run, admin):
    Run.objects.update(status=Status.FAILED, error="The disk is full.")

    page = client.get(run.get_absolute_url()).content.decode()

    assert "The disk is full." in page
    assert "Resume" in page


def test_evaluation_tells_the_win_rate_beside_the_reward_model_s_opinion(client, project, admin):
    run = EvaluateRunFactory(
        project=project, status=Status.SUCCEEDED, result={"reward_rate": 0.8, "reward_margin": 0.5}
    )
    make_comparison(
        PromptFactory(project=project), "a", "b", purpose="evaluation", origin=run.origin
    )

    page = client.get(run.get_absolute_url()).content.decode()

    assert "nobody has decided a pair yet" in page
    assert "80\u00a0%" in page
    assert "1 of 1 pairs still open" in page


# --- stopping and resuming ---------------------------------------------------------------------
def test_stop_is_asked_for_and_shown(client, run, admin):
    response = client.post(url("stop_run", "tea", run.pk), headers=HTMX)

    run.refresh_from_db()
    assert run.status == Status.STOPPING
    assert 'data-status="stopping"' in response.content.decode()


def test_stop_without_javascript_leads_back_to_the_run(client, run, admin):
    assert client.post(url("stop_run", "tea", run.pk)).url == run.get_absolute_url()


def test_resume_queues_the_run_and_opens_its_page_again(client, run, admin):
    Run.objects.update(status=Status.STOPPED)

    response = client.post(url("resume_run", "tea", run.pk), headers=HTMX)

    run.refresh_from_db()
    assert run.status == Status.QUEUED
    assert response.headers["HX-Redirect"] == run.get_absolute_url()


def test_resume_that_is_refused_says_why(client, run, admin):
    response = client.post(url("resume_run", "tea", run.pk), follow=True)

    assert "there is nothing to resume" in response.content.decode()


# --- reward models -----------------------------------------------------------------------------
def test_project_page_leads_to_the_best_of_16_once_there_is_a_reward_model(client, project, admin):
    reward_model = RewardModelFactory(project=project)
    link = f"{url('new_run', 'tea', RunKind.EVALUATE)}?best_of=16"
    RoundFactory(project=project, policy=reward_model.parent)
    before = client.get(url("project", "tea")).content.decode()

    RunFactory(project=project, kind=RunKind.REWARD_MODEL, status=Status.SUCCEEDED)
    page = client.get(url("project", "tea")).content.decode()
    form = client.get(link).context["form"]

    assert (link in before, link in page) == (False, True)
    assert form["best_of"].value() == 16
    assert form["policy"].value() == form["rival"].value() == reward_model.parent.pk
    assert form["reward_model"].value() == reward_model.pk


def test_a_ppo_run_leads_to_its_baseline_by_the_same_rewards(client, project, policy, admin):
    config = {"rewards": [{"kind": "length", "target": 80}], "temperature": 0.9}
    run = RunFactory(
        project=project, kind=RunKind.PPO, status=Status.SUCCEEDED, policy=policy, config=config
    )
    link = f"{url('new_run', 'tea', RunKind.EVALUATE)}?best_of=16&rewards_of={run.pk}"

    page = client.get(run.get_absolute_url()).content.decode()
    form = client.get(link).context["form"]

    assert link.replace("&", "&amp;") in page
    shown = {name: form[name].value() for name in ("rewards", "temperature", "best_of")}
    assert shown == {"rewards": "length target=80", "temperature": 0.9, "best_of": 16}
    assert form["policy"].value() == form["rival"].value() == policy.pk
    assert form["reward_model"].value() is None


def test_no_baseline_is_of_another_projects_run(client, project, admin):
    other = RunFactory(kind=RunKind.PPO, config={"rewards": [{"kind": "sentiment"}]})
    link = f"{url('new_run', 'tea', RunKind.EVALUATE)}?best_of=16&rewards_of={other.pk}"

    assert client.get(link).status_code == 404


def test_evaluation_by_several_rewards_tells_what_each_says(client, project, admin):
    result = {
        "reward_rate": 0.8,
        "reward_margin": 0.5,
        "by_source": {"length": {"new": 0.75, "old": 0.25}},
    }
    run = EvaluateRunFactory(
        project=project, status=Status.SUCCEEDED, result=result,
        config={"rewards": [{"kind": "length", "target": 80}]},
    )  # fmt: skip

    page = client.get(run.get_absolute_url()).content.decode()

    assert "<dt>The rewards prefer it</dt>" in page
    assert "<dt>Score by <code>length</code></dt>" in page
    assert "0.75 <span" in page


def test_run_page_names_other_rewards_and_second_models(client, project, admin):
    config = {"reward_model": "/r", "rewards": [{"kind": "length", "target": 80}]}
    ppo = RunFactory(project=project, kind=RunKind.PPO, config=config)
    Metrics.objects.create(run=ppo, step=0, values={"memory_mib/reward_model": 1530})

    page = client.get(ppo.get_absolute_url()).content.decode()

    assert "<code>length target=80</code>" in page
    assert "1,530 MiB more memory" in page


def test_result_names_annotators_the_least_reliable_first(client, project, admin):
    prompt = PromptFactory(project=project)
    good, bad = (
        make_judgment(comparison, comparison.completions.all()).annotator
        for comparison in (make_comparison(prompt, "a", "b"), make_comparison(prompt, "a", "c"))
    )
    stranger = UserFactory(username="somebody-elsewhere")
    neutral = {"position_bias": 0.0, "length_bias": 0.0, "weight": 1.0, "n_votes": 40}
    result = {
        "annotators": {
            str(good.pk): {**neutral, "reliability": 1.1, "position_bias": 1.0},
            str(bad.pk): {**neutral, "reliability": 0.02, "weight": 0.019},
            str(stranger.pk): {**neutral, "reliability": 1.0},
            f"ruling-{good.pk}": {**neutral, "reliability": 1.2},
        }
    }
    run = RunFactory(
        project=project, kind=RunKind.REWARD_MODEL, status=Status.SUCCEEDED, result=result
    )

    page = client.get(run.get_absolute_url())

    rows = [(row.name, round(row.first_shown, 2)) for row in page.context["annotators"]]
    assert rows == [
        (bad.username, 0.5), (f"Annotator {stranger.pk}", 0.5), (good.username, 0.73),
        (f"Rulings of {good.username}", 0.5),
    ]  # fmt: skip
    text = page.content.decode()
    assert "Annotators as the reward model sees them" in text
    assert f'<th scope="row">{bad.username}</th>' in text
    assert "2\u00a0%" in text
    assert stranger.username not in text


# --- lists -------------------------------------------------------------------------------------
def test_list_of_runs_takes_the_same_queries_for_one_and_three(
    client, run, admin, django_assert_num_queries
):
    with django_assert_num_queries(6):
        client.get(url("runs", "tea"))

    done = {"status": Status.SUCCEEDED, "created_by": admin}
    GenerateRunFactory.create_batch(2, project=run.project, **done)

    with django_assert_num_queries(6):
        client.get(url("runs", "tea"))


def test_list_of_model_versions_takes_the_same_queries_for_one_and_three(
    client, run, admin, django_assert_num_queries
):
    with django_assert_num_queries(6):
        client.get(url("model_versions", "tea"))

    RewardModelFactory.create_batch(2, project=run.project, run=run)

    with django_assert_num_queries(6):
        client.get(url("model_versions", "tea"))


def test_run_page_takes_the_same_queries_however_much_it_reports(
    client, run, admin, django_assert_num_queries
):
    with django_assert_num_queries(12):
        client.get(run.get_absolute_url())

    for step in range(4, 8):
        Metrics.objects.create(run=run, step=step, values={"kl/k1": 1.0})
        Sample.objects.create(run=run, step=step, index=0, prompt=[], completion="So.")

    with django_assert_num_queries(12):
        client.get(run.get_absolute_url())


def test_a_base_leads_to_a_reward_model_that_starts_from_it(client, project, policy, admin):
    base = PolicyFactory(project=project, kind="base")

    page = client.get(base.get_absolute_url()).content.decode()
    address = f"{url('new_run', project.slug, 'reward_model')}?base={base.pk}"
    form = client.get(address).context["form"]

    assert f'href="{address}"' in page
    assert (form["base"].value(), form["policy"].value()) == (base.pk, policy.pk)


def test_model_version_shows_a_gate_with_the_interval_of_the_gate(client, project, policy, admin):
    found = {"mean": 0.8, "low": 0.52, "high": 0.97, "n": 12, "n_votes": 12}
    gate = GateFactory(
        project=project, candidate=policy, state=GateState.DECIDED, decision="promote", found=found
    )

    response = client.get(policy.get_absolute_url())

    page = response.content.decode()
    assert response.context["evaluations"] == []
    assert "promoted, win probability 80\xa0%" in page
    assert "(52\xa0% to 97\xa0%)" in page
    assert gate.get_absolute_url() in page


def test_model_version_shows_its_descent_and_its_use(client, project, policy, run, admin):
    child = PolicyFactory(project=project, name="child", parent=policy)
    RoundFactory(project=project, number=4, policy=child)

    page = client.get(child.get_absolute_url()).content.decode()
    parent_page = client.get(policy.get_absolute_url()).content.decode()

    assert policy.get_absolute_url() in page
    assert "round 4" in page
    assert child.get_absolute_url() in parent_page
    assert run.get_absolute_url() in parent_page

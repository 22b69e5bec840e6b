import json
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from django.apps import apps
from django.utils import timezone

from annotator.audit import AuditEntry
from annotator.models import Comparison, Judgment, Prompt, Role
from annotator.webhooks import outbox
from annotator.webhooks.models import Delivery, Event
from rlhf import gating, rounds
from rlhf.current import CurrentMoved, current_policy, make_current
from rlhf.gate_models import Decision, Gate, GateState
from rlhf.gating import GateRefused
from rlhf.models import ModelVersion, Run, RunKind, Status
from rlhf.runs import RunRefused
from rlhf.sequential import Rule
from tests.factories import (
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    UserFactory,
    make_judgment,
)
from tests.rlhf.factories import (
    EndpointFactory,
    PolicyFactory,
    RoundFactory,
    RunFactory,
    make_comparison,
    prompt_version,
)
from tests.rlhf.gates import LOSS, TIE, WIN, vote, voting_gate

pytestmark = pytest.mark.django_db

SAMPLING = {"max_new_tokens": 8}


@pytest.fixture
def gate():
    return voting_gate()


def open_one(project, candidate, **changed):
    asked = {
        "rule": Rule(), "budget": 20, "votes_per_pair": 1, "same_share": 0.1,
        "sampling": SAMPLING, "round_number": 1,
    }  # fmt: skip
    return gating.open_gate(project, candidate, None, **{**asked, **changed})


@pytest.fixture
def project():
    """With a current policy, and 12 held-out prompts: three answers to each are enough for 20 votes, and an outcome each."""
    project = ProjectFactory()
    RoundFactory(project=project)
    PromptFactory.create_batch(12, project=project, split="test")
    return project


# --- opening ----------------------------------------------------------------------------------
def test_a_gate_launches_the_run_that_writes_its_answers(project):
    candidate = PolicyFactory(project=project)

    gate = open_one(project, candidate)

    assert (gate.state, gate.candidate, gate.incumbent) == (
        GateState.PREPARING, candidate, project.rounds.get().policy,
    )  # fmt: skip
    assert (gate.run.kind, gate.run.policy, gate.run.rival) == (
        RunKind.EVALUATE, candidate, gate.incumbent,
    )  # fmt: skip
    assert gate.run.config["completions_per_prompt"] == 3
    assert current_policy(project) == gate.incumbent


@pytest.mark.parametrize("kind", ["prompt", "endpoint", "prompt of an endpoint"])
def test_whatever_writes_answers_can_be_tested_and_promoted(project, kind):
    elsewhere = EndpointFactory(version__project=project).version
    around = elsewhere if kind == "prompt of an endpoint" else current_policy(project)
    prompted = prompt_version(around)
    candidate = elsewhere if kind == "endpoint" else prompted

    gate = open_one(project, candidate)
    gating.overrule(gate, Decision.PROMOTE, None, "It is better.")

    assert (gate.run.policy, gate.run.config["model"]) == (candidate, candidate.reference())
    assert current_policy(project) == candidate


def test_what_needs_weights_starts_from_those_of_the_current_policy(project):
    base = current_policy(project)
    prompted, elsewhere = prompt_version(base), EndpointFactory(version__project=project).version

    for candidate, sentence in [
        (prompted, f"has no weights of its own: what needs weights starts from {base}, which it is put"),
        (elsewhere, f"{elsewhere}: what needs them starts from {base}, if you choose no other."),
    ]:  # fmt: skip
        gating.overrule(open_one(project, candidate), Decision.PROMOTE, None, "Better.")
        assert rounds.suggestions(project, RunKind.GENERATE)["policy"] == candidate
        assert rounds.suggestions(project, RunKind.REWARD_MODEL)["policy"] == base
        assert sentence in rounds.note_on_policy(project, RunKind.REWARD_MODEL, base)
        assert rounds.note_on_policy(project, RunKind.GENERATE, candidate) == ""
        Run.objects.update(status=Status.SUCCEEDED)


def test_the_same_form_sent_twice_opens_one_gate(project):
    candidate, token = PolicyFactory(project=project), "3f0c0c7e-63d3-4ab1-8f4d-2a43f7c6d7b1"

    gates = [open_one(project, candidate, token=token) for _ in range(2)]

    assert gates[0] == gates[1]


def test_what_cannot_be_tested_is_refused_with_what_to_do(project):
    candidate, current = PolicyFactory(project=project), current_policy(project)

    with pytest.raises(GateRefused, match="is the current policy: choose another one"):
        open_one(project, current)
    with pytest.raises(GateRefused, match="nothing of this project that writes answers"):
        open_one(project, PolicyFactory())
    with pytest.raises(GateRefused, match="allow 10 at least"):
        open_one(project, candidate, budget=9)
    with pytest.raises(GateRefused, match="enough for about 89 votes"):
        open_one(project, candidate, budget=200)
    with pytest.raises(GateRefused, match="import a model first"):
        open_one(ProjectFactory(), candidate)
    assert not Gate.objects.exists()


def test_few_prompts_are_refused_because_each_counts_once(project):
    Prompt.objects.filter(pk__in=Prompt.objects.values("pk")[:3]).delete()

    with pytest.raises(GateRefused, match="with 9 nothing can be shown: import more prompts"):
        open_one(project, PolicyFactory(project=project))


def test_one_gate_at_a_time(project):
    first = open_one(project, PolicyFactory(project=project))

    with pytest.raises(GateRefused, match=f"Gate {first.pk} is testing"):
        open_one(project, PolicyFactory(project=project))


def test_a_version_whose_files_are_gone_is_refused_and_nothing_is_left(project):
    candidate = PolicyFactory(project=project, path="/nowhere/policy")

    with pytest.raises(RunRefused, match="/nowhere/policy"):
        open_one(project, candidate)

    assert (Gate.objects.count(), project.promotions.count()) == (0, 0)


# --- what the votes say -----------------------------------------------------------------------
def test_outcomes_are_means_in_the_order_in_which_pairs_are_full():
    votes = [(7, 1), (8, 0), (8, 0.5), (7, 1), (9, 1)]
    prompts = {7: 1, 8: 2, 9: 3}

    assert gating.outcomes_of(votes, 2, prompts) == ([0.25, 1], 2)
    assert gating.outcomes_of(votes[:2], 1, prompts) == ([1, 0], 2)


def test_pairs_of_one_prompt_are_one_outcome_when_all_of_them_are_full():
    votes = [(7, 1), (8, 0), (9, 0)]
    prompts = {7: 1, 8: 2, 9: 1}

    assert gating.outcomes_of(votes[:2], 1, prompts) == ([0], 2)
    assert gating.outcomes_of(votes, 1, prompts) == ([0, 0.5], 3)


def test_what_ends_the_asking_changes_no_outcome():
    gate = voting_gate(per_prompt=2)
    vote(gate, WIN, WIN, LOSS)

    before = gating.standing_of(gate)
    gating.stop(gate, None)

    assert (before.outcomes, before.full, before.prompts, before.unit) == ([1], 3, 10, "prompt")
    assert gating.standing_of(gate).outcomes == [1]


def test_pairs_of_the_incumbent_alone_show_noise_and_position_bias():
    votes = [
        ("ranking", [[1], [2]], [1, 2]),  # the first stored, on the left
        ("ranking", [[4], [3]], [4, 3]),  # the second stored, on the left
        ("ranking", [[5, 6]], [5, 6]),
        ("all_bad", [], [7, 8]),
    ]

    assert gating.same_of(votes) == gating.Same(votes=4, ties=2, first_wins=1, left_wins=2)
    assert gating.same_of([]).decided == 0


def test_ties_and_both_bad_are_half_a_win(gate):
    vote(gate, WIN, LOSS, TIE)
    (comparison, *_) = Comparison.objects.exclude(judgments__gt=0).order_by("pk")
    make_judgment(comparison, UserFactory(), verdict="all_bad")

    assert gating.standing_of(gate).outcomes == [1, 0, 0.5, 0.5]


def test_votes_that_were_taken_back_do_not_count(gate):
    vote(gate, WIN, LOSS)
    Judgment.objects.filter(pk=Judgment.objects.first().pk).update(voided=timezone.now())

    assert len(gating.standing_of(gate).outcomes) == 1


def test_number_of_queries_does_not_depend_on_votes(gate, django_assert_num_queries):
    vote(gate, WIN)
    with django_assert_num_queries(3):
        gating.standing_of(gate)
    vote(gate, WIN, TIE, LOSS)
    with django_assert_num_queries(3):
        gating.standing_of(gate)


# --- deciding ---------------------------------------------------------------------------------
def test_enough_wins_promote_and_end_the_asking(gate):
    vote(gate, *[WIN] * 8)

    gating.tend()

    gate.refresh_from_db()
    assert (gate.state, gate.decision, gate.found["n"]) == ("decided", Decision.PROMOTE, 8)
    assert current_policy(gate.project) == gate.candidate
    assert (
        gate.reason
        == "After 8 pairs the win probability is 100.0 % (53.8 to 100.0 %): above one half."
    )
    assert Comparison.objects.open().count() == 0


def test_before_that_nothing_happens(gate):
    vote(gate, *[WIN] * 7)

    assert not gating.settle(gate)
    assert (current_policy(gate.project), Comparison.objects.held().count()) == (gate.incumbent, 0)


def test_losses_reject_and_the_incumbent_stays(gate):
    vote(gate, *[LOSS] * 10)

    gating.settle(gate)

    assert (gate.decision, current_policy(gate.project)) == (Decision.REJECT, gate.incumbent)


def test_all_votes_without_a_proof_leave_it_undecided(gate):
    vote(gate, *[WIN, LOSS, WIN, TIE] * 5)

    gating.settle(gate)

    assert (gate.decision, current_policy(gate.project)) == (Decision.UNDECIDED, gate.incumbent)
    assert "proves neither" in gate.reason


def test_pairs_that_are_held_back_are_not_waited_for(gate):
    held = Comparison.objects.order_by("-pk")[:10].values("pk")
    Comparison.objects.filter(pk__in=held).update(hold="Answer A is empty.")
    vote(gate, *[WIN, LOSS] * 5)

    gating.settle(gate)

    assert gate.decision == Decision.UNDECIDED


def test_a_gate_without_a_pair_to_ask_says_so(gate):
    Comparison.objects.update(hold="Answer A is empty.")

    gating.settle(gate)

    assert gate.reason.startswith("There was no pair to ask")


def test_two_who_look_at_once_record_one_decision(gate):
    """The second has read the gate before the first wrote. With threads: gate_under_fire.py."""
    vote(gate, *[WIN] * 8)
    other = Gate.objects.select_related("project", "candidate", "incumbent", "run").get()

    assert [gating.settle(gate), gating.settle(other)] == [True, False]
    assert gate.project.promotions.count() == 2


def test_decision_and_change_are_told_and_written_down(gate):
    events = [Event.GATE_DECIDED, Event.CURRENT_CHANGED]
    outbox.add(
        gate.project, UserFactory(), url="https://example.org/", events=events,
        agreement_below=None,
    )  # fmt: skip
    vote(gate, *[WIN] * 8)

    gating.settle(gate)

    told = {row.event: json.loads(row.body)["data"] for row in Delivery.objects.all()}
    assert told["gate.decided"]["decision"] == "promote"
    assert told["current.changed"]["model_version"] == gate.candidate.pk
    entries = AuditEntry.objects.exclude(kind="webhook").order_by("pk")
    assert list(entries.values_list("kind", "action", "actor_name")) == [
        ("gate", "ruled", ""),
        ("project", "changed", ""),
    ]


def test_who_is_preferred_becomes_current_when_they_can_be_asked(gate):
    missing = Path(gate.candidate.path)
    missing.rename(missing.with_name("elsewhere"))
    vote(gate, *[WIN] * 8)

    gating.tend()
    gate.refresh_from_db()
    waiting = (gate.state, current_policy(gate.project), Comparison.objects.open().count())
    note = gating.note_on(gate, gating.standing_of(gate))
    missing.with_name("elsewhere").rename(missing)
    gating.tend()

    assert waiting == (GateState.VOTING, gate.incumbent, 0)
    assert f"nobody can ask it: The files of {gate.candidate} are missing: there is no" in note
    assert current_policy(gate.project) == gate.candidate


def test_people_are_asked_again_if_a_vote_is_taken_back_while_the_gate_waits(gate):
    ModelVersion.objects.filter(pk=gate.candidate.pk).update(path="/nowhere/x")
    vote(gate, *[WIN] * 8)
    gating.tend()

    Judgment.objects.filter(pk=Judgment.objects.first().pk).update(voided=timezone.now())
    gating.tend()

    assert Comparison.objects.open().count() == 12


@pytest.mark.parametrize("gone", ["policy", "prompt version", "endpoint"])
def test_nobody_makes_current_what_cannot_be_asked(gate, settings, gone):
    if gone == "policy":
        gate.candidate.path = "/nowhere/x"
        sentence = f"The files of {gate.candidate} are missing: there is no folder /nowhere/x. Put"
    elif gone == "prompt version":
        gate.candidate = prompt_version(PolicyFactory(project=gate.project, path="/nowhere/x"))
        sentence = f"The files of {gate.candidate} are missing: there is no folder /nowhere/x. Put"
    else:
        settings.ENDPOINT_HOSTS = ["localhost"]
        gate.candidate = EndpointFactory(version__project=gate.project).version
        sentence = "This server may ask localhost, and not"
    gate.candidate.save()
    gate.save()

    with pytest.raises(GateRefused, match=sentence):
        gating.overrule(gate, Decision.PROMOTE, None, "It is better.")
    assert Gate.objects.get().state == GateState.VOTING


def test_nobody_rolls_back_to_what_is_gone(gate):
    gating.overrule(gate, Decision.PROMOTE, None, "It is better.")
    ModelVersion.objects.filter(pk=gate.incumbent.pk).update(path="/nowhere/x")
    gate = Gate.objects.select_related("project", "candidate", "incumbent", "run").get()

    with pytest.raises(GateRefused, match="there is no folder /nowhere/x"):
        gating.roll_back(gate.project, gate.project.promotions.get(number=1), None, after=2)
    with pytest.raises(GateRefused, match="there is no folder /nowhere/x"):
        gating.overrule(gate, Decision.REJECT, None, "It is rude.")
    assert current_policy(gate.project) == gate.candidate


def test_what_a_killed_worker_left_open_is_withdrawn_later(gate):
    Gate.objects.update(state=GateState.DECIDED, decision="reject", decided=timezone.now())

    gating.tend()

    assert Comparison.objects.open().count() == 0


# --- by people --------------------------------------------------------------------------------
def test_stopping_changes_nothing_but_the_asking(gate):
    gating.stop(gate, UserFactory(), "Wrong candidate.")
    gating.stop(gate, UserFactory(), "Twice.")

    gate.refresh_from_db()
    assert (gate.state, gate.reason) == (GateState.STOPPED, "Wrong candidate.")
    assert (current_policy(gate.project), Comparison.objects.open().count()) == (gate.incumbent, 0)


def test_overruling_needs_a_reason_and_keeps_it(gate):
    user = UserFactory()
    with pytest.raises(GateRefused, match="Say why"):
        gating.overrule(gate, Decision.PROMOTE, user, " ")

    gating.overrule(gate, Decision.PROMOTE, user, "The old one leaks names.")

    assert (gate.decided_by, current_policy(gate.project)) == (user, gate.candidate)
    entry = AuditEntry.objects.get(kind="gate")
    assert (entry.actor, entry.details["reason"]) == (user, "The old one leaks names.")


def test_overruling_a_promotion_brings_the_incumbent_back(gate):
    vote(gate, *[WIN] * 8)
    gating.settle(gate)

    gating.overrule(gate, Decision.REJECT, UserFactory(), "It is rude to children.")

    assert current_policy(gate.project) == gate.incumbent


def test_whoever_overrules_an_old_gate_changes_nothing_and_is_told(gate):
    vote(gate, *[LOSS] * 10)
    gating.settle(gate)
    third = PolicyFactory(project=gate.project)
    make_current(gate.project, third, user=None, reason="It is newer.")

    with pytest.raises(GateRefused, match=f"{third} is the current policy by now"):
        gating.overrule(gate, Decision.PROMOTE, UserFactory(), "It is better.")

    assert (Gate.objects.get().decision, current_policy(gate.project)) == (Decision.REJECT, third)
    assert AuditEntry.objects.filter(kind="gate").count() == 1


def test_whoever_overrules_what_has_just_been_decided_is_told(gate):
    stale = Gate.objects.select_related("project", "candidate", "incumbent", "run").get()
    vote(gate, *[WIN] * 8)
    gating.settle(gate)

    with pytest.raises(GateRefused, match="has just been decided"):
        gating.overrule(stale, Decision.REJECT, UserFactory(), "Because.")


@pytest.mark.parametrize(
    ("decision", "said"),
    [("promote", "it was promoted by ada"), ("undecided", "it was left undecided by ada")],
)
def test_whoever_overrules_what_others_have_decided_meanwhile_changes_nothing(gate, decision, said):
    rows = Gate.objects.filter(pk=gate.pk)
    rows.update(state="decided", decision=decision, decided_by=UserFactory(username="ada"))
    read_now = rows.select_related("project", "candidate", "incumbent", "run").get()

    with pytest.raises(GateRefused, match=f"since you looked: {said}. Look again"):
        gating.overrule(read_now, Decision.REJECT, None, "It is no better.", was="open", after=1)

    assert (rows.get().decision, AuditEntry.objects.count()) == (decision, 0)


def test_whoever_overrules_when_another_policy_is_current_changes_nothing(gate):
    gating.overrule(gate, Decision.PROMOTE, None, "It is better.")
    gating.roll_back(gate.project, gate.project.promotions.get(number=1), None, after=2)

    with pytest.raises(GateRefused, match="Another policy has just become current"):
        gating.overrule(gate, Decision.REJECT, None, "Yes.", was="promote", after=2)

    assert (Gate.objects.get().decision, gate.project.promotions.count()) == ("promote", 3)


def test_what_moves_while_somebody_overrules_is_noticed(gate, monkeypatch):
    third = PolicyFactory(project=gate.project)

    def later(project, version, **asked):
        make_current(project, third, user=None, reason="Just before.")
        return make_current(project, version, **asked)

    monkeypatch.setattr(gating, "make_current", later)

    with pytest.raises(GateRefused, match="Another policy has just become current"):
        gating.overrule(gate, Decision.PROMOTE, None, "It is better.")
    assert Gate.objects.get().state == GateState.VOTING


def test_votes_that_decide_while_something_moves_are_looked_at_again(gate, monkeypatch):
    vote(gate, *[WIN] * 8)

    with monkeypatch.context() as patch:
        patch.setattr(gating, "make_current", _refuse_as_moved)
        assert not gating.settle(gate)

    assert (gate.state, gating.settle(gate), gate.decision) == ("voting", True, "promote")


def _refuse_as_moved(*_, **__):
    raise CurrentMoved


def test_rolling_back_is_one_more_promotion_and_happens_once(gate):
    vote(gate, *[WIN] * 8)
    gating.settle(gate)
    first = gate.project.promotions.get(number=1)

    gating.roll_back(gate.project, first, UserFactory(), after=2)

    assert current_policy(gate.project) == gate.incumbent
    with pytest.raises(GateRefused, match="look again"):
        gating.roll_back(gate.project, first, UserFactory(), after=2)
    versions = gate.project.promotions.order_by("number").values_list("version", flat=True)
    assert list(versions) == [gate.incumbent.pk, gate.candidate.pk, gate.incumbent.pk]


# --- the rounds -------------------------------------------------------------------------------
def test_rounds_go_on_without_a_gate_but_nothing_new_becomes_current(project):
    first = current_policy(project)
    second = RoundFactory(number=2, project=project)

    assert current_policy(project) == first
    assert rounds.suggestions(project, RunKind.GENERATE) == {"policy": second.policy}


def test_the_next_round_starts_untested_until_a_gate_has_decided(project):
    base = current_policy(project)
    ppo = RunFactory(project=project, kind=RunKind.PPO, status=Status.SUCCEEDED)
    made = PolicyFactory(project=project, run=ppo)

    gating.stop(open_one(project, made), None, "Changed my mind.")
    Run.objects.update(status=Status.SUCCEEDED)
    rounds.start_next_round(project, None, after=1)

    assert (project.rounds.get(number=2).policy, current_policy(project)) == (made, base)


def test_what_was_current_before_gates_alone_decided_stays_so(project):
    second = RoundFactory(number=2, project=project)
    only_one = RoundFactory(project=ProjectFactory()).project

    migration = import_module("rlhf.migrations.0019_keep_what_was_current")
    migration.keep_what_was_current(apps, None)

    assert current_policy(project) == second.policy
    assert not only_one.promotions.exists()


def test_a_first_gate_in_a_later_round_tests_against_the_first_policy(project):
    base = current_policy(project)
    untested = RoundFactory(project=project, number=2, policy=PolicyFactory(project=project)).policy

    gate = open_one(project, untested, round_number=2)
    gating.overrule(gate, Decision.REJECT, None, "It is no better.")

    assert (gate.incumbent, project.promotions.get().version) == (base, base)
    assert rounds.suggestions(project, RunKind.GENERATE) == {"policy": base}
    assert rounds.promoted_policy(project.rounds.get(number=2)) == base


def test_launch_forms_suggest_what_a_gate_has_promoted(gate):
    vote(gate, *[WIN] * 8)
    gating.settle(gate)

    assert rounds.suggestions(gate.project, RunKind.GENERATE) == {"policy": gate.candidate}


def test_next_round_starts_from_the_current_policy_and_waits_for_an_open_gate(gate):
    RoundFactory(project=gate.project, policy=gate.incumbent)
    ppo = RunFactory(project=gate.project, kind=RunKind.PPO, status=Status.SUCCEEDED)
    PolicyFactory(project=gate.project, run=ppo)

    with pytest.raises(RunRefused, match=f"Gate {gate.pk} has not decided yet"):
        rounds.start_next_round(gate.project, None, after=1)
    gating.overrule(gate, Decision.REJECT, None, "It is no better.")
    rounds.start_next_round(gate.project, None, after=1)

    assert gate.project.rounds.get(number=2).policy == gate.incumbent


@pytest.mark.parametrize("kind", [RunKind.SUPERVISED, RunKind.DOMAIN, RunKind.DISTILL])
def test_what_a_gate_has_promoted_starts_a_round_whatever_made_it(gate, kind):
    RoundFactory(project=gate.project, policy=gate.incumbent)
    gate.candidate.run = RunFactory(project=gate.project, kind=kind, status=Status.SUCCEEDED)
    gate.candidate.save()
    gating.overrule(gate, Decision.PROMOTE, None, "It is better.")

    rounds.start_next_round(gate.project, None, after=1)

    assert gate.project.rounds.get(number=2).policy == gate.candidate
    with pytest.raises(
        RunRefused, match="Round 2 has made no new policy yet: run PPO first, or let"
    ):
        rounds.start_next_round(gate.project, None, after=2)


# --- in words ---------------------------------------------------------------------------------
def test_silence_says_what_to_do(gate):
    MembershipFactory(project=gate.project)
    standing = gating.standing_of(gate)
    soon, late = (timezone.now() + timedelta(days=days) for days in (2, 4))

    assert gating.silence(gate, standing, soon) == ""
    assert gating.silence(gate, standing, late).startswith("Nobody has voted for 4 days: invite")
    gate.project.paused = timezone.now()
    assert gating.silence(gate, standing, soon).startswith("The project is paused")


def test_a_gate_says_at_once_if_nobody_can_be_asked(gate):
    def note():
        return gating.note_on(gate, gating.standing_of(gate))

    nobody = note()
    member = MembershipFactory(project=gate.project, role=Role.ADMIN, quota_total=1)
    only_admin = note()
    judged = make_comparison(PromptFactory(project=gate.project), "Yes.", "No.")
    make_judgment(judged, member.user, [0], [1])
    all_quotas = note()
    MembershipFactory(project=gate.project)

    assert nobody.startswith("Nobody can be asked: no member of this project may vote. Invite")
    assert only_admin.startswith("Only reviewers and admins can be asked")
    assert all_quotas.startswith("Nobody can be asked: all members who may vote have reached")
    assert note() == ""


def test_a_gate_says_if_all_have_voted_on_what_is_left(gate):
    Comparison.objects.update(overlap=2)
    Gate.objects.update(votes_per_pair=2)
    member = MembershipFactory(project=gate.project)
    for comparison in Comparison.objects.all():
        make_judgment(comparison, member.user, [0], [1])

    gate.refresh_from_db()

    note = gating.note_on(gate, gating.standing_of(gate))
    assert "have handled all pairs that are left, each of which takes 2 of different people" in note


def test_whoever_waits_for_a_qualification_cannot_be_asked(gate):
    gate.project.qualification_items = 5
    gate.project.save()
    MembershipFactory(project=gate.project, role=Role.ANNOTATOR)

    note = gating.note_on(gate, gating.standing_of(gate))

    assert "or see to those who are not qualified" in note


def test_forecast_is_the_budget_until_the_votes_tell_more(gate):
    assert gating.forecast(gate, gating.standing_of(gate)) == (20, 20, None)

    vote(gate, WIN, WIN, WIN, WIN)

    found = gating.forecast(gate, gating.standing_of(gate))
    assert (found.votes, found.most) == (5, 16)
    assert found.days == pytest.approx(5 / 24 / 4)

from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone

from annotator.models import Role
from rlhf.models import Run, RunKind, Status
from rlhf.routes import exports_with_routes, starts_of
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    EvaluateRunFactory,
    ExportFactory,
    GateFactory,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
    make_comparison,
    make_judgment,
    promote_trial,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", name="Tea")


@pytest.fixture
def export(project):
    return ExportFactory(project=project)


@pytest.fixture
def base(project):
    return PolicyFactory(project=project, name="base")


@pytest.fixture
def reward_model(project, export, base):
    run = RunFactory(
        project=project, kind=RunKind.REWARD_MODEL, status=Status.SUCCEEDED, export=export,
        policy=base, **took(minutes=3),
    )  # fmt: skip
    return RewardModelFactory(project=project, parent=base, run=run)


def took(minutes):
    now = timezone.now()
    return {"started": now - timedelta(minutes=minutes), "finished": now}


def trained(base, kind, **fields):
    """A run that has made a policy of the base, and that policy."""
    run = RunFactory(
        project=base.project, kind=kind, status=Status.SUCCEEDED, policy=base, config={}, **fields
    )
    return PolicyFactory(project=base.project, name=f"by-{kind}", parent=base, run=run)


def evaluated(version, wins, losses, **fields):
    """An evaluation against the parent that people have judged so."""
    run = EvaluateRunFactory(
        project=version.project,
        policy=version,
        rival=version.parent,
        status=Status.SUCCEEDED,
        **fields,
    )
    for is_win in [True] * wins + [False] * losses:
        comparison = make_comparison(
            PromptFactory(project=run.project),
            "new",
            "old",
            origin=run.origin,
            purpose="evaluation",
        )
        new, old = (entry.completion for entry in comparison.entries.all())
        run.completions.create(completion=new, model_version=version, sampling={})
        make_judgment(comparison, *([new], [old]) if is_win else ([old], [new]))
    return run


def test_routes_of_an_export_are_those_that_learnt_from_it_or_by_its_reward_model(
    export, base, reward_model
):
    dpo = trained(base, RunKind.DPO, export=export, result={"kl": 2.0}, **took(minutes=4))
    ppo = trained(
        base, RunKind.PPO, reward_model=reward_model,
        result={"kl": 6.0, "score_first": 0.5, "score_last": 2.0}, **took(minutes=10),
    )  # fmt: skip
    trained(base, RunKind.GRPO, export=ExportFactory(project=base.project, round_number=2))

    (start,) = starts_of(export, "kl")

    assert start.policy == base
    assert [(route.label, route.version) for route in start.routes] == [("DPO", dpo), ("PPO", ppo)]
    by_dpo, by_ppo = start.routes
    assert (by_dpo.reward, by_ppo.reward) == (None, 1.5)
    assert (by_dpo.minutes, by_dpo.reward_minutes) == (pytest.approx(4), None)
    assert (by_ppo.minutes, by_ppo.reward_minutes) == (pytest.approx(10), pytest.approx(3))


def test_what_a_search_made_is_a_route_as_soon_as_it_is_promoted(export, base):
    version = promote_trial(base, RunKind.DPO, {"kl": 1.5, "length_last": 20.0}, export=export)
    RunFactory(
        project=base.project, kind=RunKind.SEARCH, status=Status.SUCCEEDED, policy=base,
        export=export, config={"tries": "dpo"},
    )  # fmt: skip

    ((route,),) = [start.routes for start in starts_of(export)]

    assert (route.label, route.version) == (f"DPO, trial 2 of search run {version.run.pk}", version)
    assert (route.kl, route.length, route.minutes) == (1.5, 20.0, 1.5)


def test_what_a_promoted_reward_model_rewarded_is_a_route(project, export, base):
    reward_model = promote_trial(base, RunKind.REWARD_MODEL, export=export)
    ppo = trained(base, RunKind.PPO, reward_model=reward_model)

    ((route,),) = [start.routes for start in starts_of(export)]

    assert (route.version, route.reward_minutes) == (ppo, 1.5)
    assert exports_with_routes(project) == [export]


def test_people_and_the_reward_model_judge_a_route_against_its_start(export, base):
    version = trained(base, RunKind.DPO, export=export, result={"length_last": 30.0})
    judged = {"reward_margin": 0.8, "length_new": 20.0}
    evaluated(version, wins=1, losses=2, result={"reward_margin": 9.0})
    newest = evaluated(
        version, wins=3, losses=1, result=judged, reward_model=RewardModelFactory(parent=base)
    )
    evaluated(version, wins=1, losses=0, config={"best_of": 4})

    ((route,),) = [start.routes for start in starts_of(export)]

    assert route.evaluation == newest
    assert (route.rate, route.win_rate.wins, route.win_rate.losses) == (0.75, 3, 1)
    assert (route.reward, route.length) == (0.8, 20.0)


def test_a_gate_that_stopped_early_is_not_the_win_rate_of_a_route(export, base):
    version = trained(base, RunKind.DPO, export=export)
    planned = evaluated(version, wins=2, losses=2, config={"seed": 3})
    run = evaluated(version, wins=8, losses=0, config={"seed": 4})
    GateFactory(project=base.project, candidate=version, incumbent=base, run=run)

    ((route,),) = [start.routes for start in starts_of(export)]

    assert (route.evaluation, route.rate) == (planned, 0.5)
    assert list(base.project.runs.evaluations()) == [planned]


@pytest.mark.parametrize(
    ("config", "apart", "expected"),
    [
        ({"missing_eos_penalty": 0.0}, {}, 1.5),
        ({"missing_eos_penalty": 1.0}, {"first": 0.0, "last": 0.75}, 0.75),
        ({"missing_eos_penalty": 1.0}, {}, None),
        ({"reward_weight": 0.5}, {}, None),
        ({"rewards": [{"kind": "sentiment"}]}, {}, None),
    ],
)
def test_rewards_are_what_the_reward_model_says_alone(
    export, base, reward_model, config, apart, expected
):
    version = trained(
        base, RunKind.PPO, reward_model=reward_model,
        result={"score_first": 0.5, "score_last": 2.0, "by_source": {"reward_model": apart}},
    )  # fmt: skip
    Run.objects.filter(pk=version.run.pk).update(config=config)

    ((route,),) = [start.routes for start in starts_of(export)]

    assert (route.reward, route.reward_by) == (expected, None if expected is None else reward_model)


def test_rewards_by_different_reward_models_say_by_which(
    client, project, export, base, reward_model
):
    version = trained(base, RunKind.DPO, export=export)
    judge = RewardModelFactory(project=project, parent=base, name="newer")
    evaluated(version, wins=1, losses=0, reward_model=judge, result={"reward_margin": 0.8})
    gained = {"score_first": 0.5, "score_last": 2.0}
    trained(base, RunKind.PPO, reward_model=reward_model, result=gained)
    sign_in(client, project, Role.REVIEWER)

    page = client.get(reverse("rlhf:routes", args=["tea"])).content.decode()

    assert '0.80 <span class="muted">by newer</span>' in page


def test_the_best_of_n_is_a_route_that_trains_nothing(export, base, reward_model):
    result = {"score_best": 1.5, "score_first": 0.25, "kl": 1.8, "length_new": 12.0,
              "seconds_per_answer": 8.0, "peak_mib": 900}  # fmt: skip
    run = EvaluateRunFactory(
        project=base.project, policy=base, rival=base, reward_model=reward_model,
        status=Status.SUCCEEDED, config={"best_of": 16}, result=result, **took(minutes=2),
    )  # fmt: skip

    ((route,),) = [start.routes for start in starts_of(export)]

    assert (route.label, route.run, route.version) == ("Best of 16", run, None)
    assert (route.reward, route.kl, route.length) == (1.25, 1.8, 12.0)
    assert (route.minutes, route.reward_minutes) == (0.0, pytest.approx(3))
    assert (route.answer_seconds, route.memory_mib) == (8.0, 900)


def test_routes_are_sorted_the_best_first_and_the_unknown_last(export, base):
    kls = {RunKind.DPO: 3.0, RunKind.KTO: None, RunKind.SUPERVISED: 1.0, RunKind.PPO: 2.0}
    for kind, kl in kls.items():
        trained(base, kind, export=export, result={"kl": kl})

    (start,) = starts_of(export, "kl")

    assert [route.label for route in start.routes] == ["PPO", "DPO", "KTO"]


@pytest.mark.parametrize("n", [1, 3])
def test_the_number_of_queries_does_not_depend_on_how_many_routes_there_are(
    export, base, n, django_assert_num_queries
):
    for kind in (RunKind.DPO, RunKind.KTO, RunKind.GRPO)[:n]:
        evaluated(trained(base, kind, export=export), wins=1, losses=0)

    with django_assert_num_queries(7):
        starts_of(export)


# --- the page -----------------------------------------------------------------------------------
def sign_in(client, project, role):
    client.force_login(MembershipFactory(project=project, role=role).user)


def test_the_page_shows_routes_and_says_what_to_do_where_there_are_none(
    client, project, export, base
):
    sign_in(client, project, Role.REVIEWER)
    address = reverse("rlhf:routes", args=["tea"])
    empty = client.get(address).content.decode()
    trained(base, RunKind.KTO, export=export, result={"kl": 2.25, "kl_se": 0.125})

    page = client.get(address, {"sort": "no such column", "export": "²"}).content.decode()

    assert "Routes begin at an export of votes" in empty
    assert "by-kto" in page
    assert '2.25 <span class="muted">± 0.12</span>' in page
    assert "Evaluate" not in page  # which is for admins


def test_the_button_evaluates_against_the_start_as_before_and_once(client, project, export, base):
    PromptFactory(project=project, split="test")
    evaluated(
        trained(base, RunKind.KTO, export=export), wins=1, losses=0,
        config={"temperature": 0.9, "max_new_tokens": 8, "seed": 3, "rewards": [{"kind": "sentiment"}]},
    )  # fmt: skip
    version = trained(base, RunKind.DPO, export=export)
    sign_in(client, project, Role.ADMIN)
    token = client.get(reverse("rlhf:routes", args=["tea"])).context["token"]
    address = reverse("rlhf:evaluate_route", args=["tea", version.pk])

    answers = [client.post(address, {"token": token}) for _ in range(2)]

    run = Run.objects.get(kind=RunKind.EVALUATE, policy=version)
    assert [answer.url for answer in answers] == [run.get_absolute_url()] * 2
    assert (run.rival, run.config["temperature"], run.config["seed"]) == (base, 0.9, 3)
    assert run.rewards == []


def test_an_evaluation_that_is_refused_says_why_on_the_page(client, project, export, base):
    PromptFactory(project=project, split="train")
    version = trained(base, RunKind.DPO, export=export)
    sign_in(client, project, Role.ADMIN)

    answer = client.post(reverse("rlhf:evaluate_route", args=["tea", version.pk]), follow=True)

    assert "No prompt is held out for evaluation" in answer.content.decode()
    assert not Run.objects.filter(kind=RunKind.EVALUATE).exists()


def test_a_program_reads_the_same(client, project, export, base, reward_model):
    version = trained(
        base, RunKind.RLOO, reward_model=reward_model, result={"kl": 4.0, "kl_se": 0.5}
    )
    sign_in(client, project, Role.REVIEWER)

    found = client.get("/api/v1/projects/tea/routes/").json()

    assert found["export"] == export.pk
    assert found["starts"][0]["policy"] == base.pk
    (route,) = found["starts"][0]["routes"]
    assert (route["label"], route["policy"]) == ("RLOO", version.pk)
    assert (route["kl"], route["kl_se"], route["reward_by"]) == (4.0, 0.5, None)
    assert route["win_rate"] is None
    assert client.get("/api/v1/projects/tea/routes/?export=999").status_code == 404


def test_exports_that_nothing_was_trained_on_are_not_offered(project, export, reward_model):
    ExportFactory(project=project, round_number=2)

    assert exports_with_routes(project) == [export]


# --- the command --------------------------------------------------------------------------------
def test_the_command_prints_a_line_a_route(export, base, capsys):
    result = {"kl": 2.0, "kl_se": 0.25, "peak_mib": 900}
    evaluated(trained(base, RunKind.DPO, export=export, result=result), wins=1, losses=1)

    call_command("routes", "tea")

    start, route = capsys.readouterr().out.splitlines()
    assert start.startswith("From base, by export")
    assert route.startswith("  DPO, by-dpo: win rate 50\xa0% (9\xa0% to 91\xa0%), reward ")
    assert ", KL 2.00 ± 0.25, " in route
    assert route.endswith(" seconds an answer, 900 MiB")


def test_the_command_says_where_nothing_was_trained(project, export):
    with pytest.raises(CommandError, match="Nothing was trained on an export of Tea yet"):
        call_command("routes", "tea")
    with pytest.raises(CommandError, match="There is no project coffee"):
        call_command("routes", "coffee")

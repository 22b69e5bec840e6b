"""Where things come from and what carries them, on a loop that has gone round twice."""

import json

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from annotator.models import Role
from rlhf import lineage
from rlhf.lineage import carriers_of
from rlhf.lineage_picture import draw
from rlhf.model_cards import card_of
from rlhf.models import ModelVersion
from tests.factories import MembershipFactory, ProjectFactory, UserFactory, make_judgment
from tests.rlhf.chains import make_chain, with_files
from tests.rlhf.factories import PolicyFactory, make_comparison

pytestmark = pytest.mark.django_db


@pytest.fixture
def chain():
    return make_chain(ProjectFactory(slug="essays", overlap=2), 2)


def names(graph):
    return {node.name for node in graph.nodes.values()}


def said(graph):
    """Example: {"policy-r1 made by PPO run 4", …}"""
    return {
        f"{graph.nodes[edge.target].name} {edge.role} {graph.nodes[edge.source].name}"
        for edge in graph.edges
    }


# --- back -----------------------------------------------------------------------------------------
def test_a_policy_is_followed_back_to_the_votes_and_to_the_base(chain):
    first, second = chain.turns

    found = lineage.of_version(second.policy)

    one, two = first.export.pk, second.export.pk
    anna, ben = f"annotator {chain.anna.pk}", f"annotator {chain.ben.pk}"
    assert said(found.back) == {
        f"base made by {chain.base.run}",
        "1 vote about answers of base",
        f"1 vote given by {anna}",
        "1 vote given under guidelines 1",
        f"export {one} frozen from 1 vote",
        f"{first.reward.run} started from base",
        f"{first.reward.run} learned from export {one}",
        f"reward-r1 made by {first.reward.run}",
        f"{first.policy.run} started from base",
        f"{first.policy.run} rewarded by reward-r1",
        f"policy-r1 made by {first.policy.run}",
        "3 votes about answers of base",
        "3 votes about answers of policy-r1",
        f"3 votes given by {anna}",
        f"3 votes given by {ben}",
        "3 votes given under guidelines 1",
        f"export {two} frozen from 3 votes",
        f"{second.reward.run} started from policy-r1",
        f"{second.reward.run} learned from export {two}",
        f"reward-r2 made by {second.reward.run}",
        f"{second.policy.run} started from policy-r1",
        f"{second.policy.run} rewarded by reward-r2",
        f"policy-r2 made by {second.policy.run}",
    }


def test_what_came_later_is_not_in_the_way_back(chain):
    found = lineage.of_version(chain.turns[0].policy)

    assert "reward-r2" not in names(found.back)
    assert "reward-r2" in names(found.forward)


def test_a_vote_is_followed_back_to_who_gave_it_and_who_wrote_what_it_is_about(chain):
    first, second = chain.turns
    judgment = chain.project.judgments.filter(annotator=chain.ben).get()
    a, b = judgment.comparison.completions.order_by("pk")

    back = lineage.of_judgment(judgment).back

    direct = {edge.source for edge in back.edges if edge.target == f"judgment-{judgment.pk}"}
    assert direct == {
        f"annotator-{chain.ben.pk}", "guidelines-1", f"completion-{a.pk}", f"completion-{b.pk}",
    }  # fmt: skip
    assert {f"answer {a.pk} written by policy-r1", f"policy-r1 made by {first.policy.run}"} <= said(
        back
    )
    assert second.reward.name not in names(back)


def test_an_export_without_sources_in_its_manifest_is_about_who_had_written_by_then(chain):
    first, second = chain.turns
    for turn in chain.turns:
        turn.generate.started = turn.export.created
        turn.generate.save()
        del turn.export.manifest["sources"]
        turn.export.save()

    back = lineage.of_version(second.reward).back

    wrote = {
        edge.source
        for edge in back.edges
        if edge.target == f"votes-{second.export.pk}" and edge.role == lineage.WROTE
    }
    assert wrote == {f"version-{chain.base.pk}", f"version-{first.policy.pk}"}


# --- forward --------------------------------------------------------------------------------------
def carried(found):
    """Names of exports and versions, without what it is about."""
    kinds = ("export", "reward", "policy")
    return {
        node.name
        for node in found.forward.nodes.values()
        if node.kind in kinds and node != found.of
    }


def test_a_vote_of_round_1_is_in_all_that_came_after_it(chain):
    first, second = chain.turns
    vote = chain.project.judgments.order_by("pk").first()

    assert carried(lineage.of_judgment(vote)) == {
        f"export {first.export.pk}", f"export {second.export.pk}",
        "reward-r1", "policy-r1", "reward-r2", "policy-r2",
    }  # fmt: skip


def test_a_vote_of_round_2_is_in_what_was_made_of_it(chain):
    vote = chain.project.judgments.get(annotator=chain.ben)

    found = {f"export {chain.turns[1].export.pk}", "reward-r2", "policy-r2"}
    assert carried(lineage.of_judgment(vote)) == found
    assert carried(lineage.of_annotator(chain.project, chain.ben)) == found


def test_what_carries_a_person_is_what_the_page_of_their_withdrawal_says(chain):
    for person in (chain.anna, chain.ben):
        carriers = carriers_of(chain.project, person)
        listed = {f"export {row.export_id}" for row in carriers.exports}
        listed |= {version.name for version in (*carriers.reward_models, *carriers.policies)}

        assert carried(lineage.of_annotator(chain.project, person)) == listed


def test_an_answer_is_in_the_exports_with_votes_on_it(chain):
    second = chain.turns[1]
    answer = second.generate.completions.first().completion

    assert carried(lineage.of_completion(answer)) == {
        f"export {second.export.pk}", "reward-r2", "policy-r2",
    }  # fmt: skip


def test_an_export_is_in_what_learned_from_it_and_not_in_later_votes(chain):
    first = chain.turns[0]

    assert carried(lineage.of_export(first.export)) == {
        "reward-r1", "policy-r1", "reward-r2", "policy-r2",
    }  # fmt: skip


def test_a_version_is_in_the_exports_of_votes_on_its_answers(chain):
    first, second = chain.turns

    assert carried(lineage.of_version(first.policy)) == {
        f"export {second.export.pk}", "reward-r2", "policy-r2",
    }  # fmt: skip


def test_a_vote_that_nobody_exported_is_nowhere(chain):
    comparison = make_comparison(chain.project.prompts.first(), "C.", "D.")
    vote = make_judgment(comparison, chain.anna, [0], [1])

    assert carried(lineage.of_judgment(vote)) == set()


@pytest.mark.parametrize("n_rounds", [1, 3])
def test_a_lineage_costs_the_same_for_one_round_and_three(n_rounds, django_assert_num_queries):
    chain = make_chain(ProjectFactory(overlap=2), n_rounds)
    version = ModelVersion.objects.select_related("project").get(pk=chain.turns[-1].policy.pk)

    with django_assert_num_queries(5):
        found = lineage.of_version(version)

    assert len([node for node in found.back.nodes.values() if node.kind == "reward"]) == n_rounds


# --- the picture ----------------------------------------------------------------------------------
def test_time_goes_down_and_a_round_from_left_to_right(chain):
    found = lineage.of_version(chain.turns[1].policy)

    picture = draw(found.back, found.of, is_back=True)

    place = {box.name: (box.y, box.x) for box in picture.boxes}
    first, second = chain.turns
    in_order = [
        "base", "1 vote", f"export {first.export.pk}", "reward-r1", "policy-r1",
        "3 votes", f"export {second.export.pk}", "reward-r2", "policy-r2",
    ]  # fmt: skip
    assert sorted(place, key=place.get) == in_order
    assert [row.text for row in picture.rows] == ["Imported", "Round 1", "Round 2"]
    assert (len(picture.lines), picture.is_cut) == (12, False)


def test_the_middle_of_a_long_lineage_is_one_box():
    chain = make_chain(ProjectFactory(overlap=2), 7)
    found = lineage.of_version(chain.turns[-1].policy)

    short = draw(found.back, found.of, is_back=True)
    whole = draw(found.back, found.of, is_back=True, everything=True)

    [several] = [box for box in short.boxes if box.node is None]
    assert (several.name, several.notes) == (
        "Rounds 2 to 4", ["3 exports, 3 reward models, 3 policies"],
    )  # fmt: skip
    assert (len(short.boxes), len(whole.boxes)) == (1 + 4 + 1 + 3 * 4, 1 + 7 * 4)


def test_many_models_of_one_round_become_one_box(chain):
    for n in range(5):
        run = chain.turns[0].policy.run
        PolicyFactory(project=chain.project, name=f"again-{n}", parent=chain.base, run=run)

    found = lineage.of_export(chain.turns[0].export)
    picture = draw(found.forward, found.of)

    assert [box.name for box in picture.boxes if box.node is None] == ["3 more"]


# --- described ------------------------------------------------------------------------------------
def test_a_model_card_says_where_the_model_comes_from(chain):
    second = chain.turns[1]
    with_files(second.policy)

    described = lineage.describe(second.policy)

    assert {name: described[name] for name in ("policies", "reward_models", "judgments")} == {
        "policies": ["base", "policy-r1"],
        "reward_models": ["reward-r1", "reward-r2"],
        "judgments": 3,
    }
    assert (described["annotators"], described["guideline_versions"]) == (2, [1])
    assert [export["sha256"] for export in described["exports"]][-1] == second.export.sha256


def test_a_card_says_whose_answers_were_judged(chain):
    card = card_of(chain.turns[1].policy)

    described = lineage.describe(chain.turns[1].policy)
    assert "## Whose answers were judged\n\n* Policies in its lineage: base, policy-r1" in card
    assert all(source in card for source in described["sources"])
    assert "anna" not in card


def test_the_command_prints_it(chain, capsys):
    call_command("lineage", "essays", "policy-r1")
    words = capsys.readouterr().out
    call_command("lineage", "essays", "--export", str(chain.turns[0].export.pk), "--json")
    found = json.loads(capsys.readouterr().out)

    assert f"  {chain.turns[0].policy.run}: rewarded by reward-r1\n" in words
    assert found["of"] == f"export-{chain.turns[0].export.pk}"
    with pytest.raises(CommandError, match="has no model version policy-r9"):
        call_command("lineage", "essays", "policy-r9")


# --- the page -------------------------------------------------------------------------------------
def url(kind, pk, name="lineage"):
    return reverse(f"rlhf:{name}", args=["essays", kind, pk])


def addresses(chain):
    judgment = chain.project.judgments.first()
    completion = judgment.comparison.completions.first()
    return [
        ("version", chain.turns[1].policy.pk),
        ("export", chain.turns[0].export.pk),
        ("judgment", judgment.pk),
        ("completion", completion.pk),
        ("annotator", chain.anna.pk),
    ]


def test_reviewers_see_a_page_of_each_thing_and_its_json_has_no_names(client, chain):
    client.force_login(MembershipFactory(project=chain.project, role=Role.REVIEWER).user)

    for kind, pk in addresses(chain):
        page = client.get(url(kind, pk)).content.decode()
        found = client.get(url(kind, pk, "lineage_json")).json()

        assert "<svg" in page
        assert found["of"] == f"{kind}-{pk}"
        assert {edge["source"] for edge in found["edges"]} <= {
            node["id"] for node in found["nodes"]
        }
        assert "anna" not in str(found)


def test_the_page_says_where_a_file_cannot_tell_any_more(client, chain):
    client.force_login(MembershipFactory(project=chain.project, role=Role.REVIEWER).user)
    vote = chain.project.judgments.get(annotator=chain.ben)
    (chain.turns[1].export.folder / "votes.jsonl").unlink()

    page = client.get(url("judgment", vote.pk)).content.decode()
    found = client.get(url("judgment", vote.pk, "lineage_json")).json()

    assert "(told by its date: votes.jsonl is missing)" in page
    assert [edge["doubt"] for edge in found["edges"] if "doubt" in edge] == [
        "by its date: votes.jsonl is missing"
    ]


@pytest.mark.parametrize("role", [None, Role.ANNOTATOR])
def test_annotators_and_outsiders_see_none(client, chain, role):
    user = MembershipFactory(project=chain.project, role=role).user if role else UserFactory()
    client.force_login(user)

    for kind, pk in addresses(chain):
        assert client.get(url(kind, pk)).status_code == 404
        assert client.get(url(kind, pk, "lineage_json")).status_code == 404
        assert client.get(url(kind, pk, "file_check")).status_code == 404
        assert client.post(url(kind, pk, "check_files")).status_code == 404


def test_things_of_another_project_are_not_found(client, chain):
    other = MembershipFactory(role=Role.ADMIN)
    client.force_login(other.user)

    for kind, pk in addresses(chain):
        address = reverse("rlhf:lineage", args=[other.project.slug, kind, pk])
        assert client.get(address).status_code == 404

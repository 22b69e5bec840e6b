"""A program compares as a person does: blind, once, and never more than it may."""

from datetime import timedelta

import pytest
from django.utils import timezone

from annotator.models import Assignment, Comparison, Judgment, Role, Verdict
from annotator.protocols import PRESETS, to_json
from annotator.version import code_version
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    api_client,
    completion_ids,
    make_judgment,
)

pytestmark = pytest.mark.django_db

ASSIGNMENTS = "/api/v1/projects/tea/assignments/"
JUDGMENTS = "/api/v1/projects/tea/judgments/"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def anna(project):
    return MembershipFactory(project=project).user


@pytest.fixture
def program(anna):
    return api_client(anna)


def post(program, path, **body):
    return program.post(ASSIGNMENTS + path, body, content_type="application/json")


def handed_out(program):
    return post(program, "next/").json()["assignment"]


def test_what_is_handed_out_is_held_until_it_is_judged(project, program):
    ComparisonFactory(project=project)

    assert handed_out(program)["id"] == handed_out(program)["id"]
    assert Comparison.objects.get().taken == 1


def test_a_request_with_a_key_hands_out_judges_and_skips_once(project, program):
    for _ in range(3):
        ComparisonFactory(project=project)

    def twice(path, key, **body):
        headers = {"Idempotency-Key": key}
        sent = {"content_type": "application/json", "headers": headers}
        first, second = (program.post(ASSIGNMENTS + path, body, **sent) for _ in range(2))
        assert (second.json(), second["Idempotency-Replayed"]) == (first.json(), "true")
        return first.json()

    held = twice("next/", "k1")["assignment"]
    twice(f"{held['id']}/judge/", "k2", payload_hash=held["payload_hash"], verdict="all_bad")
    held = twice("next/", "k3")["assignment"]
    twice(f"{held['id']}/skip/", "k4", payload_hash=held["payload_hash"])

    assert sorted(Judgment.objects.values_list("verdict", flat=True)) == ["all_bad", "skipped"]


def test_nothing_that_is_handed_out_tells_who_wrote_what(project, program):
    comparison = ComparisonFactory(project=project, texts=["One.", "Two."])
    comparison.completions.update(source="policy-r2-v7")

    answer = post(program, "next/")

    assignment = answer.json()["assignment"]
    assert "policy-r2-v7" not in answer.content.decode()
    assert sorted(assignment) == sorted(
        ["answers", "guideline_version", "id", "lease_until", "payload_hash", "prompt", "protocol",
         "shown"]
    )  # fmt: skip
    assert sorted(assignment["answers"][0]) == ["place", "text"]  # no number: they go by age


def test_the_answer_at_the_place_that_is_named_wins(project, program):
    comparison = ComparisonFactory(project=project, texts=["One.", "Two."])
    held = handed_out(program)
    better = next(answer for answer in held["answers"] if answer["text"] == "Two.")["place"]

    answer = post(
        program, f"{held['id']}/judge/", payload_hash=held["payload_hash"], shown=held["shown"],
        verdict="ranking", ranking=[[better], [1 - better]],
    )  # fmt: skip

    one, two = completion_ids(comparison)
    assert answer.json()["ranking"] == [[better], [1 - better]]
    assert Judgment.objects.get().ranking == [[two], [one]]
    assert Judgment.objects.get().seconds < 60


@pytest.mark.parametrize(("sent", "kept"), [(1500, 1500), (None, None), (10**8, None)])
@pytest.mark.parametrize("act", ["judge", "skip"])
def test_a_judgment_tells_of_its_showing(project, program, act, sent, kept):
    """What cannot be, because nothing had been shown yet, is not known."""
    ComparisonFactory(project=project)
    held = handed_out(program)
    Assignment.objects.update(created=timezone.now() - timedelta(seconds=5))
    said = {"verdict": "all_bad"} if act == "judge" else {}

    answer = post(
        program, f"{held['id']}/{act}/", payload_hash=held["payload_hash"],
        first_interaction_ms=sent, **said,
    ).json()  # fmt: skip

    assert (answer["first_interaction_ms"], answer["ui_version"]) == (kept, code_version())
    assert Assignment.objects.get().first_interaction_ms == kept


@pytest.mark.parametrize("sent", [-1, 1.5, "1500", 10**10])
def test_what_is_no_number_of_milliseconds_is_refused(project, program, sent):
    ComparisonFactory(project=project)
    held = handed_out(program)

    answer = post(
        program, f"{held['id']}/judge/", payload_hash=held["payload_hash"], verdict="all_bad",
        first_interaction_ms=sent,
    )  # fmt: skip

    assert [error["pointer"] for error in answer.json()["errors"]] == ["#/first_interaction_ms"]
    assert not Judgment.objects.exists()


def test_a_verdict_that_is_sent_twice_is_one(project, program):
    ComparisonFactory(project=project)
    held = handed_out(program)
    verdict = {"payload_hash": held["payload_hash"], "verdict": "all_bad"}

    first = post(program, f"{held['id']}/judge/", **verdict)
    second = post(program, f"{held['id']}/judge/", **verdict)

    assert first.json() == second.json()
    assert Judgment.objects.get().verdict == Verdict.ALL_BAD


def test_all_that_a_protocol_asks_for_can_be_said(project, program):
    project.protocol = to_json(PRESETS["qualities"].protocol) | {"flags": ["unsafe"]}
    project.save()
    ComparisonFactory(project=project)
    held = handed_out(program)
    by_criterion = {key: {"ranking": [[0], [1]]} for key in ("helpful", "honest", "harmless")}

    answer = post(
        program, f"{held['id']}/judge/", payload_hash=held["payload_hash"], verdict="ranking",
        ranking=[[0, 1]], criteria=by_criterion, flags={"1": ["unsafe"]},
    ).json()  # fmt: skip

    assert answer["flags"] == {"1": ["unsafe"]}
    assert answer["criteria"]["honest"] == {"ranking": [[0], [1]], "strength": None}


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ({"ranking": [[0], [2]]}, "There is no answer at place 2: 0 to 1."),
        ({"ranking": [[0]]}, "Every answer must be ranked exactly once."),
        ({"ranking": [[0], [1]], "rationale": "So."}, "This project does not ask for reasons"),
        ({"ranking": [[0], [1]], "payload_hash": "other"}, "This verdict is about another text"),
        ({"ranking": [["0"], [1]]}, "A valid integer is required."),
        ({"flags": {"nine": ["unsafe"]}, "ranking": [[0], [1]]}, "There is no answer at place"),
    ],
)
def test_a_verdict_that_cannot_be_is_refused_in_a_sentence(project, program, verdict, sentence):
    ComparisonFactory(project=project)
    held = handed_out(program)

    answer = post(
        program,
        f"{held['id']}/judge/",
        **{"payload_hash": held["payload_hash"], "verdict": "ranking", **verdict},
    )

    said = answer.json()["detail"] + "".join(error["detail"] for error in answer.json()["errors"])
    assert answer.status_code == 422
    assert sentence in said
    assert not Judgment.objects.exists()


def test_a_skip_leaves_it_to_others_and_the_queue_says_why_it_is_empty(project, program):
    ComparisonFactory(project=project)
    held = handed_out(program)

    post(program, f"{held['id']}/skip/", payload_hash=held["payload_hash"])

    assert Comparison.objects.get().taken == 0
    assert post(program, "next/").json() == {
        "assignment": None,
        "reason": "all_done",
        "until": None,
    }


def test_an_undo_hands_the_comparison_out_again_and_sent_twice_takes_back_no_other(
    project, anna, program
):
    first, last = ComparisonFactory.create_batch(2, project=project)
    kept, undone = make_judgment(first, anna, [0], [1]), make_judgment(last, anna, [0], [1])

    once = post(program, "undo/", judgment=undone.pk).json()
    twice = post(program, "undo/", judgment=undone.pk).json()
    other = post(program, "undo/", judgment=kept.pk)

    assert once["assignment"]["id"] == twice["assignment"]["id"]
    assert other.status_code == 200  # now it is the last one
    assert not Judgment.objects.filter(voided=None).exists()


@pytest.mark.parametrize("brings_token", [True, False])
def test_after_an_undo_nobody_knows_how_long_it_was_read(project, anna, program, brings_token):
    undone = make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    again = post(program, "undo/", judgment=undone.pk).json()["assignment"]
    token = {"shown": again["shown"]} if brings_token else {}
    verdict = {"payload_hash": again["payload_hash"], "verdict": "ranking", "ranking": [[0], [1]]}

    answer = post(program, f"{again['id']}/judge/", **verdict, **token)

    assert answer.json()["seconds"] is None


def test_an_undo_of_what_others_have_answered_names_what_can_be_taken_back(project, anna, program):
    first, left = ComparisonFactory.create_batch(2, project=project)
    judged = make_judgment(first, anna, [0], [1])
    skip = make_judgment(left, anna, verdict=Verdict.SKIPPED)
    make_judgment(left, UserFactory(), [0], [1])

    refused = post(program, "undo/", judgment=skip.pk)
    again = post(program, "undo/", judgment=judged.pk)

    last = f"The last that you can take back is judgment {judged.pk}."
    assert (refused.status_code, refused.json()["detail"].endswith(last)) == (422, True)
    assert again.status_code == 200


def test_only_ones_last_verdict_can_be_taken_back(project, anna, program):
    first, last = ComparisonFactory.create_batch(2, project=project)
    older = make_judgment(first, anna, [0], [1])
    make_judgment(last, anna, [0], [1])
    of_others = make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])

    assert post(program, "undo/", judgment=older.pk).status_code == 409
    assert post(program, "undo/", judgment=of_others.pk).status_code == 404
    assert Judgment.objects.filter(voided=None).count() == 3


def test_nobody_judges_what_somebody_else_was_handed(project, program):
    ComparisonFactory(project=project)
    held = handed_out(program)
    ben = api_client(MembershipFactory(project=project).user)

    answer = post(ben, f"{held['id']}/judge/", payload_hash=held["payload_hash"], verdict="all_bad")

    assert answer.status_code == 404


def test_annotators_list_their_own_judgments_by_place(project, anna, program):
    comparison = ComparisonFactory(project=project, overlap=2)
    make_judgment(comparison, anna, [1], [0])
    make_judgment(comparison, UserFactory(username="ben"), [0], [1])

    (own,) = program.get(JUDGMENTS).json()["results"]

    assert own["ranking"] == [[1], [0]]
    assert not {"order", "comparison", "annotator"} & own.keys()
    assert program.get(f"{JUDGMENTS}?annotator=ben").status_code == 422


def test_reviewers_list_everybodys_judgments_with_what_was_where(project, anna):
    comparison = ComparisonFactory(project=project, overlap=2)
    order = completion_ids(comparison)[::-1]
    make_judgment(comparison, anna, [1], [0], order=order)
    make_judgment(comparison, UserFactory(username="ben"), [0], [1])
    reviewer = api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)

    rows = reviewer.get(f"{JUDGMENTS}?annotator={anna.username}").json()["results"]

    assert len(reviewer.get(JUDGMENTS).json()["results"]) == 2
    assert [(row["ranking"], row["order"]) for row in rows] == [([[0], [1]], order)]


def test_judgments_that_were_taken_back_are_told_apart(project, anna, program):
    undone = make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    post(program, "undo/", judgment=undone.pk)

    assert program.get(f"{JUDGMENTS}?in_force=true").json()["results"] == []
    assert len(program.get(f"{JUDGMENTS}?in_force=false").json()["results"]) == 1

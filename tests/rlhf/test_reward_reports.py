import json

import pytest
from django.urls import reverse

from annotator.models import Role
from rlhf import reward_reports
from rlhf.models import RunKind, Status
from rlhf.reward_reports import cautions, learning_diagram, reliability_diagram, votes_in_words
from rlhf.training.data import Vote
from rlhf.training.reward_report import JudgedPair, Scored, Ties, report
from tests.factories import MembershipFactory, ProjectFactory
from tests.rlhf.factories import RunFactory

pytestmark = pytest.mark.django_db

CURVE = [
    {"share": 0.1, "n_votes": 24, "n_pairs": 12, "accuracy": 0.5, "accuracy_low": 0.3,
     "accuracy_high": 0.7},
    {"share": 1.0, "n_votes": 240, "n_pairs": 120, "accuracy": 0.75, "accuracy_low": 0.6,
     "accuracy_high": 0.9},
]  # fmt: skip
FOR, AGAINST = (Vote("1", prefers, "chosen") for prefers in ("chosen", "rejected"))


def judge(place, margin, lengths=(5, 9), votes=(FOR, FOR)):
    p_chosen = sum(vote.prefers == "chosen" for vote in votes) / len(votes)
    chosen, rejected = Scored(margin, lengths[0]), Scored(0.0, lengths[1])
    return JudgedPair(
        place, f"p{place}", chosen, rejected, p_chosen, len(votes), 1.0, votes
    )  # fmt: skip


def row(split="test", prompt="Why?", chosen="So.", rejected="No.", **columns):
    completions = {"chosen": chosen, "rejected": rejected}
    return {"prompt": [{"role": "user", "content": prompt}], "split": split, **columns} | {
        name: [{"role": "assistant", "content": text}] for name, text in completions.items()
    }


def make_run(judged, rows=(), **fields):
    """A run that has succeeded, with its report and the votes that it was given."""
    result = {"report": report(judged), "learning_curve": CURVE}
    run = RunFactory(
        kind=RunKind.REWARD_MODEL, status=Status.SUCCEEDED, result=result, config={}, **fields
    )
    (run.folder / "data").mkdir()
    (run.folder / "data" / "data.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return run


def address(run):
    return reverse("rlhf:reward_report", args=[run.project.slug, run.pk])


def sign_in(client, project, role=Role.REVIEWER):
    client.force_login(MembershipFactory(project=project, role=role).user)


# --- in words ---------------------------------------------------------------------------------
def test_the_first_sentence_says_what_matters():
    judged = [judge(place, -1 if place < 2 else 1) for place in range(8)]
    judged += [judge(8, 1, lengths=(9, 5)), judge(9, 1, votes=(FOR, FOR, AGAINST))]

    # Of the last pair only the third vote has a majority to be asked about, and is against it.
    assert reward_reports.summary(make_run(judged)) == (
        "On 10 held-out pairs it agrees with people in 80\u00a0% (49 to 94\u00a0%); “the longer one "
        "wins” gets 10\u00a0%; people agree among themselves in 90\u00a0%."
    )


def test_the_first_sentence_admits_what_is_not_known():
    single = make_run([judge(0, 1.0, votes=(FOR,))])
    nothing = make_run([], project=single.project)
    old = RunFactory(kind=RunKind.REWARD_MODEL, result={"accuracy": 0.7})

    assert reward_reports.summary(single).startswith("On 1 held-out pair it agrees")
    assert reward_reports.summary(single).endswith("agree among themselves is not known.")
    assert reward_reports.summary(nothing).startswith("No pair that people decided was held out")
    assert reward_reports.summary(old) == ""


def test_an_accuracy_that_may_be_chance_or_length_is_cautioned_against():
    known = {"same_prompt": 2}
    good = report([judge(place, 1, (place % 2, 1 - place % 2)) for place in range(40)])
    chance = report([judge(place, place % 2 - 0.5) for place in range(40)])
    length = report([judge(place, place - 4.5) for place in range(40)])

    assert cautions(good) == cautions(report([])) == []
    assert [sentence.partition(":")[0] for sentence in cautions(chance)] == [
        "It may be no better than a coin toss",
    ]
    assert cautions(length) == [
        "It is not proven to be better than length alone: “the shorter one wins” gets 100\u00a0% on "
        "the same pairs."
    ]
    assert [sentence.partition(",")[0] for sentence in cautions(good | {"duplicates": known})] == [
        "2 held-out pairs have a prompt that it has learnt from",
    ]


def test_votes_are_told_in_numbers():
    assert votes_in_words(0.75, 4) == "3 of 4 votes"
    assert votes_in_words(5 / 6, 3) == "2.5 of 3 votes"
    assert votes_in_words(1.0, 1) == "1 of 1 vote"


# --- diagrams ---------------------------------------------------------------------------------
def test_dots_of_the_reliability_diagram_stand_where_the_axes_say():
    bins = [
        {"predicted": 0.5, "observed": 0.5, "low": 0.0, "high": 1.0},
        {"predicted": 1.0, "observed": 1.0, "low": 1.0, "high": 1.0},
    ]

    diagram = reliability_diagram(bins)

    assert diagram.line == diagram.reference == "44.0,104.0 338.0,10.0"
    assert (diagram.dots[0].low, diagram.dots[0].high) == ("198.0", "10.0")
    assert [tick.label for tick in diagram.x_ticks][::5] == ["50 %", "100 %"]
    assert reliability_diagram([]) is None


def test_learning_diagram_leaves_out_what_is_not_known():
    unknown = CURVE[0] | {"accuracy": None}

    assert learning_diagram(CURVE).line == "73.4,104.0 338.0,57.0"
    assert [tick.label for tick in learning_diagram(CURVE).x_ticks] == ["24", "240"]
    assert learning_diagram([unknown, *CURVE]) == learning_diagram(CURVE)
    assert learning_diagram([unknown, CURVE[1]]) is None


# --- mistakes ---------------------------------------------------------------------------------
def test_mistakes_are_read_from_the_held_out_rows():
    rows = [row(chosen="right"), row("train"), row(prompt="Как?", chosen="Так.", rejected="Нет.")]

    (mistake,) = reward_reports.mistakes_of(make_run([judge(0, 1.0), judge(1, -2.5)], rows))

    assert (mistake.prompt, mistake.chosen, mistake.rejected) == ("Как?", "Так.", "Нет.")
    assert (mistake.difference, mistake.chosen_tokens, mistake.rejected_tokens) == (2.5, 5, 9)


def test_chosen_is_what_most_preferred_however_the_row_is_written():
    rows = [row(chosen="loser", rejected="winner", p_chosen=0.25, n_judgments=4)]

    (mistake,) = reward_reports.mistakes_of(make_run([judge(0, -1.0)], rows))

    assert (mistake.chosen, mistake.rejected, mistake.votes) == ("winner", "loser", "3 of 4 votes")


def test_mistakes_without_their_file_are_left_out():
    run = make_run([judge(0, -1.0)], [row()])
    (run.folder / "data" / "data.jsonl").unlink()

    assert reward_reports.mistakes_of(run) == []


# --- the page ---------------------------------------------------------------------------------
def test_page_shows_the_report_and_escapes_what_models_wrote(client):
    run = make_run([judge(0, -1.0), judge(1, 1.0)], [row(chosen="<b>bold</b>" * 60), row()])
    sign_in(client, run.project)

    page = client.get(address(run)).content.decode()

    assert reward_reports.summary(run) in page
    assert "&lt;b&gt;bold" in page
    assert "<b>bold" not in page
    diagrams = page.split('class="chart diagram"')[1:]
    assert [diagram.count("<circle") for diagram in diagrams] == [1, 2]


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ("new", "Everywhere here a tie is half a vote"),
        ("old", "they make it look surer than it is"),
    ],
)
def test_page_says_what_becomes_of_ties_that_are_an_outcome(client, version, sentence):
    run = make_run([judge(0, 1.0)])
    run.config = {"ties": "davidson"}
    run.result["report"] = report([judge(0, 1.0)], Ties("davidson", 0.3))
    if version == "old":  # its predictions were of models without ties
        del run.result["report"]["calibration"]["tie_share"]
    run.save()
    sign_in(client, run.project)

    assert sentence in client.get(address(run)).content.decode()


def test_page_counts_prompts_whose_answers_lie_in_several_groups(client):
    run = make_run([judge(0, 1.0)])
    sign_in(client, run.project)
    said = "have more answers than 1,024 tokens hold"
    assert said not in client.get(address(run)).content.decode()
    run.config["micro_batch_tokens"] = 1024
    run.result["split_prompts"] = 3
    run.save()

    page = client.get(address(run)).content.decode()

    assert f"3 prompts {said}" in page


@pytest.mark.parametrize(
    ("found", "is_told"),
    [
        ({"has_arms": True, "arms": None}, True),
        ({"has_arms": True, "arms": []}, False),
        ({"has_arms": False, "arms": None}, False),
        ({}, False),  # a run of before this was known
    ],
)
def test_page_tells_how_to_compare_arms_that_have_enough_votes(client, found, is_told):
    run = make_run([judge(0, 1.0)])
    run.result |= found
    run.save()
    sign_in(client, run.project)

    page = client.get(address(run)).content.decode()

    assert ("Train with <em>Compare the arms</em>" in page) == is_told


def test_page_of_a_run_without_held_out_pairs_opens(client):
    run = make_run([])
    sign_in(client, run.project)

    assert "nobody knows how often it agrees" in client.get(address(run)).content.decode()


def test_run_page_leads_to_the_report_if_there_is_one(client):
    run = make_run([judge(0, 1.0)])
    result = {"accuracy": 0.75, "accuracy_low": 0.6, "accuracy_high": 0.9}
    old = RunFactory(
        kind=RunKind.REWARD_MODEL, status=Status.SUCCEEDED, project=run.project, result=result
    )
    sign_in(client, run.project)

    assert address(run) in client.get(run.get_absolute_url()).content.decode()
    assert address(old) not in client.get(old.get_absolute_url()).content.decode()
    assert client.get(address(old)).status_code == 404


def test_only_reviewers_of_the_project_see_the_report(client):
    run = make_run([judge(0, 1.0)])

    sign_in(client, run.project, Role.ANNOTATOR)
    assert client.get(address(run)).status_code == 404
    sign_in(client, ProjectFactory(), Role.ADMIN)
    assert client.get(address(run)).status_code == 404
    sign_in(client, run.project, Role.REVIEWER)
    assert client.get(address(run)).status_code == 200

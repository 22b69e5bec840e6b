import pytest

from annotator.models import Comparison, Completion
from rlhf import evaluation
from tests.factories import ProjectFactory, PromptFactory, UserFactory, make_judgment
from tests.rlhf.factories import EvaluateRunFactory, write_artifact

pytestmark = pytest.mark.django_db


def pair(prompt, new, old):
    return {
        "id": prompt.pk, "index": 0, "new": new, "old": old, "new_truncated": True,
        "old_truncated": False, "new_score": 1.5, "old_score": -0.5,
    }  # fmt: skip


@pytest.fixture
def run():
    project = ProjectFactory(overlap=4)
    return EvaluateRunFactory(project=project, result={"reward_rate": 0.75, "reward_margin": 0.5})


@pytest.fixture
def comparisons(run):
    """Three pairs to judge, new answer first."""
    prompts = PromptFactory.create_batch(3, project=run.project)
    write_artifact(run, "pairs.jsonl", [pair(p, f"new {p.pk}", f"old {p.pk}") for p in prompts])
    evaluation.store_pairs(run)
    return list(Comparison.objects.order_by("pk"))


GROUPS = {"new": [[0], [1]], "old": [[1], [0]], "tie": [[0, 1]], "bad": []}


def vote(comparison, word):
    return make_judgment(comparison, UserFactory(), *GROUPS[word])


# --- comparisons ------------------------------------------------------------------------------
def test_pairs_become_blind_comparisons_before_all_others(run, comparisons):
    (comparison, *_) = comparisons

    assert (comparison.purpose, comparison.origin) == ("evaluation", f"run-{run.pk}")
    assert (comparison.priority, comparison.round_number) == (10, run.round_number)
    new, old = (entry.completion for entry in comparison.entries.all())
    assert (new.source, new.is_truncated, new.generated.score) == (run.policy.name, True, 1.5)
    assert (old.source, old.is_truncated, old.generated.score) == (run.rival.name, False, -0.5)


def test_best_of_several_is_told_from_a_single_answer_of_the_same_policy(run):
    run.rival, run.config = run.policy, {**run.config, "best_of": 16}
    run.save()
    prompt = PromptFactory(project=run.project)
    write_artifact(run, "pairs.jsonl", [pair(prompt, "the best", "a single one")])

    evaluation.store_pairs(run)
    comparison = Comparison.objects.get()
    vote(comparison, "old")

    rate = evaluation.win_rate(run)
    assert (rate.wins, rate.losses) == (0, 1)
    assert [e.completion.generated.best_of for e in comparison.entries.all()] == [16, 1]


def test_identical_answers_are_counted_and_nobody_is_asked(run):
    prompt = PromptFactory(project=run.project)
    write_artifact(run, "pairs.jsonl", [pair(prompt, "same", "same ")])

    counts = evaluation.store_pairs(run)

    assert counts == {"n_comparisons": 0, "n_identical": 1, "n_repeated": 0}
    assert (Comparison.objects.count(), Completion.objects.count()) == (0, 2)


# --- the rate ---------------------------------------------------------------------------------
def test_win_rate_counts_one_outcome_per_comparison(run, comparisons):
    for comparison, word in zip(comparisons, ["new", "old", "tie"], strict=True):
        vote(comparison, word)

    rate = evaluation.win_rate(run)

    assert (rate.wins, rate.losses, rate.ties, rate.all_bad, rate.undecided) == (1, 1, 1, 0, 0)
    assert (rate.n_comparisons, rate.n_judgments, rate.rate) == (3, 3, 0.5)
    assert (rate.reward_rate, rate.reward_margin) == (0.75, 0.5)


def test_interval_is_wilsons(run, comparisons):
    for comparison in comparisons:
        vote(comparison, "new")

    rate = evaluation.win_rate(run)

    # Wilson's lower bound of 3 out of 3 is 3 / (3 + z²).
    assert (rate.rate, rate.high) == (1.0, 1.0)
    assert rate.low == pytest.approx(3 / (3 + 1.959964**2), abs=1e-6)


def test_rate_is_unknown_before_anybody_has_decided(run, comparisons):
    vote(comparisons[0], "tie")

    rate = evaluation.win_rate(run)

    assert (rate.rate, rate.low, rate.high) == (None, None, None)
    assert (rate.ties, rate.undecided) == (1, 2)


def test_identical_answers_are_ties(run, comparisons):
    run.result["n_identical"] = 4

    rate = evaluation.win_rate(run)

    assert (rate.ties, rate.undecided, rate.n_comparisons) == (4, 3, 7)


def test_pairs_that_are_held_back_are_counted_and_stand_apart(run, comparisons):
    for comparison in comparisons[:2]:
        vote(comparison, "new")
    Comparison.objects.filter(origin=run.origin).hold_back("Answer A is empty.")

    rate = evaluation.win_rate(run)

    # What was judged before it was held back counts.
    assert (rate.wins, rate.held, rate.undecided, rate.n_comparisons) == (2, 1, 0, 3)


def test_pairs_in_which_an_answer_says_nothing_are_held_back(run):
    write_artifact(run, "pairs.jsonl", [pair(PromptFactory(project=run.project), "Paris.", "")])

    counts = evaluation.store_pairs(run)

    assert counts == {"n_comparisons": 0, "n_held": 1, "n_identical": 0, "n_repeated": 0}
    assert Comparison.objects.get().hold == "Answer B is empty."


def test_withdrawn_and_skipped_judgments_do_not_count(run, comparisons):
    judgment = vote(comparisons[0], "new")
    judgment.voided = judgment.created
    judgment.save()
    make_judgment(comparisons[0], UserFactory(), verdict="skipped")

    rate = evaluation.win_rate(run)

    assert (rate.undecided, rate.n_judgments) == (3, 0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("new new old", "win"),
        ("old old tie", "loss"),
        ("new old", "tie"),
        ("new tie", "tie"),
        ("new old tie bad", "tie"),
        ("bad bad new", "all_bad"),
    ],
)
def test_outcome_is_what_more_than_half_say(run, comparisons, words, expected):
    for word in words.split():
        vote(comparisons[0], word)

    ballots = evaluation.ballots_of([run])[0][run.origin]

    assert evaluation.outcome(ballots[comparisons[0].pk]) == expected


def test_number_of_queries_does_not_depend_on_runs_or_votes(
    run, comparisons, django_assert_num_queries
):
    vote(comparisons[0], "new")
    other = EvaluateRunFactory(project=run.project, round_number=2)

    with django_assert_num_queries(3):
        evaluation.win_rates([run])
    vote(comparisons[1], "new")
    with django_assert_num_queries(3):
        rates = evaluation.win_rates([run, other])

    assert [rates[run.pk].wins, rates[other.pk].wins] == [2, 0]

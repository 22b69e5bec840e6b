import json

import pytest

from annotator.models import Comparison, Completion
from rlhf import generation
from rlhf.models import GeneratedCompletion
from tests.factories import ComparisonFactory, ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    EvaluateRunFactory,
    GenerateRunFactory,
    PolicyFactory,
    write_artifact,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def run():
    return GenerateRunFactory(round_number=2)


def line(prompt, index, text, **fields):
    return {"id": prompt.pk, "index": index, "completion": text, "truncated": False} | fields


def texts(comparison):
    return [entry.completion.text for entry in comparison.entries.all()]


def generated(run, prompt, text="An answer"):
    completion = Completion.objects.create(prompt=prompt, text=text)
    GeneratedCompletion.objects.create(
        completion=completion, model_version=run.policy, run=run, sampling={}
    )


# --- out --------------------------------------------------------------------------------------
def test_prompts_are_written_one_a_line_as_they_are(tmp_path):
    prompt = PromptFactory(messages=[{"role": "user", "content": "Größe?\n"}])

    n = generation.write_prompts(tmp_path / "prompts.jsonl", prompt.project.prompts.all())

    written = (tmp_path / "prompts.jsonl").read_text(encoding="utf-8")
    assert n == 1
    assert json.loads(written) == {"id": prompt.pk, "messages": prompt.messages}
    assert written.count("\n") == 1


def test_sample_of_prompts_is_the_same_every_time(tmp_path):
    prompts = PromptFactory.create_batch(5, project=ProjectFactory())

    n = generation.write_prompts(tmp_path / "a", prompts[0].project.prompts.all(), limit=2)
    generation.write_prompts(tmp_path / "b", prompts[0].project.prompts.all(), limit=2)

    assert n == 2
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_prompts_with_enough_answers_of_the_round_are_left_out(run):
    answered, half, new = PromptFactory.create_batch(3, project=run.project)
    lines = [line(answered, 0, "One"), line(answered, 1, "Another"), line(half, 0, "One")]
    write_artifact(run, "completions.jsonl", lines)
    generation.store_completions(run)

    lacking = generation.prompts_lacking_completions(run.project, 2, wanted=2)

    assert list(lacking.order_by("pk")) == [half, new]


def test_prompts_whose_answers_are_all_the_same_can_be_answered_again(run):
    prompt = PromptFactory(project=run.project)
    write_artifact(run, "completions.jsonl", [line(prompt, 0, "Yes."), line(prompt, 1, "Yes.")])
    generation.store_completions(run)

    lacking = generation.prompts_lacking_completions(run.project, 2, wanted=2)

    assert list(lacking) == [prompt]


def test_answers_of_other_rounds_evaluations_and_imports_do_not_count(run):
    prompt = PromptFactory(project=run.project)
    generated(run, prompt)
    generated(EvaluateRunFactory(project=run.project, round_number=3), prompt)
    ComparisonFactory(project=prompt.project, prompt=prompt, texts=["one", "two"])

    lacking = generation.prompts_lacking_completions(run.project, 3, wanted=1)

    assert list(lacking) == [prompt]


def test_prompts_of_other_projects_are_left_out(run):
    PromptFactory()

    assert list(generation.prompts_lacking_completions(run.project, 1, wanted=2)) == []


# --- in ---------------------------------------------------------------------------------------
def test_completions_are_stored_with_their_lineage(run):
    prompt = PromptFactory(project=run.project)
    write_artifact(run, "completions.jsonl", [line(prompt, 0, "Yes.", truncated=True)])

    generation.store_completions(run)

    completion = Completion.objects.get()
    assert (completion.prompt, completion.text) == (prompt, "Yes.")
    assert (completion.source, completion.is_truncated) == (run.policy.name, True)
    lineage = completion.generated
    assert (lineage.run, lineage.model_version) == (run, run.policy)
    assert lineage.sampling == {"temperature": 1.0, "max_new_tokens": 8, "seed": 0}


def test_answers_are_compared_in_pairs_in_the_order_written(run):
    prompt, other = PromptFactory.create_batch(2, project=run.project)
    lines = [line(prompt, i, f"p{i}") for i in range(5)] + [line(other, i, f"o{i}") for i in (0, 1)]
    write_artifact(run, "completions.jsonl", lines)

    counts = generation.store_completions(run)

    comparisons = Comparison.objects.order_by("pk")
    assert [texts(each) for each in comparisons] == [["p0", "p1"], ["p2", "p3"], ["o0", "o1"]]
    assert {(c.round_number, c.purpose, c.origin, c.priority) for c in comparisons} == {
        (2, "training", f"run-{run.pk}", 0)
    }
    assert counts == {"n_comparisons": 3, "n_identical": 0, "n_repeated": 0}


def test_identical_answers_are_counted_and_not_compared(run):
    prompt = PromptFactory(project=run.project)
    lines = [line(prompt, i, text) for i, text in enumerate(["same", " same ", "other"])]
    write_artifact(run, "completions.jsonl", lines)

    counts = generation.store_completions(run)

    assert [texts(each) for each in Comparison.objects.all()] == [["same", "other"]]
    assert counts == {"n_comparisons": 1, "n_identical": 1, "n_repeated": 0}


def test_pair_in_which_something_is_found_is_held_back_and_counted(run):
    prompt = PromptFactory(project=run.project)
    lines = [line(prompt, 0, "I am ChatGPT."), line(prompt, 1, "Hello!")]
    write_artifact(run, "completions.jsonl", lines)

    counts = generation.store_completions(run)

    assert counts == {"n_comparisons": 0, "n_held": 1, "n_identical": 0, "n_repeated": 0}
    assert Comparison.objects.get().hold == "Answer A says who wrote it: “I am ChatGPT”."


def test_prompts_that_came_with_known_answers_only_are_not_answered(run):
    PromptFactory(project=run.project, split="gold")

    assert not generation.prompts_lacking_completions(run.project, 2, wanted=2).exists()


def test_pair_that_is_compared_already_is_counted(run):
    prompt = PromptFactory(project=run.project)
    ComparisonFactory(project=prompt.project, prompt=prompt, texts=["one", "two"])
    write_artifact(run, "completions.jsonl", [line(prompt, 0, "two"), line(prompt, 1, "one")])

    counts = generation.store_completions(run)

    assert counts == {"n_comparisons": 0, "n_identical": 0, "n_repeated": 1}


def test_answers_to_prompts_that_are_gone_are_left_out(run):
    foreign = PromptFactory()
    write_artifact(run, "completions.jsonl", [line(foreign, 0, "one"), line(foreign, 1, "two")])

    generation.store_completions(run)

    assert Completion.objects.count() == 0


def test_nul_characters_do_not_reach_the_database(run):
    prompt = PromptFactory(project=run.project)
    write_artifact(run, "completions.jsonl", [line(prompt, 0, "a\x00b \\u0000")])

    generation.store_completions(run)

    assert Completion.objects.get().text == "a\ufffdb \\u0000"


def test_number_of_queries_per_completion_is_small(run, django_assert_max_num_queries):
    prompts = PromptFactory.create_batch(20, project=run.project)
    lines = [line(prompt, i, f"answer {i}") for prompt in prompts for i in (0, 1)]
    write_artifact(run, "completions.jsonl", lines)

    with django_assert_max_num_queries(20 * 5 + 10):
        generation.store_completions(run)

    assert Comparison.objects.count() == 20


def test_policy_of_an_evaluation_writes_apart_from_its_rival():
    run = EvaluateRunFactory()
    prompt = PromptFactory(project=run.project)
    answer = generation.Answer(prompt.pk, "Hi", False, 0.5)

    (ours,) = generation.add_completions(run, run.policy, [answer])
    (theirs,) = generation.add_completions(run, PolicyFactory(project=run.project), [answer])

    assert ours.generated.score == 0.5
    assert ours.generated.model_version != theirs.generated.model_version

import json

import pytest

from annotator.models import Purpose, Split
from rlhf.datasets import create_dataset
from rlhf.models import DatasetKind, Run, RunKind, Status
from rlhf.runs import RunRefused, launch
from rlhf.suite_inputs import judged_pairs, references_of
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    EndpointFactory,
    PolicyFactory,
    learn_from,
    make_comparison,
    make_judgment,
    prompt_version,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def prompt(project):
    return PromptFactory(project=project, split=Split.TEST)


def completions_of(comparison):
    return [entry.completion for entry in comparison.entries.order_by("position")]


def read_lines(run, name):
    return [json.loads(line) for line in (run.folder / name).read_text().splitlines()]


def launch_suite(policy, settings=None, **arguments):
    return launch(
        policy.project, RunKind.SUITE, settings or {}, round_number=1, policy=policy, **arguments
    )


def test_the_best_by_votes_is_a_reference(project, prompt):
    comparison = make_comparison(prompt, "Good.", "Bad.")
    good, bad = completions_of(comparison)
    make_judgment(comparison, [good], [bad])

    assert list(references_of([prompt], None)) == [{"id": prompt.pk, "text": "Good."}]


def test_what_people_rewrote_comes_first_and_ties_say_nothing(project, prompt):
    comparison = make_comparison(prompt, "One.", "Other.")
    judgment = make_judgment(comparison, completions_of(comparison))
    judgment.rewrite = "Better."
    judgment.save()

    assert [row["text"] for row in references_of([prompt], None)] == ["Better."]


def test_demonstrations_count_for_the_prompts_that_they_answer(project, prompt):
    answer = {"role": "assistant", "content": "As shown."}
    other = [{"role": "user", "content": "Something else?"}]
    rows = [{"messages": [*prompt.messages, answer]}, {"messages": [*other, answer]}]
    dataset = create_dataset(project, "shown", DatasetKind.DEMONSTRATIONS, rows, origin="by hand")

    assert list(references_of([prompt], dataset)) == [{"id": prompt.pk, "text": "As shown."}]


def test_demonstrations_that_were_learned_from_are_no_references(project, prompt):
    answer = {"role": "assistant", "content": "As shown."}
    row = {"messages": [*prompt.messages, answer], "split": "train"}
    dataset = create_dataset(project, "shown", DatasetKind.DEMONSTRATIONS, [row], origin="by hand")
    learn_from(dataset)

    assert list(references_of([prompt], dataset)) == []


def test_a_suite_says_how_much_general_text_was_left_out(project, prompt):
    rows = [{"text": "x", "split": "test"}, {"text": "y", "split": "train"}]
    dataset = create_dataset(project, "wide", DatasetKind.TEXT, rows, origin="by hand")
    policy = learn_from(dataset)

    run = launch_suite(policy, {"text": "wide"})

    assert read_lines(run, "texts.jsonl") == [{"text": "x"}]
    assert json.loads((run.folder / "general.json").read_text()) == {"n": 1, "learned": 1}


def test_judged_pairs_say_what_most_people_said(project, prompt):
    tied, decided, bad, gold = (
        make_comparison(prompt, f"One {n}.", f"Other {n}.", purpose=purpose)
        for n, purpose in enumerate([Purpose.TRAINING] * 3 + [Purpose.GOLD])
    )
    make_judgment(tied, completions_of(tied))
    for comparison in (decided, gold):
        first, second = completions_of(comparison)
        make_judgment(comparison, [second], [first])
    make_judgment(bad, verdict="all_bad")

    found = list(judged_pairs(project, 10))

    assert [(row["first"], row["people"]) for row in found] == [
        ("One 1.", "old"),
        ("One 0.", "tie"),
    ]
    assert len(list(judged_pairs(project, 1))) == 1


def test_a_suite_is_given_the_same_held_out_prompts_every_time(project, prompt):
    PromptFactory.create_batch(3, project=project, split=Split.TEST)
    PromptFactory(project=project, split=Split.TRAIN)
    one, other = PolicyFactory.create_batch(2, project=project)

    first = launch_suite(one, rival=other, judge=other, max_prompts=2)
    project.runs.update(status="succeeded")
    second = launch_suite(other, max_prompts=2)

    assert read_lines(first, "prompts.jsonl") == read_lines(second, "prompts.jsonl")
    assert len(read_lines(first, "prompts.jsonl")) == 2
    assert len(read_lines(first, "texts.jsonl")) == 40
    assert first.judge == other
    assert first.config["judge"] == other.reference()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"text": "gone"}, "This project has no dataset “gone” of text."),
        ({"tasks": ["x"], "task_limit": 0}, "task_limit=0 must be at least 1"),
    ],
)
def test_a_suite_that_cannot_work_is_refused(project, prompt, asked, sentence):
    with pytest.raises(RunRefused, match=sentence):
        launch_suite(PolicyFactory(project=project), asked)


def test_a_version_whose_files_are_gone_is_refused(project, prompt):
    policy = PolicyFactory(project=project, name="lost", path="/nowhere")

    with pytest.raises(RunRefused, match=r"The files of lost are missing.*choose another version"):
        launch_suite(policy)


def test_a_project_without_held_out_prompts_is_told_so(project):
    PromptFactory(project=project, split=Split.TRAIN)

    with pytest.raises(RunRefused, match="No prompt is held out for evaluation"):
        launch_suite(PolicyFactory(project=project))


def test_a_version_is_not_compared_with_itself(project, prompt):
    policy = PolicyFactory(project=project)

    with pytest.raises(RunRefused, match="cannot be compared with itself"):
        launch_suite(policy, rival=policy)


@pytest.mark.parametrize("role", ["policy", "judge"])
def test_any_version_that_writes_is_measured_and_can_judge(project, prompt, role):
    policy, base = PolicyFactory.create_batch(2, project=project)
    virtual = PolicyFactory(project=project, parent=base, details={"method": "prefix"})
    elsewhere = EndpointFactory(version__project=project).version
    prompted = prompt_version(virtual)

    for version in (virtual, elsewhere, prompted):
        suite = launch_suite(**{"policy": policy, "rival": base, role: version})
        assert getattr(suite, role) == version
        Run.objects.filter(pk=suite.pk).update(status=Status.STOPPED)

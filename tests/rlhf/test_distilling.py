import json

import pytest
from django.urls import reverse

from annotator.models import ExportAnnotator, Role, canonical_key
from rlhf import runs as run_control
from rlhf.collecting import COLLECT
from rlhf.distilling import held_out_of
from rlhf.forms import DistillForm
from rlhf.inputs import RunRefused
from rlhf.lineage import carriers_of, of_version
from rlhf.models import ModelKind, RunKind
from rlhf.prompting import Draft, create_prompt_version
from rlhf.training.demonstrations import read_rows
from tests.factories import MembershipFactory, PromptFactory, UserFactory
from tests.rlhf.factories import (
    EndpointFactory,
    ExportFactory,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
    write_artifact,
)

pytestmark = pytest.mark.django_db

SETTINGS = {"rewards": [{"kind": "length", "target": 20}]}


@pytest.fixture
def teacher():
    teacher = PolicyFactory(project__slug="tea", name="big")
    PromptFactory(project=teacher.project, split="train")
    return teacher


def launch(teacher, settings=SETTINGS, **rows):
    return run_control.launch(
        teacher.project, RunKind.DISTILL, settings, round_number=1, policy=teacher, **rows
    )


def row(source="teacher", score=0.5, answer="Steep it.", prompt="How?"):
    said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    scored = {"score": score, "mean_score": 0.1, "best_of": 4} if source == "teacher" else {}
    return {"messages": said, "source": source, **scored}


def distilled(teacher, *rows):
    """A distillation that has ended with these rows, taken over."""
    student = PolicyFactory(project=teacher.project, name="small")
    run = RunFactory(
        kind=RunKind.DISTILL, project=teacher.project, policy=teacher, rival=student,
        status="succeeded", config={"completions_per_prompt": 4, "rehearsal_share": 0.5},
        result={
            "n_rows": len(rows), "n_rehearsal": 1, "n_teacher": 1, "n_candidates": 4, "length_mean": 3.0,
            "scores": {"low": 0.0, "high": 1.0, "counts": {"all": [3, 1], "chosen": [0, 1]}},
        },
    )  # fmt: skip
    write_artifact(run, "data.jsonl", rows)
    COLLECT[RunKind.DISTILL](run)
    return run


# --- launching --------------------------------------------------------------------------------
def test_the_run_is_told_teacher_student_and_prompts(teacher):
    student = PolicyFactory(project=teacher.project)

    run = launch(teacher, {**SETTINGS, "rehearsal_share": 0.2}, rival=student)

    assert run.config["model"] == teacher.reference()
    assert run.config["student"] == student.reference()
    assert len((run.folder / "prompts.jsonl").read_text().splitlines()) == 1


def test_a_policy_elsewhere_can_teach_and_cannot_learn(teacher):
    elsewhere = EndpointFactory(version__project=teacher.project).version

    run = launch(elsewhere)

    assert run.config["model"]["endpoint"] == elsewhere.pk
    with pytest.raises(
        RunRefused, match="is a policy elsewhere, of which nobody here has the weights"
    ):
        launch(teacher, rival=elsewhere)


def test_a_prompt_version_can_teach_and_cannot_learn(teacher):
    version = create_prompt_version(teacher.project, Draft(teacher, "Be brief."))

    run = launch(version)

    assert run.config["model"] == version.reference()
    assert DistillForm(teacher.project).fields["policy"].queryset.contains(version)
    with pytest.raises(RunRefused, match="is a prompt version and has no weights of its own"):
        launch(teacher, rival=version)


def test_several_answers_need_something_that_picks(teacher):
    with pytest.raises(RunRefused, match="completions_per_prompt=4 needs a reward model or a rule"):
        launch(teacher, {})


def test_the_form_says_what_is_missing(teacher):
    sent = {**DistillForm(teacher.project).as_sent().data, "rehearsal_share": 0.2}

    form = DistillForm(teacher.project, sent)

    assert form.errors == {
        "reward_model": ["Choose one, or write a rule: it says which answer is the best."],
        "rival": ["Choose who is to learn, whose own answers are rehearsed."],
    }


def test_the_newest_reward_model_is_suggested(teacher):
    RewardModelFactory(project=teacher.project, parent=teacher)
    newest = RewardModelFactory(project=teacher.project, parent=teacher)

    assert DistillForm(teacher.project).initial["reward_model"] == newest


# --- what came of it --------------------------------------------------------------------------
def test_its_rows_become_a_frozen_dataset_that_says_who_wrote_them(teacher):
    run = distilled(teacher, row(), row("rehearsal"))

    dataset = run.datasets_made.get()
    assert (dataset.name, dataset.kind) == (f"distilled-r1-v{run.pk}", "demonstrations")
    assert dataset.origin == f"{run}: the best of 4 answers of big, with rehearsal by small"
    rows = [json.loads(line) for line in dataset.data.open()]
    assert [each["written_by"] for each in rows] == ["big", "small"]
    assert rows[0]["messages"] == row()["messages"]


def keys(n, first=0):
    return {canonical_key(number) for number in range(first, first + n)}


def test_a_tenth_of_the_prompts_that_a_project_learns_from_is_held_out(teacher):
    percent = teacher.project.held_out_percent
    of_training = {key for key in keys(400) if int(key[:8], 16) % 100 >= percent}

    share = len(held_out_of(of_training, set())) / len(of_training)

    assert 0.07 < share < 0.13


def test_a_prompt_is_held_out_whatever_the_others_are():
    some, more = held_out_of(keys(100), set()), held_out_of(keys(300), keys(50, first=300))

    assert some == more & keys(100)


@pytest.mark.parametrize(("n_taught", "n_rehearsed"), [(2, 0), (3, 2), (2, 40)])
def test_of_two_prompts_of_the_teacher_one_is_held_out_and_one_is_learnt_from(
    n_taught, n_rehearsed
):
    for first in range(0, 3000, 100):
        taught, rehearsed = keys(n_taught, first), keys(n_rehearsed, first + 50)

        assert 0 < len(held_out_of(taught, rehearsed) & taught) < n_taught


def test_of_a_single_prompt_of_the_teacher_all_is_learnt_from():
    taught, rehearsed = keys(1), keys(3, first=1)

    assert held_out_of(taught, set()) == set()
    assert len(held_out_of(taught, rehearsed)) == len(held_out_of(taught, rehearsed) - taught) == 1


def test_both_rows_of_a_prompt_are_on_the_side_that_the_dataset_says(teacher):
    rows = [row(prompt=f"How, {n}?", answer=a) for n in range(20) for a in ("Steep.", "Pour.")]

    dataset = distilled(teacher, *rows).datasets_made.get()

    asked = {
        split: {each["messages"][0]["content"] for each in read_rows(dataset.data, split)}
        for split in ("train", "test")
    }
    assert asked["train"] & asked["test"] == set()
    assert len(asked["train"] | asked["test"]) == 20
    assert dataset.details["held_out_rows"] == 2 * len(asked["test"]) > 0


def test_the_page_shows_scores_and_the_first_rows(client, teacher):
    run = distilled(teacher, row(answer="Steep <b>it</b>."), row("rehearsal"))
    client.force_login(MembershipFactory(project=run.project, role=Role.REVIEWER).user)

    page = client.get(run.get_absolute_url()).content.decode()

    assert "Steep &lt;b&gt;it&lt;/b&gt;." in page
    assert "<title>All: 0.00 to 0.50: 3</title>" in page
    assert "small, rehearsal" in page


def test_all_rows_can_be_read_by_source_and_score(client, teacher):
    rows = [row(score=0.9, answer="Best."), row(score=0.2, answer="Worst."), row("rehearsal")]
    run = distilled(teacher, *rows)
    client.force_login(MembershipFactory(project=run.project, role=Role.REVIEWER).user)
    address = reverse("rlhf:demonstrations", args=["tea", run.pk])

    def shown(**asked):
        return [each.answer for each in client.get(address, asked).context["demonstrations"]]

    assert shown(order="lowest") == ["Worst.", "Best.", "Steep it."]
    assert shown(source="rehearsal") == ["Steep it."]


def test_annotators_do_not_see_the_rows(client, teacher):
    run = distilled(teacher, row())
    client.force_login(MembershipFactory(project=run.project, role=Role.ANNOTATOR).user)

    assert client.get(reverse("rlhf:demonstrations", args=["tea", run.pk])).status_code == 404


def test_endpoints_are_only_offered_as_teachers(teacher):
    elsewhere = EndpointFactory(version__project=teacher.project).version
    form = DistillForm(teacher.project)

    assert elsewhere.kind == ModelKind.ENDPOINT
    assert elsewhere in form.fields["policy"].queryset
    assert elsewhere not in form.fields["rival"].queryset


# --- lineage ----------------------------------------------------------------------------------
def test_the_teacher_leads_to_what_learns_from_its_answers(teacher):
    run = distilled(teacher, row())
    learner = learnt_from(run)

    edges = {(edge.source, edge.target, edge.role) for edge in of_version(learner).back.edges}
    assert (f"version-{teacher.pk}", f"run-{run.pk}", "taught by") in edges
    assert (f"version-{run.rival_id}", f"run-{run.pk}", "rehearsed by") in edges


def test_votes_that_a_teacher_carries_are_carried_by_what_learns_from_it(teacher):
    export = ExportFactory(project=teacher.project)
    person = ExportAnnotator.objects.create(export=export, annotator=UserFactory(), n_judgments=1)
    teacher.run = RunFactory(
        project=teacher.project, kind=RunKind.DPO, export=export, status="failed"
    )
    teacher.save()
    learner = learnt_from(distilled(teacher, row()))

    assert learner in carriers_of(teacher.project, person.annotator).policies


def learnt_from(run):
    learning = RunFactory(
        kind=RunKind.SUPERVISED, project=run.project, policy=run.rival, status="succeeded"
    )
    learning.datasets.set(run.datasets_made.all())
    return PolicyFactory(project=run.project, run=learning, parent=run.rival)

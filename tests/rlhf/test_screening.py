import json
from pathlib import Path

import pytest

from annotator.models import Completion, Split
from rlhf import runs, screening
from rlhf.datasets import create_dataset
from rlhf.inputs import RunRefused
from rlhf.models import DatasetKind, QuarantinedRow, RunKind, Status
from rlhf.training.artifacts import RunFolder
from rlhf.training.screen import run as carry_out
from rlhf.training.screen_config import ScreenConfig
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.chains import with_files
from tests.rlhf.factories import ExportFactory, PolicyFactory, RunFactory, make_dataset

pytestmark = pytest.mark.django_db

EMAIL = "anna@firma.de"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


def launch(project, screened="project", **settings):
    return runs.launch(project, RunKind.SCREEN, {"screened": screened, **settings}, round_number=1)


def screen(project, screened="project", **settings):
    """A screening that has come to its end, as a trainer would leave it."""
    run = launch(project, screened, **settings)
    run.result = carry_out(ScreenConfig.from_dict(run.config), RunFolder(run.folder))
    run.result |= screening.collect_screen(run)
    run.status = Status.SUCCEEDED
    run.save()
    return run


def in_quarantine(run):
    return list(run.quarantined.filter(is_released=False).values_list("key", "code"))


def test_a_projects_prompts_and_answers_are_screened_without_its_known_answers(project):
    prompt = PromptFactory(project=project)
    Completion.objects.create(prompt=prompt, text=f"Ask {EMAIL}.")
    gold = PromptFactory(project=project, split=Split.GOLD)
    Completion.objects.create(prompt=gold, text=f"Ask {EMAIL}.")
    PromptFactory()

    result = screen(project).result

    assert (result["rows"], result["n_quarantined"]) == ({"prompt": 1, "answer": 1}, 1)


def test_held_out_prompts_of_the_project_are_looked_for_in_a_dataset(project):
    prompt = PromptFactory(project=project, split=Split.TEST)
    rows = [{"messages": [*prompt.messages, {"role": "assistant", "content": "Yes."}]}]
    dataset = create_dataset(project, "d", DatasetKind.DEMONSTRATIONS, rows, origin="test")

    run = screen(project, screening.name_of(dataset))

    assert in_quarantine(run) == [(f"dataset-{dataset.pk}-line-1", "exact_leak")]


def test_what_is_held_out_is_counted_and_never_in_quarantine(project):
    for split in (Split.TRAIN, Split.TEST):
        Completion.objects.create(
            prompt=PromptFactory(project=project, split=split), text=f"Ask {EMAIL}, {split}."
        )

    run = screen(project)

    (count,) = screening.counts_of(run)
    assert (count.rows, count.held_out, count.quarantined) == (2, 1, 1)
    assert run.result["n_quarantined"] == 1


def test_an_export_is_screened_as_it_was_frozen(project):
    export = ExportFactory(project=project)
    (export.folder / "data.jsonl").write_text("changed")

    with pytest.raises(RunRefused, match="is not what was frozen"):
        launch(project, f"export-{export.pk}")


@pytest.mark.parametrize(
    "name", ["export-99", "dataset-", "nonsense", "export-²", "export-99999999999999999999"]
)
def test_what_the_project_does_not_have_is_not_screened(project, name):
    with pytest.raises(RunRefused, match=f"has no “{name}” to screen"):
        launch(project, name)


def test_a_project_without_prompts_has_nothing_to_screen(project):
    with pytest.raises(RunRefused, match="no prompts yet"):
        launch(project)


def test_only_what_is_severe_enough_goes_into_quarantine(project):
    rows = [{"text": "You asshole", "split": "train"}]
    create_dataset(project, "d", DatasetKind.TEXT, rows, origin="test")
    name = screening.name_of(project.datasets.get())

    high, medium = screen(project, name), screen(project, name, quarantine_from="medium")

    assert (in_quarantine(high), len(in_quarantine(medium))) == ([], 1)


def test_what_was_released_stays_released_in_later_screenings(project):
    prompt = PromptFactory(project=project)
    Completion.objects.create(prompt=prompt, text=f"Ask {EMAIL}.")
    first = screen(project)
    first.quarantined.update(is_released=True, reason="ours", decided=first.created)

    second = screen(project)

    row = second.quarantined.get()
    assert (row.is_released, row.reason, second.result["n_released_before"]) == (True, "ours", 1)


def test_the_newest_screening_that_came_to_its_end_counts(project):
    for status in (Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED):
        run = RunFactory(
            project=project, kind=RunKind.SCREEN, status=status, config={"screened": "project"}
        )
    RunFactory(
        project=project,
        kind=RunKind.SCREEN,
        status=Status.SUCCEEDED,
        config={"screened": "export-1"},
    )
    RunFactory(kind=RunKind.SCREEN, status=Status.SUCCEEDED, config={"screened": "project"})

    assert screening.newest(project, "project").pk == run.pk - 1


def test_an_export_or_a_dataset_is_screened_again_once_held_out_prompts_have_come(project):
    dataset = make_dataset(project, "d", DatasetKind.TEXT, [{"text": "Tea."}])
    name = screening.name_of(dataset)
    run = screen(project, name)
    PromptFactory(project=project, split=Split.TRAIN)
    assert screening.outdated_by(run) == ""

    PromptFactory(project=project, split=Split.TEST)

    assert screening.outdated_by(run) == "the held-out prompts have changed since"
    assert not screening.is_screened(project, name)


def test_a_prompt_that_was_there_and_is_held_out_only_now_has_not_been_looked_for(project):
    prompt = PromptFactory(project=project, split=Split.GOLD)
    run = screen(project, screening.name_of(make_dataset(project, "d", "text", [{"text": "Tea."}])))

    prompt.ask_models(Split.TEST)

    assert screening.outdated_by(run) == "the held-out prompts have changed since"


def test_a_screening_without_a_look_for_leaks_needs_no_held_out_prompts(project):
    dataset = make_dataset(project, "d", DatasetKind.TEXT, [{"text": "Tea."}])
    run = screen(project, screening.name_of(dataset), checks=["personal"])

    PromptFactory(project=project, split=Split.TEST)
    PolicyFactory(project=project)

    assert screening.outdated_by(run) == ""


def test_control_tokens_of_a_policy_imported_since_have_not_been_looked_for(project):
    PromptFactory(project=project)
    run = screen(project)

    PolicyFactory(project=project)

    assert screening.outdated_by(run).startswith("a policy has been imported since")


def test_what_is_screened_again_is_screened_as_before(project):
    PromptFactory(project=project)
    screen(project, checks=["personal"], quarantine_from="low")

    again = screening.settings_for(project, "project")

    assert (again["checks"], again["quarantine_from"]) == (["personal"], "low")
    assert "tokenizers" not in again
    assert screening.settings_for(project, "export-1") == {"screened": "export-1"}


def test_findings_are_found_by_class_and_state(project):
    rows = [{"text": f"{EMAIL} and <|im_end|>"}, {"text": "You asshole"}]
    create_dataset(project, "d", DatasetKind.TEXT, rows, origin="test")
    run = screen(project, screening.name_of(project.datasets.get()))
    run.quarantined.filter(code="email").update(is_released=True)

    def codes(**choice):
        places = screening.places_of(run, **choice)
        return [finding.line["code"] for finding in screening.findings_at(run, places)]

    assert codes() == ["email", "control_token", "toxic_words"]
    assert codes(code="email") == ["email"]
    assert codes(state="quarantine") == ["control_token"]
    assert codes(state="released") == ["email"]
    assert codes(state="noted") == ["toxic_words"]


def test_counts_say_what_is_in_quarantine_now(project):
    rows = [{"text": f"{EMAIL} {n}"} for n in range(3)]
    create_dataset(project, "d", DatasetKind.TEXT, rows, origin="test")
    run = screen(project, screening.name_of(project.datasets.get()))
    QuarantinedRow.objects.filter(pk=run.quarantined.first().pk).update(is_released=True)

    (count,) = screening.counts_of(run)

    assert (count.about.code, count.rows, count.quarantined, count.released) == ("email", 3, 2, 1)


def test_a_screening_whose_folder_is_gone_has_no_findings(project):
    run = RunFactory(project=project, kind=RunKind.SCREEN, config={"screened": "project"})

    assert screening.places_of(run) == []


def test_what_no_page_can_hold_is_shown_as_its_code():
    assert screening.visible("a\x00b \ud83d é\n") == "a\\x00b \\ud83d é\n"


def test_a_tokenizer_that_was_changed_is_not_asked(project):
    policy = PolicyFactory(project=project)
    with_files(policy)
    (Path(policy.path) / "tokenizer.json").write_text("{}")
    PromptFactory(project=project)

    with pytest.raises(RunRefused, match=r"tokenizer\.json was added"):
        launch(project)


def test_the_tokenizers_of_imported_policies_are_asked(project):
    policy = PolicyFactory(project=project)
    PolicyFactory(project=project, parent=policy)
    PromptFactory(project=project)

    assert json.loads((launch(project).folder / "config.json").read_text())["config"][
        "tokenizers"
    ] == [policy.path]

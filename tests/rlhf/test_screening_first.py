"""What happens to a training run whose data nobody has screened, before its process starts."""

import hashlib
import json
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ

from annotator.locks import alone
from annotator.models import Export, Role, Split
from rlhf import runs, screening
from rlhf.generation import read_lines
from rlhf.models import DatasetKind, RunKind, Status
from rlhf.quarantine import leave_out_now, passed_in_words
from rlhf.training.artifacts import RunFolder
from rlhf.training.hashes import HASHES, check_inputs
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    ExportFactory,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
    make_dataset,
)

pytestmark = pytest.mark.django_db(transaction=True)

SAID = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A house."}]
PRIVATE = [SAID[0], {"role": "assistant", "content": "Write to ada@lovelace.org."}]


@pytest.fixture
def project(settings):
    settings.SCREEN_FIRST = True
    return ProjectFactory(slug="tea")


@pytest.fixture
def ppo(project):
    """A PPO run that waits for the trainer; its one prompt has not been screened."""
    PromptFactory(project=project, split=Split.TRAIN)
    reward_model = RewardModelFactory(project=project)
    return runs.launch(
        project, RunKind.PPO, {}, round_number=1,
        policy=reward_model.parent, reward_model=reward_model,
    )  # fmt: skip


def supervised(project, dataset):
    policy = PolicyFactory(project=project)
    return runs.launch(
        project, RunKind.SUPERVISED, {}, round_number=1, policy=policy, datasets=[dataset]
    )  # fmt: skip


def learning_from_pairs(project, *prompt_keys):
    export = ExportFactory(project=project, n_rows=len(prompt_keys))
    pairs = [
        {"prompt": SAID[:1], "prompt_key": key, "chosen": SAID[1:], "rejected": PRIVATE[1:]}
        for key in prompt_keys
    ]
    text = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (export.folder / "data.jsonl").write_text(text)
    Export.objects.filter(pk=export.pk).update(sha256=hashlib.sha256(text.encode()).hexdigest())
    export.refresh_from_db()
    policy = PolicyFactory(project=project)
    return runs.launch(project, RunKind.DPO, {}, round_number=1, policy=policy, export=export)


def answers_in(path):
    return [json.loads(line)["messages"][-1]["content"] for line in path.open()]


def test_what_a_run_learns_from_is_screened_before_it_starts(project, settings):
    rows = [{"messages": messages, "split": "train"} for messages in (PRIVATE, SAID)]
    dataset = make_dataset(project, "said", DatasetKind.DEMONSTRATIONS, rows)
    run = supervised(project, dataset)
    data = run.folder / "datasets" / str(dataset.pk) / "data.jsonl"
    name = screening.name_of(dataset)
    assert (run.screening, len(answers_in(data))) == (
        [{"screened": name, "screening": None, "first": True}], 2,
    )  # fmt: skip

    assert runs.screen_first(run.pk)

    run.refresh_from_db()
    screen = screening.newest(project, name)
    (passed,) = run.screening
    assert (passed["screening"], passed["left_out"]) == (screen.pk, {"data.jsonl": 1})
    assert (run.status, answers_in(data)) == (Status.QUEUED, ["A house."])
    assert answers_in(dataset.data) == ["Write to ada@lovelace.org.", "A house."]
    assert leave_out_now(run) == run.screening


def test_a_killed_trainer_leaves_the_same_rows_out_the_next_time(project):
    rows = [{"messages": messages, "split": "train"} for messages in (PRIVATE, SAID)]
    run = supervised(project, make_dataset(project, "said", DatasetKind.DEMONSTRATIONS, rows))
    (dataset,) = run.datasets.all()
    screen = RunFactory(
        project=project, kind=RunKind.SCREEN, status=Status.SUCCEEDED,
        config={"screened": screening.name_of(dataset)},
    )  # fmt: skip
    screen.quarantined.create(key=f"dataset-{dataset.pk}-line-1", code="email")

    first, second = leave_out_now(run), leave_out_now(run)

    assert first == second
    assert answers_in(run.folder / "datasets" / str(dataset.pk) / "data.jsonl") == ["A house."]


def test_a_trainer_killed_before_it_recorded_what_it_wrote_begins_anew(project):
    run = learning_from_pairs(project, "a", "b")
    screen = RunFactory(
        project=project, kind=RunKind.SCREEN, status=Status.SUCCEEDED,
        config={"screened": screening.name_of(run.export)},
    )  # fmt: skip
    screen.quarantined.create(key="prompt-a", code="near_leak")
    at_launch = (run.folder / HASHES).read_bytes()

    first = leave_out_now(run)
    (run.folder / HASHES).write_bytes(at_launch)  # as if it had been killed before that
    second = leave_out_now(run)

    assert first == second
    check_inputs(RunFolder(run.folder))
    assert [row["prompt_key"] for row in read_lines(run.folder / "data/data.jsonl")] == ["b"]
    assert [row["prompt_key"] for row in read_lines(run.export.folder / "data.jsonl")] == ["a", "b"]


def test_a_run_that_would_learn_from_nothing_fails_with_a_sentence(ppo, toy):
    assert runs.screen_first(ppo.pk)

    ppo.refresh_from_db()
    assert ppo.status == Status.FAILED
    assert ppo.error.startswith("All 1 rows to learn from are in quarantine")


def test_a_screening_that_fails_is_named_and_may_be_tried_again(ppo, toy):
    toy("crash")

    runs.see_through(ppo.pk)

    ppo.refresh_from_db()
    screen = ppo.project.runs.get(kind=RunKind.SCREEN)
    assert ppo.status == Status.FAILED
    assert ppo.error.startswith(f"What it learns from is screened first, and {screen} failed.")
    assert ppo.error.endswith("Resume this run to try again.")
    assert ppo.is_resumable


def test_a_run_waits_while_somebody_else_has_it_screened(ppo):
    with alone(ppo.folder / ".screening"):
        assert runs.screen_first(ppo.pk) is False

    assert not ppo.project.runs.filter(kind=RunKind.SCREEN).exists()


def test_a_stopped_run_is_not_screened(ppo):
    runs.request_stop(ppo)

    runs.see_through(ppo.pk)

    assert not ppo.project.runs.filter(kind=RunKind.SCREEN).exists()


def test_the_end_of_a_screening_wakes_who_waited_for_it(ppo):
    OrmQ.objects.all().delete()
    running, ended = (
        RunFactory(project=ppo.project, kind=RunKind.SCREEN, status=status)
        for status in (Status.RUNNING, Status.SUCCEEDED)
    )

    runs.wake_waiting(running.pk)
    assert OrmQ.objects.count() == 0

    runs.wake_waiting(ended.pk)
    assert OrmQ.objects.count() == 1


def test_prompts_that_came_later_have_not_been_screened(project):
    PromptFactory(project=project)
    RunFactory(
        project=project, kind=RunKind.SCREEN, status=Status.SUCCEEDED,
        config={"screened": "project"},
    )  # fmt: skip
    assert screening.is_screened(project, "project")

    PromptFactory(project=project, split=Split.GOLD, created=timezone.now() + timedelta(hours=1))
    assert screening.is_screened(project, "project")

    PromptFactory(project=project, created=timezone.now() + timedelta(hours=1))
    assert not screening.is_screened(project, "project")


def test_the_form_and_the_run_say_that_it_is_screened_first(client, ppo):
    client.force_login(MembershipFactory(project=ppo.project, role=Role.ADMIN).user)

    form = client.get(reverse("rlhf:new_run", args=["tea", "ppo"])).content.decode()
    page = client.get(ppo.get_absolute_url()).content.decode()

    assert "not screened. That is done before the run starts." in form
    assert "Waiting until what it learns from is screened" in page
    assert passed_in_words(ppo) == ["prompts and answers: to be screened before the run starts"]

import pytest

from rlhf import collecting
from rlhf.models import Round
from tests.factories import ProjectFactory
from tests.rlhf.factories import (
    PolicyFactory,
    RoundFactory,
    RunFactory,
    made_folder,
    write_artifact,
)

pytestmark = pytest.mark.django_db


def import_run(project, name="Tiny"):
    result = {"artifact": made_folder(f"{name}-{project.runs.count()}"), "name": name}
    return RunFactory(project=project, result=result, status="running", round_number=9)


def training_run(kind, **fields):
    policy = PolicyFactory(name="base")
    run = RunFactory(kind=kind, project=policy.project, policy=policy, **fields)
    write_artifact(run, "adapter_config.json", [])
    return run


def test_import_makes_a_policy_and_the_first_round():
    run = import_run(ProjectFactory())

    found = collecting.collect_import_model(run)

    (version,) = run.outputs.all()
    assert found == {"model_version": version.pk}
    assert (version.name, version.kind, version.parent) == ("Tiny", "policy", None)
    assert (version.path, version.details) == (run.result["artifact"], run.result)
    first = Round.objects.get()
    assert (first.project, first.number, first.policy) == (run.project, 1, version)


def test_import_of_what_writes_no_text_makes_a_base_and_no_round():
    run = import_run(ProjectFactory(), "BERT")
    run.result["kind"] = "base"

    collecting.collect_import_model(run)

    version = run.outputs.get()
    assert (version.get_kind_display(), Round.objects.count()) == ("Base of reward models", 0)
    assert version.reference() == {"base": version.path, "adapters": []}


def test_speed_is_kept_with_the_policy_that_was_imported():
    imported = PolicyFactory()
    trained = PolicyFactory(project=imported.project, parent=imported)
    run = RunFactory(
        project=imported.project, policy=trained, host="here", result={"probe": {"layers": 2}}
    )

    assert collecting.collect_probe(run) == {}

    imported.refresh_from_db()
    trained.refresh_from_db()
    assert (imported.probe, trained.probe) == ({"layers": 2, "trainer": "here"}, {})
    assert trained.root() == imported


def test_second_import_leaves_the_rounds_as_they_are():
    existing = RoundFactory()

    collecting.collect_import_model(import_run(existing.project))

    assert list(Round.objects.all()) == [existing]


def test_name_that_is_taken_gets_a_number():
    project = ProjectFactory()
    names = []

    for _ in range(3):
        run = import_run(project)
        run.status = "succeeded"
        run.save()
        collecting.collect_import_model(run)
        names.append(run.outputs.get().name)

    assert names == ["Tiny", "Tiny-2", "Tiny-3"]


def test_a_folder_with_an_endless_name_makes_a_version_with_a_shorter_one():
    run = import_run(ProjectFactory(), "two\nlines " + "x" * 240)

    collecting.collect_import_model(run)

    assert run.outputs.get().name == "two lines " + "x" * 90


def test_import_without_files_is_an_error():
    run = RunFactory(result={"artifact": "/nowhere", "name": "Tiny"})

    with pytest.raises(FileNotFoundError, match="the run's /nowhere is missing"):
        collecting.collect_import_model(run)


def test_reward_model_is_an_adapter_on_its_policy():
    run = training_run("reward_model", round_number=2, result={"accuracy": 0.7})

    collecting.collect_reward_model(run)

    (version,) = run.outputs.all()
    assert (version.name, version.kind) == (f"reward-r2-v{run.pk}", "reward")
    assert (version.parent, version.path) == (run.policy, str(run.folder / "artifact"))
    assert version.details == {"accuracy": 0.7}


def test_reward_model_may_lie_on_another_base_or_be_whole():
    base = PolicyFactory(kind="base", name="encoder")
    run = training_run("reward_model", base=base, result={"is_whole": False})

    collecting.collect_reward_model(run)

    version = run.outputs.get()
    assert (version.parent, version.base) == (run.policy, base)
    assert version.reference() == base.reference()
    version.details = {"is_whole": True}
    assert version.reference() == {"base": version.path, "adapters": []}


def test_a_policy_has_the_name_that_its_run_was_given():
    run = training_run("supervised", config={"name": "kind"})
    PolicyFactory(project=run.project, name="kind")

    collecting.collect_policy(run)

    assert run.outputs.get().name == "kind-2"


def test_ppo_makes_a_policy_on_the_one_it_started_from():
    run = training_run("ppo", round_number=1)

    collecting.collect_policy(run)

    (version,) = run.outputs.all()
    assert (version.name, version.kind) == (f"policy-r1-v{run.pk}", "policy")
    assert version.reference() == {
        "base": run.policy.path,
        "adapters": [str(run.folder / "artifact")],
    }

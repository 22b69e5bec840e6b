import json

import pytest

from annotator.audit import AuditEntry
from annotator.models import Split
from rlhf import quarantine, runs
from rlhf.dataset_inputs import link_datasets
from rlhf.datasets import create_dataset
from rlhf.inputs import Order, RunRefused
from rlhf.model_cards import card_of
from rlhf.models import DatasetKind, QuarantinedRow, Run, RunKind, Status
from rlhf.training.artifacts import read_json
from rlhf.training.hashes import HASHES, files_in, find_problems
from rlhf.training.screen_rows import answer_key
from tests.factories import ProjectFactory, PromptFactory, UserFactory
from tests.rlhf.factories import ExportFactory, PolicyFactory, RewardModelFactory, RunFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


def screened(project, name, *keys, code="email"):
    """A screening that has put rows with these keys into quarantine."""
    run = RunFactory(
        project=project, kind=RunKind.SCREEN, status=Status.SUCCEEDED, config={"screened": name},
        result={"findings_sha256": "f00"},
    )  # fmt: skip
    QuarantinedRow.objects.bulk_create(QuarantinedRow(run=run, key=key, code=code) for key in keys)
    return run


def pair(prompt_key, chosen, rejected, split="train"):
    return {
        "prompt": [{"role": "user", "content": "Hi"}], "prompt_key": prompt_key, "split": split,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }  # fmt: skip


def export_of(project, *pairs):
    export = ExportFactory(project=project, n_rows=len(pairs))
    text = "".join(json.dumps(row) + "\n" for row in pairs)
    (export.folder / "data.jsonl").write_text(text)
    return export


@pytest.fixture
def export(project):
    """Of three pairs."""
    return export_of(project, pair("a", "1", "2"), pair("a", "1", "3"), pair("b", "4", "5"))


def folder_of(export, tmp_path):
    """As a launch fills it: the export's files by a second name."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.jsonl").hardlink_to(export.folder / "data.jsonl")
    hashes = {"data": files_in(tmp_path / "data"), "/models/m": {}}
    (tmp_path / HASHES).write_text(json.dumps(hashes))
    return tmp_path


def leave_out(project, export, folder, kind=RunKind.REWARD_MODEL):
    return quarantine.leave_out(Order(project, kind, 1, {}, export=export), folder)


def chosen_in(path):
    return [json.loads(line)["chosen"][0]["content"] for line in path.open()]


def test_pairs_with_an_answer_in_quarantine_are_left_out_and_the_export_stays(
    project, export, tmp_path
):
    run = screened(project, f"export-{export.pk}", answer_key("a", "3"))
    folder = folder_of(export, tmp_path)

    (passed,) = leave_out(project, export, folder)

    assert chosen_in(folder / "data" / "data.jsonl") == ["1", "4"]
    assert chosen_in(export.folder / "data.jsonl") == ["1", "1", "4"]
    assert (passed["screening"], passed["left_out"]) == (run.pk, {"data.jsonl": 1})


def test_all_pairs_of_a_prompt_in_quarantine_are_left_out(project, export, tmp_path):
    screened(project, f"export-{export.pk}", "prompt-a")
    folder = folder_of(export, tmp_path)

    leave_out(project, export, folder)

    assert chosen_in(folder / "data" / "data.jsonl") == ["4"]


def test_comparisons_with_an_answer_in_quarantine_are_left_out_too(project, export, tmp_path):
    screened(project, f"export-{export.pk}", answer_key("a", "3"))
    folder = folder_of(export, tmp_path)
    records = [
        {"prompt": [], "prompt_key": "a", "completions": ["1", "2"]},
        {"prompt": [], "prompt_key": "a", "completions": ["1", "3"]},
    ]
    votes = folder / "data" / "votes.jsonl"
    votes.write_text("".join(json.dumps(record) + "\n" for record in records))

    leave_out(project, export, folder)

    assert [json.loads(line) for line in votes.open()] == records[:1]


def test_the_hashes_are_those_of_what_is_left(project, export, tmp_path):
    screened(project, f"export-{export.pk}", "prompt-a")
    folder = folder_of(export, tmp_path)

    leave_out(project, export, folder)

    hashes = read_json(folder / HASHES)
    assert list(find_problems(folder / "data", hashes["data"])) == []
    assert hashes["/models/m"] == {}


def test_a_file_that_is_not_what_was_frozen_gets_no_new_hash(project, export, tmp_path):
    screened(project, f"export-{export.pk}", "prompt-a")
    folder = folder_of(export, tmp_path)
    before = (folder / HASHES).read_text()
    data = folder / "data" / "data.jsonl"
    data.write_text(data.read_text().replace("Hi", "Ho"))

    with pytest.raises(RunRefused, match=f"Nothing is learned from what has changed: {data} has"):
        leave_out(project, export, folder)

    assert (folder / HASHES).read_text() == before


def test_what_is_released_is_learned_from(project, export, tmp_path):
    run = screened(project, f"export-{export.pk}", "prompt-a")
    quarantine.decide(run, None, released=True, reason="ours", keys=["prompt-a"])
    folder = folder_of(export, tmp_path)

    (passed,) = leave_out(project, export, folder)

    assert passed["left_out"] == {"data.jsonl": 0}
    assert (folder / "data" / "data.jsonl").samefile(export.folder / "data.jsonl")


def test_a_screening_of_another_export_leaves_nothing_out(project, export, tmp_path):
    screened(project, "export-999", "prompt-a")

    passed = leave_out(project, export, folder_of(export, tmp_path))

    assert passed == [{"screened": f"export-{export.pk}", "screening": None}]


def test_a_run_that_would_learn_from_nothing_is_refused(project, export, tmp_path):
    screened(project, f"export-{export.pk}", "prompt-a", "prompt-b")

    with pytest.raises(RunRefused, match="All 3 rows to learn from are in quarantine"):
        leave_out(project, export, folder_of(export, tmp_path))


def test_held_out_pairs_stay_whatever_is_in_them(project, tmp_path):
    pairs = [pair("a", "1", "2"), pair("b", "3", "4"), pair("c", "5", "6", "test")]
    export = export_of(project, *pairs)
    screened(project, f"export-{export.pk}", "prompt-a", "prompt-c")
    folder = folder_of(export, tmp_path)

    (passed,) = leave_out(project, export, folder)

    assert chosen_in(folder / "data" / "data.jsonl") == ["3", "5"]
    assert passed["left_out"] == {"data.jsonl": 1}


def test_a_run_with_held_out_rows_alone_would_learn_from_nothing(project, tmp_path):
    export = export_of(project, pair("a", "1", "2"), pair("c", "5", "6", "test"))
    screened(project, f"export-{export.pk}", "prompt-a", "prompt-c")

    with pytest.raises(RunRefused, match="All 1 rows to learn from are in quarantine"):
        leave_out(project, export, folder_of(export, tmp_path))


def test_evaluations_keep_all_their_prompts(project, export, tmp_path):
    screened(project, f"export-{export.pk}", "prompt-a")
    folder = folder_of(export, tmp_path)

    assert leave_out(project, export, folder, RunKind.EVALUATE) == []
    assert chosen_in(folder / "data" / "data.jsonl") == ["1", "1", "4"]


def test_a_launch_leaves_prompts_out_and_says_so(project):
    good, bad = PromptFactory.create_batch(2, project=project)
    screening = screened(project, "project", f"prompt-{bad.key}")
    reward_model = RewardModelFactory(project=project)

    run = runs.launch(
        project, RunKind.PPO, {}, round_number=1,
        policy=reward_model.parent, reward_model=reward_model,
    )  # fmt: skip

    prompts = [json.loads(line)["id"] for line in (run.folder / "prompts.jsonl").open()]
    assert prompts == [good.pk]
    assert run.screening == read_json(run.folder / "screening.json")
    assert quarantine.passed_in_words(run) == [
        f"prompts and answers passed screening run {screening.pk}: 1 row was left out"
    ]


def test_what_a_screening_has_not_seen_is_said_where_none_is_done_first(project, export, tmp_path):
    run = screened(project, f"export-{export.pk}", "prompt-a")
    PromptFactory(project=project, split=Split.TEST)

    passed = leave_out(project, export, folder_of(export, tmp_path))

    words = quarantine.passed_in_words(Run(kind=RunKind.DPO, screening=passed))
    assert words == [
        f"export {export.pk} passed screening run {run.pk} (the held-out prompts have changed since): "
        "2 rows were left out"
    ]


def test_a_training_run_of_before_there_were_screenings_was_not_screened(project):
    assert quarantine.passed_in_words(RunFactory(kind=RunKind.PPO)) == ["not screened"]
    assert quarantine.passed_in_words(RunFactory(kind=RunKind.GENERATE)) == []


def test_a_model_card_says_what_its_data_passed(project):
    policy = PolicyFactory(project=project)
    run = RunFactory(
        project=project, kind=RunKind.PPO, config={},
        screening=[{"screened": "export-3", "screening": None}],
    )  # fmt: skip
    version = PolicyFactory(project=project, parent=policy, run=run)

    assert "Screening: export 3: not screened." in card_of(version)


# --- deciding ---------------------------------------------------------------------------------
def state_of(run):
    return list(run.quarantined.values_list("key", "code", "is_released"))


def test_a_row_is_released_with_all_that_was_found_in_it(project):
    run = screened(project, "project", "prompt-a", "prompt-b")
    QuarantinedRow.objects.create(run=run, key="prompt-a", code="card")

    assert (
        quarantine.decide(run, UserFactory(), released=True, reason="ours", keys=["prompt-a"]) == 2
    )
    assert state_of(run) == [
        ("prompt-a", "email", True), ("prompt-b", "email", False), ("prompt-a", "card", True),
    ]  # fmt: skip


def test_a_class_is_released_and_put_back_and_both_are_in_the_audit_log(project):
    run = screened(project, "project", "prompt-a", "prompt-b")
    user = UserFactory()

    quarantine.decide(run, user, released=True, reason="made up", code="email")
    quarantine.decide(run, user, released=False, reason="one was not", code="email")

    assert [row[2] for row in state_of(run)] == [False, False]
    entries = AuditEntry.objects.order_by("pk").values_list(
        "action", "details__reason", "details__findings"
    )
    assert list(entries) == [("released", "made up", 2), ("held", "one was not", 2)]


def test_what_was_decided_already_is_not_decided_again(project):
    run = screened(project, "project", "prompt-a")
    quarantine.decide(run, None, released=True, reason="first", code="email")

    assert quarantine.decide(run, None, released=True, reason="second", code="email") == 0
    assert (run.quarantined.get().reason, AuditEntry.objects.count()) == ("first", 1)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [({"reason": " ", "code": "email"}, "Say why"), ({"reason": "x"}, "which rows"),
     ({"reason": "x", "code": "nonsense"}, "which rows")],
)  # fmt: skip
def test_a_decision_needs_a_reason_and_something_to_decide_about(project, said, sentence):
    run = screened(project, "project", "prompt-a")

    with pytest.raises(ValueError, match=sentence):
        quarantine.decide(run, None, released=True, **said)
    assert state_of(run) == [("prompt-a", "email", False)]


def test_the_latest_decision_on_a_finding_counts_whichever_screening_it_was_made_in(project):
    screened(project, "export-1", "prompt-a", "prompt-b")
    newest = screened(project, "project", "prompt-a")
    quarantine.decide(newest, None, released=True, reason="ours", keys=["prompt-a"])

    assert quarantine.out_among(project, ["prompt-a", "prompt-b"]) == {"prompt-b"}


def test_an_older_screening_no_longer_counts(project):
    screened(project, "project", "prompt-a")
    screened(project, "project")

    assert quarantine.out_among(project, ["prompt-a"]) == set()


def test_a_line_of_a_dataset_in_quarantine_is_left_out_of_supervised_tuning(project, tmp_path):
    rows = [{"messages": [{"role": "assistant", "content": text}]} for text in ("one", "two")]
    dataset = create_dataset(project, "d", DatasetKind.DEMONSTRATIONS, rows, origin="test")
    screened(project, f"dataset-{dataset.pk}", f"dataset-{dataset.pk}-line-1")
    order = Order(project, RunKind.SUPERVISED, 1, {}, datasets=(dataset,))
    link_datasets(order.datasets, tmp_path)

    quarantine.leave_out(order, tmp_path)

    kept = tmp_path / "datasets" / str(dataset.pk) / "data.jsonl"
    assert [json.loads(line) for line in kept.open()] == rows[1:]
    assert [json.loads(line) for line in dataset.data.open()] == rows


def test_held_out_rows_of_a_dataset_stay_even_where_they_do_not_say_so(project, tmp_path):
    rows = [{"text": f"t{n}"} for n in range(5)]  # of these, t2 is held out by its text
    rows[0]["split"] = "test"
    dataset = create_dataset(project, "d", DatasetKind.TEXT, rows, origin="test")
    name = f"dataset-{dataset.pk}"
    screened(project, name, *(f"{name}-line-{n}" for n in (1, 2, 3, 4)))
    order = Order(project, RunKind.DOMAIN, 1, {}, datasets=(dataset,))
    link_datasets(order.datasets, tmp_path)

    quarantine.leave_out(order, tmp_path)

    kept = tmp_path / "datasets" / str(dataset.pk) / "data.jsonl"
    assert [json.loads(line)["text"] for line in kept.open()] == ["t0", "t2", "t4"]

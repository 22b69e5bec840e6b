"""What others may rely on while a long import is being stored, and after one that never came to its end."""

import json

import pytest

from annotator import assignment as queue
from annotator import exporting, importing, taking_back
from annotator.exporting import NotExported, create_export
from annotator.importing import add_completion, add_prompt, import_jsonl
from annotator.models import Judgment, Prompt, Role, Split, StoredBatch, User, Verdict
from annotator.protocols import Said
from annotator.taking_back import TakenBack, Unsettled, unfinished
from tests.factories import MembershipFactory, ProjectFactory, api_client

VOTES = [
    {"prompt": f"{n}?", "chosen": "yes", "rejected": "no", "annotator": "anna"} for n in range(6)
]


@pytest.fixture
def project(db, monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 2)
    return ProjectFactory(slug="tea")


def lines(rows):
    return [json.dumps(row).encode() for row in rows]


def interrupted(project, meanwhile, rows=VOTES):
    """An import that ends after the fourth row; what `meanwhile`, which is called before, has returned."""
    results = []

    def on_stored(n_stored):
        if n_stored == 4:
            results.append(meanwhile())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_jsonl(project, lines(rows), on_stored=on_stored)
    return results[0]


def raised_by(function, *arguments, **options):
    with pytest.raises(Exception) as raised:  # noqa: PT011 (the caller looks at it)
        function(*arguments, **options)
    return raised.value


# --- while it is at work --------------------------------------------------------------------------
def test_nothing_is_exported(project):
    refused = interrupted(project, lambda: raised_by(create_export, project))

    assert isinstance(refused, NotExported)
    assert str(refused).startswith("An import into this project is at work")


def test_a_few_other_rows_are_stored_beside_it(project):
    report = interrupted(project, lambda: import_jsonl(project, lines([{"prompt": "Another?"}])))

    assert report.prompts == 1
    assert [prompt.messages[0]["content"] for prompt in project.prompts.all()] == ["Another?"]


def test_rows_that_are_there_by_it_are_not_relied_on(project):
    few = lines(VOTES[:1])

    refused = interrupted(project, lambda: raised_by(import_jsonl, project, few, may_wait=False))

    assert isinstance(refused, Unsettled)


def test_a_few_rows_that_it_has_stored_wait_for_its_end(project, monkeypatch):
    waits = []
    monkeypatch.setattr(importing.time, "sleep", waits.append)

    def meanwhile():
        def on_stored(n_stored):
            if importing.SECONDS_BETWEEN_LOOKS in waits:
                raise InterruptedError

        return raised_by(import_jsonl, project, lines(VOTES[:1]), on_stored=on_stored)

    assert isinstance(interrupted(project, meanwhile), InterruptedError)


def test_a_new_judge_of_rows_that_have_to_wait_is_still_new(project):
    judge = importing.judge_named("hh")
    few = lines([VOTES[0] | {"annotator": ""}, {"prompt": "0?"}])

    interrupted(project, lambda: raised_by(import_jsonl, project, few, judge=judge, may_wait=False))

    assert (judge.pk, judge._state.adding) == (None, True)


def test_a_prompt_or_an_answer_of_it_is_not_said_to_be_there(project):
    def meanwhile():
        prompt = project.prompts.first()
        return [
            raised_by(add_prompt, project, "0?"),
            raised_by(add_completion, prompt, "yes"),
        ]

    assert [type(error) for error in interrupted(project, meanwhile)] == [Unsettled, Unsettled]


def test_the_api_says_so_with_a_time_to_wait(project):
    admin = api_client(MembershipFactory(project=project, role=Role.ADMIN).user)
    body = {"prompt": "0?", "completions": ["yes", "no"]}

    answer = interrupted(
        project,
        lambda: admin.post(
            "/api/v1/projects/tea/comparisons/", body, content_type="application/json"
        ),
    )

    assert (answer.status_code, answer.headers["Retry-After"]) == (409, "10")
    assert answer.json()["detail"] == taking_back.UNSETTLED


# --- when it is taken back ------------------------------------------------------------------------
def test_people_whom_an_export_names_stay(project, monkeypatch):
    monkeypatch.setattr(exporting, "is_unsettled", lambda project: False)  # an older version

    interrupted(project, lambda: create_export(project))

    assert User.objects.filter(username="tea/anna").exists()
    assert not StoredBatch.objects.exists()


def test_a_prompt_that_others_train_on_is_no_known_answer_again(project):
    gold = {"prompt": "0?", "completions": ["a", "b"], "expected": [[0], [1]]}
    import_jsonl(project, lines([gold]))
    more = {"prompt": "0?", "completions": ["c", "d"]}

    interrupted(project, lambda: import_jsonl(project, lines([more])))

    assert Prompt.objects.get().split != Split.GOLD


def test_a_vote_that_was_corrected_stays_with_its_comparison(project):
    """The judge of the file is somebody who can sign in, and changes a vote of it under My votes."""
    judge = MembershipFactory(project=project).user
    rows = [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(6)]

    def on_stored(n_stored):
        if n_stored == 4:
            correct_last(judge)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_jsonl(project, lines(rows), judge=judge, on_stored=on_stored)

    assert (project.comparisons.count(), Judgment.objects.count()) == (1, 2)
    assert not StoredBatch.objects.exists()


def test_a_corrected_vote_on_what_was_there_before_stays_too(project):
    judge = MembershipFactory(project=project).user
    asked = {"prompt": "0?", "chosen": "yes", "rejected": "no"}
    import_jsonl(project, lines([{"prompt": "0?", "completions": ["yes", "no"]}]))

    def on_stored(n_stored):
        if n_stored == 4:
            correct_last(judge)
            raise KeyboardInterrupt

    rows = [asked, *({"prompt": f"{n}?"} for n in range(1, 6))]
    with pytest.raises(KeyboardInterrupt):
        import_jsonl(project, lines(rows), judge=judge, on_stored=on_stored)

    assert (project.comparisons.get().taken, Judgment.objects.filter(voided=None).count()) == (1, 1)


def correct_last(judge):
    judgment = Judgment.objects.filter(annotator=judge).last()
    said = Said(
        verdict=Verdict.ALL_BAD, ranking=[], strength=None, criteria={}, rationale="", reasons=[],
        flags={}, spans=[], rewrite="",
    )  # fmt: skip
    queue.correct(judgment, said, payload_hash=judgment.assignment.payload_hash)


def test_one_that_another_process_took_for_dead_fails_when_it_goes_on(project):
    def on_stored(n_stored):
        if n_stored == 4:
            for _, storing in unfinished(project):
                taking_back.take_back(storing, project)

    with pytest.raises(TakenBack):
        import_jsonl(project, lines(VOTES), on_stored=on_stored)

    assert not Prompt.objects.exists()

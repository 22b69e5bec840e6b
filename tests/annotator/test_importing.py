"""Files in, rows out: nothing if a row is bad, in short batches, without holding the file."""

import csv
import gzip
import io
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from annotator import importing
from annotator.assignment import claim, payload_hash, record
from annotator.audit import AuditEntry
from annotator.formats.reading import open_rows
from annotator.importing import (
    ImportRefused,
    ImportReport,
    add_prompt,
    import_jsonl,
    import_rows,
    judge_named,
)
from annotator.locks import alone
from annotator.models import (
    Assignment,
    AssignmentState,
    Comparison,
    Completion,
    Judgment,
    Membership,
    Project,
    Prompt,
    StoredBatch,
    User,
    Verdict,
)
from annotator.protocols import picks_best, protocol_shown
from annotator.storing import prompts_there
from tests.factories import MembershipFactory, ProjectFactory, UserFactory, make_judgment

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(overlap=2)


def lines_of(*rows):
    return [json.dumps(row).encode() + b"\n" for row in rows]


def rows_in_database():
    models = (Prompt, Completion, Comparison, Assignment, Judgment, Membership, User)
    return {model.__name__: model.objects.count() for model in models}


def choice(n, **fields):
    return {"prompt": f"Question {n}?", "chosen": "yes", "rejected": "no", **fields}


# --- known answers and screening ----------------------------------------------------------------
KNOWN = {"prompt": "2 + 2?", "completions": ["5", "4", "four"], "expected": [[2, 1], [0]]}


def test_a_known_answer_is_stored_with_what_is_expected(project):
    report = import_jsonl(project, lines_of(KNOWN | {"explanation": "2 + 2 is 4."}))

    known = Comparison.objects.gold().get()
    five, four, in_words = (entry.completion_id for entry in known.entries.all())
    assert (report.comparisons, report.known_answers) == (1, 1)
    assert (known.expected, known.explanation) == ([[in_words, four], [five]], "2 + 2 is 4.")
    assert (known.overlap, known.origin) == (0, "known answer")


def test_the_prompt_of_a_known_answer_is_for_no_model_until_it_comes_otherwise(project):
    import_jsonl(project, lines_of(KNOWN))
    before = Prompt.objects.get().split

    report = import_jsonl(project, lines_of({"prompt": "2 + 2?", "completions": ["5", "4"]}))

    prompt = Prompt.objects.get()
    assert (before, prompt.split) == ("gold", project.split_of(prompt.key))
    assert (report.comparisons, report.known_answers) == (1, 0)


def test_one_file_may_hold_a_prompt_for_both(project):
    import_jsonl(project, lines_of(KNOWN, {"prompt": "2 + 2?"}))
    import_jsonl(project, lines_of(KNOWN | {"prompt": "3 + 1?"}))

    added, is_new = add_prompt(project, "3 + 1?")

    assert (added.split, is_new) == (project.split_of(added.key), False)
    assert not Prompt.objects.filter(split="gold").exists()


def test_what_screening_finds_is_held_back_but_not_known_answers_or_what_is_judged(project):
    rows = [
        {"prompt": "One?", "completions": ["Paris.", ""]},
        {"prompt": "Two?", "completions": ["Paris.", "Lyon."]},
        {"prompt": "Three?", "completions": ["Paris.", ""], "expected": [[0], [1]]},
        {"prompt": "Four?", "chosen": "Paris.", "rejected": ""},
    ]

    report = import_jsonl(project, lines_of(*rows), judge=UserFactory(), overlap=1)

    assert report.held == 1
    (held,) = Comparison.objects.held()
    assert (str(held.prompt), held.hold) == ("One?", "Answer B is empty.")


def test_a_project_says_what_is_screened(project):
    project.screening = []

    report = import_jsonl(project, lines_of({"prompt": "One?", "completions": ["Paris.", ""]}))

    assert (report.comparisons, report.held) == (1, 0)


# --- rows -------------------------------------------------------------------------------------
def test_prompts_are_stored_with_their_split(project):
    report = import_jsonl(project, lines_of(*({"prompt": f"Question {n}?"} for n in range(60))))

    assert report == ImportReport(60, 0, 0, 0, 0, [])
    for prompt in Prompt.objects.all():
        assert prompt.split == project.split_of(prompt.key)
    assert set(Prompt.objects.values_list("split", flat=True)) == {"train", "test"}


def test_comparisons_are_stored_with_their_completions(project):
    line = {
        "prompt": "Hi!",
        "completions": ["c", "a", "b"],
        "sources": ["m1", "m2", "m3"],
        "truncated": [False, True, False],
    }

    report = import_jsonl(project, lines_of(line), overlap=3, round_number=4)

    comparison = Comparison.objects.get()
    assert report == ImportReport(1, 3, 1, 0, 0, [], held=1)
    assert comparison.hold == "Answer B was cut off at the length limit."
    assert (comparison.overlap, comparison.round_number, comparison.taken) == (3, 4, 0)
    assert list(
        comparison.entries.values_list(
            "completion__text", "completion__source", "completion__is_truncated"
        )
    ) == [("c", "m1", False), ("a", "m2", True), ("b", "m3", False)]


def test_an_imported_comparison_is_that_of_create_from(project):
    import_jsonl(project, lines_of({"prompt": "Hi!", "completions": ["b", "a"]}))
    again = [Completion.objects.create(prompt=Prompt.objects.get(), text=t) for t in (" a", "b")]

    assert Comparison.objects.create_from(again) is None


def test_known_choices_without_a_judge_are_just_comparisons(project):
    report = import_jsonl(project, lines_of(choice(1)))

    assert (report.comparisons, report.judgments) == (1, 0)
    assert Comparison.objects.get().taken == 0


def test_known_choices_become_judgments_that_count(project):
    judge = judge_named("imported")

    report = import_jsonl(project, lines_of(choice(1), choice(2)), judge=judge)

    assert (report.comparisons, report.judgments) == (2, 2)
    for judgment in Judgment.objects.counted().select_related("comparison", "assignment"):
        texts = [[Completion.objects.get(pk=pk).text for pk in g] for g in judgment.ranking]
        assert texts == [["yes"], ["no"]]
        assert (judgment.annotator, judgment.comparison.taken) == (judge, 1)
        shown = judgment.assignment
        assert shown.state == AssignmentState.JUDGED
        assert shown.payload_hash == payload_hash(judgment.comparison, shown.order)


def test_the_judge_is_made_an_annotator_who_cannot_sign_in(project):
    import_jsonl(project, lines_of(choice(1)), judge=judge_named("imported"))

    user = User.objects.get(username="imported")
    assert not user.has_usable_password()
    assert [(m.project, m.role) for m in user.memberships.all()] == [(project, "annotator")]


def test_an_existing_judge_keeps_password_and_role(project):
    user = UserFactory(username="imported", password="secret")
    MembershipFactory(project=project, user=user, role="reviewer")

    import_jsonl(project, lines_of(choice(1)), judge=judge_named("imported"))

    assert Judgment.objects.get().annotator == user
    assert User.objects.get(pk=user.pk).check_password("secret")
    assert user.memberships.get().role == "reviewer"


def test_what_the_judge_said_leaves_the_other_places_to_others(project):
    judge = judge_named("imported")
    import_jsonl(project, lines_of(choice(1)), judge=judge)

    assert claim(project, judge) is None
    assert claim(project, MembershipFactory(project=project).user) is not None
    assert claim(project, MembershipFactory(project=project).user) is None


# --- duplicates -------------------------------------------------------------------------------
def test_importing_twice_adds_nothing(project):
    lines = lines_of(choice(1), {"prompt": "Hi!"}, {"prompt": "Hi!", "completions": ["a", "b"]})
    import_jsonl(project, lines, judge=judge_named("imported"))
    before = rows_in_database()

    report = import_jsonl(project, lines, judge=judge_named("imported"))

    assert report == ImportReport(0, 0, 0, 0, 3, [])
    assert rows_in_database() == before


@pytest.mark.parametrize("batch", [1, 2, 500])
def test_repetitions_within_a_file_are_counted_in_any_batches(project, batch, monkeypatch):
    monkeypatch.setattr(importing, "BATCH", batch)
    pair = {"prompt": "Hi!", "completions": ["a", "b"]}
    turned_round = {"prompt": "Hi!", "completions": ["b", "a"]}

    report = import_jsonl(
        project, lines_of({"prompt": "Hi!"}, pair, turned_round, {"prompt": "Hi!"})
    )

    assert report == ImportReport(1, 2, 1, 0, 2, [])


def test_the_same_answer_in_two_comparisons_is_one_completion(project):
    lines = lines_of(*({"prompt": "Hi!", "completions": ["a", other]} for other in "bcd"))

    import_jsonl(project, lines[:2])
    import_jsonl(project, lines[2:])

    assert sorted(Completion.objects.values_list("text", flat=True)) == ["a", "b", "c", "d"]


def test_projects_do_not_share_rows(project):
    other = ProjectFactory()
    import_jsonl(other, lines_of(choice(1)))

    assert import_jsonl(project, lines_of(choice(1))).comparisons == 1
    assert Prompt.objects.count() == 2


# --- bad lines --------------------------------------------------------------------------------
BAD = [b'{"prompt": "Hi!"}\n', b"\n", b'{"prompt": 3}\n', b"{\n", b'{"prompt": "Ho!"}\n']


def test_one_bad_line_and_nothing_is_imported(project):
    before = rows_in_database()

    with pytest.raises(ImportRefused) as refused:
        import_jsonl(project, BAD, judge=judge_named("imported"))

    assert [error.line for error in refused.value.errors] == [3, 4]
    assert str(refused.value).startswith('line 3: "prompt" must be text or a list of messages')
    assert rows_in_database() == before


def test_bad_lines_can_be_left_out(project):
    report = import_jsonl(project, BAD, skip_bad_lines=True)

    assert (report.prompts, report.n_bad_lines) == (2, 2)
    assert [error.line for error in report.bad_lines] == [3, 4]


def test_only_the_first_errors_are_listed(project):
    with pytest.raises(ImportRefused) as refused:
        import_jsonl(project, [b"{\n"] * 150)

    assert len(refused.value.errors) == 100
    assert str(refused.value).endswith("\nand more")


def test_left_out_lines_are_all_counted(project):
    report = import_jsonl(project, [b"{\n"] * 150 + lines_of(choice(1)), skip_bad_lines=True)

    assert (len(report.bad_lines), report.n_bad_lines, report.comparisons) == (100, 150, 1)


def test_limit_counts_good_lines(project):
    report = import_jsonl(project, BAD, skip_bad_lines=True, limit=1)

    assert (report.prompts, report.n_bad_lines) == (1, 0)


def test_ignored_fields_are_reported(project):
    report = import_jsonl(project, lines_of(choice(1, id=3), choice(2, language="en")))

    assert report.ignored_fields == ("id", "language")


@pytest.mark.parametrize("overlap", [0, 101])
def test_an_impossible_overlap_is_refused(project, overlap):
    with pytest.raises(ValueError, match=f"overlap must be between 1 and 100, not {overlap}"):
        import_jsonl(project, [], overlap=overlap)


def test_a_failure_while_storing_leaves_nothing(project, monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 2)
    before = rows_in_database()
    project_gone = Project(pk=project.pk, slug=project.slug, overlap=project.overlap)
    project_gone.held_out_percent = None  # breaks in the first batch, after the judge was saved

    with pytest.raises(TypeError):
        import_jsonl(project_gone, lines_of(choice(1)), judge=judge_named("imported"))

    assert rows_in_database() == before


# --- votes of several people --------------------------------------------------------------------
VOTES = {
    "prompt": "Hi!",
    "completions": ["a", "b"],
    "judgments": [
        {"annotator": "7", "ranking": [[1], [0]], "strength": 2, "strength_of": 3, "order": [1, 0]},
        {"annotator": "8", "verdict": "all_bad"},
        {"annotator": "9", "ranking": [[0, 1]], "rationale": "Alike."},
    ],
}


def test_votes_become_judgments_of_people_who_cannot_sign_in(project):
    report = import_jsonl(project, lines_of(VOTES))

    comparison = Comparison.objects.get()
    a, b = (entry.completion_id for entry in comparison.entries.all())
    assert (report.comparisons, report.judgments) == (1, 3)
    assert (comparison.taken, comparison.overlap) == (3, 3)  # the project asks for two
    assert list(
        Judgment.objects.order_by("pk").values_list(
            "annotator__username", "verdict", "ranking", "strength", "strength_of", "rationale"
        )
    ) == [
        (f"{project.slug}/7", "ranking", [[b], [a]], 2, 3, ""),
        (f"{project.slug}/8", "all_bad", [], None, None, ""),
        (f"{project.slug}/9", "ranking", [[a, b]], None, None, "Alike."),
    ]
    assert Judgment.objects.earliest("pk").assignment.order == [b, a]
    assert not any(user.has_usable_password() for user in User.objects.all())
    assert Membership.objects.filter(project=project, role="annotator").count() == 3


def test_what_cannot_be_ranked_is_imported_without_a_place(project):
    said = [{"annotator": "7", "verdict": "unrankable"}, {"annotator": "8", "ranking": [[0], [1]]}]

    import_jsonl(project, lines_of(VOTES | {"judgments": said}))
    import_jsonl(project, lines_of(VOTES | {"judgments": [said[0] | {"annotator": "9"}]}))

    comparison = Comparison.objects.get()
    assert (comparison.taken, comparison.overlap) == (1, 2)
    verdicts = Judgment.objects.order_by("pk").values_list("verdict", flat=True)
    assert list(verdicts) == ["unrankable", "ranking", "unrankable"]


def test_a_name_in_a_file_is_nobody_who_signs_in(project):
    admin = UserFactory(username="7")

    import_jsonl(project, lines_of(VOTES))

    assert not Judgment.objects.filter(annotator=admin).exists()


def test_what_else_was_said_is_kept_by_completion(project):
    said = {
        "annotator": "7",
        "ranking": [[2], [0, 1]],
        "is_pick": True,
        "flags": [["unsafe"], [], []],
        "spans": [{"completion": 2, "start": 0, "end": 1, "label": "good"}],
        "criteria": [{"criterion": "kind", "ranking": [2, 1, 0], "strength": 2, "strength_of": 2}],
        "seconds": 4.5,
    }
    row = {"prompt": "Hi!", "completions": ["a", "b", "c"], "judgments": [said]}

    import_jsonl(project, lines_of(row))

    judgment = Judgment.objects.get()
    a, b, c = (entry.completion_id for entry in judgment.comparison.entries.all())
    assert judgment.flags == {str(a): ["unsafe"]}
    assert judgment.spans == [{"completion": c, "start": 0, "end": 1, "label": "good"}]
    assert judgment.criteria == {"kind": {"ranking": [[c], [b], [a]], "strength": 2}}
    assert judgment.seconds == 4.5
    assert picks_best(judgment.assignment)
    assert len(protocol_shown(judgment.assignment).strengths) == 2


def test_votes_on_a_comparison_that_is_there_are_added_once(project):
    first, *others = VOTES["judgments"]
    import_jsonl(project, lines_of(VOTES | {"judgments": [first]}))
    turned = {
        "prompt": "Hi!",
        "completions": ["b", "a"],
        "judgments": [{"annotator": "7", "ranking": [0, 1]}, {"annotator": "8", "ranking": [0, 1]}],
    }

    report = import_jsonl(project, lines_of(turned, VOTES | {"judgments": others}, VOTES))

    comparison = Comparison.objects.get()
    _, b = (entry.completion_id for entry in comparison.entries.all())
    assert (report.comparisons, report.judgments, report.duplicates) == (0, 2, 1)
    assert (comparison.taken, comparison.overlap) == (3, 3)
    eight = Judgment.objects.get(annotator__username=f"{project.slug}/8")
    assert eight.ranking[0] == [b]


def test_votes_of_one_comparison_in_several_rows_of_a_file(project):
    rows = [VOTES | {"judgments": [judgment]} for judgment in VOTES["judgments"]]

    report = import_jsonl(project, lines_of(*rows))

    assert (report.comparisons, report.judgments, report.duplicates) == (1, 3, 0)
    assert Comparison.objects.get().taken == 3


def test_a_vote_that_was_withdrawn_does_not_come_back(project):
    import_jsonl(project, lines_of(VOTES))
    Judgment.objects.update(voided=timezone.now())

    report = import_jsonl(project, lines_of(VOTES))

    assert (report.judgments, report.duplicates) == (0, 1)


def test_votes_that_were_exported_from_here_do_not_come_back_as_others(project):
    import_jsonl(project, lines_of(VOTES | {"judgments": []}))
    judgment = make_judgment(Comparison.objects.get(), UserFactory(), [0], [1])
    exported = {
        "annotator": str(judgment.annotator_id), "ranking": [0, 1], "judgment": judgment.pk,
        "given": f"{judgment.created:%Y-%m-%dT%H:%M:%S}+00:00",
    }  # fmt: skip

    here = import_jsonl(project, lines_of(VOTES | {"judgments": [exported]}))
    elsewhere = import_jsonl(ProjectFactory(), lines_of(VOTES | {"judgments": [exported]}))

    assert (here.judgments, here.duplicates) == (0, 1)
    assert Membership.objects.filter(project=project).count() == 1
    assert (elsewhere.judgments, elsewhere.comparisons) == (1, 1)


def test_votes_of_another_installation_are_not_taken_for_ours(project):
    import_jsonl(project, lines_of(VOTES | {"judgments": []}))
    judgment = make_judgment(Comparison.objects.get(), UserFactory(), [0], [1])
    theirs = {
        "annotator": str(judgment.annotator_id), "ranking": [1, 0], "judgment": judgment.pk,
        "given": "2026-01-01T10:00:00+00:00",
    }  # fmt: skip

    report = import_jsonl(project, lines_of(VOTES | {"judgments": [theirs]}))

    assert (report.judgments, report.duplicates) == (1, 0)
    assert User.objects.filter(username=f"{project.slug}/{judgment.annotator_id}").exists()


def test_who_compares_keeps_the_place_when_votes_come_in(project):
    import_jsonl(project, lines_of(VOTES | {"judgments": []}))
    annotator = MembershipFactory(project=project).user
    assert claim(project, annotator)

    import_jsonl(project, lines_of(VOTES))

    comparison = Comparison.objects.get()
    assert (comparison.taken, comparison.overlap) == (4, 4)


def test_a_choice_of_nobody_is_counted_once_a_judge_is_named(project):
    import_jsonl(project, lines_of(choice(1)))

    report = import_jsonl(project, lines_of(choice(1)), judge=judge_named("imported"))

    assert (report.comparisons, report.judgments) == (0, 1)


# --- files of all kinds ---------------------------------------------------------------------------
def csv_rows(text):
    return open_rows(io.BytesIO(text.encode()))


def test_columns_are_mapped(project):
    rows = csv_rows("question,answer_a,answer_b\nHi!,a,b\n")

    report = import_rows(
        project, rows, mapping={"prompt": "question", "completions": "answer_a,answer_b"}
    )

    assert (report.prompts, report.comparisons) == (1, 1)


def test_a_mapping_from_what_is_no_column_is_refused(project):
    with pytest.raises(ValueError, match='no column "query"; there are "question"'):
        import_rows(project, csv_rows("question\nHi!\n"), mapping={"prompt": "query"})


def test_a_dry_run_counts_and_keeps_nothing(project):
    before = rows_in_database()

    report = import_rows(
        project,
        csv_rows("prompt,chosen,rejected\nHi!,yes,no\n"),
        judge=judge_named("imported"),
        dry_run=True,
    )

    assert report == ImportReport(1, 2, 1, 1, 0, [])
    assert rows_in_database() == before


def test_all_bad_rows_are_listed_and_their_formulas_defused(project):
    listed = io.StringIO()
    rows = csv_rows('prompt,chosen,rejected\nHi!,=1+1,=1+1\n" ",a,b\nHo!,a,b\n')

    report = import_rows(project, rows, skip_bad_rows=True, bad_rows=listed)

    assert (report.comparisons, report.n_bad_lines) == (1, 2)
    assert list(csv.reader(io.StringIO(listed.getvalue()))) == [
        ["place", "column", "value", "problem"],
        [
            "row 2",
            "chosen",
            "'=1+1",
            '"chosen" and "rejected" are the same text, "=1+1": there is nothing to compare',
        ],
        ["row 3", "prompt", " ", '"prompt" is empty; it must say something'],
    ]


def test_what_no_file_can_hold_is_listed_all_the_same(project, tmp_path):
    row = b'{"prompt": "a\\ud800\\u0000", "chosen": "b", "rejected": "c", "\\ud800": 1}\n'
    deep = b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}\n"
    fine = b'{"prompt": "Hi!", "\\ud800": 1}\n'

    with (tmp_path / "bad.csv").open("w", encoding="utf-8") as file:
        report = import_rows(
            project,
            open_rows(io.BytesIO(row + deep + fine)),
            skip_bad_rows=True,
            bad_rows=file,
        )

    assert (report.n_bad_lines, report.prompts) == (2, 1)
    assert report.ignored_fields == ("\\ud800",)
    assert report.bad_lines[0].value == "a\\ud800␀"


def test_progress_is_told_and_can_end_the_import(project, monkeypatch):
    monkeypatch.setattr(importing, "BETWEEN_PROGRESS", 2)
    monkeypatch.setattr(importing, "BATCH", 2)
    text = "prompt\n" + "".join(f"Question {n}?\n" for n in range(5))
    checked, stored = [], []

    import_rows(project, csv_rows(text), on_progress=checked.append, on_stored=stored.append)
    assert (checked, stored) == ([2, 4], [0, 2, 4])

    with pytest.raises(KeyboardInterrupt):
        import_rows(ProjectFactory(), csv_rows(text), on_stored=ended_after(0))
    assert Prompt.objects.count() == 5


def test_a_file_that_is_damaged_at_its_end_leaves_nothing(project):
    damaged = gzip.compress(b"".join(lines_of(*map(choice, range(900)))))[:-9]

    with pytest.raises(ImportRefused, match=r"^line 901: the file is damaged from here on"):
        import_rows(project, open_rows(io.BytesIO(damaged)), skip_bad_rows=True)

    assert not Prompt.objects.exists()


def test_markup_is_stored_as_the_text_that_it_is(project):
    text = "<script>alert(1)</script>=cmd()"

    import_rows(project, csv_rows(f"prompt\n{text}\n"))

    assert Prompt.objects.get().messages == [{"role": "user", "content": text}]


# --- batches ------------------------------------------------------------------------------------
def ended_after(n_rows):
    """What ends an import when so many rows are stored."""

    def end(n_stored):
        if n_stored >= n_rows:
            raise KeyboardInterrupt

    return end


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 2)
    monkeypatch.setattr(importing, "PAUSE", 0)


MIXED = [
    {"prompt": "Alone?"},
    VOTES | {"judgments": VOTES["judgments"][:1]},
    choice(1),
    VOTES,  # its first vote was stored with the batch before
    {"prompt": "Alone?"},
    choice(1),
    KNOWN,
    choice(2, prompt="Alone?"),
    choice(3, chosen="Yes."),
    KNOWN | {"completions": ["5", "4"], "expected": [[1], [0]]},
    {"prompt": "Held?", "completions": ["the same", "The same"]},
]  # fmt: skip


def contents(project):
    """What people are asked, and who has said what, whatever the numbers of the rows."""
    ours = project.comparisons.order_by("key")
    said = project.judgments.order_by("comparison__key", "annotator__username")
    return [
        sorted(project.prompts.values_list("key", "split")),
        list(ours.values_list("key", "round_number", "purpose", "overlap", "taken", "hold")),
        sorted(ours.values_list("key", "entries__position", "entries__completion__text")),
        list(said.values_list("comparison__key", "annotator__username", "verdict", "strength")),
    ]


def rows_of_all_tables():
    """Of all that an import can write, with what it can change."""
    models = (Prompt, Completion, Comparison, Assignment, Judgment, User, Membership, AuditEntry)
    changed = Comparison.objects.order_by("pk").values_list("pk", "taken", "overlap")
    splits = Prompt.objects.order_by("pk").values_list("pk", "split")
    return [set(model.objects.values_list("pk", flat=True)) for model in models], [
        *changed,
        *splits,
    ]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("n_rows", [0, 4, 10])
def test_an_import_that_is_interrupted_leaves_nothing(project, n_rows):
    import_jsonl(project, lines_of(KNOWN, choice(1), VOTES | {"judgments": []}))
    before = rows_of_all_tables()

    with pytest.raises(KeyboardInterrupt) as ended:
        import_jsonl(
            project, lines_of(*MIXED), judge=judge_named("new"), on_stored=ended_after(n_rows)
        )

    assert rows_of_all_tables() == before
    assert not hasattr(ended.value, "__notes__")
    assert not StoredBatch.objects.exists()


@pytest.mark.usefixtures("small_batches")
def test_an_import_that_was_interrupted_can_be_done_again():
    judge = judge_named("imported")
    whole, broken = ProjectFactory(), ProjectFactory()
    import_jsonl(whole, lines_of(*MIXED), judge=judge)

    with pytest.raises(KeyboardInterrupt):
        import_jsonl(broken, lines_of(*MIXED), judge=judge, on_stored=ended_after(4))
    import_jsonl(broken, lines_of(*MIXED), judge=judge)

    assert contents(broken) == contents(whole)


@pytest.mark.usefixtures("small_batches")
def test_an_import_is_written_down_once_at_its_end(project):
    with pytest.raises(KeyboardInterrupt):
        import_jsonl(project, lines_of(*map(choice, range(5))), on_stored=ended_after(2))
    import_jsonl(project, lines_of(*map(choice, range(5))))

    assert AuditEntry.objects.get().details == {"prompts": 5, "completions": 10, "comparisons": 5}


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("name", ["", "imported"])
def test_a_dry_run_counts_as_an_import_does(project, name):
    judge = judge_named(name) if name else None
    import_jsonl(project, lines_of({"prompt": "Alone?"}, choice(2, prompt="Alone?"), VOTES))

    foreseen = import_jsonl(project, lines_of(*MIXED), judge=judge, dry_run=True)

    assert foreseen == import_jsonl(project, lines_of(*MIXED), judge=judge)
    assert min(foreseen.prompts, foreseen.completions, foreseen.comparisons) > 0


@pytest.mark.usefixtures("small_batches")
def test_a_dry_run_never_writes(project, django_assert_num_queries):
    with django_assert_num_queries(2) as asked:  # prompts of two batches
        import_jsonl(project, lines_of(*map(choice, range(3))), dry_run=True)

    assert {query["sql"].split()[0] for query in asked} == {"SELECT"}


@pytest.mark.usefixtures("small_batches")
@pytest.mark.django_db(transaction=True)
def test_people_vote_while_a_file_is_stored():
    project = ProjectFactory(overlap=1)
    anna = MembershipFactory(project=project).user
    happened = []

    def vote():
        try:
            held = claim(project, anna)
            record(held, Verdict.ALL_BAD, payload_hash=held.payload_hash)
        finally:
            connection.close()
        happened.append("vote")

    def on_stored(n_stored):
        happened.append(n_stored)
        if n_stored:
            other.submit(vote).result()

    with ThreadPoolExecutor(1) as other:
        import_jsonl(project, lines_of(*map(choice, range(6))), on_stored=on_stored)

    assert happened == [0, 2, "vote", 4, "vote"]
    assert (project.judgments.count(), project.comparisons.count()) == (2, 6)


@pytest.mark.usefixtures("small_batches")
def test_a_second_import_into_a_project_waits_for_the_first(project, settings, monkeypatch):
    monkeypatch.setattr(importing, "SECONDS_BETWEEN_LOOKS", 0)
    other = alone(Path(settings.DATA_DIR) / f"import-into-{project.pk}.lock")
    looks = []

    def on_stored(n_stored):
        looks.append((n_stored, project.prompts.count()))
        if len(looks) == 3:
            other.__exit__(None, None, None)

    assert other.__enter__()
    import_jsonl(project, lines_of(*map(choice, range(3))), on_stored=on_stored)

    assert looks == [(0, 0), (0, 0), (0, 0), (0, 0), (2, 2)]


@pytest.mark.usefixtures("small_batches")
def test_what_is_stored_at_once_waits_for_no_other_import(project, settings):
    with alone(Path(settings.DATA_DIR) / f"import-into-{project.pk}.lock"):
        assert import_jsonl(project, lines_of(choice(1), choice(2))).comparisons == 2


# --- size -------------------------------------------------------------------------------------
def test_memory_does_not_grow_with_the_file(project, monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 20)
    long = "x" * 10_000

    tracemalloc.start()
    import_jsonl(project, (lines_of(choice(n, chosen=long))[0] for n in range(400)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert Comparison.objects.count() == 400
    assert peak < 2.5e6  # bytes; the file has 4 million


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the plan is SQLite's")
def test_prompts_are_looked_up_by_their_keys(project):
    plan = prompts_there(project, ["a", "b"]).values_list("key", "split", "pk").explain()

    assert plan.endswith("(project_id=? AND key=?)")


@pytest.mark.parametrize("n", [1, 3])
def test_import_asks_equally_many_questions(project, n, django_assert_num_queries):
    judge = judge_named("imported")

    with django_assert_num_queries(17):
        import_jsonl(project, lines_of(*map(choice, range(n))), judge=judge)


# --- add_prompt -------------------------------------------------------------------------------
def test_add_prompt_finds_the_one_there_is(project):
    messages = [{"role": "user", "content": "Hi!"}]

    prompt, is_new = add_prompt(project, messages)
    again, is_new_again = add_prompt(project, messages)

    assert (is_new, is_new_again, again) == (True, False, prompt)
    assert prompt.split == project.split_of(prompt.key)


def test_add_prompt_explains_what_is_wrong(project):
    with pytest.raises(ValueError, match='"prompt" must end with a message of the user'):
        add_prompt(project, [{"role": "assistant", "content": "Hi!"}])

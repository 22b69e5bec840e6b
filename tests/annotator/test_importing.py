"""Files in, rows out: all or nothing, in batches, without holding the file."""

import gzip
import io
import json
import tracemalloc

import pytest

from annotator import importing
from annotator.assignment import claim, payload_hash
from annotator.importing import (
    ImportRefused,
    ImportReport,
    LineError,
    add_prompt,
    import_jsonl,
    judge_named,
    read_lines,
)
from annotator.jsonl import MAX_LINE_BYTES
from annotator.models import (
    Assignment,
    AssignmentState,
    Comparison,
    Completion,
    Judgment,
    Membership,
    Project,
    Prompt,
    User,
)
from tests.factories import MembershipFactory, ProjectFactory, UserFactory

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
    assert report == ImportReport(1, 3, 1, 0, 0, [])
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


# --- files ------------------------------------------------------------------------------------
def test_gzip_is_unpacked():
    assert list(read_lines(io.BytesIO(gzip.compress(b"a\nb\n")))) == [b"a\n", b"b\n"]


def test_an_endless_line_is_cut():
    content = b"a\n" + b"x" * (3 * MAX_LINE_BYTES) + b"\nb"

    first, long, last = read_lines(io.BytesIO(content))

    assert (first, len(long), last) == (b"a\n", MAX_LINE_BYTES + 1, b"b")


def test_a_damaged_gzip_file_is_refused():
    damaged = gzip.compress(b"a\n" * 1000)[:-9]

    with pytest.raises(ImportRefused, match="the file is damaged from here on"):
        list(read_lines(io.BytesIO(damaged)))


def test_a_file_that_unpacks_to_too_much_is_refused():
    bomb = gzip.compress(b"x" * 5 * 2**20)

    with pytest.raises(ImportRefused) as refused:
        list(read_lines(io.BytesIO(bomb), max_bytes=2 * 2**20))

    assert refused.value.errors == [
        LineError(1, "the file is larger than 2 MiB; split it, or use import_comparisons")
    ]


def test_memory_does_not_grow_with_the_file(project, monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 20)
    long = "x" * 10_000

    tracemalloc.start()
    import_jsonl(project, (lines_of(choice(n, chosen=long))[0] for n in range(400)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert Comparison.objects.count() == 400
    assert peak < 2.5e6  # bytes; the file has 4 million


@pytest.mark.parametrize("n", [1, 3])
def test_import_asks_equally_many_questions(project, n, django_assert_num_queries):
    judge = judge_named("imported")

    with django_assert_num_queries(19):
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

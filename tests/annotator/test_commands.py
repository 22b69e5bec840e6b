"""The commands: what they print, and what is left when they fail."""

import gzip
import io
import json

import pytest
from django.core.management import CommandError, call_command

from annotator import importing
from annotator.models import Comparison, Export, Judgment, User
from annotator.quality import keeping
from tests.factories import ComparisonFactory, ProjectFactory, UserFactory, make_judgment

pytestmark = pytest.mark.django_db

LINE = b'{"prompt": "Hi!", "chosen": "yes", "rejected": "no"}\n'


@pytest.fixture
def project():
    return ProjectFactory(slug="demo", name="Demo")


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    call_command(*arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_import_reads_gzip_and_names_the_judge(project, tmp_path):
    file = tmp_path / "choices.jsonl.gz"
    file.write_bytes(gzip.compress(LINE))

    out, err = run("import_comparisons", "demo", str(file), "--judge", "imported")

    assert out == "New: 1 prompt, 2 completions, 1 comparison, 1 judgment.\n"
    assert err == ""
    assert Judgment.objects.get().annotator.username == "imported"


def test_import_reads_standard_input(project, monkeypatch):
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(LINE)))
    monkeypatch.setattr("sys.stdin", stdin)

    out, _ = run("import_comparisons", "demo", "-", "--overlap", "3")

    assert out == "New: 1 prompt, 2 completions, 1 comparison, 0 judgments.\n"
    assert Comparison.objects.get().overlap == 3


def test_import_shows_on_a_terminal_how_far_it_is(project, tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}?"}) + "\n" for n in range(500)))

    run("import_comparisons", "demo", str(file))

    assert "Checked: " in terminal.getvalue()
    assert "Stored: " in terminal.getvalue()


@pytest.mark.parametrize(("arguments", "number"), [([], 3), (["--round", "2"], 2)])
def test_import_is_into_the_latest_round_or_the_one_named(project, tmp_path, arguments, number):
    there = ComparisonFactory(project=project, round_number=3)
    file = tmp_path / "choices.jsonl"
    file.write_bytes(LINE)

    run("import_comparisons", "demo", str(file), *arguments)

    assert Comparison.objects.exclude(pk=there.pk).get().round_number == number


def test_import_lists_bad_lines_and_imports_nothing(project, tmp_path):
    file = tmp_path / "choices.jsonl"
    file.write_bytes(LINE + b'{"prompt": ""}\n')
    err = io.StringIO()

    with pytest.raises(CommandError, match=r"Nothing was imported\."):
        call_command("import_comparisons", "demo", str(file), "--judge", "x", stderr=err)

    assert err.getvalue() == 'line 2: "prompt" is empty; it must say something\n'
    assert (Comparison.objects.count(), User.objects.count()) == (0, 0)


def test_import_goes_on_if_told_to(project, tmp_path):
    file = tmp_path / "choices.jsonl"
    file.write_bytes(b'{"prompt": ""}\n' + LINE + LINE)

    out, err = run("import_comparisons", "demo", str(file), "--skip-bad-lines")

    assert out == (
        "New: 1 prompt, 2 completions, 1 comparison, 0 judgments. There already: 1 line. "
        "Left out: 1 bad line.\n"
    )
    assert err.startswith("line 1: ")


def test_import_takes_nothing_from_a_folder_with_a_link_out_of_it(project, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "data.arrow").symlink_to(tmp_path / "secret")
    state = {"_data_files": [{"filename": "data.arrow"}]}
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))

    with pytest.raises(CommandError, match=r'outside of the folder: "data\.arrow"'):
        run("import_comparisons", "demo", str(tmp_path / "saved"))

    assert not Comparison.objects.exists()


TABLE = "question,better,worse\nHi!,yes,no\nHo!,=1+1,=1+1\n"
MAPPED = ["--map", "prompt=question", "--map", "chosen=better", "--map", "rejected=worse"]


def test_import_maps_columns_and_writes_bad_rows(project, tmp_path):
    table, bad_rows = tmp_path / "choices.csv", tmp_path / "bad.csv"
    table.write_text(TABLE)

    out, err = run(
        "import_comparisons",
        "demo",
        str(table),
        *MAPPED,
        "--skip-bad-rows",
        "--bad-rows",
        str(bad_rows),
    )

    assert out.startswith(
        "New: 1 prompt, 2 completions, 1 comparison, 0 judgments. Left out: 1 bad"
    )
    assert err.startswith('row 3: "better" and "rejected" are the same text, "=1+1"')
    assert "row 3,better,'=1+1," in bad_rows.read_text()


def test_an_import_that_is_stopped_leaves_nothing(project, tmp_path, monkeypatch):
    def stop(seconds):
        raise KeyboardInterrupt

    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "Question {n}?"}}\n' for n in range(3)))
    monkeypatch.setattr(importing, "BATCH", 2)
    monkeypatch.setattr(importing.time, "sleep", stop)

    with pytest.raises(CommandError, match=r"^Stopped\. Nothing was imported\.$"):
        run("import_comparisons", "demo", str(file))

    assert project.prompts.count() == 0


def test_a_dry_run_only_says_what_would_be(project, tmp_path):
    file = tmp_path / "choices.jsonl"
    file.write_bytes(LINE)

    out, _ = run("import_comparisons", "demo", str(file), "--dry-run")

    assert out.splitlines() == [
        "The first rows, as they are understood:",
        "  user: Hi!",
        "    A: no [import]",
        "    B: yes [import] [Chosen]",
        "A dry run: nothing is kept. New: 1 prompt, 2 completions, 1 comparison, 0 judgments.",
    ]
    assert not Comparison.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "-"], "There is no project nowhere."),
        (["demo", "/no/such/file"], "No such file or directory: '/no/such/file'"),
        (["demo", "/dev/null", "--map", "prompt"], "--map needs OURS=THEIRS, as prompt=question"),
        (["demo", "/dev/null", "--map", "a=b"], '"a" is no field of ours'),
        (["demo", "/"], "/ is no folder that `datasets` has saved"),
        (["demo", "hub:x"], "hub:x must look like hub:OWNER/NAME"),
        (["demo", "/dev/null", "--overlap", "0"], "overlap must be between 1 and 100, not 0"),
        (["demo", "/dev/null", "--round", "0"], "the round must be 1 or more, not 0"),
    ],
)
def test_import_says_what_cannot_be(project, arguments, sentence):
    with pytest.raises(CommandError, match=sentence):
        run("import_comparisons", *arguments)


def test_export_prints_where_it_is(project):
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])

    out, _ = run("export_judgments", "demo")

    export = Export.objects.get()
    assert out == f"{export}: {export.folder}\n"
    assert json.loads((export.folder / "data.jsonl").read_text())["p_chosen"] == 1.0


def test_export_says_when_there_is_nothing(project):
    with pytest.raises(CommandError, match="Demo has no comparisons yet"):
        run("export_judgments", "demo", "--round", "1")


def test_export_says_when_there_is_no_project():
    with pytest.raises(CommandError, match="There is no project demo"):
        run("export_judgments", "demo")


def test_export_leaves_out_and_gives_what_it_is_told(project, tmp_path):
    for name in ("anna", "bert"):
        comparison = ComparisonFactory(project=project)
        make_judgment(comparison, UserFactory(username=name), [0], [1])
    output = tmp_path / "kto.csv"

    run("export_judgments", "demo", "--without", "bert", "--shape", "kto", "--format", "csv",
        "--output", str(output), "--licence", "CC0")  # fmt: skip

    export = Export.objects.get()
    assert (export.n_judgments, export.manifest["licence"]) == (1, "CC0")
    assert len(output.read_text().splitlines()) == 3


def test_export_gives_a_folder_of_an_export_that_is_there(project, tmp_path):
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    run("export_judgments", "demo")
    number = str(Export.objects.get().pk)
    command = ("export_judgments", "demo", "--export", number, "--format", "datasets")

    out, _ = run(*command, "--output", str(tmp_path / "pairs"))

    assert out == f"{tmp_path / 'pairs'}\n"
    assert (tmp_path / "pairs" / "train" / "state.json").is_file()
    with pytest.raises(CommandError, match="is there already: name a new folder"):
        run(*command, "--output", str(tmp_path / "pairs"))
    assert Export.objects.count() == 1


def test_export_compares(project):
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    run("export_judgments", "demo")
    before = Export.objects.get()
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])

    out, _ = run("export_judgments", "demo", "--compare", str(before.pk))

    found = json.loads(out.splitlines()[1])
    assert (found["added"]["n"], found["removed"]["n"], found["same"]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--annotator", "nobody"], "There is nobody called nobody."),
        (["--first-round", "3", "--round", "2"], "Round 3 does not come before 2."),
        (["--export", "9"], "Demo has no export 9."),
    ],
)
def test_export_says_what_cannot_be(project, arguments, sentence):
    with pytest.raises(CommandError, match=sentence):
        run("export_judgments", "demo", *arguments)


# --- quality ------------------------------------------------------------------------------------
def test_quality_prints_the_figures_of_the_pages(project):
    comparison = ComparisonFactory(project=project, overlap=2)
    for name in ("anna", "bert"):
        make_judgment(comparison, UserFactory(username=name), [0], [1])

    printed, _ = run("quality", "demo", "--json")
    keeping.ask(project)
    keeping.compute_and_keep(project)

    report = keeping.report_of(project)
    found = json.loads(printed)
    assert found.pop("consensus").keys() == {str(comparison.pk)}
    assert found == report.figures


def test_quality_in_words(project):
    for groups in ([[0], [1]], [[1], [0]]):
        comparison = ComparisonFactory(project=project, overlap=2)
        for name in ("anna", "bert"):
            user, _ = User.objects.get_or_create(username=name)
            make_judgment(comparison, user, *groups)

    out, _ = run("quality", "demo")

    assert out.startswith("4 votes by 2 people on 2 comparisons\n\nAgreement\n")
    assert "  Krippendorff's alpha, ordinal: 1.00, n = 2\n" in out
    assert "  Kendall's tau of rankings: No comparison of three or more answers" in out
    assert "  anna, 2 votes\n    agrees with the others: 1.00, n = 2\n" in out


def test_quality_of_the_newest_judgments_says_so(project):
    for _ in range(3):
        make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])

    printed, _ = run("quality", "demo", "--newest", "2", "--json")
    in_words, _ = run("quality", "demo", "--newest", "2")

    found = json.loads(printed)
    assert (found["n_votes"], found["newest"]) == (2, 2)
    assert "Only the newest 2 judgments were read.\n" in in_words


def test_quality_of_no_judgments_is_refused(project):
    with pytest.raises(CommandError, match="--newest is a number of judgments from 1 on, not 0"):
        run("quality", "demo", "--newest", "0")


def test_quality_of_a_project_that_is_not_there(db):
    with pytest.raises(CommandError, match="There is no project nowhere"):
        run("quality", "nowhere")

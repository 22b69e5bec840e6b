"""A frozen dataset: what is in it, and that it is whole or not there."""

import hashlib
import json
import resource
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.exporting import NotExported, NothingToExport, create_export, preview
from annotator.exports.pairs import PairVotes, Preference, count_votes
from annotator.exports.shapes import COLUMNS, DEMONSTRATION_COLUMNS
from annotator.models import Export, Judgment, Purpose, Verdict
from annotator.protocols import QUALITIES, Protocol, to_json
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    UserFactory,
    completion_ids,
    make_judgment,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(overlap=5)


def judge(comparison, *groups, **fields):
    return make_judgment(comparison, UserFactory(), *groups, **fields)


def rows_of(export):
    with (export.folder / "data.jsonl").open() as file:
        return [json.loads(line) for line in file]


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- rows -------------------------------------------------------------------------------------
def test_a_row_holds_the_pair_and_its_votes(project):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi ✓"}]
    comparison = ComparisonFactory(
        project=project,
        prompt=PromptFactory(project=project, messages=messages, split="test"),
        texts=["worse", "better"],
        round_number=2,
    )
    judgments = [
        judge(comparison, *groups) for groups in ([[1], [0]], [[1], [0]], [[1, 0]], [[0], [1]])
    ]
    judge(comparison)

    (row,) = rows_of(create_export(project))

    assert list(row) == list(COLUMNS)
    assert row == {
        "prompt": messages,
        "chosen": [{"role": "assistant", "content": "better"}],
        "rejected": [{"role": "assistant", "content": "worse"}],
        "p_chosen": 0.625,
        "n_judgments": 4,
        "weight": 4.0,
        "margin": 0.0,
        "split": "test",
        "comparison": comparison.pk,
        "prompt_key": comparison.prompt.key,
        "round": 2,
        "arm": "",
        "first_vote": comparison.judgments.order_by("pk").first().pk,
        "tie_share": 0.25,
        "votes": [
            {
                "annotator": str(judgment.annotator_id),
                "prefers": prefers,
                "first": "rejected",
                "strength": 0.0,
                "criteria": [],
                "reasons": [],
                "rationale": "",
                "spans": [],
            }
            for judgment, prefers in zip(
                judgments, ["chosen", "chosen", "tie", "rejected"], strict=True
            )
        ],
        "criteria": [],
        "chosen_flags": [],
        "rejected_flags": [],
        "n_all_bad": 1,
        "chosen_source": "import",
        "rejected_source": "import",
        "chosen_truncated": False,
        "rejected_truncated": False,
    }


@pytest.mark.parametrize("arm", ["active", "random", ""])
def test_a_row_says_which_arm_its_comparison_is_in(project, arm):
    judge(ComparisonFactory(project=project, arm=arm), [0], [1])

    (row,) = rows_of(create_export(project))

    assert row["arm"] == arm


def test_ties_are_kept_in_the_order_stored(project):
    comparison = ComparisonFactory(project=project, texts=["first", "second"])
    judge(comparison, [0, 1])

    (row,) = rows_of(create_export(project))

    assert (row["chosen"][0]["content"], row["p_chosen"], row["tie_share"]) == ("first", 0.5, 1.0)


def test_a_ranking_of_three_gives_three_pairs(project):
    comparison = ComparisonFactory(project=project, texts=["a", "b", "c"])
    judge(comparison, [2], [0, 1])

    pairs = [
        (row["chosen"][0]["content"], row["rejected"][0]["content"], row["p_chosen"])
        for row in rows_of(create_export(project))
    ]

    assert pairs == [("a", "b", 0.5), ("c", "a", 1.0), ("c", "b", 1.0)]


def test_a_vote_says_which_of_the_two_its_annotator_saw_first(project):
    comparison = ComparisonFactory(project=project, texts=["a", "b", "c"])
    a, b, c = completion_ids(comparison)
    judge(comparison, [0], [1, 2], order=[c, a, b])

    rows = rows_of(create_export(project))

    said = [(vote["prefers"], vote["first"]) for row in rows for vote in row["votes"]]
    assert said == [("chosen", "chosen"), ("chosen", "rejected"), ("tie", "rejected")]


@pytest.mark.parametrize(("n_completions", "choices"), [(2, 1), (3, 2), (9, 8)])
def test_the_pairs_of_a_ranking_weigh_as_much_as_its_choices(project, n_completions, choices):
    comparison = ComparisonFactory(project=project, texts=list("abcdefghi")[:n_completions])
    judge(comparison, *[[place] for place in range(n_completions)])

    rows = rows_of(create_export(project))

    assert sum(row["weight"] for row in rows) == pytest.approx(choices)


def test_nobody_is_named(project):
    judge(ComparisonFactory(project=project), [0], [1])

    export = create_export(project)

    (username,) = Judgment.objects.values_list("annotator__username", flat=True)
    assert username not in (export.folder / "data.jsonl").read_text()


def test_margin_is_the_mean_signed_share_of_the_scale(project):
    """Four of four steps and two of two are as strong."""
    comparison = ComparisonFactory(project=project)
    for steps, groups, strength in [(4, ([0], [1]), 4), (2, ([0], [1]), 2), (4, ([1], [0]), 2)]:
        project.protocol = {"strengths": list("abcd")[:steps]}
        judge(comparison, *groups, strength=strength)
    project.protocol = {}
    judge(comparison, [0, 1])

    (row,) = rows_of(create_export(project))

    assert row["margin"] == (1 + 1 - 0.5 + 0) / 4
    assert [vote["strength"] for vote in row["votes"]] == [1.0, 1.0, 0.5, 0.0]


def test_what_was_said_besides_is_about_chosen_and_rejected(project):
    project.protocol = to_json(
        Protocol(criteria=QUALITIES[:1], rationale="optional", flags=("x",), span_labels=("y",))
    )
    comparison = ComparisonFactory(project=project, texts=["bad", "good"])
    bad, good = completion_ids(comparison)
    judge(
        comparison, [1], [0],
        criteria={"helpful": {"ranking": [[bad], [good]], "strength": None}},
        rationale="It is.",
        flags={str(bad): ["x"]},
        spans=[{"completion": bad, "start": 0, "end": 2, "label": "y"}],
    )  # fmt: skip
    judge(comparison, flags={str(bad): ["x"]})

    (row,) = rows_of(create_export(project))

    assert row["criteria"] == [
        {"criterion": "helpful", "p_chosen": 0.0, "n_judgments": 1, "margin": 0.0}
    ]
    assert (row["chosen_flags"], row["rejected_flags"]) == ([], ["x", "x"])
    (vote,) = row["votes"]
    assert vote["criteria"] == [{"criterion": "helpful", "prefers": "rejected", "strength": 0.0}]
    assert vote["spans"] == [{"of": "rejected", "start": 0, "end": 2, "label": "y"}]
    assert vote["rationale"] == "It is."


def test_a_pick_says_nothing_of_the_others_and_counts_as_one_choice(project):
    project.protocol = {"many": "best"}
    comparison = ComparisonFactory(project=project, texts=["a", "b", "c"])
    judge(comparison, [2], [0, 1])

    rows = rows_of(create_export(project))

    pairs = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]
    assert pairs == [("c", "a"), ("c", "b")]
    assert [row["weight"] for row in rows] == [0.5, 0.5]


def test_a_rewrite_is_a_demonstration(project):
    project.protocol = {"rewrite": True}
    comparison = ComparisonFactory(project=project)
    judgment = judge(comparison, [0], [1], rewrite="Better still.")
    judge(comparison, [0], [1])

    export = create_export(project)

    content = (export.folder / "demonstrations.jsonl").read_bytes()
    assert json.loads(content) == {
        "prompt": comparison.prompt.messages,
        "completion": [{"role": "assistant", "content": "Better still."}],
        "split": "train",
        "comparison": comparison.pk,
        "prompt_key": comparison.prompt.key,
        "round": 1,
        "annotator": str(judgment.annotator_id),
    }
    assert list(json.loads(content)) == list(DEMONSTRATION_COLUMNS)
    assert export.manifest["demonstrations"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_all_bad_alone_gives_no_row_but_is_counted(project):
    ranked, bad = ComparisonFactory.create_batch(2, project=project)
    judge(ranked, [0], [1])
    judge(bad)

    export = create_export(project)

    assert [row["comparison"] for row in rows_of(export)] == [ranked.pk]
    assert export.manifest["counts"]["comparisons_all_bad"] == 1
    assert export.n_judgments == 2


def test_what_cannot_be_ranked_is_frozen_and_counted_apart(project):
    project.protocol = to_json(Protocol(allow_unrankable=True))
    comparison = ComparisonFactory(project=project)
    judge(comparison, [0], [1])
    judge(comparison, verdict=Verdict.UNRANKABLE)

    export = create_export(project)

    counts = export.manifest["counts"]
    assert [counts[name] for name in ("judgments", "all_bad", "unrankable")] == [1, 0, 1]
    assert [row["n_judgments"] for row in rows_of(export)] == [1]
    (line,) = (export.folder / "votes.jsonl").read_text().splitlines()
    assert [said["verdict"] for said in json.loads(line)["judgments"]] == ["ranking", "unrankable"]


def test_skips_withdrawals_and_evaluations_are_left_out(project):
    skipped, withdrawn, judged = ComparisonFactory.create_batch(3, project=project)
    judge(skipped, verdict=Verdict.SKIPPED)
    judgment = judge(withdrawn, [0], [1])
    judgment.voided = judgment.created
    judgment.save()
    judge(ComparisonFactory(project=project, purpose=Purpose.EVALUATION), [0], [1])
    judge(judged, [0], [1])

    export = create_export(project)

    assert [row["comparison"] for row in rows_of(export)] == [judged.pk]
    assert export.manifest["counts"]["skipped"] == 1


def test_earlier_rounds_can_be_exported_alone(project):
    first, second = (ComparisonFactory(project=project, round_number=n) for n in (1, 2))
    judge(first, [0], [1])
    judge(second, [0], [1])

    early, late = create_export(project, round_number=1), create_export(project)

    assert (early.round_number, [row["round"] for row in rows_of(early)]) == (1, [1])
    assert (late.round_number, [row["round"] for row in rows_of(late)]) == (2, [1, 2])


# --- files ------------------------------------------------------------------------------------
def test_the_same_votes_give_the_same_bytes(project):
    for comparison in ComparisonFactory.create_batch(4, project=project, texts=list("abc")):
        judge(comparison, [1], [0, 2])

    first, second = create_export(project), create_export(project)

    content = (first.folder / "data.jsonl").read_bytes()
    assert content == (second.folder / "data.jsonl").read_bytes()
    assert first.sha256 == second.sha256 == hashlib.sha256(content).hexdigest()


def test_lines_are_as_json_dumps_writes_them(project):
    """Another form would be another hash for the same votes."""
    odd = 'é ✓ 😀 \u2028 日本 "q" \\ \n\r\t\b\f \x01 \x7f </b>'
    project.protocol = to_json(Protocol(rationale="optional", flags=("ü",), rewrite=True))
    comparison = ComparisonFactory(project=project, texts=[odd, "", odd * 2])
    flags = {str(pk): ["ü"] for pk in completion_ids(comparison)[1:]}
    judge(comparison, [2], [0], [1], rationale=odd, flags=flags, rewrite=odd, seconds=1 / 3)
    judge(comparison, [0, 1, 2], seconds=100.0)

    export = create_export(project)

    for name in ("data.jsonl", "votes.jsonl", "demonstrations.jsonl"):
        content = (export.folder / name).read_bytes()
        rows = [json.loads(line) for line in content.split(b"\n")[:-1]]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        assert content.decode() == "".join(lines)


def test_the_manifest_says_what_is_inside(project):
    comparison = ComparisonFactory(project=project)
    judge(comparison, [0], [1])
    judge(comparison, [1], [0])
    judge(ComparisonFactory(project=project, prompt__split="test"), [0], [1])

    export = create_export(project)

    assert json.loads((export.folder / "manifest.json").read_text()) == export.manifest
    assert export.manifest["counts"] == {
        "rows": 2,
        "rows_train": 1,
        "rows_test": 1,
        "rows_tied": 1,
        "comparisons": 2,
        "comparisons_all_bad": 0,
        "judgments": 3,
        "rankings": 3,
        "all_bad": 0,
        "rulings": 0,
        "annotators": 3,
        "demonstrations": 0,
        "unrankable": 0,
        "skipped": 0,
    }
    assert export.manifest["guideline_versions"] == {"1": 3}


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda project: None, "has no comparisons yet"),
        (lambda project: ComparisonFactory(project=project), "Nobody has judged a training"),
        (lambda project: judge(ComparisonFactory(project=project)), "All 1 judgments .* “all bad”"),
    ],
)
def test_nothing_to_export_leaves_nothing(project, prepare, sentence, data_dir):
    prepare(project)

    with pytest.raises(NothingToExport, match=sentence):
        create_export(project)

    assert files_in(data_dir / "exports") == []


def test_a_full_disk_leaves_neither_row_nor_folder(project, data_dir):
    judge(ComparisonFactory(project=project, texts=["a" * 9000, "b"]), [0], [1])
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, unlimited[1]))
    try:
        with pytest.raises(NotExported, match=r"exports: File too large\. Nothing was kept"):
            create_export(project)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

    assert files_in(data_dir / "exports") == []
    assert Export.objects.count() == 0


def test_a_folder_without_a_row_is_put_aside(project):
    judge(ComparisonFactory(project=project), [0], [1])
    first = create_export(project)
    leftover = first.folder.with_name(str(first.pk + 1))
    leftover.mkdir()
    (leftover / "old").touch()

    second = create_export(project)

    assert files_in(second.folder) == ["data.jsonl", "manifest.json", "votes.jsonl"]
    (aside,) = second.folder.parent.glob(f"{second.pk}.before-*")
    assert files_in(aside) == ["old"]


@pytest.mark.parametrize("n", [1, 3])
def test_export_asks_equally_many_questions(project, n, django_assert_num_queries):
    for comparison in ComparisonFactory.create_batch(n, project=project):
        judge(comparison, [0], [1])

    with django_assert_num_queries(13):
        create_export(project)


def test_preview_counts_training_votes(project):
    user = MembershipFactory(project=project).user
    first, second = ComparisonFactory.create_batch(2, project=project)
    make_judgment(first, user, [0], [1])
    make_judgment(second, user)
    judge(ComparisonFactory(project=project, purpose=Purpose.EVALUATION), [0], [1])

    assert preview(project) == {
        "judgments": 2,
        "rankings": 1,
        "all_bad": 1,
        "comparisons": 2,
        "annotators": 1,
    }


# --- arithmetic -------------------------------------------------------------------------------
def test_count_votes_reads_tie_groups():
    said = [
        Preference([[1], [2, 3]], 1.0),
        Preference([[3], [1], [2]], 0.5),
        Preference([[1, 2, 3]]),
    ]

    assert count_votes(1, 3, said) == PairVotes(wins=1, losses=1, ties=1, strength=0.5)
    assert count_votes(2, 3, said) == PairVotes(wins=0, losses=1, ties=2, strength=-0.5)


@st.composite
def preferences(draw):
    """Rankings of the completions 0, 1, 2 with any ties, as annotators could give them."""
    places = draw(st.lists(st.integers(0, 2), min_size=3, max_size=3))
    ranking = [[c for c in range(3) if places[c] == place] for place in sorted(set(places))]
    return Preference(ranking, draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])))


@given(st.lists(preferences(), min_size=1, max_size=8))
def test_count_votes_of_a_pair_mirror_each_other(votes):
    forward, backward = count_votes(0, 1, votes), count_votes(1, 0, votes)

    assert forward == backward.swapped()
    assert forward.n == len(votes)
    assert forward.p_first + backward.p_first == 1


@given(st.lists(preferences(), min_size=1, max_size=8))
def test_pair_shares_of_a_ranking_add_up(votes):
    """Every ranking deals out one point per pair, so the three pairs hold three points each."""
    shares = Counter()
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        pair = count_votes(first, second, votes)
        shares[first] += pair.p_first
        shares[second] += 1 - pair.p_first

    assert shares.total() == pytest.approx(3)
    assert max(shares.values()) <= 2 + 1e-9

import json

import pytest

from rlhf.training import screen
from rlhf.training.artifacts import RunError, RunFolder, Stopped
from rlhf.training.screen_config import CHECKS, CLASSES, ScreenConfig, is_as_severe
from rlhf.training.screen_rows import (
    Asked,
    answer_key,
    asked_in,
    before_last_answer,
    keys_of,
    n_rows_at_most,
    of_export,
    row_key,
)

SEA = "Please write a short poem about the sea, the gulls and an old sailor who cannot sleep."


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "held_out.jsonl", [{"id": 9, "messages": [{"role": "user", "content": SEA}]}])
    return RunFolder(tmp_path)


def screened(folder, rows, **settings):
    """[(place, code)] of all findings in these rows of a dataset."""
    write(folder.path / "dataset" / "data.jsonl", rows)
    screen.run(ScreenConfig("dataset-1", **settings), folder)
    return [(row["place"], row["code"]) for row in findings(folder)]


def findings(folder):
    return [json.loads(line) for line in (folder.path / "artifact/findings.jsonl").open()]


def demonstration(question, answer):
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def pair(prompt_key, split, prompt, chosen, rejected):
    return {
        "prompt": [{"role": "user", "content": prompt}], "prompt_key": prompt_key, "split": split,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }  # fmt: skip


def test_a_demonstration_of_a_held_out_prompt_is_a_leak(folder):
    rows = [demonstration(SEA.upper(), "Waves."), demonstration(f"{SEA} Thanks!", "Foam.")]

    assert screened(folder, rows, checks=["leakage"]) == [
        ("line 1", "exact_leak"), ("line 2", "near_leak"),
    ]  # fmt: skip


def test_a_held_out_prompt_of_an_export_is_a_leak_among_those_to_learn_from(folder):
    rows = [
        pair("a", "train", "How old  is he?", "40", "50"),
        pair("b", "test", "how old is he?", "1", "2"),
    ]
    write(folder.path / "data" / "data.jsonl", rows)

    screen.run(ScreenConfig("export-1", checks=["leakage"]), folder)

    assert [(row["key"], row["code"]) for row in findings(folder)] == [("prompt-a", "exact_leak")]


def test_a_held_out_row_of_a_dataset_is_a_leak_among_those_to_learn_from(folder):
    rows = [
        {**demonstration("How old is he?", "40"), "split": "train"},
        {**demonstration("How old is HE?", "50"), "split": "test"},
    ]

    assert screened(folder, rows, checks=["leakage"]) == [("line 1", "exact_leak")]


def test_a_text_with_a_held_out_prompt_in_it_says_which(folder):
    screened(folder, [{"text": f"Chapter one. {SEA} Waves.", "split": "train"}], checks=["leakage"])

    (found,) = findings(folder)
    assert found["code"] == "quoted_leak"
    assert found["note"].startswith("word for word: held-out prompt 9, “Please write a short poem")


def test_the_second_of_two_equal_rows_is_the_duplicate(folder):
    rows = [{"text": "One text."}, {"text": "Another."}, {"text": "one  TEXT."}]

    assert screened(folder, rows) == [("line 3", "exact_duplicate")]


def test_short_answers_to_several_prompts_are_no_duplicates(folder):
    rows = [
        pair("a", "train", "Is it?", "Yes.", "No."),
        pair("b", "train", "Was it?", "Yes.", "No."),
    ]
    write(folder.path / "data" / "data.jsonl", rows)

    screen.run(ScreenConfig("export-1"), folder)

    assert findings(folder) == []


def test_lengths_far_from_the_others_are_found_at_both_ends(folder):
    rows = [{"text": "x" * n} for n in range(100, 140)] + [{"text": "y"}, {"text": "z" * 9999}]

    assert screened(folder, rows, checks=["length"]) == [
        ("line 41", "too_short"), ("line 42", "too_long"),
    ]  # fmt: skip


def test_lengths_of_few_rows_are_never_unusual(folder):
    rows = [{"text": "x" * 100}, {"text": "y"}, {"text": ""}]

    assert screened(folder, rows, checks=["length"]) == [("line 3", "empty")]


def test_equal_lengths_with_one_exception_have_an_outlier(folder):
    rows = [{"text": "x" * 100}] * 60 + [{"text": "y"}]

    assert screened(folder, rows, checks=["length"]) == [("line 61", "too_short")]


def test_a_finding_says_what_stands_where(folder):
    screened(folder, [{"text": "Mail anna@firma.de today"}], checks=["personal"])

    assert findings(folder) == [
        {
            "key": "dataset-1-line-1", "kind": "row", "place": "line 1", "split": "train",
            "code": "email", "start": 5, "end": 18,
            "before": "Mail ", "span": "anna@firma.de", "after": " today", "note": "",
        }
    ]  # fmt: skip


def test_half_characters_survive_the_file(folder):
    screened(folder, [{"text": "broken \ud83d end"}], checks=["encoding"])

    assert [(f["span"], f["note"]) for f in findings(folder)] == [("\ud83d", "U+D83D")]


def test_findings_of_one_class_in_one_row_are_counted_and_five_are_kept(folder):
    write(folder.path / "dataset" / "data.jsonl", [{"text": "a@b.de " * 20}])

    result = screen.run(ScreenConfig("dataset-1"), folder)

    assert result["counts"] == {"email": {"rows": 1, "held_out": 0, "findings": 20}}
    assert len(findings(folder)) == 5


def test_special_tokens_of_a_tokenizer_are_looked_for(folder, tmp_path):
    added = [{"content": "<|tool|>", "special": True}, {"content": "plain", "special": False}]
    write(tmp_path / "model" / "tokenizer.json", [{"added_tokens": added}])
    rows = [{"text": "call <|tool|> now"}, {"text": "plain"}]

    tokenizers = [str(tmp_path / "model")]
    assert screened(folder, rows, tokenizers=tokenizers) == [("line 1", "control_token")]


def test_a_tokenizer_that_is_no_json_is_named(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")

    with pytest.raises(RunError, match=r"tokenizer\.json is no JSON"):
        screened(folder, [], tokenizers=[str(tmp_path)])


def test_a_screening_that_is_stopped_leaves_nothing_half_done(folder):
    write(folder.path / "dataset" / "data.jsonl", [{"text": "a@b.de"}])
    folder.interrupt()

    with pytest.raises(Stopped):
        screen.run(ScreenConfig("dataset-1"), folder)
    assert not (folder.path / "artifact").exists()


def test_answers_that_nobody_ranked_are_looked_at_once_each(folder):
    record = {"prompt": [{"role": "user", "content": "Hi"}], "prompt_key": "a", "split": "train",
              "completions": ["Hello", "Hm"]}  # fmt: skip
    write(folder.path / "data" / "data.jsonl", [pair("a", "train", "Hi", "Hello", "Hey")])
    write(folder.path / "data" / "votes.jsonl", [record])

    rows = [row for row in of_export(folder.path / "data") if row.kind == "answer"]

    assert [(row.text, row.place) for row in rows] == [
        ("Hello", "chosen in line 1 of data.jsonl"), ("Hey", "rejected in line 1 of data.jsonl"),
        ("Hm", "completion 2 in line 1 of votes.jsonl"),
    ]  # fmt: skip


def test_an_answer_has_the_same_key_in_a_project_and_in_an_export():
    row = pair("abc", "train", "Hi", "Hello", "Hey")

    assert keys_of(row) == ["prompt-abc", answer_key("abc", "Hello"), answer_key("abc", "Hey")]


def test_a_row_of_a_dataset_is_known_by_its_line():
    assert row_key("dataset-7", 1) == "dataset-7-line-1"


def test_progress_is_out_of_as_many_rows_as_there_can_be(folder):
    write(folder.path / "data" / "data.jsonl", [pair("a", "train", "Hi", "1", "2")] * 2)
    write(folder.path / "dataset" / "data.jsonl", [{"text": "x"}] * 5)

    assert [n_rows_at_most(folder.path, name) for name in ("export-1", "dataset-1")] == [6, 5]


def test_what_is_asked_is_all_before_the_last_answer():
    messages = demonstration("Hi", "Hello")["messages"] + [{"role": "user", "content": "And?"}]

    assert before_last_answer(messages) == messages[:2]


def test_what_the_user_asks_is_the_whole_prompt_and_each_turn_of_several():
    talk = [*demonstration("Hi", "Hello")["messages"], {"role": "user", "content": "And?"}]

    assert asked_in(talk[:2]) == [Asked("Hi", "Be brief.")]
    assert asked_in(talk) == [
        Asked("Hi\n\nHello\n\nAnd?", "Be brief."),
        Asked("Hi", "Be brief.", is_turn=True), Asked("And?", "Be brief.", is_turn=True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("severity", "least", "expected"),
    [("high", "high", True), ("medium", "high", False), ("low", "low", True), ("high", "nothing", False)],
)  # fmt: skip
def test_what_is_as_severe_as_asked_goes_into_quarantine(severity, least, expected):
    assert is_as_severe(severity, least) is expected


def test_every_class_belongs_to_a_check():
    assert {found.check for found in CLASSES.values()} == {check.name for check in CHECKS}


@pytest.mark.parametrize(
    "wrong",
    [{"checks": []}, {"checks": ["spelling"]}, {"near_percent": 20}, {"quarantine_from": "all"},
     {"classifier": "/x"}, {"length_z": 0.5}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScreenConfig("project", **wrong)

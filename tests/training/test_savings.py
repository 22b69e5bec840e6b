import pytest

from rlhf.training.artifacts import RunFolder
from rlhf.training.savings import (
    RUN_ALONE,
    SEES_ALL,
    Savings,
    prompts_note,
    savings_in_words,
    tell_savings,
    trunk_note,
)


@pytest.mark.parametrize(
    ("savings", "sentence"),
    [
        (
            Savings(30, 10, True, []),
            "The top 10 of 30 layers run on kept states of those below; adapters are in one product "
            "with the weights.",
        ),
        (
            Savings(30, 0, False, [], True, 150, 1600),
            "All 30 layers run each time; prompts are shared (150 rows for 1,600 answers); adapters "
            "are beside the weights.",
        ),
        (
            Savings(6, 0, None, [], False, 8, 8),
            "All 6 layers run each time; prompts are not shared (8 rows for 8 answers).",
        ),
    ],
)
def test_what_is_in_force_is_said_in_a_sentence(savings, sentence):
    assert savings_in_words(savings.to_json()) == sentence


def test_what_is_missing_has_a_sentence_that_says_why():
    assert trunk_note(30, 10, 30, RUN_ALONE) == (
        "All 30 layers run each time, not the top 10 alone: run alone, those do not repeat what they "
        "compute in the whole model."
    )
    assert trunk_note(30, 10, 20, "why").startswith("The top 20 of 30 layers run each time, not")
    assert prompts_note(SEES_ALL) == (
        "Each answer is computed together with its prompt, which is not shared: each token of an "
        "encoder sees all others."
    )


def test_the_log_of_the_first_process_has_all_of_it(tmp_path, capsys):
    savings = Savings(2, 0, None, ["First.", "Second."])

    for is_writer in (True, False):
        tell_savings(savings, RunFolder(tmp_path, is_writer=is_writer))

    assert capsys.readouterr().out == "All 2 layers run each time.\nFirst.\nSecond.\n"

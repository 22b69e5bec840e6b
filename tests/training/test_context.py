"""Models with few learned positions: what is longer is read in windows, cut, or left out and counted."""

import json
from dataclasses import replace

import pytest

from rlhf.training import (
    converse,
    domain,
    dpo,
    evaluate,
    generate,
    kto,
    ppo,
    reward_model,
    suite,
    supervised,
)
from rlhf.training.artifacts import RunError, read_json, write_json
from rlhf.training.config import (
    ConverseConfig,
    DPOConfig,
    EvaluateConfig,
    GenerateConfig,
    KTOConfig,
    PPOConfig,
    RewardModelConfig,
)
from rlhf.training.context import at_most, context_of, windows
from rlhf.training.dense import Encoder
from rlhf.training.reward_checks import check_input
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import load_judge
from rlhf.training.suite_config import SuiteConfig
from rlhf.training.supervised_config import DomainConfig, SupervisedConfig
from tests.training.conftest import make_reward_model
from tests.training.learned_positions import build


@pytest.fixture(scope="session")
def few_places(tmp_path_factory):
    return {"base": str(build(tmp_path_factory.mktemp("gpt2"), "gpt2")), "adapters": []}


@pytest.fixture(scope="session")
def few_to_train(tmp_path_factory):
    return {"base": str(build(tmp_path_factory.mktemp("opt"), "opt")), "adapters": []}


def test_each_token_is_new_in_one_window_and_has_half_a_window_before_it():
    found = list(windows([0], [1, 2, 3, 4, 5, 6], 4))

    assert found == [([0], [1, 2, 3]), ([2, 3], [4, 5]), ([4, 5], [6])]
    assert list(windows([0], [1, 2], None)) == [([0], [1, 2])]


def test_a_limit_is_that_of_the_context_beside_what_is_taken(few_places, tiny_reference):
    assert (context_of(few_places), context_of(tiny_reference)) == (48, 1024)
    assert (at_most(512, few_places, 12), at_most(20, few_places, 12)) == (36, 20)
    with pytest.raises(RunError, match="room for 48 tokens at once, and 48 are to be written"):
        at_most(512, few_places, 48)


def write_rows(folder, name, rows):
    path = folder.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def asked(*contents):
    return [{"id": n, "messages": [{"role": "user", "content": text}]} for n, text in enumerate(contents, 1)]  # fmt: skip


SHORT, LONG = "Why?", "Open the red door. " * 30  # 8 tokens and 150


@pytest.fixture
def prompts(folder):
    write_rows(folder, "prompts.jsonl", asked(SHORT, "How do I open the door?", LONG))
    return folder


# --- the suite --------------------------------------------------------------------------------
@pytest.fixture
def inputs(prompts):
    """A prompt, a text and a reference that are each longer than 48 tokens."""
    write_rows(prompts, "texts.jsonl", [{"text": "No."}, {"text": LONG}])
    references = [{"id": 1, "text": "Yes."}, {"id": 1, "text": LONG}, {"id": 3, "text": "No."}]
    write_rows(prompts, "references.jsonl", references)
    return prompts


def test_a_suite_reads_long_texts_in_windows_and_counts_what_is_left_out(few_places, inputs):
    result = suite.run(SuiteConfig(few_places, few_places, max_new_tokens=8), inputs)

    assert (result["n_prompts"], result["left_out"]) == (2, {"too_long": 1})
    assert result["references"] == {"n": 1, "too_long": 2}
    assert result["windows"] == {"tokens": 48, "texts": 1}
    assert [result["metrics"][name]["n"] for name in ("general_loss", "own_loss")] == [2, 1]
    assert result["metrics"]["forgetting"]["value"] == 0
    rows = [json.loads(line) for line in (inputs.path / "artifact/texts.jsonl").open()]
    assert [row["n_tokens"] for row in rows] == [2, 151]


def test_both_versions_read_in_windows_of_the_smaller_context(few_places, tiny_reference, inputs):
    config = SuiteConfig(tiny_reference, few_places, max_new_tokens=8)

    assert suite.Side("new", tiny_reference, config, inputs).window == 48
    assert suite.Side("old", few_places, config, inputs).window == 48
    alone = replace(config, rival=None)
    assert suite.Side("new", tiny_reference, alone, inputs).window == 1024


def test_windows_say_of_a_text_that_fits_what_one_reading_says(tiny_reference, inputs):
    side = suite.Side("new", tiny_reference, SuiteConfig(tiny_reference), inputs)
    (whole,) = side.text_losses(["Open the red door."])

    side.window = 64

    assert side.text_losses(["Open the red door."]) == [whole]


def test_which_prompts_were_answered_is_said_where_some_were_too_long(
    few_places, tiny_reference, inputs, tmp_path
):
    found = suite.run(SuiteConfig(few_places, max_new_tokens=8), inputs)

    assert found["measured_on"]["answers"] == suite.digest([1, 2])


def test_references_that_are_all_too_long_are_the_reason(few_places, inputs):
    write_rows(inputs, "references.jsonl", [{"id": 1, "text": LONG}])

    found = suite.run(SuiteConfig(few_places, max_new_tokens=8), inputs)["metrics"]

    assert found["own_loss"]["reason"] == suite.TOO_LONG


# --- other runs -------------------------------------------------------------------------------
def test_answers_are_written_to_prompts_that_leave_room_for_them(few_places, prompts):
    config = GenerateConfig(few_places, max_new_tokens=24, temperature=1.0)

    result = generate.run(config, prompts)

    assert (result["n_prompts"], result["left_out"]) == (2, {"too_long": 1})


def test_an_evaluation_leaves_out_what_one_side_has_no_room_for(
    few_places, tiny_reference, prompts
):
    config = EvaluateConfig(tiny_reference, few_places, max_new_tokens=24)

    result = evaluate.run(config, prompts)

    assert (result["n_pairs"], result["left_out"]) == (2, {"too_long": 1})


def test_examples_are_left_out_until_the_question_has_room(few_places, prompts, tmp_path):
    example = {
        "messages": [{"role": "user", "content": "Why not?"}],
        "answer": "Open the door. " * 6,
    }
    write_json(tmp_path / "prompting.json", {"examples": [example]})
    prompted = {**few_places, "prompting": str(tmp_path / "prompting.json")}

    result = generate.run(GenerateConfig(prompted, max_new_tokens=24), prompts)

    assert (result["n_prompts"], result["prompting"]["examples_left_out"]) == (2, 2)


def test_instructions_that_leave_no_room_are_one_sentence(few_places, prompts, tmp_path):
    write_json(tmp_path / "prompting.json", {"system": LONG})
    prompted = {**few_places, "prompting": str(tmp_path / "prompting.json")}

    with pytest.raises(RunError, match="leaves no room in the 24 tokens"):
        generate.run(GenerateConfig(prompted, max_new_tokens=24), prompts)


def test_text_is_cut_into_blocks_of_the_context(few_to_train, folder):
    write_rows(folder, "text/data.jsonl", [{"text": LONG, "split": "train"}] * 2)
    config = DomainConfig(
        model=few_to_train, datasets=[{"name": "text", "folder": "text"}], batch_size=4, lora_rank=4
    )

    result = domain.run(config, folder)

    assert (config.max_tokens, result["n_train"]) == (1024, 7)


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_conversations_beyond_the_context_are_left_out_of_training(few_to_train, folder, method):
    rows = [
        {
            "messages": [*asked(SHORT)[0]["messages"], {"role": "assistant", "content": text}],
            "split": "train",
        }
        for text in (LONG, *["Please do."] * 4)
    ]
    write_rows(folder, "rows/data.jsonl", rows)
    datasets = [{"name": "rows", "folder": "rows"}]
    config = SupervisedConfig(
        model=few_to_train, datasets=datasets, batch_size=4, method=method, virtual_tokens=8
    )

    result = supervised.run(config, folder)

    assert (result["n_train"], result["left_out"]["too_long"]) == (4, 1)


def write_pairs(folder):
    """Eight pairs; of one an answer is long, and of one the prompt leaves room for its answers alone."""
    texts = [*["Why?"] * 6, "Why? " * 12]
    rows = [
        {
            "prompt": [{"role": "user", "content": text}],
            "chosen": [{"role": "assistant", "content": "Please do."}],
            "rejected": [{"role": "assistant", "content": LONG if number == 0 else "No."}],
            "p_chosen": 1.0,
            "split": "test" if number == 6 else "train",
        }
        for number, text in enumerate(texts)
    ]
    write_rows(folder, "data/data.jsonl", rows)


@pytest.mark.parametrize(("module", "kind"), [(dpo, DPOConfig), (kto, KTOConfig)])
def test_pairs_beyond_the_context_are_left_out(few_to_train, folder, module, kind):
    write_pairs(folder)
    config = kind(model=few_to_train, min_pairs=2, samples=2, max_new_tokens=24, lora_rank=4)

    result = module.run(config, folder)

    assert (result["left_out"]["too_long"], result["n_test"]) == (1, 1)


def test_preferences_without_room_for_any_answer_are_one_sentence(few_to_train, folder):
    write_pairs(folder)

    with pytest.raises(RunError, match="no prompt leaves room for an answer of max_new_tokens=45"):
        dpo.run(DPOConfig(model=few_to_train, min_pairs=2, max_new_tokens=45), folder)


def test_a_reward_model_leaves_out_pairs_beyond_the_context(few_to_train, prompts):
    write_pairs(prompts)
    config = RewardModelConfig(
        few_to_train, min_pairs=2, policy_samples=4, max_new_tokens=24, lora_rank=4
    )

    check_input(config, prompts)
    result = reward_model.run(config, prompts)

    assert result["left_out"]["too_long"] == 1
    said = Conversation(asked(LONG)[0]["messages"], LONG, 0, False)
    assert len(load_judge(prompts.path / "artifact").scores([said])) == 1


def test_ppo_asks_what_leaves_room_for_an_answer(few_to_train, prompts, tmp_path):
    judge = make_reward_model(few_to_train, tmp_path)
    config = PPOConfig(
        few_to_train, str(judge), steps=1, batch_size=4, max_new_tokens=24, lora_rank=4, samples=1
    )

    result = ppo.run(config, prompts)

    assert result["left_out"]["too_long"] == 1


def test_a_conversation_that_leaves_no_room_has_to_end(few_places, folder):
    config = ConverseConfig(few_places, max_new_tokens=24, idle_minutes=0.005)
    speakers = converse.load_speakers(config)
    question = converse.Question(folder.path / "1.json", asked(LONG)[0]["messages"])
    (folder.path / "answered").mkdir()

    assert converse.answer_all([question], speakers, config, None, folder) == []
    assert "the limit is 24" in read_json(folder.path / "answered/1.json")["error"]


def test_an_encoder_reads_no_more_of_a_passage_than_it_has_places_for(few_places):
    found = Encoder(few_places["base"], 256).embed([LONG, "No."])

    assert found.shape == (2, 32)

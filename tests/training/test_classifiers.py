"""Encoders as bases of reward models: how they read, score, start and are kept."""

import pytest
import torch
from torch.testing import assert_close

from rlhf.training.artifacts import RunError, RunFolder
from rlhf.training.classifiers import (
    cut,
    load_base,
    load_reader,
    n_positions,
    score_head,
)
from rlhf.training.config import ImportModelConfig, RewardModelConfig
from rlhf.training.import_model import run as import_model
from rlhf.training.models import RewardStatistics, encode, encode_completion, load_policy
from rlhf.training.reward_data import Group
from rlhf.training.reward_forward import Scorer
from rlhf.training.reward_model import (
    Learner,
    make_trainable,
    save_reward_model,
    start_afresh,
    weights_of,
)
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import load_judge
from tests.training.encoders import FAMILIES, build_encoder

WHY = [{"role": "user", "content": "Why?"}]
TURNS = [*WHY, {"role": "assistant", "content": "No."}, {"role": "user", "content": "Why not?"}]
GROUPS = [
    Group([2, 9, 8, 3], [[7, 3], [6, 6, 6, 3], [7, 7]], [], 0),
    Group([2, 9, 8, 8, 4, 3], [[3], [5]], [], 1),
]


def never():
    return False


def reference(folder):
    return {"base": str(folder), "adapters": []}


@pytest.fixture
def imported(tmp_path):
    """An encoder of a family, imported: its reference and its card."""

    def imported(family="bert", **how):
        build_encoder(tmp_path / "source", family, **how)
        (tmp_path / "run").mkdir()
        config = ImportModelConfig("folder", str(tmp_path / "source"))
        card = import_model(config, RunFolder(tmp_path / "run"))
        return reference(card["artifact"]), card

    return imported


def test_an_imported_encoder_is_a_base_and_no_policy(imported):
    base, card = imported()

    assert (card["kind"], card["context_tokens"], "probe" in card) == ("base", 128, False)
    assert card["note"] == (
        "it can be the base of reward models, and no policy; its head is new; it reads [CLS] prompt "
        "[SEP] answer [SEP]"
    )
    with pytest.raises(RunError, match=r"The bert model in .* writes no text"):
        load_policy(base)


@pytest.mark.parametrize("tokens_between", [1, 2])
def test_a_question_and_its_answer_are_read_as_the_pair_they_are(imported, tokens_between):
    tokenizer = load_reader(imported(tokens_between=tokens_between)[0]).tokenizer

    ids = encode(tokenizer, WHY) + encode_completion(tokenizer, "No.")

    assert ids == tokenizer("Why?", "No.")["input_ids"]
    assert ids.count(tokenizer.sep_token_id) == tokens_between + 1


def test_a_conversation_is_read_with_its_roles(imported):
    tokenizer = load_reader(imported()[0]).tokenizer

    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == (
        "[CLS]User: Why?\n\nAssistant: No.\n\nUser: Why not?[SEP]"
    )


def test_roberta_has_fewer_positions_than_it_says(imported):
    base, _ = imported("roberta")

    assert n_positions(load_base(base).model) == 127
    assert load_reader(base).longest == 127


def test_what_is_too_long_for_an_encoder_keeps_its_opening_and_the_end_of_the_prompt():
    assert cut([1, 5, 6, 7, 2], [8, 3], 5) == ([1, 7, 2], [8, 3])
    assert cut([1, 5, 2], [8, 8, 8, 8, 3], 5) == ([1, 2], [8, 8, 8])
    assert cut([1, 2], [8, 3], 5) == ([1, 2], [8, 3])


@pytest.mark.parametrize(
    ("family", "train"), [*((family, "adapter") for family in FAMILIES), ("roberta", "full")]
)
def test_what_was_learnt_scores_the_same_in_a_batch_and_after_it_was_kept(tmp_path, family, train):
    source = reference(build_encoder(tmp_path / "source", family))
    config = RewardModelConfig({}, train=train, lora_rank=2, adapter_layers=1)
    model = make_trainable(load_base(source), config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.5 * torch.randn_like(parameter))

    together = Scorer(model, GROUPS, share_prompts=True, reuse_trunk=True).score_groups(
        [0, 1], never
    )
    learner = Learner(model, load_reader(source).tokenizer, {})
    save_reward_model(learner, RewardStatistics(0.0, 1.0), {}, tmp_path)
    kept = load_judge(tmp_path).members
    alone = [
        [kept.scores([group.prompt], [ids]).item() for ids in group.completions] for group in GROUPS
    ]

    assert torch.tensor([score for scores in together for score in scores]).std() > 0.05
    assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_only_the_top_layers_and_what_follows_them_learn(tmp_path):
    folder = build_encoder(tmp_path)
    learning = {}

    for train in ("adapter", "full"):
        config = RewardModelConfig({}, train=train, adapter_layers=1)
        model = make_trainable(load_base(reference(folder)), config)
        learning[train] = {
            name.split("bert.")[-1].split("classifier")[-1].rsplit(".", 2)[0]
            for name in weights_of(model)
        }

    assert {name.split(".")[0] for name in learning["full"]} == {"encoder", "pooler", ""}
    assert not any("layer.0" in name or "embedd" in name for name in learning["full"])
    assert not any("layer.0" in name for name in learning["adapter"])
    assert any("layer.1" in name for name in learning["adapter"])


@pytest.mark.parametrize(("labels", "is_kept"), [(1, True), (3, False), (None, False)])
def test_a_trained_head_for_one_number_is_where_learning_starts(tmp_path, labels, is_kept):
    base = load_base(reference(build_encoder(tmp_path, labels=labels)))
    own = base.model.classifier.weight.clone()

    model = make_trainable(base, RewardModelConfig({}))
    start = weights_of(model)
    for seed in (1, 2):
        start_afresh(model, seed, start)

    assert base.has_head == is_kept
    assert torch.equal(score_head(model).weight, own) == is_kept


def test_each_training_starts_from_the_same_weights(tmp_path):
    model = make_trainable(
        load_base(reference(build_encoder(tmp_path))), RewardModelConfig({}, train="full")
    )
    start = weights_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(parameter.requires_grad)

    start_afresh(model, 0, start)

    now = weights_of(model)
    new = {name for name in start if not torch.equal(now[name], start[name])}
    assert new == {"classifier.weight"}


def test_an_answer_that_is_too_long_for_the_encoder_is_scored_all_the_same(imported, tmp_path):
    base, _ = imported()
    model = make_trainable(load_base(base), RewardModelConfig({}))
    folder = tmp_path / "judge"
    folder.mkdir()
    learner = Learner(model, load_reader(base).tokenizer, {})
    save_reward_model(learner, RewardStatistics(0.0, 1.0), {}, folder)
    judge = load_judge(folder)

    said = [Conversation(WHY, "No. " * n, 2 * n, truncated=False) for n in (1, 200)]
    scores = judge.raw_scores(said, never)

    assert scores.shape == (2, 1)
    assert_close(scores[:1], judge.raw_scores(said[:1], never), atol=1e-5, rtol=0)


def test_a_folder_without_statistics_is_no_reward_model(tmp_path):
    build_encoder(tmp_path)

    with pytest.raises(RunError, match=r"is not a reward model: reward\.json is missing"):
        load_judge(tmp_path)


def test_a_language_model_is_a_base_like_any_other(tiny_reference):
    base = load_base(tiny_reference)

    assert base.missing == {"score.weight"}
    assert not base.has_head
    assert load_reader(tiny_reference).longest == 1024


def test_a_whole_reward_model_can_be_imported_again_and_goes_on_from_its_head(
    tiny_reference, tmp_path
):
    model = make_trainable(load_base(tiny_reference), RewardModelConfig({}, train="full"))
    start_afresh(model, 3)
    source, tokenizer = tmp_path / "source", load_reader(tiny_reference).tokenizer
    save_reward_model(Learner(model, tokenizer, {}), RewardStatistics(0.0, 1.0), {}, source)

    card = import_model(ImportModelConfig("folder", str(source)), RunFolder(tmp_path))
    base = load_base(reference(card["artifact"]))

    assert (card["kind"], base.has_head) == ("base", True)
    assert torch.equal(base.model.score.weight, score_head(model).weight)

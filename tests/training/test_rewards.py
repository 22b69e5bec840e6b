import json
import shutil
from dataclasses import replace

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.training import models as training_models
from rlhf.training import ppo
from rlhf.training.artifacts import RunError, write_json
from rlhf.training.classifiers import load_base, load_reader, save_whole
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.forward import backbone_of, layers_of
from rlhf.training.generate import encode_prompts
from rlhf.training.models import adapter_state, decode, encode, encode_completion, load_policy
from rlhf.training.ppo_models import load_models
from rlhf.training.reward_rules import Conversation, parse_lines
from rlhf.training.rewards import Source, lies_on, load_judge, memory_in_use
from rlhf.training.savings import RUN_ALONE, Savings, trunk_note
from tests.training.conftest import make_reward_model
from tests.training.encoders import build_encoder


@pytest.fixture(scope="session")
def other_reward_folder(tmp_path_factory):
    """A reward model on a smaller base, which reads letter by letter and knows no roles."""
    base, folder = tmp_path_factory.mktemp("letters"), tmp_path_factory.mktemp("other-reward")
    letters = {
        letter: number for number, letter in enumerate(["</s>", "?", *map(chr, range(32, 127))])
    }
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>",
        chat_template="{% for message in messages %}{{ message['content'] + '|' }}{% endfor %}",
    ).save_pretrained(base)  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(letters) + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2,
        )
    ).save_pretrained(base)  # fmt: skip
    reference = {"base": str(base), "adapters": []}
    make_reward_model(reference, folder)
    write_json(folder / "model.json", reference)
    return folder


@pytest.fixture
def make_config(tiny_reference):
    def make(reward_model="", lines="", **settings):
        small = {"steps": 2, "batch_size": 8, "max_new_tokens": 8, "lora_rank": 4, "samples": 2,
                 "micro_batch_tokens": 120, "learning_rate": 1e-3}  # fmt: skip
        rules = parse_lines(lines, ["tests.training.test_rewards.first_letter"])
        return PPOConfig(tiny_reference, str(reward_model), rewards=rules, **small | settings)

    return make


def first_letter(prompts, completions):
    return [float(ord((text or " ")[0])) for text in completions]


def scored(config, prompts_file, folder):
    models = load_models(config)
    prompts, _ = encode_prompts(models.tokenizer, read_prompts(prompts_file), 256)
    chosen = ppo.prompts_of_step(prompts, 0, config)
    completions = ppo.collect_rollout(models, chosen, config, 0, folder)
    rollout = ppo.score_rollout(models, chosen, completions, config, folder)
    return models, rollout, ppo.make_targets(rollout, models.rewards, 0.0, config)


def metrics(folder):
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return {event["step"]: event["values"] for event in events if event["type"] == "metrics"}


def test_the_score_is_the_weighted_sum_of_all_sources(
    make_config, reward_folder, prompts_file, folder
):
    lines = "length target=5 weight=-2 name=short\nregex pattern=[aeiou] count=9 mean=0.5 std=0.25"
    config = make_config(reward_folder, lines, reward_weight=0.5, missing_eos_penalty=3.0)

    models, rollout, targets = scored(config, prompts_file, folder)

    for row, completion in enumerate(rollout.completions):
        text = models.tokenizer.decode(completion.ids, skip_special_tokens=True)
        by_model = (float(rollout.raw_scores["reward_model"][row]) - 0.1) / 0.5
        by_length = 1 - min(1, abs(len(completion.ids) - 5) / 5)
        by_vowels = (min(9, sum(letter in "aeiou" for letter in text)) / 9 - 0.5) / 0.25
        total = 0.5 * by_model - 2 * by_length + by_vowels - 3 * completion.truncated
        assert float(targets.scores[row]) == pytest.approx(total, abs=1e-4)
    assert list(targets.parts) == ["reward_model", "short", "regex"]
    assert len(targets.scores.unique()) > 1


def test_each_source_has_its_metric(make_config, reward_folder, prompts_file, folder):
    config = make_config(reward_folder, "sentiment weight=3", steps=1, missing_eos_penalty=0.5)

    ppo.run(config, folder)

    found = metrics(folder)[1]
    expected = found["score/reward_model"] + 3 * found["score/sentiment"]
    expected -= 0.5 * found["length/truncated_share"]
    assert found["score/mean"] == pytest.approx(expected, abs=1e-5)


def test_a_reward_model_of_another_base_scores_in_its_own_tokens(
    make_config, other_reward_folder, prompts_file, folder
):
    models, rollout, _ = scored(make_config(other_reward_folder), prompts_file, folder)

    reference = json.loads((other_reward_folder / "model.json").read_text())
    reward_model, tokenizer = load_policy({**reference, "adapters": [str(other_reward_folder)]})
    head = load_judge(other_reward_folder).members.members[0].head
    for row, completion in enumerate(rollout.completions):
        text = models.tokenizer.decode(completion.ids, skip_special_tokens=True).strip()
        ids = encode(tokenizer, rollout.prompts[row].line.messages)
        ids += encode_completion(tokenizer, text, truncated=completion.truncated)
        with torch.no_grad():
            hidden = reward_model.base_model(torch.tensor([ids])).last_hidden_state
        assert_close(
            rollout.raw_scores["reward_model"][row, 0], head(hidden[0, -1]), atol=1e-5, rtol=0
        )
    assert models.rewards[0].memory_mib is not None
    assert "reward" not in models.model.peft_config


def test_an_encoder_rewards_what_the_policy_writes(make_config, prompts_file, folder, tmp_path):
    reference = {"base": str(build_encoder(tmp_path / "base", labels=1)), "adapters": []}
    base = load_base(reference)
    tokenizer = load_reader(reference).tokenizer
    tokenizer.chat_template, tokenizer.eos_token = "[CLS]{{ messages[0]['content'] }}[SEP]", "[SEP]"
    save_whole(base.model, tokenizer, tmp_path / "judge")
    write_json(tmp_path / "judge" / "reward.json", {"mean": 0.5, "std": 2.0})

    models, rollout, targets = scored(make_config(tmp_path / "judge"), prompts_file, folder)

    said = [
        Conversation(prompt.line.messages, decode(models.tokenizer, completion.ids), 0, completion.truncated)
        for prompt, completion in zip(rollout.prompts, rollout.completions, strict=True)
    ]  # fmt: skip
    expected = load_judge(tmp_path / "judge").raw_scores(said, lambda: False)
    assert_close(rollout.raw_scores["reward_model"], expected, atol=1e-5, rtol=0)
    assert_close(targets.parts["reward_model"], (expected[:, 0] - 0.5) / 2.0)
    assert expected.std() > 1e-4
    assert "reward" not in models.model.peft_config


def test_members_on_the_top_layers_share_what_lies_below(
    top_ensemble_folder, tiny_reference, tmp_path, monkeypatch
):
    single = make_reward_model(tiny_reference, tmp_path)
    write_json(single / "model.json", tiny_reference)

    assert load_judge(top_ensemble_folder).savings == Savings(2, 1, True, [])
    assert load_judge(single).savings is None
    monkeypatch.setattr(training_models, "is_trunk_reusable", lambda model, k: False)
    assert load_judge(top_ensemble_folder).savings == Savings(
        2, 0, True, [trunk_note(2, 1, 2, RUN_ALONE)]
    )


def test_memory_in_use_grows_with_what_is_loaded():
    before = memory_in_use()
    weights = torch.ones(2**24)

    assert memory_in_use() - before > 0.9 * weights.nbytes


def test_whether_a_reward_model_shares_the_policys_base_is_said_by_its_model_json(
    reward_folder, tiny_reference, other_reward_folder, tmp_path
):
    folder = shutil.copytree(reward_folder, tmp_path / "judge")
    write_json(folder / "model.json", tiny_reference)

    assert lies_on(folder, tiny_reference)
    assert not lies_on(folder, {**tiny_reference, "adapters": ["later"]})
    assert not lies_on(other_reward_folder, tiny_reference)
    assert lies_on(reward_folder, tiny_reference)  # made by hand, without the file


def test_two_reward_models_share_the_base(make_config, reward_folder, prompts_file, folder):
    second = {"kind": "reward_model", "version": "x", "folder": str(reward_folder), "weight": 2.0}
    config = replace(make_config(reward_folder), rewards=[second])

    _, rollout, _ = scored(config, prompts_file, folder)

    first, second = rollout.raw_scores["reward_model"], rollout.raw_scores["reward_model_2"]
    assert_close(first, second, atol=1e-5, rtol=0)
    assert len(first.unique()) > 1


# --- several members ----------------------------------------------------------------------------
@pytest.fixture(params=["all layers", "top layer"])
def ensemble(request, ensemble_folder, top_ensemble_folder):
    """A folder with three members, and on how many layers their adapters lie."""
    is_whole = request.param == "all layers"
    return (ensemble_folder, None) if is_whole else (top_ensemble_folder, 1)


def test_each_member_scores_a_rollout_as_it_would_alone(
    ensemble, make_config, prompts_file, folder
):
    path, top = ensemble
    models, rollout, _ = scored(make_config(path, adapter_layers=top), prompts_file, folder)

    assert models.top == (top or 0)
    together = rollout.raw_scores["reward_model"]  # (B, 3)
    assert together.std(1).min() > 1e-3
    for number in (1, 2):
        alone = make_config(path / "members" / str(number), adapter_layers=top)
        _, rollout, _ = scored(alone, prompts_file, folder)
        assert_close(together[:, [number]], rollout.raw_scores["reward_model"], atol=1e-5, rtol=0)


def test_each_member_scores_text_as_it_would_alone(ensemble):
    path, _ = ensemble
    said = [
        Conversation([{"role": "user", "content": question}], answer, 3, truncated=False)
        for question, answer in (("Why?", "No."), ("Tell me about my lamp.", "It is old and red."))
    ]

    together = load_judge(path).raw_scores(said, lambda: False)  # (2, 3)

    assert together.std(1).min() > 1e-3
    for number in (1, 2):
        alone = load_judge(path / "members" / str(number)).raw_scores(said, lambda: False)
        assert_close(together[:, [number]], alone, atol=1e-5, rtol=0)


def test_what_lies_below_the_members_runs_once_for_all(top_ensemble_folder):
    judge = load_judge(top_ensemble_folder)
    said = Conversation([{"role": "user", "content": "Why?"}], "No.", 2, truncated=False)
    runs = {0: 0, 1: 0}
    for number, layer in enumerate(layers_of(backbone_of(judge.members.model))[1]):
        layer.register_forward_hook(
            lambda *_, number=number: runs.update({number: runs[number] + 1})
        )

    judge.raw_scores([said], lambda: False)

    assert runs == {0: 1, 1: 3}


def test_members_are_normalised_one_by_one_and_then_combined(
    make_config, ensemble_folder, prompts_file, folder
):
    config = make_config(ensemble_folder, ensemble="worst", missing_eos_penalty=0.0)
    models, rollout, targets = scored(config, prompts_file, folder)
    raw = rollout.raw_scores["reward_model"]
    members = torch.stack([(raw[:, n] - 0.1 * (n + 1)) / (0.5 * (n + 1)) for n in range(3)], 1)

    (source,) = models.rewards
    uncertain = source._replace(ensemble="uncertainty", uncertainty_coefficient=2.0)

    assert_close(targets.scores, members.min(1).values)
    assert_close(targets.disagreement, members.std(1, correction=0))
    less = ppo.make_targets(rollout, [uncertain], 0.0, config).scores
    assert_close(less, members.mean(1) - 2 * members.std(1, correction=0))


@pytest.mark.parametrize(
    ("ensemble", "expected"), [("mean", 2.0), ("worst", 3.0), ("uncertainty", 2.5)]
)
def test_what_members_disagree_about_never_pays_also_with_a_weight_below_0(ensemble, expected):
    members = torch.tensor([[1.0, 3.0]])  # mean 2, standard deviation 1

    source = Source("model", -1.0, 5.0, [], ensemble, uncertainty_coefficient=0.5)

    assert source.combine(members).tolist() == [expected]  # it costs so much


def test_a_rule_may_name_an_ensemble_too(make_config, ensemble_folder, prompts_file, folder):
    rule = {
        "kind": "reward_model", "version": "x", "folder": str(ensemble_folder), "ensemble": "worst",
    }  # fmt: skip
    config = replace(make_config("", "sentiment"), rewards=[rule], missing_eos_penalty=0.0)

    _, rollout, targets = scored(config, prompts_file, folder)
    _, _, first = scored(
        make_config(ensemble_folder, ensemble="worst", missing_eos_penalty=0.0),
        prompts_file,
        folder,
    )

    assert rollout.raw_scores["reward_model"].shape == (8, 3)
    assert_close(targets.scores, first.scores, atol=1e-5, rtol=0)


def test_disagreement_of_members_is_reported_and_kept_with_each_answer(
    make_config, ensemble_folder, reward_folder, prompts_file, folder
):
    def lines():
        text = (folder.path / "rollouts" / "step-00001.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    ppo.run(make_config(ensemble_folder, steps=1), folder)

    kept = [line["disagreement"] for line in lines()]
    assert metrics(folder)[1]["score/disagreement"] == pytest.approx(sum(kept) / 8, abs=1e-6)
    assert min(kept) > 0


def test_one_member_reports_no_disagreement(make_config, reward_folder, prompts_file, folder):
    ppo.run(make_config(reward_folder, steps=1), folder)

    lines = (folder.path / "rollouts" / "step-00001.jsonl").read_text().splitlines()
    assert "score/disagreement" not in metrics(folder)[1]
    assert not any("disagreement" in json.loads(line) for line in lines)


def test_the_critic_of_an_ensemble_starts_as_its_first_member(
    make_config, ensemble_folder, reward_folder
):
    models = load_models(make_config(ensemble_folder))

    first, value = (adapter_state(models.model, name) for name in ("reward", "value"))

    assert_close(value, first, atol=0, rtol=0)
    assert {"reward", "reward_2", "reward_3"} < models.model.peft_config.keys()


@pytest.mark.parametrize("critic", ["head", "adapter", "full"])
def test_without_a_reward_model_on_its_base_the_critic_starts_as_the_policy(
    make_config, prompts_file, folder, critic
):
    config = make_config("", "length target=4", critic=critic, steps=1)

    models, rollout, _ = scored(config, prompts_file, folder)

    assert rollout.values.abs().max() == 0.0
    if critic == "adapter":
        b = [w for name, w in adapter_state(models.model, "value").items() if "lora_B" in name]
        assert all(weight.abs().max() == 0.0 for weight in b)


def test_a_function_is_called_if_the_machine_allows_it(
    make_config, prompts_file, folder, monkeypatch
):
    config = make_config("", f"callable function={__name__}.first_letter mean=64 std=32 clip=1")

    monkeypatch.delenv("PREFERENDUM_REWARD_FUNCTIONS", raising=False)
    with pytest.raises(RunError, match=r"first_letter is not in PREFERENDUM_REWARD_FUNCTIONS"):
        load_models(config)
    monkeypatch.setenv("PREFERENDUM_REWARD_FUNCTIONS", f"other, {__name__}.first_letter")
    models, rollout, targets = scored(config, prompts_file, folder)

    texts = [
        models.tokenizer.decode(c.ids, skip_special_tokens=True).strip()
        for c in rollout.completions
    ]
    letters = torch.tensor(first_letter([], texts))
    assert_close(targets.parts["callable"], ((letters - 64) / 32).clamp(-1, 1))


def test_a_run_with_all_kinds_of_sources_resumes_with_the_same_weights(
    make_config, other_reward_folder, prompts_file, folder
):
    config = make_config(other_reward_folder, "length target=4\nregex pattern=a\nsentiment")
    ppo.run(config, folder)
    policy = folder.path / "artifact" / "adapter_model.safetensors"
    expected = policy.read_bytes()
    (folder.path / "checkpoint-2").rename(folder.path / "lost")

    ppo.run(config, folder)

    assert policy.read_bytes() == expected
    assert list(metrics(folder)[0]) == ["memory_mib/reward_model"]


def test_a_stop_is_heard_while_another_reward_model_scores(other_reward_folder):
    said = Conversation([{"role": "user", "content": "Why?"}], "No.", 2, truncated=False)

    with pytest.raises(ppo.Stopped):
        load_judge(other_reward_folder).raw_scores([said], lambda: True)

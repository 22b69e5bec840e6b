import pytest

from rlhf.training.config import (
    CONFIGS,
    EvaluateConfig,
    GenerateConfig,
    ImportModelConfig,
    PPOConfig,
    RewardModelConfig,
)

MODEL = {"base": "/models/tiny", "adapters": []}


@pytest.mark.parametrize(
    ("kind", "required"),
    [
        ("import_model", {"source": "embedded"}),
        ("generate", {"model": MODEL}),
        ("reward_model", {"model": MODEL}),
        ("ppo", {"model": MODEL, "reward_model": "/models/reward"}),
        ("evaluate", {"model": MODEL, "rival": MODEL}),
    ],
)
def test_a_configuration_survives_being_saved_and_read(kind, required):
    config = CONFIGS[kind].from_dict(required)

    assert CONFIGS[kind].from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(7, None, [2, 4, 6, 7]), (20, None, [5, 10, 15, 20]), (2, None, [1, 2]), (5, 2, [2, 4, 5]),
     (5, 9, [5]), (5, 0, [])],
)  # fmt: skip
def test_policy_is_evaluated_four_times_at_most_or_as_often_as_asked(steps, every, expected):
    config = PPOConfig(MODEL, "r", steps=steps, evaluate_every=every)

    assert config.evaluation_steps == expected


def test_an_unknown_setting_is_named():
    with pytest.raises(
        ValueError, match=r"unknown setting 'colour'; known are location, measure_speed"
    ):
        ImportModelConfig.from_dict({"source": "tiny", "colour": "red"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImportModelConfig("ftp"), "source='ftp' must be one of"),
        (lambda: ImportModelConfig("hub"), "location='' does not fit source='hub'"),
        (lambda: ImportModelConfig("tiny", "x"), "location='x' does not fit source='tiny'"),
        (lambda: GenerateConfig(MODEL, temperature=0), "temperature=0 must be above 0"),
        (lambda: GenerateConfig(MODEL, completions_per_prompt=10), "completions_per_prompt=10"),
        (lambda: GenerateConfig(MODEL, max_new_tokens=0), "max_new_tokens=0 must be at least 1"),
        (
            lambda: RewardModelConfig(MODEL, ties="davidson", label_smoothing=0.1),
            "label_smoothing=0.1 is for ties='half'",
        ),
        (lambda: RewardModelConfig(MODEL, members=17), "members=17 must be at most 16"),
        (lambda: RewardModelConfig(MODEL, ties="dropped"), "ties='dropped' must be one of"),
        (lambda: RewardModelConfig(MODEL, learning_rate=2), "learning_rate=2 must be between"),
        (lambda: RewardModelConfig(MODEL, epochs=0), "epochs=0 must be at least 1"),
        (lambda: RewardModelConfig(MODEL, min_pairs=0), "min_pairs=0 must be at least 1"),
        (
            lambda: RewardModelConfig(MODEL, all_bad_coefficient=-1),
            "all_bad_coefficient=-1 must be at least 0",
        ),
        (
            lambda: PPOConfig(MODEL, "r", batch_size=64, minibatches=3),
            "minibatches=3 must divide batch_size=64",
        ),
        (lambda: PPOConfig(MODEL), "there is nothing to reward"),
        (lambda: PPOConfig(MODEL, rewards=[{"kind": "length"}]), "length needs target="),
        (lambda: EvaluateConfig(MODEL, MODEL, "r", best_of=65), "best_of=65 must be between 1"),
        (
            lambda: EvaluateConfig(MODEL, MODEL, best_of=2),
            "best_of=2 needs a reward model or a rule",
        ),
        (
            lambda: EvaluateConfig(MODEL, MODEL, rewards=[{"kind": "length"}]),
            "length needs target=",
        ),
        (lambda: EvaluateConfig(MODEL, MODEL, missing_eos="no"), "missing_eos=.no. must be one of"),
        (
            lambda: EvaluateConfig(MODEL, MODEL, "r", ensemble="best"),
            "ensemble=best must be one of mean, worst, uncertainty",
        ),
        (
            lambda: PPOConfig(MODEL, "r", uncertainty_coefficient=-1),
            "uncertainty_coefficient=-1 must be a number of at least 0",
        ),
        (
            lambda: PPOConfig(MODEL, "r", batch_size=8, completions_per_prompt=3),
            "completions_per_prompt=3 must divide batch_size=8",
        ),
        (lambda: PPOConfig(MODEL, "r", train="head"), "train='head' must be one of"),
        (lambda: PPOConfig(MODEL, "r", dtype="int8"), "dtype='int8' must be one of"),
        (lambda: PPOConfig(MODEL, "r", keep="all"), "keep='all' must be one of"),
        (lambda: PPOConfig(MODEL, "r", evaluate_every=-1), "evaluate_every=-1 must be at least 0"),
        (lambda: PPOConfig(MODEL, "r", eval_prompts=0), "eval_prompts=0 must be at least 1"),
        (lambda: PPOConfig(MODEL, "r", lam=1.5), r"lam=1.5 must be in \[0, 1\]"),
        (lambda: PPOConfig(MODEL, "r", clip_range=0), r"clip_range=0 must be in \(0, 1\)"),
        (
            lambda: PPOConfig(MODEL, "r", clip_range_high=0.1),
            "clip_range_high=0.1 must be at least clip_range=0.2",
        ),
        (lambda: PPOConfig(MODEL, "r", dual_clip=1.0), "dual_clip=1.0 must be above 1"),
        (lambda: PPOConfig(MODEL, "r", kl_estimator="k4"), "kl_estimator='k4' must be one of"),
        (lambda: PPOConfig(MODEL, "r", missing_eos="no"), "missing_eos='no' must be one of"),
        (
            lambda: PPOConfig(MODEL, "r", target_kl_update=0.0),
            "target_kl_update=0.0 must be above 0",
        ),
        (
            lambda: PPOConfig(MODEL, "r", missing_eos_ramp=0.0),
            r"missing_eos_ramp=0.0 must be in \(0, 1\]",
        ),
        (
            lambda: PPOConfig(MODEL, "r", steps=3, critic_warmup_steps=3),
            "critic_warmup_steps=3 must be below steps=3",
        ),
    ],
)
def test_a_bad_value_is_refused_with_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_what_has_no_critic_has_no_settings_of_one(kind):
    values = {"model": {}, "reward_model": "r"}
    config = CONFIGS[kind].from_dict(values)

    assert CONFIGS[kind].from_dict(config.to_dict()) == config
    assert "critic" not in config.to_dict()
    with pytest.raises(ValueError, match="unknown setting 'lam': there is no critic"):
        CONFIGS[kind].from_dict({**values, "lam": 0.9})
    with pytest.raises(ValueError, match="completions_per_prompt=1 must be at least 2"):
        CONFIGS[kind].from_dict({**values, "completions_per_prompt": 1})
    with pytest.raises(ValueError, match="critic='none' does not go with advantages by gae"):
        CONFIGS["ppo"].from_dict({**values, "critic": "none"})

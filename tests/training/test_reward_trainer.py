import math

import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close
from trl import RewardConfig, RewardTrainer

from rlhf.training.artifacts import DIVERGED, RunError, Stopped
from rlhf.training.classifiers import score_head
from rlhf.training.config import RewardModelConfig
from rlhf.training.data import Offer, Pair
from rlhf.training.models import load_policy
from rlhf.training.reward_data import encode_pairs, epoch_batches, with_mean_weight_1
from rlhf.training.reward_forward import Scorer
from rlhf.training.reward_model import make_classifier, start_afresh
from rlhf.training.reward_trainer import PreferenceTrainer, Reporter, train
from rlhf.training.trainer_settings import WarmingUp

PROMPT = [{"role": "user", "content": "Why?"}]
TEXTS = ["No.", "Yes.", "Try the cup.", "Open the big door.", "Clean the old lamp.", "Hope."]


def make_pairs(n, **others):
    """Pairs of different texts of one prompt."""
    return [
        Pair(PROMPT, TEXTS[i % 6], TEXTS[(i + 1) % 6], 1.0, "train", False, False)._replace(
            **others
        )
        for i in range(n)
    ]


@pytest.fixture
def setup(tiny_reference, folder):
    """A function that makes a trainer of fresh weights for some pairs."""

    def setup(pairs, offers=(), **settings):
        config = RewardModelConfig(tiny_reference, lora_rank=4, **settings)
        policy, tokenizer = load_policy(tiny_reference)
        train, _, _ = encode_pairs(
            tokenizer, pairs, config.max_tokens, config.micro_batch_tokens, offers
        )
        train = with_mean_weight_1(train)
        model = make_classifier(policy, config)
        start_afresh(model, 0)
        scorer = Scorer(model, train, share_prompts=config.share_prompts, reuse_trunk=True)
        epochs = [epoch_batches(train, config.batch_size, 0, e) for e in range(config.epochs)]
        reporter = Reporter(folder, 0, sum(map(len, epochs)), [], None)
        return PreferenceTrainer(model, tokenizer, scorer, train, epochs, config, reporter)

    return setup


def learnt(trainer):
    weights = [p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad]
    return torch.cat(weights)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("share_prompts", [True, False])
def test_plain_pairs_train_exactly_as_plain_trl_does(setup, tiny_reference, share_prompts):
    ours = setup(make_pairs(4), batch_size=4, epochs=4, share_prompts=share_prompts)
    model = setup(make_pairs(4)).model
    model.config.pad_token_id = 0  # no conversation ends with it
    ours.processing_class.pad_token_id = 0
    (group,) = ours.groups
    rows = [
        {f"{name}_ids": group.prompt + group.completions[getattr(pair, name)]
         for name in ("chosen", "rejected")}
        for pair in group.pairs
    ]  # fmt: skip
    plain = Plain(
        model,
        plain_settings(ours.args),
        train_dataset=Dataset.from_list(rows),
        processing_class=ours.processing_class,
    )  # fmt: skip

    ours.train()
    plain.train()

    assert_close(losses(ours), losses(plain), atol=1e-5, rtol=0)
    assert losses(ours)[0] > losses(ours)[-1]


class Plain(WarmingUp, RewardTrainer):
    """TRL's own but for the schedule, whose first step would learn nothing."""


def plain_settings(args):
    return RewardConfig(
        output_dir=args.output_dir, max_steps=args.max_steps, per_device_train_batch_size=4,
        learning_rate=args.learning_rate, warmup_steps=0.05, bf16=False,
        gradient_checkpointing=False, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to="none", disable_tqdm=True,
    )  # fmt: skip


def test_micro_batches_do_not_change_what_is_learnt(setup):
    prompts = [[{"role": "user", "content": text}] for text in ("Why?", "What?", "How now?")]
    pairs = [
        pair._replace(prompt=prompts[number % 3], p_chosen=p)
        for number, (pair, p) in enumerate(zip(make_pairs(4), (1.0, 0.75, 0.5, 1.0), strict=True))
    ]
    weights = []
    for tokens in (1, 40, 4096):
        trainer = setup(pairs, batch_size=4, micro_batch_tokens=tokens, epochs=2)
        trainer.train()
        weights.append(learnt(trainer))

    # Adam makes steps of gradients that are hardly above rounding, too: a fifth of one step is allowed.
    assert_close(weights[0], weights[2], atol=2e-5, rtol=0)
    assert_close(weights[1], weights[2], atol=2e-5, rtol=0)


def test_a_pair_of_twice_the_weight_counts_as_two(setup):
    first, second = make_pairs(2)
    weighted = setup([first._replace(weight=2.0), second._replace(weight=1.0)], batch_size=2)
    twice = setup([first, first, second], batch_size=3)

    losses = [
        trainer.compute_loss(trainer.model, {"groups": trainer.groups, "n_pairs": n})
        for trainer, n in ((weighted, 2), (twice, 3))
    ]

    assert_close(losses[0], losses[1])


def test_a_tie_pulls_the_scores_together_and_counts_for_no_accuracy(setup):
    trainer = setup(make_pairs(1, p_chosen=0.5, tie_share=1.0))

    loss = trainer.training_step(trainer.model, {"step": 0})

    assert loss.item() > math.log(2)  # the least it could be, at equal scores
    assert trainer._metrics["train"]["accuracy"] == []


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_the_tie_parameter_learns_at_a_rate_of_its_own(setup, ties):
    trainer = setup(make_pairs(6, p_chosen=0.5, tie_share=1.0), ties=ties, epochs=5)

    trainer.train()

    assert score_head(trainer.model).tie.item() > 0.05  # where it began, at 0, ties are rarer
    assert len(trainer.optimizer.param_groups) == 3


def test_strength_smoothing_and_centring_change_the_loss_as_they_should(setup):
    def loss(**settings):
        trainer = setup(make_pairs(1, margin=2.0), **settings)
        return trainer.compute_loss(
            trainer.model, {"groups": trainer.groups, "n_pairs": 1}, return_outputs=True
        )

    plain, (margin, _) = loss()

    def surprise(difference):
        return torch.nn.functional.softplus(-difference).squeeze()

    assert_close(plain, surprise(margin))
    assert_close(loss(margin_coefficient=0.5)[0], surprise(margin - 1.0))
    smooth = 0.9 * surprise(margin) + 0.1 * surprise(-margin)
    assert_close(loss(label_smoothing=0.1)[0], smooth)
    assert loss(center_rewards=1.0)[0] > plain


def offer(*texts, n_bad=0, n_ranked=0, prompt=PROMPT):
    return Offer(prompt, list(texts), [False] * len(texts), "train", n_bad, n_ranked)


BAD = offer("Hope.", "Yes.", n_bad=1, prompt=[{"role": "user", "content": "What?"}])


def test_all_bad_adds_the_mean_over_judgments_times_its_coefficient(setup):
    offers = [offer("No.", "Yes.", n_bad=1, n_ranked=2), BAD]
    trainer = setup(make_pairs(1), offers, all_bad_coefficient=0.5)
    inputs = {"groups": trainer.groups, "n_pairs": 1, "n_judgments": 4}
    scores = [trainer.scorer.score_groups([each.number], bool)[0] for each in trainer.groups]

    loss = trainer.compute_loss(trainer.model, inputs)

    (no, yes), others = scores
    p, q = (1 / (1 + sum(map(math.exp, each))) for each in scores)  # the level is 0
    pair = math.log1p(math.exp(yes - no))
    said = -(math.log(p) + 2 * math.log(1 - p) + math.log(q)) / 4
    assert_close(loss.item(), pair + 0.5 * said, atol=1e-5, rtol=0)
    assert len(others) == 2


def test_an_all_bad_vote_lowers_the_scores_of_both_answers_and_raises_the_level(setup):
    trainer = setup(make_pairs(1), [BAD], all_bad_coefficient=1.0, batch_size=1)
    bad = next(group for group in trainer.groups if not group.pairs)
    rows = trainer.scorer.rows_of[bad.number]
    before = trainer.scorer.scores(rows).detach()

    loss = trainer.compute_loss(trainer.model, {"groups": [bad], "n_pairs": 0, "n_judgments": 1})
    loss.backward()

    assert trainer.head.all_bad_level.grad.item() < 0
    with torch.no_grad():
        for weights in trainer.model.parameters():
            if weights.grad is not None:
                weights -= 1e-3 * weights.grad
    assert (trainer.scorer.scores(rows) < before).all()


@pytest.mark.parametrize("tokens", [1, 4096])
def test_micro_batches_do_not_change_the_loss_of_offers(setup, tokens):
    offers = [offer("No.", "Yes.", n_ranked=3), BAD]
    trainer = setup(
        make_pairs(3), offers, all_bad_coefficient=1.0, micro_batch_tokens=tokens, batch_size=4
    )

    loss = trainer.training_step(trainer.model, {"step": 0})

    whole = {"groups": trainer.groups, "n_pairs": 3, "n_judgments": 4}
    assert_close(loss, trainer.compute_loss(trainer.model, whole).detach())


def test_without_offers_the_coefficient_changes_nothing(setup):
    weights = []
    for coefficient in (0.0, 1.0):
        trainer = setup(make_pairs(4), all_bad_coefficient=coefficient, epochs=2)
        trainer.train()
        named = trainer.model.named_parameters()
        weights.append([p for name, p in named if p.requires_grad and "level" not in name])

    assert all(map(torch.equal, *weights))


def test_a_loss_that_is_not_finite_ends_the_run(setup):
    trainer = setup(make_pairs(1))
    with torch.no_grad():
        score_head(trainer.model).weight.fill_(math.nan)

    with pytest.raises(RunError, match=r"the loss became nan at step 1: lower the") as caught:
        trainer.train()

    assert caught.value.exit_code == DIVERGED


def test_stopping_within_a_step_saves_the_step_before(setup, folder):
    trainer = setup(make_pairs(6), batch_size=1, micro_batch_tokens=1)
    original = trainer.compute_loss

    def compute_loss(*args, **kwargs):
        if trainer.state.global_step == 3:
            folder.interrupt()
        return original(*args, **kwargs)

    trainer.compute_loss = compute_loss

    with pytest.raises(Stopped):
        train(trainer)

    assert [step for step, _ in folder.checkpoints()] == [4]

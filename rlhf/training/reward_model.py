"""The run *reward model*: an adapter or whole weights, and a scalar head, learn people's preferences.

    votes -> groups (reward_data.py) -> scores (reward_forward.py) -> loss (reward_loss.py)
          -> TRL's trainer (reward_trainer.py)

The backbone is the very policy whose answers will be scored, its own adapters merged in, or a base of its
own (classifiers.py). What is trained, one after the other on the same backbone: the members of an ensemble, and for the learning
curve and the comparison of the arms (arms.py) models of a part of the votes. Each is kept in `trained/` when it is done, so that a run that was
stopped or killed goes on with the next.
"""

from __future__ import annotations

import copy
import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.annotator_model import (
    AnnotatorModel,
    Estimate,
    count_votes,
    crowd_weights,
    reweigh,
    to_json,
)
from rlhf.training.arms import Part, arm_parts, compare_arms
from rlhf.training.artifacts import (
    DIVERGED,
    RunError,
    RunFolder,
    read_json,
    write_json,
    writing_folder,
)
from rlhf.training.classifiers import (
    Base,
    Reader,
    classifier_around,
    cut,
    encoder_lora,
    head_parts,
    load_base,
    load_reader,
    put_head,
    save_whole,
    score_head,
)
from rlhf.training.config import RewardModelConfig
from rlhf.training.context import at_most
from rlhf.training.data import (
    Offer,
    Pair,
    n_votes,
    offers_of,
    read_offers,
    read_pairs,
    read_prompts,
)
from rlhf.training.forecast import course_error, forecast_accuracy
from rlhf.training.generate import EncodedPrompt, encode_prompts, generate_all
from rlhf.training.models import (
    RewardStatistics,
    ScalarHead,
    adapted_modules,
    encode,
    encode_completion,
    is_encoder,
    load_policy,
    lora_config,
    save_reward_head,
    tunable_parameters,
)
from rlhf.training.reward_data import (
    EncodedOffer,
    EncodedPair,
    Group,
    bootstrap,
    column,
    encode_pairs,
    encoded_offers,
    epoch_batches,
    n_pairs,
    n_split_prompts,
    numbered,
    pairs_of,
    share_of_votes,
    total_weight,
    with_mean_weight_1,
    with_places,
)
from rlhf.training.reward_forward import Scorer
from rlhf.training.reward_loss import davidson_loss, first_level, first_tie, rao_kupper_loss
from rlhf.training.reward_report import (
    HALF,
    JudgedPair,
    Scored,
    Ties,
    duplicates,
    judged_pair,
    report,
    share,
    surprise,
)
from rlhf.training.reward_trainer import PreferenceTrainer, Reporter, train
from rlhf.training.savings import tell_savings

CURVE = (0.1, 0.25, 0.5)  # shares of the votes, beside all of them
NOTHING_HELD_OUT = (
    "No judged pair was held out, so the accuracy is unknown: judge comparisons of more prompts."
)


def run(config: RewardModelConfig, folder: RunFolder) -> dict[str, Any]:
    folder.phase("loading the model")
    dtype = torch.float32 if config.train == "full" else None
    policy, tokenizer = load_policy(config.model, dtype=dtype)
    reader = load_reader(config.base or config.model)
    pairs = read_pairs(folder.path / config.data / "data.jsonl")
    encoded = encode_pairs(
        reader.tokenizer,
        pairs,
        reader.at_most(config.max_tokens),
        config.micro_batch_tokens,
        offers_to_learn(config, folder, pairs),
    )
    # Sampled first: the policy and the reward model share their weights in memory, or the memory.
    folder.phase("sampling from the policy")
    samples = sample_policy(policy, tokenizer, reader, config, folder)
    samples = numbered(samples, len(encoded.train) + len(encoded.test))

    voters = count_votes(pairs_of(encoded.train)) if config.annotators == "joint" else None
    annotators = AnnotatorModel(voters) if voters else None
    if config.base:
        del policy
        folder.phase("loading the base")
        model = make_trainable(load_base(config.base, dtype), config, annotators)
    else:
        model = make_classifier(policy, config, annotators)
    learner = Learner(model, reader.tokenizer, weights_of(model))
    scorer = Scorer(
        model,
        [*encoded.train, *encoded.test, *samples],
        share_prompts=config.share_prompts,
        reuse_trunk=config.reuse_trunk,
    )
    savings = scorer.savings(config)
    tell_savings(savings, folder)
    of_arms = arm_parts(pairs)
    parts = of_arms if config.compare_arms else []
    trainings = plan(encoded.train, config, parts)
    held_out = HeldOut(encoded.test, scorer, folder, config.ties)
    train_all(trainings, scorer, learner, held_out, samples, config, folder)

    folder.phase("writing the model")
    found = {
        each.name: read_json(folder.path / "trained" / each.name / "scores.json")
        for each in trainings
    }
    if not (folder.path / "artifact").exists():
        write_artifact(folder, config)
    for weights in (folder.path / "trained").glob("*/*.safetensors"):
        weights.unlink()  # they are in the artifact; the scores stay, so that nothing is done again
    members = [found[f"member-{number}"] for number in range(config.members)]
    scales = [RewardStatistics(**member["scale"]) for member in members]
    scores = mean_scores([member["test"] for member in members], scales)
    ties = mean_ties(config.ties, [member["tie_share"] for member in members])
    evaluation = held_out.evaluation(scores, ties)
    curve = (
        learning_curve(trainings, found, held_out, scores, encoded.train)
        if config.learning_curve
        else None
    )
    return {
        **evaluation,
        "score_mean": scales[0].mean,
        "score_std": scales[0].std,
        "members": config.members,
        "train": config.train,
        "is_whole": keeps_whole(model),
        "n_train": sum(pair.weight > 0 for pair in pairs_of(encoded.train)),
        "left_out": encoded.left_out,
        "split_prompts": n_split_prompts(encoded.train) + n_split_prompts(encoded.test),
        "tie_share": None if ties == HALF else ties.share,  # of two completions with equal scores
        "n_all_bad": round(sum(offer.n_bad for offer in encoded_offers(encoded.train))),
        "all_bad_level": members[0].get("all_bad_level"),  # of before there was one: none
        "annotators": members[0]["annotators"],
        "report": report(held_out.judged(scores, pairs), ties) | {"duplicates": duplicates(pairs)},
        "learning_curve": curve,
        "forecast": forecast_accuracy(curve) if curve else None,
        "arms": (
            compare_arms(parts, partial(measured, found, held_out)) if config.compare_arms else None
        ),
        "has_arms": bool(of_arms),  # with enough votes to be compared
        "savings": savings.to_json(),
        "note": "" if evaluation["n_test"] else NOTHING_HELD_OUT,
        "tokens": {
            "written": sum(len(ids) for group in samples for ids in group.completions),
            "learned": n_learned(trainings, scorer),
        },
    }


# --- data -------------------------------------------------------------------------------------
def offers_to_learn(
    config: RewardModelConfig, folder: RunFolder, pairs: Sequence[Pair]
) -> list[Offer]:
    """The comparisons that are not held out; none where nobody called all answers of one bad, or it is
    not learnt from. Of exports without single votes, those with pairs."""
    if not config.all_bad_coefficient:
        return []
    votes = folder.path / config.data / "votes.jsonl"
    offers = read_offers(votes) if votes.is_file() else offers_of(pairs)
    train = [offer for offer in offers if offer.split == "train"]
    return train if any(offer.n_bad for offer in train) else []


def sample_policy(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reader: Reader,
    config: RewardModelConfig,
    folder: RunFolder,
) -> list[Group]:
    """Conversations that the policy ends itself, as the reward model reads them: the yardstick of the
    score's scale."""
    prompts, _ = encode_prompts(
        tokenizer,
        read_prompts(folder.path / config.prompts),
        at_most(config.max_tokens, config.model, config.max_new_tokens),
    )
    per_prompt = math.ceil(config.policy_samples / len(prompts))
    chosen = _spread(prompts, math.ceil(config.policy_samples / per_prompt))
    completions = generate_all(
        policy,
        tokenizer,
        chosen,
        completions_per_prompt=per_prompt,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.policy_samples,
        seed=config.seed,
        kept=folder.path / "policy_samples.jsonl",
        folder=folder,
    )
    written: dict[int, list[list[int]]] = {prompt.line.id: [] for prompt in chosen}
    for row in completions:
        ids = encode_completion(reader.tokenizer, row.completion, truncated=row.truncated)
        written[row.id].append(ids)
    groups = [
        Group(encode(reader.tokenizer, prompt.line.messages), written[prompt.line.id], [])
        for prompt in chosen
    ]
    pairs = [(group.prompt, completion) for group in groups for completion in group.completions]
    if reader.longest is None or max(len(p) + len(c) for p, c in pairs) <= reader.longest:
        return groups
    short = [cut(prompt, completion, reader.longest) for prompt, completion in pairs]
    return [Group(prompt, [completion], []) for prompt, completion in short]


def _spread(prompts: Sequence[EncodedPrompt], n: int) -> list[EncodedPrompt]:
    """n prompts from all over the list."""
    return [prompts[index * len(prompts) // n] for index in range(n)]


# --- the model --------------------------------------------------------------------------------
class Learner(NamedTuple):
    """What learns, and the weights that each training begins with."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    start: dict[str, Tensor]


def make_classifier(
    policy: PreTrainedModel, config: RewardModelConfig, annotators: AnnotatorModel | None = None
) -> PreTrainedModel | PeftModel:
    """A sequence classifier around the policy's own backbone, with an adapter and a head to learn.

    The backbone is not copied: from now on the policy carries the adapter too.
    """
    return make_trainable(classifier_around(policy), config, annotators)


def make_trainable(
    base: Base, config: RewardModelConfig, annotators: AnnotatorModel | None = None
) -> PreTrainedModel | PeftModel:
    """The base's classifier with a new head or its own, and an adapter; or all its layers learn."""
    model = put_head(
        base,
        has_ties=config.ties != "half",
        has_level=config.all_bad_coefficient > 0,
        annotators=annotators,
    )
    if config.train == "full":
        for parameter in tunable_parameters(model, config.adapter_layers):
            parameter.requires_grad_(True)
        for name in head_parts(model):
            model.get_submodule(name).requires_grad_(True)
        return model
    if is_encoder(model.config):
        return get_peft_model(model, encoder_lora(model, config.lora_rank, config.adapter_layers))
    lora = lora_config(model, config.lora_rank, config.adapter_layers)
    lora.modules_to_save = ["score"]  # learn the head, and keep it in every checkpoint
    return get_peft_model(model, lora)


def weights_of(model: PreTrainedModel | PeftModel) -> dict[str, Tensor]:
    """A copy of all that learns, by name."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def start_afresh(
    model: PreTrainedModel | PeftModel, seed: int, start: dict[str, Tensor] | None = None
) -> None:
    """As if nothing had been learnt: the weights of `start`, new ones for the adapter, and for the head
    unless it came with the base."""
    model.load_state_dict(start or {}, strict=False)
    torch.manual_seed(seed)
    for module in adapted_modules(model):
        module.reset_lora_parameters("default", init_lora_weights=True)
    head = score_head(model)
    if not head.is_trained:
        nn.init.normal_(head.weight, std=(head.weight.shape[1] + 1) ** -0.5)  # Ziegler et al. 2019


def keeps_whole(model: PreTrainedModel | PeftModel) -> bool:
    """Whether the reward model is kept as a model by itself: where there is no adapter, or one that would
    be useless without an encoder's own way to the score."""
    return not isinstance(model, PeftModel) or is_encoder(model.config)


def save_reward_model(
    learner: Learner, scale: RewardStatistics, reference: dict[str, Any], folder: Path
) -> None:
    """A whole classifier, or an adapter, its head, and model.json: the base that the adapter lies on;
    and score statistics.

    The adapter is one for the causal language model: the head's weights are not in it.
    """
    model = learner.model
    if keeps_whole(model):
        save_whole(model, learner.tokenizer, folder)
        write_json(folder / "reward.json", scale._asdict())
        return
    state = get_peft_model_state_dict(model)
    adapter = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    weight = adapter["base_model.model.score.weight"]
    adapter = {name: tensor for name, tensor in adapter.items() if ".score." not in name}
    save_file(adapter, folder / "adapter_model.safetensors")
    settings = copy.deepcopy(model.peft_config["default"])
    settings.modules_to_save = None
    settings.inference_mode = True
    settings.save_pretrained(str(folder))
    head = ScalarHead(weight.shape[1])
    head.load_state_dict({"linear.weight": weight, "linear.bias": torch.zeros(1)})
    save_reward_head(head, scale, folder)
    write_json(folder / "model.json", reference)


# --- what is trained --------------------------------------------------------------------------
class Training(NamedTuple):
    """One model to be trained, on some of the groups."""

    name: str  # "member-0", …; "active-100", …, of an arm, in votes; "part-10", …, in percent
    groups: list[Group]  # their weights are 1 in the mean
    total_weight: float  # of their pairs before that
    trust: dict[str, float]  # in each annotator, by these groups' votes alone
    seed: int
    epochs: list[list[list[int]]]  # places in `groups`, per optimiser step

    @property
    def n_steps(self) -> int:
        return sum(map(len, self.epochs))

    @property
    def is_member(self) -> bool:
        return self.name.startswith("member-")


def plan(
    train: Sequence[Group], config: RewardModelConfig, parts: Sequence[Part] = ()
) -> list[Training]:
    """The members, then the parts of the arms and of the learning curve. An ensemble's members have seeds and
    prompts of their own; a single one has all prompts."""
    trainings = []
    for number in range(config.members):
        seed = config.seed + number
        groups = bootstrap(train, seed) if config.members > 1 else list(train)
        trainings.append(_training(f"member-{number}", groups, seed, config))
    some = [(_name_of(of_arm), with_places(train, of_arm.places)) for of_arm in parts]
    some += [
        (f"part-{share:.0%}"[:-1], share_of_votes(train, share, config.seed))
        for share in curve_shares(config)
    ]
    for name, groups in some:
        # Not if all of its pairs are too long, or of people whom nobody believes.
        if total_weight(by_trust(groups, config)[0]):
            trainings.append(_training(name, groups, config.seed, config))
    return trainings


def curve_shares(config: RewardModelConfig) -> tuple[float, ...]:
    """An ensemble's mean is another kind of model than those of a part, so all the votes are learnt from
    once more by a single one."""
    if not config.learning_curve:
        return ()
    return (*CURVE, 1.0) if config.members > 1 else CURVE


def by_trust(
    groups: Sequence[Group], config: RewardModelConfig
) -> tuple[list[Group], dict[str, float]]:
    """The groups as they are learnt from, and how far each annotator is trusted by their votes alone.

    With "crowd", pairs get the shares and weights that follow from it; with "joint" it is what
    learning begins with.
    """
    pairs = pairs_of(groups)
    if config.annotators == "equal" or not count_votes(pairs):
        return list(groups), {}
    trust = crowd_weights(pairs)
    if config.annotators == "joint":
        return list(groups), trust
    return [
        group._replace(pairs=[reweigh(pair, trust) for pair in group.pairs]) for group in groups
    ], trust


def _name_of(part: Part) -> str:
    return f"{part.arm}-{part.n_votes}"


def n_learned(trainings: Sequence[Training], scorer: Scorer) -> int:
    """Tokens of all steps; a prompt that answers share counts once."""
    of_group = [sum(scorer.rows[row].n_tokens for row in rows) for rows in scorer.rows_of]
    return sum(
        of_group[training.groups[place].number]
        for training in trainings
        for epoch in training.epochs
        for step in epoch
        for place in step
    )


def _training(name: str, groups: list[Group], seed: int, config: RewardModelConfig) -> Training:
    groups, trust = by_trust(groups, config)
    if not any(offer.n_bad for offer in encoded_offers(groups)):
        groups = [group._replace(offers=()) for group in groups]
    total, groups = total_weight(groups), with_mean_weight_1(groups)
    epochs = [
        epoch_batches(groups, config.batch_size, seed, epoch) for epoch in range(config.epochs)
    ]
    return Training(name, groups, total, trust, seed, epochs)


def train_all(
    trainings: Sequence[Training], scorer: Scorer, learner: Learner,
    held_out: HeldOut, samples: Sequence[Group], config: RewardModelConfig, folder: RunFolder,
) -> None:  # fmt: skip
    """Those that are not in `trained/` yet."""
    if scorer.top:
        folder.phase("computing the layers that stay as they are")
    scorer.keep_trunk(folder.path / "trunk.states", folder.should_stop)
    for training in trainings:
        if not (folder.path / "trained" / training.name / "scores.json").exists():
            folder.phase(f"training {training.name}")
            carry_out(training, trainings, scorer, learner, held_out, samples, config, folder)


def carry_out(
    training: Training, trainings: Sequence[Training], scorer: Scorer,
    learner: Learner, held_out: HeldOut, samples: Sequence[Group],
    config: RewardModelConfig, folder: RunFolder,
) -> None:  # fmt: skip
    """Train one of them, score what it has not seen, and keep both in `trained/`."""
    before = itertools.takewhile(lambda each: each is not training, trainings)
    first_step = sum(each.n_steps for each in before)
    reporter = Reporter(
        folder,
        first_step,
        sum(each.n_steps for each in trainings),
        list(itertools.accumulate(map(len, training.epochs))),
        held_out.report,
        is_shown=training.is_member,
    )
    pairs = pairs_of(training.groups)
    start_afresh(learner.model, training.seed, learner.start)
    head = scorer.head
    if config.ties != "half":
        nn.init.constant_(head.tie, first_tie(config.ties, [pair.tie_share for pair in pairs]))
    offers = encoded_offers(training.groups)
    if offers:
        nn.init.constant_(head.all_bad_level, level_to_begin_with(offers))
    annotators: AnnotatorModel | None = getattr(head, "annotators", None)
    if annotators:
        annotators.start_from(training.trust, count_votes(pairs))
    train(PreferenceTrainer(
        learner.model, learner.tokenizer, scorer, training.groups, training.epochs, config, reporter,
        training.total_weight,
    ))  # fmt: skip

    scores = held_out.scores()
    if training.is_member:
        held_out.tell(first_step + training.n_steps, scores)
    of_samples = scorer.score_groups([group.number for group in samples], folder.should_stop)
    scale = score_statistics(list(itertools.chain.from_iterable(of_samples)))
    with writing_folder(folder.path / "trained" / training.name) as kept:
        if training.is_member:
            save_reward_model(learner, scale, config.base or config.model, kept)
        write_json(kept / "scores.json", {
            "test": scores,
            "scale": scale._asdict(),
            "tie_share": None if config.ties == "half" else ties_of(head, config.ties).share,
            "all_bad_level": head.all_bad_level.item() if offers else None,
            "annotators": to_json(
                annotators.estimates() if annotators else estimates(training.trust, pairs)
            ),
        })  # fmt: skip


def estimates(trust: dict[str, float], pairs: Sequence[EncodedPair]) -> dict[str, Estimate]:
    """Of annotators of whom nothing is learned but how far they are trusted."""
    counts = count_votes(pairs)
    return {each: Estimate(weight, 0, 0, weight, counts[each]) for each, weight in trust.items()}


def level_to_begin_with(offers: Sequence[EncodedOffer]) -> float:
    n_bad, n_ranked = sum(each.n_bad for each in offers), sum(each.n_ranked for each in offers)
    n_answers = sum(len(each.completions) for each in offers) / len(offers)
    return first_level(n_answers, n_bad / (n_bad + n_ranked))


def ties_of(head: nn.Module, kind: str) -> Ties:
    """How scores become votes under the head as it is now."""
    if kind == "half":
        return HALF
    zero, parameter = torch.zeros(1), torch.tensor(head.tie.item())
    loss = davidson_loss if kind == "davidson" else rao_kupper_loss
    tie_share = torch.exp(-loss(zero, zero + 0.5, zero + 1, parameter)).item()
    return Ties(kind, min(max(tie_share, 1e-6), 1 - 1e-6))  # so that its logarithm is finite


def mean_ties(kind: str, shares: Sequence[float | None]) -> Ties:
    """Of an ensemble: its score is a mean, and so is how often equal scores tie."""
    known = [share for share in shares if share is not None]
    return Ties(kind, sum(known) / len(known)) if known else HALF


def write_artifact(folder: RunFolder, config: RewardModelConfig) -> None:
    """The first member as it always was; the others in `members/1`, `members/2`, …"""
    with folder.writing_artifact() as artifact:
        for number in range(config.members):
            target = artifact / "members" / str(number) if number else artifact
            shutil.copytree(
                folder.path / "trained" / f"member-{number}",
                target,
                ignore=shutil.ignore_patterns("scores.json"),
                dirs_exist_ok=True,
            )


def measured(
    found: dict[str, Any], held_out: HeldOut, part: Part
) -> tuple[float | None, float | None, float | None]:
    """The held-out accuracy after a part of one arm's votes, and its interval."""
    if (scores := found.get(_name_of(part))) is None:
        return None, None, None
    evaluation = held_out.evaluation(scores["test"])
    return evaluation["accuracy"], evaluation["accuracy_low"], evaluation["accuracy_high"]


def learning_curve(
    trainings: Sequence[Training], found: dict[str, Any], held_out: HeldOut,
    whole: Sequence[Sequence[float]], train: Sequence[Group],
) -> list[dict[str, Any]]:  # fmt: skip
    """Held-out accuracy after a part of the votes, and after all of them."""
    names = ("accuracy", "accuracy_low", "accuracy_high")
    points = [
        (int(each.name.removeprefix("part-")) / 100, each.groups, found[each.name]["test"])
        for each in trainings
        if each.name.startswith("part-")
    ]
    if all(share < 1 for share, _, _ in points):
        points.append((1.0, with_mean_weight_1(train), whole))
    misses = [held_out.misses(scores) for _, _, scores in points]
    error = course_error(misses, held_out.n_decided())
    return [
        {
            "share": share,
            "n_votes": n_votes(pairs_of(groups)),
            "n_pairs": n_pairs(groups),
            **{name: evaluation[name] for name in names},
            "standard_error": error,
        }
        for share, groups, scores in points
        for evaluation in [held_out.evaluation(scores)]
    ]


# --- held-out pairs ---------------------------------------------------------------------------
class HeldOut:
    """The groups that nothing is learnt from, and how well a model orders their pairs."""

    def __init__(
        self, groups: Sequence[Group], scorer: Scorer, folder: RunFolder, ties: str = "half"
    ) -> None:
        self.groups = groups
        self.ties = ties
        self.pairs = [pair for group in groups for pair in group.pairs]
        self.scorer = scorer
        self.folder = folder

    def scores(self) -> list[list[float]]:
        """Of each group the scores of its completions, by the model as it is now."""
        numbers = [group.number for group in self.groups]
        return self.scorer.score_groups(numbers, self.folder.should_stop)

    def report(self, step: int) -> None:
        self.tell(step, self.scores())

    def tell(self, step: int, scores: Sequence[Sequence[float]]) -> None:
        """Metrics for the run's charts."""
        found = self.evaluation(scores, ties_of(score_head(self.scorer.model), self.ties))
        if found["accuracy"] is not None:
            names = ("loss", "accuracy", "margin")
            self.folder.metrics(step, {f"eval_{name}": found[name] for name in names})

    def margins(self, scores: Sequence[Sequence[float]]) -> Tensor:
        """Score of the chosen less that of the rejected completion, (pairs,)."""
        return torch.tensor([
            of_group[pair.chosen] - of_group[pair.rejected]
            for group, of_group in zip(self.groups, scores, strict=True)
            for pair in group.pairs
        ])  # fmt: skip

    def judged(self, scores: Sequence[Sequence[float]], pairs: Sequence[Pair]) -> list[JudgedPair]:
        """The pairs for the report, in the order of the export; `pairs` is all of it."""
        tests = [place for place, pair in enumerate(pairs) if pair.split == "test"]
        place_among_test = {place: number for number, place in enumerate(tests)}
        found = []
        for group, of_group in zip(self.groups, scores, strict=True):
            scored = [
                Scored(score, len(ids))
                for score, ids in zip(of_group, group.completions, strict=True)
            ]
            for each in group.pairs:
                pair = pairs[each.place]
                sides = (scored[each.chosen], scored[each.rejected])
                if pair.p_chosen < 0.5:  # turned when it was encoded; the report turns it itself
                    sides = sides[::-1]
                found.append(judged_pair(place_among_test[each.place], pair, *sides))
        return sorted(found, key=lambda each: each.place)

    def evaluation(self, scores: Sequence[Sequence[float]], ties: Ties = HALF) -> dict[str, Any]:
        """Loss and accuracy, and the accuracy of "the longer one wins" on the same pairs.

        The loss is that of the votes, with ties as the model has learnt them. Accuracies are over the
        pairs that people decided: of a tie, nobody can be right. A pair of equal lengths is half a
        hit for length. None where nothing was held out.
        """
        margins, p_chosen = self.margins(scores), column(self.pairs, "p_chosen")
        decided = p_chosen != 0.5
        n = int(decided.sum())
        accuracy, low, high = share(int((margins[decided] > 0).sum()), n)
        longer, longer_low, longer_high = share(sum(self._length_hits()), n)
        return {
            "n_test": n,
            "loss": float(self._losses(margins, ties).mean()) if self.pairs else None,
            "margin": margins[decided].mean().item() if n else None,
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "longer_accuracy": longer,
            "longer_low": longer_low,
            "longer_high": longer_high,
        }

    def misses(self, scores: Sequence[Sequence[float]]) -> list[int]:
        """Of each group how many decided pairs the model orders the other way round than people do."""
        return [
            sum(of_group[pair.chosen] <= of_group[pair.rejected] for pair in pairs)
            for pairs, of_group in zip(self._decided(), scores, strict=True)
        ]

    def n_decided(self) -> list[int]:
        """Of each group how many pairs people have decided."""
        return [len(pairs) for pairs in self._decided()]

    def _decided(self) -> list[list[EncodedPair]]:
        return [[pair for pair in group.pairs if pair.is_decided] for group in self.groups]

    def _losses(self, margins: Tensor, ties: Ties) -> Any:
        """Of each pair, without margin and smoothing, (pairs,)."""
        p_chosen, tie_share = (
            column(self.pairs, name).numpy() for name in ("p_chosen", "tie_share")
        )
        return surprise(margins.numpy(), p_chosen, tie_share, ties)

    def _length_hits(self) -> Iterator[float]:
        for group in self.groups:
            for pair in group.pairs:
                if pair.is_decided:
                    chosen, rejected = (
                        len(group.completions[place]) for place in (pair.chosen, pair.rejected)
                    )
                    yield ((chosen > rejected) - (chosen < rejected) + 1) / 2


def mean_scores(
    members: Sequence[Sequence[Sequence[float]]], scales: Sequence[RewardStatistics]
) -> list[list[float]]:
    """The ensemble's score of each completion of each group: the mean of its members', each in its own
    deviations, as PPO takes it; times their mean deviation, so that it is in logits like theirs."""
    if len(members) == 1:
        return [list(of_group) for of_group in members[0]]
    deviation = sum(scale.std for scale in scales) / len(scales)
    return [
        [
            deviation
            * sum((v - s.mean) / max(s.std, 1e-6) for v, s in zip(values, scales, strict=True))
            / len(scales)
            for values in zip(*of_group, strict=True)
        ]
        for of_group in zip(*members, strict=True)
    ]


# --- measuring --------------------------------------------------------------------------------
def score_statistics(scores: Sequence[float]) -> RewardStatistics:
    """Mean and standard deviation over the policy's samples, with which PPO normalises."""
    values = torch.tensor(scores, dtype=torch.float64)
    mean, std = values.mean().item(), values.std(correction=0).item()
    if not math.isfinite(std):
        raise RunError("the trained scores are not finite: lower the learning rate", DIVERGED)
    return RewardStatistics(mean, std)

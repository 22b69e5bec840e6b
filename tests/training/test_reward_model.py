import json
import math
import random
import shutil
from collections import defaultdict

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close

from rlhf.training.arms import Part
from rlhf.training.artifacts import RunError, RunFolder, Stopped, read_json
from rlhf.training.classifiers import RewardHead, score_head
from rlhf.training.config import ImportModelConfig, RewardModelConfig
from rlhf.training.data import read_pairs
from rlhf.training.forward import backbone_of, collate, score
from rlhf.training.import_model import run as import_model
from rlhf.training.models import (
    RewardStatistics,
    encode,
    encode_completion,
    load_policy,
    load_reward_adapter,
    load_reward_head,
)
from rlhf.training.reward_data import EncodedPair, Group, encode_pairs
from rlhf.training.reward_loss import first_tie
from rlhf.training.reward_model import (
    HeldOut,
    by_trust,
    make_classifier,
    mean_scores,
    mean_ties,
    measured,
    plan,
    run,
    score_statistics,
    start_afresh,
    ties_of,
)
from rlhf.training.reward_report import HALF, Ties
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import lies_on, load_judge
from rlhf.training.savings import SEES_ALL, prompts_note
from rlhf.training.tiny import write_answer, write_question
from tests.training.encoders import build_encoder

CPU = torch.device("cpu")


SIDES = ("chosen", "rejected")
SABOTEUR = "4"


def write_inputs(path, n, seed=0, *, has_ties=True):
    """n judged pairs of people who like short answers, one in ten a tie if any is; a fifth held out.

    Three of four annotators say so; the fourth votes the wrong way round.
    """
    rng = random.Random(seed)
    rows, prompts = [], []
    for number in range(n):
        prompt = [{"role": "user", "content": write_question(rng)}]
        shorter, longer = sorted((write_answer(rng), write_answer(rng)), key=len)
        is_tie = has_ties and number % 10 == 1
        said = {"1": "chosen", "2": "chosen", "3": "chosen", SABOTEUR: "rejected"}
        rows.append({
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": shorter}],
            "rejected": [{"role": "assistant", "content": longer}],
            "p_chosen": 0.5 if is_tie else 0.75,
            "tie_share": float(is_tie),
            "n_judgments": 4,
            "votes": [
                {"annotator": who, "prefers": "tie" if is_tie else side, "first": rng.choice(SIDES)}
                for who, side in said.items()
            ],
            "split": "test" if number % 5 == 0 else "train",
        })  # fmt: skip
        prompts.append({"id": number, "messages": prompt})
    (path / "data").mkdir()
    (path / "data" / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))


def events(folder, kind):
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


@pytest.fixture(scope="module")
def trained(tiny_reference, tmp_path_factory):
    """The folder and the result of a whole run on 150 pairs."""
    folder = RunFolder(tmp_path_factory.mktemp("trained"))
    write_inputs(folder.path, 150)
    config = RewardModelConfig(tiny_reference, learning_rate=1e-3, max_new_tokens=30)
    return folder, run(config, folder)


# --- the model --------------------------------------------------------------------------------
def test_the_classifier_has_the_policys_own_weights_and_a_head_of_the_right_scale(tiny_reference):
    policy, _ = load_policy(tiny_reference)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}

    classifier = make_classifier(policy, RewardModelConfig({}))
    start_afresh(classifier, 0)

    base = classifier.get_base_model()
    embeddings = base.model.embed_tokens.weight
    assert embeddings.data_ptr() == policy.model.embed_tokens.weight.data_ptr()
    assert torch.equal(embeddings, before["model.embed_tokens.weight"])
    assert 0.8 < score_head(classifier).weight.std() * math.sqrt(65) < 1.2
    trainable = {
        name.split(".")[-3] for name, p in classifier.named_parameters() if p.requires_grad
    }
    assert trainable == {"lora_A", "lora_B", "modules_to_save"}


def test_members_start_from_different_weights_and_one_seed_from_the_same(tiny_reference):
    classifier = make_classifier(load_policy(tiny_reference)[0], RewardModelConfig({}))

    starts = []
    for seed in (0, 1, 0):
        start_afresh(classifier, seed)
        learning = [p for p in classifier.parameters() if p.requires_grad]
        starts.append(torch.cat([parameter.detach().flatten() for parameter in learning]))
        with torch.no_grad():
            for parameter in learning:
                parameter.add_(1)

    assert torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0], starts[1])


def test_scores_that_are_not_finite_end_the_run():
    with pytest.raises(RunError, match="the trained scores are not finite"):
        score_statistics([0.5, math.nan])


# --- held-out pairs ---------------------------------------------------------------------------
def test_accuracies_are_over_decided_pairs():
    pair = EncodedPair(0, 0, 1, 1.0, 1, 1.0, 0.0, 0.0)
    same = pair._replace(chosen=0, rejected=2)  # of equal length
    tie = pair._replace(p_chosen=0.5)
    group = Group([1], [[7, 2], [6, 6, 2], [8, 2]], [pair, same, tie])

    found = HeldOut([group], None, None).evaluation([[1.0, 0.0, 2.0]])

    assert (found["n_test"], found["accuracy"], found["longer_accuracy"]) == (2, 0.5, 0.25)
    assert found["margin"] == pytest.approx((1 - 1) / 2)


def test_without_held_out_pairs_the_accuracy_is_unknown():
    found = HeldOut([], None, None).evaluation([])

    assert found.pop("n_test") == 0
    assert set(found.values()) == {None}


def test_an_ensembles_score_is_the_mean_of_its_members_in_their_own_deviations():
    members = [[[1.0, 2.0], [3.0]], [[10.0, 30.0], [20.0]]]
    scales = [RewardStatistics(1.0, 1.0), RewardStatistics(10.0, 10.0)]

    assert mean_scores(members, scales) == [[0.0, 5.5 * 1.5], [5.5 * 1.5]]
    assert mean_scores(members[:1], scales[:1]) == members[0]


# --- the whole run ----------------------------------------------------------------------------
def test_a_reward_model_learns_that_short_answers_are_liked(trained):
    _, result = trained

    assert (result["n_train"], result["n_test"], result["left_out"]) == (120, 30, {"too_long": 0})
    assert result["accuracy"] >= 0.75
    assert result["accuracy_low"] > 0.5
    assert result["longer_accuracy"] < 0.2


def test_a_run_says_that_prompts_are_shared(trained):
    _, result = trained

    savings = dict(result["savings"])
    assert savings.pop("rows") < savings.pop("completions")
    assert savings == {
        "layers": 2, "trunk_layers": 0, "merged": True, "notes": [], "shares_prompts": True,
    }  # fmt: skip
    assert (result["split_prompts"], result["has_arms"]) == (0, False)


def test_tokens_are_counted_in_each_epoch_and_a_prompt_once_for_its_answers(
    trained, tiny_reference
):
    folder, result = trained
    _, tokenizer = load_policy(tiny_reference)
    groups = encode_pairs(
        tokenizer, read_pairs(folder.path / "data" / "data.jsonl"), 1024, 1024
    ).train

    of_epoch = sum(len(group.prompt) + sum(map(len, group.completions)) for group in groups)
    assert result["tokens"]["learned"] == 2 * of_epoch


def test_whoever_votes_the_wrong_way_round_is_not_believed(trained):
    _, result = trained

    weights = {who: found["weight"] for who, found in result["annotators"].items()}

    assert weights.pop(SABOTEUR) < 0.1
    assert min(weights.values()) > 0.5


def test_the_crowd_may_say_first_who_is_believed(tiny_reference, tmp_path):
    write_inputs(tmp_path, 60)
    pairs = read_pairs(tmp_path / "data" / "data.jsonl")
    train, _, _ = encode_pairs(load_policy(tiny_reference)[1], pairs, 200, 1000)

    groups, trust = by_trust(train, RewardModelConfig({}, annotators="crowd"))

    assert trust[SABOTEUR] == 0
    assert {pair.p_chosen for group in groups for pair in group.pairs} == {0.5, 1.0}


def test_a_part_knows_of_annotators_by_its_own_votes_alone(tiny_reference, tmp_path):
    write_inputs(tmp_path, 60)
    pairs = read_pairs(tmp_path / "data" / "data.jsonl")
    train, _, _ = encode_pairs(load_policy(tiny_reference)[1], pairs, 200, 1000)
    alone = [pair._replace(votes=pair.votes[-1:]) for pair in train[0].pairs]

    (part,) = plan([train[0]._replace(pairs=alone)], RewardModelConfig({}))

    assert part.trust == {SABOTEUR: 1.0}  # nobody to compare with
    assert part.total_weight == len(alone)


def test_a_run_reports_progress_and_metrics_of_every_step(trained):
    folder, _ = trained

    per_step = defaultdict(set)
    for event in events(folder, "metrics"):
        per_step[event["step"]] |= event["values"].keys()
    training = {"loss", "accuracy", "margin", "learning_rate", "grad_norm"}
    held_out = {"eval_loss", "eval_accuracy", "eval_margin"}
    last = max(per_step)
    first_epoch, second_epoch = (step for step in per_step if held_out <= per_step[step])
    assert second_epoch == last
    assert training | held_out == per_step[first_epoch] == per_step[last]
    assert per_step[last - 1] == training
    assert [e["step"] for e in events(folder, "progress") if e["total"] == last] == [
        *range(1, last + 1)
    ]
    assert [e["step"] for e in events(folder, "checkpoint")] == [last]


def test_the_artifact_is_an_adapter_for_the_language_model_with_a_head_beside(trained):
    folder, result = trained
    artifact = folder.path / "artifact"

    assert sorted(path.name for path in artifact.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "head.safetensors", "model.json",
        "reward.json",
    ]  # fmt: skip
    assert all(".lora_" in name for name in load_file(artifact / "adapter_model.safetensors"))
    assert read_json(artifact / "reward.json") == {
        "mean": result["score_mean"],
        "std": result["score_std"],
    }


def test_on_the_language_model_the_artifact_scores_as_the_trained_classifier(
    trained, tiny_reference
):
    folder, result = trained
    base, tokenizer = load_policy(tiny_reference)
    model = PeftModel.from_pretrained(base, folder.path / "artifact", adapter_name="reward")
    head, _ = load_reward_adapter(model, folder.path / "artifact")
    kept = json.loads((folder.path / "policy_samples.jsonl").read_text().splitlines()[0])[1]
    lines = [json.loads(line) for line in (folder.path / "prompts.jsonl").read_text().splitlines()]
    messages = {line["id"]: line["messages"] for line in lines}

    batch = collate(
        [encode(tokenizer, messages[row[0]]) for row in kept],
        [encode_completion(tokenizer, row[2], truncated=row[4]) for row in kept],
        CPU,
    )
    with torch.no_grad():
        scores = score(backbone_of(model), head, batch)

    assert len(scores) == 32
    assert_close(scores.mean().item(), result["score_mean"], atol=1e-5, rtol=0)
    assert_close(scores.std(correction=0).item(), result["score_std"], atol=1e-5, rtol=0)


def call_bad(path, n):
    """Votes of the n first comparisons to learn from, all of which say "all bad", beside the export's pairs."""
    rows = [json.loads(line) for line in (path / "data" / "data.jsonl").read_text().splitlines()]
    records = [
        {
            "prompt": row["prompt"],
            "completions": [row[side][0]["content"] + " No." for side in SIDES],
            "truncated": [False, False],
            "judgments": [{"verdict": "all_bad"}] * 2,
            "rulings": [],
            "split": row["split"],
        }
        for row in rows
    ]
    text = "".join(json.dumps(record) + "\n" for record in records[:n])
    (path / "data" / "votes.jsonl").write_text(text)


def test_what_nobody_ranked_is_learnt_from_and_resumed_bit_for_bit(tiny_reference, tmp_path):
    config = RewardModelConfig(
        tiny_reference, lora_rank=4, max_new_tokens=5, policy_samples=2, all_bad_coefficient=1.0
    )
    found = []
    for name in ("straight", "stopped"):
        path = tmp_path / name
        path.mkdir()
        write_inputs(path, 40)
        call_bad(path, 10)
        if name == "stopped":
            with pytest.raises(Stopped):
                run(config, StopsAt(path, step=4))
        result = run(config, RunFolder(path))
        weights = load_file(path / "artifact" / "adapter_model.safetensors")
        found.append((result["n_all_bad"], result["all_bad_level"], weights))

    (straight, stopped) = found
    assert straight[:2] == stopped[:2]
    assert straight[0] == 16  # two of each, and two comparisons are held out
    assert all(torch.equal(straight[2][name], stopped[2][name]) for name in straight[2])


def test_where_nobody_said_all_bad_no_level_is_learnt(tiny_reference, tmp_path):
    write_inputs(tmp_path, 30)
    config = RewardModelConfig(
        tiny_reference, epochs=1, lora_rank=4, max_new_tokens=5, policy_samples=2,
        all_bad_coefficient=1.0,
    )  # fmt: skip

    result = run(config, RunFolder(tmp_path))

    assert (result["n_all_bad"], result["all_bad_level"]) == (0, None)


class StopsAt(RunFolder):
    """A run's folder whose admin asks to stop after the training step `step`."""

    def __init__(self, path, step):
        super().__init__(path)
        self.step = step

    def progress(self, step, total, eta_seconds=None):
        super().progress(step, total, eta_seconds)
        if total > 1 and step == self.step:
            self.interrupt()


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tiny_reference, tmp_path):
    config = RewardModelConfig(tiny_reference, epochs=2, lora_rank=4, max_new_tokens=20)
    weights = []
    for name in ("straight", "stopped"):
        path = tmp_path / name
        path.mkdir()
        write_inputs(path, 40)
        if name == "stopped":
            with pytest.raises(Stopped):
                run(config, StopsAt(path, step=6))
            assert [step for step, _ in RunFolder(path).checkpoints()] == [6]
        run(config, RunFolder(path))
        weights.append(load_file(path / "artifact" / "adapter_model.safetensors"))

    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_ensemble_that_was_stopped_in_its_second_member_goes_on_bit_for_bit(
    tiny_reference, tmp_path
):
    config = RewardModelConfig(
        tiny_reference, epochs=1, lora_rank=4, max_new_tokens=20, members=2, learning_curve=True,
        adapter_layers=1,
    )  # fmt: skip
    results = []
    for name in ("straight", "stopped"):
        path = tmp_path / name
        path.mkdir()
        write_inputs(path, 40)
        if name == "stopped":
            with pytest.raises(Stopped):
                run(config, StopsAt(path, step=4))
            assert [each.name for each in (path / "trained").iterdir()] == ["member-0"]
        result = run(config, RunFolder(path))
        members = [path / "artifact", path / "artifact" / "members" / "1"]
        weights = [load_file(member / "adapter_model.safetensors") for member in members]
        results.append((result, weights))

    (result, straight), (again, stopped) = results
    assert result == again
    assert all(
        torch.equal(one[name], other[name])
        for one, other in zip(straight, stopped, strict=True)
        for name in one
    )
    assert not any(torch.equal(straight[0][name], straight[1][name]) for name in straight[0])
    assert [point["share"] for point in result["learning_curve"]] == [0.1, 0.25, 0.5, 1.0]
    shown = {event["step"] for event in events(RunFolder(path), "metrics")}
    steps = max(event["total"] for event in events(RunFolder(path), "progress"))
    assert max(shown) < steps  # the charts are of the members alone
    assert result["learning_curve"][-1]["n_pairs"] == 32
    assert len(load_judge(tmp_path / "straight" / "artifact").statistics) == result["members"] == 2
    assert result["report"]["accuracy"]["value"] == result["accuracy"]


def test_full_fine_tuning_makes_whole_models_and_goes_on_bit_for_bit(tiny_reference, tmp_path):
    config = RewardModelConfig(
        tiny_reference, epochs=1, max_new_tokens=5, policy_samples=2, members=2, train="full",
        learning_rate=1e-3, adapter_layers=1, share_prompts=False,
    )  # fmt: skip
    weights = []
    for name in ("straight", "stopped"):
        path = tmp_path / name
        path.mkdir()
        write_inputs(path, 40)
        if name == "stopped":
            with pytest.raises(Stopped):
                run(config, StopsAt(path, step=6))
        result = run(config, RunFolder(path))
        members = (path / "artifact", path / "artifact" / "members" / "1")
        weights.append([load_file(member / "model.safetensors") for member in members])

    straight, stopped = weights
    assert all(
        torch.equal(one[name], other[name])
        for one, other in zip(straight, stopped, strict=True)
        for name in one
    )
    before = load_policy(tiny_reference)[0].state_dict()
    for member in straight:
        changed = {name.rpartition("layers.")[2][0] for name in member
                   if name in before and not torch.equal(member[name], before[name])}  # fmt: skip
        assert changed == {"1", "m"}  # the upper layer, and the norm that follows
    assert (result["is_whole"], result["train"], result["members"]) == (True, "full", 2)
    assert not lies_on(path / "artifact", tiny_reference)
    assert scale_of(load_judge(path / "artifact"), path) == pytest.approx(
        (result["score_mean"], result["score_std"]), abs=1e-5
    )


def scale_of(judge, path):
    """Mean and deviation of the first member's scores of the policy's samples."""
    lines = [json.loads(line) for line in (path / "prompts.jsonl").read_text().splitlines()]
    messages = {line["id"]: line["messages"] for line in lines}
    said = [
        Conversation(messages[row[0]], row[2], row[3], truncated=row[4])
        for line in (path / "policy_samples.jsonl").read_text().splitlines()
        for row in json.loads(line)[1]
    ]
    scores = judge.raw_scores(said, lambda: False)[:, 0].double()
    return scores.mean().item(), scores.std(correction=0).item()


@pytest.mark.parametrize("kind", ["encoder", "language model"])
def test_a_reward_model_may_start_from_another_base(tiny_folder, tiny_reference, tmp_path, kind):
    source, base = tmp_path / "source", tmp_path / "base"
    build_encoder(source) if kind == "encoder" else shutil.copytree(tiny_folder, source)
    imported = ImportModelConfig("folder", str(source), str(base), measure_speed=False)
    import_model(imported, RunFolder(tmp_path))
    write_inputs(tmp_path, 40)
    config = RewardModelConfig(
        tiny_reference, {"base": str(base), "adapters": []}, epochs=1, max_new_tokens=20,
        policy_samples=8, lora_rank=4, ties="davidson",
    )  # fmt: skip

    result = run(config, RunFolder(tmp_path))

    artifact = tmp_path / "artifact"
    assert result["is_whole"] == (kind == "encoder")
    assert result["savings"]["notes"] == ([prompts_note(SEES_ALL)] if kind == "encoder" else [])
    assert not lies_on(artifact, tiny_reference)
    assert 0 < result["tie_share"] < 1
    assert set(result["annotators"]) == {"1", "2", "3", SABOTEUR}
    assert scale_of(load_judge(artifact), tmp_path) == pytest.approx(
        (result["score_mean"], result["score_std"]), abs=1e-5
    )


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_where_nobody_ties_a_model_learns_that_people_rarely_do(tiny_reference, tmp_path, ties):
    write_inputs(tmp_path, 60, has_ties=False)
    config = RewardModelConfig(
        tiny_reference, epochs=2, lora_rank=4, learning_rate=3e-3, max_new_tokens=5,
        policy_samples=2, ties=ties,
    )  # fmt: skip

    result = run(config, RunFolder(tmp_path))

    # It begins at one in a hundred, and in twelve steps gets about a quarter lower.
    assert 0.005 < result["tie_share"] < 0.009
    assert result["report"]["calibration"]["tie_share"] == result["tie_share"]
    assert load_reward_head(tmp_path / "artifact")[0].linear.weight.shape == (1, 64)


def test_what_a_head_says_of_equal_scores_is_where_its_tie_parameter_began():
    head = RewardHead(4, has_ties=True)

    for kind in ("davidson", "rao-kupper"):
        torch.nn.init.constant_(head.tie, first_tie(kind, [0.5, 0.1]))
        found = ties_of(head, kind)
        assert (found.kind, found.share) == (kind, pytest.approx(0.3, abs=1e-6))


def test_an_ensembles_ties_are_the_mean_of_its_members():
    assert mean_ties("davidson", [0.25, 0.5]) == Ties("davidson", 0.375)
    assert mean_ties("half", [None, None]) == HALF


def test_the_arms_are_compared_at_equal_numbers_of_votes(tiny_reference, folder):
    write_inputs(folder.path, 30)
    path = folder.path / "data" / "data.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        arm = "active" if number % 2 else "random"
        row |= {"arm": arm, "first_vote": number, "n_judgments": 20}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RewardModelConfig(
        tiny_reference, epochs=1, lora_rank=4, max_new_tokens=5, policy_samples=2, compare_arms=True
    )

    result = run(config, folder)

    assert result["has_arms"]
    assert [(row["arm"], row["n_votes"]) for row in result["arms"]] == [
        ("active", 100), ("random", 100), ("active", 200), ("random", 200),
    ]  # fmt: skip
    assert all(
        0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1
        for row in result["arms"]
    )


def test_a_part_of_an_arm_without_pairs_is_not_trained_on():
    config = RewardModelConfig({})
    group = Group([1], [[7, 2], [6, 2]], [EncodedPair(7, 0, 1, 1.0, 1, 1.0, 0.0, 0.0)])

    trainings = plan([group], config, [Part("active", 100, [7]), Part("random", 100, [99])])

    assert [training.name for training in trainings] == ["member-0", "active-100"]
    assert measured({}, None, Part("random", 100, [99])) == (None, None, None)


def test_a_run_on_an_empty_export_says_so(tiny_reference, folder):
    (folder.path / "data").mkdir()
    (folder.path / "data" / "data.jsonl").touch()

    with pytest.raises(RunError, match="the export holds no judged comparison"):
        run(RewardModelConfig(tiny_reference), folder)


def test_inputs_as_an_export_writes_them_are_read(tmp_path):
    write_inputs(tmp_path, 10)

    pairs = read_pairs(tmp_path / "data" / "data.jsonl")

    assert [pair.split for pair in pairs].count("test") == 2

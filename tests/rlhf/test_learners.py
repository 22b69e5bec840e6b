from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotator.models import Role
from rlhf.learners import Learner, learners_of, way_of
from rlhf.models import RunKind, Status
from tests.factories import MembershipFactory, ProjectFactory
from tests.rlhf.factories import PolicyFactory, RunFactory, make_dataset

pytestmark = pytest.mark.django_db

RESULT = {
    "method": "lora", "trainable": 5, "total": 1000, "peak_mib": 700, "tokens": {"learned": 6000},
    "datasets": [{"name": "tales", "n_rows": 3, "loss_before": 2.0, "loss_after": 1.5}],
}  # fmt: skip


@pytest.fixture
def dataset():
    return make_dataset(ProjectFactory(slug="tea"), "tales")


def learned(dataset, result=RESULT, **fields):
    now = timezone.now()
    run = RunFactory(**{
        "project": dataset.project, "kind": RunKind.DOMAIN, "status": Status.SUCCEEDED,
        "config": {"method": "lora", "lora_rank": 4},
        "started": now - timedelta(minutes=1), "finished": now, "result": result, **fields,
    })  # fmt: skip
    run.datasets.add(dataset)
    return run


def test_what_a_training_moved_and_took_stands_beside_what_came_of_it(dataset):
    run = learned(dataset)
    version = PolicyFactory(project=dataset.project, run=run)

    assert learners_of(dataset, 10) == [
        Learner(run, [version], "LoRA, rank 4", 0.5, 700, pytest.approx(100), 2.0, 1.5)
    ]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"adapter_layers": 10, "unfreeze_every": 0.5},
         "LoRA, rank 16, top 10 layers, one more every 0.5 epochs"),
        ({"dora": True, "lora_rank": 8}, "DoRA, rank 8"),
        ({"rslora": True, "four_bit": True}, "rsQLoRA, rank 16"),
        ({"method": "full", "anchor": "l2_sp", "anchor_coefficient": 0.1}, "all weights, L2-SP 0.1"),
        ({"method": "ia3"}, "IA³"),
        ({"method": "prefix", "virtual_tokens": 20}, "prefix tuning, 20 tokens"),
    ],
)  # fmt: skip
def test_ways_are_told_apart(config, said):
    assert way_of(config) == said


def test_what_learned_from_other_data_too_is_marked(dataset):
    others = [*RESULT["datasets"], {"name": "poems", "n_rows": 1}]

    learned(dataset, {**RESULT, "datasets": others})

    assert learners_of(dataset, 10)[0].others == ("poems",)


def test_of_what_is_not_known_nothing_is_said(dataset):
    failed = learned(dataset, status=Status.FAILED)
    resumed = learned(dataset, {**RESULT, "datasets": []}, attempts=1)
    learned(dataset, kind=RunKind.SUITE)

    assert learners_of(dataset, 10) == [
        Learner(resumed, [], "LoRA, rank 4", 0.5, 700), Learner(failed, []),
    ]  # fmt: skip


def test_the_page_of_a_dataset_takes_the_same_queries_for_one_and_three(
    client, dataset, django_assert_num_queries
):
    member = MembershipFactory(project=dataset.project, role=Role.REVIEWER)
    client.force_login(member.user)
    address = reverse("rlhf:dataset", args=["tea", dataset.pk])
    learned(dataset)
    with django_assert_num_queries(8):
        page = client.get(address).content.decode()
    learned(dataset)
    learned(dataset)

    with django_assert_num_queries(8):
        client.get(address)

    assert [text in page for text in ("0.5&nbsp;%", "700 MiB", "2 → 1.5")] == [True] * 3

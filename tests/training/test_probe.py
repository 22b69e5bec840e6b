import json
import math

import pytest
import torch

from rlhf.estimates import Probe
from rlhf.training import probe
from rlhf.training.artifacts import Stopped
from rlhf.training.config import ProbeConfig


@pytest.fixture
def measured(tiny_reference, folder, monkeypatch):
    monkeypatch.setattr(probe, "SECONDS", 0.0)  # each thing twice
    return probe.run(ProbeConfig(tiny_reference), folder)["probe"]


def test_sizes_are_those_of_the_model(measured):
    # 2 layers of 64 · (64 + 32 + 32 + 64 + 3 · 160) and two norms; keys and values of 2 heads of 16
    assert (measured["layers"], measured["hidden_size"]) == (2, 64)
    assert measured["layer_parameters"] == 64 * (64 + 32 + 32 + 64 + 3 * 160) + 2 * 64
    # LoRA: in + out of q, k, v, o, gate, up, down
    assert measured["adapter_parameters"] == 128 + 96 + 96 + 128 + 3 * 224
    assert measured["cache_bytes"] == 2 * 2 * 2 * 16 * 4
    assert measured["resident_mib"] > 50


def test_a_layer_keeps_at_least_what_its_maps_read(measured):
    # the inputs of q/k/v, o, gate/up and down
    assert 4 * (64 + 64 + 64 + 160) < measured["activation_bytes"] < 4 * 64 * 100


def test_a_probe_holds_all_that_an_estimate_needs(measured):
    probe = Probe.from_json(json.loads(json.dumps(measured)))

    assert all(math.isfinite(value) and value >= 0 for value in probe)
    assert min(probe.decode_speed, probe.forward_speed, probe.train_speed) > 0


def test_a_probe_says_where_and_with_what_it_was_measured(measured):
    assert measured["torch"] == torch.__version__
    assert measured["device"] in ("CPU", torch.cuda.is_available() and measured["device"])
    assert measured["host"]
    assert measured["cores"] >= 1


def test_a_probe_can_be_stopped(tiny_reference, folder):
    (folder.path / "stop").touch()

    with pytest.raises(Stopped):
        probe.measure(tiny_reference, folder)

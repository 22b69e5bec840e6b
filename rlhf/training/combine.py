"""The run *combine adapters*: several LoRA adapters of one base, added up with weights into a new one.

peft does it (`add_weighted_adapter`). A policy of a later round is several adapters on top of one
another; those are first put side by side into one, which changes nothing in what they compute.
Nothing is learned, so a run that was stopped or killed begins again: it takes seconds to minutes.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer, LoraModel

from rlhf.training.artifacts import RunError, RunFolder, Stopped
from rlhf.training.combine_config import CombineConfig
from rlhf.training.models import check_folders, load_policy, save_adapter
from rlhf.training.virtual_tokens import adapter_config

RESULT = "combined"


def run(config: CombineConfig, folder: RunFolder) -> dict[str, Any]:
    """The adapters of the parts in, artifact/ with the new adapter out."""
    check_adapters(config)
    folder.phase("loading")
    base, _ = load_policy(config.model, torch.device("cpu"), torch.float32)
    if folder.should_stop():
        raise Stopped
    folder.phase("combining")
    torch.manual_seed(config.seed)
    model = combine(base, config)
    with folder.writing_artifact() as artifact:
        save_adapter(model, RESULT, artifact)
    return {
        "train": "adapter",
        "method": "lora",
        "way": config.way,
        "rank": model.peft_config[RESULT].r,
        "n_parts": len(config.parts),
    }


def check_adapters(config: CombineConfig) -> None:
    """Raises RunError, before anything is loaded, for parts that cannot be added up."""
    for part in config.parts:
        check_folders({"base": config.model["base"], "adapters": part["adapters"]})
        found = [adapter_config(folder) for folder in part["adapters"]]
        if any(each.get("peft_type") != "LORA" or each.get("use_dora") for each in found):
            raise RunError(
                f"{part['version']} is no plain LoRA adapter: only those can be added up."
            )
    ranks = {part["version"]: rank_of(part["adapters"]) for part in config.parts}
    by_rank = config.way != "cat" and not config.way.endswith("svd")
    if by_rank and len(set(ranks.values())) > 1:
        told = ", ".join(f"{name} {rank}" for name, rank in ranks.items())
        raise RunError(
            f"way={config.way!r} needs adapters of one rank, and these have several ({told}): choose "
            f"{'svd' if config.way == 'linear' else f'{config.way}_svd'!r} or 'cat'."
        )


def rank_of(adapters: list[str]) -> int:
    """Of one adapter; of several on top of one another, what they have side by side."""
    return sum(adapter_config(folder)["r"] for folder in adapters)


def combine(base: torch.nn.Module, config: CombineConfig) -> PeftModel:
    """The base with an adapter `combined` among those of the parts."""
    folders = dict.fromkeys(folder for part in config.parts for folder in part["adapters"])
    names = {folder: f"adapter-{number}" for number, folder in enumerate(folders)}
    model = load_adapters(base, names)
    tuner = model.base_model
    parts = []
    for number, part in enumerate(config.parts):
        name, chain = f"part-{number}", [names[folder] for folder in part["adapters"]]
        add(tuner, chain, [1.0] * len(chain), name, "cat")
        parts.append(name)
    weights = [part["weight"] for part in config.parts]
    rank = _svd_rank(config, max(tuner.peft_config[name].r for name in parts), tuner)
    add(tuner, parts, weights, RESULT, config.way, density=config.density, svd_rank=rank)
    return model


def _svd_rank(config: CombineConfig, largest: int, tuner: LoraModel) -> int:
    """No layer's change has a rank above its smaller side, and peft could not load one that says so."""
    layers = [each for each in tuner.modules() if isinstance(each, LoraLayer)]
    most = min(min(each.in_features, each.out_features) for each in layers)
    if config.way.endswith("svd") and config.rank is not None and config.rank > most:
        raise RunError(
            f"rank={config.rank} is more than {most}, which is the most that a layer of this model can have: lower it, "
            "or leave it empty."
        )
    return min(config.rank or largest, most)


def load_adapters(base: torch.nn.Module, names: dict[str, str]) -> PeftModel:
    (first, name), *others = names.items()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of every adapter after the first
        model = PeftModel.from_pretrained(base, first, adapter_name=name)
        for folder, name in others:
            model.load_adapter(folder, adapter_name=name)
    return model


def add(
    tuner: LoraModel, names: list[str], weights: list[float], result: str, way: str, **options: Any
) -> None:
    """peft's own, but for what it takes over from the first adapter as if all were like it.

    Its scale would be multiplied by √r if that one is rsLoRA, and layers that only others adapt would be
    left out.
    """
    configs: list[LoraConfig] = [tuner.peft_config[name] for name in names]
    first = configs[0]
    layers = [config.layers_to_transform for config in configs]
    chosen = None if None in layers else sorted({n for each in layers for n in numbers(each)})
    tuner.peft_config[names[0]] = dataclasses.replace(
        first,
        use_rslora=False,
        layers_to_transform=chosen,
        layers_pattern=None if chosen is None else first.layers_pattern,
    )
    if way.endswith("svd"):
        options["svd_full_matrices"] = False  # what lies beyond the rank is cut off anyway
    else:
        options.pop("svd_rank", None)
    tuner.add_weighted_adapter(names, weights, result, combination_type=way, **options)
    tuner.peft_config[names[0]] = first


def numbers(layers: int | list[int]) -> list[int]:
    return [layers] if isinstance(layers, int) else layers

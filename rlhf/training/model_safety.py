"""What a model folder of unknown origin could do, and is not let do.

Weights are read from safetensors, which hold numbers only. Code that comes with a model is never copied nor run:
`trust_remote_code` is off everywhere. Chat templates run in the sandbox of transformers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rlhf.training.artifacts import RunError, read_json
from rlhf.training.config import ALLOW_PICKLES

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PICKLED_MODEL, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
QUESTION = [{"role": "user", "content": "Hello."}]


MODEL_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja", ".md", ".gguf", *PICKLED)
ADAPTER = "adapter_config.json"


def refuse_ways_out(source: Path) -> None:
    """Raise RunError if a file of the folder, or what an index says of its shards, lies elsewhere, or is none.

    What a link leads to would be copied with the model, and could be anybody's. The cache of the Hub is made of
    links into its own `blobs`, which are fine.
    """
    for file in sorted(source.iterdir()):
        if file.is_symlink() and not _is_of(source, file.resolve()):
            raise RunError(
                f"{file} is a link out of the model's folder, to {file.resolve()}: put the file itself there"
            )
        if file.suffix.lower() in MODEL_FILES and not file.is_file():
            raise RunError(f"{file} is no file, though its name is that of one: take it out")
    for index in sorted(source.glob("*.index.json")):
        for shard in shards_of(index):
            if not (source / shard).is_file():
                raise RunError(f"{source} lacks {shard}, which {index.name} names")


def refuse_adapter(source: Path) -> None:
    """Raise RunError if an adapter lies there: transformers would load it with the model, or with a GGUF file,
    and the weights that it stands on from wherever it says."""
    if (source / ADAPTER).exists():
        raise RunError(
            f"{source} holds an adapter ({ADAPTER}). Merge it into its base first, or take it out if the model is "
            "meant without it"
        )


def _is_of(source: Path, target: Path) -> bool:
    is_cached = source.parent.name == "snapshots"
    places = [source, *([source.parent.parent / "blobs"] if is_cached else [])]
    return any(target.is_relative_to(place.resolve()) for place in places)


def shards_of(index: Path) -> list[str]:
    """The files that an index names. Raises RunError unless they are plain names of files beside it."""
    try:
        names = sorted(set(read_object(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{index} is no index of shards: {error!r}") from None
    for name in names:
        if not name or Path(name).name != name:
            raise RunError(
                f"{index} names the file {name}: its shards must lie beside it, under plain names"
            )
    return names


def read_object(file: Path) -> dict[str, Any]:
    """What a JSON file of a model holds. Raises RunError unless that is an object."""
    try:
        content = read_json(file)
    except (ValueError, RecursionError, OSError) as error:  # no JSON or UTF-8, too deep, no file
        raise RunError(f"{file} cannot be read: {says(error)}") from None
    if not isinstance(content, dict):
        raise RunError(f"{file} holds no object in braces, which transformers' files are")
    return content


def says(error: BaseException) -> str:
    """The first line of what it says, or what it is called if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def refuse_pickled_adapter(folder: Path) -> None:
    """Raise RunError if it has no weights in safetensors: peft would open a pickle instead."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise RunError(
            f"{folder} has no adapter_model.safetensors. Weights in another form, such as adapter_model.bin, "
            "are not opened, because a pickle can run any code: save the adapter as safetensors"
        )


def check_template(tokenizer: Any, source: Path) -> None:
    """Raise RunError if the chat template cannot say a question, or tries what its sandbox forbids."""
    try:
        said = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # of jinja, or whatever the template raises by itself
        raise RunError(f"the chat template of {source} cannot be used: {says(error)}") from None
    if "hello" not in said.lower():
        raise RunError(
            f"the chat template of {source} leaves out what is asked: it says {said[:80]!r}"
        )


# --- where the installation's owner allows pickles ----------------------------------------------
def may_open_pickles() -> bool:
    return os.environ.get(ALLOW_PICKLES) == "1"


def write_unpickled(source: Path, target: Path) -> str:
    """model.safetensors in `target`, with the weights of the pickles in `source`; a note for the model's card.

    They are read with `weights_only`, which makes tensors and refuses all else. Raises RunError.
    """
    import torch  # noqa: PLC0415 (takes seconds; most models need it not)
    from safetensors.torch import save_file  # noqa: PLC0415

    index = source / PICKLED_INDEX
    names = shards_of(index) if index.is_file() else [PICKLED_MODEL]
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        try:
            read = torch.load(source / name, map_location="cpu", weights_only=True)
            weights.update({key: value.contiguous() for key, value in read.items()})
        except Exception as error:  # what is forbidden, cut off, or no weights at all
            raise RunError(f"{source / name} does not hold weights alone: {says(error)}") from None
    save_file(_untied(weights), target / "model.safetensors", metadata={"format": "pt"})
    return f"its weights were read from {', '.join(names)}"


def _untied(weights: dict[str, Any]) -> dict[str, Any]:
    """Each tensor once: safetensors hold no two names for one memory, and loading ties them again."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor
    return kept


def is_pickled(source: Path) -> bool:
    return (source / PICKLED_MODEL).is_file() or (source / PICKLED_INDEX).is_file()

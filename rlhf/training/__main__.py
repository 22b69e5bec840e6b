"""Carry out one run: `python -m rlhf.training RUN_DIR`.

Reads RUN_DIR/config.json, calls the function of its kind, and ends with result.json and exit
status 0, or with a sentence (an error event, and the last line of the log) and one of the exit
codes that artifacts.py lists. SIGTERM is a request to stop, like the file RUN_DIR/stop.

`accelerate launch -m rlhf.training RUN_DIR` starts several such processes for one run of PPO, RLOO or GRPO, which
find one another (parallel.py). The first one writes; the others only compute.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.training.artifacts import (
    DISK_FULL,
    FILE_TOO_LARGE,
    OUT_OF_MEMORY,
    RunError,
    RunFolder,
    Stopped,
)
from rlhf.training.config import (
    CONFIGS,
    Config,
    GenerateConfig,
    RewardModelConfig,
    is_endpoint,
)
from rlhf.training.hashes import check_inputs, files_in
from rlhf.training.preference_config import PreferenceConfig
from rlhf.training.reward_checks import check_input
from rlhf.training.search_config import SearchConfig

# What libraries say instead of raising OSError or MemoryError.
DISK_FULL_WORDS = (
    "No space left on device",  # safetensors
    "Disk quota exceeded",
    "inline_container.cc",  # torch.save: its writer found less in the file than it wrote
)
FILE_TOO_LARGE_WORDS = "File too large"
OUT_OF_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory")

# What a process sees of another one that has ended. That one's error is the one to report.
LOST_CONNECTION_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")

PR_SET_PDEATHSIG = 1  # of prctl(2)

ONLINE = ("ppo", "rloo", "grpo")  # their processes share the work of a step
MAKE_MODELS = (
    "import_model", "reward_model", *ONLINE, "dpo", "kto", "supervised", "domain", "combine",
    "index", "merge",
)  # fmt: skip
WITHOUT_TORCH = ("screen",)  # it takes seconds and hundreds of megabytes

# In the order in which to make them smaller. The last is left out for what learns from pairs, where it
# only says how many micro-batches make a step.
SIZES = ("micro_batch_tokens", "micro_batch_size", "batch_size")
LENGTHS = ("max_tokens", "max_new_tokens")


def main(arguments: list[str]) -> int:
    """The exit status of the run in the folder that the only argument names."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m rlhf.training RUN_DIR", file=sys.stderr)  # noqa: T201
        return 2
    if is_launched():
        die_with_the_launcher()
    folder = RunFolder(arguments[0], is_writer=is_first())
    for request in (signal.SIGTERM, signal.SIGINT):
        signal.signal(request, lambda *_: folder.interrupt())
    (folder.path / "result.json").unlink(missing_ok=True)  # of the time before a stop
    with folder.heartbeat():
        return _carry_out(folder)


def is_launched() -> bool:
    """Whether this is one of several processes, by the variables that a launcher sets."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def die_with_the_launcher() -> None:
    """End when the launcher is killed: it has put its processes into sessions of their own, where a
    signal to its group does not reach them. Linux only; elsewhere nothing happens."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _carry_out(folder: RunFolder) -> int:
    config: Config | None = None
    try:
        kind, config = _read_config(folder)
        if kind not in ONLINE and not is_first():
            return 0  # the other kinds need one process
        folder.write_result(**_outcome(kind, config, folder))
    except RunError as error:
        return _fail(folder, str(error), error.exit_code)
    except Exception as error:
        traceback.print_exc()
        if is_launched() and any(words in str(error) for words in LOST_CONNECTION_WORDS):
            return 1
        return _fail(folder, *_translate(error, folder, config))
    return 0


def _outcome(kind: str, config: Config, folder: RunFolder) -> dict[str, Any]:
    """What result.json says. A stop is written like a success, so that a full disk is noticed."""
    try:
        return {"status": "succeeded", **_with_hashes(kind, _run(kind, config, folder), folder)}
    except Stopped:
        return {"status": "stopped"}


def _with_hashes(kind: str, result: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """With the SHA-256 of each file of the model, if the run made one."""
    if kind not in MAKE_MODELS:
        return result
    made = Path(result.get("artifact") or result.get("output") or folder.path / "artifact")
    folder.phase("hash files")
    return {**result, "files": files_in(made)}


def _read_config(folder: RunFolder) -> tuple[str, Config]:
    try:
        kind, values = folder.read_config()
    except FileNotFoundError:
        raise RunError(f"{folder.path} has no config.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder.path / 'config.json'} is not a run's configuration: {error}"
        ) from None
    if kind not in CONFIGS:
        raise RunError(f"unknown kind of run {kind!r}; known are {', '.join(CONFIGS)}")
    try:
        return kind, CONFIGS[kind].from_dict(values)
    except (ValueError, TypeError) as error:
        raise RunError(f"the settings of this {kind} run are wrong: {error}") from None


def _run(kind: str, config: Config, folder: RunFolder) -> dict[str, Any]:
    """Each kind has a module of its name. It is imported now because trl alone takes 7 seconds."""
    if isinstance(config, GenerateConfig) and is_endpoint(config.model):
        return importlib.import_module("rlhf.training.ask").run(config, folder)
    if isinstance(
        config, SearchConfig
    ):  # its trials load torch, and check the files that they read
        return importlib.import_module("rlhf.training.search").run(config, folder)
    prepare_libraries()
    if folder.is_writer:
        check_inputs(folder)
    if isinstance(config, RewardModelConfig):
        check_input(config, folder)
    if kind not in WITHOUT_TORCH:
        limit_threads()
    module = importlib.import_module(f"rlhf.training.{kind}")
    gc.freeze()  # each training begins with a look for garbage, which need not go through libraries
    return module.run(config, folder)


def prepare_libraries() -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # the log is a file: no bars drawn with \r
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Threads that wait for work sleep instead of spinning. Spinning makes training up to 25 times
    # slower as soon as anything else (the web server, a browser) wants the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def limit_threads() -> None:
    import torch  # noqa: PLC0415 (takes seconds; after the heartbeat has begun)

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def _translate(error: Exception, folder: RunFolder, config: Config | None) -> tuple[str, int]:
    """The sentence and exit code for an exception that no run function expected."""
    message = str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(words in message for words in DISK_FULL_WORDS):
        return (
            f"the disk is full ({folder.path}), in phase {folder.current_phase!r}: free some space "
            "and resume; what was saved before is whole",
            DISK_FULL,
        )
    if getattr(error, "errno", None) == errno.EFBIG or FILE_TOO_LARGE_WORDS in message:
        return (
            f"a file in phase {folder.current_phase!r} became larger than a run may write: set "
            "PREFERENDUM_RUN_FILE_LIMIT_MIB higher and resume; what was saved before is whole",
            FILE_TOO_LARGE,
        )
    if isinstance(error, MemoryError) or any(words in message for words in OUT_OF_MEMORY_WORDS):
        return _out_of_memory(folder, config), OUT_OF_MEMORY
    return (
        f"{type(error).__name__}: {message.strip().splitlines()[0] if message.strip() else ''}",
        1,
    )


def _out_of_memory(folder: RunFolder, config: Config | None) -> str:
    """Names the phase, the sizes in use, and what to make smaller: a length if no size is left."""
    sentence = f"out of memory in phase {folder.current_phase!r}"
    values = config.to_dict() if config else {}
    counts_steps = isinstance(config, RewardModelConfig | PreferenceConfig)
    names = SIZES[:-1] if counts_steps else SIZES
    sizes = {name: values[name] for name in names if name in values}
    lengths = {name: values[name] for name in LENGTHS if name in values}
    if advice := _halved(sizes)[:1]:
        return f"{sentence} with {_in_words(sizes)}: try {advice[0]}"
    if advice := _halved(lengths):
        return f"{sentence} with {_in_words(sizes | lengths)}: try {' or '.join(advice)}"
    return sentence


def _halved(sizes: dict[str, int]) -> list[str]:
    """Example: {"batch_size": 8, "max_tokens": 1} -> ["batch_size=4"]."""
    return [f"{name}={size // 2}" for name, size in sizes.items() if size > 1]


def _in_words(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def _fail(folder: RunFolder, sentence: str, exit_code: int) -> int:
    try:
        folder.event("error", message=sentence)
        print(f"error: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
    except OSError:  # a full disk: the exit code still tells
        pass
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

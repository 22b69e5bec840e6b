"""The folder of a run: configuration in; events, checkpoints, artifact and result out.

    config.json        {"kind": …, "config": {…}}
    prompts.jsonl      what it reads; eval_prompts.jsonl (PPO) and data/, an export, besides
    hashes.json        SHA-256 of all files that it uses, which it checks first (hashes.py)
    events.jsonl       one JSON object a line: heartbeat, phase, progress, metrics, sample, …
    log.txt            standard output and error of the process
    stop               exists when the run shall checkpoint and end
    rollouts/          the answers of each step, step-NNNNN.jsonl (PPO)
    asked-N.jsonl      replies of endpoint N, with what they cost
    suite-NAME.json    a step that is done; judged.jsonl: verdicts of a model (evaluation suite)
    asked/ answered/   what people say, and two answers to it (live conversations)
    checkpoint-N/      all that is needed to go on after step N
    best-N/            the policy after step N, if it was the best so far (PPO)
    artifact/          the model or completions that the run made
    result.json        {"status": "succeeded" | "stopped", …}

Everything that must be whole is written beside its place, synced and renamed, so that neither a
kill nor a full disk leaves half a file. No torch here: the web process reads these folders too.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHARING = "sharing.json"  # in a run's folder: {"7": 2}, endpoints and how many ask them just now
HEARTBEAT_SECONDS = 5.0

# Of live conversations: folders of questions and of answers, and the phase in which it listens.
ASKED, ANSWERED, TALKING = "asked", "answered", "talking"

# Exit codes of `python -m rlhf.training`, besides 0 (succeeded or stopped, see result.json)
# and 1 (a crash, whose traceback is in log.txt).
BAD_DATA, DIVERGED, OUT_OF_MEMORY, DISK_FULL, FILE_TOO_LARGE = 3, 4, 5, 6, 7


class RunError(Exception):
    """An expected failure. The message is a sentence for the admin; nothing was left half-written."""

    def __init__(self, message: str, exit_code: int = BAD_DATA) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stopped(Exception):
    """The run was asked to stop, and has saved what it needs to go on."""


class RunFolder:
    """What a training function is given: where it reads, writes and reports.

    Of several processes of a run, only the first one writes: it alone `is_writer`.
    """

    def __init__(self, path: str | Path, *, is_writer: bool = True) -> None:
        self.path = Path(path).resolve()
        self.is_writer = is_writer
        self._lock = threading.Lock()
        self._interrupted = False
        self.current_phase = "start"

    # --- in ---------------------------------------------------------------------------------
    def read_config(self) -> tuple[str, dict[str, Any]]:
        """The kind of run and its settings."""
        content = read_json(self.path / "config.json")
        return content["kind"], content["config"]

    def should_stop(self) -> bool:
        return self._interrupted or (self.path / "stop").exists()

    def interrupt(self) -> None:
        """Stop as if asked by file; called on SIGTERM."""
        self._interrupted = True

    def sharers(self, endpoint: int) -> int:
        """How many ask this endpoint just now, this run included, as its supervisor says."""
        try:
            return max(1, int(read_json(self.path / SHARING).get(str(endpoint), 1)))
        except (OSError, ValueError):  # started by hand
            return 1

    # --- reports ----------------------------------------------------------------------------
    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl. Raises OSError when the disk is full."""
        if not self.is_writer and kind != "error":
            return
        line = json.dumps({"type": kind, "time": round(time.time(), 3), **fields}) + "\n"
        with self._lock, (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

    def phase(self, name: str) -> None:
        self.current_phase = name
        self.event("phase", name=name)

    def progress(self, step: int, total: int, eta_seconds: float | None = None) -> None:
        self.event("progress", step=step, total=total, eta_seconds=eta_seconds)

    def say(self, sentence: str) -> None:
        """A line of log.txt, where the standard output of the process goes."""
        if self.is_writer:
            print(sentence, flush=True)  # noqa: T201

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Values that are not finite are reported as null: JSON has no NaN."""
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
        self.event("metrics", step=step, values=finite)

    def sample(
        self, step: int, index: int, prompt: list[dict[str, str]], completion: str,
        score: float | None = None,
    ) -> None:  # fmt: skip
        self.event(
            "sample", step=step, index=index, prompt=prompt, completion=completion, score=score
        )

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Say "alive" every few seconds from a thread, for as long as the block runs."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_SECONDS):
                try:
                    self.event("heartbeat")
                except OSError:  # a full disk is reported by the write that matters
                    pass

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    # --- out --------------------------------------------------------------------------------
    def checkpoints(self) -> list[tuple[int, Path]]:
        """Complete checkpoints as (step, folder), oldest first."""
        found = [
            (int(path.name.removeprefix("checkpoint-")), path)
            for path in self.path.glob("checkpoint-*")
            if path.name.removeprefix("checkpoint-").isdigit()
        ]
        return sorted(found)

    @contextmanager
    def writing_checkpoint(self, step: int, keep: int = 2) -> Iterator[Path]:
        """A folder to fill; it becomes `checkpoint-<step>` when the block ends without error.

        Older checkpoints but the newest `keep` are removed afterwards, never before.
        """
        with writing_folder(self.path / f"checkpoint-{step}") as folder:
            yield folder
        for _, old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        self.event("checkpoint", step=step)

    @contextmanager
    def writing_artifact(self) -> Iterator[Path]:
        with writing_folder(self.path / "artifact") as folder:
            yield folder

    def write_result(self, status: str, **fields: Any) -> None:
        if self.is_writer:
            write_json(self.path / "result.json", {"status": status, **fields})


def following_no_link(path: str, flags: int) -> int:
    """An opener for files that a run writes and others read: a link there could lead anywhere.

    Raises OSError (ELOOP) for a link.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write so that the file is either the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that is appended to. A half-written last one, of a killed run, is cut off
    there too, so that the next line starts at a line's start."""
    if not path.exists():
        return []
    content = path.read_bytes()  # a character may be cut in half too
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    return content[:end].decode().split("\n")[:-1]  # splitlines() would split inside of texts


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `path` only when it is complete and on disk."""
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        _sync(temporary)
        if path.exists():
            discarded = path.with_name(f".{path.name}.old")
            shutil.rmtree(discarded, ignore_errors=True)
            path.rename(discarded)
            shutil.rmtree(discarded, ignore_errors=True)
        temporary.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

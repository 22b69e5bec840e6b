"""The operating-system process of a run: start it, find it again, signal it, explain its end.

A process outlives its supervisor on purpose. It is known by pid and start time, because pids
recur, and leads a session of its own, so that signals to the trainer do not reach it and signals
to the run reach all that the run started.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

import psutil
from django.conf import settings

from rlhf.run_user import RunUser, run_user
from rlhf.training.artifacts import (
    BAD_DATA,
    DISK_FULL,
    DIVERGED,
    FILE_TOO_LARGE,
    OUT_OF_MEMORY,
    following_no_link,
)
from rlhf.training.config import ALLOW_PICKLES, ENDPOINTS

# The shell waits for a line, then becomes the program. No program runs whose pid is not in the
# database yet: if the supervisor dies before it has written it, the pipe closes and the shell ends.
GATE = 'read -r go && exec "$@" </dev/null'

# Before the gate. A program that is started afterwards may lower them and never raise them.
OPEN_FILES = 4096
SHELL_BLOCK = 512  # bytes, in which POSIX counts `ulimit -f`
NO_NEW_PRIVILEGES = ["setpriv", "--no-new-privs"]  # of util-linux, which each Linux has

# A run gets these variables and no others: no database address, no secret key. One that asks
# endpoints gets their keys besides.
PASSED_ON = [
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "HF_HOME",
]  # fmt: skip
PASSED_ON_FROM_HUB = ["HF_ENDPOINT", "HF_TOKEN"]
PASSED_ON_ONLINE = [
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy",
    "https_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE",
]  # fmt: skip
OFFLINE = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"]

PYTHON = "{python}"  # in the launcher's template
AUTO = "auto"  # for a template
PLAIN = f"{PYTHON} -m rlhf.training {{run_dir}}"
APART = settings.BASE_DIR / "bin" / "apart"
# What is tried in the sandbox: the packages of a run are there, and the GPU, if there is one.
TRIAL = """
import ctypes, os
from importlib.util import find_spec
assert find_spec("torch") and find_spec("rlhf.training"), "our packages are not there"
if os.path.exists("/dev/nvidiactl"):
    assert ctypes.CDLL("libcuda.so.1").cuInit(0) == 0, "the GPU does not work in it"
"""
TRIAL_SECONDS = 30
TMP_LIMIT = "PREFERENDUM_RUN_TMP_LIMIT_MIB"  # for bin/apart

START_TIME_TOLERANCE = 2.0  # seconds; it is counted from boot, whose clock time may be corrected
LOG_TAIL_BYTES = 64 * 1024


class RunProcess:
    def __init__(
        self, pid: int, started: float, child: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.pid = pid
        self.started = started
        self._child = child  # None if somebody else started it: then its exit code stays unknown
        self._sent: set[signal.Signals] = set()

    @classmethod
    def start(
        cls,
        command: list[str],
        folder: Path,
        environment: dict[str, str],
        user: RunUser | None = None,
    ) -> Self:
        """The process, waiting for `go()`, as the user if one is given.

        Raises OSError, for example if the disk is full.
        """
        with open(folder / "log.txt", "ab", opener=following_no_link) as log:
            child = subprocess.Popen(  # noqa: S603 (the command is the admin's own setting)
                ["/bin/sh", "-c", limited_gate(), "run", *unprivileged(command)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user.uid if user else None,
                group=user.gid if user else None,
                extra_groups=[] if user else None,
                umask=0o002 if user else -1,
            )
        niceness = os.getpriority(os.PRIO_PROCESS, 0) + settings.RUN_NICENESS
        os.setpriority(os.PRIO_PROCESS, child.pid, min(niceness, 19))
        return cls(child.pid, psutil.Process(child.pid).create_time(), child)

    def go(self) -> None:
        self._open_gate(b"go\n")

    def abandon(self) -> None:
        """End a process that was never told to go."""
        self._open_gate(b"")

    def _open_gate(self, line: bytes) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        with suppress(BrokenPipeError), self._child.stdin as gate:
            gate.write(line)

    def is_alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.started) < START_TIME_TOLERANCE
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def exit_code(self) -> int | None:
        """Of an ended process: negative for a signal, None if it was not our child."""
        return self._child.poll() if self._child else None

    def signal(self, number: signal.Signals) -> None:
        """To the process and all it started, once."""
        if number not in self._sent:
            self._sent.add(number)
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def end_leftovers(self) -> None:
        """Kill what an ended process left behind in its group, which may hold a GPU.

        While a group has members its number is given to no new process, and a new process of
        that number means that the group is empty.
        """
        if not psutil.pid_exists(self.pid):
            self.signal(signal.SIGKILL)

    def memory_mib(self) -> int:
        """Resident memory of the process and its descendants; pages they share count for each."""
        total = 0
        with suppress(psutil.NoSuchProcess):
            leader = psutil.Process(self.pid)
            for process in [leader, *leader.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += process.memory_info().rss
        return total // 2**20


def limited_gate() -> str:
    """Shell commands: no memory image of a crash, so many open files, files no larger than allowed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    limits = ["ulimit -c 0", f"ulimit -n {files}"]
    if limit_mib := settings.RUN_FILE_LIMIT_MIB:
        limits.append(f"ulimit -f {limit_mib * 2**20 // SHELL_BLOCK}")
    return "; ".join([*limits, GATE])


def unprivileged(command: list[str]) -> list[str]:
    """So that neither it nor what it starts gets more rights than it has, by a setuid program say."""
    return [*NO_NEW_PRIVILEGES, *command] if shutil.which(NO_NEW_PRIVILEGES[0]) else command


def command_for(folder: Path, accelerate_config: str = "") -> list[str]:
    """The launcher's template, split into words first, so that a path may contain spaces.

    With a configuration of accelerate, `{python}` becomes the Python that accelerate launches.
    """
    command = []
    for word in shlex.split(run_command()):
        command.append(word.format(python=sys.executable, run_dir=folder))
        if word == PYTHON and accelerate_config:
            file = str(settings.ACCELERATE_DIR / accelerate_config)
            command += ["-m", "accelerate.commands.launch", "--config_file", file]
    return command


def run_command() -> str:
    """The launcher's template; by itself one with the sandbox, where that works."""
    if settings.RUN_COMMAND != AUTO:
        return settings.RUN_COMMAND
    return PLAIN if why_not_apart() else f"{shlex.quote(str(APART))} {{run_dir}} {PLAIN}"


def kept_apart() -> str:
    """For the log of a run and its page: whether it is in the sandbox, and why not; empty where the owner
    of the machine has said how runs are started."""
    if settings.RUN_COMMAND != AUTO:
        return ""
    if why := why_not_apart():
        return f"by limits alone, without a sandbox: {why} (docs/deploy.md, Kept apart)"
    return "in a sandbox of its own (bubblewrap)"


def why_not_apart() -> str:
    """What keeps the sandbox from working for the runs of this trainer; empty if it works."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    return _try_apart(run_user())


@cache
def _try_apart(user: RunUser | None) -> str:
    """Start something in it, once for each process of ours: it takes half a second."""
    with tempfile.TemporaryDirectory(prefix="preferendum-") as place:
        run_dir = Path(place) / "runs" / "trial"
        run_dir.mkdir(parents=True)
        (run_dir / "config.json").write_text('{"config": {}}')
        if user:
            for folder in (Path(place), run_dir.parent, run_dir):
                os.chown(folder, user.uid, user.gid)
        command = [str(APART), str(run_dir), sys.executable, "-c", TRIAL]
        try:
            done = subprocess.run(  # noqa: S603 (our own command)
                unprivileged(command),
                env=environment(online=False),
                user=user.uid if user else None,
                group=user.gid if user else None,
                extra_groups=[] if user else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TRIAL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    said = done.stderr.strip().splitlines() or [f"it ends with {done.returncode}"]
    return said[-1] if done.returncode else ""


def accelerate_configs() -> list[str]:
    """The files that may be picked, by name. Example: ["two-gpus.yaml"]

    None if the launcher's template has no `{python}` that accelerate could take the place of.
    """
    if settings.RUN_COMMAND != AUTO and PYTHON not in shlex.split(settings.RUN_COMMAND):
        return []
    return sorted(path.name for path in settings.ACCELERATE_DIR.glob("*.yaml") if path.is_file())


def environment(*, online: bool, endpoints: str = "") -> dict[str, str]:
    """Of a run: `online` if it imports from the Hub; `endpoints` are what it asks others with."""
    names = PASSED_ON + (PASSED_ON_FROM_HUB if online else [])
    if online or endpoints:
        names = names + PASSED_ON_ONLINE
    return {
        **{name: os.environ[name] for name in names if name in os.environ},
        "PYTHONPATH": str(settings.BASE_DIR),
        "PYTHONUNBUFFERED": "1",
        "PREFERENDUM_MODELS_DIR": str(settings.MODELS_DIR),
        TMP_LIMIT: str(tmp_limit_mib()),
        "PREFERENDUM_REWARD_FUNCTIONS": ",".join(settings.REWARD_FUNCTIONS),
        "PREFERENDUM_LM_EVAL_TASKS": str(settings.LM_EVAL_TASKS),
        **({ALLOW_PICKLES: "1"} if settings.ALLOW_PICKLED_WEIGHTS else {}),
        **({} if online else dict.fromkeys(OFFLINE, "1")),
        **({ENDPOINTS: endpoints} if endpoints else {}),
    }


def tmp_limit_mib() -> int:
    """Of what a sandbox keeps in memory: no more than a run's processes may use; 0: no limit."""
    limits = (settings.RUN_TMP_LIMIT_MIB, settings.RUN_MEMORY_LIMIT_MIB)
    return min(filter(None, limits), default=0)


# --- how it ended, in words -------------------------------------------------------------------
WORKER_KILLED = "Signal 9 (SIGKILL) received by PID"  # what accelerate says of one of its processes

EXIT_SENTENCES = {
    FILE_TOO_LARGE: "A file became larger than PREFERENDUM_RUN_FILE_LIMIT_MIB allows.",
    BAD_DATA: "The run could not use what it was given; the log says why.",
    DIVERGED: "The training diverged: its numbers were no longer finite. Start again with "
    "a lower learning rate.",
    OUT_OF_MEMORY: "The run ran out of memory. Start again with a smaller batch or shorter answers.",
    DISK_FULL: "The disk is full. Free some space, then resume.",
    126: "The launcher command may not be executed: check PREFERENDUM_RUN_COMMAND.",
    127: "The launcher command was not found: check PREFERENDUM_RUN_COMMAND.",
}


def explain_exit(code: int | None, log: str, peak_mib: int) -> str:
    """A sentence for the admin about a process that ended without a result.

    `log` is what this attempt has written; `code` is None if nobody can know it.
    """
    if code is not None and code > 128:  # a shell or container says of its child: 128 + signal
        code = 128 - code
    if code in EXIT_SENTENCES:
        return last_error_line(log) or EXIT_SENTENCES[code]
    if code == 0:
        return "The process ended well but left no result.json: see the log."
    if code == -signal.SIGKILL or WORKER_KILLED in log:
        return (
            "The process was killed by the system (signal 9), most likely out of memory "
            f"(it used up to {peak_mib} MiB): start again with other settings, such as a smaller "
            "batch."
        )
    if code is not None and code < 0:
        return f"The process was ended by signal {-code} ({signal_name(-code)}): see the log."
    if crash := crash_line(log):
        return f"The process crashed: {crash} (see the log)."
    if code is not None:
        return f"The process ended with exit code {code}: see the log."
    return (
        "The process ended without a word, and how is not known because the trainer was restarted "
        f"in between. Perhaps the system killed it for memory (it used up to {peak_mib} MiB), or "
        "the machine was switched off. It can be resumed."
    )


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def crash_line(log: str) -> str:
    """What the last traceback ends with. Example: "ValueError: bad shape"; empty if none."""
    _, traceback, rest = log.rpartition("Traceback (most recent call last):\n")
    if not traceback:
        return ""
    return next((line.strip() for line in rest.splitlines() if re.match(r"\S", line)), "")


def last_error_line(log: str) -> str:
    """The sentence after "error: " where the run's own code ended it; empty if none."""
    lines = log.rstrip().splitlines()
    return lines[-1].removeprefix("error: ") if lines and lines[-1].startswith("error: ") else ""


def attempt_header(attempt: int, command: list[str]) -> str:
    return f"=== attempt {attempt + 1}: {shlex.join(command)}\n"


def attempt_log(folder: Path) -> str:
    """The end of what the latest attempt has written to its log."""
    try:
        with open(folder / "log.txt", "rb", opener=following_no_link) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            tail = file.read().decode(errors="replace")
    except OSError:  # there is none, or it was replaced by a link
        return ""
    return re.split(r"^=== attempt \d+: .*\n", tail, flags=re.MULTILINE)[-1]

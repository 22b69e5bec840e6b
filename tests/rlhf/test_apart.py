"""What a run sees that bin/apart starts: real commands in a real sandbox."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from django.conf import settings as django_settings

from rlhf import processes
from rlhf.training.artifacts import write_json

APART = django_settings.BASE_DIR / "bin" / "apart"


def why_not():
    """What the system says that keeps bubblewrap from working; empty if it works."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap is missing: bin/setup dev installs it"
    test = [program, "--ro-bind", "/", "/", "--unshare-all", "--proc", "/proc", "true"]
    done = subprocess.run(test, check=False, capture_output=True, text=True)
    return (done.stderr.strip() or f"bwrap ends with {done.returncode}") if done.returncode else ""


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture
def run_dir(tmp_path):
    """The run 2 in a data folder, with a database, a key, another run and two models."""
    (tmp_path / "secret_key").write_text("secret")
    (tmp_path / "db.sqlite3").write_text("database")
    for name in ("runs/1", "runs/2", "models/mine", "models/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    folder = tmp_path / "runs" / "2"
    config = {"model": {"base": str(tmp_path / "models/mine"), "adapters": []}}
    write_json(folder / "config.json", {"kind": "merge", "config": config})
    return folder


def apart(run_dir, script, **environment):
    """What the script says that runs in the sandbox."""
    done = subprocess.run(
        [APART, run_dir, "/bin/sh", "-c", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_run_sees_its_folder_and_its_model_and_nothing_else_of_the_data(run_dir, tmp_path):
    said = apart(run_dir, f"cd {tmp_path} && find . -type f | sort")

    assert said.split() == ["./models/mine/file", "./runs/2/config.json", "./runs/2/file"]


def test_a_run_sees_what_its_models_stand_on(run_dir, tmp_path):
    content = {"kind": "ppo", "config": {}, "reads": [str(tmp_path / "models/other")]}
    write_json(run_dir / "config.json", content)

    said = apart(run_dir, f"cd {tmp_path} && find models -type f")

    assert said.split() == ["models/other/file"]


def test_a_run_knows_its_machine_by_name_as_what_it_measures_is_compared_by_it(run_dir):
    assert apart(run_dir, "uname -n").strip() == socket.gethostname()


def test_runs_are_started_in_it_by_themselves(settings, tmp_path):
    settings.RUN_COMMAND = "auto"

    command = processes.command_for(tmp_path)

    assert processes.kept_apart() == "in a sandbox of its own (bubblewrap)"
    assert command[:3] == [str(APART), str(tmp_path), sys.executable]
    assert command[3:] == ["-m", "rlhf.training", str(tmp_path)]


def test_a_sandbox_in_which_our_packages_are_not_is_not_used(settings, monkeypatch):
    settings.RUN_COMMAND = "auto"
    monkeypatch.setattr(processes, "TRIAL", "import nothing_of_that_name")
    processes._try_apart.cache_clear()

    why = processes.why_not_apart()

    processes._try_apart.cache_clear()
    assert why == "ModuleNotFoundError: No module named 'nothing_of_that_name'"


def test_a_configuration_that_says_the_name_of_a_secret_does_not_show_it(run_dir, tmp_path):
    write_json(run_dir / "config.json", {"config": {"pattern": str(tmp_path / "secret_key")}})

    assert "No such file" in apart(run_dir, f"cat {tmp_path}/secret_key")


def test_a_path_in_a_text_opens_no_file(run_dir, tmp_path):
    env = tmp_path / "app" / ".env"
    env.parent.mkdir()
    env.write_text("KEY=secret")
    rule = {"kind": "regex", "pattern": str(env), "name": str(env)}
    endpoint = {"endpoint": 1, "address": str(env), "model": str(env)}
    config = {"rewards": [rule], "model": endpoint, "name": str(env), "space": str(env)}
    write_json(run_dir / "config.json", {"config": {**config, "settings": config}})

    assert "No such file" in apart(run_dir, f"cat {env}")


def test_a_run_sees_all_that_its_settings_hold_in_places_for_it(run_dir, tmp_path):
    names = ["base", "first", "second", "prompting", "reward", "part", "dataset", "tokenizer"]
    base, *adapters, prompting, reward, part, dataset, tokenizer = (
        str(tmp_path / "models" / name) for name in names
    )
    for name in names:
        (tmp_path / "models" / name).mkdir()
    settings = {
        "model": {"base": base, "adapters": adapters, "prompting": prompting},
        "rewards": [{"kind": "reward_model", "version": "kind", "folder": reward}],
        "parts": [{"version": "kind", "weight": 1.0, "adapters": [part]}],
        "datasets": [{"name": "polite", "folder": dataset}],
        "tokenizers": [tokenizer],
    }
    write_json(run_dir / "config.json", {"config": {"tries": "ppo", "settings": settings}})

    assert apart(run_dir, f"ls {tmp_path}/models").split() == sorted(names)


def test_a_run_may_write_its_folder_and_nothing_else(run_dir, tmp_path):
    places = f"made {tmp_path}/models/mine/x /usr/x config.json"

    said = apart(
        run_dir, f"for place in {places}; do (echo x > $place) 2>/dev/null || echo $place; done"
    )

    assert said.split() == [f"{tmp_path}/models/mine/x", "/usr/x", "config.json"]
    assert (run_dir / "made").read_text() == "x\n"


def test_a_run_cannot_put_another_configuration_in_the_place_of_its_own(run_dir):
    said = apart(run_dir, "echo {} > other; mv -f other config.json || rm config.json")

    assert json.loads((run_dir / "config.json").read_text())["kind"] == "merge"
    assert "busy" in said


INTERFACES = "tail -n +3 /proc/net/dev | cut -d: -f1"


def test_a_run_has_no_network(run_dir):
    assert apart(run_dir, INTERFACES).split() == ["lo"]


def test_a_run_that_asks_endpoints_has_the_machines_network(run_dir):
    here = subprocess.run(["sh", "-c", INTERFACES], capture_output=True, text=True, check=True)

    assert apart(run_dir, INTERFACES, PREFERENDUM_ENDPOINTS="{}") == here.stdout


def test_a_run_sees_no_other_process_and_has_no_capability(run_dir):
    said = apart(run_dir, "ls /proc | grep -c '^[0-9]'; grep CapEff /proc/self/status")

    assert int(said.split()[0]) < 8
    assert said.split()[-1] == "0000000000000000"


def lacks(option):
    done = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, check=True)
    return option not in done.stdout


@pytest.mark.skipif(not WHY_NOT and lacks("--size"), reason="bubblewrap is older than 0.7")
def test_what_a_run_keeps_in_memory_is_limited(run_dir):
    script = "df -m --output=size /tmp /dev/shm | tail -n 2; for p in /x /etc/x /dev/x; do echo x > $p; done"

    said = apart(run_dir, script, PREFERENDUM_RUN_TMP_LIMIT_MIB="3")

    assert said.split()[:2] == ["3", "3"]
    assert said.count("Read-only file system") == 3


@pytest.mark.parametrize(("tmp", "memory", "said"), [(2048, 0, 2048), (2048, 512, 512), (0, 0, 0)])
def test_what_a_run_keeps_in_memory_is_no_more_than_it_may_use(settings, tmp, memory, said):
    settings.RUN_TMP_LIMIT_MIB, settings.RUN_MEMORY_LIMIT_MIB = tmp, memory

    environment = processes.environment(online=False)

    assert environment["PREFERENDUM_RUN_TMP_LIMIT_MIB"] == str(said)


@pytest.mark.skipif(
    not WHY_NOT and lacks("--disable-userns"), reason="bubblewrap is older than 0.8"
)
def test_a_run_makes_no_namespace_in_its_own(run_dir):
    assert "unshare failed" in apart(run_dir, "unshare --user true")


def test_with_an_older_bubblewrap_a_run_goes_without_what_it_lacks(run_dir, tmp_path):
    older = tmp_path / "bin" / "bwrap"
    older.parent.mkdir()
    refusal = 'case "$*" in *--disable-userns*|*--size*|*--help*) exit 1;; esac'
    older.write_text(f'#!/bin/sh\n{refusal}\nexec {shutil.which("bwrap")} "$@"\n')
    older.chmod(0o755)

    assert apart(run_dir, "echo works", PATH=f"{older.parent}:/usr/bin:/bin") == "works\n"


def test_a_run_that_imports_may_add_a_model_and_change_none(run_dir, tmp_path):
    config = {"source": "tiny", "output": str(tmp_path / "models" / "new")}
    write_json(run_dir / "config.json", {"kind": "import_model", "config": config})

    apart(
        run_dir, "cd ../../models && mkdir .new.partial && mv .new.partial new; echo x > mine/file"
    )

    assert (tmp_path / "models" / "new").is_dir()
    assert (tmp_path / "models" / "mine" / "file").read_text() == "models/mine"


NAMES = ["my", "mine-too", ".mine.lock", "mine.download", "minemine"]


def test_a_run_that_imports_changes_no_model_whose_name_holds_that_of_its_own(run_dir, tmp_path):
    for name in NAMES:
        (tmp_path / "models" / name).mkdir()
        (tmp_path / "models" / name / "file").write_text(name)
    config = {"source": "tiny", "output": str(tmp_path / "models" / "m")}
    write_json(run_dir / "config.json", {"kind": "import_model", "config": config})

    apart(
        run_dir, "cd ../../models; for name in $(ls -A); do echo x > $name/file; rm -r $name; done"
    )

    written = {name: (tmp_path / "models" / name / "file").read_text() for name in NAMES}
    assert written == {name: name for name in NAMES}


def test_a_run_that_imports_a_model_that_is_there_reads_it_alone(run_dir, tmp_path):
    model = tmp_path / "models" / "mine"
    (model / "preferendum.json").write_text("{}")
    config = {"source": "tiny", "output": str(model)}
    write_json(run_dir / "config.json", {"kind": "import_model", "config": config})

    said = apart(run_dir, f"cat {model}/file; echo; echo x > {model}/file")

    assert (model / "file").read_text() == "models/mine"
    assert said.startswith("models/mine\n")


@pytest.mark.parametrize(
    "name", ["new", ".new.lock", ".new.partial", ".new.partial.download", ".new.old"]
)
def test_a_run_that_imports_takes_up_what_an_earlier_attempt_has_left(run_dir, tmp_path, name):
    left = tmp_path / "models" / name
    left.mkdir()
    config = {"source": "tiny", "output": str(tmp_path / "models" / "new")}
    write_json(run_dir / "config.json", {"kind": "import_model", "config": config})

    apart(run_dir, f"rmdir {left}")

    assert not left.exists()


def test_a_run_reads_the_tasks_that_the_machine_keeps_for_the_harness(run_dir, tmp_path):
    folder = tmp_path / "lm_eval_tasks"
    folder.mkdir()
    (folder / "doors.jsonl").write_text("{}")

    said = apart(
        run_dir, f"cat {folder}/*; echo x > {folder}/x", PREFERENDUM_LM_EVAL_TASKS=str(folder)
    )

    assert said.startswith("{}")
    assert not (folder / "x").exists()


def test_a_run_reads_the_authorities_that_its_machine_trusts(run_dir, tmp_path):
    for name in ("ours.pem", "theirs.pem"):
        (tmp_path / name).write_text(name)
    trusted = {
        "SSL_CERT_FILE": f"{tmp_path}/ours.pem",
        "REQUESTS_CA_BUNDLE": f"{tmp_path}/theirs.pem",
    }

    said = apart(run_dir, f"cat {tmp_path}/*.pem; echo x > {tmp_path}/ours.pem", **trusted)

    assert said.startswith("ours.pemtheirs.pem")
    assert (tmp_path / "ours.pem").read_text() == "ours.pem"


def test_a_run_sees_the_package_of_a_reward_function_and_no_other_folder(run_dir, tmp_path):
    for name in ("polite/rewards.py", "other/rewards.py", "rlhf/__init__.py", "manage.py"):
        file = tmp_path / "app" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    said = apart(
        run_dir, f"ls {tmp_path}/app", PYTHONPATH=f"{tmp_path}/app",
        PREFERENDUM_REWARD_FUNCTIONS="polite.rewards.thanks",
    )  # fmt: skip

    assert said.split() == ["manage.py", "polite", "rlhf"]


def test_a_configuration_that_names_the_data_folder_is_refused(run_dir, tmp_path):
    write_json(run_dir / "config.json", {"kind": "merge", "config": {"data": str(tmp_path)}})

    assert apart(run_dir, "true") == (
        f"error: {tmp_path} holds the run's own folder: it cannot be read from inside\n"
    )


def test_exit_code_is_the_commands(run_dir):
    assert subprocess.run([APART, run_dir, "sh", "-c", "exit 7"], check=False).returncode == 7


def test_sigterm_reaches_the_command_and_is_waited_for(run_dir):
    script = "trap 'sleep 0.2; echo saved > checkpoint; exit 3' TERM; touch ready; while :; do sleep 0.05; done"
    code = f"import signal, os; signal.signal(15, signal.SIG_DFL); os.execv('/bin/sh', ['sh', '-c', {script!r}])"
    process = subprocess.Popen([APART, run_dir, sys.executable, "-c", code], start_new_session=True)
    while not (run_dir / "ready").exists() and process.poll() is None:
        time.sleep(0.02)

    os.killpg(process.pid, signal.SIGTERM)

    assert process.wait() == 3
    assert (run_dir / "checkpoint").read_text() == "saved\n"


@pytest.mark.slow
def test_a_whole_run_works_in_the_sandbox(run_dir):
    config = {"source": "tiny", "measure_speed": False}
    write_json(run_dir / "config.json", {"kind": "import_model", "config": config})
    command = [sys.executable, "-m", "rlhf.training", str(run_dir)]

    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(django_settings.BASE_DIR)}
    subprocess.run(
        [APART, run_dir, *command], env={**environment, "HF_HUB_OFFLINE": "1"}, check=True
    )

    assert json.loads((run_dir / "result.json").read_text())["status"] == "succeeded"

import pytest

from rlhf import processes

TRACEBACK = """\
warning: something
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    boom()
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
    raise ValueError("no a")
ValueError: no a
terminate called
"""


@pytest.mark.parametrize(
    ("code", "log", "sentence"),
    [
        (3, "", "The run could not use what it was given; the log says why."),
        (3, "x\nerror: Line 3 is no JSON.\n", "Line 3 is no JSON."),
        (6, "", "The disk is full. Free some space, then resume."),
        (1, TRACEBACK, "The process crashed: ValueError: no a (see the log)."),
        (1, "", "The process ended with exit code 1: see the log."),
        (0, "", "The process ended well but left no result.json: see the log."),
        (-11, "", "The process was ended by signal 11 (SIGSEGV): see the log."),
        (134, "", "The process was ended by signal 6 (SIGABRT): see the log."),
        (-40, "", "The process was ended by signal 40 (unknown): see the log."),
        (126, "", "The launcher command may not be executed: check PREFERENDUM_RUN_COMMAND."),
    ],
)
def test_exit_is_explained_in_a_sentence(code, log, sentence):
    assert processes.explain_exit(code, log, 100) == sentence


@pytest.mark.parametrize("code", [-9, 137])
def test_kill_is_explained_by_memory(code):
    assert processes.explain_exit(code, "", 812) == (
        "The process was killed by the system (signal 9), most likely out of memory "
        "(it used up to 812 MiB): start again with other settings, such as a smaller batch."
    )


def test_log_of_an_attempt_begins_after_its_header(tmp_path):
    log = tmp_path / "log.txt"
    first, second = (processes.attempt_header(n, ["python", "-m", "x"]) for n in (0, 1))

    log.write_text(f"{first}old\n{second}new\nlines\n")

    assert second == "=== attempt 2: python -m x\n"
    assert processes.attempt_log(tmp_path) == "new\nlines\n"


def test_log_that_does_not_exist_is_empty(tmp_path):
    assert processes.attempt_log(tmp_path) == ""


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    (tmp_path / "log.txt").write_bytes(b"\xff" * 10**6 + b"end")

    assert len(processes.attempt_log(tmp_path)) == processes.LOG_TAIL_BYTES


def test_launcher_template_keeps_paths_with_spaces_whole(settings, tmp_path):
    settings.RUN_COMMAND = "srun --gres 'gpu:1' {python} -m rlhf.training {run_dir}"

    command = processes.command_for(tmp_path / "a b")

    assert command[:3] == ["srun", "--gres", "gpu:1"]
    assert command[-2:] == ["rlhf.training", str(tmp_path / "a b")]


def test_accelerate_launches_what_the_template_would_have_run(settings, tmp_path):
    settings.RUN_COMMAND = "nice {python} -m rlhf.training {run_dir}"
    settings.ACCELERATE_DIR = tmp_path
    (tmp_path / "two.yaml").touch()

    command = processes.command_for(tmp_path, "two.yaml")

    assert processes.accelerate_configs() == ["two.yaml"]
    assert command[2:5] == ["-m", "accelerate.commands.launch", "--config_file"]
    assert command[5:] == [str(tmp_path / "two.yaml"), "-m", "rlhf.training", str(tmp_path)]


def test_a_template_without_python_offers_no_processes(settings, tmp_path):
    settings.RUN_COMMAND, settings.ACCELERATE_DIR = "train.sh {run_dir}", tmp_path
    (tmp_path / "two.yaml").touch()

    assert processes.accelerate_configs() == []


def test_run_is_told_where_more_tasks_for_the_harness_are(settings, tmp_path):
    settings.LM_EVAL_TASKS = tmp_path

    assert processes.environment(online=False)["PREFERENDUM_LM_EVAL_TASKS"] == str(tmp_path)


def test_run_is_told_which_functions_it_may_call(settings):
    settings.REWARD_FUNCTIONS = ["our.rewards.polite", "our.rewards.short"]

    passed_on = processes.environment(online=False)

    assert passed_on["PREFERENDUM_REWARD_FUNCTIONS"] == "our.rewards.polite,our.rewards.short"


def test_without_bubblewrap_runs_have_limits_alone_and_say_so(settings, tmp_path, monkeypatch):
    settings.RUN_COMMAND = "auto"
    monkeypatch.setenv("PATH", str(tmp_path))

    assert processes.command_for(tmp_path)[1:] == ["-m", "rlhf.training", str(tmp_path)]
    assert processes.kept_apart() == (
        "by limits alone, without a sandbox: bubblewrap is not installed (docs/deploy.md, Kept apart)"
    )


def test_what_the_owner_says_about_starting_runs_is_not_commented_on(settings):
    settings.RUN_COMMAND = "srun {python} -m rlhf.training {run_dir}"

    assert processes.run_command() == "srun {python} -m rlhf.training {run_dir}"
    assert processes.kept_apart() == ""

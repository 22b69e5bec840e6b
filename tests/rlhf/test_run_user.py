import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

import pytest

from rlhf import processes, run_user
from rlhf.run_user import CannotChangeUser, first_link, hand_over, take_back
from rlhf.supervision import supervise
from tests.rlhf.factories import RunFactory

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change users here")


@pytest.fixture
def folder():
    """One that any user can reach, as pytest's own are not."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def output_of(script, folder, user=None):
    process = processes.RunProcess.start(["/bin/sh", "-c", script], folder, {}, user)
    process.go()
    while process.is_alive():
        time.sleep(0.01)
    return (folder / "log.txt").read_text().splitlines()


@as_root
def test_run_is_started_as_its_user_in_no_other_group_and_writes_its_folder(settings, folder):
    settings.RUN_USER = "nobody"
    user = run_user.run_user()
    hand_over(folder, user)

    said = output_of("id -u; id -G; touch made && mkdir sub && touch sub/made", folder, user)

    assert said == [str(user.uid), str(user.gid)]
    assert (folder / "sub" / "made").stat().st_uid == user.uid


@as_root
def test_what_a_run_has_made_belongs_to_the_trainer_when_it_has_ended(settings, folder):
    settings.RUN_USER = "nobody"
    user = run_user.run_user()
    hand_over(folder, user)
    output_of("mkdir artifact && echo weights > artifact/model", folder, user)

    take_back(folder)

    said = output_of("echo other > artifact/model || true", folder, user)
    assert "Permission denied" in said[-1]
    assert (folder / "artifact" / "model").read_text() == "weights\n"


@as_root
@pytest.mark.django_db
def test_supervised_run_is_its_users_and_afterwards_the_trainers(settings, folder):
    settings.RUN_USER, settings.RUNS_DIR = "nobody", folder / "runs"
    (folder / "train.sh").write_text("id -u > $1/who")
    settings.RUN_COMMAND = f"/bin/sh {folder}/train.sh {{run_dir}}"
    run = RunFactory()

    supervise(run.pk)

    assert (run.folder / "who").read_text() == f"{run_user.run_user().uid}\n"
    assert (run.folder / "who").stat().st_uid == run.folder.stat().st_uid == os.geteuid()


@as_root
def test_frozen_files_that_a_run_shares_stay_what_they_are(settings, folder, tmp_path):
    settings.RUN_USER = "nobody"
    frozen = tmp_path / "data.jsonl"
    frozen.write_text("frozen")
    os.link(frozen, folder / "data.jsonl")

    hand_over(folder, run_user.run_user())

    assert frozen.stat().st_uid == 0


@as_root
def test_beside_the_models_of_everybody_a_run_may_add_and_not_replace(settings, folder):
    settings.RUN_USER = "nobody"
    user, models = run_user.run_user(), folder / "models"
    (models / "theirs").mkdir(parents=True)
    (folder / "run").mkdir()
    hand_over(folder / "run", user, models / "mine")

    said = output_of("mkdir ../models/mine; mv ../models/theirs ../models/x", folder / "run", user)

    assert sorted(path.name for path in models.iterdir()) == ["mine", "theirs"]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nobody-of-this-name", "there is no user nobody-of-this-name (PREFERENDUM_RUN_USER)"),
        ("root", "PREFERENDUM_RUN_USER is root: name a user without privileges"),
    ],
)
def test_a_user_that_runs_cannot_be_started_as_is_refused(settings, name, sentence):
    settings.RUN_USER = name

    with pytest.raises(CannotChangeUser) as error:
        run_user.run_user()

    assert str(error.value) == sentence


def test_a_secret_that_the_user_could_read_is_refused(settings):
    settings.RUN_USER, secret = "nobody", settings.DATA_DIR / "secret_key"
    secret.write_text("x")
    secret.chmod(0o644)

    with pytest.raises(CannotChangeUser) as error:
        run_user.run_user()

    assert str(error.value) == (
        f"{secret} may be read by everybody, nobody included: chmod o-rwx it"
    )


def test_limits_hold_before_the_program_runs(settings, tmp_path):
    settings.RUN_FILE_LIMIT_MIB = 1

    said = output_of("ulimit -c; ulimit -n; ulimit -f; ulimit -f unlimited || true", tmp_path)

    assert said[:3] == ["0", "4096", "2048"]  # of 512 bytes


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv (util-linux) is not installed")
def test_a_run_gets_no_new_privileges(tmp_path):
    assert output_of("grep NoNewPrivs /proc/self/status", tmp_path) == ["NoNewPrivs:\t1"]


def test_links_in_a_folder_are_found(tmp_path):
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "card.json").touch()
    assert first_link(tmp_path) is None

    (tmp_path / "artifact" / "model").symlink_to("/etc/passwd")

    assert first_link(tmp_path) == Path("artifact/model")


def test_folder_of_a_run_is_open_to_the_group_that_asks_it_questions(folder):
    hand_over(folder, run_user.RunUser(os.geteuid(), os.getegid()))

    assert stat.S_IMODE(folder.stat().st_mode) == 0o2775

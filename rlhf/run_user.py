"""The unprivileged user that runs are started as, if the installation names one.

The trainer must be allowed to change users: as root, or with the capabilities CAP_SETUID, CAP_SETGID, CAP_CHOWN
and CAP_KILL. A run owns its folder while it runs; when it has ended, its files belong to the trainer again, so
that no later run can change them.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django.conf import settings


class CannotChangeUser(OSError):
    """With a sentence for the admin."""


class RunUser(NamedTuple):
    uid: int
    gid: int


def run_user() -> RunUser | None:
    """Whom runs are started as; None: as the trainer itself. Raises CannotChangeUser."""
    name = settings.RUN_USER
    if not name:
        return None
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise CannotChangeUser(f"there is no user {name} (PREFERENDUM_RUN_USER)") from None
    if found.pw_uid == 0:
        raise CannotChangeUser("PREFERENDUM_RUN_USER is root: name a user without privileges")
    for secret in _secrets():
        if secret.is_file() and secret.stat().st_mode & stat.S_IROTH:
            raise CannotChangeUser(
                f"{secret} may be read by everybody, {name} included: chmod o-rwx it"
            )
    return RunUser(found.pw_uid, found.pw_gid)


def _secrets() -> Iterator[Path]:
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        yield Path(database["NAME"])
    yield settings.DATA_DIR / "secret_key"
    yield settings.BASE_DIR / ".env"


def hand_over(folder: Path, user: RunUser, output: Path | None = None) -> None:
    """Let the user own the folder; beside `output`, a place outside of it, it may only add.

    The group stays as it was and may write, because the web process leaves questions of live conversations there.
    Raises CannotChangeUser.
    """
    try:
        _give(folder, user.uid, 0o2770)
        if output is not None:
            # With the sticky bit nobody removes what belongs to others.
            os.chown(output.parent, -1, user.gid)
            output.parent.chmod(0o1775)
    except PermissionError as error:
        raise CannotChangeUser(
            f"the run's folder could not be handed over to {settings.RUN_USER}, because the trainer is not "
            f"allowed to: start it as root, or with the capabilities that docs/deploy.md names ({error})"
        ) from error


def take_back(folder: Path, output: Path | None = None) -> None:
    """Own what an ended run has written."""
    if settings.RUN_USER:
        for made in filter(None, (folder, output)):
            if made.is_dir() and not made.is_symlink():
                _give(made, os.geteuid(), 0o0775)


def _give(folder: Path, uid: int, mode: int) -> None:
    """Files with a second name are frozen: they belong to an export or a dataset, and stay as they are.

    No link is followed: its target may be anybody's.
    """
    for place, _, files, descriptor in os.fwalk(folder, follow_symlinks=False):
        for name in files:
            if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_nlink == 1:
                os.chown(name, uid, -1, dir_fd=descriptor, follow_symlinks=False)
        os.fchmod(descriptor, mode | stat.S_IMODE(Path(place).stat().st_mode) & 0o005)
        os.fchown(descriptor, uid, -1)


def first_link(folder: Path) -> Path | None:
    """A symbolic link in a run's folder, which no run makes; it may lead anywhere. None if there is none."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (Path(place) / name).is_symlink():
                return (Path(place) / name).relative_to(folder)
    return None

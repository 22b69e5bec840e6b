"""The project `demo`: people, prompts, and two answers to each that the embedded model wrote."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from annotator.importing import import_jsonl
from annotator.models import Membership, Project, Role, User
from annotator.screening import default_checks
from rlhf import runs, suites
from rlhf.demo.answers import COMPARISONS
from rlhf.models import RunKind

SLUG = "demo"
GUIDELINES = """\
Both answers were written by the same small language model. Which one would you rather get?

* **Correct** beats fluent; **to the point** beats long; kind beats curt.
* An answer that breaks off in the middle is worse, unless the other one is wrong.
* If you cannot tell them apart, call it a tie. If neither is any use, say that both are bad.
"""


class Login(NamedTuple):
    username: str
    password: str  # empty if it was changed since, or is not known
    purpose: str


PEOPLE = {
    "admin": (Role.ADMIN, "runs the loop: votes, exports, training, evaluation"),
    "anna": (Role.ANNOTATOR, "ranks answers"),
    "ben": (Role.ANNOTATOR, "ranks answers"),
}


@transaction.atomic
def create_project() -> bool:
    """Make everything, or nothing if there is a project `demo` already. True if it was made."""
    if Project.objects.filter(slug=SLUG).exists():
        return False
    project = Project.objects.create(
        name="Demo",
        slug=SLUG,
        guidelines=GUIDELINES,
        overlap=2,  # so that the page about agreement has something to say
        # The guidelines say what to do with answers that break off, as a third of these do.
        screening=[name for name in default_checks() if name != "truncated"],
    )
    suites.run_after_training(project, wanted=False)  # minutes that a first visit has not got
    users = {name: _get_or_create_user(name) for name in PEOPLE}
    for name, (role, _) in PEOPLE.items():
        Membership.objects.create(project=project, user=users[name], role=role)
    with COMPARISONS.open("rb") as lines:
        import_jsonl(project, lines, user=users["admin"])
    runs.launch(
        project,
        RunKind.IMPORT_MODEL,
        {"source": "embedded"},
        user=users["admin"],
        round_number=1,
    )
    return True


def _get_or_create_user(name: str) -> User:
    if user := User.objects.filter(username=name).first():
        return user
    password = _passwords()[name]
    if PEOPLE[name][0] == Role.ADMIN:
        return User.objects.create_superuser(name, password=password)
    return User.objects.create_user(name, password=password)


def _passwords() -> dict[str, str]:
    """The passwords drawn at the first start, kept beside the database for the later ones."""
    path: Path = settings.DATA_DIR / "demo_logins.json"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(json.dumps({name: draw_password() for name in PEOPLE}, indent=1))
    return json.loads(path.read_text())


def draw_password() -> str:
    """Twelve letters and digits in three groups, without those that look alike (60 bits)."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(4)) for _ in range(3))


def logins() -> list[Login]:
    """The people of the demo project that still exist, with the passwords that still work."""
    passwords = _passwords()
    users = {user.username: user for user in User.objects.filter(username__in=PEOPLE)}
    return [
        Login(
            name,
            passwords[name] if users[name].check_password(passwords[name]) else "",
            purpose,
        )
        for name, (_, purpose) in PEOPLE.items()
        if name in users
    ]

"""The queue while processes are killed in the middle of it, on the database of DATABASE_URL.

    python tests/annotator/queue_under_fire.py NAME PEOPLE COMPARISONS OVERLAPS FOLDER

Each person is a process that judges and skips until everything is answered. They die by SIGKILL
again and again: at a statement drawn beforehand, many of them inside transactions, or at any time
by the parent's hand. Whoever comes back sends a verdict again whose answer never arrived, as a page
does after a lost connection; one in eight stays away for good. Leases run out, of the dead and of
the living. Comparison i has overlap OVERLAPS[i % len(OVERLAPS)], written like 1,3.

What each person did and was told is in their journal in FOLDER, written before and after each call.
Prints one JSON object: what the database and the journals say of each other in the end.
"""

import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.annotator.queue_under_load import broken_comparisons  # isort: skip  (sets Django up)

from django.core.management import call_command
from django.db import connection
from django.db.models import Count, F, Q, Sum
from django.utils import timezone

from annotator import assignment as queue
from annotator.importing import import_jsonl
from annotator.models import (
    Assignment,
    AssignmentState,
    Judgment,
    Membership,
    Project,
    User,
    Verdict,
)

DEATHS = 4  # by fuse, of each person who comes back
FUSE = 80  # statements and lines of a journal: some two verdicts
TICK = 0.05  # seconds between two looks of the parent
PATIENCE = 30  # seconds of nothing to do after which a person leaves: something is wrong
fork = multiprocessing.get_context("fork")  # Django is set up once, not for each life


def main():
    name, people, comparisons, overlaps, folder = sys.argv[1:]
    logging.disable(logging.WARNING)
    random.seed(0)
    call_command("migrate", verbosity=0)
    project = new_project(name, int(comparisons), [int(overlap) for overlap in overlaps.split(",")])
    journals = [Journal(Path(folder) / f"{name}-{n}.jsonl") for n in range(int(people))]
    everybody = [new_person(project, journal.path.stem) for journal in journals]
    fired = besiege(project, everybody, journals)
    print(json.dumps({**fired, **compare(project, everybody, journals)}))  # noqa: T201


def new_project(name, n_comparisons, overlaps):
    project = Project.objects.create(name=name, slug=name)
    lines = (
        json.dumps({"prompt": f"Question {n}?", "completions": ["a", "b"]}).encode()
        for n in range(n_comparisons)
    )
    import_jsonl(project, lines)
    pks = list(project.comparisons.values_list("pk", flat=True))
    for turn, overlap in enumerate(overlaps):
        mine = project.comparisons.filter(pk__in=pks[turn :: len(overlaps)])
        mine.update(overlap=overlap)
    return project


def new_person(project, username):
    person = User.objects.create(username=username)
    Membership.objects.create(project=project, user=person)
    return person


# --- the fire ---------------------------------------------------------------------------------
def besiege(project, everybody, journals):
    """Kill, bring back, let leases run out and give them back, as the worker does, until everybody
    says that all is answered."""
    lives, count = Counter(), Counter()
    at_work = {n: start(project, everybody[n], journals[n], life=0) for n in range(len(everybody))}
    looks = 0
    while at_work:
        time.sleep(TICK)
        for n in [n for n, process in at_work.items() if not process.is_alive()]:
            code = at_work.pop(n).exitcode
            if code not in (0, -signal.SIGKILL):
                sys.exit(f"person {n} failed with exit code {code}")  # has printed why
            if code == 0:
                continue
            count["kills"] += 1
            lives[n] += 1
            if n % 8 == 7:  # stays away
                run_out(Assignment.objects.filter(annotator=everybody[n]))
            else:
                at_work[n] = start(project, everybody[n], journals[n], lives[n])
        looks += 1
        if looks % 10 == 0 and at_work and looks < 10 * DEATHS * len(everybody):
            random.choice(list(at_work.values())).kill()
        live = Assignment.objects.filter(project=project, state=AssignmentState.LIVE)
        if one := live.order_by("?").first():
            run_out(live.filter(pk=one.pk))
            queue.release_expired(project)
        if looks % 20 == 0:
            count["seen_broken"] += broken_comparisons(project.pk).count()
    return {"kills": count["kills"], "seen_broken": count["seen_broken"]}


def run_out(assignments):
    past = timezone.now() - timedelta(seconds=1)
    assignments.filter(state=AssignmentState.LIVE).update(lease_until=past)


def start(project, person, journal, life):
    connection.close()  # the child must not speak through the parent's
    fuse = Fuse(random.randint(1, FUSE) if life < DEATHS else None, journal)
    process = fork.Process(target=live, args=(project, person, journal, fuse, life), daemon=True)
    process.start()
    return process


class Fuse:
    """Ends the process when it has burnt down: at the n-th statement or line, or never for None."""

    def __init__(self, n, journal):
        self.left, self.journal = n, journal

    def burn(self):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.journal.write("dies", in_transaction=connection.in_atomic_block)
                os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, execute, *statement):
        self.burn()
        result = execute(*statement)
        self.burn()  # it has done its work, and nothing has been committed
        return result


class Journal:
    """What one person did and was told, line by line; what is written survives the writer."""

    def __init__(self, path):
        self.path = path

    def write(self, event, **more):
        # The line break comes first, so that a line that was cut off spoils no other.
        line = "\n" + json.dumps({"event": event, **more})
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def read(self):
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def unanswered(self):
        """The verdict that was said last, if its answer did not arrive."""
        events = [line for line in self.read() if line["event"] != "dies"]
        return events[-1] if events and events[-1]["event"] == "says" else None


# --- a person ---------------------------------------------------------------------------------
def live(project, person, journal, fuse, life):
    """One life of a person, up to the end of the work or of the fuse."""
    random.seed(person.pk * 1000 + life)
    with connection.execute_wrapper(fuse.wrap):
        if last := journal.unanswered():
            say(Assignment.objects.get(pk=last["assignment"]), last["verdict"], journal, fuse)
        since = time.monotonic()
        while time.monotonic() - since < PATIENCE:
            if assignment := queue.claim(project, person):
                verdict = random.choices([Verdict.RANKING, Verdict.SKIPPED], [19, 1])[0]
                say(assignment, verdict, journal, fuse)
                since = time.monotonic()
            elif is_answered(project):
                break
            else:
                time.sleep(TICK)
    connection.close()


def say(assignment, verdict, journal, fuse):
    journal.write("says", assignment=assignment.pk, verdict=verdict)
    fuse.burn()
    ranking = [[pk] for pk in assignment.order] if verdict == Verdict.RANKING else []
    try:
        judgment = queue.record(
            assignment, Verdict(verdict), ranking, payload_hash=assignment.payload_hash
        )
    except queue.NotRecorded:
        journal.write("is refused", assignment=assignment.pk)
        return
    fuse.burn()  # recorded, but nobody has heard of it
    journal.write("is told", assignment=assignment.pk, judgment=judgment.pk)
    fuse.burn()


def is_answered(project):
    needed = project.comparisons.aggregate(needed=Sum("overlap"))["needed"]
    return Judgment.objects.counted().filter(project=project).count() == needed


# --- afterwards -------------------------------------------------------------------------------
def compare(project, everybody, journals):
    """What the database holds against what each person did and was told."""
    said, told, refused, killed_in_transaction = {}, {}, set(), 0
    for person, journal in zip(everybody, journals, strict=True):
        for line in journal.read():
            if line["event"] == "dies":
                killed_in_transaction += line["in_transaction"]
                continue
            key = line["assignment"], person.pk
            if line["event"] == "says":
                said[key] = line["verdict"]
            elif line["event"] == "is told":
                told.setdefault(key, set()).add(line["judgment"])
            else:
                refused.add(key)
    judgments = Judgment.objects.filter(project=project, voided=None)
    rows = judgments.values_list("pk", "assignment", "annotator", "verdict")
    found = {pk: (assignment, annotator) for pk, assignment, annotator, _ in rows}
    counted = Count("judgments", ~Q(judgments__verdict=Verdict.SKIPPED))
    comparisons = project.comparisons.annotate(counted=counted)
    return {
        "killed_in_transaction": killed_in_transaction,
        "verdicts": len(found),
        "lost": sum(found.get(pk) != key for key, pks in told.items() for pk in pks),
        "doubled": len(found) - len(set(found.values())),
        "unsaid": sum(said.get((assignment, person)) != v for _, assignment, person, v in rows),
        "recorded_though_refused": len(refused & set(found.values())),
        "refused": len(refused),
        "unanswered": comparisons.filter(counted__lt=F("overlap")).count(),
        "over_assigned": comparisons.filter(counted__gt=F("overlap")).count(),
        "broken": broken_comparisons(project.pk).count(),
        "live": Assignment.objects.filter(project=project, state=AssignmentState.LIVE).count(),
        "expired": Assignment.objects.filter(
            project=project, state=AssignmentState.EXPIRED
        ).count(),
    }


if __name__ == "__main__":
    main()

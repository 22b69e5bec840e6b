"""The queue while processes are killed in the middle of it, on the database of DATABASE_URL.

    python tests/annotator/queue_under_fire.py NAME PEOPLE COMPARISONS OVERLAPS FOLDER

Each person is a process that judges, skips and takes back until everything is answered; three of four
get the next comparison with their verdict, as on the page. They die by SIGKILL again and again: at a
statement drawn beforehand, many of them inside transactions, or at any time by the parent's hand.
Whoever comes back sends a verdict, or an undo, again whose answer never arrived, as a page does after
a lost connection; one in eight stays away for good. Leases run out, of the dead and of the living.
The parent moves what some hold to others, and holds comparisons back for a moment. Comparison i has overlap OVERLAPS[i % len(OVERLAPS)], written like 1,3.

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
    IN_HAND,
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
THINKS = 0.1  # share of the verdicts before which a person thinks: others can take what they hold
UNDONE = 0.08  # share of the verdicts that are taken back
HELD = 0.2  # seconds of a hold
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
        in_hand = Assignment.objects.filter(IN_HAND, project=project)
        if one := in_hand.order_by("?").first():
            run_out(in_hand.filter(pk=one.pk))
            queue.release_expired(project)
        if at_work:
            count["moves"] += move_one(project, random.choice([everybody[n] for n in at_work]))
        if looks % 2 == 0:
            count["holds"] += hold_one(project)
        if looks % 20 == 0:
            count["seen_broken"] += broken_comparisons(project.pk).count()
    return {name: count[name] for name in ("kills", "moves", "holds", "seen_broken")}


def run_out(assignments):
    past = timezone.now() - timedelta(seconds=1)
    assignments.filter(IN_HAND).update(lease_until=past)


def move_one(project, to):
    """Whether what somebody holds waits for `to` from now on."""
    held = Assignment.objects.filter(project=project, state=AssignmentState.LIVE)
    held = held.select_related("comparison__prompt", "project", "annotator")
    one = held.exclude(annotator=to).order_by("?").first()
    try:
        return one is not None and bool(queue.move(one, to))
    except queue.NotMoved:
        return False


def hold_one(project):
    """Whether an open comparison is held back for a moment."""
    pks = project.comparisons.open().order_by("?").values_list("pk", flat=True)[:1]
    until = timezone.now() + timedelta(seconds=HELD)
    return project.comparisons.filter(pk__in=list(pks)).hold_back("Looked at.", until)


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
        """What was sent last, a verdict or an undo, if its answer did not arrive."""
        events = [line for line in self.read() if line["event"] != "dies"]
        return events[-1] if events and events[-1]["event"] in ("says", "undoes") else None


# --- a person ---------------------------------------------------------------------------------
def live(project, person, journal, fuse, life):
    """One life of a person, up to the end of the work or of the fuse."""
    random.seed(person.pk * 1000 + life)
    with connection.execute_wrapper(fuse.wrap):
        last = journal.unanswered()
        if last and last["event"] == "says":
            say(Assignment.objects.get(pk=last["assignment"]), last["verdict"], journal, fuse)
        elif last:
            undo(project, person, last["judgment"], journal, fuse)
        taken_back = set()  # comparisons: they are not skipped, as everybody else may have left
        has_judged = False
        since = time.monotonic()
        while time.monotonic() - since < PATIENCE:
            if assignment := queue.claim(project, person, has_judged=has_judged):
                if has_judged:
                    journal.write("is handed out", assignment=assignment.pk)
                if random.random() < THINKS:
                    time.sleep(2 * TICK)
                pk = assignment.comparison_id
                skips = 0 if pk in taken_back else 1
                verdict = random.choices([Verdict.RANKING, Verdict.SKIPPED], [19, skips])[0]
                judgment = say(assignment, verdict, journal, fuse)
                has_judged = judgment is not None and person.pk % 4 > 0
                if judgment and random.random() < UNDONE and not is_answered(project):
                    undo(project, person, judgment, journal, fuse)
                    taken_back.add(pk)
                    has_judged = False
                since = time.monotonic()
            elif has_judged:
                has_judged = False  # the page looks again
            elif is_answered(project):
                break
            else:
                time.sleep(TICK)
    connection.close()


def say(assignment, verdict, journal, fuse):
    """The judgment's number; None if it is refused."""
    journal.write("says", assignment=assignment.pk, verdict=verdict)
    fuse.burn()
    ranking = [[pk] for pk in assignment.order] if verdict == Verdict.RANKING else []
    try:
        judgment = queue.record(
            assignment, Verdict(verdict), ranking, payload_hash=assignment.payload_hash
        )
    except queue.NotRecorded:
        journal.write("is refused", assignment=assignment.pk)
        return None
    fuse.burn()  # recorded, but nobody has heard of it
    journal.write("is told", assignment=assignment.pk, judgment=judgment.pk)
    fuse.burn()
    return judgment.pk


def undo(project, person, judgment, journal, fuse):
    journal.write("undoes", judgment=judgment)
    fuse.burn()
    try:
        again = queue.undo_last(project, person, judgment_id=judgment)
    except queue.NotUndone:
        again = None
    fuse.burn()
    journal.write("is undone" if again else "is not undone", judgment=judgment)
    fuse.burn()


def is_answered(project):
    needed = project.comparisons.aggregate(needed=Sum("overlap"))["needed"]
    return Judgment.objects.counted().filter(project=project).count() == needed


# --- afterwards -------------------------------------------------------------------------------
def compare(project, everybody, journals):
    """What the database holds against what each person did and was told."""
    said, told, refused, undoes, undone = {}, {}, set(), set(), set()
    killed_in_transaction = handed_out_with_verdict = 0
    for person, journal in zip(everybody, journals, strict=True):
        for line in journal.read():
            if line["event"] == "dies":
                killed_in_transaction += line["in_transaction"]
                continue
            if "assignment" not in line:
                if line["event"] == "undoes":
                    undoes.add(line["judgment"])
                elif line["event"] == "is undone":
                    undone.add(line["judgment"])
                continue
            key = line["assignment"], person.pk
            if line["event"] == "is handed out":
                handed_out_with_verdict += 1
            elif line["event"] == "says":
                said[key] = line["verdict"]
            elif line["event"] == "is told":
                told.setdefault(key, set()).add(line["judgment"])
            else:
                refused.add(key)
    judgments = Judgment.objects.filter(project=project, voided=None)
    rows = judgments.values_list("pk", "assignment", "annotator", "verdict")
    found = {pk: (assignment, annotator) for pk, assignment, annotator, _ in rows}
    in_force = Q(judgments__voided=None)
    counted = Count("judgments", in_force & ~Q(judgments__verdict=Verdict.SKIPPED))
    comparisons = project.comparisons.annotate(counted=counted)
    return {
        "killed_in_transaction": killed_in_transaction,
        "verdicts": len(found),
        "handed_out_with_verdict": handed_out_with_verdict,
        "undone": len(undone),
        "lost": sum(found.get(pk) != key for key, pks in told.items() for pk in pks - undoes),
        "in_force_though_undone": len(undone & set(found)),
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

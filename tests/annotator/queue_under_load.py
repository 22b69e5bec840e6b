"""The queue used by many at once, on the database of DATABASE_URL; run by the tests.

    python tests/annotator/queue_under_load.py

Several processes with several threads each, all waiting for the same moment. Prints one JSON
object: what each scenario left behind.
"""

import json
import logging
import multiprocessing
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path

import django

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Count, F, Q  # noqa: E402
from django.utils import timezone  # noqa: E402

from annotator import assignment as queue  # noqa: E402
from annotator.assignment import finding, leases, showing, verdicts  # noqa: E402
from annotator.ballots import read  # noqa: E402
from annotator.importing import import_jsonl  # noqa: E402
from annotator.models import (  # noqa: E402
    Arm,
    Assignment,
    AssignmentState,
    Comparison,
    Judgment,
    Membership,
    Project,
    Purpose,
    QueueOrder,
    User,
    Verdict,
)
from annotator.protocols import Protocol, to_json  # noqa: E402

PROCESSES, THREADS = 2, 8
EVERYBODY = PROCESSES * THREADS
ROUNDS_OF_LATE = 3
QUOTA = 20  # of one person in the scenario about it
barrier = pool = None  # of all threads; of all processes


def main():
    global pool
    logging.disable(logging.WARNING)
    call_command("migrate", verbosity=0)
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(PROCESSES, share_barrier, [spawn.Barrier(EVERYBODY)]) as pool:
        scenarios = [
            claims, claims_in_order, one_persons_claims, one_persons_verdicts, expired_leases,
            late_verdicts, one_persons_quota, moves, work, ends, crossings, unrankables,
        ]  # fmt: skip
        print(json.dumps({scenario.__name__: scenario() for scenario in scenarios}))  # noqa: T201


def share_barrier(of_everybody):
    global barrier
    barrier = of_everybody


# --- scenarios --------------------------------------------------------------------------------
def claims():
    """As many people as comparisons of overlap 1: each gets one, all different."""
    project, people = new_project("claims", n_comparisons=EVERYBODY, overlap=1)
    results = at_once(do_claim, [(project.pk, person) for person in people])
    return {"distinct": len(set(results)), "none": results.count(None), **state_of(project)}


def claims_in_order():
    """The same where the most informative come first: they are what is handed out."""
    project, people = new_project("order", n_comparisons=2 * EVERYBODY, overlap=1)
    Project.objects.filter(pk=project.pk).update(queue_order=QueueOrder.INFORMATIVE)
    Comparison.objects.filter(project=project).update(arm=Arm.ACTIVE, place=F("draw"))
    results = at_once(do_claim, [(project.pk, person) for person in people])
    free = Comparison.objects.open().filter(project=project)
    return {
        "distinct": len(set(results)),
        "best_left": free.order_by("place").first().place,
        "worst_asked": project.comparisons.filter(taken=1).order_by("-place").first().place,
        **state_of(project),
    }


def one_persons_claims():
    """One person in many tabs: all show the same assignment."""
    project, people = new_project("tabs", n_comparisons=EVERYBODY, overlap=3)
    results = at_once(do_claim, [(project.pk, people[0])] * EVERYBODY)
    return {"distinct": len(set(results)), "none": results.count(None), **state_of(project)}


def one_persons_verdicts():
    """A verdict sent many times over, half of them skips: the first one stands."""
    project, people = new_project("clicks", n_comparisons=1, overlap=2)
    assignment = queue.claim(project, User.objects.get(pk=people[0]))
    results = at_once(do_record, [(assignment.pk, n % 2 == 0) for n in range(EVERYBODY)])
    return {"distinct": len(set(results)), **state_of(project)}


def expired_leases():
    """All places are held by people who left: each is given back and taken once."""
    project, people = new_project("leases", n_comparisons=EVERYBODY // 2, overlap=2)
    for person in people:
        assert queue.claim(project, User.objects.get(pk=person))
    Assignment.objects.filter(project=project).update(lease_until=timezone.now())
    newcomers = new_people(project, "newcomer")
    results = at_once(do_claim, [(project.pk, person) for person in newcomers])
    return {"distinct": len(set(results)), "none": results.count(None), **state_of(project)}


def late_verdicts():
    """Each sends a verdict whose lease had run out while another tab of theirs asks for the next."""
    project, people = new_project("late", n_comparisons=EVERYBODY, overlap=EVERYBODY)
    people = people[: EVERYBODY // 2]
    results = []
    for _ in range(ROUNDS_OF_LATE):
        late = [queue.claim(project, User.objects.get(pk=person)) for person in people]
        urgent = [assignment.comparison_id for assignment in late]
        Comparison.objects.filter(project=project).update(priority=0)
        Comparison.objects.filter(pk__in=urgent).update(priority=1)  # so it is what is asked next
        for assignment in late:
            queue.release(assignment)
        calls = [call for one in late for call in ((one.pk, None), (project.pk, one.annotator_id))]
        results += at_once(do_record_late_or_claim, calls)
        for person in people:
            queue.release_all(project, User.objects.get(pk=person))
    return {
        "recorded": results.count(True),
        "refused": results.count(False),
        **state_of(project),
    }


def one_persons_quota():
    """One person works on in many tabs, late verdicts among them, until their quota is reached."""
    project, people = new_project("quota", n_comparisons=3 * EVERYBODY, overlap=1)
    Membership.objects.filter(project=project, user=people[0]).update(quota_total=QUOTA)
    results = at_once(do_work_in_tabs, [(project.pk, people[0], n) for n in range(EVERYBODY)])
    return {"recorded_late": sum(results) > 0, **state_of(project)}


def moves():
    """What some hold is moved to the others, who claim at the same time."""
    project, people = new_project("moves", n_comparisons=EVERYBODY // 2, overlap=1)
    givers, takers = people[: EVERYBODY // 2], people[EVERYBODY // 2 :]
    held = [queue.claim(project, User.objects.get(pk=person)) for person in givers]
    calls = [
        call for one, to in zip(held, takers, strict=True) for call in ((one.pk, to), (None, to))
    ]
    at_once(do_move_or_claim, [(project.pk, *call) for call in calls])
    results = at_once(do_claim, [(project.pk, person) for person in [*takers, *takers]])
    return {"distinct": len(set(results)), "none": results.count(None), **state_of(project)}


def ends():
    """What people hold ends in two ways at once: an undo, or another comparison on the screen, takes its
    place while it is given back, as when its lease runs out, or skipped in another tab."""
    half = EVERYBODY // 2
    project, people = new_project("ends", n_comparisons=3 * half, overlap=EVERYBODY)
    calls = []
    for n, person in enumerate(people[:half]):
        user = User.objects.get(pk=person)
        say(queue.claim(project, user), Verdict.RANKING)
        held = queue.claim(project, user)
        calls.append(("undo" if n % 2 else "hand_out", person))
        calls.append(("skip" if n % 4 < 2 else "give_back", held.pk))
    at_once(do_end, [(project.pk, *call) for call in calls])
    return state_of(project)


def crossings():
    """What people hold is moved, given back and answered twice at once; half of them are superusers, who
    have no membership that keeps their tabs apart."""
    project, people = new_project("crossings", n_comparisons=EVERYBODY, overlap=1)
    givers, takers = people[: EVERYBODY // 4], people[EVERYBODY // 4 :]
    roots = User.objects.filter(pk__in=givers[::2])
    roots.update(is_superuser=True)
    Membership.objects.filter(user__in=roots).delete()
    calls = []
    for giver, to in zip(givers, takers, strict=False):
        held = queue.claim(project, User.objects.get(pk=giver))
        calls += [(act, held.pk, to) for act in ("give_back", "move", "say", "say")]
    at_once(do_cross, calls)
    return state_of(project)


def unrankables():
    """As many as were to judge it say at once that they have skipped what cannot be ranked."""
    project, people = new_project("unrankables", n_comparisons=1, overlap=EVERYBODY)
    project.protocol = to_json(Protocol(allow_unrankable=True))
    project.save()
    skips = []
    for person in people:
        held = queue.claim(project, User.objects.get(pk=person))
        skips.append(say(held, Verdict.SKIPPED))
    at_once(do_correct, [(skip.pk,) for skip in skips])
    return {"held": project.comparisons.held().count(), "taken": project.comparisons.get().taken}


def work():
    """People judge, skip, undo, come late, close their pages, give what they hold to others and hold
    it back for a moment, until nothing is left for them, with known answers and repetitions among
    what they are asked. Half of them get the next with their verdict, as on the page."""
    project, people = new_project("day", n_comparisons=20, overlap=3)
    Project.objects.filter(pk=project.pk).update(
        queue_order=QueueOrder.INFORMATIVE, gold_percent=20, repeat_percent=20
    )
    line = {"prompt": "2 + 2?", "completions": ["4", "5"], "expected": [[0], [1]]}
    import_jsonl(project, [json.dumps(line).encode()])
    half = list(project.comparisons.values_list("pk", flat=True)[:10])
    Comparison.objects.filter(pk__in=half).update(arm=Arm.ACTIVE, place=F("draw"))
    watch = threading.Event()
    broken: list[int] = []
    watcher = threading.Thread(target=watch_project, args=(project.pk, watch, broken))
    watcher.start()
    outcomes = Counter()
    for counts in at_once(do_work, [(project.pk, person) for person in people]):
        outcomes.update(counts)
    watch.set()
    watcher.join()
    said = Judgment.objects.filter(project=project, voided=None)
    return {
        **outcomes,
        "seen_broken": len(broken),
        "known": said.filter(comparison__purpose=Purpose.GOLD).count(),
        "repeated": said.filter(is_repeat=True).count(),
        **state_of(project),
    }


# --- what the people do, each in a thread -----------------------------------------------------
def do_claim(project_pk, person):
    project, user = Project.objects.get(pk=project_pk), User.objects.get(pk=person)
    assignment = queue.claim(project, user)
    return assignment and assignment.pk


def do_record(assignment_pk, is_skip):
    assignment = Assignment.objects.get(pk=assignment_pk)
    return say(assignment, Verdict.SKIPPED if is_skip else Verdict.RANKING).pk


def do_record_late_or_claim(pk, person):
    """Whether the verdict was recorded; None of a claim."""
    if person is not None:
        do_claim(pk, person)
        return None
    try:
        return bool(say(Assignment.objects.get(pk=pk), Verdict.RANKING))
    except queue.NotRecorded:
        return False


def do_end(project_pk, act, pk):
    """Slowly, where a place is given back: time enough for others to want what is locked."""
    leases.give_place_back = verdicts.give_place_back = give_place_back_slowly
    project = Project.objects.get(pk=project_pk)
    if act == "give_back":
        return queue.release(Assignment.objects.get(pk=pk))
    if act == "skip":
        return say(Assignment.objects.get(pk=pk), Verdict.SKIPPED).pk
    user = User.objects.get(pk=pk)
    if act == "undo":
        return queue.undo_last(project, user).pk
    unseen = Comparison.objects.filter(project=project).not_handled_by(user)
    return queue.hand_out(unseen.first(), user).pk


def do_cross(act, assignment_pk, to):
    leases.give_place_back = give_place_back_slowly
    assignment = Assignment.objects.get(pk=assignment_pk)
    try:
        if act == "give_back":
            return queue.release(assignment)
        if act == "move":
            return queue.move(assignment, User.objects.get(pk=to)).pk
        return say(assignment, Verdict.RANKING).pk
    except (queue.NotMoved, queue.NotRecorded):
        return None


def do_correct(judgment_pk):
    skip = Judgment.objects.get(pk=judgment_pk)
    said = read({"choice": ["unrankable"]}, Protocol(allow_unrankable=True), skip.assignment.order)
    return queue.correct(skip, said, payload_hash=skip.assignment.payload_hash).pk


def give_place_back_slowly(assignment):
    time.sleep(0.15)
    return showing.give_place_back(assignment)


def do_work(project_pk, person):
    project, user = Project.objects.get(pk=project_pk), User.objects.get(pk=person)
    draw = random.Random(person)
    finding.REPEAT_AFTER = 2
    counts = Counter()
    acts = {"judge": 8, "skip": 1, "leave": 1, "late": 2, "undo": 2, "move": 1, "hold": 1}
    members = list(User.objects.filter(memberships__project=project))
    has_judged = False
    for _ in range(60):
        assignment = queue.claim(project, user, has_judged=has_judged)
        if assignment is None:
            break
        act = draw.choices(list(acts), list(acts.values()))[0]
        counts[act] += 1
        has_judged = False
        if act in ("leave", "late"):  # somebody else may sweep the lease from here on
            Assignment.objects.filter(pk=assignment.pk).update(
                lease_until=timezone.now() - timedelta(seconds=1)
            )
        if act == "leave":
            break
        try:
            if act == "undo":
                queue.undo_last(project, user)
            elif act == "move":
                queue.move(assignment, draw.choice(members))
            else:
                if act == "hold":
                    hold_for_a_moment(assignment)
                say(assignment, Verdict.SKIPPED if act == "skip" else Verdict.RANKING)
                has_judged = person % 2 == 0
                counts["page"] += has_judged
        except (queue.NotMoved, queue.NotRecorded, queue.NotUndone):
            counts["refused"] += 1
    return counts


def hold_for_a_moment(assignment):
    until = timezone.now() + timedelta(milliseconds=20)
    Comparison.objects.filter(pk=assignment.comparison_id).hold_back("Looked at.", until)


def do_work_in_tabs(project_pk, person, tab):
    """How many verdicts of a lease that had been given back were recorded."""
    project, user = Project.objects.get(pk=project_pk), User.objects.get(pk=person)
    n_late = 0
    while assignment := queue.claim(project, user):
        is_late = tab % 2 and queue.release(assignment)
        try:
            say(assignment, Verdict.RANKING)
        except queue.NotRecorded:  # another tab was faster, or the quota is reached
            continue
        n_late += bool(is_late)
    return n_late


def do_move_or_claim(project_pk, assignment_pk, to):
    project, user = Project.objects.get(pk=project_pk), User.objects.get(pk=to)
    if assignment_pk is None:
        return queue.claim(project, user) and 1
    return queue.move(Assignment.objects.get(pk=assignment_pk), user).pk


def say(assignment, verdict):
    ranking = [[pk] for pk in assignment.order] if verdict == Verdict.RANKING else []
    return queue.record(assignment, verdict, ranking, payload_hash=assignment.payload_hash)


# --- all at once ------------------------------------------------------------------------------
def at_once(function, calls):
    """The results of `function(*call)` for each call, each in its thread, all starting together.

    No process can take both parts: their threads wait for each other.
    """
    share = len(calls) // PROCESSES
    parts = [(function, calls[i * share : (i + 1) * share]) for i in range(PROCESSES)]
    results = [result for part in pool.starmap(in_threads, parts, chunksize=1) for result in part]
    if errors := [result for result in results if isinstance(result, str)]:
        sys.exit(errors[0])
    return results


def in_threads(function, calls):
    results = []
    threads = [
        threading.Thread(target=in_thread, args=(partial(function, *call), results))
        for call in calls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def in_thread(call, results):
    try:
        connection.ensure_connection()
        barrier.wait(timeout=60)
        results.append(call())
    except Exception:
        results.append(traceback.format_exc())
    finally:
        connection.close()


# --- the project ------------------------------------------------------------------------------
def new_project(slug, *, n_comparisons, overlap):
    project = Project.objects.create(name=slug, slug=slug, overlap=overlap)
    lines = (
        json.dumps({"prompt": f"Question {n}?", "completions": ["a", "b"]}).encode()
        for n in range(n_comparisons)
    )
    import_jsonl(project, lines)
    return project, new_people(project, "annotator")


def new_people(project, name):
    people = [User.objects.create(username=f"{project.slug}-{name}-{n}") for n in range(EVERYBODY)]
    for person in people:
        Membership.objects.create(project=project, user=person)
    return [person.pk for person in people]


def broken_comparisons(project_pk):
    """Comparisons whose `taken` is not what it counts, as one statement sees them."""
    in_hand = Count(
        "assignments",
        Q(assignments__state__in=["live", "waiting"], assignments__is_repeat=False),
        distinct=True,
    )
    counted = Count(
        "judgments",
        Q(judgments__voided=None, judgments__is_repeat=False)
        & ~Q(judgments__verdict=Verdict.SKIPPED),
        distinct=True,
    )
    rows = Comparison.objects.filter(project=project_pk).annotate(in_use=in_hand + counted)
    is_broken = ~Q(taken=F("in_use")) | Q(in_use__gt=F("overlap"))
    return rows.filter(
        (is_broken & ~Q(purpose=Purpose.GOLD)) | Q(purpose=Purpose.GOLD, taken__gt=0)
    )


def watch_project(project_pk, stop, broken):
    while not stop.wait(0.01):
        broken.extend(broken_comparisons(project_pk).values_list("pk", flat=True))
    connection.close()


def state_of(project):
    return {
        "broken": broken_comparisons(project.pk).count(),
        "live": Assignment.objects.filter(project=project, state=AssignmentState.LIVE).count(),
        "judgments": Judgment.objects.filter(project=project, voided=None).count(),
    }


if __name__ == "__main__":
    main()

"""A gate at which many look in the same moment, on the database of DATABASE_URL; run by the tests.

    python tests/rlhf/gates_under_load.py

Prints one JSON object: what each scenario left behind.
"""

import json
import os
import sys
import threading
from pathlib import Path

import django

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from annotator.audit import AuditEntry  # noqa: E402
from rlhf import gating  # noqa: E402
from rlhf.gate_models import Gate  # noqa: E402
from tests.rlhf.gates import WIN, vote, voting_gate  # noqa: E402

AT_ONCE = 8


def main():
    call_command("migrate", verbosity=0)
    found = {
        "settled": settle_at_once(),
        "rolled_back": roll_back_at_once(),
        "overruled": overrule_at_once(),
        "by_two_ways": overrule_and_roll_back_at_once(),
    }
    sys.stdout.write(json.dumps(found))


def settle_at_once():
    gate = voting_gate()
    vote(gate, *[WIN] * 8)
    seen = [fresh(gate) for _ in range(AT_ONCE)]

    recorded = at_once(gating.settle, [(one,) for one in seen])

    return {
        "recorded": recorded.count(True),
        "promotions": gate.project.promotions.count(),
        "ruled": AuditEntry.objects.filter(kind="gate", object_id=str(gate.pk)).count(),
    }


def roll_back_at_once():
    gate = voting_gate()
    vote(gate, *[WIN] * 8)
    gating.settle(fresh(gate))
    first = gate.project.promotions.get(number=1)

    at_once(roll_back, [(gate.project, first)] * AT_ONCE)

    return {"promotions": gate.project.promotions.count()}


def overrule_at_once():
    """Half of them to promote, half to reject; all have seen it open."""
    gate = voting_gate()
    wanted = ["promote", "reject"] * (AT_ONCE // 2)

    done = at_once(overrule, [(fresh(gate), decision, "open", 1) for decision in wanted])

    return {
        "done": done.count(True),
        "ruled": AuditEntry.objects.filter(kind="gate", object_id=str(gate.pk)).count(),
    }


def overrule_and_roll_back_at_once():
    """What one of them changes is what the others have not seen. Both take an open gate and what is current."""
    project = (first := voting_gate()).project
    gating.overrule(fresh(first), "promote", None, "It is better.")
    gate = voting_gate(project=project, incumbent=first.candidate)
    vote(gate, *[WIN] * 8)
    to = project.promotions.get(number=1)
    ways = [(overrule, fresh(gate), "promote", "open", 2), (roll_back, project, to)]
    ways.append((gating.settle, fresh(gate)))

    done = at_once(lambda way, *given: way(*given), [ways[i % 3] for i in range(AT_ONCE)])

    return {"done": done.count(True), "promotions": project.promotions.count()}


def overrule(gate, decision, was, after):
    try:
        gating.overrule(gate, decision, None, "So.", was=was, after=after)
    except gating.GateRefused:
        return False
    return True


def roll_back(project, to):
    try:
        return gating.roll_back(project, to, None, after=2) is not None
    except gating.GateRefused:
        return False


def fresh(gate):
    rows = Gate.objects.select_related("project", "candidate", "incumbent", "run__project")
    return rows.get(pk=gate.pk)


def at_once(function, arguments):
    """What it gives back to each of as many threads, all of which begin at the same moment."""
    barrier, found = threading.Barrier(len(arguments)), []

    def call(*given):
        barrier.wait()
        try:
            found.append(function(*given))
        finally:
            connection.close()

    threads = [threading.Thread(target=call, args=given) for given in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


if __name__ == "__main__":
    main()

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
    found = {"settled": settle_at_once(), "rolled_back": roll_back_at_once()}
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


def roll_back(project, to):
    try:
        return gating.roll_back(project, to, None, after=2)
    except gating.GateRefused:
        return None


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

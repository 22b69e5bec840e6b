"""Which policy is current; test another one against it, blind; look, stop, overrule, roll back."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project
from rlhf import gating
from rlhf.current import current_policy, newest_promotion
from rlhf.forms.gate import GateForm
from rlhf.gate_models import STATUSES, Gate
from rlhf.launching import refuse_wrong
from rlhf.rounds import current_number
from rlhf.runs import RunRefused

SETTINGS = {
    "budget": int, "margin": float, "alpha": float, "votes_per_pair": int, "same_share": float,
    "max_new_tokens": int, "temperature": float,
}  # fmt: skip


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="slug of the project")
        one = parser.add_mutually_exclusive_group()
        one.add_argument("--candidate", metavar="NAME", help="open a gate for this model version")
        one.add_argument("--stop", action="store_true", help="end the open gate undecided")
        one.add_argument("--promote", type=int, metavar="GATE", help="overrule it; needs --reason")
        one.add_argument("--reject", type=int, metavar="GATE", help="overrule it; needs --reason")
        one.add_argument("--roll-back", action="store_true", help="to what was current before")
        parser.add_argument("--reason", default="")
        parser.add_argument(
            "--was", choices=STATUSES, default="", help="overrule only if the gate is that still"
        )
        parser.add_argument(
            "--after",
            type=int,
            metavar="PROMOTION",
            help="and if this one, as printed, holds still",
        )
        for name, kind in SETTINGS.items():
            option = f"--{name.replace('_', '-')}"
            parser.add_argument(option, type=kind, help="of a new gate, as on the page")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        try:
            self._act(project, options)
        except (gating.GateRefused, RunRefused) as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stdout.write(json.dumps(report(project), ensure_ascii=False))

    def _act(self, project: Project, options: dict[str, Any]) -> None:
        reason = options["reason"]
        if options["candidate"]:
            _open(project, options)
        elif options["stop"]:
            gate = gating.open_gate_of(project)
            if gate is None:
                raise CommandError(f"{project} has no open gate.")
            gating.stop(gate, None, reason)
        elif options["promote"] or options["reject"]:
            _overrule(project, options)
        elif options["roll_back"]:
            _roll_back(project, reason, options["after"])
        elif gate := gating.open_gate_of(project):
            gating.settle(gate)


def _open(project: Project, options: dict[str, Any]) -> None:
    candidate = project.model_versions.filter(name=options["candidate"]).first()
    if candidate is None:
        raise CommandError(f"{project} has no model version {options['candidate']}.")
    said = {name: options[name] for name in SETTINGS if options[name] is not None}
    form = GateForm(project, {**GateForm(project).as_sent(), **said, "candidate": candidate.pk})
    refuse_wrong(form)
    gating.open_gate(project, user=None, round_number=current_number(project), **form.order)


def _overrule(project: Project, options: dict[str, Any]) -> None:
    decision = "promote" if options["promote"] else "reject"
    gate = _gate(project, options[decision])
    seen = {"was": options["was"], "after": options["after"]}
    gating.overrule(gate, decision, None, options["reason"], **seen)


def _gate(project: Project, pk: int) -> Gate:
    gate = project.gates.select_related("project", "candidate", "incumbent", "run").filter(pk=pk)
    if not gate:
        raise CommandError(f"{project} has no gate {pk}.")
    return gate[0]


def _roll_back(project: Project, reason: str, after: int | None) -> None:
    newest = newest_promotion(project)
    if newest is None or newest.number == 1:
        raise CommandError(f"{project} has no earlier current policy to go back to.")
    before = project.promotions.select_related("version").get(number=newest.number - 1)
    gating.roll_back(project, before, None, after=after or newest.number, reason=reason)


def report(project: Project) -> dict[str, Any]:
    """The current policy, and the newest gate as it stands."""
    current = current_policy(project)
    gates = project.gates.select_related("project", "candidate", "incumbent", "run")
    gate = gates.first()
    return {
        "project": project.slug,
        "current": current and current.name,
        "promotion": gating.newest_number(project),
        "gate": gate and _as_json(gate),
    }


def _as_json(gate: Gate) -> dict[str, Any]:
    standing = gating.standing_of(gate)
    return {
        "id": gate.pk, "candidate": gate.candidate.name, "incumbent": gate.incumbent.name,
        "state": gate.state, "decision": gate.decision, "reason": gate.reason,
        "budget": gate.budget, "votes": standing.votes, **gating.found_of(gate, standing),
        "note": gating.note_on(gate, standing),
    }  # fmt: skip

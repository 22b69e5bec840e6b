"""What reviewers look at: prompts, comparisons with who said what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.db.models import Model, QuerySet
from django.db.models.expressions import RawSQL
from django.forms import Form
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render

from annotator import reviewing
from annotator.access import Access, HtmxRequest, get_access
from annotator.exports.records import as_rows
from annotator.forms import (
    CommentForm,
    GoldForm,
    HoldForm,
    PriorityForm,
    ProposalForm,
    RulingForm,
)
from annotator.hashes import FileChanged
from annotator.models import (
    Comparison,
    ComparisonQuerySet,
    Judgment,
    Project,
    Purpose,
    Role,
    Split,
    Verdict,
)
from annotator.protocols import picks_best
from annotator.quality.keeping import consensus_of
from annotator.rendering import LETTERS, split_conversation
from annotator.tracing import comparisons_in

PAGE_SIZE = 50
COMMENTS_SHOWN = 200
FILTERS = ("purpose", "round", "state", "prompt", "export")


class Page(NamedTuple):
    """Rows after or before a key: no row is counted, however many there are."""

    rows: list[Any]
    older: int | None  # pk to go on from
    is_first: bool


def page_of(queryset: QuerySet[Any], before: str) -> Page:
    """The newest rows, or those older than the pk `before`."""
    queryset = queryset.order_by("-pk")
    if before.isdecimal():
        queryset = queryset.filter(pk__lt=int(before))
    rows: list[Model] = list(queryset[: PAGE_SIZE + 1])
    older = rows[PAGE_SIZE - 1].pk if len(rows) > PAGE_SIZE else None
    return Page(rows[:PAGE_SIZE], older, not before)


@login_required
def prompts(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    rows = project.prompts.all()
    if (split := request.GET.get("split", "")) in Split.values:
        rows = rows.filter(split=split)
    context = {
        "project": project,
        "role": role,
        "page": page_of(rows, request.GET.get("before", "")),
        "split": split,
        "keep": urlencode({"split": split} if split else {}),
    }
    return render(request, "annotator/prompts.html", context)


@login_required
def comparisons(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    chosen = {name: request.GET.get(name, "") for name in FILTERS}
    rows = chosen_of(project, chosen).select_related("prompt")
    context = {
        "project": project,
        "role": role,
        "page": page_of(rows, request.GET.get("before", "")),
        "chosen": chosen,
        "purposes": Purpose.choices,
        "priority": PriorityForm(),
        "keep": urlencode({name: value for name, value in chosen.items() if value}),
    }
    return render(request, "annotator/comparisons.html", context)


def chosen_of(project: Project, chosen: Mapping[str, str]) -> ComparisonQuerySet:
    rows = Comparison.objects.filter(project=project)
    if chosen["purpose"] in Purpose.values:
        rows = rows.filter(purpose=chosen["purpose"])
    if chosen["round"].isdecimal():
        rows = rows.filter(round_number=int(chosen["round"]))
    if chosen["prompt"].isdecimal():
        rows = rows.filter(prompt_id=int(chosen["prompt"]))
    if chosen.get("export", "").isdecimal():
        rows = rows.filter(pk__in=_exported(project, int(chosen["export"])))
    if chosen["state"] == "open":
        rows = rows.open()
    elif chosen["state"] == "held":
        rows = rows.held()
    return rows


def _exported(project: Project, pk: int) -> RawSQL:
    export = get_object_or_404(project.exports, pk=pk)
    try:
        return as_rows(comparisons_in(export))
    except (FileChanged, FileNotFoundError, ValueError) as error:
        raise Http404(f"Nobody can say which comparisons {export} has: {error}") from error


@login_required
def comparison(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    return comparison_page(request, get_access(request, slug, Role.REVIEWER), pk)


def comparison_page(
    request: HtmxRequest, access: Access, pk: int, *, status: int = 200, **forms: Form
) -> HttpResponse:
    """A comparison with its sources and everything that was said of it, withdrawn or not. `forms`:
    those that were sent and have errors."""
    found = get_object_or_404(access.project.comparisons.select_related("prompt"), pk=pk)
    completions = [entry.completion for entry in found.entries.select_related("completion")]
    letters = {
        completion.pk: letter for letter, completion in zip(LETTERS, completions, strict=False)
    }
    texts = {completion.pk: completion.text for completion in completions}
    said = found.judgments.select_related("annotator", "assignment").order_by("pk")
    judgments = list(said)
    ruling = reviewing.ruling_on(found)
    context = {
        **access._asdict(),
        "comparison": found,
        "conversation": split_conversation(found.prompt.messages),
        "answers": [(letters[completion.pk], completion) for completion in completions],
        "judgments": [
            (
                judgment,
                in_words(judgment, letters),
                as_shown(judgment, letters),
                list(besides(judgment, letters, texts)),
            )
            for judgment in judgments
        ],
        "consensus": consensus_in_words(found, letters),
        "expected": reviewing.in_letters(Verdict.RANKING, found.expected, letters),
        "is_example": found.hold == reviewing.EXAMPLE_HOLD,
        "priority": PriorityForm(initial={"priority": found.priority}),
        "hold": HoldForm(),
        "gold": GoldForm(
            completions, found.expected or _latest_ranking(judgments), found.explanation
        ),
        "ruling": ruling,
        "ruling_words": ruling and reviewing.in_letters(ruling.verdict, ruling.ranking, letters),
        "comments": found.comments.select_related("author")[:COMMENTS_SHOWN],
        "ruling_form": RulingForm(list(letters), ruling),
        "comment_form": CommentForm(auto_id="comment_%s"),
        "proposal_form": ProposalForm(auto_id="proposal_%s"),
        **forms,
    }
    return render(request, "annotator/comparison.html", context, status=status)


def _latest_ranking(judgments: Sequence[Judgment]) -> list[list[int]]:
    rankings = [judgment.ranking for judgment in judgments if not judgment.voided]
    return next((ranking for ranking in reversed(rankings) if ranking), [])


def in_words(judgment: Judgment, letters: dict[int, str]) -> str:
    """Example: [[7], [8, 9]] -> "A > B = C"."""
    if judgment.ranking and picks_best(judgment.assignment):
        return f"{letters[judgment.ranking[0][0]]} is the best"
    return reviewing.in_letters(judgment.verdict, judgment.ranking, letters)


def besides(
    judgment: Judgment, letters: dict[int, str], texts: dict[int, str]
) -> Iterator[tuple[str, str]]:
    """What else was said: each a name and a text. Answers by the letters of the page."""
    if judgment.strength:
        yield "Strength", f"{judgment.strength} of {judgment.strength_of}"
    for key, said in judgment.criteria.items():
        words = reviewing.in_letters(Verdict.RANKING, said["ranking"], letters)
        yield key, f"{words}, {said['strength']}" if said["strength"] else words
    if judgment.reasons:
        yield "Reasons", ", ".join(judgment.reasons)
    if judgment.rationale:
        yield "Why", judgment.rationale
    for pk, flags in judgment.flags.items():
        yield f"Flags on {letters[int(pk)]}", ", ".join(flags)
    for span in judgment.spans:
        text = texts[span["completion"]][span["start"] : span["end"]]
        yield f"Highlight in {letters[span['completion']]}", f"“{text}”: {span['label']}"
    if judgment.rewrite:
        yield "As it should be", judgment.rewrite


def consensus_in_words(comparison: Comparison, letters: dict[int, str]) -> dict[str, Any] | None:
    """What the votes come to by each method; None while there are not two, or nothing is computed."""
    found = consensus_of(comparison)
    if not found:
        return None
    methods = {
        "majority": "Majority",
        "dawid_skene": "Dawid and Skene",
        "bradley_terry": "Bradley and Terry, noisy",
    }
    return found | {
        "rows": [
            (
                title,
                reviewing.in_letters(Verdict.RANKING, found[name]["ranking"], letters),
                found[name]["support"],
            )
            for name, title in methods.items()
        ]
    }


def as_shown(judgment: Judgment, letters: dict[int, str]) -> str:
    """From left to right, as this annotator saw them. Example: "B A"."""
    return " ".join(letters[pk] for pk in judgment.assignment.order)

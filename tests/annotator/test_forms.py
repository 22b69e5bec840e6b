from datetime import UTC, datetime, timedelta

import pytest

from annotator.forms import (
    GoldForm,
    HoldForm,
    NewMemberForm,
    ProjectForm,
    ProtocolForm,
    unused_slug,
)
from annotator.models import Qualification
from annotator.protocols import Criterion, Protocol
from tests.factories import (
    ComparisonFactory,
    GoldFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    completion_ids,
    make_judgment,
    settings_as_sent,
)

pytestmark = pytest.mark.django_db
SETTINGS = settings_as_sent()


def test_slugs_are_told_apart_and_new_is_taken():
    ProjectFactory(slug="essays")
    ProjectFactory(slug="essays-2")

    assert [unused_slug(name) for name in ("Essays", "New", "日本", "Tea & Co")] == [
        "essays-3",
        "new-2",
        "project",
        "tea-co",
    ]


@pytest.mark.parametrize(("guidelines", "version"), [("Be kind.", 2), ("", 1), ("  ", 1)])
def test_only_other_guidelines_are_a_new_version(guidelines, version):
    form = ProjectForm(SETTINGS | {"guidelines": guidelines}, instance=ProjectFactory())

    assert form.is_valid()
    assert form.save().guideline_version == version


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [("informative", "drawn", None), ("informative", "informative", 0.1), ("drawn", "drawn", 0.1)],
)
def test_an_order_that_is_turned_off_is_forgotten(before, after, place):
    comparison = ComparisonFactory(project__queue_order=before, place=0.1)
    form = ProjectForm(SETTINGS | {"queue_order": after}, instance=comparison.project)

    form.save()

    comparison.refresh_from_db()
    assert comparison.place == place


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("overlap", 0),
        ("overlap", 101),
        ("lease_minutes", 0),
        ("held_out_percent", 0),
        ("random_percent", 0),
        ("random_percent", 100),
        ("gold_percent", 51),
        ("repeat_percent", 51),
        ("qualification_percent", 0),
        ("qualification_items", 1),  # there is no known answer yet
        ("near_identical_percent", 69),
        ("screening", ["spelling"]),
    ],
)
def test_settings_out_of_bounds_are_refused(field, value):
    form = ProjectForm(SETTINGS | {field: value})

    assert list(form.errors) == [field]


@pytest.mark.parametrize(("name", "is_good"), [("eve", True), ("e ve", False), ("x" * 151, False)])
def test_names_of_new_members_are_names_one_can_sign_in_with(name, is_good):
    assert NewMemberForm({"username": name, "role": "annotator"}).is_valid() is is_good


BY_HAND = {"strengths": "slightly better\n better ", "many": "ranking", "rationale": "off"}


def test_a_protocol_by_hand_is_read_line_by_line():
    form = ProtocolForm(
        BY_HAND | {"criteria": "honest | Honest | Which is | true?\n\n", "flags": "unsafe\nbroken"}
    )

    assert form.is_valid()
    assert form.protocol == Protocol(
        strengths=("slightly better", "better"),
        allow_tie=False,
        allow_all_bad=False,
        criteria=(Criterion("honest", "Honest", "Which is | true?"),),
        flags=("unsafe", "broken"),
    )


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("criteria", "helpful", "Write a key, a name and a question, with | between"),
        ("criteria", "Helpful | a | b", "small letters"),
        ("flags", "a\nb\nc\nd\ne\nf", "flags must be 0 to 5 labels"),
        ("strengths", "a\na", "labels in strengths must differ"),
    ],
)
def test_what_no_protocol_can_be_is_told(field, value, sentence):
    form = ProtocolForm(BY_HAND | {field: value})

    assert sentence in str(form.errors)


def test_every_setting_stands_under_a_heading():
    form = ProjectForm()

    headings = [heading for heading, _ in form.groups()]
    assert len(headings) == len(ProjectForm.GROUPS)  # and none is left over under "More"
    assert sum(len(fields) for _, fields in form.groups()) == len(form.visible_fields())


def test_a_qualification_needs_as_many_known_answers():
    project = ProjectFactory()
    GoldFactory(project=project)
    form = ProjectForm(settings_as_sent(qualification_items=2), instance=project)

    assert "There is 1 known answer here, fewer than 2" in form.errors["qualification_items"][0]


def test_who_has_judged_needs_no_qualification_when_it_is_turned_on():
    project = ProjectFactory()
    GoldFactory(project=project)
    make_judgment(ComparisonFactory(project=project), UserFactory())
    MembershipFactory(project=project)

    ProjectForm(settings_as_sent(qualification_items=1), instance=project).save()

    states = project.memberships.order_by("pk").values_list("qualification", flat=True)
    assert list(states) == [Qualification.PASSED, Qualification.PENDING]


def test_equal_ranks_of_a_known_answer_are_ties():
    comparison = ComparisonFactory(texts=["a", "b", "c"])
    a, b, c = completion_ids(comparison)

    form = GoldForm(
        comparison.completions.order_by("pk"),
        [],
        data={f"rank-{a}": 3, f"rank-{b}": 1, f"rank-{c}": 1},
    )

    assert form.is_valid()
    assert form.expected() == [[b, c], [a]]


def test_a_hold_until_a_time_that_is_over_is_refused():
    form = HoldForm({"reason": "Later.", "until": "2020-01-01T12:00"})

    assert form.errors["until"] == ["This time is over: choose a later one, or none."]


@pytest.mark.parametrize(
    ("zone", "hour_of_utc"), [("Europe/Berlin", 10), ("Asia/Kolkata", 6.5), ("", 12)]
)
def test_a_hold_ends_by_the_clock_of_whoever_wrote_the_time(zone, hour_of_utc):
    form = HoldForm({"reason": "Later.", "until": "2199-07-01T12:00", "zone": zone})

    assert form.is_valid()
    assert form.cleaned_data["until"] == datetime(2199, 7, 1, tzinfo=UTC) + timedelta(
        hours=hour_of_utc
    )


def test_a_time_zone_that_is_not_known_is_told():
    form = HoldForm({"reason": "Later.", "until": "2199-07-01T12:00", "zone": "Moon/Copernicus"})

    assert form.errors["until"] == [
        "The time zone Moon/Copernicus is not known here: hold it without a time."
    ]

"""Which votes are kept, and what a condition costs."""

from datetime import UTC, date, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotator.exporting import NothingToExport, create_export
from annotator.exports.costs import Cost, costs_of
from annotator.exports.filters import Filters, agreement_of
from annotator.exports.records import BATCH, records
from annotator.models import Judgment
from annotator.protocols import QUALITIES, Protocol, to_json
from tests.annotator.exports.records import judgment
from tests.factories import ComparisonFactory, ProjectFactory, UserFactory, make_judgment

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(overlap=5)


@pytest.fixture
def anna():
    return UserFactory(username="anna")


def kept(project, **filters):
    """The numbers of the judgments that are kept."""
    found = records(project, Filters(**filters), use_rulings=False)
    return [said["judgment"] for record in found for said in record["judgments"]]


def votes(project, anna):
    """Two of anna's and two of somebody else's, on two comparisons of two rounds."""
    bert = UserFactory()
    both = [ComparisonFactory(project=project, round_number=n) for n in (1, 2)]
    return [make_judgment(it, who, [0], [1]).pk for it in both for who in (anna, bert)]


def test_rounds(project, anna):
    first, second, third, fourth = votes(project, anna)

    assert kept(project) == [first, second, third, fourth]
    assert kept(project, first_round=2) == [third, fourth]
    assert kept(project, last_round=1) == [first, second]


def test_annotators(project, anna):
    first, second, third, fourth = votes(project, anna)

    assert kept(project, annotators=(anna.pk,)) == [first, third]
    assert kept(project, without=(anna.pk,)) == [second, fourth]


def test_days_are_of_the_servers_time_zone_and_both_are_included(project, anna, settings):
    settings.TIME_ZONE = "Europe/Berlin"
    first, second, third, fourth = votes(project, anna)
    for pk, hour in [(first, 22), (second, 23)]:  # 23:00 and 0:00 in Berlin
        given = datetime(2026, 3, 1, hour, tzinfo=UTC)
        Judgment.objects.filter(pk=pk).update(created=given)

    assert kept(project, until=date(2026, 3, 1)) == [first]
    assert kept(project, since=date(2026, 3, 2), until=date(2026, 3, 2)) == [second]
    assert kept(project, since=date(2026, 3, 3)) == [third, fourth]


def test_versions_of_the_guidelines(project, anna):
    first, second, *_ = votes(project, anna)
    Judgment.objects.filter(pk=first).update(guideline_version=2)

    assert kept(project, guideline_versions=(2, 3)) == [first]
    assert second in kept(project, guideline_versions=(1,))


def test_sources_are_those_of_all_answers_of_a_comparison(project, anna):
    ours, mixed = ComparisonFactory.create_batch(2, project=project)
    for comparison, n in [(ours, 2), (mixed, 1)]:
        for completion in comparison.completions.all()[:n]:
            completion.source = "ours"
            completion.save()
    judgments = [make_judgment(comparison, anna, [0], [1]).pk for comparison in (ours, mixed)]

    assert kept(project, sources=("ours",)) == judgments[:1]
    assert kept(project, sources=("ours", "import")) == judgments


def test_criteria_are_those_that_were_asked_for(project, anna):
    votes(project, anna)
    project.protocol = to_json(Protocol(criteria=QUALITIES[:1]))
    comparison = ComparisonFactory(project=project)
    ids = [[pk] for pk in comparison.completions.values_list("pk", flat=True)]
    asked = make_judgment(
        comparison, anna, [0], [1], criteria={"helpful": {"ranking": ids, "strength": None}}
    )

    assert kept(project, criteria=("helpful", "honest")) == [asked.pk]


def test_agreement_is_that_of_the_votes_that_the_other_filters_keep(project, anna):
    comparison = ComparisonFactory(project=project)
    for groups in ([[0], [1]], [[0], [1]]):
        make_judgment(comparison, UserFactory(), *groups)
    against = make_judgment(comparison, anna, [1], [0])

    assert len(kept(project, min_agreement=0.6)) == 3
    assert kept(project, min_agreement=0.7) == []
    assert against.pk not in kept(project, min_agreement=0.7, without=(anna.pk,))
    assert len(kept(project, min_rankings=2, without=(anna.pk,))) == 2
    assert kept(project, min_rankings=3, without=(anna.pk,)) == []


def test_agreement_is_the_mean_majority_of_the_pairs():
    """All put a first; b and c are two to one: (1 + 1 + 2/3) / 3."""
    rankings = [judgment([0], [1], [2]), judgment([0], [1], [2]), judgment([0], [2], [1])]

    assert agreement_of(3, rankings) == pytest.approx(8 / 9)
    assert agreement_of(2, [judgment([0], [1])]) == 1
    assert agreement_of(2, [judgment([0, 1])]) == 0.5


def test_comparisons_are_read_in_batches_and_in_order(project, anna, monkeypatch):
    monkeypatch.setattr("annotator.exports.records.BATCH", 2)
    pks = [votes(project, anna)[0]]
    for comparison in ComparisonFactory.create_batch(3, project=project):
        pks.append(make_judgment(comparison, anna, [0], [1]).pk)

    found = [record["comparison"] for record in records(project, Filters(), use_rulings=False)]

    assert BATCH > 2
    assert found == sorted(found)
    assert len(found) == 5


def test_a_batch_of_votes_is_found_by_its_comparisons(project, anna):
    """Whatever else is asked of them: else each batch would read all votes of a person."""
    votes(project, anna)
    with CaptureQueriesContext(connection) as captured:
        kept(project, annotators=(anna.pk,), first_round=1, since=date(2026, 1, 1))

    (sql,) = [query["sql"] for query in captured if "annotator_assignment" in query["sql"]]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        steps = [row[3] for row in cursor.fetchall() if "annotator_judgment" in row[3]]

    assert len(steps) == 1
    assert "USING INDEX annotator_judgment_comparison_id" in steps[0]


def test_a_manifest_says_what_was_left_out_in_numbers(project, anna):
    votes(project, anna)

    export = create_export(project, filters=Filters(annotators=(anna.pk,)), licence="CC BY 4.0")

    assert export.manifest["filters"] == {"annotators": [anna.pk]}
    assert export.manifest["counts"]["judgments"] == 2
    assert export.manifest["licence"] == "CC BY 4.0"
    assert "anna" not in (export.folder / "manifest.json").read_text()


def test_filters_that_leave_out_everything_are_named(project, anna):
    votes(project, anna)

    with pytest.raises(NothingToExport, match="The filters leave out every vote"):
        create_export(project, filters=Filters(first_round=9))


@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(since=date(2026, 1, 2), guideline_versions=(1, 2), sources=("x",)),
        Filters(min_rankings=2, min_agreement=0.75),
    ],
)
def test_filters_survive_being_stored(filters):
    assert Filters.from_json(filters.to_json()) == filters


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"first_round": 3, "last_round": 2}, "Round 3 does not come before 2."),
        ({"min_agreement": 0.4}, "Agreement is between 0.5 and 1, not 0.4."),
        ({"since": date(2026, 2, 1), "until": date(2026, 1, 1)}, "2026-02-01 does not come before"),
    ],
)
def test_filters_that_cannot_be_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        Filters(**wrong)


# --- what they cost -------------------------------------------------------------------------------
def test_each_filter_says_what_it_would_leave_out_alone(project, anna):
    votes(project, anna)

    costs = costs_of(project, Filters(first_round=2, without=(anna.pk,)))

    assert costs.costs == [Cost("Rounds", 2, 1), Cost("Annotators", 2, 0)]
    assert (costs.n_votes, costs.n_comparisons) == (4, 2)
    assert (costs.kept_votes, costs.kept_comparisons) == (1, 1)


def test_the_cost_of_agreement_is_counted_where_that_is_quick(project, anna):
    votes(project, anna)
    make_judgment(ComparisonFactory(project=project), anna, [0], [1])

    costs = costs_of(project, Filters(min_rankings=2, last_round=1))

    assert costs.costs == [Cost("Rounds", 2, 1), Cost("Rankings and agreement", 1, 1)]
    assert (costs.kept_votes, costs.kept_comparisons, costs.is_estimate) == (2, 1, False)


def test_the_cost_of_agreement_is_estimated_from_some(project, anna, monkeypatch):
    """Those that were drawn lowest are looked at: one of two has two votes."""
    monkeypatch.setattr("annotator.exports.costs.SAMPLED", 2)
    for draw, n in [(0.1, 1), (0.2, 3), (0.8, 1), (0.9, 3)]:
        comparison = ComparisonFactory(project=project, draw=draw)
        for _ in range(n):
            make_judgment(comparison, UserFactory(), [0], [1])

    costs = costs_of(project, Filters(min_rankings=2))

    assert costs.costs == [Cost("Rankings and agreement", 2, 2, is_estimate=True)]
    assert (costs.kept_votes, costs.kept_comparisons, costs.is_estimate) == (6, 2, True)


def test_costs_take_one_query_without_agreement(project, anna, django_assert_num_queries):
    votes(project, anna)

    with django_assert_num_queries(1):
        costs_of(project, Filters(first_round=1, sources=("import",), criteria=("helpful",)))

"""What differs between two exports."""

import pytest

from annotator.exporting import create_export
from annotator.exports import comparing
from annotator.exports.comparing import comparison_of, kept_comparison
from annotator.exports.derived import path_of
from annotator.hashes import FileChanged
from annotator.withdrawing import withdraw
from tests.factories import ComparisonFactory, ProjectFactory, UserFactory, make_judgment

pytestmark = pytest.mark.django_db


@pytest.fixture
def two_exports():
    """Anna's vote on the first of four comparisons goes, and two more votes come."""
    project, anna, others = ProjectFactory(overlap=2), UserFactory(), UserFactory.create_batch(2)
    alone, changed, same, new = ComparisonFactory.create_batch(4, project=project)
    make_judgment(alone, anna, [0], [1])
    for comparison in (changed, same):
        make_judgment(comparison, others[0], [0], [1])
    before = create_export(project)
    withdraw(project, anna, others[0])
    make_judgment(changed, others[1], [1], [0])
    make_judgment(new, others[1], [0], [1])
    return before, create_export(project), [alone, changed, same, new]


def test_pairs_are_added_removed_and_changed(two_exports):
    before, after, (alone, changed, _, new) = two_exports

    found = comparison_of(before, after)

    said = {
        kind: [(row["comparison"], row["before"], row["after"]) for row in found[kind]["rows"]]
        for kind in ("added", "removed", "changed")
    }
    one = {"p_chosen": 1.0, "n_judgments": 1}
    assert said == {
        "added": [(new.pk, None, one)],
        "removed": [(alone.pk, one, None)],
        "changed": [(changed.pk, one, {"p_chosen": 0.5, "n_judgments": 2})],
    }
    assert found["same"] == 1


def test_what_is_prefered_by_then_is_what_shares_are_about(two_exports):
    """The other answer is preferred later: before, its share was nothing."""
    _, after, (*_, new) = two_exports
    for user in UserFactory.create_batch(2):
        new.overlap = 3
        new.save()
        make_judgment(new, user, [1], [0])

    (row,) = comparison_of(after, create_export(new.project))["changed"]["rows"]

    assert row["chosen"] == new.completions.last().text
    assert (row["before"]["p_chosen"], row["after"]["p_chosen"]) == (0.0, 2 / 3)


def test_all_are_counted_and_some_are_shown(two_exports, monkeypatch):
    monkeypatch.setattr(comparing, "SHOWN", 0)
    before, after, _ = two_exports

    assert comparison_of(before, after)["added"] == {"n": 1, "rows": []}


def test_what_was_found_is_kept(two_exports):
    before, after, _ = two_exports
    assert kept_comparison(before, after, make=False) is None

    found = kept_comparison(before, after)
    (before.folder / "data.jsonl").unlink()

    assert kept_comparison(before, after, make=False) == found


def test_what_was_kept_and_has_changed_is_found_anew(two_exports):
    before, after, _ = two_exports
    found = kept_comparison(before, after)

    path_of(after, f"compared-with-{before.pk}.json").write_text("{}")

    assert kept_comparison(before, after) == found


def test_a_file_that_was_changed_is_not_compared(two_exports):
    before, after, _ = two_exports
    (before.folder / "data.jsonl").write_text("")

    with pytest.raises(FileChanged, match=rf"^data.jsonl of export {before.pk} has changed since"):
        comparison_of(before, after)


def test_exports_of_two_projects_are_not_compared(two_exports):
    comparison = ComparisonFactory()
    make_judgment(comparison, UserFactory(), [0], [1])

    with pytest.raises(ValueError, match="of different projects"):
        comparison_of(two_exports[0], create_export(comparison.project))

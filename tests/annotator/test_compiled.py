"""SQL that is made once gives the rows that the queryset would give."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import IntegrityError, connection
from django.test.utils import CaptureQueriesContext

from annotator.compiled import compiled, compiled_update, insert
from annotator.models import Comparison, Project, Prompt
from tests.factories import ComparisonFactory, ProjectFactory, PromptFactory

pytestmark = pytest.mark.django_db


@compiled
def named(slug: str, overlap: int, *, is_backwards: bool):
    rows = Project.objects.filter(slug=slug, overlap__gte=overlap) | Project.objects.filter(
        name="B"
    )
    return rows.order_by("-name" if is_backwards else "name")


def test_values_and_shape_are_those_of_the_call():
    one, other = ProjectFactory(name="A", overlap=2), ProjectFactory(name="B", overlap=3)

    assert named(one.slug, 1, is_backwards=False) == [one, other]
    assert named(one.slug, 1, is_backwards=True) == [other, one]
    assert named(one.slug, 3, is_backwards=False) == [other]
    assert named(other.slug, 3, is_backwards=False) == [other]


def test_there_may_be_more_values_or_fewer():
    @compiled
    def called(slug: str, *overlap: int):
        rows = Project.objects.filter(slug=slug)
        return rows.filter(overlap=overlap[0]) if overlap else rows

    project = ProjectFactory(overlap=2)

    assert called(project.slug) == [project]
    assert called(project.slug, 2) == [project]
    assert called(project.slug, 3) == []


def test_the_queryset_is_built_once():
    built = []

    @compiled
    def of(project: int):
        built.append(project)
        return Prompt.objects.filter(project=project)

    prompts = PromptFactory.create_batch(2)

    assert [of(prompt.project_id) for prompt in prompts] == [[prompt] for prompt in prompts]
    assert len(built) == 1


def test_related_rows_and_json_come_along():
    @compiled
    def with_prompt(pk: int):
        return Comparison.objects.select_related("prompt").filter(pk=pk)

    comparison = ComparisonFactory()
    with CaptureQueriesContext(connection) as queries:
        [found] = with_prompt(comparison.pk)
        assert found.prompt.messages == comparison.prompt.messages

    assert len(queries) == 1


@pytest.mark.django_db(transaction=True)
def test_another_thread_uses_its_own_connection():
    project = ProjectFactory(name="A")

    def look():
        try:
            return named(project.slug, 0, is_backwards=False)
        finally:
            connection.close()

    assert look() == [project]
    with ThreadPoolExecutor(1) as other:
        assert other.submit(look).result() == [project]


def test_a_value_that_is_not_in_the_query_is_refused():
    @compiled
    def odd(pk: int, limit: int):
        return Project.objects.filter(pk=pk)[: min(limit, 3)]

    with pytest.raises(TypeError, match="values \\[1\\] are not in the query"):
        odd(1, 2)


def test_an_update_changes_what_the_queryset_finds_and_says_how_many():
    @compiled_update
    def rename(slug: str, overlap: int):
        return Project.objects.filter(slug=slug, overlap__gte=overlap), {"name": "new"}

    project, other = ProjectFactory(name="A", overlap=2), ProjectFactory(name="B", overlap=2)

    assert [rename(project.slug, 3), rename(project.slug, 2)] == [0, 1]
    assert list(Project.objects.order_by("pk").values_list("name", flat=True)) == ["new", "B"]
    assert other.name == "B"


def test_a_row_is_inserted_as_if_it_were_saved():
    project, messages = ProjectFactory(), [{"role": "user", "content": "Ä \u2028 '"}]
    row = Prompt(project=project, key="k", messages=messages, split="train")

    insert(row)
    row.split = "test"
    row.save()  # an update: it is there already

    [found] = Prompt.objects.all()
    assert (found.pk, found.messages, found.split) == (row.pk, messages, "test")


def test_a_row_that_may_not_be_is_refused_as_by_the_database():
    prompt = PromptFactory()

    with pytest.raises(IntegrityError):
        insert(Prompt(project=prompt.project, key=prompt.key, messages=[], split="train"))

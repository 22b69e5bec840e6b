import pytest

from annotator.models import Comparison, Completion, Prompt, Purpose, Role
from tests.factories import (
    ComparisonFactory,
    CompletionFactory,
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    api_client,
)

pytestmark = pytest.mark.django_db

TEA = "/api/v1/projects/tea/"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def admin(project):
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


def post(program, path, **body):
    return program.post(TEA + path, body, content_type="application/json")


def test_a_prompt_is_added_once(admin):
    first = post(admin, "prompts/", prompt="Why is tea green?")
    second = post(admin, "prompts/", prompt=[{"role": "user", "content": "Why is tea green?"}])

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert Prompt.objects.get().messages == first.json()["messages"]


@pytest.mark.parametrize("prompt", ["", [], {"role": "user"}, 7, [{"role": "user"}], "a\0b", None])
def test_a_prompt_that_is_none_is_refused(admin, prompt):
    answer = post(admin, "prompts/", prompt=prompt)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/prompt"


def test_a_completion_is_added_once(project, admin):
    prompt = PromptFactory(project=project)

    first = post(admin, "completions/", prompt=prompt.pk, text="Because.", source="ada")
    second = post(admin, "completions/", prompt=prompt.pk, text="Because.", source="ada")

    assert (first.status_code, second.status_code) == (201, 200)
    assert Completion.objects.get().pk == second.json()["id"]


def test_no_completion_is_added_to_a_prompt_of_another_project(admin):
    answer = post(admin, "completions/", prompt=PromptFactory().pk, text="Because.")

    assert answer.status_code == 422
    assert not Completion.objects.exists()


def test_a_comparison_is_added_as_a_line_of_a_file_would_be(project, admin):
    project.screening = ["empty"]
    project.save()
    texts = {"prompt": "Why?", "completions": ["Because.", " "], "sources": ["ada", "bob"]}

    first, second = post(admin, "comparisons/", **texts), post(admin, "comparisons/", **texts)

    assert (first.status_code, second.status_code) == (201, 200)
    assert [row["source"] for row in first.json()["completions"]] == ["ada", "bob"]
    assert Comparison.objects.get().hold != ""  # screened


def test_a_known_answer_is_one(admin):
    answer = post(
        admin, "comparisons/", prompt="2 + 2?", completions=["4.", "5."], expected=[[0], [1]]
    ).json()

    assert answer["purpose"] == Purpose.GOLD
    assert answer["expected"] == [[row["id"]] for row in answer["completions"]]


def test_completions_that_are_there_are_compared_by_number(project, admin):
    prompt = PromptFactory(project=project)
    ids = [CompletionFactory(prompt=prompt, text=text).pk for text in ("One.", "Two.")]

    first = post(admin, "comparisons/", completion_ids=ids, overlap=3)
    second = post(admin, "comparisons/", completion_ids=ids[::-1])

    assert (first.status_code, second.status_code) == (201, 200)
    assert (first.json()["overlap"], first.json()["id"]) == (3, second.json()["id"])


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "Why?"},
        {"completions": ["One.", "Two."]},
        {"prompt": "Why?", "completions": ["One.", "One."]},
        {"prompt": "Why?", "completions": ["One.", "Two."], "completion_ids": [1, 2]},
        {"completion_ids": [1, 2]},
    ],
)
def test_what_is_no_comparison_is_refused(admin, body):
    answer = post(admin, "comparisons/", **body)

    assert answer.status_code == 422
    assert not Comparison.objects.exists()


def test_comparisons_are_found_by_what_they_are(project, admin):
    ComparisonFactory(project=project)
    held = ComparisonFactory(project=project, hold="Later.", round_number=2)

    found = admin.get(f"{TEA}comparisons/?state=held&round=2").json()["results"]

    assert [row["id"] for row in found] == [held.pk]
    assert admin.get(f"{TEA}comparisons/?state=nonsense").status_code == 422
    assert admin.get(f"{TEA}comparisons/?state=").status_code == 422


@pytest.mark.parametrize("path", ["prompts/", "completions/", "comparisons/"])
def test_a_longer_list_takes_no_more_queries(
    django_assert_num_queries, django_assert_max_num_queries, project, admin, path
):
    ComparisonFactory(project=project)
    admin.get(TEA + path)
    with django_assert_max_num_queries(10) as with_one:
        admin.get(TEA + path)
    ComparisonFactory.create_batch(2, project=project)

    with django_assert_num_queries(len(with_one)):
        admin.get(TEA + path)


@pytest.mark.parametrize("path", ["prompts/", "completions/", "comparisons/", "exports/"])
def test_annotators_see_none_of_it(project, path):
    ComparisonFactory(project=project)
    annotator = api_client(MembershipFactory(project=project).user)

    assert annotator.get(TEA + path).status_code == 404


def test_json_that_is_broken_too_deep_or_too_long_is_a_sentence(settings, admin):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 500_000

    def status_of(text):
        answer = admin.post(f"{TEA}prompts/", text, content_type="application/json")
        assert answer.json()["detail"]
        return answer.status_code

    assert status_of("{") == 400
    assert status_of("[" * 200_000) == 400
    assert status_of('{"prompt": NaN}') == 400
    assert status_of(r'{"prompt": "\ud800"}') == 400
    assert status_of('"' + "a" * 500_000 + '"') == 413
    assert admin.post(f"{TEA}prompts/", "a=1", content_type="text/plain").status_code == 415


def test_an_address_that_leads_nowhere_is_a_problem_too(admin):
    answer = admin.get("/api/v1/projects/tea")  # without the slash

    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"


def test_a_mistake_of_ours_is_a_problem_too(project, admin):
    ComparisonFactory(project=project)
    Prompt.objects.update(messages=7)  # as no code writes it
    admin.raise_request_exception = False

    answer = admin.get(f"{TEA}prompts/")

    assert answer.status_code == 500
    assert answer["Content-Type"] == "application/problem+json"

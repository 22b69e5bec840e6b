"""Live conversations: what becomes of what is said, of the answers, and of the verdict."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotator import assignment as queue
from annotator.guidelines import publish
from annotator.models import Assignment, Comparison, Completion, Project, Prompt, Verdict
from rlhf import conversations
from rlhf.models import GeneratedCompletion, Run, RunKind, Status, TurnState
from rlhf.runs import make_room
from rlhf.training.artifacts import read_json, write_json
from tests.factories import ComparisonFactory, MembershipFactory, ProjectFactory, make_judgment
from tests.rlhf.factories import SAMPLING, PolicyFactory, RunFactory

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def listener(project):
    """A run that listens, of which the tests play the process."""
    run = RunFactory(
        project=project, kind=RunKind.CONVERSE, status=Status.RUNNING, phase="talking",
        config=SAMPLING, policy=PolicyFactory(project=project, name="policy-1"),
        rival=PolicyFactory(project=project, name="policy-2"), seen=timezone.now(),
    )  # fmt: skip
    for name in ("asked", "answered"):
        (run.folder / name).mkdir()
    return run


@pytest.fixture
def anna(project):
    return MembershipFactory(project=project).user


def answer(listener, turn, *texts, sides=("policy", "rival"), truncated=False):
    """`truncated`: whether the first one was cut off."""
    (listener.folder / "asked" / turn.file_name).unlink()
    fields = zip(sides, texts, strict=True)
    answers = [{"side": side, "text": text, "truncated": False} for side, text in fields]
    answers[0]["truncated"] = truncated
    write_json(listener.folder / "answered" / turn.file_name, {"answers": answers})


def judge(turn, annotator, verdict=Verdict.RANKING, best=0):
    """As on the page, where the one that is shown `best`-th wins."""
    shown = Assignment.objects.get(comparison=turn.comparison, annotator=annotator, state="live")
    order = [shown.order[best], shown.order[1 - best]]
    ranking = [[pk] for pk in order] if verdict == Verdict.RANKING else []
    queue.record(shown, verdict, ranking, payload_hash=shown.payload_hash)
    return order[0]


def talk(project, annotator, listener, text, *answers):
    """Say something, and have both answers on the screen."""
    turn = conversations.say(project, annotator, text)
    answer(listener, turn, *answers)
    return conversations.look_after(turn.conversation)


def test_the_better_answer_stays_in_the_conversation(project, listener, anna):
    turn = talk(project, anna, listener, "Tea or coffee?", "Tea.", "Coffee.")
    best = judge(turn, anna, best=1)
    conversations.look_after(turn.conversation)

    turn = conversations.say(project, anna, "Why?")

    chosen = turn.conversation.messages[1]
    assert chosen["content"] == dict(
        GeneratedCompletion.objects.values_list("completion_id", "completion__text")
    )[best]  # fmt: skip
    assert read_json(listener.folder / "asked" / turn.file_name)["messages"] == [
        {"role": "user", "content": "Tea or coffee?"},
        chosen,
        {"role": "user", "content": "Why?"},
    ]


def test_each_answer_has_the_lineage_of_who_wrote_it(project, listener, anna):
    talk(project, anna, listener, "Tea or coffee?", "Tea.", "Coffee.")

    wrote = GeneratedCompletion.objects.values_list("model_version__name", "completion__text")
    assert sorted(wrote) == [("policy-1", "Tea."), ("policy-2", "Coffee.")]


def test_a_turn_is_a_comparison_that_nobody_else_is_handed(project, listener, anna):
    turn = talk(project, anna, listener, "Tea or coffee?", "Tea.", "Coffee.")

    assert (turn.comparison.overlap, turn.comparison.taken) == (1, 1)
    assert Comparison.objects.open().count() == 0
    assert queue.held_by(project, anna).comparison == turn.comparison


def test_what_was_on_the_screen_before_goes_back_to_the_queue(project, listener, anna):
    prepared = ComparisonFactory(project=project)
    queue.claim(project, anna)

    talk(project, anna, listener, "Tea or coffee?", "Tea.", "Coffee.")

    assert list(Comparison.objects.open()) == [prepared]


@pytest.mark.parametrize("verdict", [Verdict.ALL_BAD, Verdict.SKIPPED])
def test_without_a_best_answer_nothing_was_said(project, listener, anna, verdict):
    turn = talk(project, anna, listener, "Tea or coffee?", "Tea.", "Coffee.")
    judge(turn, anna, verdict)

    turn = conversations.look_after(turn.conversation)

    assert (turn.state, turn.conversation.messages) == (TurnState.DROPPED, [])


def test_twice_the_same_answer_is_taken_without_asking(project, listener, anna):
    turn = talk(project, anna, listener, "Tea or coffee?", "Tea.", "Tea.")

    assert turn.state == TurnState.DONE
    assert turn.conversation.messages[1] == {"role": "assistant", "content": "Tea."}
    assert Comparison.objects.count() == 0


def test_all_turns_of_a_conversation_are_on_one_side_of_the_split(project, listener, anna):
    for text in ("One?", "Two?", "Three?", "Four?"):
        turn = talk(project, anna, listener, text, f"Yes, {text}", f"No, {text}")
        judge(turn, anna)
        conversations.look_after(turn.conversation)

    assert len(set(Prompt.objects.values_list("split", flat=True))) == 1
    assert Prompt.objects.count() == 4


def test_saying_it_twice_asks_once(project, listener, anna):
    first = conversations.say(project, anna, "Tea or coffee?")
    second = conversations.say(project, anna, "Tea or coffee?")

    assert second == first
    assert len(list((listener.folder / "asked").iterdir())) == 1


def test_a_question_that_was_lost_is_asked_again(project, listener, anna):
    turn = conversations.say(project, anna, "Tea or coffee?")
    (listener.folder / "asked" / turn.file_name).unlink()

    conversations.look_after(turn.conversation)

    assert (listener.folder / "asked" / turn.file_name).exists()


def test_a_model_that_leaves_is_said_so(project, listener, anna):
    turn = conversations.say(project, anna, "Tea or coffee?")
    Run.objects.update(status=Status.STOPPED)

    turn = conversations.look_after(turn.conversation)

    assert turn.state == TurnState.DROPPED
    assert turn.error == conversations.SILENT


def test_whoever_is_away_for_longer_than_a_lease_finds_the_turn_again(project, listener, anna):
    turn = talk(project, anna, listener, "Tea or coffee?", "Tea.", "Coffee.")
    queue.release(queue.held_by(project, anna))

    conversations.look_after(turn.conversation)

    assert queue.held_by(project, anna).comparison_id == turn.comparison_id


def test_a_turn_that_somebody_else_has_judged_is_dropped(project, listener, anna):
    turn = talk(project, anna, listener, "Tea or coffee?", "Tea.", "Coffee.")
    queue.release(queue.held_by(project, anna))
    other = MembershipFactory(project=project).user
    queue.claim(project, other)
    judge(turn, other)

    turn = conversations.look_after(turn.conversation)

    assert turn.state == TurnState.DROPPED
    assert turn.error.startswith("This comparison is kept for you no longer")


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "loading"},
        {"status": Status.STOPPING},
        {"seen": timezone.now() - timedelta(minutes=5)},
    ],
)
def test_who_does_not_listen_cannot_be_asked(project, listener, anna, change):
    Run.objects.filter(pk=listener.pk).update(**change)

    with pytest.raises(conversations.NobodyListens):
        conversations.say(project, anna, "Tea or coffee?")


def test_a_run_that_waits_ends_conversations(project, listener):
    waiting = timezone.now() - timedelta(minutes=1)
    RunFactory(project=project, kind=RunKind.PPO, queued=waiting)

    make_room()

    listener.refresh_from_db()
    assert listener.status == Status.STOPPING


@pytest.mark.parametrize("age", [None, timedelta(0)])
def test_conversations_go_on_where_nothing_waits_for_long(project, listener, age):
    if age is not None:
        RunFactory(project=project, kind=RunKind.PPO, queued=timezone.now() - age)

    make_room()

    listener.refresh_from_db()
    assert listener.status == Status.RUNNING


@pytest.mark.parametrize("change", [{"quota_total": 1}, {"is_qualified": False}])
def test_who_may_judge_no_more_is_not_shown_the_answers(project, listener, anna, change):
    make_judgment(ComparisonFactory(project=project), anna)
    turn = conversations.say(project, anna, "Tea or coffee?")
    answer(listener, turn, "Tea.", "Coffee.")
    project.memberships.update(**change)

    turn = conversations.look_after(turn.conversation)

    assert turn.state == TurnState.DROPPED
    assert turn.error == "You are handed nothing new at the moment: “Compare” says why."
    assert queue.held_by(project, anna) is None


# --- the pages ----------------------------------------------------------------------------------
def test_a_turn_by_its_pages(client, project, listener, anna):
    client.force_login(anna)
    client.post(reverse("rlhf:say", args=["tea"]), {"text": "Tea or coffee?"}, headers=HTMX)
    answer(listener, anna.conversations.get().turns.get(), "Tea.", "Coffee.")
    page = client.get(reverse("rlhf:chat_turn", args=["tea"])).context

    response = client.post(
        reverse("rlhf:judge_turn", args=["tea"]),
        {
            "assignment": page["assignment"].pk,
            "payload_hash": page["assignment"].payload_hash,
            "choice": "first",
        },
        headers=HTMX,
    )

    assert page["judge_url"] == reverse("rlhf:judge_turn", args=["tea"])
    assert (
        response.context["chat"].messages[1]["content"] == page["ballot"].answers[0].completion.text
    )


def test_nothing_said_comes_back_with_a_sentence(client, project, listener, anna):
    client.force_login(anna)

    response = client.post(reverse("rlhf:say", args=["tea"]), {"text": " "}, headers=HTMX)

    assert response.status_code == 422
    assert "Write something to the model first." in response.text


def test_without_a_listener_the_page_leads_to_prepared_comparisons(client, project, anna):
    client.force_login(anna)

    page = client.get(reverse("rlhf:chat", args=["tea"]))

    assert "Nobody to talk to at the moment" in page.text
    assert reverse("annotator:compare", args=["tea"]) in page.text


def test_whoever_talks_is_told_of_guidelines_that_they_have_not_read(client, project, anna):
    publish(project, "Be kind.", None)
    client.force_login(anna)

    page = client.get(reverse("rlhf:chat", args=["tea"]))

    assert "before you judge" in page.text


def test_a_turn_is_judged_by_the_guidelines_that_the_page_shows_last(
    client, project, listener, anna
):
    turn = talk(project, anna, listener, "Tea?", "Yes.", "No.")
    publish(project, "Be kind.", None)
    client.force_login(anna)

    client.get(reverse("rlhf:chat", args=["tea"]))

    showing = Assignment.objects.get(comparison=turn.comparison)
    assert showing.guideline_version == Project.objects.get().guideline_version > 1


def test_whoever_waits_is_not_disturbed_until_there_are_answers(client, project, listener, anna):
    client.force_login(anna)
    turn = conversations.say(project, anna, "Tea or coffee?")

    waiting = client.get(reverse("rlhf:chat_turn", args=["tea"]))
    answer(listener, turn, "Tea.", "Coffee.")
    answered = client.get(reverse("rlhf:chat_turn", args=["tea"]))

    assert (waiting.status_code, waiting.content) == (204, b"")
    assert "Two new answers." in answered.text


def test_whoever_waits_for_long_judges_what_is_prepared_and_finds_the_answers_later(
    client, project, listener, anna
):
    prepared = ComparisonFactory(project=project)
    client.force_login(anna)
    compare = reverse("annotator:compare", args=["tea"])

    said = client.post(reverse("rlhf:say", args=["tea"]), {"text": "Tea?"}, headers=HTMX)
    meanwhile = client.get(compare).context["assignment"]
    answer(listener, anna.conversations.get().turns.get(), "Yes.", "No.")
    later = client.get(reverse("rlhf:chat", args=["tea"]))

    assert f'If it takes too long: <a href="{compare}">compare answers' in said.text
    assert meanwhile.comparison == prepared
    assert "Two new answers." in later.text
    assert list(Comparison.objects.open()) == [prepared]


def test_the_navigation_leads_to_conversations_where_there_are_some(client, project, anna):
    client.force_login(anna)
    link = f'<a href="{reverse("rlhf:chat", args=["tea"])}" >Talk</a>'
    page = reverse("annotator:history", args=["tea"])

    before = client.get(page).text.count(link)
    RunFactory(project=project, kind=RunKind.CONVERSE, status=Status.RUNNING, config=SAMPLING)
    meanwhile = client.get(page).text.count(link)
    Run.objects.update(status=Status.SUCCEEDED)

    assert (before, meanwhile, client.get(page).text.count(link)) == (0, 1, 0)


def test_an_outsider_finds_no_conversation(client, project, listener):
    client.force_login(MembershipFactory().user)

    for name in ("chat", "chat_turn"):
        assert client.get(reverse(f"rlhf:{name}", args=["tea"])).status_code == 404
    for name in ("say", "judge_turn", "new_chat"):
        assert client.post(reverse(f"rlhf:{name}", args=["tea"])).status_code == 404


def test_a_new_conversation_begins_with_nothing(client, project, listener, anna):
    turn = talk(project, anna, listener, "Tea or coffee?", "Tea.", "Coffee.")
    judge(turn, anna)
    client.force_login(anna)

    client.post(reverse("rlhf:new_chat", args=["tea"]), headers=HTMX)

    assert conversations.conversation_of(project, anna) is None


def test_in_a_paused_project_nobody_begins_to_talk(client, project, listener, anna):
    project.paused = timezone.now()
    project.save()
    client.force_login(anna)

    response = client.post(reverse("rlhf:say", args=["tea"]), {"text": "Hi!"}, headers=HTMX)

    assert response.status_code == 422
    assert "You are handed nothing new at the moment" in response.content.decode()
    assert list((listener.folder / "asked").iterdir()) == []


# --- what is found in answers -------------------------------------------------------------------
def test_answers_in_which_something_is_found_are_asked_for_once_more(project, listener, anna):
    turn = talk(project, anna, listener, "Who are you?", "I am ChatGPT.", "A model.")
    assert (turn.state, Comparison.objects.count()) == (TurnState.WAITING, 0)

    answer(listener, turn, "Nobody.", "A model.")
    turn = conversations.look_after(turn.conversation)

    assert (turn.state, turn.comparison.hold) == (TurnState.SHOWN, "")
    texts = Completion.objects.order_by("text").values_list("text", flat=True)
    assert list(texts) == ["A model.", "Nobody."]


@pytest.mark.parametrize(
    ("text", "truncated", "reason"),
    [
        ("I am ChatGPT.", False, "Answer A says who wrote it: “I am ChatGPT”."),
        (" ", False, "Answer A is empty."),
        ("Because it was", True, "Answer A was cut off at the length limit."),
    ],
)
def test_the_answer_in_which_nothing_is_found_stays(
    project, listener, anna, text, truncated, reason
):
    project.screening = ["empty", "self_naming", "truncated"]
    project.save()
    turn = conversations.say(project, anna, "Who are you?")

    for _ in range(2):
        answer(listener, turn, text, "A model.", truncated=truncated)
        turn = conversations.look_after(turn.conversation)

    assert (turn.state, turn.comparison) == (TurnState.DONE, None)
    assert turn.conversation.messages[1]["content"] == "A model."
    assert Comparison.objects.get().hold == reason
    assert queue.held_by(project, anna) is None


def test_of_two_answers_that_are_nearly_alike_one_stays(project, listener, anna):
    both = ["The cat sat on the mat, and stayed.", "the cat sat on the mat, and  stayed."]
    turn = talk(project, anna, listener, "Tell me a story.", *both)
    answer(listener, turn, *both)

    turn = conversations.look_after(turn.conversation)

    assert turn.state == TurnState.DONE
    assert turn.conversation.messages[1]["content"] in both
    assert (
        Comparison.objects.get().hold == "Answers A and B are the same but for spaces and capitals."
    )


def test_where_no_answer_can_be_shown_nothing_was_said(project, listener, anna):
    turn = talk(project, anna, listener, "Who are you?", "I am ChatGPT.", "")
    answer(listener, turn, "I am ChatGPT.", "")

    turn = conversations.look_after(turn.conversation)

    assert (turn.state, turn.error) == (TurnState.DROPPED, conversations.UNFIT)
    assert turn.conversation.messages == []


def test_a_model_that_has_left_is_not_asked_once_more(project, listener, anna):
    turn = conversations.say(project, anna, "Who are you?")
    answer(listener, turn, "I am ChatGPT.", "A model.")
    Run.objects.update(status=Status.STOPPED)

    turn = conversations.look_after(turn.conversation)

    assert turn.conversation.messages[1]["content"] == "A model."


def test_what_a_project_does_not_look_for_is_shown(project, listener, anna):
    project.screening = []
    project.save()

    turn = talk(project, anna, listener, "Who are you?", "I am ChatGPT.", "")

    assert turn.state == TurnState.SHOWN


def test_the_page_says_that_there_was_nothing_to_choose(client, project, listener, anna):
    talk(project, anna, listener, "Tea or coffee?", "Tea.", "Tea.")
    client.force_login(anna)

    page = client.get(reverse("rlhf:chat", args=["tea"]))

    assert "There was nothing to choose this time" in page.text

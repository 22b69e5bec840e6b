"""Prompt versions: which examples they take, and what runs make of them."""

import json
import shutil

import pytest

from annotator.differences import Piece
from annotator.models import Comparison, Completion
from rlhf.documents import Document, create_collection
from rlhf.evaluation import store_pairs
from rlhf.inputs import RunRefused
from rlhf.launching import form_with
from rlhf.lineage import carriers_of
from rlhf.models import ModelKind, ModelVersion, RunKind, Status
from rlhf.prompt_forms import PromptForm
from rlhf.prompting import (
    Draft,
    PromptRefused,
    best_judged,
    best_tried,
    changes_between,
    create_prompt_version,
    prompting_in,
    put_around,
)
from rlhf.runs import launch
from rlhf.training.artifacts import RunError
from rlhf.training.screen_rows import answer_key, prompt_key
from tests.factories import CompletionFactory, ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    EndpointFactory,
    EvaluateRunFactory,
    GateFactory,
    PolicyFactory,
    RunFactory,
    make_comparison,
    make_judgment,
    write_artifact,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory()


@pytest.fixture
def policy(project):
    return PolicyFactory(project=project, name="polite")


def judged(project, *texts, split="train", wins=1):
    """A comparison whose first answer is preferred so often; that answer."""
    comparison = make_comparison(PromptFactory(project=project, split=split), *texts)
    first, *others = comparison.completions.order_by("pk")
    for _ in range(wins):
        make_judgment(comparison, [first], others)
    return first


def test_the_best_judged_answers_come_first_and_one_for_each_prompt(project):
    twice = judged(project, "good", "bad", wins=2)
    once = judged(project, "fine", "poor")
    comparison = make_comparison(PromptFactory(project=project), "x", "y")
    make_judgment(comparison, verdict="all_bad")

    found = best_judged(project, 10)

    assert [each.completion for each in found] == [twice, once]
    assert (found[0].wins, found[0].n_votes, len(found[0].annotators)) == (2, 2, 2)


def test_answers_to_held_out_prompts_are_never_examples(project):
    judged(project, "secret", "bad", split="test")

    assert best_judged(project, 10) == []


def test_answers_that_were_cut_off_or_flagged_are_no_examples(project):
    cut_off = judged(project, "cut", "a")
    Completion.objects.filter(pk=cut_off.pk).update(is_truncated=True)
    comparison = make_comparison(PromptFactory(project=project), "rude", "b")
    rude, other = comparison.completions.order_by("pk")
    judgment = make_judgment(comparison, [rude], [other])
    judgment.flags = {str(rude.pk): ["unsafe"]}
    judgment.save(update_fields=["flags"])

    assert best_judged(project, 10) == []


def test_what_is_in_quarantine_is_no_example(project, policy):
    of_prompt, itself, fine = (judged(project, text, "bad") for text in ("leak", "ada@x.org", "ok"))
    screen = RunFactory(
        project=project, kind="screen", status="succeeded", config={"screened": "project"}
    )
    screen.quarantined.create(key=prompt_key(of_prompt.prompt.key), code="near_leak")
    screen.quarantined.create(key=answer_key(itself.prompt.key, "ada@x.org"), code="email")

    assert [each.completion for each in best_judged(project, 10)] == [fine]
    for answer in (of_prompt, itself):
        with pytest.raises(PromptRefused, match=f"Answer {answer.pk} can be no example"):
            create_prompt_version(project, Draft(policy, examples=[answer.pk]))


def test_a_version_has_its_text_frozen_and_its_policy_as_parent(project, policy):
    answer = judged(project, "good", "bad")

    version = create_prompt_version(project, Draft(policy, "Be brief.", examples=[answer.pk]))

    assert (version.name, version.kind, version.parent) == ("polite-prompt-1", "prompt", policy)
    assert [(each["answer"], each["origin"]["completion"]) for each in prompting_in(version).examples] == [("good", answer.pk)]  # fmt: skip
    assert version.reference() == {
        "base": policy.path, "adapters": [], "prompting": f"{version.path}/prompting.json",
    }  # fmt: skip
    assert set(version.files) == {"prompting.json"}


def test_line_ends_of_browsers_reach_no_model(project, policy):
    draft = Draft(policy, "Be brief.\r\nBe kind.", template="Q:\r\n{prompt}")

    prompting = prompting_in(create_prompt_version(project, draft))

    assert (prompting.system, prompting.template) == ("Be brief.\nBe kind.", "Q:\n{prompt}")


def test_a_system_message_of_blanks_is_none(project, policy):
    version = create_prompt_version(project, Draft(policy, " \n", template="Q: {prompt}"))

    assert prompting_in(version).system == ""


def test_random_examples_are_drawn_by_their_seed(project, policy):
    for number in range(6):
        judged(project, f"good {number}", "bad")

    def drawn(seed):
        draft = Draft(policy, selection="random", shots=3, seed=seed)
        return prompting_in(create_prompt_version(project, draft)).examples

    assert drawn(1) == drawn(1)
    assert len(drawn(2)) == 3


def test_an_answer_to_a_held_out_prompt_is_refused_as_an_example(project, policy):
    answer = CompletionFactory(prompt=PromptFactory(project=project, split="test"))

    with pytest.raises(PromptRefused, match=f"Answer {answer.pk} is to a held-out prompt"):
        create_prompt_version(project, Draft(policy, examples=[answer.pk]))

    assert ModelVersion.objects.filter(kind=ModelKind.PROMPT).count() == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "This is polite as it is"),
        ({"system": " \r\n\t", "template": " {prompt}\n"}, "This is polite as it is"),
        ({"selection": "similar"}, "Nobody has preferred an answer to a training prompt yet"),
        ({"template": "no question"}, r"must have \{prompt\} exactly once"),
        ({"examples": [10**6]}, "This project has no answer 1000000"),
        ({"examples": [10**30]}, "This project has no answer 1000"),
    ],
)
def test_a_draft_that_cannot_work_is_refused(project, policy, changed, message):
    with pytest.raises(PromptRefused, match=message):
        create_prompt_version(project, Draft(policy, **changed))


def test_a_budget_that_leaves_no_room_for_an_answer_is_refused(project):
    small = PolicyFactory(project=project, details={"context_tokens": 512})

    with pytest.raises(PromptRefused, match=r"512 tokens leaves no room .* Take 384, or fewer"):
        create_prompt_version(project, Draft(small, "Be brief.", budget_tokens=512))


@pytest.mark.parametrize(("reads", "budget"), [(None, 1024), (8192, 1024), (1024, 896), (100, 50)])
def test_the_budget_is_what_fits_if_none_is_said(project, reads, budget):
    imported = PolicyFactory(project=project, details={"context_tokens": reads})
    adapter = PolicyFactory(project=project, parent=imported)

    version = create_prompt_version(project, Draft(adapter, "Be brief."))

    assert prompting_in(version).budget_tokens == budget
    assert version.details["budget_tokens"] == budget


@pytest.mark.parametrize("name", ["x" * 121, "two\nlines", "bell\a"])
def test_a_name_is_one_line_that_is_not_endless(project, policy, name):
    with pytest.raises(PromptRefused, match="is one line of at most 120 characters"):
        create_prompt_version(project, Draft(policy, "Be brief."), name=name)


def test_a_name_may_join_letters_and_has_no_blanks_around_it(project, policy):
    version = create_prompt_version(project, Draft(policy, "Be brief."), name=" 👩\u200d🔬 ")

    assert version.name == "👩\u200d🔬"


def test_a_name_is_taken_once(project, policy):
    create_prompt_version(project, Draft(policy, "Be brief."), name="brief")

    with pytest.raises(PromptRefused, match="has a model version “brief” already"):
        create_prompt_version(project, Draft(policy, "Be kind."), name="brief")


def test_whoever_chose_the_examples_has_their_votes_carried(project, policy):
    comparison = make_comparison(PromptFactory(project=project), "good", "bad")
    first, second = comparison.completions.order_by("pk")
    annotator = make_judgment(comparison, [first], [second]).annotator

    version = create_prompt_version(project, Draft(policy, examples=[first.pk]))

    assert carriers_of(project, annotator).policies == [version]


# --- runs -----------------------------------------------------------------------------------------
SAMPLING = {"temperature": 1.0, "max_new_tokens": 8, "seed": 0}


def test_a_prompt_version_is_evaluated_against_its_policy(project, policy):
    PromptFactory(project=project, split="test")
    version = create_prompt_version(project, Draft(policy, "Be brief."))

    run = launch(project, RunKind.EVALUATE, SAMPLING, round_number=1, policy=version, rival=policy)

    assert run.config["model"] == {**policy.reference(), "prompting": f"{version.path}/prompting.json"}  # fmt: skip
    assert run.config["rival"] == policy.reference()


def test_training_refuses_a_prompt_version_and_names_its_policy(project, policy):
    version = create_prompt_version(project, Draft(policy, "Be brief."))

    with pytest.raises(RunRefused, match=r"polite-prompt-1 is a prompt version .* Choose polite"):
        launch(project, RunKind.PPO, {"rewards": []}, round_number=1, policy=version)


def test_versions_around_different_documents_are_not_the_same(project, policy):
    first, second = (create_collection(project, "Pets", [Document("Cats", text)]) for text in "ab")

    changes = changes_between(
        *(
            create_prompt_version(project, Draft(policy, collection=each))
            for each in (first, second)
        )
    )

    assert "".join(piece.text for piece in changes["Settings"] if piece.kind != "removed") == (
        "Examples: none. Passages: 3 per question, of Pets v2. Budget: 1024 tokens."
    )


def test_documents_that_are_gone_are_refused(project, policy):
    collection = create_collection(project, "Pets", [Document("Cats", "They purr.")])
    shutil.rmtree(collection.path)

    with pytest.raises(PromptRefused, match="Pets v1 is not what was frozen"):
        create_prompt_version(project, Draft(policy, collection=collection))


def test_a_prompt_version_of_a_prompt_version_is_refused(project, policy):
    version = create_prompt_version(project, Draft(policy, "Be brief."))
    said = (
        "polite-prompt-1 is a prompt version itself. Choose polite instead, and say all of it anew."
    )

    with pytest.raises(PromptRefused, match=said):
        create_prompt_version(project, Draft(version, "Be kind."))

    assert PromptForm(project, {"policy": version.pk}).errors["policy"] == [said]


CAN = (
    "it can write answers, in “Generate completions”, “Evaluate”, “Evaluation suite” and “Live conversations”, and "
    "teach in “Distillation”."
)
TRIED = "the trials of a search, those of distillations too, start from a policy that is here."


@pytest.mark.parametrize(
    ("kind", "sent", "why"),
    [("ppo", {}, CAN), ("dpo", {}, CAN), ("search", {}, TRIED), ("search", {"tries": "distill"}, TRIED)],
)  # fmt: skip
def test_forms_of_training_runs_say_what_to_choose_instead(project, policy, kind, sent, why):
    version = create_prompt_version(project, Draft(policy, "Be brief."))

    form = form_with(project, kind, {**sent, "policy": version.pk})

    assert form.errors["policy"] == [
        f"polite-prompt-1 is a prompt version and has no weights of its own: {why} Choose polite instead."
    ]


def test_of_a_prompt_version_elsewhere_nobody_here_has_the_weights(project):
    endpoint = EndpointFactory(version__project=project, version__name="far").version
    version = create_prompt_version(project, Draft(endpoint, "Be brief."))

    form = form_with(project, RunKind.SEARCH, {"policy": version.pk})

    assert form.errors["policy"] == [
        "far-prompt-1 is a prompt version, and far is a policy elsewhere, of which nobody here has the weights: "
        f"{TRIED} Choose a policy that is here."
    ]


def test_a_prompt_version_is_no_reward_model(project, policy):
    version = create_prompt_version(project, Draft(policy, "Be brief."))

    form = form_with(project, RunKind.EVALUATE, {"reward_model": version.pk})

    assert form.errors["reward_model"] == ["polite-prompt-1 is no reward model of this project."]


def test_forms_say_nothing_of_versions_of_other_projects(project, policy):
    other = create_prompt_version(
        (theirs := PolicyFactory(name="secret")).project, Draft(theirs, "Be brief.")
    )

    form = form_with(project, RunKind.PPO, {"policy": other.pk})

    assert form.errors["policy"] == ["Choose one of the list."]


def test_trials_refuse_a_prompt_version_however_they_are_launched(project, policy):
    version = create_prompt_version(project, Draft(policy, "Be brief."))
    settings = {"tries": "distill", "space": "temperature = 0.5 .. 1.0"}

    with pytest.raises(RunRefused, match=r"polite-prompt-1 is a prompt version .* Choose polite"):
        launch(project, RunKind.SEARCH, settings, round_number=1, policy=version)


def test_a_changed_prompt_is_refused(project, policy):
    PromptFactory(project=project)
    version = create_prompt_version(project, Draft(policy, "Be brief."))
    file = f"{version.path}/prompting.json"
    with open(file, "a") as opened:
        opened.write(" ")

    with pytest.raises(RunRefused, match=r"prompting\.json has changed"):
        launch(project, RunKind.GENERATE, SAMPLING, round_number=1, policy=version)
    with pytest.raises(RunError, match=f"{version} is not what was made: "):
        prompting_in(version)


def test_a_policy_elsewhere_is_asked_through_its_prompt_versions(settings, project):
    settings.ENDPOINT_HOSTS = ["127.0.0.1"]
    PromptFactory(project=project)
    endpoint = EndpointFactory(version__project=project).version
    version = create_prompt_version(project, Draft(endpoint, "Be brief."))

    run = launch(project, RunKind.GENERATE, SAMPLING, round_number=1, policy=version)

    assert (run.config["model"]["endpoint"], "prompting" in run.config["model"]) == (endpoint.pk, True)  # fmt: skip


def test_a_reader_of_an_answer_sees_the_passages_it_was_given(project, policy):
    version = create_prompt_version(project, Draft(policy, "Be brief."))
    run = EvaluateRunFactory(project=project, policy=version, rival=policy)
    decide(run, new_wins=True)
    new, old = Completion.objects.filter(generated__run=run).order_by("text")
    passages = [{"document": "Cats", "number": 1, "text": "They purr."}]
    row = {"id": new.prompt_id, "n_tokens": 9, "n_examples": 0, "passages": passages}
    (run.folder / "prompting-new.jsonl").write_text(json.dumps(row) + "\n")

    assert put_around(project, new.pk)["passages"] == passages
    assert put_around(project, old.pk) is None


def test_examples_are_compared_one_by_one(project, policy):
    first, second = judged(project, "one", "x"), judged(project, "two", "y")
    both = create_prompt_version(project, Draft(policy, examples=[first.pk, second.pk]))
    one = create_prompt_version(project, Draft(policy, examples=[second.pk]))

    changes = changes_between(both, one)

    assert [piece.kind for piece in changes["Examples"]] == ["removed", "same"]
    assert changes["Template"] == [Piece("same", "{prompt}")]


def test_the_best_prompt_version_is_the_one_people_prefer_most_often(project, policy):
    assert best_tried(project) is None
    answer = judged(project, "good", "bad")
    winner, loser = (
        create_prompt_version(project, Draft(policy, text, examples=[answer.pk]))
        for text in ("Be brief.", "Be rude.")
    )
    for version, wins in ((winner, True), (loser, False)):
        decide(evaluated(version), new_wins=wins)

    assert best_tried(project).version == winner
    assert best_tried(project).win_rate.rate == 1.0


def test_a_gate_does_not_say_how_often_people_prefer_a_prompt_version(project, policy):
    answer = judged(project, "good", "bad")
    version = create_prompt_version(project, Draft(policy, examples=[answer.pk]))
    gate = GateFactory(project=project, candidate=version, incumbent=policy)
    decide(gate.run, new_wins=True)

    assert best_tried(project) == (version, None, None)


def test_an_instruction_alone_is_no_few_shot_prompting(project, policy):
    decide(evaluated(create_prompt_version(project, Draft(policy, "Be brief."))), new_wins=True)
    assert best_tried(project) is None
    answer = judged(project, "good", "bad")

    version = create_prompt_version(project, Draft(policy, examples=[answer.pk]))

    assert best_tried(project) == (version, None, None)


def evaluated(version):
    """The run that compares it with its policy."""
    return EvaluateRunFactory(
        project=version.project, policy=version, rival=version.parent, status=Status.SUCCEEDED
    )


def decide(run, new_wins):
    """One pair of the run, as people judged it."""
    prompt = PromptFactory(project=run.project, split="test")
    pair = {"id": prompt.pk, "index": 0, "new": "new", "old": "old",
            "new_truncated": False, "old_truncated": False}  # fmt: skip
    write_artifact(run, "pairs.jsonl", [pair])
    store_pairs(run)
    comparison = Comparison.objects.get(origin=run.origin)
    new, old = comparison.completions.order_by("text")
    make_judgment(comparison, *([[new], [old]] if new_wins else [[old], [new]]))

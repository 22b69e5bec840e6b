import pytest

from rlhf.forms import (
    FORMS,
    EvaluateForm,
    GenerateForm,
    ImportModelForm,
    OrderQueueForm,
    PPOForm,
    RewardModelForm,
    settings_like,
)
from rlhf.models import RunKind
from rlhf.presets import PRESETS
from rlhf.training.config import CONFIGS, PPOConfig
from tests.factories import ProjectFactory
from tests.rlhf.factories import (
    ExportFactory,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
    make_dataset,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory()


def filled_in(form, **changes):
    """What a browser would send of a form that was left as it was shown."""
    sent = {bound.html_name: bound.value() for bound in form}
    empty = (None, False)  # an empty field, a box not ticked
    return {
        name: value
        for name, value in (sent | changes).items()
        if not any(value is each for each in empty)
    }


# For a second policy, an encoder, what is to be varied, what is to be added up.
ASK_FIRST = (RunKind.EVALUATE, RunKind.INDEX, RunKind.SEARCH, RunKind.COMBINE)


@pytest.mark.parametrize("kind", [kind for kind in FORMS if kind not in ASK_FIRST])
def test_form_as_shown_is_complete_and_says_what_the_config_says(project, kind):
    RewardModelFactory(project=project)
    ExportFactory(project=project)
    make_dataset(project)
    sent = filled_in(FORMS[kind](project))

    form = FORMS[kind](project, sent)

    assert form.is_valid(), form.errors
    needed = {"model": {}, "reward_model": "r", "source": "embedded", "rival": {}}
    known = CONFIGS[kind].__dataclass_fields__
    defaults = CONFIGS[kind](**{name: needed[name] for name in needed if name in known})
    assert form.settings == {name: getattr(defaults, name) for name in form.settings}


def test_an_order_begins_with_the_temperature_that_the_report_found(project):
    report = {"report": {"calibration": {"temperature": 2.345}}}
    RewardModelFactory(project=project, details=report)
    RewardModelFactory(details={"report": {"calibration": {"temperature": 9.0}}})

    assert OrderQueueForm(project)["temperature"].value() == 2.35
    assert OrderQueueForm(project, initial={"temperature": 3.0})["temperature"].value() == 3.0


def test_choices_are_those_of_the_project_newest_first(project):
    old, new = PolicyFactory.create_batch(2, project=project)
    reward_model = RewardModelFactory(project=project, parent=old)
    RewardModelFactory()

    form = PPOForm(project)

    assert list(form.fields["policy"].queryset) == [new, old]
    assert list(form.fields["reward_model"].queryset) == [reward_model]
    assert form["policy"].value() == new.pk


def test_a_reward_model_may_start_from_any_model_that_is_none(project):
    policy = PolicyFactory(project=project)
    RewardModelFactory(project=project, parent=policy)
    encoder = PolicyFactory(project=project, kind="base")

    form = RewardModelForm(project)

    assert list(form.fields["policy"].queryset) == [policy]
    assert [label for _, label in form.fields["base"].choices] == [
        "The policy", encoder.name, policy.name,
    ]  # fmt: skip


def test_model_of_another_project_is_no_choice(project):
    PolicyFactory(project=project)
    sent = filled_in(GenerateForm(project), policy=PolicyFactory().pk)

    form = GenerateForm(project, sent)

    assert list(form.errors) == ["policy"]


def test_each_form_has_a_token_of_its_own(project):
    assert ImportModelForm(project)["token"].value() != ImportModelForm(project)["token"].value()


def test_form_says_what_must_exist_first(project):
    PolicyFactory(project=project)

    assert RewardModelForm(project).missing() == ["Export"]


def test_export_that_holds_nothing_out_says_so(project):
    some, none = (
        ExportFactory(project=project, manifest={"counts": {"rows_test": n}}) for n in (3, 0)
    )

    labels = [label for _, label in RewardModelForm(project).fields["export"].choices]

    assert labels == [f"{none}, no pair held out", str(some)]


def test_every_folded_field_exists(project):
    for form in FORMS.values():
        assert [bound.name for bound in form(project).advanced_fields()] == list(form.advanced)


# --- rewards and best of n ---------------------------------------------------------------------
def test_rewards_are_written_one_a_line(project):
    RewardModelFactory(project=project)
    lines = "length target=80 weight=-0.2\r\nsentiment"

    form = PPOForm(project, filled_in(PPOForm(project), rewards=lines))

    assert form.is_valid(), form.errors
    assert form.settings["rewards"] == [
        {"kind": "length", "target": 80, "weight": -0.2},
        {"kind": "sentiment"},
    ]


def test_a_bad_reward_is_refused_with_its_line(project, settings):
    settings.REWARD_FUNCTIONS = ["our.rewards.polite"]
    RewardModelFactory(project=project)

    def errors(lines):
        return PPOForm(project, filled_in(PPOForm(project), rewards=lines)).errors

    assert errors("callable function=our.rewards.polite") == {}
    assert errors("sentiment\ncallable function=os.system") == {
        "rewards": [
            "Line 2: os.system is not in PREFERENDUM_REWARD_FUNCTIONS, the list of the functions "
            "that may be called (our.rewards.polite)."
        ]
    }


def test_something_must_be_rewarded(project):
    PolicyFactory(project=project)

    form = PPOForm(project, filled_in(PPOForm(project)))
    with_rule = PPOForm(project, filled_in(PPOForm(project), rewards="sentiment"))

    assert form.errors == {
        "reward_model": ["Choose a reward model, or add other rewards under “More settings”."]
    }
    assert with_rule.is_valid()


def test_rewards_of_a_run_are_lines_again():
    rules = [{"kind": "regex", "pattern": "a b", "weight": 2.0}]
    run = RunFactory(kind=RunKind.PPO, config={"rewards": rules, "steps": 3})

    assert settings_like(run)["rewards"] == "regex pattern='a b' weight=2.0"


def test_the_best_of_several_needs_a_reward_model_or_a_rule(project):
    reward_model = RewardModelFactory(project=project)

    def errors(**changes):
        return EvaluateForm(project, filled_in(EvaluateForm(project), **changes)).errors

    assert errors(best_of=16, reward_model=reward_model.pk) == {}
    assert errors(best_of=16, rewards="length target=80") == {}
    assert errors(best_of=16) == {
        "best_of": ["Choose a reward model or write a rule, which says which answer is the best."]
    }
    assert list(errors(best_of=16, rewards="length")) == ["rewards"]
    assert list(errors(best_of=65, reward_model=reward_model.pk)) == ["best_of"]


# --- presets -----------------------------------------------------------------------------------
def shown(project, preset="", **changes):
    """The PPO form as it comes back after the preset was shown and somebody changed some fields."""
    form = PPOForm.filled_in(project, {}, preset) if preset else PPOForm(project)
    return filled_in(form, preset=preset, **changes)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_preset_is_a_form_that_can_be_sent(project, preset):
    RewardModelFactory(project=project)

    form = PPOForm(project, filled_in(PPOForm.filled_in(project, {}, preset.key)))

    assert form.is_valid(), form.errors
    chosen = {name: form.settings[name] for name in preset.settings}
    assert chosen == preset.settings
    assert PPOConfig(model={}, reward_model="reward", **form.settings)


def test_preset_leaves_alone_what_somebody_has_typed(project):
    form = PPOForm.filled_in(project, {}, "overnight", shown(project, steps="7", seed="3"))

    assert (form["steps"].value(), form["seed"].value()) == ("7", "3")
    assert form["batch_size"].value() == PRESETS["overnight"].settings["batch_size"]
    assert (form.shown_preset, form.kept) == ("overnight", ["Steps"])


def test_one_preset_takes_the_place_of_another(project):
    form = PPOForm.filled_in(project, {}, "quick", shown(project, "overnight"))

    assert form["steps"].value() == PRESETS["quick"].settings["steps"]
    assert form["target_kl"].value() is None  # which only the other one sets
    assert form.kept == []


# --- import model ------------------------------------------------------------------------------
def location_errors(project, source, location):
    form = ImportModelForm(
        project, filled_in(ImportModelForm(project), source=source, location=location)
    )
    return form.errors.get("location", [])


def test_unknown_model_folder_is_named(project):
    assert location_errors(project, "folder", "/no/such") == [
        "There is no folder “/no/such” on this machine."
    ]
    assert location_errors(project, "folder", "no/such") == [
        "“no/such” is not an absolute path: start it with a slash."
    ]


def test_folder_that_holds_no_model_is_refused(project, tmp_path):
    assert location_errors(project, "folder", str(tmp_path)) == [
        f"“{tmp_path}” holds neither a config.json nor a GGUF file: it is not the folder of a "
        "Hugging Face model."
    ]

    (tmp_path / "config.json").touch()

    assert location_errors(project, "folder", str(tmp_path)) == []


def test_gguf_file_may_be_named_itself_or_by_its_folder(project, tmp_path):
    file = tmp_path / "small.gguf"

    assert location_errors(project, "folder", str(file)) == [
        f"There is no file “{file}” on this machine."
    ]

    file.touch()

    assert location_errors(project, "folder", str(file)) == []
    assert location_errors(project, "folder", str(tmp_path)) == []


def test_one_of_several_gguf_files_must_be_named(project, tmp_path):
    (tmp_path / "small.gguf").touch()
    (tmp_path / "large.gguf").touch()

    assert location_errors(project, "folder", str(tmp_path)) == [
        f"“{tmp_path}” holds several GGUF files: give the path of one of them."
    ]


def test_folder_that_cannot_be_read_is_refused_with_the_reason(project):
    location = f"/{'x' * 300}"  # as root, no permission is ever lacking

    assert location_errors(project, "folder", location) == [
        f"“{location}” cannot be read: File name too long."
    ]


@pytest.mark.parametrize("source", ["hub", "folder"])
def test_source_that_needs_a_location_asks_for_it(project, source):
    assert location_errors(project, source, "") == ["This source needs a Hub id or a path."]


def test_location_left_over_from_another_source_is_dropped(project):
    sent = filled_in(ImportModelForm(project), source="embedded", location="owner/name")

    form = ImportModelForm(project, sent)

    assert form.is_valid()
    assert form.settings == {"source": "embedded", "location": ""}

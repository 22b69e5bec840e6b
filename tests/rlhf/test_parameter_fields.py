from rlhf.forms.parameters import PARAMETER_FIELDS, ParameterFields
from rlhf.training.parameter_settings import ParameterSettings


def sent(**changed):
    shown = {name: field.initial for name, field in ParameterFields.base_fields.items()}
    return ParameterFields(
        {name: value for name, value in (shown | changed).items() if value is not None}
    )


def test_what_is_shown_at_first_are_the_defaults_of_the_training_code():
    form = sent()

    assert form.is_valid()
    assert ParameterSettings(**form.cleaned_data) == ParameterSettings()
    assert set(PARAMETER_FIELDS) == set(ParameterSettings().to_dict())


def test_settings_that_do_not_go_together_come_back_with_a_sentence():
    form = sent(method="prefix", dora="on")

    assert form.non_field_errors() == [
        "These settings do not work: dora is an option of LoRA: it does not go with method='prefix'"
    ]

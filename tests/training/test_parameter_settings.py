import re

import pytest

from rlhf.training.parameter_settings import ParameterSettings

NONSENSE = [
    (
        {"method": "ia3", "dora": True},
        "dora is an option of LoRA: it does not go with method='ia3'",
    ),
    (
        {"method": "full", "four_bit": True},
        "four_bit is an option of LoRA: it does not go with method='full'",
    ),
    (
        {"method": "prompt", "unfreeze_every": 0.5},
        "unfreeze_every=0.5 is about layers, and method='prompt' moves none of them: leave it empty",
    ),
    (
        {"method": "prefix", "adapter_layers": 2},
        "adapter_layers=2 is about layers, and method='prefix' moves none of them: leave it empty",
    ),
    (
        {"name": "two\nlines"},
        "name='two\\nlines' must be one line of at most 100 characters",
    ),
    (
        {"anchor": "kl"},
        "anchor='kl' and anchor_coefficient=0.0 do not fit: a pull needs both, none needs neither",
    ),
]


@pytest.mark.parametrize(("chosen", "sentence"), NONSENSE)
def test_what_makes_no_sense_together_is_refused(chosen, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ParameterSettings(**chosen)


def test_options_of_lora_go_together():
    settings = ParameterSettings(dora=True, rslora=True, adapter_layers=2, unfreeze_every=1.0)

    assert ParameterSettings.from_dict(settings.to_dict()) == settings

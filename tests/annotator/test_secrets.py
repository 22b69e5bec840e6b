import pytest
from django.test import override_settings

from annotator.secrets import KeyChanged, seal, unseal

OTHER = "another key, as long as Django wants them to be, 0123456789"


def test_what_was_sealed_is_read_again_and_never_looks_the_same():
    assert unseal(seal("sk-ключ")) == "sk-ключ"
    assert seal("sk-1") != seal("sk-1")
    assert "sk-1" not in seal("sk-1")


def test_another_secret_key_opens_nothing_and_says_so():
    sealed = seal("sk-1")

    with (
        override_settings(SECRET_KEY=OTHER),
        pytest.raises(KeyChanged, match="under another PREFERENDUM_SECRET_KEY"),
    ):
        unseal(sealed)


def test_a_changed_letter_is_found_out():
    sealed = seal("sk-1")
    changed = sealed[:-10] + ("A" if sealed[-10] != "A" else "B") + sealed[-9:]

    with pytest.raises(KeyChanged):
        unseal(changed)


def test_the_old_key_still_opens_while_it_is_a_fallback(settings):
    sealed = seal("sk-1")
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = OTHER

    assert unseal(sealed) == "sk-1"

"""Other people's keys and our own signing secrets, encrypted at rest under the server's SECRET_KEY.

A copy of the database alone then gives none of them away; whoever has the key file too reads all.
"""

from __future__ import annotations

import base64

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.utils.encoding import force_bytes


class KeyChanged(ValueError):
    """What was sealed under another SECRET_KEY; the message is for the admin."""


def seal(text: str) -> str:
    """`text` encrypted and authenticated, as ASCII: a third longer, and 120 characters besides."""
    return _fernet().encrypt(text.encode()).decode("ascii")


def unseal(sealed: str) -> str:
    """What was sealed. Raises KeyChanged if neither SECRET_KEY nor its fallbacks open it."""
    try:
        return _fernet().decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise KeyChanged(
            "This secret cannot be read: it was kept under another PREFERENDUM_SECRET_KEY. "
            "Start the server with that key, or enter the secret anew."
        ) from error


def _fernet() -> MultiFernet:
    """Seals with SECRET_KEY, and opens with its fallbacks too, as Django's own signatures do."""
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return MultiFernet([Fernet(_derived(key)) for key in keys])


def _derived(secret_key: str | bytes) -> bytes:
    # A hash is enough: SECRET_KEY is long and random, no password that somebody could guess.
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"preferendum.secrets")
    return base64.urlsafe_b64encode(hkdf.derive(force_bytes(secret_key)))

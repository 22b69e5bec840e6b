"""What views raise besides Django REST framework's own exceptions; `problems` makes answers of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.exceptions import APIException, ValidationError

UNPROCESSABLE = 422


class Conflict(APIException):
    status_code = 409

    def __init__(self, detail: str, wait: int | None = None) -> None:
        super().__init__(detail)
        self.wait = wait  # seconds


class TooLarge(APIException):
    status_code = 413


class Refused(APIException):
    """It was understood, and cannot be done: the message is a sentence of whoever refused."""

    status_code = UNPROCESSABLE

    def __init__(self, detail: object, errors: list[str] | None = None) -> None:
        super().__init__(str(detail))
        self.errors = errors or []


def invalid(errors: Mapping[str, Any]) -> ValidationError:
    """Of fields with what is wrong with them: {"overlap": "…"}."""
    return ValidationError(errors)

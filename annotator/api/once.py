"""POSTs that are done once, however often they come: the header Idempotency-Key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import idempotency
from annotator.api.errors import Conflict, invalid

KEY = "Idempotency-Key"
KEY_PATTERN = "^[!-~]{1,255}$"


def once(view: Callable[..., Response]) -> Callable[..., Response]:
    """A view that carries a POST out once, however often it comes with the same Idempotency-Key."""

    @wraps(view)
    def answer(request: Request, *args: Any, **kwargs: Any) -> Response:
        key = request.headers.get(KEY)
        if request.method != "POST" or key is None:
            return view(request, *args, **kwargs)
        known = _begin(request, key)
        if known.is_answered:
            replayed = {"Idempotency-Replayed": "true"}
            return Response(known.answer, status=known.status, headers=replayed)
        try:
            response = view(request, *args, **kwargs)
        except BaseException:
            known.delete()  # it was refused, or failed: it may be sent again
            raise
        known.keep(response.status_code, response.data)
        return response

    return answer


def _begin(request: Request, key: str) -> idempotency.IdempotentRequest:
    if not re.match(KEY_PATTERN, key):
        raise invalid({KEY: "1 to 255 visible ASCII characters, such as a UUID."})
    try:
        return idempotency.begin(request.user, key, hash_of(request))
    except idempotency.KeyReused:
        raise invalid({KEY: "This key came with another request before: draw a new one."}) from None
    except idempotency.UnderWay:
        raise Conflict(
            "The request with this key is being carried out: ask again in a second.", wait=1
        ) from None


def hash_of(request: Request) -> str:
    """Of what is asked, not of how it was packed: an upload that is repeated has other boundaries."""
    digest = hashlib.sha256(f"{request.method} {request.path}\n".encode())
    files = request.FILES
    fields = request.data
    if isinstance(fields, Mapping):
        fields = {name: value for name, value in fields.items() if name not in files}
    digest.update(json.dumps(fields, sort_keys=True).encode())
    for name, file in sorted(files.items()):
        digest.update(f"\n{name}\n".encode())
        _add(digest, file)
    return digest.hexdigest()


def _add(digest: Any, file: UploadedFile) -> None:
    for chunk in file.chunks():
        digest.update(chunk)
    file.seek(0)

"""Reading what was sent: how large it may be, and what is refused before anybody looks at it."""

from __future__ import annotations

import json
from typing import Any

from django.conf import settings
from rest_framework import parsers
from rest_framework.exceptions import ParseError
from rest_framework.request import Request

from annotator.api.errors import TooLarge

FORM_BYTES = 2**20  # around and beside the file of an upload


class JSONParser(parsers.JSONParser):
    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        refuse_larger(parser_context["request"], settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        try:
            data = super().parse(stream, media_type, parser_context)
            json.dumps(data, ensure_ascii=False).encode()
        except RecursionError:
            raise ParseError("broken JSON: nested too deeply") from None
        except UnicodeEncodeError:
            raise ParseError("broken JSON: half of a surrogate pair is no character") from None
        return data


class UploadParser(parsers.MultiPartParser):
    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        refuse_larger(parser_context["request"], settings.IMPORT_MAX_BYTES + FORM_BYTES)
        return super().parse(stream, media_type, parser_context)


def refuse_larger(request: Request, limit: int) -> None:
    """Before it is read. Without a length there is no content: that is how WSGI has it."""
    size = int(request.META.get("CONTENT_LENGTH") or 0)
    if size > limit:
        raise TooLarge(f"The request has {size:,} bytes; the limit is {limit:,}.")

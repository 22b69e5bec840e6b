"""Who is signed in, found by a query whose SQL is made once."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.db.models import QuerySet

from annotator.compiled import compiled
from annotator.models import User


class Backend(ModelBackend):
    def get_user(self, user_id: Any) -> User | None:
        found = _user(int(user_id))
        return found[0] if found and self.user_can_authenticate(found[0]) else None


@compiled
def _user(pk: int) -> QuerySet[User]:
    return User.objects.filter(pk=pk)

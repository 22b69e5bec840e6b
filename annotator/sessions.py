"""Django's sessions in the database, found by a query whose SQL is made once."""

from __future__ import annotations

from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.db.models import QuerySet
from django.utils import timezone

from annotator.compiled import compiled


class SessionStore(db.SessionStore):
    def _get_session_from_db(self) -> Session | None:
        found = _session(self.session_key or "")
        if found and found[0].expire_date > timezone.now():
            return found[0]
        self._session_key = None
        return None


@compiled
def _session(key: str) -> QuerySet[Session]:
    return Session.objects.filter(session_key=key)

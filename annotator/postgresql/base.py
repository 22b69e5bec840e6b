"""Django's PostgreSQL backend, which looks at a kept connection before a request without a query.

Django asks the server `SELECT 1` each time, one question more than the ten or so of a verdict. What
that finds out, the system knows: a server that has gone, or has ended the session, has closed the
socket, and whoever reads it would find the end of it, or its last words, at once.
"""

from __future__ import annotations

import select

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    def is_usable(self) -> bool:
        if self.connection is None or self.connection.closed:
            return False
        waiting = select.poll()
        waiting.register(self.connection.pgconn.socket, select.POLLIN)
        return not waiting.poll(0)

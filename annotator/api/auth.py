"""Who asks, what their token allows, and how often."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.utils import timezone
from knox.auth import TokenAuthentication as KnoxAuthentication
from knox.models import AuthToken
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from annotator.api.rates import seconds_to_wait
from annotator.tokens import ApiToken, Scope, note_use

if TYPE_CHECKING:  # it reads the settings that name these classes
    from rest_framework.views import APIView

NO_TOKEN = "This token does not work: it was never made, was revoked, or has expired."  # noqa: S105


class TokenAuthentication(KnoxAuthentication):
    """`Authorization: Bearer pref_…`. What has expired stays, so that its owner sees why it fails."""

    def authenticate_credentials(self, token: bytes) -> tuple[Any, ApiToken]:
        if not re.fullmatch(rb"[A-Za-z0-9_]{16,200}", token):
            raise AuthenticationFailed(NO_TOKEN)
        try:
            user, secret = super().authenticate_credentials(token)
        except AuthenticationFailed:
            raise AuthenticationFailed(NO_TOKEN) from None
        known = ApiToken.objects.filter(secret=secret).first()
        if known is None:
            raise AuthenticationFailed(NO_TOKEN)
        note_use(known)
        return user, known

    def _cleanup_token(self, auth_token: AuthToken) -> bool:
        return auth_token.expiry is not None and auth_token.expiry <= timezone.now()


# --- scopes ---------------------------------------------------------------------------------------
class HasScope(BasePermission):
    """Whoever is signed in as on the pages may do all that they may do there."""

    scope = Scope.READ

    def has_permission(self, request: Request, view: APIView) -> bool:
        scope = self.scope_for(request)
        self.message = f"Your token lacks the scope “{scope}”: make another one."
        return request.auth is None or scope in request.auth.scopes

    def scope_for(self, request: Request) -> Scope:
        return self.scope


class MayReadOrManage(HasScope):
    def scope_for(self, request: Request) -> Scope:
        return Scope.READ if request.method in SAFE_METHODS else Scope.MANAGE


class MayAnnotate(HasScope):
    scope = Scope.ANNOTATE


# --- how often ------------------------------------------------------------------------------------
class Rate(SimpleRateThrottle):
    """API_RATE for each token, and for each person who is signed in, in all web processes together."""

    scope = "api"

    def get_rate(self) -> str | None:
        return settings.API_RATE or None

    def allow_request(self, request: Request, view: APIView) -> bool:
        if self.rate is None:
            return True
        limit, period = self.num_requests, self.duration
        path = settings.DATA_DIR / "rates" / f"{_who(request)}-{limit}-{period}"
        self.seconds = seconds_to_wait(path, limit, period, time.time())
        return not self.seconds

    def wait(self) -> float:
        return self.seconds


def _who(request: Request) -> str:
    return f"token-{request.auth.secret_id}" if request.auth else f"user-{request.user.pk}"

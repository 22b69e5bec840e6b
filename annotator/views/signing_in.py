"""The sign-in page."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, redirect_to_login
from django.http import HttpResponseBase
from django_htmx.http import HttpResponseClientRedirect

from annotator.access import HtmxRequest

sign_in_page = LoginView.as_view(template_name="sign_in.html", redirect_authenticated_user=True)


def sign_in(request: HtmxRequest) -> HttpResponseBase:
    """Whoever is signed out while a page is open is led here as a whole, and back to that page:
    htmx would put the sign-in page into the fragment that it asked for.
    """
    if request.htmx:
        return HttpResponseClientRedirect(
            redirect_to_login(request.htmx.current_url_abs_path or "/").url
        )
    return sign_in_page(request)

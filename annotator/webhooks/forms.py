"""What an admin enters about a webhook."""

from __future__ import annotations

import ipaddress
from typing import Any

import httpx
from django import forms
from django.core.exceptions import ValidationError

from annotator.webhooks.addresses import AddressRefused, refuse
from annotator.webhooks.models import Event


class WebhookForm(forms.Form):
    url = forms.CharField(
        label="Address",
        max_length=500,
        widget=forms.URLInput(attrs={"placeholder": "https://example.org/hook"}),
        help_text="Gets a POST with JSON for each event.",
    )
    events = forms.MultipleChoiceField(
        label="Tell it when",
        choices=Event.choices,
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one event."},
    )
    agreement_below = forms.FloatField(
        label="Agreement below",
        required=False,
        min_value=-1,
        max_value=1,
        widget=forms.NumberInput(attrs={"step": "0.01"}),
        help_text="Krippendorff's alpha, ordinal, as on the quality page: told when it falls below "
        "this, and again only after it has been higher. It is looked at every hour.",
    )

    def clean_url(self) -> str:
        """Only its form: what its name leads to is checked when it is called."""
        url = self.cleaned_data["url"]
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValidationError(f"This is no address: {error}.") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValidationError("Enter a whole address, such as https://example.org/hook.")
        if parsed.port is not None and not 1 <= parsed.port <= 65535:
            raise ValidationError("This is no address: ports go from 1 to 65535.")
        if parsed.userinfo:
            raise ValidationError(
                "No name and password in the address, please: everybody who may see this page would "
                "read them. The signature shows who sends."
            )
        if _is_literal(parsed.host):
            try:
                refuse(parsed.host, parsed.host)
            except AddressRefused as error:
                raise ValidationError(str(error)) from error
        return url

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        wants_agreement = Event.AGREEMENT_FELL in cleaned.get("events", [])
        below = cleaned.get("agreement_below")
        if wants_agreement and below is None and "agreement_below" not in self.errors:
            self.add_error("agreement_below", "Below which value? Such as 0.3.")
        if not wants_agreement:
            cleaned["agreement_below"] = None
        return cleaned


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

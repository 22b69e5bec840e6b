"""What an hour of the trainer costs in a project, and a million tokens of a model that is here."""

from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models

from annotator.models import Project


class Price(models.Model):
    """Set by the project's admins. Endpoints have prices of their own, of a million tokens, and so may
    models."""

    project = models.OneToOneField(Project, models.CASCADE, related_name="price")
    per_hour = models.FloatField(
        "Price of an hour",
        default=0,
        validators=[MinValueValidator(0)],
        help_text="Of the machine that trains: rent, or power and wear. 0: not counted.",
    )
    currency = models.CharField(
        max_length=12,
        default="USD",
        help_text="A label for all sums of this project, also for what endpoints cost.",
    )

    def __str__(self) -> str:
        return f"{self.per_hour:g} {self.currency} an hour"

    def of_seconds(self, seconds: float) -> float:
        """Example: 1800 seconds at 3 an hour -> 1.5."""
        return self.per_hour * seconds / 3600


class ModelPrice(models.Model):
    """Of an imported model, and of all that is trained from it. No row: its tokens are not counted."""

    version = models.OneToOneField(
        "rlhf.ModelVersion", models.CASCADE, primary_key=True, related_name="token_price"
    )
    per_million = models.FloatField(
        "Price of a million tokens",
        validators=[MinValueValidator(0)],
        help_text="That it, and whatever is trained from it, writes or learns from in runs. 0: not counted.",
    )

    def __str__(self) -> str:
        return f"{self.per_million:g} a million tokens"

    def of_tokens(self, tokens: float) -> float:
        """Example: 500,000 tokens at 3 a million -> 1.5."""
        return self.per_million * tokens / 1e6

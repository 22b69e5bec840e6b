"""Django's admin, for accounts, and to look at rows. What code keeps in order is read-only here."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.db.models import Model
from django.http import HttpRequest

from annotator.audit import AuditEntry
from annotator.models import (
    Assignment,
    Comparison,
    Completion,
    Export,
    GuidelineVersion,
    Judgment,
    Membership,
    Project,
    Prompt,
    User,
)


@admin.register(User)
class AccountAdmin(UserAdmin):
    """Without Django's own fields for groups and times, which do not tell a screen reader their names."""

    filter_horizontal = []
    readonly_fields = ["last_login", "date_joined"]


class ReadOnlyAdmin(admin.ModelAdmin):
    """To look at. Places, hashes and append-only rows are changed by the code that keeps them."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any | None = None) -> bool:
        return False


class MembershipInline(admin.TabularInline):
    model = Membership
    extra = 0

    def has_add_permission(self, request: HttpRequest, obj: Any | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any | None = None) -> bool:
        return False


@admin.register(Project)
class ProjectAdmin(ReadOnlyAdmin):
    """Pages change projects and their members, for superusers too, and write down who did."""

    list_display = ["name", "slug", "overlap", "created"]
    search_fields = ["name", "slug"]
    inlines = [MembershipInline]


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Those of no project too."""

    list_display = ["created", "actor_name", "action", "kind", "object_name", "project_id"]
    list_filter = ["action"]


@admin.register(GuidelineVersion)
class GuidelineVersionAdmin(ReadOnlyAdmin):
    list_display = ["project", "number", "author", "created"]
    list_select_related = ["project", "author"]


@admin.register(Prompt)
class PromptAdmin(ReadOnlyAdmin):
    list_display = ["pk", "__str__", "project", "split", "created"]
    list_select_related = ["project"]
    search_fields = ["key"]


@admin.register(Completion)
class CompletionAdmin(ReadOnlyAdmin):
    list_display = ["pk", "__str__", "source", "is_truncated", "created"]


@admin.register(Comparison)
class ComparisonAdmin(ReadOnlyAdmin):
    list_display = ["pk", "project", "purpose", "round_number", "origin", "taken", "overlap"]
    list_select_related = ["project"]


@admin.register(Assignment)
class AssignmentAdmin(ReadOnlyAdmin):
    list_display = ["pk", "comparison_id", "annotator", "state", "lease_until"]
    list_select_related = ["annotator"]


@admin.register(Judgment)
class JudgmentAdmin(ReadOnlyAdmin):
    list_display = ["pk", "comparison_id", "annotator", "verdict", "created", "voided"]
    list_select_related = ["annotator"]


@admin.register(Export)
class ExportAdmin(ReadOnlyAdmin):
    list_display = ["pk", "project", "n_rows", "n_judgments", "sha256", "created"]
    list_select_related = ["project"]

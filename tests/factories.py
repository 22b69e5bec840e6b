"""Small real objects for the tests."""

from datetime import timedelta

import factory
from django.db.models import F
from django.forms.models import model_to_dict
from django.test import Client
from django.utils import timezone

from annotator import assignment as assigning
from annotator.forms import ProjectForm
from annotator.models import (
    Assignment,
    Comparison,
    ComparisonCompletion,
    Completion,
    Membership,
    Project,
    Prompt,
    Purpose,
    Role,
    User,
    Verdict,
    canonical_key,
    comparison_key,
)
from annotator.tokens import Scope, make_token


class UserFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = User

    username = factory.Sequence(lambda n: f"user-{n}")
    password = factory.django.Password(None)  # none works; give one to sign in by form


class ProjectFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Project

    name = factory.Sequence(lambda n: f"Project {n}")
    slug = factory.Sequence(lambda n: f"project-{n}")


class MembershipFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Membership

    project = factory.SubFactory(ProjectFactory)
    user = factory.SubFactory(UserFactory)
    role = Role.ANNOTATOR


class PromptFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Prompt

    project = factory.SubFactory(ProjectFactory)
    messages = factory.Sequence(lambda n: [{"role": "user", "content": f"Question {n}?"}])
    key = factory.LazyAttribute(lambda prompt: canonical_key(prompt.messages))
    split = "train"


class CompletionFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Completion

    prompt = factory.SubFactory(PromptFactory)
    text = factory.Sequence(lambda n: f"Answer {n}.")
    source = "import"


class ComparisonFactory(factory.django.DjangoModelFactory):
    """A comparison of two new completions, or of as many as there are `texts`."""

    class Meta:
        model = Comparison
        skip_postgeneration_save = True

    project = factory.SubFactory(ProjectFactory)
    prompt = factory.SubFactory(PromptFactory, project=factory.SelfAttribute("..project"))
    overlap = factory.LazyAttribute(lambda comparison: comparison.project.overlap)
    purpose = Purpose.TRAINING
    key = factory.LazyAttribute(lambda comparison: comparison_key(comparison.prompt.key, "", []))

    @factory.post_generation
    def texts(comparison, create, texts, **kwargs):
        texts = texts or [f"Answer {comparison.pk}{letter}." for letter in "ab"]
        for position, text in enumerate(texts):
            completion = CompletionFactory(prompt=comparison.prompt, text=text)
            ComparisonCompletion.objects.create(
                comparison=comparison, completion=completion, position=position
            )
        comparison.key = comparison_key(comparison.prompt.key, comparison.purpose, texts)
        comparison.save()


class GoldFactory(ComparisonFactory):
    """A comparison whose answer is known: the first of its completions is the better one."""

    purpose = Purpose.GOLD
    overlap = 0
    origin = "known answer"

    @factory.post_generation
    def known(comparison, create, extracted, **kwargs):
        comparison.expected = [[pk] for pk in completion_ids(comparison)]
        comparison.save()


class AssignmentFactory(factory.django.DjangoModelFactory):
    """A comparison as an annotator has it on the screen, in the order stored; its place taken."""

    class Meta:
        model = Assignment
        skip_postgeneration_save = True

    comparison = factory.SubFactory(ComparisonFactory)
    project = factory.SelfAttribute("comparison.project")
    annotator = factory.LazyAttribute(lambda row: MembershipFactory(project=row.project).user)
    order = factory.LazyAttribute(lambda row: completion_ids(row.comparison))
    payload_hash = factory.LazyAttribute(
        lambda row: assigning.payload_hash(row.comparison, row.order)
    )
    protocol = factory.SelfAttribute("project.protocol")
    guideline_version = 1
    lease_until = factory.LazyFunction(lambda: timezone.now() + timedelta(minutes=20))

    @factory.post_generation
    def place(assignment, create, extracted, **kwargs):
        if not assignment.takes_place:
            return
        Comparison.objects.filter(pk=assignment.comparison_id).update(taken=F("taken") + 1)


def api_client(user, *scopes):
    """A client of the API with a token of this person's; with all scopes, if none are named."""
    _, secret = make_token(user, "test", scopes or Scope.values, days=1)
    return Client(headers={"Authorization": f"Bearer {secret}"})


def settings_as_sent(**fields):
    """What the settings page sends for a new project, but for these fields."""
    sent = model_to_dict(Project(name="Essays"), fields=ProjectForm.Meta.fields)
    return sent | fields


def completion_ids(comparison):
    """In the order stored."""
    return list(comparison.entries.values_list("completion_id", flat=True))


def make_judgment(comparison, annotator, *groups, verdict=None, order=None, **fields):
    """What `annotator` says of the comparison, as if on the page: positions as tie groups.

    make_judgment(comparison, anna, [1], [0]) prefers the second completion, …, [0, 1]) is a tie,
    and without groups the verdict is "all bad" unless another one is given.
    """
    if not Membership.objects.filter(project=comparison.project, user=annotator).exists():
        MembershipFactory(project=comparison.project, user=annotator)
    ids = completion_ids(comparison)
    assignment = AssignmentFactory(comparison=comparison, annotator=annotator, order=order or ids)
    return assigning.record(
        assignment,
        verdict or (Verdict.RANKING if groups else Verdict.ALL_BAD),
        [[ids[position] for position in group] for group in groups],
        payload_hash=assignment.payload_hash,
        **fields,
    )

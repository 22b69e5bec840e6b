"""Model versions, rounds and runs: which weights came from which run on which votes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from annotator.models import Comparison, Completion, Export, Message, Project, User
from rlhf.training.parameter_settings import VIRTUAL
from rlhf.training.prompting import PROMPTING


class RunKind(models.TextChoices):
    IMPORT_MODEL = "import_model", "Import model"
    GENERATE = "generate", "Generate completions"
    REWARD_MODEL = "reward_model", "Reward model"
    PPO = "ppo", "PPO"
    EVALUATE = "evaluate", "Evaluate"
    PROBE = "probe", "Measure speed"
    ORDER_QUEUE = "order_queue", "Order questions"
    CONVERSE = "converse", "Live conversations"
    MERGE = "merge", "Merge weights"
    COMBINE = "combine", "Combine adapters"
    SUPERVISED = "supervised", "Supervised fine-tuning"
    DOMAIN = "domain", "Domain tuning"
    DPO = "dpo", "DPO"
    KTO = "kto", "KTO"
    RLOO = "rloo", "RLOO"
    GRPO = "grpo", "GRPO"
    DISTILL = "distill", "Distillation"
    SEARCH = "search", "Search"
    SUITE = "suite", "Evaluation suite"
    INDEX = "index", "Index documents"
    SCREEN = "screen", "Screen data"


ONLINE = [RunKind.PPO, RunKind.RLOO, RunKind.GRPO]  # learn from answers that they write themselves
FROM_PAIRS = [RunKind.DPO, RunKind.KTO]  # learn from an export without a reward model
MAKE_POLICIES = [*ONLINE, *FROM_PAIRS]  # from votes, one way or the other


class Status(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    STOPPING = "stopping", "Stopping"
    STOPPED = "stopped", "Stopped"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    LOST = "lost", "Lost"


STARTED = [Status.RUNNING, Status.STOPPING]  # a process should exist
ACTIVE = [Status.QUEUED, *STARTED]
ENDED = [Status.SUCCEEDED, Status.STOPPED, Status.FAILED, Status.LOST]
RESUMABLE = [Status.STOPPED, Status.FAILED, Status.LOST]

# A process says that it is alive every 5 seconds, a supervisor every 2.
SILENT_AFTER = timedelta(minutes=3)
UNWATCHED_AFTER = timedelta(seconds=15)
FILE_CHECK_LOST_AFTER = timedelta(minutes=15)  # the worker ends its tasks after ten


class ModelKind(models.TextChoices):
    POLICY = "policy", "Policy"
    REWARD = "reward", "Reward model"
    BASE = "base", "Base of reward models"  # an encoder or a classifier, which writes no text
    ENDPOINT = "endpoint", "Policy elsewhere"  # asked over HTTP; nobody here has its weights
    PROMPT = "prompt", "Prompt version"  # a policy with instructions, examples, passages around it


class ModelVersion(models.Model):
    """A policy or reward model with its files, its parent and the run that made it; or an imported
    base of reward models.

    An imported model is a whole model folder, and so is a policy whose weights PPO trained in full. Any
    other policy is a LoRA adapter on its parent, so its weights are those of the nearest whole model
    plus the adapters down to itself. The parent of a reward model is the policy whose answers it was
    trained to score; it is an adapter on it, or on the base of its run, or a whole model. A policy
    elsewhere has no files: its `path` is an address, and what it is asked with is its `endpoint`. A
    prompt version is its parent, a policy here or elsewhere, with what the file in its folder says.
    """

    project = models.ForeignKey(Project, models.CASCADE, related_name="model_versions")
    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=8, choices=ModelKind.choices)
    parent = models.ForeignKey("self", models.PROTECT, null=True, related_name="children")
    run = models.ForeignKey("Run", models.PROTECT, null=True, related_name="outputs")
    path = models.CharField(max_length=500)
    details = models.JSONField(default=dict)
    probe = models.JSONField(
        default=dict,
        help_text="Of an imported policy: its speed and size on the trainer's machine.",
    )
    files = models.JSONField(
        default=dict,
        help_text="{file: {sha256, bytes}} as they were made; empty: that was not recorded.",
    )
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="one_version_per_name"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("rlhf:model_version", args=[self.project.slug, self.pk])

    @property
    def is_whole_model(self) -> bool:
        is_whole = self.details.get("is_whole") or self.details.get("train") == "full"
        return self.parent_id is None or is_whole

    @property
    def has_virtual_tokens(self) -> bool:
        """Learned by prompt or prefix tuning: it writes answers, and can be neither merged nor trained."""
        return self.details.get("method") in VIRTUAL

    @property
    def merged_folder(self) -> Path:
        """Where the run *merge weights* writes it as one whole model: beside its adapter."""
        return Path(f"{self.path}-merged")

    @property
    def base(self) -> ModelVersion | None:
        """Of a reward model, what it was made from, if not from the policy that is its parent."""
        return self.run.base if self.run and self.kind == ModelKind.REWARD else None

    @property
    def settings(self) -> dict[str, Any]:
        """What it was trained with: those of its run, or of its trial in a search."""
        return self.details.get("settings") or (self.run.config if self.run else {})

    @property
    def outcome(self) -> dict[str, Any]:
        """What its run has measured of it, or its trial in a search."""
        if self.run is None or self.run.kind == RunKind.SEARCH:
            return self.details
        return self.run.result

    @property
    def facts(self) -> dict[str, Any]:
        """The details that are a number or a text each; others have pages of their own."""
        return {
            name: value
            for name, value in self.details.items()
            if not isinstance(value, dict | list)
        }

    @property
    def writer(self) -> ModelVersion:
        """The policy that writes its answers: of a prompt version its parent, else itself."""
        if self.kind == ModelKind.PROMPT:
            assert self.parent is not None
            return self.parent
        return self

    @property
    def is_asked_here(self) -> bool:
        """Whether it writes text, and with weights that are here."""
        return self.writer.kind == ModelKind.POLICY

    @property
    def writes_text(self) -> bool:
        """Whether it can be asked at all, here or elsewhere."""
        return self.writer.kind in (ModelKind.POLICY, ModelKind.ENDPOINT)

    def root(self) -> ModelVersion:
        """The imported policy that it comes from: all its descendants are as large and as fast."""
        return self if self.parent is None else self.parent.root()

    def reference(self) -> dict[str, Any]:
        """What the training code needs to load it: `{"base": folder, "adapters": [folder, …]}`.

        For a reward model that is an adapter this is what it was trained on, without the adapter;
        for a policy elsewhere, what is needed to ask it. A prompt version adds the file that says what is
        put around each question, as `prompting`.
        """
        if self.kind == ModelKind.ENDPOINT:
            return self.endpoint.reference()
        if self.kind == ModelKind.PROMPT:
            return {**self.writer.reference(), "prompting": str(Path(self.path) / PROMPTING)}
        if self.parent is None or self.is_whole_model:
            return {"base": self.path, "adapters": []}
        if self.kind == ModelKind.REWARD:
            return (self.base or self.parent).reference()
        parent = self.parent.reference()
        return {"base": parent["base"], "adapters": [*parent["adapters"], self.path]}


class Endpoint(models.Model):
    """How a policy elsewhere is asked. Address and model stay as they are: other ones are another
    policy, and whoever changed the address would have the key sent there."""

    version = models.OneToOneField(
        ModelVersion, models.CASCADE, primary_key=True, related_name="endpoint"
    )
    address = models.CharField(max_length=500)
    model = models.CharField(max_length=200)
    sealed_key = models.TextField(blank=True)
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    requests_at_once = models.PositiveSmallIntegerField(default=4)
    timeout_seconds = models.FloatField(default=120)
    prompt_price = models.FloatField(default=0, help_text="Of a million tokens.")
    completion_price = models.FloatField(default=0)
    limit = models.FloatField(null=True, blank=True, help_text="Of what all runs spend together.")
    limit_per_run = models.FloatField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.model} at {self.address}"

    def reference(self) -> dict[str, Any]:
        """An EndpointRef as a run's configuration has it; without the key and what may be spent."""
        names = (
            "address", "model", "requests_per_minute", "requests_at_once", "timeout_seconds",
            "prompt_price", "completion_price",
        )  # fmt: skip
        return {"endpoint": self.pk, **{name: getattr(self, name) for name in names}}


class DatasetKind(models.TextChoices):
    DEMONSTRATIONS = "demonstrations", "Demonstrations"  # rows {"messages": […]}
    TEXT = "text", "Text"  # rows {"text": …}


class Dataset(models.Model):
    """Text to learn from that is no votes: demonstrations, or running text. Frozen like an export:
    `data.jsonl` in its folder, written by `datasets.create_dataset`, never changes."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=14, choices=DatasetKind.choices)
    path = models.CharField(max_length=500)
    n_rows = models.PositiveBigIntegerField()
    n_bytes = models.PositiveBigIntegerField()
    files = models.JSONField(default=dict, help_text="{file: {sha256, bytes}} as they were made.")
    origin = models.CharField(max_length=300, help_text="Where it comes from, in words.")
    details = models.JSONField(default=dict)
    run = models.ForeignKey("Run", models.PROTECT, null=True, related_name="datasets_made")
    export = models.ForeignKey(Export, models.PROTECT, null=True, related_name="datasets_made")
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="datasets")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="one_dataset_per_name"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def data(self) -> Path:
        return Path(self.path) / "data.jsonl"


class DocumentCollection(models.Model):
    """Documents of a project in passages, to find some for a question. Frozen: what is uploaded anew under the
    same name is the next version. Its folder is described in rlhf/training/retrieval.py."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="collections")
    name = models.CharField(max_length=100)
    number = models.PositiveIntegerField(help_text="Of the version, from 1.")
    path = models.CharField(max_length=500)
    n_documents = models.PositiveIntegerField()
    n_passages = models.PositiveIntegerField()
    files = models.JSONField(default=dict, help_text="{file: {sha256, bytes}} as they were made.")
    details = models.JSONField(
        default=dict, help_text="Sizes, files, encoder, and how well passages are found."
    )
    run = models.ForeignKey(
        "Run", models.PROTECT, null=True, related_name="collections_made",
        help_text="That made its embeddings; none: passages are found by their words.",
    )  # fmt: skip
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="collections")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "name", "number"], name="one_collection_per_number"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} v{self.number}"


class PromptLab(models.Model):
    """What is remembered of a project's prompt lab: a row once somebody has asked not to be reminded of it."""

    project = models.OneToOneField(
        Project, models.CASCADE, primary_key=True, related_name="prompt_lab"
    )
    dismissed = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"prompt lab of {self.project_id}"


class Round(models.Model):
    """One turn of the loop, started from `policy`. Its comparisons, export and runs carry its number."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField()
    policy = models.ForeignKey(ModelVersion, models.PROTECT, related_name="rounds")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="one_round_per_number"),
        ]

    def __str__(self) -> str:
        return f"round {self.number}"


class RunQuerySet(models.QuerySet["Run"]):
    def visible_to(self, user: Any) -> Self:
        return self.filter(project__in=Project.objects.reviewed_by(user))

    def active(self) -> Self:
        return self.filter(status__in=ACTIVE)

    def without_best_of(self) -> Self:
        """Not the evaluations whose new side is the best of several answers: they tell about a
        reward model, and not about a policy."""
        return self.filter(Q(config__best_of__isnull=True) | Q(config__best_of=1))

    def that_made(self, kinds: Sequence[RunKind]) -> Self:
        """Those of these kinds that have succeeded, and searches among such of which a trial was promoted."""
        found = Q(kind__in=kinds, status=Status.SUCCEEDED)
        return self.filter(found) | self.promoted().filter(config__tries__in=kinds)

    def promoted(self) -> Self:
        """Searches that a model version was made of, whether they go on or not."""
        made = ModelVersion.objects.filter(run=models.OuterRef("pk"))
        return self.filter(models.Exists(made), kind=RunKind.SEARCH)

    def without_gates(self) -> Self:
        """Not the evaluations that end as soon as their votes have decided: the share that they end with
        is too far from one half, and only the gate's own interval holds for it."""
        return self.filter(gate=None)

    def evaluations(self) -> Self:
        """Those whose win rate says how good a policy is."""
        return self.without_best_of().without_gates().filter(kind=RunKind.EVALUATE)


class Run(models.Model):
    """One background job.

    Only `runs.py` and `supervision.py` move its status, by conditional updates.
    """

    project = models.ForeignKey(Project, models.PROTECT, related_name="runs")
    kind = models.CharField(max_length=12, choices=RunKind.choices)
    round_number = models.PositiveIntegerField(default=1)
    status = models.CharField(max_length=9, choices=Status.choices, default=Status.QUEUED)
    # Drawn when the form is shown: the same form sent twice starts one run.
    token = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    config = models.JSONField()
    estimate = models.JSONField(
        default=dict, help_text="What it was expected to take; empty if that was not known."
    )
    policy = models.ForeignKey(ModelVersion, models.PROTECT, null=True, related_name="runs_from")
    rival = models.ForeignKey(
        ModelVersion, models.PROTECT, null=True, related_name="runs_against",
        help_text="The old policy that an evaluation compares with.",
    )  # fmt: skip
    reward_model = models.ForeignKey(
        ModelVersion, models.PROTECT, null=True, related_name="runs_scored"
    )
    base = models.ForeignKey(
        ModelVersion, models.PROTECT, null=True, related_name="runs_on",
        help_text="What a reward model is made from, if not from the policy.",
    )  # fmt: skip
    judge = models.ForeignKey(
        ModelVersion, models.PROTECT, null=True, related_name="runs_judged",
        help_text="Who says in a suite which of two answers is better.",
    )  # fmt: skip
    export = models.ForeignKey(Export, models.PROTECT, null=True, related_name="runs")
    datasets = models.ManyToManyField(Dataset, related_name="runs", blank=True)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="runs")

    created = models.DateTimeField(default=timezone.now, editable=False)
    queued = models.DateTimeField(default=timezone.now, editable=False)
    started = models.DateTimeField(null=True)
    finished = models.DateTimeField(null=True)
    seen = models.DateTimeField(null=True, help_text="Last sign of life of the process.")
    supervised = models.DateTimeField(null=True, help_text="Last sign of life of its supervisor.")
    stop_requested = models.DateTimeField(null=True)
    host = models.CharField(max_length=255, blank=True, help_text="Where the process runs.")
    pid = models.PositiveIntegerField(null=True)
    pid_started = models.FloatField(null=True, help_text="Start time of that process: pids recur.")
    attempts = models.PositiveSmallIntegerField(default=0)

    phase = models.CharField(max_length=60, blank=True)
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    eta_seconds = models.FloatField(null=True)
    events_read = models.PositiveBigIntegerField(
        default=0, help_text="Bytes of events.jsonl copied."
    )
    alarms = models.JSONField(default=list, help_text="Of a PPO run, as alarms.as_json gives them.")
    error = models.TextField(blank=True, help_text="A sentence for the admin.")
    result = models.JSONField(default=dict)
    screening = models.JSONField(
        default=list,
        help_text="What its data passed, as quarantine.leave_out gives it; empty: nothing.",
    )

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "kind", "round_number"],
                condition=Q(status__in=ACTIVE),
                name="one_active_run_per_kind",
            ),
        ]
        indexes = [
            models.Index(fields=["project", "kind", "round_number"], name="runs_of_round"),
            models.Index(
                fields=["status"], condition=Q(status__in=ACTIVE), name="active_runs"
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.get_kind_display()} run {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("rlhf:run", args=[self.project.slug, self.pk])

    @property
    def folder(self) -> Path:
        return Path(settings.RUNS_DIR) / str(self.pk)

    def ask_to_stop(self) -> None:
        """Leave the file that the process looks for; on a full disk the supervisor sends a signal."""
        with suppress(OSError):
            (self.folder / "stop").touch()

    @property
    def origin(self) -> str:
        """What the comparisons that it makes say of where they come from."""
        return f"run-{self.pk}"

    @property
    def makes(self) -> RunKind:
        """Which kind of run what it makes is of: of a search, the one that it tries."""
        return RunKind(self.config["tries"] if self.kind == RunKind.SEARCH else self.kind)

    @property
    def outcome(self) -> dict[str, Any]:
        """What was measured of what it has made: of a search, of the trial that was promoted last."""
        if self.kind != RunKind.SEARCH:
            return self.result
        return next((version.details for version in self.outputs.all()), {})

    @property
    def best_of(self) -> int:
        """Of how many answers an evaluation's new side is the best."""
        return self.config.get("best_of", 1)

    @property
    def rewards(self) -> list[dict[str, Any]]:
        """Its sources of rewards besides the reward model; of a search, those of its trials."""
        return (self.config.get("settings") or self.config).get("rewards") or []

    @property
    def new_side(self) -> str:
        """Example: "best of 16 of policy-r1-v3"."""
        assert self.policy is not None
        return f"best of {self.best_of} of {self.policy}" if self.best_of > 1 else str(self.policy)

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def is_resumable(self) -> bool:
        return self.status in RESUMABLE

    @property
    def is_silent(self) -> bool:
        """Its process, if it lives, has not said so for minutes: it may hang."""
        seen = self.seen or self.started
        if self.status not in STARTED or seen is None:
            return False
        return timezone.now() - seen > SILENT_AFTER

    @property
    def is_unwatched(self) -> bool:
        """Nobody copies its reports at the moment: the trainer is down or busy. It goes on."""
        watched = self.supervised or self.started
        return self.status in STARTED and (
            watched is None or timezone.now() - watched > UNWATCHED_AFTER
        )


class SuiteSettings(models.Model):
    """Of a project that has changed them: whether what training makes is evaluated by itself."""

    project = models.OneToOneField(
        Project, models.CASCADE, primary_key=True, related_name="suite_settings"
    )
    after_training = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"suite settings of {self.project_id}"


class EndpointUse(models.Model):
    """What a run has spent on an endpoint so far, for one of its sides; or somebody who tried it."""

    endpoint = models.ForeignKey(Endpoint, models.CASCADE, related_name="uses")
    run = models.ForeignKey(Run, models.CASCADE, null=True, related_name="endpoint_uses")
    side = models.CharField(max_length=5, blank=True, help_text="New, old or judge, of several.")
    spent = models.FloatField(default=0)
    requests = models.PositiveIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["endpoint", "run", "side"], name="one_use_per_run_and_side"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.spent:g} spent on {self.endpoint_id}"


class EndpointGrant(models.Model):
    """What a run may spend on an endpoint in all. It is set aside when the run starts or is resumed, so
    that runs which ask the same one at the same time do not both spend the rest."""

    endpoint = models.ForeignKey(Endpoint, models.CASCADE, related_name="grants")
    run = models.ForeignKey(Run, models.CASCADE, related_name="endpoint_grants")
    budget = models.FloatField(null=True, help_text="Empty: no limit.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "run"], name="one_grant_per_run"),
        ]

    def __str__(self) -> str:
        return f"{self.budget} on {self.endpoint_id} for {self.run_id}"


class Metrics(models.Model):
    """The values a run reported at one step."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    values = models.JSONField()

    class Meta:
        ordering = ["step"]
        constraints = [
            # A resumed run repeats the steps since its checkpoint: the later report replaces.
            models.UniqueConstraint(fields=["run", "step"], name="one_report_per_step"),
        ]

    def __str__(self) -> str:
        return f"metrics of run {self.run_id} at step {self.step}"


class Sample(models.Model):
    """An answer a run showed at one step, so that one can read what the policy is becoming."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="samples")
    step = models.PositiveIntegerField()
    index = models.PositiveSmallIntegerField()
    prompt = models.JSONField()
    completion = models.TextField()
    score = models.FloatField(null=True)

    class Meta:
        ordering = ["step", "index"]
        constraints = [
            models.UniqueConstraint(fields=["run", "step", "index"], name="one_sample_per_place"),
        ]

    def __str__(self) -> str:
        return f"sample {self.index} of run {self.run_id} at step {self.step}"


class GeneratedCompletion(models.Model):
    """Lineage: which model version wrote a completion, in which run, with which sampling."""

    completion = models.OneToOneField(Completion, models.CASCADE, related_name="generated")
    model_version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="completions")
    run = models.ForeignKey(Run, models.PROTECT, related_name="completions")
    sampling = models.JSONField()
    score = models.FloatField(null=True, help_text="The reward model's score, if it was asked.")
    best_of = models.PositiveSmallIntegerField(
        default=1, help_text="It is the best of so many by that score."
    )

    def __str__(self) -> str:
        return f"{self.completion_id} by {self.model_version}"


class Conversation(models.Model):
    """What an annotator and the policy have said to each other so far, the better answers only."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="conversations")
    annotator = models.ForeignKey(User, models.PROTECT, related_name="conversations")
    messages = models.JSONField(default=list)
    is_over = models.BooleanField(default=False)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "annotator"],
                condition=Q(is_over=False),
                name="one_conversation_at_a_time",
            ),
        ]

    def __str__(self) -> str:
        return f"conversation {self.pk} of {self.annotator}"


class TurnState(models.TextChoices):
    WAITING = "waiting", "Waiting"  # for the answers
    SHOWN = "shown", "Shown"  # for the verdict
    DONE = "done", "Done"
    DROPPED = "dropped", "Dropped"  # nothing of it stays in the conversation

    @classmethod
    def open(cls) -> list[TurnState]:
        return [cls.WAITING, cls.SHOWN]


class Turn(models.Model):
    """Something an annotator said, and the comparison of the two answers to it."""

    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="turns")
    run = models.ForeignKey(Run, models.PROTECT, related_name="turns")
    text = models.TextField()
    state = models.CharField(max_length=7, choices=TurnState.choices, default=TurnState.WAITING)
    comparison = models.ForeignKey(Comparison, models.PROTECT, null=True, related_name="turns")
    error = models.TextField(blank=True, help_text="Why it was dropped: a sentence.")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["conversation"],
                condition=Q(state__in=["waiting", "shown"]),
                name="one_open_turn",
            ),
        ]

    def __str__(self) -> str:
        return self.text[:80]

    @property
    def messages(self) -> list[Message]:
        """What the model is asked: the conversation, and what was said now."""
        return [*self.conversation.messages, {"role": "user", "content": self.text}]

    @property
    def file_name(self) -> str:
        return f"{self.pk}.json"


class FileCheck(models.Model):
    """Whether all files of a lineage are what they were when they were made, as found last."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="file_checks")
    key = models.CharField(max_length=40, help_text="What the lineage is of: version-7.")
    asked = models.DateTimeField(default=timezone.now)
    finished = models.DateTimeField(null=True)
    n_files = models.PositiveIntegerField(default=0)
    n_bytes = models.PositiveBigIntegerField(default=0)
    problems = models.JSONField(default=list, help_text="A sentence each.")
    not_recorded = models.JSONField(default=list, help_text="What has no hashes to check by.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "key"], name="one_file_check_per_lineage"),
        ]

    def __str__(self) -> str:
        return f"the files of {self.key}"

    @property
    def is_under_way(self) -> bool:
        """Asked for and not answered. One that takes much longer than any did has been lost."""
        return self.finished is None and timezone.now() - self.asked < FILE_CHECK_LOST_AFTER


class QuarantinedRow(models.Model):
    """A prompt, an answer or a row of a dataset in which a screening found something severe: what is
    learned from is left without it, until a reviewer releases it. One for each class of finding."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="quarantined")
    key = models.CharField(max_length=80, help_text="As screen_rows.py makes it.")
    code = models.CharField(max_length=24, help_text="Of screen_config.CLASSES.")
    is_released = models.BooleanField(default=False)
    reason = models.CharField(max_length=500, blank=True)
    decided_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    decided = models.DateTimeField(null=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["run", "key", "code"], name="one_row_per_finding"),
        ]
        indexes = [
            models.Index(
                fields=["key", "code"], condition=Q(decided__isnull=False), name="decided_rows"
            ),
        ]

    def __str__(self) -> str:
        return self.key


# Models with what is done with them, in modules of their own: Django looks for models here.
from rlhf.gate_models import Gate as Gate  # noqa: E402
from rlhf.gate_models import Promotion as Promotion  # noqa: E402
from rlhf.price_models import ModelPrice as ModelPrice  # noqa: E402
from rlhf.price_models import Price as Price  # noqa: E402

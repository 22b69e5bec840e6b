"""Projects, votes, exports, runs and models of a Preferendum server, as Python objects.

    client = Client("https://votes.example.org", token)
    for assignment in client.project("essays").assignments():
        assignment.rank([1, 0])

Requests that were lost are sent again, and lists are read page by page. What the server refuses is
an `ApiError` with its sentence.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import httpx

from preferendum.transport import ApiError, NotReachable, PreferendumError, Row, Transport

if TYPE_CHECKING:  # heavy, and only for whoever asks for one
    from datasets import Dataset

__all__ = [
    "ApiError", "Assignment", "Client", "Export", "ExportEnded", "ExportJob", "Gate", "Import", "ImportEnded",
    "ImportReport", "Model", "NotReachable", "PreferendumError", "Project", "Run", "RunEnded",
]  # fmt: skip

IMPORT_BYTES = 32 * 2**20  # of rows, before packing, that are sent as one file
WAITING_REASONS = {
    "held_by_others", "held_back", "paused", "nothing_imported", "daily_quota_reached",
}  # fmt: skip
FIRST_LOOK_SECONDS, LATER_LOOKS_SECONDS = 0.2, 10.0  # growing by half from look to look
BLOCK_BYTES = 2**20


class ImportEnded(PreferendumError):
    """An import that was waited for has not come to its end. `import_` is how it ended."""

    def __init__(self, import_: Import) -> None:
        self.import_ = import_
        bad = [f"{row['place']}: {row['message']}" for row in import_.fields["report"]["bad"]]
        because = [*([import_.error] if import_.error else []), *bad]
        said = f"Import {import_.id} ({import_.name}) was not done, it is {import_.state}"
        super().__init__("\n".join([f"{said}{':' if because else '.'}", *because]))


class RunEnded(PreferendumError):
    """A run that was waited for has not succeeded. `run` is how it ended."""

    def __init__(self, run: Run) -> None:
        self.run = run
        because = f": {run.error}" if run.error else "."
        super().__init__(f"Run {run.id} ({run.kind}) has {run.status}{because}")


class ExportEnded(PreferendumError):
    """What the server was to make of votes or of an export was not made. `job` is how it ended."""

    def __init__(self, job: ExportJob) -> None:
        self.job = job
        super().__init__(job.error)


class Client:
    """A server, and what a token lets one do there. Make a token under *API tokens*."""

    def __init__(self, url: str, token: str, *, timeout: float = 60.0) -> None:
        """`timeout` in seconds, of one request."""
        self.transport = Transport(url, token, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.transport.http.close()

    def projects(self) -> Iterator[Project]:
        """Those that the token's owner is in."""
        for row in self.transport.rows("projects/"):
            yield Project(self.transport, row["slug"])

    def project(self, slug: str) -> Project:
        """Without asking whether there is one: what is done with it will say so."""
        return Project(self.transport, slug)

    def create_project(self, name: str, **settings: Any) -> Project:
        """`settings` are those of the settings page: overlap, guidelines, …"""
        row = self.transport.post("projects/", {"name": name, **settings})
        return Project(self.transport, row["slug"])

    def model(self, model_id: int) -> Model:
        return Model(self.transport, self.transport.get(f"models/{model_id}/"))


# --- projects ---------------------------------------------------------------------------------
class ImportReport(NamedTuple):
    """How many rows of each kind are new, and what was left out."""

    prompts: int = 0
    completions: int = 0
    comparisons: int = 0
    judgments: int = 0
    duplicates: int = 0  # rows whose content was there already
    n_bad: int = 0  # rows that were left out
    bad: tuple[Row, ...] = ()  # the first of them: {"place", "column", "value", "message"}

    def plus(self, other: ImportReport) -> ImportReport:
        return ImportReport(
            self.prompts + other.prompts,
            self.completions + other.completions,
            self.comparisons + other.comparisons,
            self.judgments + other.judgments,
            self.duplicates + other.duplicates,
            self.n_bad + other.n_bad,
            self.bad + other.bad,
        )


class NextAssignment(NamedTuple):
    """What to judge now, or why there is nothing."""

    assignment: Assignment | None
    reason: str  # "available", "all_done", "held_by_others", …
    until: str | None  # when there may be something again, if that is known


class Project:
    def __init__(self, transport: Transport, slug: str) -> None:
        self.transport, self.slug = transport, slug
        self.path = f"projects/{slug}/"

    def __repr__(self) -> str:
        return f"Project({self.slug!r})"

    def details(self) -> Row:
        """Name, guidelines, your role and, for admins, all settings."""
        return self.transport.get(self.path)

    def change(self, **settings: Any) -> Row:
        return self.transport.send("PATCH", self.path, json=settings)

    # --- in -------------------------------------------------------------------------------------
    def import_file(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, **options: Any
    ) -> ImportReport:
        """All of a file (JSON lines, CSV, Parquet, …), or nothing, when the server has done it.

        Options: `mapping` ({"prompt": "question"}), `overlap`, `skip_bad_rows`, `judge`, `is_check`.
        Importing it twice adds nothing twice. Raises ImportEnded with the bad rows if it is refused,
        and TimeoutError after so many seconds; it goes on all the same.
        """
        with Path(path).open("rb") as file:
            return self._send(Path(path).name, file, options).wait(timeout=timeout)

    def import_rows(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> ImportReport:
        """The same for dictionaries such as {"prompt": …, "completions": […]}; a `datasets.Dataset`
        gives them too. Many are sent as several files, each of which is imported as a whole, and
        waited for."""
        report = ImportReport()
        for number, packed in enumerate(_packed(rows), 1):
            sent = self._send(f"rows-{number}.jsonl.gz", packed, options)
            report = report.plus(sent.wait(timeout=timeout))
        return report

    def import_hub(
        self, hub_id: str, *, timeout: float | None = None, **options: Any
    ) -> ImportReport:
        """The same for a dataset on the hub, which the server loads: "OWNER/NAME", "OWNER/NAME@test"."""
        row = self.transport.post(f"{self.path}imports/", {"hub_id": hub_id, **options})
        return Import(self, row).wait(timeout=timeout)

    def _send(self, name: str, content: bytes | IO[bytes], options: Mapping[str, Any]) -> Import:
        fields = {
            option: value if isinstance(value, str) else json.dumps(value)
            for option, value in options.items()
            if value is not None
        }
        row = self.transport.upload(f"{self.path}imports/", (name, content), fields)
        return Import(self, row)

    def imports(self) -> Iterator[Import]:
        """The newest first."""
        for row in self.transport.rows(f"{self.path}imports/"):
            yield Import(self, row)

    def create_dataset(
        self,
        name: str,
        source: str | os.PathLike[str] | Export | Iterable[Mapping[str, Any]],
        **options: str,
    ) -> Row:
        """What supervised and domain tuning learn from: of a file, of an export's rewrites and best
        answers, or of rows such as {"messages": […]}; all of it, or nothing.

        Options: `kind` ("demonstrations" or "text"), `column`; of an export `taken` ("both", "rewrites"
        or "best"). Launch runs with it: `datasets=[dataset["id"]]`.
        """
        address = f"{self.path}datasets/"
        if isinstance(source, Export):
            return self.transport.post(address, {"name": name, "export": source.id, **options})
        fields = {"name": name, **options}
        if isinstance(source, str | os.PathLike):
            with Path(source).open("rb") as file:
                return self.transport.upload(address, (Path(source).name, file), fields)
        lines = (json.dumps(dict(row), ensure_ascii=False).encode() + b"\n" for row in source)
        packed = gzip.compress(b"".join(lines), mtime=0)
        return self.transport.upload(address, ("rows.jsonl.gz", packed), fields)

    def datasets(self, **chosen: Any) -> Iterator[Row]:
        """The newest first. Chosen by `kind`: "demonstrations" or "text"."""
        return self.transport.rows(f"{self.path}datasets/", **chosen)

    def prompts(self, **chosen: Any) -> Iterator[Row]:
        return self.transport.rows(f"{self.path}prompts/", **chosen)

    def completions(self, **chosen: Any) -> Iterator[Row]:
        return self.transport.rows(f"{self.path}completions/", **chosen)

    def comparisons(self, **chosen: Any) -> Iterator[Row]:
        return self.transport.rows(f"{self.path}comparisons/", **chosen)

    def judgments(self, **chosen: Any) -> Iterator[Row]:
        """Your own, or everybody's for reviewers."""
        return self.transport.rows(f"{self.path}judgments/", **chosen)

    # --- votes ----------------------------------------------------------------------------------
    def next(self) -> NextAssignment:
        """What you hold, or the next comparison for you."""
        return self._next(self.transport.post(f"{self.path}assignments/next/"))

    def _next(self, row: Row) -> NextAssignment:
        given = row["assignment"]
        assignment = Assignment(self.transport, self.path, given) if given else None
        return NextAssignment(assignment, row["reason"], row["until"])

    def assignments(self, *, wait: bool = False) -> Iterator[Assignment]:
        """One after the other, until there is nothing for you; with `wait`, until you stop, unless
        you are not asked any more at all. Say something of each: it comes again until you do."""
        while True:
            assignment, reason, _ = self.next()
            if assignment is not None:
                yield assignment
                if not assignment.is_answered:
                    raise PreferendumError(
                        f"Nothing was said of assignment {assignment.id}: rank, prefer, tie, "
                        "all_bad, unrankable or skip it before you ask for the next."
                    )
            elif wait and reason in {*WAITING_REASONS, "all_done"}:
                time.sleep(LATER_LOOKS_SECONDS)
            else:
                return

    def undo(self, judgment_id: int) -> NextAssignment:
        """Take back your last verdict, which is this one; it is handed to you again."""
        return self._next(
            self.transport.post(f"{self.path}assignments/undo/", {"judgment": judgment_id})
        )

    # --- out ------------------------------------------------------------------------------------
    def export(self, *, timeout: float | None = None, **options: Any) -> Export:
        """Freeze the votes as they are now. Options: `use_rulings`, `licence`, and conditions:
        `first_round`, `last_round`, `since`, `until` ("2026-11-30"), `annotators` and `without` (by
        number), `guideline_versions`, `sources`, `criteria`, `min_rankings`, `min_agreement`.

        Where there are many votes the server's worker does it, and this waits for it. Raises
        ExportEnded if it cannot be made, and TimeoutError after so many seconds; it goes on all the same.
        """
        row = self.transport.post(f"{self.path}exports/", options)
        if "is_active" not in row:
            return Export(self, row)
        job = ExportJob(self, row).wait(timeout=timeout)
        return Export(self, self.transport.get(f"{self.path}exports/{job.fields['export']}/"))

    def count_export(self, **conditions: Any) -> Row:
        """What an export under these conditions would hold, and what each of them leaves out."""
        return self.transport.post(f"{self.path}exports/count/", conditions)

    def exports(self) -> Iterator[Export]:
        for row in self.transport.rows(f"{self.path}exports/"):
            yield Export(self, row)

    def quality(self) -> Row:
        return self.transport.get(f"{self.path}quality/")

    def costs(self) -> Row:
        """What runs took and cost: rows by month and kind, their total, the currency."""
        return self.transport.get(f"{self.path}costs/")

    def leaderboard(self) -> Row:
        return self.transport.get(f"{self.path}leaderboard/")

    # --- runs and models ------------------------------------------------------------------------
    def launch(self, kind: str, **settings: Any) -> Run:
        """Queue a run: "import_model", "generate", "reward_model", "ppo", "evaluate", …

        `settings` are the fields of the page's form; what is not named is as suggested there. An
        export and models can be given as objects or by number.
        """
        chosen = {name: _number_of(value) for name, value in settings.items()}
        row = self.transport.post(f"{self.path}runs/", {"kind": kind, **chosen})
        return Run(self, row)

    def estimate(self, kind: str, **settings: Any) -> Row:
        """What such a run would take: minutes, memory, tokens, money; or `reason`, why nobody can say."""
        chosen = {name: _number_of(value) for name, value in settings.items()}
        return self.transport.post(f"{self.path}runs/estimate/", {"kind": kind, **chosen})

    def runs(self, **chosen: Any) -> Iterator[Run]:
        """The newest first. Chosen by `kind` and `status`."""
        for row in self.transport.rows(f"{self.path}runs/", **chosen):
            yield Run(self, row)

    def run(self, run_id: int) -> Run:
        return Run(self, self.transport.get(f"{self.path}runs/{run_id}/"))

    def models(self, **chosen: Any) -> Iterator[Model]:
        """The newest first. Chosen by `kind`: "policy" or "reward"."""
        for row in self.transport.rows(f"{self.path}models/", **chosen):
            yield Model(self.transport, row)

    def rounds(self) -> Iterator[Row]:
        return self.transport.rows(f"{self.path}rounds/")

    def start_round(self, *, after: int) -> Row:
        """The next round, from the policy that PPO made in the round `after`, or from the current one once a
        gate has decided."""
        return self.transport.post(f"{self.path}rounds/", {"after": after})

    # --- the current policy ---------------------------------------------------------------------
    def current(self) -> Model | None:
        """The current policy; None before a model was imported."""
        pk = self.transport.get(f"{self.path}current/")["model_version"]
        return Model(self.transport, self.transport.get(f"models/{pk}/")) if pk else None

    def open_gate(self, candidate: Model | int, **settings: Any) -> Gate:
        """Let people decide, blind, whether this model becomes the current policy.

        `settings` are the fields of the page's form: `budget`, `margin`, `alpha`, …; what is not named is as
        suggested there.
        """
        asked = {"candidate": _number_of(candidate), **settings}
        return Gate(self, self.transport.post(f"{self.path}gates/", asked))

    def gates(self) -> Iterator[Gate]:
        """The newest first, without how they stand: `refresh()` one to know."""
        for row in self.transport.rows(f"{self.path}gates/"):
            yield Gate(self, row)

    def gate(self, gate_id: int) -> Gate:
        return Gate(self, self.transport.get(f"{self.path}gates/{gate_id}/"))

    def promotions(self) -> Iterator[Row]:
        """What became current, when, by whom and why: {"number", "version", "gate", …}, the newest first."""
        return self.transport.rows(f"{self.path}current/history/")

    def roll_back(self, to: int | None = None, *, reason: str = "") -> Model | None:
        """Make current again what was before, or what became current by the promotion of the number `to`; the
        policy that is current then. An open gate is stopped by it."""
        newest = next(self.promotions(), None)
        if newest is None or (to is None and newest["number"] == 1):
            raise PreferendumError(f"{self!r} has no earlier current policy to go back to.")
        asked = {"to": to or newest["number"] - 1, "after": newest["number"], "reason": reason}
        self.transport.post(f"{self.path}current/roll-back/", asked, repeatable=False)
        return self.current()


def _packed(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """JSON lines, packed, a few at a time: nothing is held whole."""
    lines: list[bytes] = []
    size = 0
    for row in rows:
        lines.append(json.dumps(dict(row), ensure_ascii=False).encode() + b"\n")
        size += len(lines[-1])
        if size >= IMPORT_BYTES:
            yield gzip.compress(b"".join(lines), mtime=0)
            lines, size = [], 0
    if lines:
        yield gzip.compress(b"".join(lines), mtime=0)


def _number_of(value: Any) -> Any:
    return value.id if isinstance(value, Export | Model) else value


# --- imports ----------------------------------------------------------------------------------
class _Followed:
    """What the server does in the background, as it was when it was asked for last."""

    kept_in: ClassVar[str]  # the end of the address of its list

    def __init__(self, project: Project, fields: Row) -> None:
        self.project, self.fields = project, fields
        self.path = f"{project.path}{self.kept_in}/{fields['id']}/"

    @property
    def id(self) -> int:
        found: int = self.fields["id"]
        return found

    @property
    def is_active(self) -> bool:
        return bool(self.fields["is_active"])

    @property
    def error(self) -> str:
        return str(self.fields["error"])

    def refresh(self) -> Self:
        self.fields = self.project.transport.get(self.path)
        return self


class Import(_Followed):
    """A file that was sent, as it was when it was asked for last. The server's worker imports it."""

    kept_in = "imports"

    def __repr__(self) -> str:
        return f"Import({self.id}, {self.name}, {self.state})"

    @property
    def name(self) -> str:
        return str(self.fields["name"])

    @property
    def state(self) -> str:
        return str(self.fields["state"])

    def wait(self, *, timeout: float | None = None) -> ImportReport:
        """What is new, when it is imported. Raises ImportEnded if it ends otherwise, and TimeoutError
        after so many seconds; it goes on all the same."""
        _wait_for(self, timeout)
        if self.state not in ("finished", "checked"):
            raise ImportEnded(self)
        report = self.fields["report"]
        counts = {name: report["counts"][name] for name in ImportReport._fields[:5]}
        return ImportReport(**counts, n_bad=report["n_bad"], bad=tuple(report["bad"]))

    def cancel(self) -> Import:
        """End it: then nothing is imported. One that runs needs a second or so."""
        self.fields = self.project.transport.post(f"{self.path}cancel/")
        return self

    def download_skipped(self, path: str | os.PathLike[str]) -> Path:
        """The bad rows, each with its reason, as a CSV file of this name."""
        skipped = self.project.transport.open("GET", f"{self.path}skipped/")
        with skipped as response, Path(path).open("wb") as file:
            for block in response.iter_bytes(BLOCK_BYTES):
                file.write(block)
        return Path(path)


def _wait_for(job: _Followed | Gate, timeout: float | None) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_LOOK_SECONDS
    while job.refresh().is_active:
        if deadline is not None and time.monotonic() + pause > deadline:
            raise TimeoutError(f"{job!r} has not ended within {timeout:g} seconds.")
        time.sleep(pause)
        pause = min(pause * 1.5, LATER_LOOKS_SECONDS)


# --- votes ------------------------------------------------------------------------------------
class Assignment:
    """A comparison that was handed to you: the prompt, and answers from left to right."""

    def __init__(self, transport: Transport, project_path: str, fields: Row) -> None:
        self.transport, self.fields = transport, fields
        self.path = f"{project_path}assignments/{fields['id']}/"
        self.is_answered = False

    @property
    def id(self) -> int:
        found: int = self.fields["id"]
        return found

    @property
    def prompt(self) -> list[dict[str, str]]:
        """Messages {role, content}, ending with the user's."""
        messages: list[dict[str, str]] = self.fields["prompt"]
        return messages

    @property
    def answers(self) -> list[str]:
        return [answer["text"] for answer in self.fields["answers"]]

    @property
    def protocol(self) -> Row:
        """What is asked besides."""
        found: Row = self.fields["protocol"]
        return found

    def rank(self, best_first: Sequence[int | Sequence[int]], **more: Any) -> Row:
        """Places of the answers, from 0 at the left: [1, 0] says that the second is better, and
        [[0, 2], 1] that two are equally good, and better than the third.

        `more` is what the protocol asks for: `strength`, `rationale`, `reasons`, `criteria`,
        `flags`, `spans`, `rewrite`. Gives back the judgment.
        """
        groups = [[place] if isinstance(place, int) else list(place) for place in best_first]
        return self._say("judge/", {"verdict": "ranking", "ranking": groups, **more})

    def prefer(self, place: int, **more: Any) -> Row:
        """This answer is the best; nothing is said of the others among themselves."""
        others = [other for other in range(len(self.answers)) if other != place]
        return self.rank([place, others], **more)

    def tie(self, **more: Any) -> Row:
        return self.rank([list(range(len(self.answers)))], **more)

    def all_bad(self, **more: Any) -> Row:
        return self._say("judge/", {"verdict": "all_bad", **more})

    def unrankable(self, **more: Any) -> Row:
        """Nobody can say which is better, where the protocol allows that; somebody else is asked."""
        return self._say("judge/", {"verdict": "unrankable", **more})

    def skip(self) -> Row:
        """Leave it to others."""
        return self._say("skip/", {})

    def _say(self, action: str, said: Row) -> Row:
        shown = {name: self.fields[name] for name in ("payload_hash", "shown")}
        judgment = self.transport.post(self.path + action, {**shown, **said})
        self.is_answered = True
        return judgment


# --- exports ----------------------------------------------------------------------------------
class ExportJob(_Followed):
    """Something that the server's worker makes: an export, a file of one, a comparison of two."""

    kept_in = "exports/jobs"

    def __repr__(self) -> str:
        return f"ExportJob({self.id}, {self.fields['kind']} {self.fields['name']})"

    def wait(self, *, timeout: float | None = None) -> ExportJob:
        """Itself, when it is done. Raises ExportEnded, and TimeoutError after so many seconds."""
        _wait_for(self, timeout)
        if self.error:
            raise ExportEnded(self)
        return self


class Export:
    """A frozen preference dataset, known by its hash."""

    def __init__(self, project: Project, fields: Row) -> None:
        self.project, self.fields = project, fields
        self.path = f"{project.path}exports/{fields['id']}/"

    def __repr__(self) -> str:
        return f"Export({self.id}, {self.n_rows} pairs, {self.sha256[:8]})"

    @property
    def id(self) -> int:
        found: int = self.fields["id"]
        return found

    @property
    def sha256(self) -> str:
        return str(self.fields["sha256"])

    @property
    def n_rows(self) -> int:
        return int(self.fields["n_rows"])

    def manifest(self) -> Row:
        found: Row = self.project.transport.get(self.path)["manifest"]
        return found

    def download(self, path: str | os.PathLike[str]) -> Path:
        """`data.jsonl` as a file of this name. A download that broke off goes on where it was, and what is
        not what the server has hashed is an error."""
        return self._download(path, "data.jsonl", self.sha256)

    def _download(self, path: str | os.PathLike[str], name: str, sha256: str) -> Path:
        target = Path(path)
        if not (target.is_file() and _sha256(target) == sha256):
            part = target.with_name(f"{target.name}.part")
            _fetch(self.project.transport, f"{self.path}data/?name={name}", part)
            if _sha256(part) != sha256:
                part.unlink()
                raise PreferendumError(f"What came is not {self!r}: its hash is another one.")
            part.replace(target)
        return target

    def download_as(
        self, name: str, path: str | os.PathLike[str], *, timeout: float | None = None
    ) -> Path:
        """Another shape or format as a file of this name: "kto.parquet", "votes.csv", "sft.datasets.zip".
        The server makes it first; raises ExportEnded if it cannot, and TimeoutError."""
        row = self.project.transport.post(f"{self.path}files/", {"name": name})
        ExportJob(self.project, row).wait(timeout=timeout)
        files = self.project.transport.get(f"{self.path}files/")["files"]
        (sha256,) = [file["sha256"] for file in files if file["name"] == name]
        return self._download(path, name, sha256)

    def compare(self, before: Export, *, timeout: float | None = None) -> Row:
        """What differs from an export of before: {"added": {"n", "rows"}, "removed", "changed", "same"}."""
        address = f"{self.path}compare/"
        row = self.project.transport.get(address, before=before.id)
        if "is_active" in row:
            ExportJob(self.project, row).wait(timeout=timeout)
            row = self.project.transport.get(address, before=before.id)
        return row

    def dataset(self) -> Dataset:
        """As a `datasets.Dataset`, kept in the user's cache: the same export is downloaded once."""
        from datasets import load_dataset

        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "preferendum"
        folder = cache / self.sha256
        folder.mkdir(parents=True, exist_ok=True)
        path = self.download(folder / "data.jsonl")
        return load_dataset("json", data_files=str(path), split="train")


def _fetch(transport: Transport, address: str, part: Path) -> None:
    """Into this file, going on behind what it has already."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with transport.open("GET", address, headers={"Accept": "*/*", **headers}) as response:
            goes_on = response.status_code == httpx.codes.PARTIAL_CONTENT
            with part.open("ab" if goes_on else "wb") as file:
                for block in response.iter_bytes(BLOCK_BYTES):
                    file.write(block)
    except ApiError as error:
        if error.status != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:  # it is complete
            raise
    except httpx.TransportError as error:
        raise NotReachable(f"The download broke off: {error!r}. Ask again to go on.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- runs and models --------------------------------------------------------------------------
class Run(_Followed):
    """A background job, as it was when it was asked for last."""

    kept_in = "runs"

    def __repr__(self) -> str:
        return f"Run({self.id}, {self.kind}, {self.status})"

    @property
    def kind(self) -> str:
        return str(self.fields["kind"])

    @property
    def status(self) -> str:
        return str(self.fields["status"])

    def wait(self, *, timeout: float | None = None) -> Run:
        """This run when it has succeeded. Raises RunEnded if it ends otherwise, and TimeoutError after so
        many seconds; it goes on all the same."""
        _wait_for(self, timeout)
        if self.status != "succeeded":
            raise RunEnded(self)
        return self

    def stop(self) -> Run:
        """Ask it to save and end."""
        self.fields = self.project.transport.post(f"{self.path}stop/")
        return self

    def resume(self) -> Run:
        """Go on from its last checkpoint."""
        self.fields = self.project.transport.post(f"{self.path}resume/", repeatable=False)
        return self

    def metrics(self, *, after: int | None = None) -> Iterator[Row]:
        """{"step", "values"}, from the first step on."""
        return self.project.transport.rows(f"{self.path}metrics/", after=after)

    def samples(self, *, step: int | None = None) -> Iterator[Row]:
        return self.project.transport.rows(f"{self.path}samples/", step=step)

    def log(self) -> str:
        return str(self.project.transport.get(f"{self.path}log/")["text"])

    def models(self) -> list[Model]:
        """Those that it made."""
        transport = self.project.transport
        return [Model(transport, transport.get(f"models/{pk}/")) for pk in self.fields["outputs"]]


class Gate(_Followed):
    """A blind test of a candidate against the current policy, as it was when it was asked for last."""

    kept_in = "gates"

    def __repr__(self) -> str:
        return f"Gate({self.id}, {self.decision or self.state})"

    @property
    def is_active(self) -> bool:
        return bool(self.fields["is_open"])

    @property
    def state(self) -> str:
        """ "preparing" while its run writes the answers, "voting", "decided" or "stopped"."""
        return str(self.fields["state"])

    @property
    def decision(self) -> str:
        """ "promote", "reject" or "undecided"; empty until it is decided."""
        return str(self.fields["decision"])

    def run(self) -> Run:
        """Which writes the answers that people compare."""
        return self.project.run(self.fields["run"])

    def wait(self, *, timeout: float | None = None) -> Gate:
        """This gate when it has ended, with its `decision`: that may take people days.

        Raises RunEnded if its answers could not be written (resume that run), and TimeoutError after so many
        seconds; it goes on all the same.
        """
        began = time.monotonic()
        if self.refresh().state == "preparing":
            self.run().wait(timeout=timeout)
        spent = time.monotonic() - began
        _wait_for(self, None if timeout is None else max(0.0, timeout - spent))
        return self

    def stop(self) -> Gate:
        """End it without a decision."""
        self.fields = self.project.transport.post(f"{self.path}stop/")
        return self

    def overrule(self, decision: str, reason: str) -> Gate:
        """Decide in the votes' stead, or against them: "promote" or "reject", and why.

        Refused if the gate was decided or stopped, or another policy became current, since it was asked for
        last: `refresh()` it, look, and overrule it then.
        """
        was = "open" if self.is_active else self.decision or self.state
        said = {"decision": decision, "reason": reason, "was": was}
        if after := self.fields.get("promotion"):
            said["after"] = after
        self.fields = self.project.transport.post(f"{self.path}overrule/", said, repeatable=False)
        return self


class Model:
    """A model version: a policy or a reward model."""

    def __init__(self, transport: Transport, fields: Row) -> None:
        self.transport, self.fields = transport, fields

    def __repr__(self) -> str:
        return f"Model({self.id}, {self.name!r})"

    @property
    def id(self) -> int:
        found: int = self.fields["id"]
        return found

    @property
    def name(self) -> str:
        return str(self.fields["name"])

    @property
    def kind(self) -> str:
        return str(self.fields["kind"])

    def download(self, folder: str | os.PathLike[str], part: str = "adapter") -> Path:
        """Its "adapter" or its "weights" with the model card, unpacked. Gives back the folder that holds
        them, a new one within `folder`."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as packed:
            self._fetch(packed, part)
            packed.seek(0)
            with tarfile.open(fileobj=packed, mode="r:") as files:
                files.extractall(target, filter="data")  # nothing outside of it
                return target / files.getnames()[0].split("/")[0]

    def _fetch(self, packed: IO[bytes], part: str) -> None:
        address, accept = f"models/{self.id}/files/", {"Accept": "*/*"}
        try:
            with self.transport.open(
                "GET", address, params={"part": part}, headers=accept
            ) as response:
                for block in response.iter_bytes(BLOCK_BYTES):
                    packed.write(block)
        except httpx.TransportError as error:
            raise NotReachable(f"The download broke off: {error!r}.") from error

"""What is done with a file: taken in, opened, checked or imported by the worker, cancelled, deleted.

Only this module moves an import's state, and only by conditional updates that say which state they
expect: whoever comes second changes nothing. Messages in the queue only wake the worker. They may
come twice, late or never; the rows alone say what is to be done.

One import runs at a time, because it wants the database and a processor for itself, and the worker's
other processes are left to short tasks. A lock on a file says so, which the system gives back
when the worker dies: what is said to be running while nobody has the lock, was killed. As an import
stores nothing twice, it is then begun anew, and adds what is missing.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import transaction
from django.utils import timezone
from django_q.tasks import async_task

from annotator.checking import LineError
from annotator.formats.entries import printable
from annotator.formats.reading import HUB, ZIP, Row, Rows, Unreadable, open_rows, unpacked
from annotator.formats.shapes import entry_of, guess_mapping
from annotator.formats.zips import holds_folder
from annotator.importing import (
    ImportRefused,
    ImportReport,
    import_rows,
    judge_named,
    tidy,
)
from annotator.imports.models import STARTABLE, Import, Progress, State
from annotator.imports.uploads import move_into
from annotator.locks import alone
from annotator.models import Project, User, canonical_key
from annotator.taking_back import TakenBack, unfinished

SAMPLE = 5  # rows that a preview shows
NESTING = ("data", "fields")  # what Label Studio and Argilla keep the texts of a row in
MAX_ATTEMPTS = 3  # of an import whose worker is killed
TIME_LIMIT = 12 * 3600  # seconds; the worker's usual limit is for short tasks
SECONDS_BETWEEN = 0.5  # reports of progress

KILLED = f"Its worker was killed {MAX_ATTEMPTS} times. Perhaps it had too little memory."
CRASHED = "Something went wrong here: the server's log says what."

logger = logging.getLogger(__name__)


class NotReceived(Exception):
    """What was sent could not be kept. The message is for whoever sent it."""


class Cancelled(Exception):
    """Somebody does not want it any more."""


# --- taking in --------------------------------------------------------------------------------
def receive(
    project: Project,
    user: User,
    *,
    upload: TemporaryUploadedFile | None = None,
    text: str = "",
    hub_id: str = "",
    choices: dict[str, Any] | None = None,
) -> Import:
    """A file, pasted text, or the id of a dataset on the hub, kept and opened.

    Nothing is imported before somebody has seen it and starts it, unless there are `choices`: how it
    is to be imported (fields as of `choose`, and `is_check`). Then it waits for the worker as soon
    as it is open, by these alone: nothing is suggested to a program. Raises NotReceived if it cannot
    be written to the disk.
    """
    import_ = Import.objects.create(
        project=project,
        created_by=user,
        name=_name(upload, hub_id),
        hub_id=hub_id,
        size=(upload.size or 0) if upload else len(text.encode()),
        started_by=None if choices is None else user,
        **(choices or {}),
    )
    try:
        import_.folder.mkdir(parents=True)
        if upload:
            move_into(upload, import_.file)
        elif text:
            import_.file.write_text(text)
    except OSError as error:
        import_.delete_files()
        import_.delete()
        raise NotReceived(f"The server could not keep it: {error.strerror}.") from error
    if _is_opened_by_worker(import_):
        _send("open_import", import_.pk)
    else:
        open_import(import_)
    return import_


def _name(upload: TemporaryUploadedFile | None, hub_id: str) -> str:
    return ((upload.name or "") if upload else hub_id or "Pasted text")[-200:]


def _is_opened_by_worker(import_: Import) -> bool:
    """The hub is far away, and to read Parquet takes a library that is large for a web process."""
    if import_.hub_id:
        return True
    with import_.file.open("rb") as file, suppress(Unreadable):
        head = unpacked(file)[1]
        return head.startswith(b"PAR1") or (head.startswith(ZIP) and holds_folder(file))
    return False


def open_import(import_: Import) -> None:
    """Keep the first rows, for the preview. Does nothing if that was done, or is being done."""
    opening = [State.OPENING]
    with alone(import_.folder / "lock") as is_alone:
        if not is_alone or not _move(import_, opening, attempts=import_.attempts + 1):
            return
        if import_.attempts > MAX_ATTEMPTS:
            _move(import_, opening, state=State.FAILED, error=KILLED)
            return
        try:
            with opened(import_) as (rows, _):
                first = list(islice(rows, SAMPLE))
            found = _first_look(import_, rows, first)
        except ValueError as error:
            _move(import_, opening, state=State.REFUSED, error=_sentence(error))
        except Exception:
            logger.exception("%s could not be opened", import_)
            _move(import_, opening, state=State.FAILED, error=CRASHED)
        else:
            _ready(import_, found)


def _ready(import_: Import, found: dict[str, Any]) -> None:
    """To be looked at; or, where somebody has started it already, to be done."""
    opening = [State.OPENING]
    if not import_.is_chosen:
        _move(import_, opening, state=State.READY, **found)
    elif _move(import_, opening, state=State.QUEUED, queued=timezone.now(), attempts=0, **found):
        _send("work_on_imports")


def _first_look(import_: Import, rows: Rows, first: Sequence[Row]) -> dict[str, Any]:
    if not first:
        raise ValueError("It holds no rows")
    import_.keep_sample(first)
    columns = _printable(rows.columns or _keys_of(first))
    return {
        "format": rows.format,
        "columns": columns,
        "columns_key": _columns_key(columns),
        **({} if import_.is_chosen else _suggested(import_.project, columns, first)),
    }


@contextmanager
def opened(import_: Import) -> Iterator[tuple[Rows, IO[bytes] | None]]:
    """Its rows, and the file that they are read from, if it is one."""
    if import_.hub_id:
        with open_rows(HUB + import_.hub_id) as rows:
            yield rows, None
        return
    limit = settings.IMPORT_MAX_BYTES
    with (
        import_.file.open("rb") as file,
        open_rows(file, import_.name, max_bytes=limit) as rows,
    ):
        yield rows, file


def _printable(columns: Sequence[str]) -> list[str]:
    """As a database takes them, which refuses U+0000 and half of a surrogate pair."""
    return list(dict.fromkeys(map(printable, columns)))


def _keys_of(rows: Sequence[Row]) -> list[str]:
    """In the order in which they come; of what tools nest, as Label Studio does, also data.prompt."""
    records = [row.record for row in rows if not isinstance(row.record, ValueError)]
    return list(dict.fromkeys(path for record in records for path in _paths_of(record)))


def _paths_of(record: Mapping[str, Any]) -> Iterator[str]:
    for key, value in record.items():
        yield key
        if key in NESTING and isinstance(value, dict):
            yield from (f"{key}.{name}" for name in value)


def _suggested(project: Project, columns: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """What was chosen for the latest file with these columns that was imported; or a guess at the
    columns, where rows say nothing without one."""
    before = project.imports.filter(state=State.FINISHED, columns_key=_columns_key(columns))
    if chosen := before.values("mapping", "overlap", "judge").first():
        return {**chosen}
    return {} if all(map(_is_understood, rows)) else {"mapping": guess_mapping(columns)}


def _is_understood(row: Row) -> bool:
    try:
        return not isinstance(row.record, ValueError) and bool(entry_of(row.record))
    except ValueError:
        return False


def _columns_key(columns: Sequence[str]) -> str:
    return canonical_key(sorted(columns))


def _sentence(error: ValueError) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


# --- choosing, starting, cancelling ---------------------------------------------------------------
def choose(import_: Import, choices: dict[str, Any]) -> None:
    """Keep how it is to be imported, unless it has begun."""
    _move(import_, STARTABLE, **choices)


def start(import_: Import, user: User, *, is_check: bool) -> None:
    """Have the worker check it or import it. Does nothing if it was started already, or is gone."""
    if not import_.is_startable:
        return
    moved = _move(
        import_,
        STARTABLE,
        state=State.QUEUED,
        is_check=is_check,
        started_by=user,
        queued=timezone.now(),
        started=None,
        finished=None,
        attempts=0,
        report={},
        error="",
    )
    if moved:
        _send("work_on_imports")


def cancel(import_: Import) -> None:
    """End it before its end: then nothing is imported. What has ended is left as it is."""
    waiting = [State.OPENING, State.QUEUED]
    if import_.state in waiting and _move(
        import_, waiting, state=State.CANCELLED, finished=timezone.now()
    ):
        return
    import_.refresh_from_db()
    if import_.state == State.RUNNING:
        import_.ask_to_cancel()  # a file, beside its progress


def _move(import_: Import, expected: Sequence[State], **fields: Any) -> bool:
    moved = Import.objects.filter(pk=import_.pk, state__in=expected).update(**fields)
    if moved:
        for name, value in fields.items():
            setattr(import_, name, value)
    return bool(moved)


def _send(task: str, *args: Any) -> None:
    """A queue that is away is no reason to fail: `tend` sends it again."""
    message = partial(async_task, f"annotator.tasks.{task}", *args, timeout=TIME_LIMIT)
    transaction.on_commit(message, robust=True)


# --- what the worker does -------------------------------------------------------------------------
def work() -> None:
    """Do the import that has waited longest, if none is being done."""
    with alone(_imports_folder() / "lock") as is_alone:
        if not is_alone:
            return  # whoever is at work looks for the next one
        if import_ := _next():
            _run(import_)
    if Import.objects.filter(state=State.QUEUED).exists():
        _send("work_on_imports")


def _imports_folder() -> Path:
    return Path(settings.DATA_DIR) / "imports"


def _next() -> Import | None:
    """One that was killed comes first. Called alone."""
    waiting = Import.objects.select_related("project", "started_by")
    for state in (State.RUNNING, State.QUEUED):
        if found := waiting.filter(state=state).order_by("queued", "pk").first():
            return found
    return None


def _run(import_: Import) -> None:
    if import_.attempts >= MAX_ATTEMPTS:
        tidy(import_.project)
        _end(import_, State.FAILED, error=KILLED)
        return
    if import_.state == State.QUEUED:
        import_.forget_last_time()
    if not _move(
        import_,
        [State(import_.state)],
        state=State.RUNNING,
        attempts=import_.attempts + 1,
        started=timezone.now(),
    ):
        return  # cancelled just now
    try:
        report = _import(import_, _Watch(import_))
    except Cancelled as error:
        _end(import_, State.CANCELLED, report=_left_by(error))
    except ImportRefused as refused:
        _end(import_, State.REFUSED, report=_refusal(refused))
    except ValueError as error:
        _end(import_, State.REFUSED, error=_sentence(error), report=_left_by(error))
    except (ChildProcessError, TakenBack) as error:
        _end(import_, State.FAILED, error=str(error), report=_left_by(error))
    except OSError as error:
        why = f"A file of the server could not be read or written: {error.strerror}."
        _end(import_, State.FAILED, error=why, report=_left_by(error))
    except Exception as error:
        _end(import_, State.FAILED, error=CRASHED, report=_left_by(error))
        raise
    else:
        state = State.CHECKED if import_.is_check else State.FINISHED
        _end(import_, state, report=_report(report))


def _import(import_: Import, watch: _Watch) -> ImportReport:
    with opened(import_) as (rows, file), import_.skipped_file.open("w", newline="") as skipped:
        watch.file = file
        return import_rows(
            import_.project,
            rows,
            user=import_.started_by,
            overlap=import_.overlap,
            judge=judge_named(import_.judge) if import_.judge else None,
            skip_bad_rows=import_.skip_bad_rows,
            mapping=import_.mapping,
            dry_run=import_.is_check,
            on_progress=watch.checked,
            on_stored=watch.stored,
            bad_rows=skipped,
        )


class _Watch:
    """Says now and then how far the import is, and ends it if somebody wants that."""

    def __init__(self, import_: Import, file: IO[bytes] | None = None) -> None:
        self.import_ = import_
        self.file = file
        self.n_checked = 0
        self.said = -math.inf
        self.phase = ""

    def checked(self, n_rows: int) -> None:
        self.n_checked = n_rows
        if self.file is None:
            self._say("reading", n_rows, 0, "rows")
        else:
            self._say("reading", self.file.tell(), self.import_.size, "bytes")

    def stored(self, n_rows: int) -> None:
        phase = "counting" if self.import_.is_check else "storing"
        self._say(phase, n_rows, max(n_rows, self.n_checked), "rows")

    def _say(self, phase: str, *progress: Any) -> None:
        if self.import_.is_cancelling:
            raise Cancelled
        if phase != self.phase or time.monotonic() - self.said >= SECONDS_BETWEEN:
            self.import_.show_progress(Progress(phase, *progress))
            self.said = time.monotonic()
            self.phase = phase


def _left_by(error: Exception) -> dict[str, Any]:
    """The report of an import that did not come to its end: what of it stays nevertheless."""
    notes = getattr(error, "__notes__", [])
    return {"stays": " ".join(notes)} if notes else {}


def _report(report: ImportReport) -> dict[str, Any]:
    """As the page shows it, and the API gives it."""
    counts = report._asdict()
    bad_rows, n_bad, ignored = (
        counts.pop(name) for name in ("bad_lines", "n_bad_lines", "ignored_fields")
    )
    return {"counts": counts, "n_bad": n_bad, "bad": _bad(bad_rows), "ignored": list(ignored)}


def _refusal(refused: ImportRefused) -> dict[str, Any]:
    n_bad = len(refused.errors)
    return {"n_bad": n_bad, "bad": _bad(refused.errors), "is_cut": refused.is_cut}


def _bad(errors: Sequence[LineError]) -> list[dict[str, str]]:
    return [
        {"place": error.place, "column": error.column, "value": error.value,
         "message": error.message}
        for error in errors
    ]  # fmt: skip


def _end(import_: Import, state: State, **fields: Any) -> None:
    _move(import_, [State.QUEUED, State.RUNNING], state=state, finished=timezone.now(), **fields)


# --- every minute ---------------------------------------------------------------------------------
def tend() -> None:
    """Wake the worker for what waits, or was killed, and delete what is old."""
    if unfinished():
        _send("tidy_imports")
    for pk in Import.objects.filter(state=State.OPENING).values_list("pk", flat=True):
        _send("open_import", pk)
    if Import.objects.filter(state__in=[State.QUEUED, State.RUNNING]).exists():
        _send("work_on_imports")
    delete_old()


def delete_old() -> None:
    """The files of a week ago, and what a killed web process has left of an upload."""
    yesterday = time.time() - 24 * 3600
    for left in Path(settings.FILE_UPLOAD_TEMP_DIR).glob("*.upload*"):
        if left.stat().st_mtime < yesterday:
            left.unlink(missing_ok=True)
    for folder in _imports_folder().glob("[0-9]*"):
        import_ = Import.objects.filter(pk=int(folder.name)).first()
        if import_ is None:
            shutil.rmtree(folder, ignore_errors=True)
        elif import_.kept_until < timezone.now():
            delete_files(import_)


def delete_files(import_: Import) -> bool:
    """Whether they are gone now: not while they are being read."""
    import_.refresh_from_db(fields=["state"])
    if import_.is_active:
        return False
    import_.delete_files()
    if import_.state == State.READY:
        import_.delete()
    return True

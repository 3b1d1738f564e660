"""Persistent storage of a server: a SQLite database of uploads and jobs, and a folder with their files."""

import hashlib
import json
import re
import secrets
import shutil
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unsilent.errors import DataError, UnsilentError
from unsilent.server.asked import Ask

State = Literal["queued", "running", "done", "stopped", "failed"]
ENDED = ("done", "stopped", "failed")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS inputs (id TEXT PRIMARY KEY, client TEXT, name TEXT, kind TEXT, bytes INTEGER, facts TEXT, used REAL);
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, client TEXT, ask TEXT, state TEXT, why TEXT, attempts INTEGER, created REAL,
    started REAL, ended REAL, result TEXT);
CREATE INDEX IF NOT EXISTS jobs_of ON jobs (client, created);
"""
_LONGEST_STEM = 60  # maximum characters of an upload's file name without suffix


class NotFoundError(UnsilentError):
    """The upload, job or file does not exist, or belongs to another client."""


@dataclass(frozen=True)
class Input:
    """An upload.

    Attributes:
        id: unguessable name.
        client: digest of the owner's token.
        name: sanitised file name, see `safe_name`.
        kind: `video`, `sound` or `codes`.
        bytes: size of the file.
        facts: `seconds` and `has_sound`; for a video `width`, `height` and `fps`; `label` if known.
        used: time of the last use, in seconds since 1970.
    """

    id: str
    client: str
    name: str
    kind: str
    bytes: int
    facts: dict[str, Any]
    used: float


@dataclass(frozen=True)
class Job:
    """A job. Times are in seconds since 1970, and None if the event has not happened."""

    id: str
    client: str
    ask: Ask
    state: State
    why: str
    attempts: int
    created: float
    started: float | None
    ended: float | None
    result: dict[str, Any] = field(default_factory=dict)


def digest_of(client: str) -> str:
    """Return the digest of a client's token, which is stored instead of the token."""
    return hashlib.blake2b(client.encode(), digest_size=16).hexdigest()


def safe_name(name: str, suffix: str | None = None) -> str:
    """Sanitise the name of an uploaded file: no folders, only letters, digits, `_` and `-`, and a limited length.

    Args:
        name: name as the client sent it.
        suffix: replaces the suffix of the name.
    """
    tail = re.split(r"[/\\]", name)[-1]
    stem, dot, own = tail.rpartition(".")
    stem, own = (stem, own) if dot and stem else (tail, "")
    stem = re.sub(r"[^\w-]+", "_", stem).strip("_")[:_LONGEST_STEM] or "upload"
    own = re.sub(r"[^a-z0-9]", "", own.lower())[:5] or "bin"
    return f"{stem}{suffix or '.' + own}"


class Store:
    """Uploads and jobs of a server. Every change is on disk before the call returns.

    Args:
        folder: created if it does not exist.

    Raises:
        DataError: if the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = folder.absolute(), threading.RLock()
        try:
            for name in ("inputs", "jobs"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(folder / "server.sqlite", check_same_thread=False, isolation_level=None)
            self._table.execute("PRAGMA journal_mode=WAL")
            self._table.execute("PRAGMA synchronous=FULL")
            self._table.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as why:
            raise DataError(f"{folder} cannot be used as the server's folder: {why}.") from None
        self._clean()

    def _run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._table.execute(statement, values).fetchall()

    def _clean(self) -> None:
        """Remove folders without a row in the database: unfinished uploads and jobs of a server that was killed."""
        for name in ("inputs", "jobs"):
            known = {row[0] for row in self._run(f"SELECT id FROM {name}")}
            for folder in (self.folder / name).iterdir():
                if folder.name not in known:
                    shutil.rmtree(folder, ignore_errors=True)

    def new_folder(self, table: Literal["inputs", "jobs"]) -> Path:
        """Create an empty folder for an upload or job. Its name is the id."""
        folder = self.folder / table / secrets.token_urlsafe(16).replace("-", "x").replace("_", "y")
        folder.mkdir(mode=0o700)
        return folder

    def add_input(self, folder: Path, client: str, name: str, kind: str, facts: dict[str, Any]) -> Input:
        """Add an upload, whose file is `folder / name`, to the database."""
        size = (folder / name).stat().st_size
        made = Input(folder.name, client, name, kind, size, facts, time.time())
        self._run("INSERT INTO inputs VALUES (?,?,?,?,?,?,?)", made.id, client, name, kind, size, json.dumps(facts), made.used)
        return made

    def input(self, client: str | None, id: str) -> Input:
        """Return an upload of a client, or of any client for None, and mark it as used now.

        Raises:
            NotFoundError: if the upload does not exist or belongs to another client.
        """
        for row in self._run("SELECT * FROM inputs WHERE id=?", id):
            if client in (None, row[1]):
                self._run("UPDATE inputs SET used=? WHERE id=?", time.time(), id)
                return Input(*row[:5], json.loads(row[5]), row[6])
        raise NotFoundError("there is no such upload; it may have expired.")

    def path_of(self, found: Input) -> Path:
        """Return the path of an upload's file."""
        return self.folder / "inputs" / found.id / found.name

    def add_job(self, client: str, ask: Ask) -> Job:
        """Add a new job to the database, in state `queued`."""
        job = Job(self.new_folder("jobs").name, client, ask, "queued", "", 0, time.time(), None, None)
        values = job.id, client, ask.model_dump_json(), "queued", "", 0, job.created, None, None, "{}"
        self._run("INSERT INTO jobs VALUES (?,?,?,?,?,?,?,?,?,?)", *values)
        return job

    def job(self, client: str | None, id: str) -> Job:
        """Return a job of a client, or of any client for None.

        Raises:
            NotFoundError: if the job does not exist or belongs to another client.
        """
        for row in self._run("SELECT * FROM jobs WHERE id=?", id):
            if client in (None, row[1]):
                return _job(row)
        raise NotFoundError("there is no such job; its results may have expired.")

    def jobs(self, client: str, most: int = 100) -> list[Job]:
        """Return up to `most` jobs of a client, newest first."""
        return [_job(row) for row in self._run("SELECT * FROM jobs WHERE client=? ORDER BY created DESC LIMIT ?", client, most)]

    def last_done(self, most: int = 100) -> list[Job]:
        """Return up to `most` successful jobs of all clients, last finished first."""
        return [_job(row) for row in self._run("SELECT * FROM jobs WHERE state='done' ORDER BY ended DESC LIMIT ?", most)]

    def unfinished(self) -> list[Job]:
        """Return all queued and running jobs, oldest first."""
        return [_job(row) for row in self._run("SELECT * FROM jobs WHERE state IN ('queued', 'running') ORDER BY created")]

    def begin(self, id: str) -> None:
        """Set the state of a job to `running` and count the attempt."""
        self._run("UPDATE jobs SET state='running', attempts=attempts+1, started=? WHERE id=?", time.time(), id)

    def end(self, id: str, state: State, why: str = "", result: dict[str, Any] | None = None) -> None:
        """Set the final state of a job; `queued` makes it run again."""
        ended = time.time() if state in ENDED else None
        self._run("UPDATE jobs SET state=?, why=?, ended=?, result=? WHERE id=?", state, why, ended, json.dumps(result or {}), id)

    def folder_of(self, job: Job) -> Path:
        """Return the folder of a job's results."""
        return self.folder / "jobs" / job.id

    def delete(self, table: Literal["inputs", "jobs"], id: str) -> None:
        """Delete an upload or job and its files."""
        self._run(f"DELETE FROM {table} WHERE id=?", id)
        shutil.rmtree(self.folder / table / id, ignore_errors=True)

    def expire(self, before: float) -> int:
        """Delete jobs that ended and uploads that were last used before a time, in seconds since 1970. Returns their number.
        Uploads of unfinished jobs stay."""
        busy = {id for job in self.unfinished() for id in (job.ask.input, *job.ask.request.files().values())}
        old = [("jobs", row[0]) for row in self._run("SELECT id FROM jobs WHERE ended < ?", before)]
        old += [("inputs", row[0]) for row in self._run("SELECT id FROM inputs WHERE used < ?", before) if row[0] not in busy]
        for table, id in old:
            self.delete(table, id)
        return len(old)

    def n_bytes(self) -> int:
        """Return the size of all files in bytes."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._table.close()


def _job(row: tuple[Any, ...]) -> Job:
    return Job(row[0], row[1], Ask(**json.loads(row[2])), *row[3:9], json.loads(row[9]))

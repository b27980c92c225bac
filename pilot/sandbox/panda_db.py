"""The sandbox's tables: jobs, files, filed reports, workers, and the ledger of every request. Storage only, no rules."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# PanDA ids outgrew 32 bits at the big installations, so the sandbox starts beyond them too.
FIRST_PANDA_ID = 6_100_000_001

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    panda_id INTEGER PRIMARY KEY AUTOINCREMENT,
    status TEXT NOT NULL,
    attempt_nr INTEGER NOT NULL DEFAULT 0,
    archived INTEGER NOT NULL DEFAULT 0,
    site TEXT NOT NULL,
    label TEXT NOT NULL DEFAULT '',
    pseudo_input TEXT,
    parents TEXT NOT NULL DEFAULT '[]',
    prod_source_label TEXT, processing_type TEXT, prod_user_id TEXT, resource_type TEXT,
    priority INTEGER, min_ram_mb INTEGER, max_disk_mb INTEGER, max_walltime_s INTEGER, task_id INTEGER,
    definition TEXT NOT NULL,
    fields TEXT NOT NULL DEFAULT '{}',
    command TEXT,
    debug INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    modified REAL NOT NULL
);
-- In the order in which jobs are given out, so that ten thousand waiting ones cost no more than ten.
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (archived, status, site, priority DESC, panda_id);
CREATE TABLE IF NOT EXISTS files (
    panda_id INTEGER NOT NULL, position INTEGER NOT NULL, lfn TEXT, type TEXT, status TEXT, guid TEXT,
    fsize INTEGER, md5sum TEXT, checksum TEXT, dataset TEXT, destinationse TEXT
);
CREATE INDEX IF NOT EXISTS files_by_job ON files (panda_id);
CREATE TABLE IF NOT EXISTS updates (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, panda_id INTEGER, attempt_nr INTEGER, status TEXT, report TEXT, filed REAL
);
CREATE TABLE IF NOT EXISTS workers (
    harvester_id TEXT, worker_id INTEGER, status TEXT, pilotstatus TEXT, nodeid TEXT, started INTEGER, ended INTEGER,
    PRIMARY KEY (harvester_id, worker_id)
);
CREATE TABLE IF NOT EXISTS ledger (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, server TEXT, arrived REAL, committed REAL, method TEXT, path TEXT, caller TEXT,
    body TEXT, fault TEXT, status INTEGER, answer TEXT
);
"""


class PandaDb:
    """One SQLite file behind one lock. Rows go in and out as dictionaries; `definition` and `fields` as objects."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        # The sandbox promises to survive its own death, not a power cut.
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.executescript(_SCHEMA)
        self._connection.execute(
            "INSERT INTO sqlite_sequence(name, seq) SELECT 'jobs', ? "
            "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'jobs')",
            (FIRST_PANDA_ID - 1,),
        )

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; nested use joins the outer one."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    # jobs

    def insert_job(self, row: dict[str, Any]) -> int:
        now = time.time()
        values = {**row, "created": now, "modified": now}
        return self._insert("jobs", _encoded(values))

    def job(self, panda_id: int) -> dict[str, Any] | None:
        rows = self._select("SELECT * FROM jobs WHERE panda_id = ?", panda_id)
        return _decoded(rows[0]) if rows else None

    def jobs(self, where: str = "1", *values: object) -> list[dict[str, Any]]:
        """Jobs by an SQL condition, oldest first."""
        return [_decoded(row) for row in self._select(f"SELECT * FROM jobs WHERE {where} ORDER BY panda_id", *values)]

    def waiting_jobs(self, site: str) -> Iterator[dict[str, Any]]:
        """Activated jobs of a site by priority and then age, read as they are asked for; inside a transaction."""
        where = "archived = 0 AND status = 'activated' AND site = ?"
        sql = f"SELECT * FROM jobs WHERE {where} ORDER BY priority DESC, panda_id"
        return (_decoded(dict(row)) for row in self._connection.execute(sql, (site,)))

    def count_sent(self, site: str) -> int:
        """Jobs of a site that were given out and not yet heard of."""
        where = "archived = 0 AND status = 'sent' AND site = ?"
        return int(self._select(f"SELECT count(*) AS n FROM jobs WHERE {where}", site)[0]["n"])

    def set_job(self, panda_id: int, *, touch: bool = True, **values: Any) -> None:
        """Change columns of one job; `touch` also moves its modification time, which the Watcher looks at."""
        if touch:
            values["modified"] = time.time()
        row = _encoded(values)
        assignments = ", ".join(f"{name} = ?" for name in row)
        self._execute(f"UPDATE jobs SET {assignments} WHERE panda_id = ?", *row.values(), panda_id)

    # files and filed reports

    def insert_file(self, row: dict[str, Any]) -> None:
        self._insert("files", row)

    def files(self, panda_id: int) -> list[dict[str, Any]]:
        return self._select("SELECT * FROM files WHERE panda_id = ? ORDER BY position", panda_id)

    def set_file(self, panda_id: int, lfn: str, **values: Any) -> None:
        assignments = ", ".join(f"{name} = ?" for name in values)
        self._execute(f"UPDATE files SET {assignments} WHERE panda_id = ? AND lfn = ?", *values.values(), panda_id, lfn)

    def file_report(self, panda_id: int, attempt_nr: int, status: str, report: str) -> None:
        row = {"panda_id": panda_id, "attempt_nr": attempt_nr, "status": status, "report": report}
        self._insert("updates", {**row, "filed": time.time()})

    def reports(self, filed_before: float) -> list[dict[str, Any]]:
        return self._select("SELECT * FROM updates WHERE filed <= ? ORDER BY seq", filed_before)

    def drop_report(self, seq: int) -> None:
        self._execute("DELETE FROM updates WHERE seq = ?", seq)

    # workers

    def set_worker(self, harvester_id: str, worker_id: int, **values: Any) -> None:
        self._execute("INSERT OR IGNORE INTO workers (harvester_id, worker_id) VALUES (?, ?)", harvester_id, worker_id)
        assignments = ", ".join(f"{name} = ?" for name in values)
        self._execute(
            f"UPDATE workers SET {assignments} WHERE harvester_id = ? AND worker_id = ?",
            *values.values(),
            harvester_id,
            worker_id,
        )

    def workers(self) -> list[dict[str, Any]]:
        return self._select("SELECT * FROM workers ORDER BY harvester_id, worker_id")

    # ledger

    def open_entry(self, **values: Any) -> int:
        """Note a request as it arrives; what happens to it is added with `complete_entry`."""
        return self._insert("ledger", {"arrived": time.time(), **values})

    def complete_entry(self, seq: int, **values: Any) -> None:
        assignments = ", ".join(f"{name} = ?" for name in values)
        self._execute(f"UPDATE ledger SET {assignments} WHERE seq = ?", *values.values(), seq)

    def ledger(self, after_seq: int = 0) -> list[dict[str, Any]]:
        return self._select("SELECT * FROM ledger WHERE seq > ? ORDER BY seq", after_seq)

    def ledger_naming(self, text: str) -> list[dict[str, Any]]:
        """The PanDA server's entries whose request or answer holds a text."""
        like = f"%{text}%"
        sql = "SELECT * FROM ledger WHERE server IN ('panda', 'plain') AND (body LIKE ? OR answer LIKE ?) ORDER BY seq"
        return self._select(sql, like, like)

    # SQL

    def _select(self, sql: str, *values: object) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._connection.execute(sql, values).fetchall()]

    def _execute(self, sql: str, *values: object) -> None:
        with self._lock:
            self._connection.execute(sql, values)

    def _insert(self, table: str, row: dict[str, Any]) -> int:
        marks = ", ".join("?" for _ in row)
        with self._lock:
            cursor = self._connection.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
            )
            return int(cursor.lastrowid or 0)


_JSON_COLUMNS = ("parents", "definition", "fields")


def _encoded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON_COLUMNS else value for name, value in row.items()}


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: json.loads(value) if name in _JSON_COLUMNS else value for name, value in row.items()}

"""Every state that a power cut can leave of a journal: each prefix, and each permitted reordering of what was not synced.

``tests/data/journals`` holds the writes, fsyncs and truncations of real pilots' journals (`tests/faults/record.py` makes
them anew). After an fsync has returned, what was written before is there. Of what came later any part may be there: writes
are lost (a hole of zeros when a later one is there), the last one may be cut anywhere, a truncation may not have happened.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from pilot.recovery import Unfinished, fold
from pilot.runtime.journal import Event, Journal, Record, read_journal

RECORDINGS = sorted((Path(__file__).parents[1] / "data" / "journals").glob("*.jsonl"))
CUTS = 150  # of a record, at most; a shorter one is cut at every byte
STATES_LEAST = 5000
ONCE = (Event.ACQUIRED, Event.PAYLOAD_STARTING, Event.PAYLOAD_EXITED, Event.FINAL_PREPARED, Event.FINAL_ACKED)
# What must stand before: a record of the key never comes without one of the value.
NEEDS = {
    Event.PAYLOAD_PID: Event.PAYLOAD_STARTING,
    Event.PAYLOAD_EXITED: Event.PAYLOAD_STARTING,
    Event.STAGE_OUT_DONE: Event.PAYLOAD_EXITED,
    Event.FINAL_ACKED: Event.FINAL_PREPARED,
}


@dataclass(frozen=True)
class Write:
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    length: int


Operation = Write | Truncate


@dataclass(frozen=True)
class State:
    """What a cut left of a journal, and which events had been promised to be durable by then."""

    content: bytes
    promised: frozenset[Event]


def operations(path: Path) -> Iterator[Operation | None]:
    """The recorded operations with their offsets; None is an fsync."""
    length = 0
    for line in path.read_text().splitlines():
        operation, value = json.loads(line)
        if operation == "fsync":
            yield None
        elif operation == "truncate":
            length = value
            yield Truncate(value)
        else:
            data = value.encode("latin-1")
            yield Write(length, data)
            length += len(data)


def states(path: Path) -> Iterator[State]:
    """Every state of a recorded journal, each once."""
    seen: set[State] = set()
    synced, pending = b"", list[Operation]()
    for operation in operations(path):
        if operation is None:
            synced, pending = applied(synced, tuple(pending)), []
        else:
            pending.append(operation)
        promised = frozenset(events(synced))
        for content in outcomes(synced, pending):
            state = State(content, promised)
            if state not in seen:
                seen.add(state)
                yield state


def outcomes(synced: bytes, pending: list[Operation]) -> Iterator[bytes]:
    """What may be found when the power goes now."""
    for count in range(len(pending) + 1):
        for kept in itertools.combinations(pending, count):
            yield applied(synced, kept)
            last = kept[-1] if kept else None
            if isinstance(last, Write):
                step = max(1, len(last.data) // CUTS)
                for cut in range(1, len(last.data), step):
                    yield applied(synced, (*kept[:-1], Write(last.offset, last.data[:cut])))


def applied(content: bytes, operations: tuple[Operation, ...]) -> bytes:
    for operation in operations:
        if isinstance(operation, Truncate):
            content = content[: operation.length]
        else:
            content = content[: operation.offset].ljust(operation.offset, b"\0") + operation.data
    return content


def events(content: bytes) -> list[Event]:
    return [Event(json.loads(line[9:])["event"]) for line in content.splitlines()]


def body_of(path: Path) -> dict[str, object]:
    """The one final report of a recording."""
    (body,) = (
        json.loads(operation.data[9:])["body"]
        for operation in operations(path)
        if isinstance(operation, Write) and b'"final_prepared"' in operation.data[:40]
    )
    found: dict[str, object] = body
    return found


def require_legal(records: list[Record]) -> None:
    told = [record.event for record in records]
    assert not told or told[0] is Event.ACQUIRED
    for event in ONCE:
        assert told.count(event) <= 1, told
    for position, event in enumerate(told):
        assert event not in NEEDS or NEEDS[event] in told[:position], told
    assert Event.FINAL_ACKED not in told[:-1], told


def require_safe(left: Unfinished | None, promised: frozenset[Event], body: dict[str, object]) -> None:
    """The promises a successor must know of, since somebody may have acted on them."""
    if Event.ACQUIRED in promised:
        assert left is not None, "a job that was acquired is forgotten"
    if left is None:
        return
    if Event.PAYLOAD_STARTING in promised:
        assert left.payload_started, "a payload that was started would count as not started"
    if Event.PAYLOAD_EXITED in promised:
        assert left.outcome is not None, "the outcome would be told anew"
    if Event.FINAL_PREPARED in promised:
        assert left.body == body, "another report could follow the one that was sent"
    assert left.body in (None, body)
    if Event.FINAL_ACKED in promised:
        assert left.settled


@pytest.fixture
def memory() -> Iterator[BinaryIO]:
    """A file that lies on no disk: thousands are written."""
    with open(os.memfd_create("journal"), "r+b", buffering=0) as file:
        yield cast(BinaryIO, file)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_every_state_of_a_journal_folds_to_a_legal_history(recording: Path, memory: BinaryIO) -> None:
    body, last = body_of(recording), State(b"", frozenset())
    for state in states(recording):
        memory.seek(0)
        memory.truncate()
        memory.write(state.content)
        records = read_journal(Path(f"/proc/self/fd/{memory.fileno()}"))
        require_legal(records)
        require_safe(fold(records), state.promised, body)
        last = state
    assert Event.FINAL_ACKED in last.promised


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_what_a_successor_appends_to_any_state_can_be_read(recording: Path, tmp_path: Path) -> None:
    for number, state in enumerate(itertools.islice(states(recording), 0, None, 40)):
        path = tmp_path / str(number)
        path.write_bytes(state.content)
        before = read_journal(path)
        journal = Journal(path)
        journal.append(Event.FINAL_ACKED, durable=False)
        journal.close()
        assert read_journal(path)[:-1] == before
        assert read_journal(path)[-1].event is Event.FINAL_ACKED


def test_there_are_thousands_of_states() -> None:
    assert sum(1 for recording in RECORDINGS for _ in states(recording)) >= STATES_LEAST

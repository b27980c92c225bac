"""Secrets are taken out of everything that leaves the pilot: as they are, and as base64, URL, JSON and shell write them.

All forms of all secrets are looked for in one pass by an Aho-Corasick automaton (docs/adr/0005), and everything that any of
them covers is masked, so that secrets that overlap leave nothing of each other.
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, quote_plus

from pilot.runtime.secret import Secret

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MIN_SECRET_CHARS = 6  # shorter ones would black out ordinary words
MASK = "***"
NEEDLE_MAX_BYTES = 128  # longer ones are cut to pieces: a part of a secret is one too, and less has to be held back
# A table of all transitions reads 400 MB/s where the library's own choice reads 160; for the 340 forms of an RSA key and four
# words it takes 20 ms and 10 MB to make (measured), which is worth it from some megabytes on.
TABLE_AFTER_BYTES = 8 << 20
TABLE_MAX_NEEDLE_BYTES = 64 << 10
BLOCK_BYTES = 16 << 10  # searched at a time, which bounds the memory for matches in hostile texts
RECENT_FILES = 32  # texts of renewed credentials (tokens of an hour) that stay known
# What URL makers leave as it is: strict ones, ones that keep paths, JavaScript's two functions, and requests.
URL_SAFE = ("", "/", "!~*'()", "!#$&'()*+,/:;=?@~", "!#$%&'()*+,/:;=?@[]~")
WRAPPED_CHARS = (76, 64)  # line lengths of base64 as commands and PEM write it
# The keys of JSON credential files (Google's kinds, S3) whose values are secret.
SECRET_NAMES = frozenset(
    (
        *("private_key", "client_secret", "refresh_token", "access_token", "id_token", "token"),
        *("password", "secret_key", "access_key", "secret_access_key", "access_key_id"),
    )
)

Span = tuple[int, int]


class Redactor:
    """Knows the secrets of this process and removes them from texts and files. Thread-safe."""

    def __init__(self) -> None:
        self._kept: set[Secret] = set()
        self._kept_files: set[Secret] = set()
        self._recent_files: deque[Secret] = deque(maxlen=RECENT_FILES)
        self._for_a_time: Counter[Secret] = Counter()
        self._needles: Needles | None = Needles(())
        self._lock = threading.Lock()

    def add(self, secret: Secret) -> None:
        """Remember a secret for good, and each line of one that has several (a PEM file)."""
        with self._lock:
            self._kept.add(secret)
            self._needles = None

    def learn(self, file: Secret, *, for_good: bool = False) -> None:
        """Remember what is secret in a credential file that was read or renewed; the latest ``RECENT_FILES`` stay known."""
        with self._lock:
            if file and file not in self._kept_files and (for_good or file not in self._recent_files):
                (self._kept_files.add if for_good else self._recent_files.append)(file)
                self._needles = None

    @contextmanager
    def knowing(self, secrets: Iterable[Secret]) -> Iterator[None]:
        """While inside, these are secrets too (a job's own)."""
        mine = Counter(secrets)
        self._change(mine, Counter())
        try:
            yield
        finally:
            self._change(Counter(), mine)
            with self._lock:
                if self._needles is not None:
                    self._needles.start_over()

    def _change(self, more: Counter[Secret], less: Counter[Secret]) -> None:
        if more or less:
            with self._lock:
                self._for_a_time = self._for_a_time + more - less
                self._needles = None

    def clean(self, text: str) -> str:
        """The text with ``***`` in the place of each secret, also of one that is cut off by the text's end."""
        needles = self.needles()
        raw = text.encode("utf-8", "surrogatepass")
        spans = needles.spans(raw, ended=True)
        if not spans:
            return text
        ends = [0, *(end for _start, end in spans)]
        starts = [*(start for start, _end in spans), len(raw)]
        return MASK.join(_text(raw[end:start]) for end, start in zip(ends, starts, strict=True))

    def mask(self, block: bytes) -> bytes:
        """The bytes, of the same number, with asterisks in the place of each secret."""
        needles = self.needles()
        return _masked(block, needles.spans(block, ended=True))

    def stream(self) -> RedactingStream:
        """``mask`` for bytes that come in chunks, however a secret is cut by them."""
        return RedactingStream(self.needles())

    def reading(self, file: BinaryIO) -> io.BufferedReader:
        """An open, seekable file as ``mask`` shows it: as many bytes, read in any order. Closing it closes the file.

        What is secret is settled now: a retried upload reads the same bytes again.
        """
        return io.BufferedReader(_MaskedFile(file, self.needles()), BLOCK_BYTES)

    def needles(self) -> Needles:
        """What is looked for now; made anew when the secrets have changed."""
        with self._lock:
            if self._needles is None:
                files = self._kept_files.union(self._recent_files)
                secrets = self._kept.union(self._for_a_time, *map(secret_parts, files))
                forms = set[bytes]().union(*map(_forms, secrets), *map(_wrapped_forms, files))
                self._needles = Needles({piece for form in forms for piece in _pieces(form)})
            return self._needles


class Needles:
    """Every form of every secret, ready to be searched for. ``longest_bytes``: 0 when there is none."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._sorted: Sequence[bytes] = sorted(needles)
        self.longest_bytes = max(map(len, self._sorted), default=0)
        self._may_be_table = 0 < sum(map(len, self._sorted)) <= TABLE_MAX_NEEDLE_BYTES
        self._until_table_bytes = TABLE_AFTER_BYTES if self._may_be_table else None
        if self._sorted:
            from ahocorasick_rs import BytesAhoCorasick, MatchKind

            self._automaton = BytesAhoCorasick(self._sorted, matchkind=MatchKind.Standard)
            heads = sorted({needle[:MIN_SECRET_CHARS] for needle in self._sorted})
            self._heads = BytesAhoCorasick(heads, matchkind=MatchKind.Standard)

    def __len__(self) -> int:
        return len(self._sorted)

    def spans(self, data: bytes, *, ended: bool) -> list[Span]:
        """Start and end of what must not be shown, in order, apart from each other.

        With ``ended`` also a beginning of a needle, of ``MIN_SECRET_CHARS`` and more, that stands at the data's end.
        """
        if not self._sorted:
            return []
        self._make_table_for_much(len(data))
        found: list[Span] = []
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[start : start + BLOCK_BYTES + self.longest_bytes - 1]
            matches = self._automaton.find_matches_as_indexes(block, overlapping=True)
            if matches:
                found += _joined([(start + first, start + end) for _which, first, end in matches])
        if ended and (cut_bytes := self._cut_off_bytes(data)):
            found.append((len(data) - cut_bytes, len(data)))
        return _joined(found)

    def start_over(self) -> None:
        """What was searched so far counts no more, and the table that was made for it is let go."""
        if not self._may_be_table:
            return
        if self._until_table_bytes is None:
            from ahocorasick_rs import BytesAhoCorasick, MatchKind

            self._automaton = BytesAhoCorasick(self._sorted, matchkind=MatchKind.Standard)
        self._until_table_bytes = TABLE_AFTER_BYTES

    def _make_table_for_much(self, size_bytes: int) -> None:
        """Where much is read, the automaton becomes a table. Two threads may both make it: either is right."""
        left_bytes = self._until_table_bytes
        if left_bytes is None:
            return
        if left_bytes >= size_bytes:
            self._until_table_bytes = left_bytes - size_bytes
            return
        from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

        self._until_table_bytes = None
        self._automaton = BytesAhoCorasick(
            self._sorted, matchkind=MatchKind.Standard, implementation=Implementation.DFA
        )

    def _cut_off_bytes(self, data: bytes) -> int:
        """The length of the longest end of the data that begins a needle; 0 when it is too short to tell."""
        tail = data[-self.longest_bytes + 1 :] if self.longest_bytes > 1 else b""
        # All heads at once: to try each place of each of a page's lines was a tenth of a short job's CPU time.
        for _which, start, _end in self._heads.find_matches_as_indexes(tail, overlapping=True):
            end = tail[start:]
            place = bisect_left(self._sorted, end)
            if place < len(self._sorted) and self._sorted[place].startswith(end):
                return len(end)
        return 0


class RedactingStream:
    """Bytes in, as many bytes out; what could be the beginning of a secret is held back until more has come."""

    def __init__(self, needles: Needles) -> None:
        self._needles = needles
        self._reach_bytes = max(0, needles.longest_bytes - 1)
        self._data = b""  # what was given out last, as context, and what is held back
        self._given_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """What may be shown by now, the chunk's own bytes or earlier ones."""
        data = self._data + chunk
        ready_bytes = max(self._given_bytes, len(data) - self._reach_bytes)
        shown = _masked(data, self._needles.spans(data, ended=False))[self._given_bytes : ready_bytes]
        context_bytes = max(0, ready_bytes - self._reach_bytes)
        self._data, self._given_bytes = data[context_bytes:], ready_bytes - context_bytes
        return shown

    def flush(self) -> bytes:
        """The rest, at the end."""
        shown = _masked(self._data, self._needles.spans(self._data, ended=True))[self._given_bytes :]
        self._data, self._given_bytes = b"", 0
        return shown


class _MaskedFile(io.RawIOBase):
    """A file in which secrets are masked. Each read looks a needle's length around itself: reads may come in any order."""

    def __init__(self, file: BinaryIO, needles: Needles) -> None:
        self._file, self._needles = file, needles
        self._reach_bytes = max(0, needles.longest_bytes - 1)
        self._position = file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_CUR:
            offset, whence = self._position + offset, io.SEEK_SET
        self._position = self._file.seek(offset, whence)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        before_bytes = min(self._position, self._reach_bytes)
        wanted_bytes = before_bytes + len(view) + self._reach_bytes
        self._file.seek(self._position - before_bytes)
        data = self._file.read(wanted_bytes)
        shown = _masked(data, self._needles.spans(data, ended=len(data) < wanted_bytes))
        shown = shown[before_bytes : before_bytes + len(view)]
        view[: len(shown)] = shown
        self._position += len(shown)
        return len(shown)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def secret_parts(file: Secret) -> list[Secret]:
    """What is secret in a credential file: the private keys of a PEM or JSON file, the text and the values of a short mapping."""
    text = file.reveal()
    if "-----BEGIN" in text and not text.startswith("{"):
        return [
            Secret(match) for match in re.findall(r"BEGIN [A-Z ]*PRIVATE KEY-----\s(.+?)\s-----END", text, re.DOTALL)
        ]
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return [file]
        values = [Secret(v) for name, v in document.items() if name in SECRET_NAMES and isinstance(v, str)]
        return values or [file]
    pairs = re.findall(r"^\s*\w+\s*[:=]\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
    return [file, *(Secret(value) for value in pairs)]  # also whole: a token may look like a mapping (padding)


def _forms(secret: Secret) -> set[bytes]:
    """All forms of a secret. Of one with several lines each line counts: whatever writes all of it writes each of them."""
    whole = secret.reveal().strip()
    lines = [line.strip() for line in whole.splitlines() if line.strip()]
    if len(lines) != 1 and any(len(line) < MIN_SECRET_CHARS for line in lines):
        lines.append(whole)
    forms: set[bytes] = set()
    for line in lines:
        if len(line) >= MIN_SECRET_CHARS:
            for raw in _raw(line):
                forms |= {quote(raw, safe=safe).encode() for safe in URL_SAFE}
                forms |= {quote_plus(raw, safe=safe).encode() for safe in URL_SAFE[:2]}
                forms |= {re.sub(rb"%..", lambda code: code[0].lower(), form) for form in forms if b"%" in form}
                forms |= {repr(raw)[2:-1].encode(), *_base64(raw)}
            forms |= {raw for form in _quoted(line) for raw in _raw(form)}
    return forms | _wrapped_forms(secret)


def _wrapped_forms(file: Secret) -> set[bytes]:
    """What ``base64 FILE`` prints."""
    return {line for raw in _raw(file.reveal().strip()) for line in _wrapped(raw)}


def _raw(text: str) -> set[bytes]:
    """The text in bytes. Variables of the environment may hold any bytes, which Python shows as lone surrogates."""
    raw = {text.encode("utf-8", "surrogatepass")}
    try:
        raw.add(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        pass
    return raw


def _quoted(text: str) -> set[str]:
    """The text as JSON, shells, Python and HTML or XML write it between quotes."""
    shown = {text, repr(text)[1:-1]}
    for as_json in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
        for_html = re.sub("[<>&]", lambda char: f"\\u{ord(char[0]):04x}", as_json)
        shown |= {as_json, for_html, as_json.replace("/", "\\/"), for_html.replace("/", "\\/")}
    shown |= {text.replace("'", other) for other in ("'\"'\"'", "'\\''", "\\'")}
    shown |= {re.sub(r'([\\"$`])', r"\\\1", text), re.sub(r'([\\"$`!])', r"\\\1", text)}
    shown.add(re.sub(r"([^\w@%+=:,./-])", r"\\\1", text, flags=re.ASCII))
    shown.add(re.sub(r"([^\w@%+:./-])", r"\\\1", text, flags=re.ASCII))
    for quote_marks in (False, True):
        as_html = escape(text, quote=quote_marks)
        shown |= {as_html, as_html.replace("&#x27;", "&#39;"), as_html.replace("&#x27;", "&apos;")}
    return shown


def _base64(raw: bytes) -> Iterator[bytes]:
    """The part of the base64 form that is the same wherever the secret stands in a longer text, in both alphabets."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw)
        core = encoded[(0, 2, 3)[offset] : (len(raw) + offset) * 8 // 6]  # the characters no neighbour has a part in
        yield core
        yield core.translate(bytes.maketrans(b"+/", b"-_"))


def _wrapped(raw: bytes) -> Iterator[bytes]:
    """The lines of the base64 form as commands break it; a short last one together with the line before it."""
    encoded = base64.b64encode(raw)[: len(raw) * 8 // 6]
    for width in WRAPPED_CHARS:
        lines = [encoded[start : start + width] for start in range(0, len(encoded), width)]
        if len(lines) > 1 and len(lines[-1]) < MIN_SECRET_CHARS:
            lines[-2:] = [lines[-2], b"\n".join(lines[-2:])]
        yield from lines if len(lines) > 1 else ()


def _pieces(form: bytes) -> Iterator[bytes]:
    """The form, or pieces that cover all of a long one."""
    for start in range(0, max(1, len(form) - NEEDLE_MAX_BYTES), NEEDLE_MAX_BYTES):
        yield form[start : start + NEEDLE_MAX_BYTES]
    yield form[-NEEDLE_MAX_BYTES:]


def _joined(spans: list[Span]) -> list[Span]:
    """The spans in order, those that overlap or touch made one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _masked(data: bytes, spans: list[Span]) -> bytes:
    if not spans:
        return data
    shown = bytearray(data)
    for start, end in spans:
        shown[start:end] = b"*" * (end - start)
    return bytes(shown)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # a piece of a long secret ended within a character
        return raw.decode("utf-8", "backslashreplace")

"""A store that takes what is sent, sums it up and forgets it: S3 (whole, in parts) and Google's JSON (multipart, resumable).

    python -m tests.bench.sink CERTIFICATE KEY [--keep]

Prints its two ports as JSON and serves until its standard input ends. Nothing is authenticated, no bucket must be made.
A bucket whose name begins with ``md5`` is told of by md5 (the ETag), as other S3 stores do; every other by crc32c
(``x-goog-hash``), as Google does. ``GET /-/kept`` tells what arrived since ``POST /-/forget``.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from tests.bench.measure import REPOSITORY, BenchError
from tests.bench.sums import Sum

BLOCK_BYTES = 512 << 10
RESUMABLE_UNIT_BYTES = 256 << 10  # what Google wants every part of a resumable upload but the last to be a multiple of
_JSON_OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/(.+)")
_JSON_UPLOAD = re.compile(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
Name = tuple[str, str]  # bucket and key


@dataclass
class Books:
    """What has arrived, and what is under way. One lock for all: it is held for no transfer."""

    keep: bool
    objects: dict[Name, tuple[Sum, str]] = field(default_factory=dict)  # and the dialect it came in
    parts: dict[str, dict[int, Sum]] = field(default_factory=dict)  # of multipart uploads, by id
    resumable: dict[str, tuple[Name, Sum]] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        with self.lock:
            for book in (self.objects, self.parts, self.resumable, self.requests):
                book.clear()

    def count(self, method: str) -> None:
        with self.lock:
            self.requests[method] = self.requests.get(method, 0) + 1

    def told(self) -> dict[str, Any]:
        with self.lock:
            objects = [
                {
                    "bucket": bucket,
                    "key": key,
                    "size_bytes": found.size_bytes,
                    "crc32c": f"{found.crc32c:08x}",
                    "dialect": how,
                }
                for (bucket, key), (found, how) in self.objects.items()
            ]
            return {
                "objects": objects,
                "requests": dict(self.requests),
                "unfinished": len(self.parts) + len(self.resumable),
            }


class _Pieces:
    """A body as it comes, read as lines and as bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def line(self) -> bytes:
        """Up to a line end, without it."""
        while b"\n" not in self._held:
            piece = next(self._pieces, b"")
            if not piece:
                raise EOFError("the body ends within a line")
            self._held += piece
        line, _end, self._held = self._held.partition(b"\n")
        return line.rstrip(b"\r")

    def exactly(self, size_bytes: int) -> Iterator[bytes]:
        while size_bytes:
            piece = self._held or next(self._pieces, b"")
            if not piece:
                raise EOFError(f"{size_bytes} bytes are missing")
            self._held = piece[size_bytes:]
            piece = piece[:size_bytes] if self._held else piece
            size_bytes -= len(piece)
            yield piece

    def rest(self) -> Iterator[bytes]:
        if self._held:
            yield self._held
            self._held = b""
        yield from self._pieces


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def log_message(self, format: str, *args: object) -> None:
        """What arrived is asked for."""

    @property
    def _books(self) -> Books:
        return self.server.books

    def do_GET(self) -> None:
        path = self._path
        described = _JSON_OBJECT.fullmatch(path)
        if path == "/-/kept":
            self._answer_json(200, self._books.told())
        elif described:
            self._describe((unquote(described[1]), unquote(described[2])))
        else:
            self._answer_object(with_content=True)

    def do_HEAD(self) -> None:
        self._books.count("HEAD")
        self._answer_object(with_content=False)

    def do_DELETE(self) -> None:
        self._books.count("DELETE")
        with self._books.lock:
            self._books.parts.pop(self._query.get("uploadId", ""), None)
        self._answer(204)

    def do_POST(self) -> None:
        upload = _JSON_UPLOAD.fullmatch(self._path)
        if self._path == "/-/forget":
            self._books.forget()
            self._answer(204)
            return
        self._books.count("POST")
        if upload and self._query.get("uploadType") == "multipart":
            self._take_json_multipart(unquote(upload[1]))
        elif upload and self._query.get("uploadType") == "resumable":
            self._begin_resumable(unquote(upload[1]))
        elif "uploads" in self._query:
            self._begin_parts()
        elif "uploadId" in self._query:
            self._finish_parts()
        else:
            self._refuse(400, "this sink knows no such POST")

    def do_PUT(self) -> None:
        self._books.count("PUT")
        if "upload_id" in self._query:
            self._take_resumable(self._query["upload_id"])
        elif "uploadId" in self._query:
            self._take_part(self._query["uploadId"], int(self._query["partNumber"]))
        else:
            found = self._sum()
            for block in self._content():
                found.update(block)
            self._store(self._name, found, "S3")
            self._answer(200, headers=self._checksums(found))

    # --- S3

    def _begin_parts(self) -> None:
        self._drain()
        upload_id = secrets.token_hex(8)
        with self._books.lock:
            self._books.parts[upload_id] = {}
        bucket, key = self._name
        text = f"<Bucket>{bucket}</Bucket><Key>{_escaped(key)}</Key><UploadId>{upload_id}</UploadId>"
        self._answer_xml(f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>")

    def _take_part(self, upload_id: str, number: int) -> None:
        found = self._sum()
        for block in self._content():
            found.update(block)
        with self._books.lock:
            parts = self._books.parts.get(upload_id)
            if parts is not None:
                parts[number] = found
        if parts is None:
            self._refuse(404, "NoSuchUpload")
        else:
            self._answer(200, headers=self._checksums(found))

    def _finish_parts(self) -> None:
        named = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", b"".join(self._content()))]
        with self._books.lock:
            parts = self._books.parts.pop(self._query["uploadId"], None)
        if parts is None or not named or sorted(parts) != named:
            self._refuse(400, "InvalidPart")
            return
        whole = self._sum()
        for number in named:
            whole.append(parts[number])
        self._store(self._name, whole, "S3 in parts")
        bucket, key = self._name
        tag = f"&quot;{secrets.token_hex(16)}-{len(named)}&quot;"
        text = f"<Bucket>{bucket}</Bucket><Key>{_escaped(key)}</Key><ETag>{tag}</ETag>"
        self._answer_xml(f"<CompleteMultipartUploadResult>{text}</CompleteMultipartUploadResult>")

    # --- Google's JSON

    def _take_json_multipart(self, bucket: str) -> None:
        """The object's description and its bytes, one part each; the content is summed up while it comes."""
        boundary = _boundary(self.headers)
        body = _Pieces(self._content())
        description = json.loads(b"".join(_part(body, boundary)))
        found = self._sum()
        for block in _part(body, boundary):
            found.update(block)
        for _rest in body.rest():
            continue
        self._store((bucket, description["name"]), found, "JSON multipart")
        self._describe((bucket, description["name"]))

    def _begin_resumable(self, bucket: str) -> None:
        description = json.loads(b"".join(self._content()) or b"{}")
        key = description.get("name") or self._query["name"]
        upload_id = secrets.token_hex(16)
        with self._books.lock:
            self._books.resumable[upload_id] = ((bucket, key), self._sum())
        scheme = "https" if isinstance(self.request, ssl.SSLSocket) else "http"
        target = f"{scheme}://{self.headers['Host']}{self._path}?uploadType=resumable&upload_id={upload_id}"
        self._answer(200, headers={"Location": target})

    def _take_resumable(self, upload_id: str) -> None:
        with self._books.lock:
            name, found = self._books.resumable.get(upload_id, (None, None))
        span = _CONTENT_RANGE.fullmatch(self.headers.get("Content-Range", "bytes 0-0/*"))
        if name is None or found is None or span is None:
            self._drain()
            self._refuse(404, "no such upload")
            return
        first = int(span[1]) if span[1] else found.size_bytes
        if first != found.size_bytes:
            self._drain()
            self._refuse(400, f"the part begins at {first}, {found.size_bytes} bytes are here")
            return
        for block in self._content():
            found.update(block)
        self._answer_resumable(upload_id, name, found, span[3])

    def _answer_resumable(self, upload_id: str, name: Name, found: Sum, total: str) -> None:
        if total != "*" and found.size_bytes == int(total):
            with self._books.lock:
                self._books.resumable.pop(upload_id, None)
            self._store(name, found, "JSON resumable")
            self._describe(name)
        elif found.size_bytes % RESUMABLE_UNIT_BYTES:
            self._refuse(400, "a part must be a multiple of 256 KiB")
        else:
            self._answer(308, headers={"Range": f"bytes=0-{found.size_bytes - 1}"} if found.size_bytes else {})

    def _describe(self, name: Name) -> None:
        with self._books.lock:
            found, _how = self._books.objects.get(name, (None, ""))
        if found is None:
            self._refuse(404, "no such object")
            return
        described = {"kind": "storage#object", "bucket": name[0], "name": name[1], "size": str(found.size_bytes)}
        self._answer_json(200, described | {"crc32c": found.crc32c_text, "generation": "1", "etag": "CAE="})

    # --- both

    @property
    def _path(self) -> str:
        return urlsplit(self.path).path

    @property
    def _query(self) -> dict[str, str]:
        return {name: texts[0] for name, texts in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    @property
    def _name(self) -> Name:
        bucket, _slash, key = unquote(self._path).lstrip("/").partition("/")
        return bucket, key

    def _sum(self) -> Sum:
        return Sum(self._books.keep, md5=self._path.startswith("/md5"))

    def _store(self, name: Name, found: Sum, how: str) -> None:
        with self._books.lock:
            self._books.objects[name] = (found, how)

    def _checksums(self, found: Sum) -> dict[str, str]:
        if found.md5:
            return {"ETag": f'"{found.md5}"'}
        return {"ETag": f'"{found.crc32c:08x}-1"', "x-goog-hash": f"crc32c={found.crc32c_text}"}

    def _content(self) -> Iterator[bytes]:
        """What the body means: its transfer coding and Amazon's own chunks, with which checksums trail, are undone."""
        pieces = self._body()
        if "aws-chunked" in self.headers.get("Content-Encoding", "") or "x-amz-decoded-content-length" in self.headers:
            return _without_chunks(_Pieces(pieces))
        return pieces

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size_bytes := int(self.rfile.readline().partition(b";")[0], 16):
                yield from self._bytes(size_bytes)
                self.rfile.readline()
            while self.rfile.readline().strip():
                continue
        else:
            yield from self._bytes(int(self.headers.get("Content-Length") or 0))

    def _bytes(self, left_bytes: int) -> Iterator[bytes]:
        view = memoryview(bytearray(min(BLOCK_BYTES, left_bytes)))
        file: BinaryIO = self.rfile  # type: ignore[assignment]
        while left_bytes:
            count = file.readinto(view[: min(BLOCK_BYTES, left_bytes)])  # type: ignore[attr-defined]
            if not count:
                raise EOFError(f"{left_bytes} bytes are missing")
            left_bytes -= count
            yield bytes(view[:count])

    def _drain(self) -> None:
        for _piece in self._body():
            continue

    def _answer_object(self, *, with_content: bool) -> None:
        with self._books.lock:
            found, _how = self._books.objects.get(self._name, (None, ""))
        if found is None:
            self._refuse(404, "NoSuchKey")
            return
        content = b"".join(found.content) if with_content else b""
        self._answer(200, content, "application/octet-stream", self._checksums(found), size_bytes=found.size_bytes)

    def _answer_json(self, status: int, answer: dict[str, Any]) -> None:
        self._answer(status, json.dumps(answer).encode(), "application/json")

    def _answer_xml(self, text: str) -> None:
        self._answer(200, f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode(), "application/xml")

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode(), "application/xml")

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        kind: str = "text/plain",
        headers: dict[str, str] | None = None,
        size_bytes: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) if size_bytes is None else size_bytes))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _boundary(headers: Message) -> bytes:
    found = re.search(r'boundary="?([^";]+)"?', headers.get("Content-Type", ""))
    if found is None:
        raise ValueError("a multipart body without a boundary")
    return found[1].encode()


def _part(body: _Pieces, boundary: bytes) -> Iterator[bytes]:
    """The content of the next part of a multipart body, up to the boundary behind it, which is read away."""
    body.line()  # of the boundary before it
    while body.line():  # its head
        continue
    end = b"\r\n--" + boundary
    held = b""
    for piece in body.rest():
        held += piece
        content, found, rest = held.partition(end)
        if found:
            body._held = rest
            yield content
            return
        yield held[: -len(end)]
        held = held[-len(end) :]
    raise EOFError("a part without an end")


def _without_chunks(body: _Pieces) -> Iterator[bytes]:
    """``SIZE[;chunk-signature=...] CR LF bytes CR LF``, until one of no bytes; then trailers, which are read away."""
    while size_bytes := int(body.line().partition(b";")[0], 16):
        yield from body.exactly(size_bytes)
        body.line()
    for _trailer in body.rest():
        continue


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def __init__(self, books: Books, context: ssl.SSLContext | None) -> None:
        self.books = books
        self._context = context
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is its own matter; it will miss what it sent."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@dataclass(frozen=True)
class Sink:
    """A running sink, from the bench's side."""

    plain_url: str
    tls_url: str

    def url(self, tls: bool) -> str:
        return self.tls_url if tls else self.plain_url

    def kept(self) -> dict[str, Any]:
        """``objects`` (bucket, key, size_bytes, crc32c, dialect), ``requests`` by method, ``unfinished`` uploads."""
        told: dict[str, Any] = json.loads(self.content("-/kept"))
        return told

    def content(self, path: str) -> bytes:
        """The bytes of an object (of a sink that keeps them)."""
        with _opener.open(f"{self.plain_url}/{path}", timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def forget(self) -> None:
        with _opener.open(urllib.request.Request(f"{self.plain_url}/-/forget", method="POST"), timeout=60):
            return


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def running_sink(certificate: Path, key: Path, *, keep: bool = False) -> Iterator[Sink]:
    """A sink as a process of its own, gone afterwards."""
    command = [sys.executable, "-m", "tests.bench.sink", str(certificate), str(key), *(["--keep"] if keep else [])]
    server = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None and server.stdout is not None
    try:
        line = server.stdout.readline()
        if not line:
            raise BenchError("the sink did not start")
        ports = json.loads(line)
        yield Sink(f"http://localhost:{ports['plain']}", f"https://localhost:{ports['tls']}")
    finally:
        server.stdin.close()
        server.wait(10)
        server.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("certificate", type=Path)
    parser.add_argument("key", type=Path)
    parser.add_argument("--keep", action="store_true", help="keep the bytes, to be read again")
    options = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    books = Books(options.keep)
    servers = {"plain": _Server(books, None), "tls": _Server(books, context)}
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({name: server.server_port for name, server in servers.items()}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

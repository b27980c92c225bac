"""The store that is read from: nginx over a folder, speaking S3 and Google's JSON as far as downloads do.

Every object lies at ``/<bucket>/<key>`` and, by rewrite, where Google's JSON interface has its bytes; answers carry its
crc32c (``x-goog-hash``), so that who verifies can. A bucket's listing is one fixed page, for clients that ask for it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from tests.bench.content import Content
from tests.bench.measure import BenchError

START_S = 10.0
_LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>{bucket}</Name><Prefix></Prefix><KeyCount>{count}</KeyCount><MaxKeys>10000</MaxKeys><IsTruncated>false</IsTruncated>"
    "{objects}</ListBucketResult>"
)
_LISTED = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<Size>{size_bytes}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
_CONFIGURATION = """
daemon off;
{user}
worker_processes {workers};
pid {scratch}/nginx.pid;
error_log {scratch}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  keepalive_timeout 60s;
  client_body_temp_path {scratch}/body;
  proxy_temp_path {scratch}/proxy;
  fastcgi_temp_path {scratch}/fastcgi;
  uwsgi_temp_path {scratch}/uwsgi;
  scgi_temp_path {scratch}/scgi;
  types {{ }}
  default_type application/octet-stream;
  map_hash_max_size 65536;
  map_hash_bucket_size 512;
  map $uri $goog_hash {{ include {scratch}/hashes; }}
  map $uri $described {{ include {scratch}/descriptions; }}
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{tls} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    root {root};
    location ~ ^/download/storage/v1/b/[^/]+/o/ {{
      rewrite "^/download/storage/v1/b/([^/]+)/o/(.+)$" /$1/$2 last;
    }}
    location ~ ^/storage/v1/b/[^/]+/o/ {{
      default_type application/json;
      if ($arg_alt = media) {{ rewrite "^/storage/v1/b/([^/]+)/o/(.+)$" /$1/$2 last; }}
      return 200 $described;
    }}
    location ~ ^/[^/]+/?$ {{ default_type application/xml; try_files /listing.xml =404; }}
    location / {{
      add_header x-goog-hash $goog_hash;
      add_header x-goog-generation 1;
      add_header x-goog-storage-class STANDARD;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class DownloadServer:
    """A running nginx."""

    plain_url: str
    tls_url: str

    def url(self, tls: bool) -> str:
        return self.tls_url if tls else self.plain_url


@contextmanager
def serving(
    root: Path, bucket: str, contents: Sequence[Content], certificate: Path, key: Path, scratch: Path
) -> Iterator[DownloadServer]:
    """Serve ``root/<bucket>``; gone afterwards. ``scratch``: an empty folder for its own files."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise BenchError("nginx is not installed: scripts/prepare-machine bench")
    _write_folder(root, bucket, contents, scratch)
    plain, tls = _free_ports()
    text = _CONFIGURATION.format(
        user="user root;" if os.geteuid() == 0 else "",
        workers=os.cpu_count() or 1,
        scratch=scratch,
        plain=plain,
        tls=tls,
        certificate=certificate,
        key=key,
        root=root,
    )
    (scratch / "nginx.conf").write_text(text)
    command = ["setpriv", "--pdeathsig", "TERM", program, "-e", str(scratch / "error.log"), "-p", str(scratch)]
    with (scratch / "words").open("wb") as words:
        server = subprocess.Popen([*command, "-c", str(scratch / "nginx.conf")], stdin=subprocess.DEVNULL, stderr=words)
    try:
        _wait_until_up(server, (plain, tls), scratch)
        yield DownloadServer(f"http://localhost:{plain}", f"https://localhost:{tls}")
    finally:
        server.terminate()
        server.wait(10)


def _write_folder(root: Path, bucket: str, contents: Sequence[Content], scratch: Path) -> None:
    hashes = "".join(f'"/{bucket}/{content.key}" "{content.goog_hash}";\n' for content in contents)
    (scratch / "hashes").write_text(f'default "";\n{hashes}')
    descriptions = "".join(
        f"'/storage/v1/b/{bucket}/o/{content.key}' '{json.dumps(_description(bucket, content))}';\n"
        for content in contents
    )
    (scratch / "descriptions").write_text(f'default "";\n{descriptions}')
    objects = "".join(
        _LISTED.format(key=escape(content.key), etag=_etag(root / bucket / content.key), size_bytes=content.size_bytes)
        for content in contents
    )
    (root / "listing.xml").write_text(_LISTING.format(bucket=bucket, count=len(contents), objects=objects))


def _etag(path: Path) -> str:
    """As nginx makes it: who lists a bucket may then ask for just this version."""
    status = path.stat()
    return f"{int(status.st_mtime):x}-{status.st_size:x}"


def _description(bucket: str, content: Content) -> dict[str, str]:
    """As Google's JSON interface gives it."""
    crc32c = content.goog_hash.removeprefix("crc32c=")
    described = {"kind": "storage#object", "bucket": bucket, "name": content.key, "generation": "1"}
    return described | {"size": str(content.size_bytes), "crc32c": crc32c, "etag": "CAE="}


def _free_ports() -> tuple[int, int]:
    """Two ports that were free just now; nginx cannot be asked which it got."""
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _wait_until_up(server: subprocess.Popen[bytes], ports: Sequence[int], scratch: Path) -> None:
    end_s = time.monotonic() + START_S
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > end_s:
                    words = (scratch / "words").read_text() or "no words"
                    raise BenchError(f"nginx did not start: {words[-500:]}") from None
                time.sleep(0.02)

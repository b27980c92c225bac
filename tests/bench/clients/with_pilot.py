"""The pilot's own engine, called as storage/staging.py calls it: ``python -m tests.bench.clients.with_pilot ERRAND``.

Prints the CPU and wall seconds it took without start-up: in a pilot the interpreter and the store are there already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pilot.job.model import Checksum
from pilot.job.report import StoredFile
from pilot.runtime.stop import Stop
from pilot.storage.download import FetchedFile, fetch
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.parallel import in_parallel
from pilot.storage.store import Stores
from pilot.storage.transfer import open_regular
from pilot.storage.upload import send
from tests.bench.clients.errand import Errand, File, timed


def main() -> None:
    errand = Errand(sys.argv[1])
    options = StorageOptions(
        ca_path=errand.ca,
        s3_endpoint=errand.endpoint,
        s3_key_file=Path(errand.key_file),
        gcs_endpoint=errand.endpoint,
        metadata_url=None,
    )
    stores = open_stores(options)
    stores.for_url(_url(errand, errand.files[0]))
    one: Callable[[Stores, Errand, File, Stop], FetchedFile | StoredFile] = _fetch if errand.down else _send
    timed(lambda: in_parallel([partial(one, stores, errand, file) for file in errand.files], Stop()))
    stores.close()


def _url(errand: Errand, file: File) -> str:
    return f"{errand.scheme}://{errand.bucket}/{file.key}"


def _fetch(stores: Stores, errand: Errand, file: File, stop: Stop) -> FetchedFile:
    checksum = Checksum("adler32", file.adler32)
    target = Path(errand.path(file))
    return fetch(stores, _url(errand, file), target, stop, checksum=checksum, size_bytes=file.size_bytes)


def _send(stores: Stores, errand: Errand, file: File, stop: Stop) -> StoredFile:
    folder, _slash, name = errand.path(file).rpartition("/")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with open_regular(name, dir_fd=descriptor) as content:
            stored = send(stores, content, _url(errand, file), stop)
    finally:
        os.close(descriptor)
    if (stored.size_bytes, stored.adler32) != (file.size_bytes, file.adler32):
        raise SystemExit(f"{file.key} was stored as {stored}")
    return stored


if __name__ == "__main__":
    main()

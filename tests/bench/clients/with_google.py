"""google-cloud-storage, one file after another or with its transfer manager's processes.

    python -m tests.bench.clients.with_google default|processes ERRAND

Its threads are left out: measured, they are slower than one after another, at three times the CPU.
"""

import sys

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager

from tests.bench.clients.errand import Errand, timed

PROCESSES = 2
PART_BYTES = 64 << 20


def main() -> None:
    errand = Errand(sys.argv[2])
    client = storage.Client("bench", AnonymousCredentials(), client_options={"api_endpoint": errand.endpoint})  # type: ignore[no-untyped-call]
    bucket = client.bucket(errand.bucket)
    if sys.argv[1] == "processes":
        in_processes(errand, bucket)
        return
    timed(lambda: one_by_one(errand, bucket))


def one_by_one(errand: Errand, bucket: storage.Bucket) -> None:
    for file in errand.files:
        blob = bucket.blob(file.key)
        if errand.down:
            blob.download_to_filename(errand.path(file))
        else:
            blob.upload_from_filename(errand.path(file))


def in_processes(errand: Errand, bucket: storage.Bucket) -> None:
    how = {"worker_type": transfer_manager.PROCESS, "max_workers": PROCESSES}
    if errand.large:
        for file in errand.files:
            if errand.down:
                transfer_manager.download_chunks_concurrently(
                    bucket.blob(file.key), errand.path(file), chunk_size=PART_BYTES, **how
                )
            else:
                transfer_manager.upload_chunks_concurrently(
                    errand.path(file), bucket.blob(file.key), chunk_size=PART_BYTES, **how
                )
        return
    pairs = [(bucket.blob(file.key), errand.path(file)) for file in errand.files]
    if errand.down:
        transfer_manager.download_many(pairs, raise_exception=True, **how)
    else:
        transfer_manager.upload_many([(path, blob) for blob, path in pairs], raise_exception=True, **how)


if __name__ == "__main__":
    main()

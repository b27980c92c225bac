"""google-cloud-storage, one file after another: ``python -m tests.bench.clients.with_google ERRAND``.

Its transfer manager is left out: measured, its threads take three times the CPU, and its processes are no quicker on two cores.
"""

import sys

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.bench.clients.errand import Errand, timed


def main() -> None:
    errand = Errand(sys.argv[1])
    client = storage.Client("bench", AnonymousCredentials(), client_options={"api_endpoint": errand.endpoint})  # type: ignore[no-untyped-call]
    bucket = client.bucket(errand.bucket)
    timed(lambda: one_by_one(errand, bucket))


def one_by_one(errand: Errand, bucket: storage.Bucket) -> None:
    for file in errand.files:
        blob = bucket.blob(file.key)
        if errand.down:
            blob.download_to_filename(errand.path(file))
        else:
            blob.upload_from_filename(errand.path(file))


if __name__ == "__main__":
    main()

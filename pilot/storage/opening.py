"""From options to stores: which schemes there are, each store made (and its library imported) at its first use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pilot.storage.store import Store, Stores

GOOGLE_ENDPOINT = "https://storage.googleapis.com"
METADATA_URL = "http://metadata.google.internal"


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """What the stores are made of; paths of secrets, never secrets.

    ``ca_path``: CA bundle file or folder, None for the system's. ``gcs_key_file``: a service account's JSON key; without it
    Workload Identity at ``metadata_url``; with that None too, only public buckets can be read. ``local_roots``: folders
    below which ``file://`` URLs may be used by anyone who calls the engine with a URL of a job.
    """

    ca_path: str | None = None
    s3_endpoint: str = GOOGLE_ENDPOINT
    s3_region: str = "auto"
    s3_key_file: Path | None = None
    gcs_endpoint: str = GOOGLE_ENDPOINT
    gcs_key_file: Path | None = None
    metadata_url: str | None = METADATA_URL
    local_roots: tuple[Path, ...] = ()


def open_stores(options: StorageOptions) -> Stores:
    """Stores for ``gs``, ``s3``, ``https`` and ``file``, in this order of preference. Nothing is opened yet."""

    def gcs() -> Store:
        from pilot.storage.gcs import GcsOptions, GcsStore

        return GcsStore(GcsOptions(options.gcs_endpoint, options.ca_path, options.gcs_key_file, options.metadata_url))

    def s3() -> Store:
        from pilot.storage.s3 import S3Options, S3Store

        return S3Store(S3Options(options.s3_key_file, options.s3_endpoint, options.s3_region, options.ca_path))

    def web() -> Store:
        from pilot.storage.web import WebStore

        return WebStore(options.ca_path)

    def local() -> Store:
        from pilot.storage.local import LocalStore

        return LocalStore(options.local_roots)

    return Stores({"gs": gcs, "s3": s3, "https": web, "file": local})

"""obstore (Rust's object_store in Python), eight files at a time: ``python -m tests.bench.clients.with_obstore s3|gs ERRAND``."""

import asyncio
import json
import os
import sys
from pathlib import Path

from obstore import get_async, put_async
from obstore.store import GCSStore, S3Store

from tests.bench.clients.errand import Errand, File, timed

STREAMS = 8


def open_store(scheme: str, errand: Errand) -> S3Store | GCSStore:
    options = {"allow_http": True}
    if scheme == "gs":
        account = {"gcs_base_url": errand.endpoint, "disable_oauth": True}
        key = json.dumps(account | {"client_email": "", "private_key": "", "private_key_id": ""})
        return GCSStore(errand.bucket, service_account_key=key, client_options=options)
    return S3Store(
        errand.bucket,
        endpoint=errand.endpoint,
        region="auto",
        access_key_id="BENCHBENCH",
        secret_access_key="benchbenchbench",
        virtual_hosted_style_request=False,
        unsigned_payload=True,
        client_options=options,
    )


async def move_all(errand: Errand, store: S3Store | GCSStore) -> None:
    lanes = asyncio.Semaphore(STREAMS)

    async def move(file: File) -> None:
        async with lanes:
            if not errand.down:
                await put_async(store, file.key, Path(errand.path(file)))
                return
            got = await get_async(store, file.key)
            with open(errand.path(file), "wb") as target:
                if errand.large:
                    async for piece in got.stream(min_chunk_size=4 << 20):
                        target.write(piece)
                else:
                    target.write(await got.bytes_async())

    await asyncio.gather(*(move(file) for file in errand.files))


def main() -> None:
    errand = Errand(sys.argv[2])
    store = open_store(sys.argv[1], errand)
    timed(lambda: asyncio.run(move_all(errand, store)))
    os._exit(0)  # at the interpreter's own end its threads now and then abort the process


if __name__ == "__main__":
    main()

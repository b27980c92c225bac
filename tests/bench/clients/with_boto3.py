"""boto3 as it comes, or tuned by hand: ``python -m tests.bench.clients.with_boto3 default|tuned ERRAND``."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from tests.bench.clients.errand import Errand, File, timed

STREAMS = 4
PART_BYTES = 64 << 20


def main() -> None:
    tuned, errand = sys.argv[1] == "tuned", Errand(sys.argv[2])
    s3: dict[str, Any] = {"addressing_style": "path"}
    settings: dict[str, Any] = {"max_pool_connections": 4 * STREAMS}
    if tuned:
        s3["payload_signing_enabled"] = False
        settings |= {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    client = boto3.client(
        "s3",
        endpoint_url=errand.endpoint,
        region_name="auto",
        aws_access_key_id="BENCHBENCH",
        aws_secret_access_key="benchbenchbench",
        verify=errand.ca,
        config=Config(s3=s3, **settings),
    )
    transfer = TransferConfig()
    if tuned:
        size = {"multipart_threshold": PART_BYTES, "multipart_chunksize": PART_BYTES, "io_chunksize": 1 << 20}
        transfer = TransferConfig(max_concurrency=STREAMS, use_threads=errand.large, **size)

    def move(file: File) -> None:
        if errand.down:
            client.download_file(errand.bucket, file.key, errand.path(file), Config=transfer)
        else:
            client.upload_file(errand.path(file), errand.bucket, file.key, Config=transfer)

    def move_all() -> None:
        if tuned and not errand.large:
            with ThreadPoolExecutor(STREAMS) as pool:
                list(pool.map(move, errand.files))
        else:
            for file in errand.files:
                move(file)

    timed(move_all)


if __name__ == "__main__":
    main()

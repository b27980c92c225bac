"""The pilot's log bundle, made while it is sent: ``python -m tests.bench.clients.bundle_with_pilot ORDER``.

ORDER, in JSON: ``root`` of the job's folder, ``endpoint``, ``ca``, ``url`` of the bundle, ``secrets``: the job's, to be masked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pilot.logs.bundle import BundlePlan, write_bundle
from pilot.logs.upload import BUNDLE_HEADERS
from pilot.runtime.events import redactor
from pilot.runtime.secret import Secret
from pilot.runtime.stop import Stop
from pilot.runtime.workdir import JobFolder
from pilot.storage.opening import StorageOptions, open_stores
from pilot.storage.upload import StreamUpload
from tests.bench.clients.errand import timed


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text())
    stores = open_stores(StorageOptions(ca_path=order["ca"], gcs_endpoint=order["endpoint"], metadata_url=None))
    stores.for_url(order["url"])
    stop = Stop()

    def store() -> None:
        upload = StreamUpload(stores, order["url"], stop, BUNDLE_HEADERS)
        write_bundle(BundlePlan(JobFolder(Path(order["root"])), "PandaJob_1"), upload, stop.check)
        upload.finish()

    with redactor.knowing([Secret(text) for text in order["secrets"]]):
        timed(store)
    stores.close()


if __name__ == "__main__":
    main()

"""What a client is to move: read from a JSON file, so that every client gets the same and none spends time on options.

Imports little: it is part of what every Python client costs.
"""

import json
import time
from collections.abc import Callable


class File:
    """One object: its key, its path below the errand's folder, size and adler32."""

    __slots__ = ("adler32", "key", "size_bytes")

    def __init__(self, key: str, size_bytes: int, adler32: str) -> None:
        self.key, self.size_bytes, self.adler32 = key, size_bytes, adler32


class Errand:
    """``direction``: down or up. ``endpoint``: the store's URL. ``scheme``: gs or s3, where a client speaks both.

    ``target``: for the wire's own clients, ``file``, ``sums`` (of the file) or ``nothing``; ``streams``: how many at a time.
    """

    def __init__(self, path: str) -> None:
        with open(path) as file:
            given = json.load(file)
        self.direction: str = given["direction"]
        self.endpoint: str = given["endpoint"]
        self.ca: str = given["ca"]
        self.bucket: str = given["bucket"]
        self.folder: str = given["folder"]
        self.scheme: str = given.get("scheme", "")
        self.key_file: str = given.get("key_file", "")
        self.target: str = given.get("target", "file")
        self.streams: int = given.get("streams", 1)
        self.files = [File(*entry) for entry in given["files"]]

    @property
    def down(self) -> bool:
        return self.direction == "down"

    @property
    def large(self) -> bool:
        """True when there are few files, each of 64 MiB or more."""
        return min(file.size_bytes for file in self.files) >= 64 << 20

    def path(self, file: File) -> str:
        return f"{self.folder}/{file.key}"


def timed(move: Callable[[], object]) -> None:
    """Run it, and print what it took without the start of the process: wall and CPU seconds, as the last line."""
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    move()
    spent = {"wall_s": time.monotonic() - began_s, "cpu_s": time.process_time() - began_cpu_s}
    print(json.dumps(spent), flush=True)

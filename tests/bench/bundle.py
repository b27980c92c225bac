"""``make bench PARTS=bundle``: a job's logs, 200 MB of them, as one file in a store: by the pilot, and by tar and curl.

    python -m tests.bench.bundle [--rounds 3] [--quick] [--json FILE]

The pilot masks secrets, packs with ISA-L, and sends while it packs; the others pack with gzip and send what comes of it. One
sink takes all of it over TLS; every bundle is read again and compared with the files, each round. Nothing is asserted
about time.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shlex
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pilot.runtime.workdir import JobFolder
from tests.bench.authority import make_certificates
from tests.bench.measure import BenchError, Cost, Figure, Machine, in_rounds, measured, say, scratch_folder
from tests.bench.peers import environment
from tests.bench.sink import Sink, running_sink
from tests.bench.tables import table, write_part

BUCKET, KEY = "bench", "log.tgz"
TOTAL_BYTES = 200_000_000
QUICK_SCALE = 1 / 20
SECRETS = 30
LINES_TO_A_SECRET = 2000
# name below the job's folder: its share of the whole
TEXTS = {"logs/payload.stdout": 0.55, "logs/payload.stderr": 0.28, "logs/pilotlog.txt": 0.02}
SMALL_BYTES = 60_000
_WORDS = (
    *(
        "isr",
        "calibrate",
        "characterizeImage",
        "Detector",
        "exposure",
        "visit",
        "astrometry",
        "matched",
        "sources",
        "PSF",
    ),
    *(
        "photometry",
        "background",
        "scatter",
        "iteration",
        "RMS",
        "arcsec",
        "quantum",
        "lsst.ctrl.mpexec",
        "INFO",
        "WARNING",
    ),
)


@dataclass(frozen=True)
class Job:
    """A folder as a job leaves it. ``secrets`` stand in its texts, one in every LINES_TO_A_SECRET lines."""

    root: Path
    secrets: tuple[str, ...]
    files: Mapping[str, int]  # path below the root: bytes

    @property
    def size_bytes(self) -> int:
        return sum(self.files.values())


def make_job(root: Path, total_bytes: int) -> Job:
    """Logs as pipetask writes them, and small files in the work folder; the same in each run."""
    chance = random.Random(20)
    secrets = tuple(f"token-{chance.randbytes(20).hex()}" for _ in range(SECRETS))
    files: dict[str, int] = {}
    for name, share in TEXTS.items():
        files[name] = _write(root / name, int(total_bytes * share), chance, secrets)
    number = 0
    while (left_bytes := total_bytes - sum(files.values())) > 0:
        name = f"work/config/task-{number:04d}.py"
        files[name] = _write(root / name, min(SMALL_BYTES, left_bytes), chance, ())
        number += 1
    return Job(root, secrets, files)


def _write(path: Path, size_bytes: int, chance: random.Random, secrets: Sequence[str]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        written = line = 0
        while written < size_bytes:
            words = " ".join(chance.choice(_WORDS) for _ in range(9))
            at = f"2026-11-27T04:{line // 60 % 60:02d}:{line % 60:02d}.{chance.randrange(1000):03d}Z"
            text = f"{at} {words} {chance.random():.6f}\n"
            if secrets and line % LINES_TO_A_SECRET == LINES_TO_A_SECRET // 2:
                text = f"export ACCESS_TOKEN={chance.choice(secrets)}\n"
            written += file.write(text.encode()[: size_bytes - written])
            line += 1
    return written


@dataclass(frozen=True)
class Way:
    """One way to store a bundle. ``masks``: no secret may be in it."""

    name: str
    masks: bool
    script: str = ""  # for sh; {folder}, {packed}, {ca} and {url} are filled in
    secrets: bool = False


_CURL = "curl -q -sS --fail --cacert {ca}"
WAYS = (
    Way("pilot, 30 secrets", masks=True, secrets=True),
    Way("pilot, no secrets", masks=False),
    Way(
        "tar czf, then curl", masks=False, script=f"tar czf {{packed}} -C {{folder}} . && {_CURL} -T {{packed}} {{url}}"
    ),
    Way("tar, gzip -1, curl at once", masks=False, script=f"tar cf - -C {{folder}} . | gzip -1 | {_CURL} -T - {{url}}"),
)


@dataclass
class Stored:
    """What came of one way, over the rounds."""

    way: Way
    costs: list[Cost]
    stored_bytes: int = 0
    disk_bytes: int = 0


class Bundles:
    """Stores the job's bundle each way in turn, and looks at what the sink got."""

    def __init__(self, job: Job, sink: Sink, scratch: Path, ca: Path, given: Mapping[str, str]) -> None:
        self._job, self._sink, self._scratch, self._ca, self._environment = job, sink, scratch, ca, given
        self.found = {way.name: Stored(way, []) for way in WAYS}

    def run(self, name: str, _round: int) -> None:
        """Raises BenchError when a bundle is not what it should be."""
        stored = self.found[name]
        packed = self._scratch / "packed.tgz"
        self._sink.forget()
        stored.costs.append(measured(self._command(stored.way, packed), self._environment, self._scratch))
        if packed.exists():
            stored.disk_bytes = packed.stat().st_size
            packed.unlink()
        content = self._sink.content(f"{BUCKET}/{KEY}")
        stored.stored_bytes = len(content)
        check_bundle(content, self._job, stored.way)

    def _command(self, way: Way, packed: Path) -> list[str]:
        if way.script:
            places = {
                "folder": self._job.root,
                "packed": packed,
                "ca": self._ca,
                "url": f"{self._sink.tls_url}/{BUCKET}/{KEY}",
            }
            return ["sh", "-c", way.script.format(**{name: shlex.quote(str(place)) for name, place in places.items()})]
        order = self._scratch / "order.json"
        given = {"root": str(self._job.root), "endpoint": self._sink.tls_url, "ca": str(self._ca)}
        secrets = self._job.secrets if way.secrets else ()
        order.write_text(json.dumps(given | {"url": f"gs://{BUCKET}/{KEY}", "secrets": secrets}))
        return [sys.executable, "-m", "tests.bench.clients.bundle_with_pilot", str(order)]


def check_bundle(content: bytes, job: Job, way: Way) -> None:
    """Every file is in it once, whole and, but for masked secrets, as it is. Raises BenchError."""
    left = dict(job.files)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as bundle:
        for member in bundle:
            if not member.isfile():
                continue
            path = next((name for name in left if name.endswith(member.name.rpartition("/")[2])), "")
            if left.pop(path, None) != member.size:
                raise BenchError(f"{way.name}: {member.name} is no file of the job, or not whole")
            _check_text(bundle.extractfile(member), job.root / path, job, way)
    if left:
        raise BenchError(f"{way.name}: {len(left)} files are missing, {next(iter(left))} among them")


def _check_text(found: object, path: Path, job: Job, way: Way) -> None:
    text, expected = found.read(), path.read_bytes()  # type: ignore[attr-defined]
    if not way.masks:
        if text != expected:
            raise BenchError(f"{way.name}: {path.name} is changed")
        return
    if b"token-" in text:
        raise BenchError(f"{way.name}: a secret is in {path.name}")
    for secret in job.secrets:
        expected = expected.replace(secret.encode(), b"*" * len(secret))
    if text != expected:
        raise BenchError(f"{way.name}: more than the secrets is changed in {path.name}")


HEAD = ("way", "secrets masked", "s", "MB/s", "CPU s", "RSS MB", "stored MB", "on disk MB", "to tar czf")


def tables(job: Job, found: Sequence[Stored], machine: Machine) -> str:
    """In Markdown."""
    usual = next(stored for stored in found if stored.way.script)
    usual_s = Figure.of(cost.wall_s for cost in usual.costs).median
    rows = [_row(stored, job, usual_s) for stored in found]
    return (
        f"{table(HEAD, rows)}\n\n{machine.sentence()} {len(job.files)} files, {job.size_bytes / 1e6:.0f} MB, made up as pipetask "
        f"writes; over TLS into one sink; whole processes. Ratios of size are this text's."
    )


def _row(stored: Stored, job: Job, usual_s: float) -> tuple[str, ...]:
    wall = Figure.of(cost.wall_s for cost in stored.costs)
    return (
        stored.way.name,
        "yes" if stored.way.masks else "no",
        wall.text(2),
        f"{job.size_bytes / 1e6 / wall.median:.0f}",
        Figure.of(cost.cpu_s for cost in stored.costs).text(2),
        f"{max(cost.max_rss_bytes for cost in stored.costs) / 1e6:.0f}",
        f"{stored.stored_bytes / 1e6:.1f}",
        f"{stored.disk_bytes / 1e6:.1f}",
        f"{usual_s / wall.median:.1f} times as quick",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, a twentieth of the logs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    machine = Machine()
    with scratch_folder() as scratch:
        certificates = make_certificates(scratch)
        (scratch / "home").mkdir()
        job = make_job(scratch / "job", int(TOTAL_BYTES * QUICK_SCALE) if options.quick else TOTAL_BYTES)
        assert JobFolder(job.root).stdout == job.root / "logs/payload.stdout"
        with running_sink(certificates.certificate, certificates.key, keep=True) as sink:
            bundles = Bundles(job, sink, scratch, certificates.ca, environment(certificates, scratch / "home"))
            say(f"a bundle of {job.size_bytes / 1e6:.0f} MB")
            in_rounds(list(bundles.found), 1 if options.quick else options.rounds, bundles.run)
    found = list(bundles.found.values())
    record = {"machine": machine.record(), "bytes": job.size_bytes, "files": len(job.files)}
    ways = {
        one.way.name: {"costs": [asdict(cost) for cost in one.costs], "stored_bytes": one.stored_bytes} for one in found
    }
    write_part(options.json, "bundle", record | {"ways": ways}, tables(job, found, machine))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What payloads run in: the rungs of isolation, and containers, as far as this node has them."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from pilot.check.finding import Finding, note, ok, unknown, warning, wrong
from pilot.job.errors import ExitCode, PayloadError
from pilot.payload import apptainer, programs
from pilot.payload.image import Image, ImageCache
from pilot.payload.programs import DEFAULT_PATH
from pilot.payload.readiness import Readiness
from pilot.payload.rungs import Level, Plain
from pilot.payload.runtime import PayloadConfig
from pilot.runtime.stop import Stop, Stopped
from pilot.storage.store import StoreError, Stores
from pilot.storage.urls import shown

VERSION_TIMEOUT_S = 2.0
HIGHEST = "docs/isolation.md says what each rung defends"


def isolation(config: PayloadConfig, volume: Path) -> list[Finding]:
    """On which rung payloads would run here, and what is missing for each higher one."""
    readiness = Readiness(config.demands)
    try:
        refusal, plain = readiness.refusal(volume), readiness.plain(volume)
    except PayloadError as error:
        return [wrong("isolation", error.diagnosis.detail, "name another user with --payload-user", ExitCode.USAGE)]
    missing = no_container(config)
    words = f"without a container on {plain}, with one on {'A' if not missing else 'none'}; {_named(config.required)} is required"
    if refusal:
        detail, _, remedy = refusal.rpartition(". ")
        found = [wrong("isolation", detail, remedy, ExitCode.GENERAL)]
    else:
        found = [ok("isolation", f"payloads run {words}")]
    return [*found, _rung_a(missing), *_rungs_below(plain)]


def _named(level: Level) -> str:
    return "none" if level is Level.D else level.name


def _rung_a(missing: str) -> Finding:
    return (
        note("rung A", f"not to be had: {missing}", HIGHEST) if missing else ok("rung A", "containers can be started")
    )


def _rungs_below(plain: Plain) -> list[Finding]:
    found = []
    for level in (Level.B, Level.C):
        if level in plain.lacks:
            detail, _, remedy = plain.lacks[level].rpartition(" (")
            found.append(note(f"rung {level.name}", f"not to be had: {detail}", remedy.rstrip(")")))
        elif level is plain.level:
            found.append(ok(f"rung {level.name}", f"{plain}, for payloads without a container"))
    return found


def no_container(config: PayloadConfig) -> str:
    """What keeps containers from being started on this node, as far as is known without an image; empty: nothing."""
    if config.runtime == "plain":
        return "--runtime plain starts none"
    return programs.lacking()


def container(config: PayloadConfig, stores: Stores, stop: Stop) -> list[Finding]:
    """Runtime and image; with an image that lies here, a container is started from it."""
    image = config.image or config.queue_image
    if config.runtime == "plain":
        return [ok("container runtime", "not used (--runtime plain)")]
    runtime, missing = programs.find_runtime(), programs.lacking()
    if runtime is None or missing:
        remedy = "install Apptainer (scripts/install-apptainer)" if runtime is None else f"{missing}; {HIGHEST}"
        if image or config.runtime == "apptainer":
            return [wrong("container runtime", f"{missing}, and payloads are to run in containers", remedy)]
        return [warning("container runtime", f"{missing}: jobs that name an image will fail (1372 or 1345)", remedy)]
    found = [ok("container runtime", f"{_version(runtime)} at {runtime}; user namespaces work")]
    if image is None:
        if config.runtime == "apptainer":
            remedy = "name one with --image, or image in the queue's settings"
            return [
                *found,
                warning("image", "a container is demanded, and only jobs that name an image have one", remedy),
            ]
        return [*found, ok("image", "none is named here; jobs may name their own")]
    if "://" in image and not image.startswith("file://"):
        return [*found, _remote(image, stores, stop)]
    return [*found, *_local(config, image, stores, runtime, stop)]


def _version(runtime: Path) -> str:
    try:
        done = subprocess.run(
            [runtime, "--version"], env={"PATH": DEFAULT_PATH}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=VERSION_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return f"{runtime.name} of an unknown version"
    return " ".join(done.stdout.split())[:80] or f"{runtime.name} of an unknown version"


def _remote(url: str, stores: Stores, stop: Stop) -> Finding:
    """There, and how large; fetching it is a run's affair."""
    try:
        size_bytes = stores.for_url(url).stat(url, stop).size_bytes
    except StoreError as error:
        return wrong("image", str(error), "correct --image (or the queue's), or let the pilot's account read it")
    size = "of a size the store does not tell" if size_bytes is None else f"of {size_bytes >> 20} MB"
    return ok("image", f"{shown(url)} is there, {size}; the first job fetches it")


def _local(config: PayloadConfig, name: str, stores: Stores, runtime: Path, stop: Stop) -> list[Finding]:
    try:
        image = ImageCache(config.image_cache, stores, None, config.image_key).get(name, stop)
    except PayloadError as error:
        return [wrong("image", error.diagnosis.detail, "correct --image (or the queue's), or the file")]
    except Stopped:
        return [unknown("image", "no time was left")]
    kind = "a folder" if image.is_folder else "a SIF"
    signed = ", signed as demanded" if config.image_key else ""
    return [ok("image", f"{name} is {kind}{signed}"), _started(runtime, image, stop)]


def _started(runtime: Path, image: Image, stop: Stop) -> Finding:
    try:
        with tempfile.TemporaryDirectory(prefix="pilot-check-") as scratch:
            mode = apptainer.probe(runtime, image.path, Path(scratch), stop)
    except PayloadError as error:
        return wrong(
            "container", error.diagnosis.detail, "payloads in this image cannot be started here; docs/isolation.md"
        )
    except Stopped:
        return warning("container", "one is not started within the check's time", "try a folder instead of a SIF")
    except OSError as error:
        return unknown("container", f"no scratch folder: {error.strerror}")
    finally:
        image.release()
    return ok("container", f"one was started from it ({mode})")

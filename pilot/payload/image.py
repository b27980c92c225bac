"""Container images: a local file or folder as it is, a remote one fetched once per node into a cache.

A cached image is complete or absent: it is fetched under a temporary name, verified, and renamed. Pilots of one node share
the folder; a lock per image makes one of them fetch while the others wait, and a shared lock held for the run keeps an
image that is in use from being removed. Locks die with their holder. Above a size limit those not used for longest go.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pilot.job.errors import PayloadError, PilotError
from pilot.job.model import Checksum
from pilot.payload.programs import DEFAULT_PATH
from pilot.runtime.stop import Stop
from pilot.storage.download import fetch
from pilot.storage.store import AccessRefused, ChecksumMismatch, NoSpace, NotFound, SizeMismatch, StoreError, Stores

logger = logging.getLogger("pilot.image")

SIF_MAGIC = b"SIF_MAGIC\0"
SIF_MAGIC_OFFSET = 32
MAX_IMAGE_BYTES = 64 << 30
MAX_CHECKSUM_BYTES = 4096
LOCK_PAUSE_S = 0.1
UNPACK_TIMEOUT_S = 1800
VERIFY_TIMEOUT_S = 600
REMOTE_SCHEMES = ("gs", "s3", "https", "http")
_SHA256 = re.compile(rb"\b[0-9a-fA-F]{64}\b")
_SQUASHFS_MAGIC = b"hsqs"


@dataclass(frozen=True, slots=True)
class Image:
    """An image on this node. ``is_folder``: unpacked; else a SIF. ``lock``: held while in use; None for one not cached."""

    path: Path
    is_folder: bool
    lock: int | None = None

    def release(self) -> None:
        """Give up the shared lock; the image may then be removed by whoever keeps the cache small."""
        if self.lock is not None:
            os.close(self.lock)


class ImageCache:
    """The images of this node. What a URL stands for is looked up once in a pilot's life."""

    def __init__(
        self, folder: Path, stores: Stores, limit_bytes: int | None = None, public_key: Path | None = None
    ) -> None:
        """``limit_bytes``: what the folder may hold; None: any amount. ``public_key``: all images must be signed with its
        private one (PEM)."""
        self._folder = folder
        self._stores = stores
        self._limit_bytes = limit_bytes
        self._public_key = public_key
        self._known: dict[str, Path] = {}
        self._checksums: dict[str, Checksum] = {}

    def get(self, name: str, stop: Stop, checksum: Checksum | None = None) -> Image:
        """The image of this name: an absolute path, or a gs, s3 or https URL. Raises PayloadError 1360 or 1309; Stopped."""
        scheme = urlsplit(name).scheme.lower() if "://" in name else ""
        if scheme == "" or scheme == "file":
            return self._local(Path(name.removeprefix("file://")))
        if scheme not in REMOTE_SCHEMES:
            raise PayloadError(
                PilotError.IMAGE_NOT_FOUND,
                f"{name[:200]}: images come as a path or a gs, s3 or https URL of a SIF file; convert it beforehand "
                f"(apptainer build image.sif {name[:80]})",
            )
        try:
            return self._remote(name, stop, checksum)
        except OSError as error:
            text = f"the image cache {self._folder} cannot be used: {error.strerror}"
            raise PayloadError(PilotError.IMAGE_NOT_FOUND, text) from error

    def checksum(self, name: str) -> Checksum | None:
        """Of the image of this name, as published or told by its store; None for a file of the node, or one not asked for."""
        return self._checksums.get(name)

    def unpacked(self, image: Image, stop: Stop) -> Image:
        """The same image as a folder, unpacked once per node; the given one stays in use. Raises PayloadError 1309 or 1098."""
        status = image.path.stat()
        # a cached image's name stands for its content; another's may be replaced under its name
        key = image.path.stem if image.lock is not None else f"{image.path.name}-{status.st_size}-{status.st_mtime_ns}"
        key += ".d"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        target = self._folder / key
        return Image(target, is_folder=True, lock=self._complete(target, lambda: _unpack(image.path, target), stop))

    def _complete(self, path: Path, make: Callable[[], None], stop: Stop) -> int:
        """As the function of this name; what was made counts against the limit, and the oldest make room for it."""
        made: list[Path] = []

        def make_and_note() -> None:
            make()
            made.append(path)

        lock = _complete(path, make_and_note, stop)
        if made:
            make_room(self._folder, self._limit_bytes)
        return lock

    def _local(self, path: Path) -> Image:
        if path.is_dir():
            if self._public_key is not None:
                text = f"{path}: a folder bears no signature, and --image-key demands one; name the signed SIF file"
                raise PayloadError(PilotError.CONTAINER_IMAGE_MOUNT_FAILURE, text)
            return Image(path, is_folder=True)
        require_sif(path)
        self._require_signature(path, path.name)
        return Image(path, is_folder=False)

    def _remote(self, url: str, stop: Stop, checksum: Checksum | None) -> Image:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        wanted = checksum or self._published_checksum(url, stop)
        if wanted is not None:
            self._checksums[url] = wanted
        path = self._known.get(url) or self._folder / f"{self._key(url, wanted, stop)}.sif"
        lock = self._complete(path, lambda: self._fetch(url, path, wanted, stop), stop)
        self._known[url] = path
        return Image(path, is_folder=False, lock=lock)

    def _published_checksum(self, url: str, stop: Stop) -> Checksum | None:
        """What ``<url>.sha256`` says, when there is such an object; asked once."""
        if url in self._known:
            return None
        target = self._folder / f".{hashlib.sha256(url.encode()).hexdigest()}.{os.getpid()}.sha256"
        try:
            fetch(self._stores, f"{url}.sha256", target, stop, max_bytes=MAX_CHECKSUM_BYTES)
            found = _SHA256.search(target.read_bytes())
        except (NotFound, AccessRefused):
            return None  # a bucket without the right to list answers 403 for what is not there
        except StoreError as error:
            raise _image_error(url, error) from error
        finally:
            target.unlink(missing_ok=True)
        if found is None:
            raise PayloadError(PilotError.CONTAINER_IMAGE_MOUNT_FAILURE, f"{url}.sha256 holds no SHA-256 sum")
        return Checksum("sha256", found.group().decode().lower())

    def _key(self, url: str, wanted: Checksum | None, stop: Stop) -> str:
        """What names the content: its SHA-256, else the URL with the size and checksums its store has now."""
        signer = f" {hashlib.sha256(self._key_text()).hexdigest()}" if self._public_key else ""
        if wanted is not None:
            return hashlib.sha256(f"{wanted}{signer}".encode()).hexdigest()
        stop.check()
        try:
            now = self._stores.for_url(url).stat(url, stop)
        except StoreError as error:
            raise _image_error(url, error) from error
        for checksum in now.checksums[:1]:
            self._checksums[url] = checksum
        facts = [url, str(now.size_bytes), *sorted(str(checksum) for checksum in now.checksums)]
        return hashlib.sha256("\n".join([*facts, *([signer] if signer else [])]).encode()).hexdigest()

    def _key_text(self) -> bytes:
        try:
            return self._public_key.read_bytes() if self._public_key else b""
        except OSError as error:
            text = f"--image-key {self._public_key}: {error.strerror}"
            raise PayloadError(PilotError.CONTAINER_IMAGE_MOUNT_FAILURE, text) from error

    def _require_signature(self, path: Path, name: str) -> None:
        """Raise PayloadError 1309 unless the image is signed as the settings demand. The runtime never asks by itself."""
        if self._public_key is not None:
            self._key_text()
            words = _verify(path, self._public_key)
            if words:
                text = f"{name} is not signed with the key of {self._public_key}: {words}"
                raise PayloadError(PilotError.CONTAINER_IMAGE_MOUNT_FAILURE, text[:400])

    def _fetch(self, url: str, path: Path, wanted: Checksum | None, stop: Stop) -> None:
        part = path.with_suffix(f".part.{os.getpid()}")
        logger.info("fetching image %s", url)
        try:
            fetched = fetch(self._stores, url, part, stop, checksum=wanted, max_bytes=MAX_IMAGE_BYTES)
            require_sif(part)
            self._require_signature(part, url)
            _sync(part)
            part.chmod(0o644)
            part.rename(path)
        except StoreError as error:
            raise _image_error(url, error) from error
        finally:
            part.unlink(missing_ok=True)
        logger.info("image %s: %d MB%s", url, fetched.size_bytes >> 20, ", checksum agrees" if wanted else "")


def _complete(path: Path, make: Callable[[], None], stop: Stop) -> int:
    """A shared lock on ``path``, which exists; ``make`` makes it under an exclusive one. Raises what ``make`` does; Stopped.

    An image that is there is never locked exclusively: others of the node may be using it for hours.
    """
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(descriptor, fcntl.LOCK_SH, stop)
        while not path.exists():
            _lock(descriptor, fcntl.LOCK_UN, stop)
            _lock(descriptor, fcntl.LOCK_EX, stop)
            if not path.exists():
                make()
            _lock(descriptor, fcntl.LOCK_SH, stop)  # not atomic: somebody may have removed it in between
        os.utime(path)  # the time of last use, for whoever keeps the cache small
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, kind: int, stop: Stop) -> None:
    """Wait for a lock as long as the scope lasts."""
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            stop.wait(LOCK_PAUSE_S)
            stop.check()


def require_sif(path: Path) -> None:
    """Raise PayloadError 1360 when there is no such file, 1309 when it is not a SIF image."""
    try:
        with path.open("rb") as file:
            start = file.read(SIF_MAGIC_OFFSET + len(SIF_MAGIC))
    except OSError as error:
        raise PayloadError(PilotError.IMAGE_NOT_FOUND, f"{path}: {error.strerror}") from error
    if start[SIF_MAGIC_OFFSET:] != SIF_MAGIC:
        raise PayloadError(PilotError.CONTAINER_IMAGE_MOUNT_FAILURE, f"{path.name} is not a SIF image")


def squashfs_offset(path: Path) -> int:
    """Where the file system lies in a SIF: the partition descriptor that says so. Raises PayloadError 1309.

    SIF: a header of 128 bytes whose 64-bit numbers (from byte 64) give place and number of the descriptors; a descriptor
    has 585 bytes: type, used, three ids, then offset and length of its data.
    """
    partition, header_numbers, descriptor_bytes = 0x4004, 64, 585
    with path.open("rb") as file:
        file.seek(header_numbers)
        raw = file.read(64)
        numbers = struct.unpack("<8q", raw) if len(raw) == 64 else (0,) * 8
        total, descriptors_at = numbers[3], max(0, numbers[4])
        for index in range(min(max(total, 0), 1024)):
            file.seek(descriptors_at + index * descriptor_bytes)
            raw = file.read(33)
            if len(raw) < 33:
                break
            kind, used, _id, _group, _link, offset, _length = struct.unpack("<i?IIIqq", raw)
            if used and kind == partition and offset > 0:
                file.seek(offset)
                if file.read(4) == _SQUASHFS_MAGIC:
                    return int(offset)
    raise PayloadError(PilotError.CONTAINER_IMAGE_MOUNT_FAILURE, f"{path.name} holds no squashfs partition")


def _unpack(sif: Path, target: Path) -> None:
    """Unpack under a temporary name, then rename. As an ordinary user devices and owners are dropped, harmlessly."""
    unsquashfs = shutil.which("unsquashfs", path=DEFAULT_PATH)
    if unsquashfs is None:
        raise PayloadError(
            PilotError.CONTAINER_IMAGE_MOUNT_FAILURE,
            f"{sif.name} cannot be mounted on this node, and unsquashfs is missing to unpack it (squashfs-tools)",
        )
    part = target.with_name(f"{target.name}.tmp.{os.getpid()}")
    _remove_folder(part)
    argv = [
        unsquashfs,
        "-no-progress",
        "-quiet",
        "-no-xattrs",
        "-offset",
        str(squashfs_offset(sif)),
        "-dest",
        str(part),
    ]
    logger.info("unpacking image %s", sif.name)
    try:
        done = subprocess.run(
            [*argv, str(sif)],
            env={"PATH": DEFAULT_PATH},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=UNPACK_TIMEOUT_S,
            check=False,
        )
        # 2: everything was unpacked but for owners or devices, which only root may make
        if done.returncode not in (0, 2) or not (part / "bin").exists():
            words = done.stderr.decode("utf-8", "replace").strip().splitlines()
            text = f"{sif.name} cannot be unpacked: {words[-1] if words else f'exit code {done.returncode}'}"
            raise PayloadError(PilotError.CONTAINER_IMAGE_MOUNT_FAILURE, text[:400])
        _sync(part)
        part.rename(target)
    except subprocess.TimeoutExpired as error:
        text = f"unpacking {sif.name} took more than {UNPACK_TIMEOUT_S} s"
        raise PayloadError(PilotError.CONTAINER_IMAGE_MOUNT_FAILURE, text) from error
    finally:
        _remove_folder(part)


def _verify(sif: Path, public_key: Path) -> str:
    """Nothing when the signature holds; else what the runtime says of it."""
    runtime = next(
        (found for name in ("apptainer", "singularity") if (found := shutil.which(name, path=DEFAULT_PATH))), None
    )
    if runtime is None:
        return "neither apptainer nor singularity is here to verify it"
    argv = [runtime, "verify", "--key", str(public_key), str(sif)]
    environment = {"PATH": DEFAULT_PATH, "HOME": str(sif.parent), "APPTAINER_CONFIGDIR": str(sif.parent / ".apptainer")}
    try:
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=VERIFY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return "".join(c for c in lines[-1] if c.isprintable()) if lines else f"exit code {done.returncode}"


def make_room(folder: Path, limit_bytes: int | None) -> list[Path]:
    """Remove the images not used for longest until the rest fits, and what killed pilots left half made. Returns what went.

    One in use is locked by its users and stays, whatever the limit.
    """
    for left in [*folder.glob("*.part.*"), *folder.glob("*.tmp.*"), *folder.glob("*.gone")]:
        whole = left.name.partition(".part.")[0] + ".sif" if ".part." in left.name else left.name.partition(".tmp.")[0]
        _remove_unused(left, folder / whole.removesuffix(".gone"))
    if limit_bytes is None:
        return []
    images = sorted((path for path in folder.iterdir() if path.suffix in (".sif", ".d")), key=_last_use_s)
    sizes = {path: _size_bytes(path) for path in images}
    total_bytes, gone = sum(sizes.values()), []
    for path in images:
        if total_bytes <= limit_bytes:
            break
        if _remove_unused(path, path):
            logger.info("image %s makes room: %d MB", path.name, sizes[path] >> 20)
            total_bytes -= sizes[path]
            gone.append(path)
    return gone


def _remove_unused(path: Path, image: Path) -> bool:
    """Remove it unless somebody uses or makes ``image``. The lock's file stays: others may be waiting on it."""
    try:
        descriptor = os.open(f"{image}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = path if path.suffix == ".gone" else path.with_name(f"{path.name}.gone")
        path.rename(gone)  # a folder half removed must not bear an image's name
        if gone.is_dir():
            _remove_folder(gone)
        else:
            gone.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _last_use_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size_bytes(path: Path) -> int:
    """Bytes on disk."""
    paths = [path, *(Path(where, name) for where, _folders, files in os.walk(path) for name in files)]
    total = 0
    for one in paths:
        try:
            total += one.lstat().st_blocks * 512
        except OSError:
            continue
    return total


def _sync(path: Path) -> None:
    """Bring the file system of ``path`` to the disk: a name must never stand for less than the whole image."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def _remove_folder(folder: Path) -> None:
    """Remove an unpacked image; images hold folders that even their owner may not write to."""
    for path, _folders, _files in os.walk(folder):
        try:
            Path(path).chmod(0o700)
        except OSError:
            continue
    shutil.rmtree(folder, ignore_errors=True)


def _image_error(url: str, error: StoreError) -> PayloadError:
    if isinstance(error, NoSpace):
        return PayloadError(PilotError.NO_LOCAL_SPACE, f"image {url}: {error}")
    if isinstance(error, ChecksumMismatch | SizeMismatch):
        return PayloadError(PilotError.CONTAINER_IMAGE_MOUNT_FAILURE, f"image {url}: {error}")
    return PayloadError(PilotError.IMAGE_NOT_FOUND, f"image {url}: {error}")

"""From a Docker archive to a job in it: made and published as operators do, fetched by a pilot that asks for signatures."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from pilot.sandbox.cric_server import DATA_BUCKET, TRANSFORM_BUCKET
from pilot.sandbox.world import World
from tests.integration.pilot.pilotrun import HASTY, QUEUE, Pilots, log_url, public, submit

ROOT = Path(__file__).parents[3]
MAKE = ROOT / "scripts/make-payload-image"
PUBLISH = Path(sys.executable).with_name("pilot-publish")
URL = f"gs://{TRANSFORM_BUCKET}/stack/w_2026_48.sif"


@dataclass(frozen=True)
class Keys:
    private: Path
    public: Path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    keys = Keys(folder / "image-key.pem", folder / "image-key.pub")
    run("openssl", "genrsa", "-out", keys.private, "2048")
    run("openssl", "rsa", "-in", keys.private, "-pubout", "-out", keys.public)
    return keys


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``docker save`` writes of an image that holds busybox and sets a variable."""
    folder = tmp_path_factory.mktemp("archive")
    run(ROOT / "scripts/make-test-image", folder / "busybox.sif", folder / "root")
    layer = folder / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        tar.add(folder / "root", ".")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "STACK=w_2026_48"], "Entrypoint": ["/bin/false"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": ["stack:w_2026_48"], "Layers": ["layer.tar"]}]
    with tarfile.open(folder / "stack.tar", "w") as tar:
        tar.add(layer, "layer.tar")
        for name, document in (("config.json", config), ("manifest.json", manifest)):
            content = json.dumps(document).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return folder / "stack.tar"


@pytest.fixture
def bucket(world: World) -> Iterator[None]:
    """The containers bucket is as it was afterwards."""
    yield
    for name in objects(world):
        if name.startswith("stack/"):
            with requests.Session() as session:
                session.trust_env = False
                url = f"{world.gcs_url}/storage/v1/b/{TRANSFORM_BUCKET}/o/{name.replace('/', '%2F')}"
                assert session.delete(url, verify=str(world.ca_path), timeout=10).ok


def objects(world: World) -> list[str]:
    listing = public(world, f"{world.gcs_url}/storage/v1/b/{TRANSFORM_BUCKET}/o").json()
    return [item["name"] for item in listing.get("items", ())]


def run(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 or not check, done.stderr
    return done


def publish(world: World, image: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return run(PUBLISH, image, url, "--config", world.state_dir / "pilot.yaml", *options, check=False)


def test_an_image_made_signed_and_published_runs_where_the_signature_is_demanded(
    world: World, pilots: Pilots, archive: Path, keys: Keys, bucket: None, tmp_path: Path
) -> None:
    sif = tmp_path / "stack.sif"
    options: list[str | Path] = [
        "--output",
        sif,
        "--key",
        keys.private,
        "--to",
        URL,
        "--config",
        world.state_dir / "pilot.yaml",
    ]
    made, published = run(MAKE, archive, *options).stdout.splitlines()
    assert made == str(sif)
    assert published == f"{hashlib.sha256(sif.read_bytes()).hexdigest()}  {URL}"
    beside = public(world, f"{world.gcs_url}/{TRANSFORM_BUCKET}/stack/w_2026_48.sif.sha256")
    assert beside.text == f"{hashlib.sha256(sif.read_bytes()).hexdigest()}  w_2026_48.sif\n"

    panda_id = submit(world, "echo $STACK; ls /srv | head -1")
    config = pilots.settings(queues={QUEUE: {"image": URL}}, image_key=str(keys.public), require_isolation="A")
    end = pilots.run(*HASTY, config=config)
    told = end.jobs[panda_id]
    assert (told["state"], told["isolation"]) == ("finished", "A:apptainer"), end.stderr
    assert public(world, log_url(world, panda_id, "payload.stdout")).text.startswith("w_2026_48\n")
    assert "checksum agrees" in end.stderr
    assert list(tmp_path.glob(".making*")) == []


def test_an_image_without_the_signature_is_not_run(
    world: World, pilots: Pilots, archive: Path, keys: Keys, bucket: None, tmp_path: Path
) -> None:
    sif = tmp_path / "stack.sif"
    run(MAKE, archive, "--output", sif)
    assert publish(world, sif, URL).returncode == 0
    panda_id = submit(world, "true")
    end = pilots.run(*HASTY, config=pilots.settings(queues={QUEUE: {"image": URL}}, image_key=str(keys.public)))
    assert (end.jobs[panda_id]["state"], end.jobs[panda_id]["pilot_error_code"]) == ("failed", 1309)
    assert "is not signed with the key" in end.jobs[panda_id]["pilot_error_diag"]


def test_a_published_name_keeps_its_image_until_told_otherwise(world: World, bucket: None, tmp_path: Path) -> None:
    first, second = tmp_path / "first.sif", tmp_path / "second.sif"
    for sif in (first, second):
        run(ROOT / "scripts/make-test-image", sif)
    assert first.read_bytes() != second.read_bytes()  # the date and the id inside
    assert publish(world, first, URL).returncode == 0
    again = publish(world, first, URL)
    assert (again.returncode, again.stdout.split()[1]) == (0, URL)

    refused = publish(world, second, URL)
    assert refused.returncode == 65
    (sentence,) = refused.stderr.splitlines()
    assert sentence.startswith(f"pilot-publish: {URL} is another image already")
    assert stored(world) == first.read_bytes()

    assert publish(world, second, URL, "--replace").returncode == 0
    assert stored(world) == second.read_bytes()
    told = public(world, f"{world.gcs_url}/{TRANSFORM_BUCKET}/stack/w_2026_48.sif.sha256").text
    assert told.split()[0] == hashlib.sha256(second.read_bytes()).hexdigest()


def stored(world: World) -> bytes:
    return public(world, f"{world.gcs_url}/{TRANSFORM_BUCKET}/stack/w_2026_48.sif").content


def test_an_s3_bucket_takes_images_too(world: World, busybox: tuple[Path, Path]) -> None:
    done = publish(world, busybox[0], f"s3://{DATA_BUCKET}/images/busybox.sif")
    assert done.returncode == 0, done.stderr
    kept = world.state_dir / "s3" / DATA_BUCKET / "images"
    assert (kept / "busybox.sif").read_bytes() == busybox[0].read_bytes()
    assert (kept / "busybox.sif.sha256").read_text() == done.stdout.replace(f"s3://{DATA_BUCKET}/images/", "")


@pytest.mark.parametrize(
    ("image", "url", "code", "words"),
    [
        ("/etc/passwd", URL, 67, "passwd is not a SIF image"),
        ("/no/such.sif", URL, 67, "/no/such.sif: No such file or directory"),
        ("busybox", "gs://no-such-bucket/x.sif", 65, "not published:"),
        ("busybox", "ftp://example.org/x.sif", 2, "there is no store for ftp://example.org/x.sif"),
    ],
)
def test_what_goes_wrong_is_said_in_one_sentence(
    world: World, busybox: tuple[Path, Path], image: str, url: str, code: int, words: str
) -> None:
    done = publish(world, busybox[0] if image == "busybox" else Path(image), url)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_without_a_key_that_may_write_it_is_68(world: World, busybox: tuple[Path, Path], tmp_path: Path) -> None:
    done = publish(world, busybox[0], URL, "--google-application-credentials", str(tmp_path / "absent.json"))
    assert done.returncode == 68, done.stderr
    assert "absent.json" in done.stderr


@pytest.mark.parametrize(
    ("made_of", "words"),
    [
        ("nothing.tar", "there is no"),
        ("text", "is no image archive"),
        ("folder", "holds no recipe"),
    ],
)
def test_a_source_that_is_none_is_named(tmp_path: Path, made_of: str, words: str) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "folder").mkdir()
    done = run(MAKE, tmp_path / made_of, "--output", tmp_path / "x.sif", check=False)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert words in sentence and made_of in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "text"]


def test_a_key_that_cannot_sign_leaves_no_image(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    done = run(MAKE, archive, "--output", tmp_path / "x.sif", "--key", tmp_path / "key.pem", check=False)
    assert done.returncode == 1
    assert "cannot be signed" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]

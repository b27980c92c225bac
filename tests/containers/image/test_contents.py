"""What is in the image and what is not; how it starts, and what it leaves with."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilot import __version__
from tests.containers.image.podman import PAYLOAD_UID, PILOT_UID, ROOT, inspected, podman, run_once, shell

LIMIT_BYTES = 250_000_000
PACKAGE_TOOLS = {
    "apt", "apt-get", "dpkg", "debconf", "perl", "pip", "pip3", "easy_install", "gcc", "cc", "ld", "as", "make", "git", "curl",
    "wget", "ssh", "sudo", "passwd",
}  # fmt: skip
PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{20}")


@pytest.fixture(scope="module")
def tree(image: str) -> Iterator[Path]:
    """The image's files, mounted."""
    name = podman("image", "mount", image).stdout.strip()
    yield Path(name)
    podman("image", "unmount", image)


@pytest.fixture(scope="module")
def files(tree: Path) -> dict[str, os.stat_result]:
    """Every file, folder and link by its path in the image."""
    found = {}
    for where, folders, names in os.walk(tree):
        for name in (*folders, *names):
            path = Path(where, name)
            found["/" + str(path.relative_to(tree))] = path.lstat()
    return found


def test_the_version_and_the_options_are_told_by_an_ordinary_user_on_a_read_only_root(image: str) -> None:
    version = run_once(image, "--version")
    assert (version.returncode, version.stdout) == (0, f"pilot {__version__}\n"), version.stderr
    told = run_once(image, "--help")
    assert told.returncode == 0
    assert "--queue NAME" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--no-such-option",), 2, "--no-such-option"),
        ((), 2, "no queue"),
        (("--queue", "X"), 68, "no credentials"),
        (("--sandbox", "--queue", "X"), 2, "--sandbox needs the sandbox extra"),
    ],
)
def test_the_container_runtime_sees_the_pilots_exit_codes(
    image: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = run_once(image, *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_described_by_its_labels(image: str) -> None:
    labels = inspected(image)["Labels"]
    known = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    revision = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert (known["title"], known["version"], known["licenses"]) == ("pilot", __version__, "Apache-2.0")
    assert known["revision"].removesuffix("-dirty") == (revision or "unknown")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", known["created"])
    assert known["base.name"].startswith("localhost/pilot-base:")
    assert "://" not in "".join(labels.values())


def test_it_starts_the_pilot_as_process_1_and_an_ordinary_user(image: str) -> None:
    config = inspected(image)["Config"]
    assert config["Entrypoint"] == ["/opt/pilot/bin/pilot-start"]  # no shell between it and a signal
    assert not config.get("Cmd")
    assert config["User"] == f"{PILOT_UID}:{PILOT_UID}"  # a number: runAsNonRoot can be checked
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert {line.partition("=")[0] for line in config["Env"]} == {"PATH", "TMPDIR"}


def test_pilot_and_payload_have_names_and_neither_can_log_in(image: str) -> None:
    rows = {line.split(":")[0]: line.split(":") for line in shell(image, "cat /etc/passwd").splitlines()}
    for name, uid in (("pilot", PILOT_UID), ("payload", PAYLOAD_UID)):
        assert rows[name][2:4] == [str(uid), str(uid)]
        assert rows[name][-1] == "/bin/false"
    assert shell(image, "id -un; id -gn") == "pilot\npilot\n"
    assert shell(image, "id -un", user=PAYLOAD_UID) == "payload\n"


def test_what_a_pod_sets_for_python_does_not_reach_the_pilot(image: str, tmp_path: Path) -> None:
    (tmp_path / "pilot").mkdir(mode=0o755)
    for name in ("sitecustomize.py", "usercustomize.py", "argparse.py", "pilot/__init__.py"):
        (tmp_path / name).write_text("import os; os.write(1, b'taken over'); os._exit(99)\n")
    tmp_path.chmod(0o755)
    hostile = ("--volume", f"{tmp_path}:/evil:ro", "--workdir", "/evil", "--env", "HOME=/evil")
    settings = {"PYTHONPATH": "/evil", "PYTHONHOME": "/evil", "PYTHONSTARTUP": "/evil/x", "PYTHONINSPECT": "1"}
    variables = tuple(word for name, value in settings.items() for word in ("--env", f"{name}={value}"))
    done = run_once(image, "--version", options=(*hostile, *variables))
    assert (done.returncode, done.stdout) == (0, f"pilot {__version__}\n"), done.stderr


def test_it_is_small_and_tells_its_size(image: str, figure: Callable[[str], None]) -> None:
    size_bytes = inspected(image)["Size"]
    figure(f"standalone image with Apptainer: {size_bytes / 1e6:.1f} MB")
    assert size_bytes < LIMIT_BYTES


def test_no_package_manager_compiler_or_download_tool_is_left(files: dict[str, os.stat_result]) -> None:
    programs = {path.rpartition("/")[2] for path in files if re.match(r"(/usr/local|/usr|/opt/pilot)/s?bin/", path)}
    assert {"bash", "setpriv", "prlimit", "apptainer", "python3", "pilot-start"} <= programs
    assert programs & PACKAGE_TOOLS == set()
    own = [path for path in files if path.startswith("/opt/pilot/")]
    assert not [path for path in own if re.search(r"/(pip|setuptools|wheel|_distutils_hack|ensurepip)(/|-|$)", path)]
    assert sorted(path for path in own if path.count("/") == 4 and "/bin/" in path) == [
        f"/opt/pilot/bin/{name}" for name in ("pilot-start", "python", "python3", "python3.13")
    ]


def test_no_cache_log_or_other_trace_of_the_build_is_left(files: dict[str, os.stat_result]) -> None:
    emptied = ("/var/cache/", "/var/log/", "/var/lib/apt/", "/root/", "/tmp/", "/run/", "/pilotdir/", "/usr/share/man/")
    found = [path for path in files if path.startswith(emptied) and not path.startswith("/root/.bash")]
    assert [path for path in found if path not in ("/root/.profile", "/run/lock", "/run/mount")] == []
    assert not [path for path in files if path.endswith((".whl", ".deb", "-old"))]
    assert not [
        path for path in files if path.startswith("/etc/") and re.search(r"(sources\.list|pip\.conf|apt)", path)
    ]


def test_no_file_is_set_user_id_and_none_is_open_to_all(files: dict[str, os.stat_result]) -> None:
    regular = {path: entry.st_mode for path, entry in files.items() if stat.S_ISREG(entry.st_mode)}
    assert [path for path, mode in regular.items() if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)] == []
    open_folders = [p for p, entry in files.items() if stat.S_ISDIR(entry.st_mode) and entry.st_mode & stat.S_IWOTH]
    assert set(open_folders) <= {"/tmp", "/var/tmp", "/pilotdir", "/run/lock"}
    assert all(files[path].st_mode & stat.S_ISVTX for path in open_folders)


def test_no_key_is_in_it_and_no_word_of_the_machine_that_built_it(tree: Path, files: dict[str, os.stat_result]) -> None:
    mirror = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=True
    ).stdout
    hosts = {uri.split("/")[2].encode() for uri in mirror.split() if "://" in uri}
    hosts = {host for host in hosts if not host.endswith(b".debian.org")}  # names that Debian's own texts hold
    words = [*hosts, str(ROOT).encode(), b"/run/build/"]
    for path, entry in files.items():
        if not stat.S_ISREG(entry.st_mode) or entry.st_size > 4_000_000:
            continue
        content = (tree / path.lstrip("/")).read_bytes()
        assert not PRIVATE.search(content), path
        named = [word for word in words if word in content]
        assert not named or path.endswith("direct_url.json"), f"{path} names {named}"


def test_every_program_and_library_finds_what_it_is_linked_with(image: str) -> None:
    text = """
    loader=$(echo /lib*/ld-linux-*.so.*)
    find /usr/bin /usr/sbin /usr/lib /usr/libexec /opt/pilot -type f \\( -perm -u+x -o -name '*.so*' \\) |
    while read -r file; do "$loader" --list "$file" 2>/dev/null | sed -n "s|.*not found.*|$file: &|p"; done
    """
    assert shell(image, text) == ""


def test_scanners_find_the_packages_and_the_licences(tree: Path) -> None:
    status = (tree / "var/lib/dpkg/status").read_text()
    packages = re.findall(r"^Package: (.*)$", status, re.MULTILINE)
    assert {"bash", "libc6", "python3.13", "apptainer", "util-linux"} <= set(packages)
    assert not {"apt", "dpkg", "perl-base", "passwd"} & set(packages)
    for package in packages:
        assert (tree / f"usr/share/doc/{package}/copyright").exists(), package
    installed = {path.name for path in (tree / "opt/pilot/lib/python3.13/site-packages").glob("*.dist-info")}
    locked = re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "container/requirements.lock").read_text(), re.MULTILINE)
    assert len(installed) == len(locked) + 1
    for name, version in locked:
        assert f"{name.replace('-', '_')}-{version}.dist-info".lower() in {known.lower() for known in installed}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--base", "registry.example.org/debian:13-slim"), "no image by digest"),
        (("--base", "localhost/no-such-image"), "there is no image localhost/no-such-image"),
        (("--shape", "round"), "neither onto nor standalone"),
        (("--uids", "10001"), "is not PILOT:PAYLOAD"),
        (("--name",), "--name needs a value"),
        (("--no-such-option",), "unknown option --no-such-option"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_sentence(options: tuple[str, ...], words: str) -> None:
    done = subprocess.run([ROOT / "scripts/build-image", *options], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr.splitlines()[-1]

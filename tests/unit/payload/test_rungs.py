"""Which rung a node permits, what is said of those it does not, and what rung C shows to a payload."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from pilot.payload.rungs import (
    CAPABILITIES,
    Account,
    Level,
    Node,
    Plain,
    level_named,
    payload_account,
    permits,
    plain_rung,
    readable_by,
    readable_places,
    refusal,
)
from pilot.runtime.workdir import WorkVolume

NOBODY = Account(65532, 65532)
THREE = sum(1 << bit for bit in CAPABILITIES.values())
VOLUME = Path("/usr/share/volume")  # below folders that everybody may enter
ROOT = Node(0, THREE, 7)


def rung(node: Node = ROOT, volume: Path = VOLUME, private: tuple[Path, ...] = (), *, own: bool = False) -> Plain:
    return plain_rung(node, NOBODY, volume, private, own_containers=own)


def test_root_with_three_capabilities_gives_payloads_another_user() -> None:
    assert (str(rung()), rung().level, rung().umask) == ("B:uid+landlock", Level.B, 0o007)
    assert str(rung(Node(0, THREE, 0))) == "B:uid"
    assert str(rung(own=True)) == "B:uid"


@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_capability_that_is_missing_is_named_with_the_line_of_the_pod(name: str) -> None:
    found = rung(Node(0, THREE & ~(1 << CAPABILITIES[name]), 7))
    assert str(found) == "C:landlock"
    assert f"needs the capabilities {name} (pod: capabilities: " in found.lacks[Level.B]


def test_an_ordinary_user_gets_landlock_or_nothing() -> None:
    assert str(rung(Node(1000, 0, 7))) == "C:landlock"
    assert str(rung(Node(1000, 0, 4))) == "C:landlock-files"
    assert "runAsUser: 0" in rung(Node(1000, 0, 7)).lacks[Level.B]
    bare = rung(Node(1000, 0, 0))
    assert (str(bare), bare.umask) == ("D:none", 0o077)
    assert "seccompProfile" in bare.lacks[Level.C]
    assert "own_containers" in rung(Node(1000, 0, 7), own=True).lacks[Level.C]


def test_a_volume_or_a_credential_in_the_wrong_mode_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert f"{tmp_path} is closed to uid 65532" in rung(volume=tmp_path / "volume").lacks[Level.B]
    assert "/etc/passwd can be read by every user" in rung(private=(Path("/etc/passwd"),)).lacks[Level.B]
    assert not readable_by(tmp_path / "missing", NOBODY)


def test_without_landlock_nobody_else_may_move_the_volume_away() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        mount = Path(folder)
        mount.chmod(0o777)
        assert str(rung(volume=mount / "pilot")) == "B:uid+landlock"
        assert f"--workdir {mount}" in rung(Node(0, THREE, 0), volume=mount / "pilot").lacks[Level.B]
        assert f"may rename what is in {mount}" in rung(Node(0, THREE, 0), volume=mount).lacks[Level.B]
        with WorkVolume(mount).held():
            assert str(rung(Node(0, THREE, 0), volume=mount)) == "B:uid"


def test_modes_are_read_as_the_kernel_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    file.chmod(0o640)
    mine = Account(os.getuid(), os.getgid())
    assert permits(file, Account(NOBODY.uid, mine.gid), 4)
    assert not permits(file, Account(NOBODY.uid, mine.gid), 2)
    assert not permits(file, NOBODY, 4)
    assert permits(file, mine, 2)


def test_what_is_required_is_refused_with_what_is_missing() -> None:
    none = rung(Node(1000, 0, 0))
    for required, words in ((Level.C, "no Landlock"), (Level.B, "runAsUser: 0"), (Level.A, "no apptainer")):
        sentence = refusal(required, none, "no apptainer")
        assert words in sentence
        assert "payloads would run on D:none" in sentence
        assert "--require-isolation" in sentence
    assert refusal(Level.D, none, "no apptainer") == ""
    assert refusal(Level.A, none, "") == ""
    assert refusal(Level.B, rung(), "no apptainer") == ""
    assert level_named("none") is Level.D
    assert level_named("B") is Level.B


def test_the_payloads_user_is_never_root() -> None:
    assert payload_account("12345") == Account(12345, 12345)
    for name in ("root", "0"):
        with pytest.raises(ValueError, match="must not be root"):
            payload_account(name)
    with pytest.raises(ValueError, match="no user 'no-such-user'"):
        payload_account("no-such-user")


def test_the_account_is_known_again_from_the_journal() -> None:
    assert Account.recorded({"uid": 5, "gid": 6}) == Account(5, 6)
    assert Account.recorded({"tracking": "x"}) is None


def test_a_folder_with_a_secret_in_it_is_shown_without_it(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/secrets/d", "volume"):
        (tmp_path / name).mkdir(parents=True)
    shown = readable_places((tmp_path / "b/secrets",), tmp_path / "volume", (str(tmp_path),))
    ours = {path.removeprefix(str(tmp_path)) for path in shown if path.startswith(str(tmp_path))}
    assert ours == {"/a", "/b/c"}
    assert "/usr" in shown
    assert str(Path(sys.prefix).resolve()) in shown
    assert str(Path.home()) not in shown

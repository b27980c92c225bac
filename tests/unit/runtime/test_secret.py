from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest

from pilot.runtime.secret import MAX_SECRET_FILE_BYTES, Secret, SecretFile

SESAME = Secret("open sesame")


@pytest.mark.parametrize("shown", [repr(SESAME), str(SESAME), f"{SESAME}", f"{[SESAME]!r}", "%s" % SESAME])  # noqa: UP031
def test_a_secret_shows_itself_to_nobody(shown: str) -> None:
    assert "sesame" not in shown and "***" in shown


def test_a_secret_is_neither_pickled_nor_copied() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(SESAME, protocol)
    with pytest.raises(TypeError, match="not pickled"):
        copy.deepcopy(SESAME)


def test_secrets_are_compared_by_what_they_hold() -> None:
    assert Secret("open sesame") == SESAME != Secret("other")
    assert SESAME != "open sesame"
    assert len({SESAME, Secret("open sesame")}) == 1
    assert SESAME and not Secret("")


def test_a_fingerprint_tells_two_secrets_apart_and_neither() -> None:
    assert SESAME.fingerprint() == Secret("open sesame").fingerprint() != Secret("open").fingerprint()
    assert len(SESAME.fingerprint()) == 8
    Secret(os.fsdecode(b"\xff\xfe")).fingerprint()
    Secret("\ud800").fingerprint()


def test_a_file_is_read_without_the_blanks_around_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  eyJ.abc\n")
    assert SecretFile(path).read() == Secret("eyJ.abc")


def test_a_rotated_file_is_read_anew(tmp_path: Path) -> None:
    path, fresh = tmp_path / "token", tmp_path / "fresh"
    path.write_text("one")
    file = SecretFile(path)
    assert file.changed()
    assert file.read().reveal() == "one"
    assert not file.changed()
    fresh.write_text("two")  # of the same length
    fresh.rename(path)
    assert file.changed()
    assert file.read().reveal() == "two"


def test_a_secret_mounted_by_kubelet_is_read_anew_when_its_link_moves(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(version)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    file = SecretFile(tmp_path / "token")
    assert file.read().reveal() == "one"
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert file.read().reveal() == "two"


def test_a_file_that_is_gone_is_an_error_and_not_the_old_secret(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    file = SecretFile(path)
    file.read()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.read()


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError):
            SecretFile(path).read()


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"x" * (MAX_SECRET_FILE_BYTES + 10))
    assert len(SecretFile(path).read().reveal()) == MAX_SECRET_FILE_BYTES

"""What a control group's files say, in both versions, as pods and as machines have them."""

from __future__ import annotations

from pathlib import Path

from pilot.payload.cgroup import memory_limit_bytes, oom_kill_count


def membership(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "membership"
    path.write_text(text)
    return path


def test_version_two_in_a_pod_is_read_at_its_root(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 5\noom 2\noom_kill 3\noom_group_kill 0\n")
    (tmp_path / "memory.max").write_text("2147483648\n")
    own = membership(tmp_path, "0::/\n")
    assert oom_kill_count(tmp_path, own) == 3
    assert memory_limit_bytes(tmp_path, own) == 2 << 30


def test_version_two_on_a_machine_is_read_by_its_path(tmp_path: Path) -> None:
    group = tmp_path / "system.slice" / "x"
    group.mkdir(parents=True)
    (group / "memory.events").write_text("oom_kill 1\n")
    (group / "memory.max").write_text("max\n")
    own = membership(tmp_path, "0::/system.slice/x\n")
    assert oom_kill_count(tmp_path, own) == 1
    assert memory_limit_bytes(tmp_path, own) is None


def test_version_one_has_other_names(tmp_path: Path) -> None:
    group = tmp_path / "memory" / "job"
    group.mkdir(parents=True)
    (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    own = membership(tmp_path, "4:memory:/job\n3:cpuset:/\n")
    assert oom_kill_count(tmp_path, own) == 4
    assert memory_limit_bytes(tmp_path, own) is None


def test_nothing_to_read_is_no_limit_and_no_kill(tmp_path: Path) -> None:
    assert oom_kill_count(tmp_path, tmp_path / "none") == 0
    assert memory_limit_bytes(tmp_path, tmp_path / "none") is None

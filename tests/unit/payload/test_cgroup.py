"""What a control group's files say, in both versions, as pods and as machines have them."""

from __future__ import annotations

from pathlib import Path

from pilot.payload.cgroup import MemoryGroup, memory_group, memory_limit_bytes, oom_kill_count


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


def version_two(folder: Path, limit: str, current: int, inactive_file: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 1\nfile 2\ninactive_anon 3\ninactive_file {inactive_file}\n")
    return folder


def test_file_pages_nobody_uses_do_not_count_in_version_two(tmp_path: Path) -> None:
    version_two(tmp_path, "2000", 1500, 600)
    group = memory_group(tmp_path, membership(tmp_path, "0::/\n"))
    assert group is not None
    assert (group.limit_bytes, group.used_bytes()) == (2000, 900)


def test_version_one_counts_the_groups_below_too(tmp_path: Path) -> None:
    folder = tmp_path / "memory" / "job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("2000\n")
    (folder / "memory.usage_in_bytes").write_text("1500\n")
    (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 600\n")
    group = memory_group(tmp_path, membership(tmp_path, "4:memory:/job\n"))
    assert group is not None
    assert group.used_bytes() == 900


def test_the_tighter_limit_of_a_group_above_is_the_one_that_binds(tmp_path: Path) -> None:
    pod = version_two(tmp_path / "pod", "3000", 100, 0)
    version_two(pod / "container", "max", 10, 0)
    own = membership(tmp_path, "0::/pod/container\n")
    group = memory_group(tmp_path, own)
    assert group is not None
    assert (group.folder, group.limit_bytes, group.used_bytes()) == (pod, 3000, 100)


def test_a_path_out_of_the_namespace_is_not_followed(tmp_path: Path) -> None:
    root = version_two(tmp_path / "cgroup", "3000", 100, 0)
    version_two(tmp_path / "elsewhere", "10", 9, 0)
    assert memory_limit_bytes(root, membership(tmp_path, "0::/../elsewhere\n")) == 3000


def test_a_group_that_cannot_be_read_any_more_uses_an_unknown_amount(tmp_path: Path) -> None:
    assert MemoryGroup(tmp_path / "gone", 1000).used_bytes() is None


def test_more_droppable_pages_than_usage_is_nothing_used(tmp_path: Path) -> None:
    version_two(tmp_path, "2000", 100, 600)
    assert MemoryGroup(tmp_path, 2000).used_bytes() == 0

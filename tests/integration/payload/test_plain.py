"""Payloads without a container of the pilot's: real processes, ended for certain, accounted for, watched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pilot.job.errors import PayloadError
from pilot.job.model import Resources
from pilot.logs.page.prmon import read_table
from pilot.payload import procfs
from pilot.payload.activity import folder_use
from pilot.runtime.secret import Secret
from pilot.runtime.stop import StopKind
from pilot.runtime.workdir import JobFolder
from tests.integration.payload.conftest import QUEUE, Payloads, a_pilot_that_dies, living, said

Eventually = Callable[..., None]
HOG = f"exec {sys.executable} -c 'import time; block = bytearray({{size}}); time.sleep({{seconds}})'"


def says(word: str) -> Callable[[JobFolder], bool]:
    return lambda folder: said(folder, word)


def test_a_command_runs_with_bash_in_its_work_folder_and_its_code_is_told(payloads: Payloads) -> None:
    ran = payloads.run('[[ a == a ]] && echo "$(</proc/self/comm) $PWD" && echo oops >&2; exit 3')
    assert (ran.end.exit_code, ran.end.signal, ran.end.isolation) == (3, None, "C:landlock")
    assert ran.stdout.split()[1] == str(ran.folder.work)
    assert ran.end.first_error == "oops"
    assert ran.end.stopped_by is None


def test_its_environment_is_exact(payloads: Payloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_SECRET_OF_MINE", "x")
    payloads.set(credentials={"PGPASSWORD": Secret("ge'heim $(id)\nzwei")}, added={"EXTRA": "1"})
    ran = payloads.run("env -0")
    names = {entry.partition("=")[0] for entry in ran.stdout.split("\0") if entry}
    # what bash itself adds: PWD, SHLVL, _
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        "PATH",
        "LANG",
        "HOME",
        "TMPDIR",
        "PANDAID",
        "PanDA_TaskID",
        "REALTIME_LOGFILES",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
        "PILOT_PAYLOAD_ID",
        "PGPASSWORD",
        "EXTRA",
    }
    assert "PGPASSWORD=ge'heim $(id)\nzwei\0" in ran.stdout


def test_it_has_no_terminal_no_core_files_no_new_privileges_and_private_files(payloads: Payloads) -> None:
    ran = payloads.run(
        'read x; echo "in:$x"; ulimit -c; umask; grep NoNewPrivs /proc/self/status; ls /proc/self/fd | wc -l'
    )
    assert ran.stdout.split() == ["in:", "0", "0077", "NoNewPrivs:", "1", "4"]


def test_tmpdir_and_home_are_its_own(payloads: Payloads) -> None:
    ran = payloads.run("touch $TMPDIR/a $HOME/b; ls -A")
    assert ran.end.exit_code == 0
    assert "a" not in ran.stdout.split()


def test_a_signal_that_kills_it_is_told_as_one(payloads: Payloads) -> None:
    ran = payloads.run("kill -SEGV $$")
    assert (ran.end.exit_code, ran.end.signal) == (None, signal.SIGSEGV)


def test_a_long_command_with_secrets_is_in_no_argv(payloads: Payloads) -> None:
    ran = payloads.run("tr '\\0' ' ' </proc/$$/cmdline; : " + "geheim" * 50_000)
    assert ran.end.exit_code == 0
    assert "geheim" not in ran.stdout


def test_what_it_leaves_behind_is_ended_and_counted(payloads: Payloads) -> None:
    ran = payloads.run("sleep 600 & setsid sleep 600 & env -i setsid setsid -f sleep 600; echo $!")
    assert ran.end.exit_code == 0
    assert not [p for p in procfs.all_processes().values() if p.ppid == os.getpid() and p.comm == "sleep"]


def test_processes_that_are_not_its_own_are_left_alone(payloads: Payloads) -> None:
    ours = subprocess.Popen(["sleep", "600"])
    payloads_end = None
    try:
        payloads_end = payloads.run("sleep 600 & setsid -f sleep 600").end
        assert ours.poll() is None
    finally:
        ours.kill()
        assert ours.wait() == -signal.SIGKILL  # nobody else has collected it
    assert payloads_end.exit_code == 0


def test_sigterm_lets_it_finish_in_peace(payloads: Payloads, eventually: Eventually) -> None:
    text = "trap 'echo clean; exit 9' TERM; echo ready; while :; do sleep 0.02; done"
    ran = payloads.run_and_stop(text, says("ready"), eventually)
    assert ran.stdout.split() == ["ready", "clean"]
    assert ran.end.exit_code == 9
    assert ran.end.stopped_by is not None
    assert ran.end.stopped_by.kind is StopKind.SERVER_KILL


def test_its_children_too_get_the_time_to_finish(payloads: Payloads, eventually: Eventually) -> None:
    child = "trap 'sleep 0.3; echo clean; exit' TERM; echo ready; while :; do sleep 0.02; done"
    ran = payloads.run_and_stop(f'setsid bash -c "{child}"', says("ready"), eventually)
    assert ran.stdout.split() == ["ready", "clean"]
    assert ran.end.wall_s < 4


def test_one_that_ignores_sigterm_is_killed_after_the_grace(payloads: Payloads, eventually: Eventually) -> None:
    payloads.set(grace_s=0.3)
    text = "trap '' TERM; (setsid sleep 600 &); echo ready; while :; do sleep 0.02; done"
    ran = payloads.run_and_stop(text, says("ready"), eventually)
    assert ran.end.signal == signal.SIGKILL
    assert ran.end.wall_s < 5


def test_a_payload_that_ended_before_the_stop_was_not_stopped(payloads: Payloads) -> None:
    assert payloads.run("true").end.stopped_by is None


def test_the_end_of_a_payload_is_noticed_at_once(payloads: Payloads) -> None:
    payloads.run("true")
    walls = []
    for _ in range(5):
        started_s = time.monotonic()
        payloads.run("true")
        walls.append(time.monotonic() - started_s)
    assert min(walls) < 0.25


def test_cpu_of_orphans_is_counted(payloads: Payloads) -> None:
    burn = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    ran = payloads.run(f"setsid -f bash -c '{burn}; touch done'; while [ ! -e done ]; do sleep 0.02; done; sleep 0.1")
    assert ran.end.usage.cpu_s > 0.05


def test_peak_memory_of_a_tree_is_seen_and_written_as_prmon_does(payloads: Payloads) -> None:
    size = 60 << 20
    hog = f"{sys.executable} -c 'import time; block = bytearray({size}); time.sleep(0.8)'"
    ran = payloads.run(f"{hog} & {hog} & wait")
    assert ran.end.usage.max_rss_bytes > 2 * size
    assert ran.end.usage.max_pss_bytes > 2 * size
    assert 0 < ran.end.usage.avg_rss_bytes <= ran.end.usage.max_rss_bytes
    summary = json.loads((ran.folder.work / "memory_monitor_summary.json").read_text())
    assert summary["Max"]["rss"] * 1024 > 2 * size
    assert {"Max", "Avg", "HW"} <= summary.keys()
    lines = (ran.folder.work / "memory_monitor_output.txt").read_text().splitlines()
    assert {"Time", "wtime", "pss", "rss", "vmem", "swap"} <= set(lines[0].split("\t"))
    assert all(len(line.split("\t")) == len(lines[0].split("\t")) for line in lines)


def test_what_it_used_is_known_over_time_with_its_folder_on_disk(payloads: Payloads) -> None:
    block = 40 << 20
    text = f"head -c {block} /dev/zero >big; {HOG.format(size=50 << 20, seconds=1.2)}"
    history = payloads.run(text).end.history
    assert [point.elapsed_s for point in history] == sorted({point.elapsed_s for point in history})
    assert max(point.memory_bytes for point in history) > 50 << 20
    assert max(point.disk_bytes or 0 for point in history) >= block
    assert history[-1].written_bytes >= block and history[-1].cpu_s >= history[0].cpu_s
    assert history[0].memory_bytes < 50 << 20


def test_with_its_end_a_payload_tells_what_it_was_allowed(payloads: Payloads) -> None:
    payloads.set(queue=replace(QUEUE, max_rss_bytes=300 << 20, rss_grace=2.0))
    end = payloads.run("true").end
    assert end.limits is not None and end.limits.memory_bytes == 600 << 20
    assert end.image == ""


def test_the_table_of_the_monitor_reads_back_as_the_same_history(payloads: Payloads) -> None:
    ran = payloads.run("sleep 0.5")
    table = read_table((ran.folder.work / "memory_monitor_output.txt").read_text())
    told = [(round(p.elapsed_s), p.memory_bytes >> 10, p.processes) for p in ran.end.history]
    assert [(p.elapsed_s, p.memory_bytes >> 10, p.processes) for p in table] == told


def test_what_the_payload_put_under_the_monitors_names_stays(payloads: Payloads) -> None:
    ran = payloads.run("echo mine >memory_monitor_summary.json; ln -s /etc/passwd memory_monitor_output.txt")
    assert (ran.folder.work / "memory_monitor_summary.json").read_text() == "mine\n"
    assert (ran.folder.work / "memory_monitor_output.txt").is_symlink()


def test_too_much_memory_ends_it(payloads: Payloads) -> None:
    payloads.set(queue=replace(QUEUE, max_rss_bytes=30 << 20, rss_grace=2.0))
    ran = payloads.run(HOG.format(size=120 << 20, seconds=600))
    assert ran.end.breach is not None
    assert ran.end.breach.code == 1235
    assert ran.end.wall_s < 10


def test_too_long_a_run_ends_it(payloads: Payloads) -> None:
    ran = payloads.run("sleep 600", resources=Resources(max_walltime_s=1))
    assert ran.end.breach is not None
    assert ran.end.breach.code == 1213


def test_too_large_a_work_folder_ends_it(payloads: Payloads) -> None:
    payloads.set(queue=replace(QUEUE, max_workdir_bytes=4 << 20, workdir_grace=1.0))
    ran = payloads.run("head -c 8M /dev/zero >big; sleep 600")
    assert ran.end.breach is not None
    assert ran.end.breach.code == 1104


def test_the_job_may_name_an_image_but_the_operator_decides_for_plain(payloads: Payloads) -> None:
    payloads.set(runtime="plain")
    assert payloads.run("true", container_name="docker://x/y").end.isolation == "C:landlock"


def test_a_demanded_container_without_an_image_is_refused(payloads: Payloads) -> None:
    payloads.set(runtime="apptainer")
    with pytest.raises(PayloadError) as caught:
        payloads.run("true")
    assert caught.value.diagnosis.code == 1360


def test_bytes_on_disk_are_counted_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "a" / "away").symlink_to("/usr")
    with (tmp_path / "a" / "hollow").open("wb") as file:
        file.truncate(1 << 40)
    used, newest_s, entries = folder_use((tmp_path / "a",))
    assert 100_000 <= used < 200_000
    assert newest_s > 0
    assert entries == 3
    assert folder_use((tmp_path / "missing",)) == (0, 0.0, 0)


def test_a_pilot_that_is_killed_takes_its_payload_along(payloads: Payloads, eventually: Eventually) -> None:
    with a_pilot_that_dies(payloads, "echo ready; setsid sleep 600 & sleep 600"):
        folder = JobFolder(payloads.volume.jobs / "1.1")
        eventually(lambda: said(folder, "ready"), timeout_s=20)
        assert living(payloads.volume.root)
    eventually(lambda: not living(payloads.volume.root))

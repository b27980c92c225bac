"""Payloads that exceed a limit are stopped, and the diagnosis names the figure, the limit and where the limit comes from."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from pilot.job.model import FileSpec, Resources
from pilot.job.outcome import PayloadFacts, judge
from pilot.payload.leftovers import LAST_SAMPLE
from pilot.runtime.stop import StopKind
from tests.integration.payload.conftest import QUEUE, Payloads, Ran

MB = 1 << 20
HOG = f"exec {sys.executable} -S -c 'import time; kept = bytearray(b\"x\") * (300 << 20); time.sleep(60)'"


def code_and_words(ran: Ran) -> tuple[int, str]:
    assert ran.end.stopped_by is not None
    assert ran.end.stopped_by.kind is StopKind.LIMIT
    assert ran.end.breach is not None
    assert ran.end.wall_s < 20
    return ran.end.breach.code, ran.end.breach.detail


def test_memory_above_the_queues_maxrss_and_grace(payloads: Payloads) -> None:
    payloads.set(queue=replace(QUEUE, max_rss_bytes=100 * MB))
    code, words = code_and_words(payloads.run(HOG))
    assert code == 1235
    assert words.startswith("the payload uses ")
    assert words.endswith(" MB (PSS), 200 MB allowed (maxrss 100 MB of queue Q x 2)")


def test_memory_above_what_the_job_asked_for_where_its_pod_was_cut_to_that(payloads: Payloads) -> None:
    payloads.set(queue=replace(QUEUE, max_rss_bytes=4000 * MB, params={"job_minramcount": True}))
    code, words = code_and_words(payloads.run(HOG, resources=Resources(min_ram_bytes=50 * MB)))
    assert code == 1235
    assert "minRamCount 50 MB of the job x 2" in words


def test_wall_time(payloads: Payloads) -> None:
    code, words = code_and_words(payloads.run("sleep 60", resources=Resources(max_walltime_s=1)))
    assert code == 1213
    assert words.endswith("1 s allowed (maxWalltime 1 s of the job)")


def test_bytes_in_the_work_folder(payloads: Payloads) -> None:
    payloads.set(queue=replace(QUEUE, max_workdir_bytes=20 * MB))
    code, words = code_and_words(payloads.run("head -c 40000000 /dev/zero >big; sleep 60"))
    assert code == 1104
    assert words.endswith("MB in the work folder, 24 MB allowed (maxwdir 20 MB of queue Q x 1.2)")


def test_the_pods_disk_limit(payloads: Payloads) -> None:
    payloads.set(disk_limit_bytes=20 * MB)
    code, words = code_and_words(payloads.run("head -c 40000000 /dev/zero >big; sleep 60"))
    assert code == 1104
    assert words.endswith("19 MB allowed (the pod's disk limit 20 MB x 0.95)")


def test_number_of_files(payloads: Payloads) -> None:
    payloads.set(max_inodes=100)
    code, words = code_and_words(payloads.run("mkdir d; for i in $(seq 200); do : >d/$i; done; sleep 60"))
    assert code == 1104
    assert words.endswith("files and folders in the work folder, 100 allowed (--max-inodes)")


def test_number_of_processes(payloads: Payloads) -> None:
    payloads.set(max_processes=20)
    code, words = code_and_words(payloads.run("for i in $(seq 30); do sleep 60 & done; wait"))
    assert code == 1305
    assert words.endswith("processes, 20 allowed (--max-processes)")


def test_stdout(payloads: Payloads) -> None:
    code, words = code_and_words(payloads.run("truncate -s 3G /proc/self/fd/1; sleep 60"))
    assert code == 1106
    assert words == "3072 MB written to stdout or stderr, 2048 MB allowed (--max-stdout-mib)"


def test_one_output_file(payloads: Payloads) -> None:
    outputs = (FileSpec("out.fits"),)
    code, words = code_and_words(payloads.run("truncate -s 600G out.fits; sleep 60", outputs=outputs))
    assert code == 1124
    assert words == "an output file has 614400 MB, 512000 MB allowed"


def test_neither_output_nor_cpu(payloads: Payloads) -> None:
    payloads.set(looping_s=1.0)
    code, words = code_and_words(payloads.run("echo begun; sleep 60"))
    assert code == 1150
    assert words.startswith("nothing written and no CPU used for ")
    assert words.endswith("1 s allowed (--looping-s)")


@pytest.mark.parametrize(
    "text",
    [
        "end=$((SECONDS+3)); while [ $SECONDS -lt $end ]; do :; done",
        "for i in 1 2 3 4 5 6; do sleep 0.4; echo $i; done",
        "for i in 1 2 3 4 5 6; do sleep 0.4; : >f$i; done",
    ],
    ids=["computes", "prints", "writes files"],
)
def test_who_computes_or_writes_is_not_looping(payloads: Payloads, text: str) -> None:
    payloads.set(looping_s=1.0)
    assert payloads.run(text).end.exit_code == 0


def test_a_monitors_own_table_is_no_output(payloads: Payloads) -> None:
    payloads.set(looping_s=1.0)
    text = "for i in $(seq 60); do sleep 0.5; echo $i >>memory_monitor_output.txt; done"
    assert code_and_words(payloads.run(text))[0] == 1150


def test_a_job_without_looping_check_may_sleep(payloads: Payloads) -> None:
    payloads.set(looping_s=1.0)
    assert payloads.run("sleep 2.5", looping_check=False).end.exit_code == 0


def test_memory_within_the_limits_leaves_no_trace_of_a_container(payloads: Payloads) -> None:
    ran = payloads.run("sleep 0.2")
    assert judge(PayloadFacts(exit_code=ran.end.exit_code)).pilot_error is None
    assert not (ran.folder.control / LAST_SAMPLE).exists()

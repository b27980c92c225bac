from __future__ import annotations

import dataclasses

import pytest

from pilot.job.queue import (
    Queue,
    QueueNotActive,
    QueueNotOnline,
    QueueStatus,
    Transfer,
    copytools_for,
    require_usable,
    storages_for,
)

QUEUE = Queue(
    name="DOMA_LSST_DEV", resource="DOMA_LSST_DEV", site="LSST", active=True, status=QueueStatus.ONLINE, state="ACTIVE"
)


@pytest.mark.parametrize("status", [QueueStatus.ONLINE, QueueStatus.TEST, QueueStatus.BROKEROFF])
def test_a_queue_that_is_online_in_test_or_in_brokeroff_is_usable(status: QueueStatus) -> None:
    require_usable(dataclasses.replace(QUEUE, status=status))


def test_an_offline_queue_is_refused_with_exit_83_and_a_sentence() -> None:
    with pytest.raises(QueueNotOnline, match="queue DOMA_LSST_DEV is offline in CRIC") as refused:
        require_usable(dataclasses.replace(QUEUE, status=QueueStatus.OFFLINE))
    assert refused.value.exit_code.value == 83


@pytest.mark.parametrize(("state", "said"), [("DISABLED", "DISABLED"), ("", "none")])
def test_a_queue_that_is_not_active_is_refused_with_exit_78_whatever_its_status(state: str, said: str) -> None:
    with pytest.raises(QueueNotActive, match=f"has the state {said} in CRIC, not ACTIVE") as refused:
        require_usable(dataclasses.replace(QUEUE, active=False, state=state, status=QueueStatus.OFFLINE))
    assert refused.value.exit_code.value == 78


def test_the_first_activity_of_the_list_that_the_queue_has_wins() -> None:
    queue = dataclasses.replace(
        QUEUE,
        storages={"pw": ("OLD",), "write_lan": ("FIRST", "SECOND"), "default": ("LAST",)},
        copytools={"pr": ("gs",), "default": ("s3",)},
    )
    assert storages_for(queue, Transfer.OUTPUT) == ("FIRST", "SECOND")
    assert storages_for(queue, Transfer.LOG) == ("FIRST", "SECOND")
    assert storages_for(queue, Transfer.INPUT) == ("LAST",)
    assert copytools_for(queue, Transfer.INPUT) == ("gs",)
    assert copytools_for(queue, Transfer.OUTPUT) == ("s3",)


def test_an_activity_for_logs_alone_is_preferred_for_logs_and_an_empty_one_is_passed_over() -> None:
    queue = dataclasses.replace(QUEUE, storages={"pl": ("LOGS",), "write_lan": (), "pw": ("OUT",)})
    assert storages_for(queue, Transfer.LOG) == ("LOGS",)
    assert storages_for(queue, Transfer.OUTPUT) == ("OUT",)


def test_a_queue_without_storages_has_none() -> None:
    assert storages_for(QUEUE, Transfer.OUTPUT) == ()
    assert copytools_for(QUEUE, Transfer.LOG) == ()

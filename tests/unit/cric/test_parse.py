from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.cric.parse import (
    BadEndpointData,
    BadQueueData,
    UnknownEndpoint,
    UnknownQueue,
    parse_endpoint,
    parse_queue,
)
from pilot.job.endpoint import Door, log_object, public_base, public_url
from pilot.job.errors import ExitCode, PilotCannotWork
from pilot.job.queue import ContainerChoice, QueueStatus, Transfer, copytools_for, require_usable, storages_for

DATA = Path(__file__).parents[2] / "data" / "cric"
QUEUES = ("DOMA_LSST_DEV", "DOMA_LSST_GOOGLE_TEST", "DOMA_LSST_GOOGLE_TEST_HIMEM")
DEV, RSE = QUEUES[0], "GKE-LSST_LOGS"
MB = 1 << 20


def load(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())


def dev(**fields: object) -> dict[str, object]:
    return {DEV: load(DEV)[DEV] | fields}


def logs(**fields: object) -> dict[str, object]:
    return {RSE: load(RSE)[RSE] | fields}


# --- the real queues ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUEUES)
def test_a_real_queue_is_read_with_its_units(name: str) -> None:
    queue = parse_queue(load(name), name)
    require_usable(queue)
    assert (queue.name, queue.resource, queue.status, queue.state) == (name, name, QueueStatus.ONLINE, "ACTIVE")
    assert (queue.type, queue.resource_type, queue.core_count) == ("production", "cloud", 1)
    assert queue.max_workdir_bytes == 16336 * MB
    assert queue.max_input_bytes == 14336 * MB
    assert queue.max_time_s is None and queue.min_time_s is None
    assert queue.time_floor_s == 3600
    assert (queue.rss_grace, queue.workdir_grace, queue.walltime_grace) == (2.0, 1.2, 1.0)
    assert (queue.containers, queue.container_options, queue.environment, queue.catchall) == ((), "", {}, {})
    assert (queue.allow_lan, queue.allow_wan, queue.direct_access_lan, queue.direct_access_wan) == (
        True,
        False,
        False,
        True,
    )
    assert not queue.has_cvmfs and queue.workflow == "" and queue.params == {}
    for transfer in Transfer:
        assert storages_for(queue, transfer) == (RSE,)
        assert copytools_for(queue, transfer) == ("gs",)


@pytest.mark.parametrize(
    ("name", "site", "capability", "max_rss_mb", "min_rss_mb", "core_power"),
    [
        ("DOMA_LSST_DEV", "OSG", "score", 1800, None, 12.32),
        ("DOMA_LSST_GOOGLE_TEST", "LSST", "score", 3200, None, 1.0),
        ("DOMA_LSST_GOOGLE_TEST_HIMEM", "LSST", "himem", 18000, 3200, 1.0),
    ],
)
def test_what_differs_between_the_real_queues(
    name: str, site: str, capability: str, max_rss_mb: int, min_rss_mb: int | None, core_power: float
) -> None:
    queue = parse_queue(load(name), name)
    assert (queue.site, queue.capability, queue.core_power) == (site, capability, core_power)
    assert queue.max_rss_bytes == max_rss_mb * MB
    assert queue.min_rss_bytes == (min_rss_mb * MB if min_rss_mb else None)
    assert queue.last_modified.startswith("2021-")


# --- the shapes of an answer -------------------------------------------------------------------------------------------


def test_keyed_bare_and_listed_answers_give_the_same_queue() -> None:
    keyed = load(DEV)
    expected = parse_queue(keyed, DEV)
    assert parse_queue(keyed[DEV], DEV) == expected
    assert parse_queue([load(QUEUES[1])[QUEUES[1]], keyed[DEV]], DEV) == expected
    assert parse_queue(load(QUEUES[1]) | keyed, DEV) == expected
    assert parse_queue({"11": keyed[DEV]}, DEV) == expected


def test_keyed_bare_and_listed_answers_give_the_same_storage() -> None:
    keyed = load(RSE)
    expected = parse_endpoint(keyed, RSE)
    assert parse_endpoint(keyed[RSE], RSE) == expected
    assert parse_endpoint([keyed[RSE]], RSE) == expected


@pytest.mark.parametrize(
    "document", [{}, [], {"error": "no such queue"}, {"OTHER": {"state": "ACTIVE"}}, [{"name": "OTHER"}]]
)
def test_an_answer_without_the_name_says_that_it_is_unknown(document: object) -> None:
    with pytest.raises(UnknownQueue, match="CRIC knows no queue DOMA_LSST_DEV") as queue:
        parse_queue(document, DEV)
    with pytest.raises(UnknownEndpoint, match="CRIC knows no storage GKE-LSST_LOGS") as endpoint:
        parse_endpoint(document, RSE)
    assert queue.value.exit_code is endpoint.value.exit_code is ExitCode.NO_QUEUEDATA


def test_the_sources_own_words_are_in_the_sentence() -> None:
    with pytest.raises(UnknownQueue, match="it says: file not found"):
        parse_queue({"error": "file not\nfound"}, DEV)


@pytest.mark.parametrize("document", [None, "text", 7, True, 1.5, [1, 2], {"a": 1}, {DEV: None}, {DEV: [1]}])
def test_what_is_no_record_is_bad_data_with_exit_72(document: object) -> None:
    with pytest.raises(BadQueueData, match="the data of queue DOMA_LSST_DEV cannot be used") as refused:
        parse_queue(document, DEV)
    assert refused.value.exit_code is ExitCode.BAD_QUEUEDATA


def test_a_bare_record_of_another_queue_is_refused() -> None:
    with pytest.raises(BadQueueData, match="it is the data of DOMA_LSST_GOOGLE_TEST"):
        parse_queue(load(QUEUES[1])[QUEUES[1]], DEV)


# --- oddities ----------------------------------------------------------------------------------------------------------


def test_numbers_and_booleans_may_come_as_texts() -> None:
    odd = dev(
        maxrss="1800",
        corecount="8",
        corepower="12.32",
        timefloor=" 60 ",
        allow_wan="True",
        is_cvmfs="False",
        allow_lan=0,
    )
    queue = parse_queue(odd, DEV)
    assert (queue.max_rss_bytes, queue.core_count, queue.core_power, queue.time_floor_s) == (1800 * MB, 8, 12.32, 3600)
    assert (queue.allow_wan, queue.has_cvmfs, queue.allow_lan) == (True, False, False)


@pytest.mark.parametrize("nothing", [None, 0, "0", -1, "NULL", "None", "", "null"])
def test_null_zero_and_negative_are_no_limit(nothing: object) -> None:
    queue = parse_queue(
        dev(maxrss=nothing, maxwdir=nothing, maxtime=nothing, corecount=nothing, timefloor=nothing), DEV
    )
    assert (queue.max_rss_bytes, queue.max_workdir_bytes, queue.max_time_s) == (None, None, None)
    assert (queue.core_count, queue.time_floor_s) == (1, 0)


@pytest.mark.parametrize("nonsense", ["lots", [1], {"a": 1}, True, "1e400", "nan", 10**400, float("inf"), "0x10"])
def test_a_limit_that_is_no_number_is_none_and_said_once(nonsense: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pilot.cric"):
        assert parse_queue(dev(maxrss=nonsense), DEV).max_rss_bytes is None
    assert ["maxrss" in record.getMessage() for record in caplog.records] == [True]


def test_null_words_are_empty_texts_and_names_fall_back() -> None:
    queue = parse_queue(
        dev(
            panda_resource="NULL",
            siteid=None,
            atlas_site="NULL",
            gstat="",
            site="SLAC",
            container_options="None",
            type=None,
        ),
        DEV,
    )
    assert (queue.resource, queue.site, queue.container_options, queue.type) == (DEV, "SLAC", "", "production")


def test_graces_are_percents_on_top() -> None:
    params = {
        "pilot_rss_grace": "50",
        "pilot_maxwdir_grace": 0,
        "pilot_walltime_grace": 12.5,
        "allow_altstageout": "True",
    }
    queue = parse_queue(dev(params=params), DEV)
    assert (queue.rss_grace, queue.workdir_grace, queue.walltime_grace) == (1.5, 1.0, 1.125)
    assert queue.allow_alternative_stage_out
    assert queue.params == params


def test_a_grace_that_makes_no_sense_is_the_default(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pilot.cric"):
        queue = parse_queue(dev(params={"pilot_rss_grace": "-10", "pilot_maxwdir_grace": "much"}), DEV)
    assert (queue.rss_grace, queue.workdir_grace) == (2.0, 1.2)
    assert len(caplog.records) == 2


def test_containers_come_as_name_and_user_pairs_or_as_a_list() -> None:
    expected = (ContainerChoice("singularity", "pilot"), ContainerChoice("docker", "wrapper"))
    for given_as in (
        "singularity:pilot;docker:wrapper",
        "Singularity:pilot ; docker:wrapper;",
        ["singularity:pilot", "docker:wrapper"],
    ):
        assert parse_queue(dev(container_type=given_as), DEV).containers == expected
    assert parse_queue(dev(container_type="apptainer"), DEV).containers == (ContainerChoice("apptainer", ""),)
    assert parse_queue(dev(container_type="None"), DEV).containers == ()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ("A=1,B=2,", {"A": "1", "B": "2"}),
        ("A=1 B='two words' C=", {"A": "1", "B": "two words", "C": ""}),
        ("export A=1; export B=x=y;", {"A": "1", "B": "x=y"}),
        ("PATHS=/a,/b,C=3", {"PATHS": "/a,/b", "C": "3"}),
        ({"A": 1, "B": None, "bad name": "x"}, {"A": "1", "B": ""}),
        ("NULL", {}),
        ("not a variable, 1X=2", {}),
        ("A=1\x00B=2\nC=3", {"A": "1", "B": "2", "C": "3"}),
    ],
)
def test_environ_is_read_as_variables(environ: object, expected: dict[str, str]) -> None:
    assert dict(parse_queue(dev(environ=environ), DEV).environment) == expected


def test_catchall_holds_flags_and_values_with_quotes() -> None:
    queue = parse_queue(dev(catchall="useMaxRam,singularity_options='-B /a,/b --x=1', per_core_attr=maxrss ,,"), DEV)
    assert dict(queue.catchall) == {"useMaxRam": "", "singularity_options": "-B /a,/b --x=1", "per_core_attr": "maxrss"}


def test_activity_tables_may_hold_texts_and_a_trailing_comma() -> None:
    queue = parse_queue(
        dev(astorages={"pw": "A, B,", "pr": [None, "C"], "w": []}, acopytools="NULL", copytools={"gs": {}}), DEV
    )
    assert dict(queue.storages) == {"pw": ("A", "B"), "pr": ("C",)}
    assert dict(queue.copytools) == {"default": ("gs",)}


def test_the_schemes_of_copy_tools_are_read() -> None:
    queue = parse_queue(dev(acopytools_schemas={"pw": {"gs": ["gs", "https"]}, "pr": {}}), DEV)
    assert queue.copytool_schemes == {"pw": {"gs": ("gs", "https")}}


@pytest.mark.parametrize(("word", "status"), [("TEST", QueueStatus.TEST), ("brokeroff", QueueStatus.BROKEROFF)])
def test_the_status_is_read_in_any_case(word: str, status: QueueStatus) -> None:
    assert parse_queue(dev(status=word), DEV).status is status


@pytest.mark.parametrize("word", ["paused", None, "", 7])
def test_a_status_nobody_knows_is_refused_and_not_guessed(word: object) -> None:
    with pytest.raises(BadQueueData, match=r"its status is .* and not one of online, brokeroff, test, offline"):
        parse_queue(dev(status=word), DEV)


def test_a_queue_without_a_state_is_not_active() -> None:
    record = dict(load(DEV)[DEV])
    del record["state"]
    assert not parse_queue(record, DEV).active


# --- storages ----------------------------------------------------------------------------------------------------------


def test_the_constructed_storage_is_read_with_its_doors() -> None:
    endpoint = parse_endpoint(load(RSE), RSE)
    gs = Door(1, "GS", "gs://drp-us-central1-logging", "/logs")
    https = Door(2, "HTTPS", "https://storage.googleapis.com:443", "/drp-us-central1-logging/logs")
    assert (endpoint.active, endpoint.type, endpoint.site, endpoint.id) == (True, "OS_LOGS", "LSST", 1001)
    assert (endpoint.bucket, endpoint.bucket_id) == ("drp-us-central1-logging", 1001)
    assert (endpoint.deterministic, endpoint.is_object_store, endpoint.is_tape, endpoint.is_cache) == (
        True,
        True,
        False,
        False,
    )
    assert endpoint.doors["read_lan"] == (gs, https)
    assert endpoint.doors["write_wan"] == (gs,)
    assert public_url(public_base(endpoint), log_object(DEV, 4711, "pilotlog.txt")) == (
        "https://storage.googleapis.com/drp-us-central1-logging/logs/DOMA_LSST_DEV/PandaJob_4711/pilotlog.txt"
    )


def test_without_activities_the_protocols_by_id_serve_all_of_them() -> None:
    endpoint = parse_endpoint(logs(arprotocols={}), RSE)
    assert [door.id for door in endpoint.doors["write_lan"]] == [1, 2]
    assert endpoint.doors["read_wan"] == endpoint.doors["write_wan"]


def test_at_last_the_main_door_serves() -> None:
    endpoint = parse_endpoint(logs(arprotocols=None, rprotocols="NULL"), RSE)
    assert endpoint.doors["write_lan"] == (Door(0, "", "gs://drp-us-central1-logging", "/logs"),)


@pytest.mark.parametrize(
    "door",
    [
        "gs://bucket",
        {"endpoint": "bucket", "path": "/logs"},
        {"endpoint": "gs://[bucket", "path": "/logs"},
        {"endpoint": "https://user:secret@host", "path": "/logs"},
        {"endpoint": "https://host/path?x=1", "path": "/logs"},
        {"endpoint": "gs://bucket", "path": "/logs/../other"},
    ],
)
def test_a_door_that_is_none_is_left_out_and_said(door: object, caplog: pytest.LogCaptureFixture) -> None:
    good = {"endpoint": "gs://good", "path": "/x", "id": "3"}
    with caplog.at_level(logging.WARNING, "pilot.cric"):
        endpoint = parse_endpoint(logs(arprotocols={"pw": [door, good]}), RSE)
    assert endpoint.doors == {"pw": (Door(3, "", "gs://good", "/x"),)}
    assert "is left out" in caplog.text


def test_a_storage_without_any_door_is_refused() -> None:
    with pytest.raises(BadEndpointData, match="it has no door"):
        parse_endpoint(logs(arprotocols={}, rprotocols={}, se=""), RSE)


# --- anything ----------------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
QUEUE_FIELDS = st.sampled_from([*load(DEV)[DEV], "acopytools_schemas"])
ENDPOINT_FIELDS = st.sampled_from(list(load(RSE)[RSE]))


@settings(max_examples=150, deadline=None)
@given(document=JSON)
def test_no_json_whatever_gives_anything_but_a_value_or_a_typed_error(document: object) -> None:
    for parse, name in ((parse_queue, DEV), (parse_endpoint, RSE)):
        try:
            parse(document, name)
        except PilotCannotWork as refused:
            assert "\n" not in str(refused)
            assert refused.exit_code in (ExitCode.NO_QUEUEDATA, ExitCode.BAD_QUEUEDATA)


@settings(max_examples=150, deadline=None)
@given(fields=st.dictionaries(QUEUE_FIELDS, JSON, max_size=8))
def test_no_value_of_a_queues_fields_gives_anything_but_a_sane_queue_or_a_typed_error(
    fields: dict[str, object],
) -> None:
    try:
        queue = parse_queue(dev(**fields), DEV)
    except BadQueueData:
        return
    assert queue.core_count >= 1 and queue.time_floor_s >= 0
    assert min(queue.rss_grace, queue.workdir_grace, queue.walltime_grace) >= 1
    for limit in (queue.max_rss_bytes, queue.max_workdir_bytes, queue.max_input_bytes, queue.max_time_s):
        assert limit is None or limit > 0
    assert all(name.isidentifier() and "\0" not in value for name, value in queue.environment.items())
    hash((queue.name, queue.resource, queue.site, queue.containers))


@settings(max_examples=150, deadline=None)
@given(fields=st.dictionaries(ENDPOINT_FIELDS, JSON, max_size=6))
def test_no_value_of_a_storages_fields_gives_anything_but_a_storage_with_doors_or_a_typed_error(
    fields: dict[str, object],
) -> None:
    try:
        endpoint = parse_endpoint(logs(**fields), RSE)
    except BadEndpointData:
        return
    assert any(endpoint.doors.values())
    assert public_base(endpoint).startswith("http")

from __future__ import annotations

import dataclasses
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.job.endpoint import (
    READ_ACTIVITIES,
    WRITE_ACTIVITIES,
    Door,
    Endpoint,
    NoPublicDoor,
    bucket_of,
    deterministic_path,
    doors_for,
    log_object,
    object_prefix,
    public_base,
    public_url,
)
from pilot.job.errors import ExitCode

GS = Door(1, "GS", "gs://drp-us-central1-logging", "/logs")
HTTPS = Door(2, "HTTPS", "https://storage.googleapis.com:443", "/drp-us-central1-logging/logs")
LOGS = Endpoint(
    name="GKE-LSST_LOGS",
    active=True,
    type="OS_LOGS",
    is_object_store=True,
    bucket="drp-us-central1-logging",
    doors={"read_lan": (GS, HTTPS), "read_wan": (HTTPS,), "write_lan": (GS,), "pw": (GS,)},
)
PILOT_LOG = log_object("DOMA_LSST_DEV", 4711, "pilotlog.txt")
PUBLIC_PILOT_LOG = (
    "https://storage.googleapis.com/drp-us-central1-logging/logs/DOMA_LSST_DEV/PandaJob_4711/pilotlog.txt"
)


def only(*doors: Door, bucket: str = "") -> Endpoint:
    return dataclasses.replace(LOGS, doors={"read_wan": doors, "write_lan": doors}, bucket=bucket)


def test_the_public_url_of_a_pilot_log_is_the_one_the_monitor_links_to() -> None:
    assert public_url(public_base(LOGS), PILOT_LOG) == PUBLIC_PILOT_LOG


def test_the_default_port_is_dropped_and_another_is_kept() -> None:
    assert public_base(only(dataclasses.replace(HTTPS, endpoint="https://host:8443"))).startswith(
        "https://host:8443/drp"
    )
    assert public_base(only(dataclasses.replace(HTTPS, endpoint="http://host:80"))).startswith("http://host/drp")
    assert public_base(only(dataclasses.replace(HTTPS, endpoint="https://host:80"))).startswith("https://host:80/drp")


def test_https_is_preferred_to_http_in_whatever_order_they_are_listed() -> None:
    http = Door(3, "HTTP", "http://host", "/b/logs")
    assert public_base(only(http, HTTPS)) == "https://storage.googleapis.com/drp-us-central1-logging/logs"
    assert public_base(only(http)) == "http://host/b/logs"


def test_without_a_web_door_the_public_url_is_googles_for_the_bucket() -> None:
    assert public_url(public_base(only(GS)), PILOT_LOG) == PUBLIC_PILOT_LOG
    assert public_base(dataclasses.replace(LOGS, doors={})) == "https://storage.googleapis.com/drp-us-central1-logging"


def test_a_storage_with_no_public_address_is_named_in_one_sentence_with_exit_72() -> None:
    with pytest.raises(NoPublicDoor, match=r"storage GKE-LSST_LOGS has no https door .* set log_url_base") as refused:
        public_base(dataclasses.replace(LOGS, doors={}, bucket=""))
    assert refused.value.exit_code is ExitCode.BAD_QUEUEDATA


@pytest.mark.parametrize(
    "doors",
    [
        (GS,),
        (GS, HTTPS),
        (HTTPS,),
        (Door(1, "S3", "s3://storage.googleapis.com:443", "/drp-us-central1-logging/logs"),),
        (Door(1, "GS", "gs://drp-us-central1-logging/", "logs/"),),
    ],
)
def test_the_override_is_the_buckets_url_and_the_keys_prefix_follows_whatever_the_doors(
    doors: tuple[Door, ...],
) -> None:
    endpoint = only(*doors, bucket="drp-us-central1-logging")
    for override in ("http://127.0.0.1:4443/logging", "http://127.0.0.1:4443/logging/"):
        assert public_url(public_base(endpoint, override), PILOT_LOG) == (
            "http://127.0.0.1:4443/logging/logs/DOMA_LSST_DEV/PandaJob_4711/pilotlog.txt"
        )
    assert public_base(endpoint, "") == "https://storage.googleapis.com/drp-us-central1-logging/logs" or doors[0] != GS


def test_the_bucket_is_the_gs_doors_host_before_crics_resource() -> None:
    assert bucket_of(only(GS, bucket="other")) == "drp-us-central1-logging"
    assert bucket_of(only(HTTPS, bucket="other")) == "other"
    assert object_prefix(only()) == ""


def test_a_name_with_signs_of_url_syntax_is_quoted() -> None:
    url = public_url("https://host/b", log_object("Q", 1, "payload #1%20? a+b&c=ü.txt"))
    assert url == "https://host/b/Q/PandaJob_1/payload%20%231%2520%3F%20a%2Bb%26c%3D%C3%BC.txt"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\nb", "a\0b", "x" * 1100, "\ud800"])
def test_a_name_that_cannot_be_an_object_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="log object"):
        log_object("DOMA_LSST_DEV", 4711, name)


@given(name=st.text(min_size=1, max_size=60))
def test_any_accepted_name_gives_a_url_that_leads_back_to_its_object(name: str) -> None:
    try:
        relative = log_object("DOMA_LSST_DEV", 4711, name)
    except ValueError:
        return
    url = urlsplit(public_url(public_base(LOGS), relative))
    assert (url.netloc, url.query, url.fragment) == ("storage.googleapis.com", "", "")
    assert unquote(url.path) == f"/drp-us-central1-logging/logs/{relative}"
    assert url.path.isascii() and "+" not in url.path


def test_doors_come_in_the_order_of_the_activities_each_once_and_only_those_of_the_schemes() -> None:
    assert doors_for(LOGS, READ_ACTIVITIES, ("gs", "https")) == (GS, HTTPS)
    assert doors_for(LOGS, ("read_wan", "read_lan"), ("gs", "https")) == (HTTPS, GS)
    assert doors_for(LOGS, WRITE_ACTIVITIES, ("https",)) == ()


def test_a_doors_url_has_single_slashes_between_its_parts() -> None:
    assert GS.url("/DOMA/x") == "gs://drp-us-central1-logging/logs/DOMA/x"
    assert Door(1, "GS", "gs://bucket/", "").url("x") == "gs://bucket/x"
    assert Door(1, "GS", "GS://bucket", "/").scheme == "gs"


def test_the_deterministic_path_is_rucios() -> None:
    assert deterministic_path("user.jdoe", "file.root") == "user/jdoe/59/52/file.root"

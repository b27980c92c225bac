from __future__ import annotations

import pytest

from pilot.job.endpoint import Door
from pilot.storage.urls import ObjectName, door_url, local_path, object_name, scheme_of, shown

ENDPOINT = "https://storage.googleapis.com"


@pytest.mark.parametrize(
    ("url", "scheme"),
    [("gs://b/o", "gs"), ("S3://b/o", "s3"), ("/a/b", "file"), ("file:///a", "file"), ("a/b", ""), ("", "")],
)
def test_a_scheme_is_read(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("gs://bucket/a/b", ObjectName("bucket", "a/b")),
        ("s3://bucket/a?b#c%20d", ObjectName("bucket", "a?b#c%20d")),
        ("s3://storage.googleapis.com:443/bucket/a", ObjectName("bucket", "a")),
        ("s3://storage.googleapis.com//bucket/a", ObjectName("bucket", "a")),
        ("gs://bucket", None),
        ("gs://bucket/", None),
        ("gs:///a", None),
        ("s3://storage.googleapis.com/bucket", None),
    ],
)
def test_bucket_and_object_are_read_as_they_are(url: str, name: ObjectName | None) -> None:
    assert object_name(url, ENDPOINT) == name


@pytest.mark.parametrize(
    ("url", "path"),
    [("/a/b", "/a/b"), ("file:///a/b", "/a/b"), ("file://localhost/a", "/a"), ("file://host/a", ""), ("file://", "")],
)
def test_a_local_path_is_of_this_machine(url: str, path: str) -> None:
    assert local_path(url) == path


def test_only_web_doors_are_quoted() -> None:
    assert door_url(Door(1, "GS", "gs://bucket", "/rse"), "a b#c") == "gs://bucket/rse/a b#c"
    assert door_url(Door(1, "DAV", "https://host:443", "/rse"), "a b#c") == "https://host:443/rse/a%20b%23c"


def test_a_shown_url_holds_no_secret_and_no_control_character() -> None:
    assert shown("https://user:hush@host/a?sig=hush#hush") == "https://host/a"
    assert shown("gs://bucket/a\n\x1b[31mred") == "gs://bucket/a??[31mred"
    assert len(shown("gs://" + "x" * 1000)) == 300

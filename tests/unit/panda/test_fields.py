from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.panda import api_v1
from pilot.panda.fields import UPDATE_FIELDS, fitted, update_fields
from pilot.panda.wire import NotSendable

IDENTITY: dict[str, Any] = {"job_id": 1, "job_status": "running"}
anything = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.lists(st.integers(), max_size=2)
)


@given(st.dictionaries(st.sampled_from([*UPDATE_FIELDS, "timestamp", "no_such_parameter"]), anything))
def test_whatever_is_reported_has_the_types_of_the_server(fields: dict[str, Any]) -> None:
    for name, value in fitted(fields, UPDATE_FIELDS).items():
        match UPDATE_FIELDS[name]:
            case "int":
                assert type(value) is int
            case "number":
                assert type(value) in (int, float)
            case _:
                assert type(value) is str
                value.encode()


@pytest.mark.parametrize(
    ("name", "given_value", "sent"),
    [
        ("cpu_consumption_time", 12.6, 13),
        ("mean_core_count", 1.5, 2),
        ("attempt_nr", "3", 3),
        ("trans_exit_code", True, 1),
        ("max_rss", 1.5, 1.5),
        ("job_id", 2**53 + 1, 2**53 + 1),
        ("pilot_error_diag", "a\x00b\ud800", "ab?"),
        ("meta_data", {"b": 1}, '{"b": 1}'),
        ("pilot_timing", "9" * 120, "9" * 100),
    ],
)
def test_a_value_is_fitted_to_its_column(name: str, given_value: Any, sent: Any) -> None:
    assert fitted({name: given_value}, UPDATE_FIELDS) == {name: sent}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_rss", float("nan")),
        ("max_rss", float("inf")),
        ("max_rss", 10**30),
        ("trans_exit_code", "abc"),
        ("stdout", None),
        ("start_time", "yesterday"),
        ("end_time", 1234567.8),
        ("timestamp", "2026-01-01"),
    ],
)
def test_a_value_the_server_would_refuse_is_left_out(name: str, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert fitted({name: value}, UPDATE_FIELDS) == {}
    assert (name in caplog.text) == (value is not None)


@pytest.mark.parametrize(
    "fields", [{"job_status": "running"}, {"job_id": 1}, {"job_id": "NULL", "job_status": "running"}]
)
def test_an_update_without_job_or_state_is_not_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(NotSendable, match="lacks"):
        update_fields(fields)


def test_an_update_is_strict_json() -> None:
    body = api_v1.update({**IDENTITY, "avg_rss": float("nan"), "job_output_report": '{"log.tgz": {}}'}).body
    assert body is not None
    assert json.loads(body) == {**IDENTITY, "job_output_report": '{"log.tgz": {}}'}

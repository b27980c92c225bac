from __future__ import annotations

from pathlib import Path

import pytest

from pilot.job.errors import SettingsError
from pilot.panda.urls import check_ca, server_url


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("https://panda.example:25443", "https://panda.example:25443"),
        (" https://panda.example/ ", "https://panda.example"),
        ("https://panda.example:25443/server/panda", "https://panda.example:25443"),
        ("https://panda.example:25443/server/panda/", "https://panda.example:25443"),
        ("https://panda.example/api/v1", "https://panda.example"),
        ("https://panda.example/api/v1/pilot/", "https://panda.example"),
        ("https://ingress.example/panda/api/v1", "https://ingress.example/panda"),
        ("https://[::1]:25443/", "https://[::1]:25443"),
    ],
)
def test_an_address_is_brought_to_one_form(written: str, used: str) -> None:
    assert server_url(written) == used


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("http://panda.example:25080", "https only"),
        ("panda.example:25443", "write it as https://"),
        ("", "write it as https://"),
        ("https://", "write it as https://"),
        ("ftp://panda.example", "write it as https://"),
        ("https://panda.example:port", "not an address"),
        ("https://user:secret@panda.example", "more than host, port and path"),
        ("https://panda.example/?x=1", "more than host, port and path"),
    ],
)
def test_an_address_that_must_not_be_used_is_refused_in_words(written: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as raised:
        server_url(written)
    assert "secret" not in str(raised.value)


def test_a_ca_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(SettingsError, match="no certificate in PEM form"):
        check_ca(str(tmp_path / "empty.pem"))
    with pytest.raises(SettingsError, match="cannot be read"):
        check_ca(str(tmp_path / "absent.pem"))
    with pytest.raises(SettingsError, match="no hashed names"):
        check_ca(str(tmp_path))
    (tmp_path / "1a2b3c4d.0").write_text("-----BEGIN CERTIFICATE-----")
    check_ca(str(tmp_path))
    check_ca(None)

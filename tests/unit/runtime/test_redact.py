from __future__ import annotations

import base64
import json
import os
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.runtime.redact import MASK, Redactor, secret_parts
from pilot.runtime.secret import Secret

WORD = "s3cr3t/with+odd=chars & blank"


def knowing(*secrets: str) -> Redactor:
    redactor = Redactor()
    for secret in secrets:
        redactor.add(Secret(secret))
    return redactor


def test_a_secret_is_taken_out_as_it_is_wherever_it_stands() -> None:
    assert knowing(WORD).clean(f"a {WORD} b{WORD}") == f"a {MASK} b{MASK}"


@pytest.mark.parametrize(
    "shown",
    [
        quote(WORD, safe=""),
        quote_plus(WORD),
        urlencode({"password": WORD}),
        f"https://user:{quote(WORD, safe='')}@host/",
    ],
)
def test_a_secret_is_taken_out_of_urls(shown: str) -> None:
    cleaned = knowing(WORD).clean(shown)
    assert MASK in cleaned and "s3cr3t" not in cleaned


@given(st.text(min_size=6, max_size=80), st.binary(max_size=20), st.binary(max_size=20))
def test_a_secret_is_taken_out_of_base64_at_every_offset(secret: str, before: bytes, after: bytes) -> None:
    if len(secret.strip()) < 6 or len(secret.splitlines()) > 1:
        return
    raw = before + secret.strip().encode() + after
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        shown = encode(raw).decode()
        cleaned = knowing(secret).clean(shown)
        assert MASK in cleaned
        assert len(cleaned.replace(MASK, "")) <= (len(before) + len(after) + 4) * 4 // 3 + 6


def test_basic_authentication_is_taken_out() -> None:
    header = base64.b64encode(f"user:{WORD}".encode()).decode()
    cleaned = knowing(WORD).clean(f"Authorization: Basic {header}")
    assert base64.b64encode(WORD.encode()).decode()[4:20] not in cleaned and MASK in cleaned


def test_a_secret_of_several_lines_is_taken_out_line_by_line() -> None:
    cleaned = knowing("first line\nsecond line\n\nab\n").clean("x second line y, first line, ab")
    assert cleaned == f"x {MASK} y, {MASK}, ab"


def test_a_secret_inside_another_leaves_nothing_of_the_longer_one() -> None:
    assert knowing("abcdef", "abcdefghij").clean("abcdefghij") == MASK


def test_a_secret_in_json_or_repr_is_taken_out() -> None:
    secret = 'quote" back\\slash'
    redactor = knowing(secret)
    assert "slash" not in redactor.clean(json.dumps({"password": secret}))
    assert "slash" not in redactor.clean(repr({"password": secret}))


@pytest.mark.parametrize("word", ["", "   ", "short", "\n\n"])
def test_words_too_short_to_be_secrets_stay(word: str) -> None:
    assert knowing(word).clean(f"a short {word} text") == f"a short {word} text"


@pytest.mark.parametrize("secret", [os.fsdecode(b"\xff\xfebinary\x80"), "\ud800surrogate"])
def test_a_secret_that_is_no_unicode_is_taken_out_too(secret: str) -> None:
    assert knowing(secret).clean(f"x{secret}y") == f"x{MASK}y"


# --- credential files -------------------------------------------------------------------------------------------------

KEY_LINES = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "BKcwggSjAgEAAoIBAQC7"]
PEM = "-----BEGIN {0}PRIVATE KEY-----\n" + "\n".join(KEY_LINES) + "\n-----END {0}PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIE\n-----END CERTIFICATE-----\n"


def cleaned_by(file: str, text: str) -> str:
    redactor = Redactor()
    for part in secret_parts(Secret(file.strip())):
        redactor.add(part)
    return redactor.clean(text)


@pytest.mark.parametrize("kind", ["", "RSA ", "EC "])
def test_of_a_proxy_the_key_is_secret_and_the_certificates_are_not(kind: str) -> None:
    cleaned = cleaned_by(CERTIFICATE + PEM.format(kind) + CERTIFICATE, f"{CERTIFICATE} {KEY_LINES[1]} {KEY_LINES}")
    assert CERTIFICATE in cleaned
    assert not [line for line in KEY_LINES if line in cleaned]


def test_of_a_certificate_alone_nothing_is_secret() -> None:
    assert secret_parts(Secret(CERTIFICATE)) == []


def test_of_a_service_account_the_key_is_secret_and_the_address_is_not() -> None:
    file = json.dumps(
        {"private_key": PEM.format(""), "private_key_id": "0123456789abcdef", "client_email": "pilot@project"}
    )
    text = f"pilot@project 0123456789abcdef {json.dumps(PEM.format(''))}"
    cleaned = cleaned_by(file, text)
    assert cleaned.startswith(f"pilot@project {MASK}")
    assert not [line for line in KEY_LINES if line in cleaned]


def test_of_a_users_google_credentials_the_tokens_are_secret() -> None:
    file = json.dumps({"type": "authorized_user", "client_secret": "GOCSPX-abc", "refresh_token": "1//0abc"})
    assert cleaned_by(file, "GOCSPX-abc 1//0abc authorized_user") == f"{MASK} {MASK} authorized_user"


@pytest.mark.parametrize(
    "form",
    [
        "access_key: {}\nsecret_key: {}\n",
        "access_key={}\nsecret_key = '{}'",
        '{{"access_key": "{}", "secret_key": "{}"}}',
    ],
)
def test_of_a_key_file_the_values_are_secret(form: str) -> None:
    assert cleaned_by(form.format("AKIAEXAMPLE", "wJalrXUtnFEMI"), "AKIAEXAMPLE, wJalrXUtnFEMI") == f"{MASK}, {MASK}"


@pytest.mark.parametrize(
    "token",
    [
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln",
        "b3BhcXVlIHRva2Vu==",
        "token:with:colons",
        '{"unknown": 1}',
        "{broken",
    ],
)
def test_of_anything_else_all_is_secret(token: str) -> None:
    assert cleaned_by(token, f"Bearer {token}") == f"Bearer {MASK}"

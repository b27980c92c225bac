from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import ahocorasick_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.runtime.redact import (
    MASK,
    MIN_SECRET_CHARS,
    NEEDLE_MAX_BYTES,
    RECENT_FILES,
    TABLE_AFTER_BYTES,
    Needles,
    Redactor,
    secret_parts,
)
from pilot.runtime.secret import Secret, SecretFile, came_to_know, tell_of_secrets
from tests.bench.redaction import run_cases

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


AWKWARD = 'it\'s "5" <of> $HOME & `both`\\/!'


@pytest.mark.parametrize(
    "shown",
    [
        shlex.quote(AWKWARD),
        "'" + AWKWARD.replace("'", "'\\''") + "'",
        '"' + re.sub(r'([\\"$`])', r"\\\1", AWKWARD) + '"',
        json.dumps(AWKWARD).replace("/", "\\/"),
        json.dumps(AWKWARD).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
        html.escape(AWKWARD),
        html.escape(AWKWARD, quote=False),
        repr(AWKWARD.encode()),
        quote(AWKWARD, safe="!~*'()"),
        re.sub("%..", lambda code: code[0].lower(), quote_plus(AWKWARD)),
    ],
)
def test_a_secret_is_taken_out_between_any_quotes(shown: str) -> None:
    assert re.fullmatch(r"b?['\"]*\*\*\*['\"]*", knowing(AWKWARD).clean(shown))


def test_a_shells_own_words_for_a_secret_are_known() -> None:
    script = 'set -x; : "$1"; printf "%q\\n" "$1"; echo "$1" | base64; printf %s "$1" | base64 -w 64'
    done = subprocess.run(["bash", "-c", script, "bash", AWKWARD * 3], capture_output=True, text=True, check=True)
    for line in knowing(AWKWARD * 3).clean(done.stdout + done.stderr).splitlines():
        assert re.fullmatch(r"\+ (:|echo|printf .*) '\*\*\*'|\+ base64.*|'?(\*\*\*)?'?[\w=]{0,4}", line)


def test_secrets_that_overlap_leave_nothing_of_each_other() -> None:
    assert knowing("abcdefgh", "efghijkl").clean("<abcdefghijkl>") == f"<{MASK}>"


def test_what_a_cut_left_of_a_secret_is_taken_out_too() -> None:
    token = "eyJhbGciOiJSUzI1NiJ9." + "x1y2z3" * 300
    assert knowing(token).clean(f"refused: {token}"[:200]) == f"refused: {MASK}"
    assert knowing(WORD).clean(f"refused: {WORD[:10]}") == f"refused: {MASK}"
    assert token[:40] not in knowing(token).clean(f"{token[: NEEDLE_MAX_BYTES + 10]} and more")


def test_long_secrets_in_any_letters_are_taken_out() -> None:
    secret = "пароль" * 100
    assert knowing(secret).clean(f"<{secret}>") == f"<{MASK}>"
    assert MASK in knowing(secret).clean(secret[:150] + "end")  # no piece ends within a letter, or it is shown as bytes


# --- streams and files ------------------------------------------------------------------------------------------------


def test_no_random_secret_leaks_in_any_encoding_and_chunking() -> None:
    assert run_cases(20_000, seed=20_000_000) == []


def test_every_split_of_a_needle_is_seen() -> None:
    data = b"before " + WORD.encode() + b" after"
    redactor = knowing(WORD)
    for first in range(len(data)):
        for second in range(first, len(data)):
            stream = redactor.stream()
            shown = [stream.feed(data[:first]), stream.feed(data[first:second]), stream.feed(data[second:])]
            assert b"".join([*shown, stream.flush()]) == b"before " + b"*" * len(WORD) + b" after"


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=8), st.binary(max_size=200))
def test_the_table_for_large_texts_finds_the_same(needles: list[bytes], text: bytes) -> None:
    usual, for_much = Needles(needles), Needles(needles)
    for_much._make_table_for_much(TABLE_AFTER_BYTES + 1)
    joined = text + b"".join(needles) + text
    assert for_much.spans(joined, ended=True) == usual.spans(joined, ended=True)


def test_a_large_text_is_read_with_a_table_unless_it_would_take_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    library = ahocorasick_rs.BytesAhoCorasick

    def automaton(needles: Any, **how: Any) -> Any:
        if max(map(len, needles)) > MIN_SECRET_CHARS:  # not the one of their beginnings
            made.append(how.get("implementation"))
        return library(needles, **how)

    monkeypatch.setattr(ahocorasick_rs, "BytesAhoCorasick", automaton)
    for needles in ({b"0123456789"}, {b"%09d" % number for number in range(10_000)}):
        found = Needles(needles)
        for _block in range(9):
            found.spans(bytes(1 << 20), ended=False)
    assert made == [None, ahocorasick_rs.Implementation.DFA, None]


def test_with_a_job_goes_the_table_that_was_made_for_its_texts() -> None:
    redactor = Redactor()
    redactor.add(Secret("open-sesame-42"))
    with redactor.knowing([]):
        redactor.needles().spans(bytes(TABLE_AFTER_BYTES + 1), ended=False)
        assert redactor.needles()._until_table_bytes is None
    assert redactor.needles()._until_table_bytes == TABLE_AFTER_BYTES
    assert redactor.mask(b"say open-sesame-42 now") == b"say ************** now"


def test_a_stream_without_secrets_holds_nothing_back() -> None:
    stream = Redactor().stream()
    assert stream.feed(b"at once") == b"at once"
    assert stream.flush() == b""


def test_a_file_has_as_many_bytes_as_before_and_is_read_in_any_order(tmp_path: Path) -> None:
    content = (b"x" * 70_000).join([b"", WORD.encode(), WORD.encode(), b""])
    path = tmp_path / "log"
    path.write_bytes(content)
    expected = content.replace(WORD.encode(), b"*" * len(WORD))
    with knowing(WORD).reading(path.open("rb")) as file:
        assert file.seek(0, io.SEEK_END) == len(content)
        for start in (0, 70_000, 70_010, 69_990, len(content) - 5, 3):
            file.seek(start)
            assert file.read(100) == expected[start : start + 100]
        file.seek(0)
        assert file.read() == expected
        assert os.fstat(file.fileno()).st_size == len(content)
        inner = file.raw
    assert inner.closed


def test_a_file_that_is_being_read_is_masked_by_what_was_known_at_its_beginning() -> None:
    redactor = knowing(WORD)
    file = redactor.reading(io.BytesIO(b"another secret"))
    redactor.add(Secret("another secret"))
    assert file.read() == b"another secret"  # or a retried upload would send other bytes than were hashed


def test_many_matches_cost_little_memory() -> None:
    assert knowing("aaaaaa").mask(b"a" * 1_000_000) == b"*" * 1_000_000


# --- what is known when -----------------------------------------------------------------------------------------------


def test_secrets_for_a_time_are_forgotten_when_it_is_over() -> None:
    redactor = knowing(WORD)
    with redactor.knowing([Secret("for this job"), Secret(WORD)]):
        with redactor.knowing([Secret("for this job")]):
            assert redactor.clean(f"for this job {WORD}") == f"{MASK} {MASK}"
        assert redactor.clean("for this job") == MASK
    assert redactor.clean(f"for this job {WORD}") == f"for this job {MASK}"


def test_a_renewed_token_is_known_when_it_is_read(tmp_path: Path) -> None:
    redactor = Redactor()
    tell_of_secrets(redactor.learn)
    try:
        path = tmp_path / "token"
        file = SecretFile(path)
        for token in ("first-token", "second-token"):
            path.write_text(token)
            os.utime(path, ns=(1, len(token)))
            file.read()
        assert redactor.clean("first-token second-token") == f"{MASK} {MASK}"
        came_to_know(Secret("access-token"))
        assert redactor.clean("access-token") == MASK
    finally:
        tell_of_secrets(lambda _secret: None)


def test_of_renewed_tokens_the_latest_stay_known_and_what_was_there_from_the_start() -> None:
    redactor = Redactor()
    redactor.learn(Secret("from-the-start"), for_good=True)
    for number in range(RECENT_FILES + 1):
        redactor.learn(Secret("from-the-start"))
        redactor.learn(Secret(f"token-{number:04d}"))
    assert redactor.clean("token-0000 token-0001") == f"token-0000 {MASK}"
    assert redactor.clean("from-the-start") == MASK


def test_secrets_may_be_added_while_texts_are_cleaned() -> None:
    redactor = knowing(WORD)

    def add() -> None:
        for number in range(200):
            redactor.add(Secret(f"secret {number}"))

    adding = threading.Thread(target=add)
    adding.start()
    while adding.is_alive():
        assert redactor.clean(WORD) == MASK
    adding.join()
    assert redactor.clean("secret 199") == MASK


# --- credential files -------------------------------------------------------------------------------------------------

KEY_LINES = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "BKcwggSjAgEAAoIBAQC7"]
PEM = "-----BEGIN {0}PRIVATE KEY-----\n" + "\n".join(KEY_LINES) + "\n-----END {0}PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIE\n-----END CERTIFICATE-----\n"


def cleaned_by(file: str, text: str) -> str:
    redactor = Redactor()
    redactor.learn(Secret(file.strip()))
    return redactor.clean(text)


def test_a_key_file_in_base64_is_taken_out() -> None:
    printed = base64.encodebytes((CERTIFICATE + PEM.format("") + CERTIFICATE).encode()).decode()
    assert len(cleaned_by(CERTIFICATE + PEM.format("") + CERTIFICATE, printed).replace(MASK, "").strip()) < 5


@pytest.mark.parametrize("kind", ["", "RSA ", "EC "])
def test_of_a_proxy_the_key_is_secret_and_the_certificates_are_not(kind: str) -> None:
    cleaned = cleaned_by(CERTIFICATE + PEM.format(kind) + CERTIFICATE, f"{CERTIFICATE} {KEY_LINES[1]} {KEY_LINES}")
    assert CERTIFICATE in cleaned
    assert not [line for line in KEY_LINES if line in cleaned]


def test_of_a_certificate_alone_nothing_is_secret() -> None:
    assert secret_parts(Secret(CERTIFICATE)) == []


def test_of_a_service_account_the_key_is_secret_and_its_address_and_id_are_not() -> None:
    file = json.dumps(
        {"private_key": PEM.format(""), "private_key_id": "0123456789abcdef", "client_email": "pilot@project"}
    )
    text = f"pilot@project 0123456789abcdef {json.dumps(PEM.format(''))}"
    cleaned = cleaned_by(file, text)
    assert cleaned.startswith("pilot@project 0123456789abcdef")  # the id stands in the header of every token
    assert MASK in cleaned
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

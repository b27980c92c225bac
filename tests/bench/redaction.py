"""``make bench-redaction``: how fast secrets are taken out, and whether any of a million random cases slips through.

Speed: one core, 200 secrets (all their forms) and 200 plain needles, on lines as pipetask writes them, with a secret in
every ``--every`` lines. Cases: a random secret, written in a random way into random text, given in random chunks.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import shlex
import string
import sys
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

from pilot.runtime.redact import MIN_SECRET_CHARS, Needles, Redactor
from pilot.runtime.secret import Secret

SECRETS_PER_REDACTOR = 20  # of the random cases; building one costs as much as many cases
CASES_PER_REDACTOR = 1000
Write = Callable[[str, random.Random], bytes]


def _in_base64(urlsafe: bool) -> Write:
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode

    def write(secret: str, chance: random.Random) -> bytes:
        return encode(chance.randbytes(chance.randrange(8)) + secret.encode() + chance.randbytes(chance.randrange(8)))

    return write


# How a secret gets into a log: what writes it into bytes, and how many bytes at each end may stay (quotes, a key, and in
# base64 up to eight bytes of neighbours and a character that has bits of both).
WRITINGS: dict[str, tuple[Write, int]] = {
    "plain": (lambda secret, _chance: secret.encode(), 0),
    "base64": (_in_base64(urlsafe=False), 12),
    "base64url": (_in_base64(urlsafe=True), 12),
    "base64 command": (lambda secret, _chance: base64.encodebytes(secret.encode()), 4),
    "URL": (lambda secret, _chance: quote(secret, safe="").encode(), 0),
    "URL path": (lambda secret, _chance: quote(secret).encode(), 0),
    "URL form": (lambda secret, _chance: quote_plus(secret).encode(), 0),
    "JSON": (lambda secret, _chance: json.dumps({"key": secret}).encode(), 9),
    "JSON, Unicode": (lambda secret, _chance: json.dumps([secret], ensure_ascii=False).encode(), 2),
    "shell": (lambda secret, _chance: shlex.quote(secret).encode(), 1),
    "Python": (lambda secret, _chance: repr(secret).encode(), 1),
}
_ORDINARY = string.ascii_letters + string.digits + "+/=_-."
_AWKWARD = _ORDINARY + " !\"#$%&'()*,:;<>?@[\\]^`{|}~äß€"


def random_secret(chance: random.Random) -> str:
    letters = _AWKWARD if chance.random() < 0.5 else _ORDINARY
    longest = 700 if chance.random() < 0.05 else 64
    while True:
        secret = "".join(chance.choices(letters, k=chance.randint(MIN_SECRET_CHARS, longest))).strip()
        if len(secret) >= MIN_SECRET_CHARS:
            return secret


def in_chunks(data: bytes, chance: random.Random) -> list[bytes]:
    """The data cut at random, often to single bytes."""
    longest = chance.choice((1, 7, 16, 64, 64, 256, 4096, 4096))
    chunks = []
    while data:
        size = chance.randint(1, longest)
        chunks.append(data[:size])
        data = data[size:]
    return chunks


def leaks(written: bytes, edge: int, shown: bytes, before: bytes) -> bool:
    """True when anything of what was written is shown, but for ``edge`` bytes at its ends and its line ends."""
    middle = shown[len(before) : len(before) + len(written)]
    inner = range(edge, len(written) - edge)
    return any(middle[index] == written[index] and written[index] not in b"*\n" for index in inner)


def run_cases(cases: int, seed: int) -> list[str]:
    """The cases that leaked, in words; empty when none did."""
    failed = []
    for number in range(0, cases, CASES_PER_REDACTOR):
        chance = random.Random(seed + number)
        secrets = [random_secret(chance) for _ in range(SECRETS_PER_REDACTOR)]
        redactor = Redactor()
        for secret in secrets:
            redactor.add(Secret(secret))
        for _ in range(min(CASES_PER_REDACTOR, cases - number)):
            failed += _one_case(redactor, chance.choice(secrets), chance)
    return failed


def _one_case(redactor: Redactor, secret: str, chance: random.Random) -> list[str]:
    name = chance.choice(list(WRITINGS))
    before, after = (chance.choice((b"", b" ", b"x", b"line\n", chance.randbytes(30))) for _ in range(2))
    write, edge = WRITINGS[name]
    written = write(secret, chance)
    data = before + written + after
    whole = redactor.mask(data)
    stream = redactor.stream()
    streamed = b"".join([*(stream.feed(chunk) for chunk in in_chunks(data, chance)), stream.flush()])
    read = _read_in_chunks(redactor, data, chance)
    words = f"{name} of {secret!r} between {before!r} and {after!r}"
    if not whole == streamed == read:
        return [f"not alike: {words}"]
    return [f"leaked: {words}: {whole!r}"] if leaks(written, edge, whole, before) else []


def _read_in_chunks(redactor: Redactor, data: bytes, chance: random.Random) -> bytes:
    file = redactor.reading(io.BytesIO(data))
    size = chance.choice((3, 50, 5000))
    pieces = []
    while piece := file.read(size):
        pieces.append(piece)
    return b"".join(pieces)


def speed_bytes_per_s(needles: Needles, size_bytes: int, secrets: list[str], every: int) -> float:
    """Bytes a second of CPU time through a stream of 64 KiB chunks."""
    from pilot.runtime.redact import RedactingStream

    text = _log_text(size_bytes, secrets, every)
    stream = RedactingStream(needles)
    started_s = time.process_time()
    for start in range(0, len(text), 64 << 10):
        stream.feed(text[start : start + (64 << 10)])
    stream.flush()
    return len(text) / (time.process_time() - started_s)


def _log_text(size_bytes: int, secrets: list[str], every: int) -> bytes:
    chance = random.Random(7)
    lines = []
    for number in range(2000):
        lines.append(
            f"INFO 2026-11-23T05:38:{number % 60:02d}.123Z lsst.ctrl.mpexec.singleQuantumExecutor (isr:{{instrument: "
            f"'LSSTCam', detector: {chance.randrange(189)}, visit: {chance.randrange(10**12)}}}) - Execution of task took "
            f"{100 * chance.random():.3f} seconds; {chance.randbytes(8).hex()}\n"
        )
        if every and number % every == 0:
            lines.append(f"Authorization: Bearer {chance.choice(secrets)}\n")
    page = "".join(lines).encode()
    return (page * (size_bytes // len(page) + 1))[:size_bytes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--megabytes", type=int, default=32)
    parser.add_argument("--every", type=int, default=100)
    options = parser.parse_args()
    chance = random.Random(3)
    secrets = ["".join(chance.choices(_ORDINARY, k=chance.choice((16, 20, 40, 64)))) for _ in range(200)]
    redactor = Redactor()
    for secret in secrets:
        redactor.add(Secret(secret))
    for name, needles in (
        ("200 plain needles", Needles(secret.encode() for secret in secrets)),
        ("200 secrets in all forms", redactor.needles()),
    ):
        rate = speed_bytes_per_s(needles, options.megabytes * 1_000_000, secrets, options.every)
        print(f"{name:<26} {len(needles):>6} needles {rate / 1e6:>8.0f} MB/s", flush=True)
    started_s = time.process_time()
    failed = run_cases(options.cases, options.seed)
    spent_s = time.process_time() - started_s
    print(f"{options.cases} cases from seed {options.seed}: {len(failed)} leaks, {spent_s:.0f} s")
    print(*failed[:10], sep="\n", end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

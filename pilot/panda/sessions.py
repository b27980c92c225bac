"""Kept-alive connections to the server, one session per call in progress, renewed with the credentials."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pilot.panda.auth import Credentials
from pilot.runtime.clock import monotonic_s
from pilot.runtime.http import Session

# Apache closes idle connections after 5 s by default. A job request that races with this closing would be in doubt
# (was it read?), so a connection is given up before; a handshake costs milliseconds.
MAX_IDLE_S = 4.0


@dataclass(frozen=True, slots=True)
class _Kept:
    session: Session
    stamp: object
    used_at_s: float


class Sessions:
    """Lends a session to one caller at a time; callers in parallel get one each. No lock is held while one is lent.

    A session is bound to the certificate files it was made with (their inode, size and time): once these change the
    old one is closed and the next call shows the new certificate.
    """

    def __init__(self, credentials: Credentials, ca: str | None) -> None:
        self._credentials = credentials
        self._ca = ca
        self._idle: deque[_Kept] = deque()  # append and pop of a deque are atomic
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[Session]:
        """A session for the current certificate. Raises CredentialsUnusable when its files cannot be used."""
        stamp = self._credentials.stamp()
        session = self._kept(stamp) or self._new()
        try:
            yield session
        except BaseException:
            session.close()
            raise
        self._idle.append(_Kept(session, stamp, monotonic_s()))
        if self._closed:
            self.close()

    def close(self) -> None:
        """Close every idle session, and those in use as soon as they are given back."""
        self._closed = True
        while self._idle:
            self._pop_and_close()

    def _kept(self, stamp: object) -> Session | None:
        while True:
            try:
                kept = self._idle.pop()
            except IndexError:
                return None
            if kept.stamp == stamp and monotonic_s() - kept.used_at_s <= MAX_IDLE_S:
                return kept.session
            kept.session.close()

    def _new(self) -> Session:
        self._credentials.check_readable()
        return Session(self._ca, self._credentials.client_cert())

    def _pop_and_close(self) -> None:
        try:
            self._idle.pop().session.close()
        except IndexError:  # another thread was faster
            return

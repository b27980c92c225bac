"""Ports on loopback that nobody else gets: bound as soon as they are chosen, and served or given on from there.

Many sandboxes start at once on one machine (tests). A port that was only looked at belongs to whoever binds it first.
"""

from __future__ import annotations

import socket
from secrets import SystemRandom

PORTS = range(15_000, 32_000)  # below Linux's ip_local_port_range (32768 on): no connection of a client takes one
LOOPBACK = "127.0.0.1"
_TRIES = 100
_random = SystemRandom()  # processes that were given one seed must not choose alike


class NoFreePort(RuntimeError):
    """All that were tried are taken."""


def held_port(wanted: int | None = None) -> socket.socket:
    """A socket bound to the wanted port when nobody has it, else to a free one. Raises NoFreePort.

    Who serves listens on it; who wants a child to serve closes it just before the child starts.
    """
    if wanted:
        try:
            return _bound(wanted, former=True)
        except OSError:
            pass
    for port in _random.sample(PORTS, _TRIES):
        try:
            return _bound(port, former=False)
        except OSError:
            continue
    raise NoFreePort(f"There is no free port on {LOOPBACK}.")


def port_of(held: socket.socket) -> int:
    return int(held.getsockname()[1])


def _bound(port: int, *, former: bool) -> socket.socket:
    """``former``: a port of ours that may still have connections that are closing. Without that, two could bind one port."""
    held = socket.socket()
    try:
        if former:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((LOOPBACK, port))
    except OSError:
        held.close()
        raise
    return held

"""Ports that nobody else gets, from the moment they are chosen."""

from __future__ import annotations

import socket

import pytest

from pilot.sandbox.free_ports import LOOPBACK, PORTS, held_port, port_of


def test_a_held_port_is_one_that_no_connection_takes_and_nobody_else_can_hold() -> None:
    with held_port() as mine:
        assert port_of(mine) in PORTS
        with held_port(port_of(mine)) as other:
            assert port_of(other) != port_of(mine)
        with socket.socket() as probe, pytest.raises(OSError, match="in use"):
            probe.bind((LOOPBACK, port_of(mine)))


def test_the_wanted_port_is_had_when_nobody_has_it_although_a_connection_of_it_is_still_closing() -> None:
    with held_port() as mine:
        port = port_of(mine)
        mine.listen()
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server has it
        with socket.create_connection((LOOPBACK, port)) as client:
            served, _address = mine.accept()
            served.close()  # first: its side waits for late packets now
            assert client.recv(1) == b""
    with held_port(port) as again:
        assert port_of(again) == port


def test_a_child_can_bind_what_was_let_go() -> None:
    with held_port() as mine:
        port = port_of(mine)
    with socket.socket() as child:
        child.bind((LOOPBACK, port))

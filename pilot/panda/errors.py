"""The client's errors; they are part of the port, so that the flow can name them without importing this package."""

from __future__ import annotations

from pilot.ports import CredentialsRefused, ServerRefused, ServerUnreachable

__all__ = ["CredentialsRefused", "ServerRefused", "ServerUnreachable"]

"""A PanDA pilot for the Vera C. Rubin Observatory."""

from __future__ import annotations

__version__ = "0.1.0"

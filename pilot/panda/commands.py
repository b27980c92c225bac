"""The words by which the server steers a running job, in the answer to an update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilot.ports import UpdateAnswer

_NOTHING = frozenset({"", "NULL", "None"})
_MAX_COMMANDS = 32
_MAX_COMMAND_CHARS = 500


def update_answer(data: Mapping[str, Any]) -> UpdateAnswer:
    """``command`` may be missing, the text ``NULL``, or several words joined by commas (``debug,tobekilled``).

    ``pilotSecrets``, which comes with debug mode, is dropped here: the pilot has no use for it.
    """
    command = data.get("command")
    if not isinstance(command, str):
        return UpdateAnswer()
    words = (word.strip()[:_MAX_COMMAND_CHARS] for word in command.split(",", _MAX_COMMANDS)[:_MAX_COMMANDS])
    return UpdateAnswer(tuple(word for word in words if word not in _NOTHING))

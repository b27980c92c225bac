"""All looks at once, each on a thread of its own, those first that others wait for; over when the time is over.

What is still waiting then, for a server that says nothing, is left behind: the process ends soon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Thread

from pilot.check.finding import SUFFERING, Finding, wrong
from pilot.runtime.stop import Deadline


@dataclass(frozen=True, slots=True)
class Look:
    """``look`` gives its findings; it begins when all of ``after`` have ended. ``silence``: the exit code of a run that finds
    what this one found: no answer. ``remedy`` likewise.
    """

    name: str
    look: Callable[[], Sequence[Finding]]
    after: tuple[str, ...] = ()
    silence: int = SUFFERING
    remedy: str = "look what holds it up"


def side_by_side(looks: Sequence[Look], within_s: float) -> tuple[Finding, ...]:
    """The findings of all, in the order of ``looks``. One that fails in itself, or does not end in time, is a finding too."""
    deadline, found = Deadline(within_s), dict[str, Sequence[Finding]]()
    ended = {look.name: Event() for look in looks}

    def run(look: Look) -> None:
        if not all(ended[name].wait(deadline.left_s()) for name in look.after):
            return
        try:
            found[look.name] = look.look()
        except Exception as error:  # noqa: BLE001  (the boundary: a check that breaks must not hide the others)
            sentence = f"the check itself failed: {type(error).__name__}: {error}"
            found[look.name] = (wrong(look.name, sentence, "report this to the pilot's maintainers"),)
        ended[look.name].set()

    for look in looks:
        Thread(target=run, args=(look,), name=f"check-{look.name}", daemon=True).start()
    for event in ended.values():
        event.wait(deadline.left_s())
    silent = {look.name: (_silent(look, within_s),) for look in looks}
    return tuple(finding for look in looks for finding in found.get(look.name, silent[look.name]))


def _silent(look: Look, within_s: float) -> Finding:
    return wrong(look.name, f"no answer within {within_s:.1f} s", look.remedy, look.silence)

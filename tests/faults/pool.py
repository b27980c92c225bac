"""Several laboratories at once, each a process with a sandbox of its own: ``python -m tests.faults.pool [KEEP]`` is one.

It reads plans from its standard input and answers each with its result, both pickled (they are our own).
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

from tests.faults.laboratory import Laboratory, Result
from tests.faults.plan import Plan

END_S = 30.0


def run_all(plans: list[Plan], workers: int, keep: Path | None = None) -> Iterator[Result]:
    """The results as they come. Raises RuntimeError when a laboratory is lost."""
    waiting: SimpleQueue[Plan] = SimpleQueue()
    for plan in plans:
        waiting.put(plan)
    results: SimpleQueue[Result | None] = SimpleQueue()  # None: a laboratory has ended
    threads = [
        threading.Thread(target=_employ, args=(waiting, results, keep), name=f"laboratory-{number}")
        for number in range(min(workers, len(plans)))
    ]
    for thread in threads:
        thread.start()
    running, count = len(threads), 0
    while running:
        result = results.get()
        if result is None:
            running -= 1
        else:
            count += 1
            yield result
    for thread in threads:
        thread.join()
    if count < len(plans):
        raise RuntimeError(f"{len(plans) - count} runs were not made: a laboratory ended, its words are above")


def _employ(waiting: SimpleQueue[Plan], results: SimpleQueue[Result | None], keep: Path | None) -> None:
    """Feed one laboratory until no plan is waiting."""
    command = [sys.executable, "-m", __name__, *([str(keep)] if keep else [])]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while True:
            pickle.dump(waiting.get_nowait(), process.stdin)
            process.stdin.flush()
            results.put(pickle.load(process.stdout))
    except (Empty, EOFError, OSError):
        pass
    finally:
        process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        results.put(None)


def main() -> int:
    keep = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is not an answer
    with Laboratory(keep) as laboratory:
        while True:
            try:
                plan = pickle.load(sys.stdin.buffer)
            except EOFError:
                return 0
            pickle.dump(laboratory.run(plan), answers)
            answers.flush()


if __name__ == "__main__":
    sys.exit(main())

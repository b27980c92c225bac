"""Several laboratories at once, each a process with a sandbox of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.util import Finalize
from pathlib import Path

from tests.faults.laboratory import Laboratory, Result
from tests.faults.plan import Plan

_open: list[Laboratory] = []


def _open_laboratory(keep: Path | None) -> None:
    laboratory = Laboratory(keep)
    laboratory.__enter__()
    _open.append(laboratory)
    Finalize(None, laboratory.__exit__, (None, None, None), exitpriority=10)


def _run(plan: Plan) -> Result:
    return _open[0].run(plan)


def run_all(plans: list[Plan], workers: int, keep: Path | None = None) -> Iterator[Result]:
    """The results as they come."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _open_laboratory, (keep,)) as pool:
        for run in as_completed([pool.submit(_run, plan) for plan in plans]):
            yield run.result()

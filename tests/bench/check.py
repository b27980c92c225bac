"""``make bench-check``: how long ``pilot-start --check`` takes, from start to end of its process, also when servers are silent.

Prints a table and writes build/bench-check.json. Loopback, one machine; medians. Nothing is asserted here.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from pilot.sandbox.world import World

PILOT = str(Path(sys.executable).with_name("pilot-start"))
QUEUE = "DOMA_LSST_DEV"
SERVERS = ("server", "cric", "gcs_endpoint", "s3_endpoint", "cloud_logging_endpoint")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("build/bench-check.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pilot-bench-") as scratch:
        rows = _rows(Path(scratch), options.runs)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(
            f"{row['name']:<22} exit {row['exit_code']:>3}   median {row['median_s']:.2f} s   worst {row['worst_s']:.2f} s"
        )
    return 0


def _rows(scratch: Path, runs: int) -> list[dict[str, object]]:
    with World(scratch / "world") as world, socket.create_server(("127.0.0.1", 0), backlog=256) as silent:
        settings = yaml.safe_load((world.state_dir / "pilot.yaml").read_text())
        nobody = f"https://localhost:{silent.getsockname()[1]}"  # connections are taken, and nothing is said
        cases = {
            "all is good": {},
            "PanDA server silent": {"server": nobody},
            "CRIC silent": {"cric": nobody, "server": nobody},
            "stores silent": {"gcs_endpoint": nobody, "s3_endpoint": nobody},
            "all are silent": dict.fromkeys(SERVERS, nobody),
        }
        return [_measured(name, {**settings, **changes}, scratch, runs) for name, changes in cases.items()]


def _measured(name: str, settings: dict[str, object], scratch: Path, runs: int) -> dict[str, object]:
    config = scratch / "pilot.yaml"
    config.write_text(yaml.safe_dump(settings))
    argv = [PILOT, "--check", "--json", "--queue", QUEUE, "--config", str(config), "--workdir", str(scratch / "work")]
    took_s, exit_code = [], 0
    for _run in range(runs):
        began_s = time.monotonic()
        exit_code = subprocess.run(
            argv, env={"PATH": os.environ["PATH"], "HOME": str(scratch)}, stdout=subprocess.DEVNULL
        ).returncode
        took_s.append(time.monotonic() - began_s)
    return {"name": name, "exit_code": exit_code, "median_s": statistics.median(took_s), "worst_s": max(took_s)}


if __name__ == "__main__":
    sys.exit(main())

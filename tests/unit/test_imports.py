"""The rooms of the house and their doors: who may import whom (docs/design.md), walked over the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PILOT = Path(__file__).parents[2] / "pilot"
MODULES = sorted(PILOT.rglob("*.py"))
FLOW = {"jobrun", "jobnotes", "worker", "worker_status", "push", "outbox", "heartbeat", "recovery", "debug"}
GROUND = {"job", "runtime"}
WIRING = {"cli", "app", "parts", "own_logs", "watching", "checking"}
# room -> the rooms it may import besides itself; a name in pilot/__init__.py (the version) is nobody's secret
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "job": set(),
    "runtime": {"job"},
    "panda": GROUND | {"ports"},
    "cric": GROUND | {"ports"},
    "storage": GROUND | {"ports"},
    "payload": GROUND | {"storage", "ports"},
    "logs": GROUND | {"storage", "ports"},
    "ports": GROUND,
    "options": set(),
    "settings": GROUND | {"options"},
    "own_logs": GROUND | {"settings", "logs", "panda", "ports"},
    "watch": {"runtime", "logs"},
    "watching": {"runtime", "settings", "watch"},
    "check": GROUND | {"panda", "storage", "payload"},
    "cli": GROUND | {"options", "settings", "app", "checking"},
    "publish": GROUND | {"options", "settings", "payload", "storage"},
    "entry": {"runtime", "cli"},
    "replay": GROUND | {"ports", "options", "settings", "panda", "cric", "storage", "payload"},
    "sandbox": GROUND | {"logs"},
    **dict.fromkeys(FLOW, GROUND | {"ports"} | FLOW),
}
EVERYTHING = {room for room in MAY_IMPORT if room not in ("sandbox", "check")}
MAY_IMPORT["app"] = MAY_IMPORT["parts"] = EVERYTHING | {"parts"}
MAY_IMPORT["checking"] = EVERYTHING | {"app", "check", "parts"}


def room_of(path: Path) -> str:
    return path.relative_to(PILOT).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[str]:
    """Full names of what a module imports, at its top or later."""
    package = ["pilot", *path.relative_to(PILOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imported(path) if name.startswith("pilot.")}
    return {name for name in names if (PILOT / name).is_dir() or (PILOT / f"{name}.py").exists()}


def name_of(path: Path) -> str:
    return str(path.relative_to(PILOT))


def test_every_room_has_its_rule() -> None:
    assert {room_of(path) for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    assert rooms_imported(path) - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_wiring_and_commands_import_settings_and_nothing_imports_the_sandbox(path: Path) -> None:
    room, rooms = room_of(path), rooms_imported(path)
    assert "settings" not in rooms or room in WIRING | {"publish", "replay"}
    assert "sandbox" not in rooms or room == "sandbox"


@pytest.mark.parametrize("room", ["sandbox", "watch"])
def test_of_the_logs_the_sandbox_and_who_watches_see_the_page_alone(room: str) -> None:
    names = {name for path in (PILOT / room).rglob("*.py") for name in imported(path)}
    assert all(name.startswith("pilot.logs.page") for name in names if name.startswith("pilot.logs"))


def test_a_run_imports_nothing_of_the_check() -> None:
    of_the_check = {path for path in MODULES if room_of(path) in ("check", "checking")}
    others = {path for path in MODULES if rooms_imported(path) & {"check", "checking"}} - of_the_check
    assert [name_of(path) for path in others] == ["cli.py"]
    code = "import sys, pilot.app; print([name for name in sys.modules if name.startswith('pilot.check')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_job_does_no_input_or_output() -> None:
    names = {name.split(".")[0] for path in (PILOT / "job").rglob("*.py") for name in imported(path)}
    assert not names & {
        "os",
        "sys",
        "socket",
        "subprocess",
        "threading",
        "time",
        "shutil",
        "tempfile",
        "logging",
        "requests",
    }


# --- what may stand in no module --------------------------------------------------------------------------------------


def nodes(path: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_settings_look_at_the_environment(path: Path) -> None:
    if room_of(path) in ("settings", "sandbox") or name_of(path) == "runtime/health.py":
        return  # a health check cannot afford to import the settings; a test holds the two together
    used = [
        n for n in nodes(path) if isinstance(n, ast.Attribute) and n.attr in ("environ", "environb", "getenv", "putenv")
    ]
    assert used == []
    assert not {"os.environ", "os.getenv", "os.environb"} & set(imported(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_shell_no_unverified_tls_and_no_bare_except(path: Path) -> None:
    for node in nodes(path):
        if isinstance(node, ast.keyword) and node.arg in ("shell", "verify", "check_hostname"):
            allowed = isinstance(node.value, ast.Constant) and node.value.value is (node.arg != "shell")
            assert allowed or not isinstance(node.value, ast.Constant), f"{node.arg} at line {node.value.lineno}"
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            assert name not in ("CERT_NONE", "_create_unverified_context", "disable_warnings"), name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in ("system", "popen"), f"line {node.lineno}"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_begins_alike(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if tree.body:
        future = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
        assert future or all(isinstance(node, ast.Expr) for node in tree.body)


# --- start-up is a feature --------------------------------------------------------------------------------------------

HEAVY = (
    "requests",
    "boto3",
    "botocore",
    "google",
    "yaml",
    "cryptography",
    "psutil",
    "tenacity",
    "trustme",
    "pilot.sandbox",
)


@pytest.mark.parametrize("module", ["pilot.cli", "pilot.options", "pilot.job.parse", "pilot.runtime.stop"])
def test_importing_the_entry_point_imports_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_wiring_the_pilot_imports_no_store_library_before_it_is_used() -> None:
    code = (
        "import sys, pilot.app, pilot.parts; print([n for n in ('boto3', 'google.cloud.storage') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_pilot_asks_for_a_job_before_it_imports_what_jobs_run_with() -> None:
    names = (
        "pilot.jobrun",
        "pilot.parts",
        "pilot.payload.runtime",
        "pilot.logs.upload",
        "pilot.storage.download",
    )
    code = f"import sys, pilot.app; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

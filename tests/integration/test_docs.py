"""The documentation is true: its commands run or say why they are not run, its links lead somewhere, and its site is built."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.site.markdown import REGION, renewed
from docs.site.reference import TABLES, refreshes
from pilot.cli import build_parser
from pilot.job.errors import ExitCode, PilotError
from pilot.options import OPTIONS
from pilot.sandbox.cli import build_parser as sandbox_parser
from pilot.settings import read_settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BIN = Path(sys.executable).parent
FENCE = re.compile(r"(?:^<!-- ([^:>\n]*)(?:: ([^\n]*))? -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HERE_DOCUMENT = re.compile(r"<<'?(\w+)'?\n.*?^\1$", re.MULTILINE | re.DOTALL)
PROGRAMS = r"make|pilot-[a-z]+|scripts/\w|kubectl|terraform|gcloud|pip|openssl|podman|docker"
# What a page says of a block of commands, in a comment on the line above it. A block without one is run here as it stands.
NOT_RUN, RUN_BY, IN_A_SANDBOX = "not run", "run by", "in a sandbox"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and what the page says of it."""

    page: Path
    language: str
    text: str
    how: str
    why: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text.splitlines()[0][:60]}"

    @property
    def lines(self) -> list[str]:
        """Its commands, whole, without comments and without what they read."""
        whole = HERE_DOCUMENT.sub("", self.text).replace("\\\n", " ")
        stripped = (line.split("  #")[0].strip() for line in whole.splitlines())
        return [line for line in stripped if line and not line.startswith("#")]


def blocks(language: str) -> list[Block]:
    return [
        Block(page, found[3], found[4], found[1] or "", found[2] or "")
        for page in PAGES
        for found in FENCE.finditer(page.read_text())
        if found[3] == language
    ]


SHELL = blocks("sh")
RUN_HERE = sorted({block.page for block in SHELL if block.how not in (NOT_RUN, RUN_BY)})


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_block_of_commands_is_run_or_says_why_not(block: Block) -> None:
    assert block.how in ("", NOT_RUN, RUN_BY, IN_A_SANDBOX), f"<!-- {block.how} --> is no word about a block"
    if block.how == NOT_RUN:
        assert len(block.why.split()) >= 4, "why is it not run?"
    if block.how == RUN_BY:
        program = shlex.split(block.lines[0])[0]
        files = sorted((ROOT / block.why).rglob("*.py")) if (ROOT / block.why).is_dir() else [ROOT / block.why]
        texts = [file.read_text() for file in files]
        assert any(block.page.name in text or program in text for text in texts), f"{block.why} does not run it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_of_their_language(page: Path) -> None:
    outside = FENCE.sub("", page.read_text())
    assert re.findall(rf"^    (?:{PROGRAMS}).*", outside, re.MULTILINE) == []
    unnamed = [block for block in blocks("") if block.page == page]
    assert not [line for block in unnamed for line in block.lines if re.match(PROGRAMS, line)]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_command_of_this_project_is_understood(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in block.lines:
        program, *words = shlex.split(line)
        if program == "make":
            targets = [word for word in words if "=" not in word]
            assert all(re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE) for target in targets), line
        elif program == "pilot-start" and "--help" not in words and "--version" not in words:
            build_parser().parse_args(words)
        elif program == "pilot-sandbox":
            sandbox_parser().parse_args(words)
        elif program.startswith("scripts/"):
            assert os.access(ROOT / program, os.X_OK), line


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_in_their_order(page: Path, tmp_path: Path) -> None:
    """In a folder and a home of their own. What a pilot finds in a pod, it finds in the sandbox."""
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "LANG": "C.UTF-8",
        "PILOT_EMPTY_WAIT_S": "0.1",
        "PILOT_MAX_EMPTY": "1",
    }
    for block in SHELL:
        if block.page == page and block.how in ("", IN_A_SANDBOX):
            argv = ["bash", "-euo", "pipefail", "-c", in_the_sandbox(block.text, tmp_path)]
            if block.how == IN_A_SANDBOX:
                argv = ["pilot-sandbox", "run", "--", *argv]
            done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100)
            assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr


def in_the_sandbox(text: str, home: Path) -> str:
    """A block with the places of a pod in their sandbox's form."""
    state = home / ".local/state/pilot-sandbox"
    text = re.sub(r"/proxy/\w+", str(state / "proxy.pem"), text)
    text = text.replace("/gcscreds/gcs-access.json", str(state / "gcs-key.json"))
    text = text.replace("/var/lib/node_exporter", str(home))
    return text.replace("/pilotdir", str(home / "pilotdir"))


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [*blocks("yaml"), *blocks("json")], ids=str)
def test_an_example_can_be_read(block: Block) -> None:
    assert json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text)


SETTINGS = [block for block in blocks("yaml") if block.page.name == "configure.md"]


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_an_example_of_settings_is_one(block: Block, tmp_path: Path) -> None:
    (tmp_path / "pilot.yaml").write_text(block.text)
    settings = read_settings({"queue": "DOMA_LSST_DEV", "config": str(tmp_path / "pilot.yaml")}, {})
    assert settings.queue == "DOMA_LSST_DEV"


def test_the_arithmetic_of_live_logs_is_that_of_the_guide() -> None:
    guide = (ROOT / "docs/operate.md").read_text()
    (told,) = re.findall(r"twelve hours (\d+) writes", guide)
    assert int(told) == refreshes(12 * 3600)


# --- links and tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


MENTION = re.compile(r"\b(?:docs|tests)/[A-Za-z0-9/_.-]+\.(?:md|png|svg|py)\b")
AWAITED = {"docs/performance.md"}  # what `make bench` measures, told in words: not yet written


def test_the_pages_that_code_and_objects_name_are_there() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    gone = []
    for name in listed.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".yaml", ".tf", ".toml", ".sh", ".md", "") and path.is_file():
            text = path.read_text(errors="replace")
            named = set(MENTION.findall(text)) - AWAITED
            gone += [f"{name}: {found}" for found in named if not (ROOT / found).exists()]
    assert gone == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_table_that_a_page_shows_is_what_the_code_makes(page: Path) -> None:
    text = page.read_text()
    assert {found[2] for found in REGION.finditer(text)} <= set(TABLES)
    assert renewed(text) == text, "python -m docs.site.markdown renews it"


def test_every_table_is_on_a_page() -> None:
    shown = {found[2] for page in PAGES for found in REGION.finditer(page.read_text())}
    assert shown == set(TABLES)


# --- the map ----------------------------------------------------------------------------------------------------------


def layout() -> dict[str, str]:
    """The lines of the layout in docs/design.md about pilot/, by the module or room that each begins with."""
    text = (ROOT / "docs/design.md").read_text()
    (lines,) = re.findall(r"^    pilot/\n(.*?)^    container/", text, re.MULTILINE | re.DOTALL)
    rooms: dict[str, str] = {}
    for part in re.split(r"^      (?! )", lines, flags=re.MULTILINE)[1:]:
        rooms[part.split()[0].rstrip("/")] = part
    return rooms


def test_the_map_names_every_room_and_module_and_no_other() -> None:
    found = {path.relative_to(ROOT / "pilot") for path in (ROOT / "pilot").rglob("*.py") if path.name != "__init__.py"}
    rooms = layout()
    assert set(rooms) == {path.parts[0] for path in found}
    for room, words in rooms.items():
        named = set(re.findall(r"[\w]+\.py\b", words))
        there = {path.name for path in found if path.parts[0] == room}
        assert named == there, f"{room}: missing {sorted(there - named)}, no longer there {sorted(named - there)}"


# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, somewhere else."""
    folder = tmp_path_factory.mktemp("site")
    prefix = Path(sys.prefix)
    argv = ["make", "-o", f"{prefix}/.installed", "docs", f"VENV={prefix}", f"SITE={folder}"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser fetches with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        name = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}.get(tag)
        self.addresses += [value for key, value in attrs if key == name and value]


def fetched(page: Path) -> Iterator[str]:
    parser = Fetched()
    parser.feed(page.read_text())
    yield from parser.addresses


def test_every_page_is_on_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in PAGES if path.parent != ROOT}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert pages <= built
    assert built - pages == {Path("genindex.html"), Path("search.html")}


def test_a_reader_of_the_site_asks_nobody_else(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert [address for address in fetched(page) if "//" in address] == [], page.name
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", sheet.read_text()) == [], sheet.name


def test_the_reference_knows_every_option_exit_code_and_panda_code(site: Path) -> None:
    settings = (site / "reference/settings.html").read_text()
    assert [option.flag for option in OPTIONS if option.flag not in settings] == []
    exit_codes = (site / "reference/exit-codes.html").read_text()
    assert [code.name for code in ExitCode if f">{code.name}<" not in exit_codes] == []
    panda_codes = (site / "reference/panda-codes.html").read_text()
    assert [error.name for error in PilotError if str(error.code) not in panda_codes] == []

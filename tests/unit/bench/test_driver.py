"""``make bench``: every part runs, whatever became of those before it, and none is passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import PARTS, Ran, main, merged, read_records, run


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of parts: ``good``, ``bad`` (a record and an error) and ``silent`` (no record)."""
    package = tmp_path / "someparts"
    package.mkdir()
    write = "import json, sys; json.dump({'tables': 't', 'told': sys.argv[3:]}, open(sys.argv[2], 'w'))\n"
    for name, text in {
        "__init__": "",
        "good": write,
        "bad": f"{write}sys.exit(3)\n",
        "silent": "raise SystemExit(0)\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_part_is_a_process_whose_record_is_read(parts: Path) -> None:
    ran = run("good", quick=True, package="someparts")
    assert ran.record is not None and ran.problem == ""
    assert (ran.record["tables"], ran.record["told"], ran.record["quick"]) == ("t", ["--quick"], True)


def test_a_part_that_fails_is_told_and_its_record_kept(parts: Path) -> None:
    ran = run("bad", quick=False, package="someparts")
    assert ran.record is not None and ran.problem == "left with 3"


@pytest.mark.parametrize("part", ["silent", "absent"])
def test_a_part_without_a_record_is_a_problem_whatever_its_status(parts: Path, part: str) -> None:
    ran = run(part, quick=False, package="someparts")
    assert ran.record is None and "no record" in ran.problem


def test_records_take_the_place_of_old_ones_and_a_part_that_failed_keeps_none() -> None:
    before = {"a": {"n": 1}, "b": {"n": 1}, "c": {"n": 1}}
    assert merged(before, [Ran("a", {"n": 2}, ""), Ran("b", None, "left with 1 and no record")]) == {
        "a": {"n": 2},
        "c": {"n": 1},
    }


def test_all_parts_run_and_the_status_tells_of_the_one_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def ran(part: str, quick: bool) -> Ran:
        asked.append(part)
        return Ran(part, None, "left with 1 and no record") if part == "staging" else Ran(part, {"quick": quick}, "")

    records = tmp_path / "build" / "bench.json"
    assert main(["--json", str(records)], ran) == 1
    assert tuple(asked) == PARTS
    assert set(read_records(records)) == set(PARTS) - {"staging"}
    assert "staging left with 1 and no record" in capsys.readouterr().err
    assert main(["--json", str(records), "hostile", "--quick"], ran) == 0
    assert read_records(records)["hostile"] == {"quick": True} and read_records(records)["bundle"] == {"quick": False}


def test_a_part_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["staging", "stagign"])
    assert "no part stagign" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"parts": []}', "[{"])
def test_records_in_another_form_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    assert read_records(path) == {}
    path.write_text(json.dumps({"parts": {"a": {}}}))
    assert read_records(path) == {"a": {}}

"""``make bench-docs``: the tables of build/bench.json into docs/performance.md, so that no figure is typed by hand.

python -m tests.bench.docs [--json FILE] [--page FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.__main__ import RECORDS, read_records
from tests.bench.measure import REPOSITORY, say
from tests.bench.tables import put_between_markers

PAGE = REPOSITORY / "docs" / "performance.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when there is nothing to write, or no place for it. Figures of a quick run are no figures and are not written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RECORDS, metavar="FILE")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    options = parser.parse_args(arguments)
    records = read_records(options.json)
    whole = {part: record for part, record in records.items() if not record.get("quick")}
    if not whole:
        say(f"{options.json} holds no measured part: run make bench first")
        return 1
    page = options.page.read_text()
    try:
        for part, record in whole.items():
            page = put_between_markers(page, part, record["tables"])
    except (ValueError, KeyError) as problem:
        say(f"{options.page} is left as it is: {problem}")
        return 1
    options.page.write_text(page)
    say(
        f"{options.page}: {', '.join(whole)} written; {', '.join(set(records) - set(whole)) or 'nothing'} left out as quick"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

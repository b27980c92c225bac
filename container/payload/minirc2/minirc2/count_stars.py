"""Check the result of a production: python3 -m minirc2.count_stars REPO COLLECTION [--at-least N].

Prints one line per patch and exits 0 when every patch has a result with at least N of its simulated stars found again,
else 1.
"""

from __future__ import annotations

import argparse
import sys

from lsst.daf.butler import Butler, MissingCollectionError, MissingDatasetTypeError

from . import sky
from .expected_errors import EXPECTED_ERRORS, one_line


def metrics_by_patch(repo: str, collection: str) -> dict[int, dict]:
    """The objectMetrics datasets of the collection: patch number to {nObjects, nTruth, nMatched}."""
    with Butler.from_config(repo) as butler:
        try:
            refs = butler.query_datasets("objectMetrics", collections=collection, explain=False)
        except (MissingCollectionError, MissingDatasetTypeError):
            return {}
        return {ref.dataId["patch"]: butler.get(ref) for ref in refs}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="minirc2.count_stars", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repo", help="butler.yaml or its folder, local or s3://")
    parser.add_argument("collection")
    parser.add_argument("--at-least", type=int, default=65, metavar="N")
    args = parser.parse_args()
    try:
        found = metrics_by_patch(args.repo, args.collection)
    except EXPECTED_ERRORS as error:
        print(f"minirc2.count_stars: cannot read {args.repo}: {one_line(error)}", file=sys.stderr)
        return 1
    good = True
    for patch in sky.PATCHES:
        if patch not in found:
            print(f"patch {patch}: no result in {args.collection}")
            good = False
            continue
        matched, truth = found[patch]["nMatched"], found[patch]["nTruth"]
        print(f"patch {patch}: {matched} of {truth} stars found again")
        good = good and matched >= args.at_least
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""Make the demo's Butler repository: python3 -m minirc2.make_repo REPO [--datastore-root URI] [--db URL].

REPO is a local folder: it holds butler.yaml and, unless --db names a PostgreSQL database, the SQLite registry.
With --datastore-root s3://bucket/path/ the data live in a bucket (made when missing), and a copy of butler.yaml is put
beside them: that copy is the address jobs use. Endpoint and keys come from S3_ENDPOINT_URL and the AWS_ variables.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

import astropy.time
import numpy as np
from lsst.daf.butler import Butler, CollectionType, Config, DatasetType, Timespan
from lsst.resources import ResourcePath
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

from . import sky
from .expected_errors import EXPECTED_ERRORS, one_line
from .instrument import MiniCam


def polygon(points):
    """An LSST sphgeom polygon from (ra, dec) corners in degrees."""
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*p)) for p in points])


def make_repo(root: str, datastore_root: str | None = None, db: str | None = None, visits=None) -> str:
    """Make and fill the repository; returns the address of the butler.yaml that jobs should use."""
    if datastore_root and datastore_root.startswith("s3://"):
        ensure_bucket(ResourcePath(datastore_root).netloc)
    config = Config()
    config["datastore", "root"] = datastore_root or "<butlerRoot>"
    # An absolute SQLite path lets butler.yaml be copied elsewhere, say to a bucket.
    config["registry", "db"] = db or f"sqlite:///{Path(root).resolve()}/gen3.sqlite3"
    if db and db.startswith("postgresql"):
        # SQLAlchemy's own choice of driver changed with version 2.1; the image has psycopg2.
        config["registry", "db"] = db.replace("postgresql://", "postgresql+psycopg2://", 1)
        config["registry", "namespace"] = "minirc2"
    # forceConfigRoot would put the datastore back inside the repository folder.
    Butler.makeRepo(root, config=config, forceConfigRoot=False)
    visits = list(visits or sky.DITHERS)
    with Butler.from_config(root, writeable=True) as butler:
        populate(butler, visits)
    local = ResourcePath(root, forceDirectory=True).join("butler.yaml")
    if not datastore_root:
        return local.ospath
    shared = ResourcePath(datastore_root, forceDirectory=True).join("butler.yaml")
    shared.transfer_from(local, transfer="copy", overwrite=True)
    return str(shared)


def ensure_bucket(name: str) -> None:
    """Make the bucket unless it is there."""
    import boto3
    from botocore.exceptions import ClientError

    s3 = boto3.client("s3", endpoint_url=os.environ.get("S3_ENDPOINT_URL"))
    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        s3.create_bucket(Bucket=name)


def populate(butler: Butler, visits: list[int]) -> None:
    registry = butler.registry
    MiniCam().register(registry)
    name = sky.INSTRUMENT
    t0 = astropy.time.Time("2026-11-01T03:00:00", scale="tai")
    day = Timespan(t0, t0 + astropy.time.TimeDelta(1, format="jd"))
    registry.syncDimensionData("day_obs", {"instrument": name, "id": sky.DAY_OBS, "timespan": day})
    registry.syncDimensionData("visit_system", {"instrument": name, "id": 0, "name": "one-to-one"})
    registry.syncDimensionData(
        "skymap",
        {
            "name": sky.SKYMAP,
            "hash": hashlib.sha1(sky.SKYMAP.encode()).digest(),
            "tract_max": 10000,
            "patch_nx_max": 9,
            "patch_ny_max": 9,
        },
    )
    tract_box = corners_of(sky.PATCHES)
    registry.syncDimensionData(
        "tract", {"skymap": sky.SKYMAP, "id": sky.TRACT, "region": polygon(sky.corners(*tract_box))}
    )
    for i, patch in enumerate(sky.PATCHES):
        x0, y0 = sky.PATCH_ORIGINS[patch]
        registry.syncDimensionData(
            "patch",
            {
                "skymap": sky.SKYMAP,
                "tract": sky.TRACT,
                "id": patch,
                "cell_x": i,
                "cell_y": 0,
                "region": polygon(sky.corners(x0, y0, sky.PATCH_NX, sky.PATCH_NY)),
            },
        )
    for seq, visit in enumerate(visits, start=1):
        start = t0 + astropy.time.TimeDelta(60.0 * seq, format="sec")
        span = Timespan(start, start + astropy.time.TimeDelta(30.0, format="sec"))
        registry.syncDimensionData("group", {"instrument": name, "name": str(visit)})
        common = {
            "instrument": name,
            "id": visit,
            "day_obs": sky.DAY_OBS,
            "physical_filter": sky.PHYSICAL_FILTER,
            "exposure_time": 30.0,
            "seq_num": seq,
            "target_name": "COSMOS",
            "observation_reason": "science",
            "science_program": "minirc2",
            "zenith_angle": 20.0,
            "timespan": span,
        }
        registry.syncDimensionData(
            "exposure",
            common
            | {
                "group": str(visit),
                "obs_id": f"MC{visit:06d}",
                "dark_time": 30.0,
                "observation_type": "science",
                "seq_start": seq,
                "seq_end": seq,
                "has_simulated": True,
            },
        )
        boxes = {d: (*sky.detector_origin(visit, d), sky.NX, sky.NY) for d in sky.DETECTORS}
        xs = [b[0] for b in boxes.values()]
        ys = [b[1] for b in boxes.values()]
        whole = sky.corners(min(xs), min(ys), max(xs) - min(xs) + sky.NX, max(ys) - min(ys) + sky.NY)
        registry.syncDimensionData("visit", common | {"name": f"MC{visit:06d}", "region": polygon(whole)})
        registry.syncDimensionData("visit_definition", {"instrument": name, "exposure": visit, "visit": visit})
        registry.syncDimensionData("visit_system_membership", {"instrument": name, "visit_system": 0, "visit": visit})
        for det, box in boxes.items():
            registry.syncDimensionData(
                "visit_detector_region",
                {"instrument": name, "visit": visit, "detector": det, "region": polygon(sky.corners(*box))},
            )

    u = butler.dimensions
    types = {
        "raw": DatasetType("raw", {"instrument", "exposure", "detector"}, "NumpyArray", universe=u),
        "bias": DatasetType("bias", {"instrument", "detector"}, "NumpyArray", universe=u, isCalibration=True),
        "flat": DatasetType(
            "flat", {"instrument", "detector", "physical_filter"}, "NumpyArray", universe=u, isCalibration=True
        ),
        "refcat": DatasetType("refcat", {"skymap", "tract"}, "ArrowNumpy", universe=u),
    }
    for t in types.values():
        registry.registerDatasetType(t)

    raws, calib_run, calib = f"{name}/raw/all", f"{name}/calib/gen", f"{name}/calib"
    registry.registerRun(raws)
    registry.registerRun(calib_run)
    registry.registerRun("refcats")
    registry.registerCollection(calib, CollectionType.CALIBRATION)
    for visit in visits:
        for det in sky.DETECTORS:
            butler.put(sky.raw_frame(visit, det), "raw", instrument=name, exposure=visit, detector=det, run=raws)
    for det in sky.DETECTORS:
        refs = [
            butler.put(sky.bias_frame(det), "bias", instrument=name, detector=det, run=calib_run),
            butler.put(
                sky.flat_frame(det),
                "flat",
                instrument=name,
                detector=det,
                physical_filter=sky.PHYSICAL_FILTER,
                run=calib_run,
            ),
        ]
        registry.certify(calib, refs, Timespan(None, None))
    butler.put(sky.star_catalog(), "refcat", skymap=sky.SKYMAP, tract=sky.TRACT, run="refcats")
    registry.registerCollection(f"{name}/defaults", CollectionType.CHAINED)
    registry.setCollectionChain(f"{name}/defaults", [raws, calib, "refcats"])


def corners_of(patches):
    """The pixel box around some patches."""
    origins = np.array([sky.PATCH_ORIGINS[p] for p in patches])
    x0, y0 = origins.min(axis=0)
    x1, y1 = origins.max(axis=0)
    return float(x0), float(y0), int(x1 - x0 + sky.PATCH_NX), int(y1 - y0 + sky.PATCH_NY)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="minirc2.make_repo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repo", help="a folder that does not exist yet, or is empty")
    parser.add_argument("--datastore-root", help="file path, s3:// or gs:// URI (default: inside the repo)")
    parser.add_argument("--db", help="SQLAlchemy URL of the registry (default: SQLite inside the repo)")
    parser.add_argument(
        "--visits", type=int, nargs="*", metavar="N", help=f"some of {sorted(sky.DITHERS)} (default: all)"
    )
    args = parser.parse_args()
    if unknown := set(args.visits or ()) - set(sky.DITHERS):
        parser.error(f"no such visit: {sorted(unknown)}; there are {sorted(sky.DITHERS)}")
    if (Path(args.repo) / "butler.yaml").exists():
        parser.error(f"{args.repo} already holds a repository; give a new folder or remove it first")
    try:
        print(make_repo(args.repo, args.datastore_root, args.db, args.visits))
    except EXPECTED_ERRORS as error:
        print(f"minirc2.make_repo: the repository was not made: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

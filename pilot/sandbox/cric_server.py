"""CRIC in small: queues and storage endpoints from files in the state folder, under the URL forms of the real one."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from pilot.sandbox.http_server import Answer, Request

LOG_BUCKET = "drp-us-central1-logging"
TRANSFORM_BUCKET = "drp-us-central1-containers"
DATA_BUCKET = "rubin-data"
LOG_ENDPOINT = "GKE-LSST_LOGS"
DATA_ENDPOINT = "SANDBOX_S3"


class Cric:
    """Reads `<folder>/queues/*.json` and `<folder>/endpoints/*.json` at each request, so a person may edit them."""

    def __init__(self, folder: Path) -> None:
        self._queues = folder / "queues"
        self._endpoints = folder / "endpoints"
        for path in (self._queues, self._endpoints):
            path.mkdir(parents=True, exist_ok=True)
        for source in resources.files("pilot.sandbox").joinpath("data").iterdir():
            target = self._queues / source.name
            if source.name.startswith("DOMA_") and not target.exists():
                target.write_text(source.read_text())

    def write_endpoints(self, gcs_url: str, s3_url: str) -> None:
        """Write the two storage endpoints with the https doors of this sandbox's own servers."""
        data = resources.files("pilot.sandbox").joinpath("data")
        text = data.joinpath("ddmendpoint_GKE-LSST_LOGS.constructed.json").read_text()
        logs = json.loads(text.replace("https://storage.googleapis.com:443", gcs_url))
        self._write(self._endpoints / f"{LOG_ENDPOINT}.json", logs)
        self._write(self._endpoints / f"{DATA_ENDPOINT}.json", {DATA_ENDPOINT: _data_endpoint(s3_url)})

    def queue(self, name: str) -> dict[str, Any] | None:
        return self._read(self._queues).get(name)

    def queue_status(self, name: str) -> str | None:
        queue = self.queue(name)
        return queue.get("status") if queue else None

    def set_queue(self, name: str, values: dict[str, Any]) -> None:
        """Change fields of a queue, or add a queue as a copy of DOMA_LSST_DEV with these fields."""
        old = self.queue(name) or {
            **(self.queue("DOMA_LSST_DEV") or {}),
            "name": name,
            "nickname": name,
            "siteid": name,
            "panda_resource": name,
        }
        self._write(self._queues / f"{name}.json", {name: {**old, **values}})

    def set_endpoint(self, name: str, description: dict[str, Any]) -> None:
        self._write(self._endpoints / f"{name}.json", {name: description})

    def answer(self, request: Request) -> Answer:
        """CRIC's own URLs: pandaqueue and ddmendpoint queries, and the static caches."""
        parts = [part for part in request.path.split("/") if part]
        wanted = parse_qs(request.query)
        if parts[-3:-1] == ["cache", "schedconfig"]:
            return _known(self._read(self._queues), parts[-1].removesuffix(".json"))
        if parts[-2:] == ["cache", "ddmendpoints.json"]:
            return _json(self._read(self._endpoints))
        if "pandaqueue" in parts and "query" in parts:
            return _selected(self._read(self._queues), wanted.get("pandaqueue"), as_list=parts[-1] == "list")
        if "ddmendpoint" in parts and "query" in parts:
            return _selected(self._read(self._endpoints), wanted.get("ddmendpoint"), as_list=parts[-1] == "list")
        return Answer.text(404, "<html><body><h1>Not Found</h1></body></html>", "text/html")

    def schedconfig(self, file_name: str) -> Answer:
        """`<queue>.all.json` of the PanDA server's cache: the bare queue, not keyed by its name."""
        queue = self.queue(file_name.removesuffix(".all.json"))
        return _json(queue) if queue else _json({"error": f"no such file {file_name}"}, 404)

    def _read(self, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in sorted(folder.glob("*.json")):
            found |= json.loads(path.read_text())
        return found

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(value, indent=2))
        temporary.replace(path)


def _selected(known: dict[str, Any], names: list[str] | None, *, as_list: bool) -> Answer:
    chosen = known if names is None else {name: known[name] for name in names if name in known}
    return _json(list(chosen.values()) if as_list else chosen)


def _known(known: dict[str, Any], name: str) -> Answer:
    return _json({name: known[name]}) if name in known else _json({"error": f"{name} not found"}, 404)


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value, indent=1).encode(), "application/json")


def _data_endpoint(s3_url: str) -> dict[str, Any]:
    s3 = {"endpoint": f"s3://{DATA_BUCKET}", "flavour": "S3", "id": 11, "path": "/"}
    web = {"endpoint": s3_url, "flavour": "HTTPS", "id": 12, "path": f"/{DATA_BUCKET}"}
    activities = ("pr", "pw", "read_lan", "read_wan", "write_lan", "write_wan")
    return {
        "name": DATA_ENDPOINT,
        "ddm_name": DATA_ENDPOINT,
        "rse": DATA_ENDPOINT,
        "id": 1002,
        "type": "OS_ES",
        "state": "ACTIVE",
        "site": "LSST",
        "rc_site": "NULL",
        "cloud": "LSST",
        "token": "",
        "endpoint": "/",
        "se": f"s3://{DATA_BUCKET}",
        "is_deterministic": True,
        "is_objectstore": True,
        "is_cache": False,
        "is_tape": False,
        "is_volatile": False,
        "arprotocols": {activity: [s3, web] if "read" in activity else [s3] for activity in activities},
        "resource": {"bucket_id": 1002, "endpoint": DATA_BUCKET, "name": DATA_BUCKET},
        "rprotocols": {"11": {**s3, "settings": {}}, "12": {**web, "settings": {}}},
    }

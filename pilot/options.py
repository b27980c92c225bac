"""The table of options: each stands here once, with its group, meaning, reader, default and environment names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DEFAULT_SERVER = "https://ai-idds-01.cern.ch:25443"
DEFAULT_CRIC = "https://datalake-cric.cern.ch"
GOOGLE_STORAGE = "https://storage.googleapis.com"
TRANSFORM_BASES = (
    "https://storage.googleapis.com/drp-us-central1-containers",
    "https://pandaserver.cern.ch",
    "https://pandaserver-doma.cern.ch",
)
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``read`` turns a text into the value and raises ValueError with the sentence's last part.

    ``set_for_all``: the variables in ``environment`` hold one value for every queue of a Harvester, so the settings file
    wins over them (not over ``PILOT_<NAME>``).
    """

    name: str
    group: str
    help: str
    read: Callable[[str], Any]
    default: Any = None
    environment: tuple[str, ...] = ()
    repeatable: bool = False
    metavar: str = "VALUE"
    set_for_all: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return value.strip()


def _path(value: str) -> Path:
    if "\0" in value:
        raise ValueError("is not a path")
    try:
        return Path(_text(value)).expanduser()
    except RuntimeError:
        raise ValueError("is in the home folder of a user this machine does not know") from None


def _queue_name(value: str) -> str:
    if not _QUEUE.fullmatch(value):
        raise ValueError("is not a queue name (letters, digits, dot, hyphen, underscore)")
    return value


def _https_url(value: str) -> str:
    try:
        parts = urlsplit(value.strip())
        _ = parts.port
    except ValueError:
        raise ValueError("is not an https:// URL") from None
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("is not an https:// URL")
    if parts.username or parts.password:
        raise ValueError("contains a user name or password; credentials go into files")
    return value.strip().rstrip("/")


def _url_or_folder(value: str) -> str:
    return _https_url(value) if "://" in value else str(_path(value))


def _whole(minimum: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value.strip()) or int(value) < minimum:
            raise ValueError(f"is not a whole number of at least {minimum}")
        return int(value)

    return read


def _port(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value.strip()) or int(value) > 65535:
        raise ValueError("is not a port number")
    return int(value)


def _mebibytes(value: str) -> int:
    """A whole number, or one with decimals as Harvester writes it (``16336.0``), rounded down."""
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]*)?", value.strip()) or int(float(value)) < 1:
        raise ValueError("is not a number of MiB of at least 1")
    return int(float(value))


def _seconds(minimum: float) -> Callable[[str], float]:
    def read(value: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", value.strip()) or float(value) < minimum:
            raise ValueError(f"is not a number of seconds of at least {minimum:g}")
        return float(value)

    return read


def _yes_or_no(value: str) -> bool:
    """As Rubin's templates and start scripts spell it."""
    word = value.strip().lower()
    if word not in ("yes", "y", "true", "1", "no", "n", "false", "0"):
        raise ValueError("is neither yes nor no")
    return word in ("yes", "y", "true", "1")


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.strip() not in choices:
            raise ValueError(f"is none of {', '.join(choices)}")
        return value.strip()

    return read


WHAT, SERVER, STORES, LIMITS, OUTPUT = (
    "what to run",
    "PanDA server and credentials",
    "CRIC and storage",
    "life of the pilot",
    "files and output",
)

# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("queue", WHAT, "PanDA queue to work for", _queue_name, None, ("pandaQueueName", "computingSite"), metavar="NAME"),
    Option("site", WHAT, "siteName to ask for and to report, where the queue's description names none", _text, None, ("computingSite",), metavar="NAME"),
    Option("job", WHAT, "run exactly this job (PUSH mode): a url-encoded or JSON job definition", _path, metavar="FILE"),
    Option("label", WHAT, "prodSourceLabel to ask for", _text, "managed", ("prodSourceLabel",), metavar="LABEL"),
    Option("job_type", WHAT, "jobType to ask for", _text, None, ("jobType",), metavar="TYPE"),
    Option("resource_type", WHAT, "resource type to ask for, e.g. SCORE", _text, None, ("resourceType",), metavar="TYPE"),
    Option("image", WHAT, "container image: SIF file, unpacked folder, gs://, s3:// or https:// URL", _text, metavar="IMAGE"),
    Option("runtime", WHAT, "auto, apptainer or plain (no container)", _one_of("auto", "apptainer", "plain"), "auto", metavar="KIND"),
    Option("require_isolation", WHAT, "lowest rung payloads may run on: A container, B other user, C Landlock, or none", _one_of("A", "B", "C", "none"), "C", metavar="RUNG"),
    Option("payload_user", WHAT, "user (name or number) of payloads on rung B; default: payload, else 65532", _text, metavar="USER"),
    Option("image_key", WHAT, "public key (PEM) that fetched images must be signed with", _path, metavar="FILE"),
    Option("server", SERVER, "PanDA server; repeat to give more, tried in order", _https_url, (DEFAULT_SERVER,), repeatable=True, metavar="URL"),
    Option("api", SERVER, "auto, v1 or legacy", _one_of("auto", "v1", "legacy"), "auto", metavar="KIND"),
    Option("cert", SERVER, "client certificate (PEM)", _path, metavar="FILE"),
    Option("key", SERVER, "its private key (PEM)", _path, metavar="FILE"),
    Option("ca", SERVER, "CA bundle, or a folder of hashed CA files such as the grid's", _path, None, ("X509_CERT_DIR",), metavar="PATH"),
    Option("storage_ca", STORES, "CA bundle of the object stores; default: the system's", _path, metavar="PATH"),
    Option("x509_proxy", SERVER, "X.509 proxy file (certificate, key, chain)", _path, None, ("proxySecretPath", "X509_USER_PROXY"), metavar="FILE"),
    Option("token_file", SERVER, "OIDC token file", _path, None, ("OIDC_REFRESHED_AUTH_TOKEN",), metavar="FILE"),
    Option("origin", SERVER, "Origin sent with the token, e.g. panda_dev.pilot", _text, None, ("OIDC_AUTH_ORIGIN", "PANDA_AUTH_ORIGIN"), metavar="VO", set_for_all=True),
    Option("token_key_file", SERVER, "file with the key for token renewals by the server (PANDA_AUTH_TOKEN_KEY)", _path, metavar="FILE"),
    Option("cric", STORES, "CRIC base URL, or a folder with <queue>.json and <rse>.json", _url_or_folder, DEFAULT_CRIC, metavar="URL|DIR"),
    Option("cric_bucket", STORES, "URL of a folder with copies of CRIC's answers, asked when CRIC is silent", _https_url, metavar="URL"),
    Option("gcs_endpoint", STORES, "Google storage endpoint", _https_url, GOOGLE_STORAGE, metavar="URL"),
    Option("s3_endpoint", STORES, "S3 endpoint of the pilot's own transfers", _https_url, GOOGLE_STORAGE, metavar="URL"),
    Option("s3_key_file", STORES, "file with access_key and secret_key of the pilot's own S3 transfers", _path, metavar="FILE"),
    Option("google_application_credentials", STORES, "Google service account key; none: Workload Identity", _path, None, ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIAL"), metavar="FILE"),
    Option("metadata_url", STORES, "Google metadata server (Workload Identity)", _text, "http://metadata.google.internal", metavar="URL"),
    Option("log_url_base", STORES, "public URL of the log bucket, if not the one CRIC tells", _https_url, metavar="URL"),
    Option("transform_bases", STORES, "where transformations may be downloaded from; repeatable", _https_url, TRANSFORM_BASES, repeatable=True, metavar="URL"),
    Option("payload_s3_endpoint", STORES, "S3_ENDPOINT_URL of the payload", _text, None, ("S3_ENDPOINT_URL",), metavar="URL"),
    Option("max_jobs", LIMITS, "leave after so many jobs; 0: no limit", _whole(0), 0, metavar="N"),
    Option("max_empty", LIMITS, "leave after so many empty answers in a row", _whole(1), 5, metavar="N"),
    Option("empty_wait_s", LIMITS, "shortest wait after an empty answer; the waits grow to six times that", _seconds(0), 10.0, metavar="S"),
    Option("lifetime", LIMITS, "seconds after which the pilot leaves, its job stopped and reported; 0: no limit", _seconds(0), 0.0, metavar="S"),
    Option("time_floor_s", LIMITS, "take further jobs until this many seconds after the start; default: the queue's timefloor", _seconds(0), metavar="S"),
    Option("heartbeat", LIMITS, "seconds between two heartbeats of a job", _seconds(0.1), 60.0, metavar="S"),
    Option("server_silence_s", LIMITS, "a job is stopped when the server has taken no update of it for so long", _seconds(0), 7200.0, metavar="S"),
    Option("start_wait_s", LIMITS, "how long the server may take to accept a job's start", _seconds(0), 600.0, metavar="S"),
    Option("log_retry_s", LIMITS, "how long a log upload is tried", _seconds(0), 600.0, metavar="S"),
    Option("final_retry_s", LIMITS, "how long a final report is tried", _seconds(0), 3600.0, metavar="S"),
    Option("looping_s", LIMITS, "end a payload that writes nothing and uses no CPU for so long (loopingCheck=false exempts a job); 0: never", _seconds(0), 7200.0, metavar="S"),
    Option("max_processes", LIMITS, "processes a payload may have at once; 0: no limit", _whole(0), 4096, metavar="N"),
    Option("max_inodes", LIMITS, "files and folders a payload may have in its work folder; 0: no limit", _whole(0), 1_000_000, metavar="N"),
    Option("max_stdout_mib", LIMITS, "what a payload may write to stdout, and to stderr; 0: no limit", _whole(0), 2048, metavar="MiB"),
    Option("payload_grace_s", LIMITS, "from SIGTERM to SIGKILL of a payload that is stopped", _seconds(0), 2.0, metavar="S"),
    Option("shutdown_s", LIMITS, "after SIGTERM everything is over within this time", _seconds(1), 10.0, metavar="S"),
    Option("config", OUTPUT, "settings file (YAML); default: ./pilot.yaml, then /etc/pilot/pilot.yaml", _path, metavar="FILE"),
    Option("workdir", OUTPUT, "work volume; default: $TMPDIR/pilot, else ~/.cache/pilot/work", _path, metavar="DIR"),
    Option("image_cache", OUTPUT, "folder of fetched images; default: <workdir>/images", _path, metavar="DIR"),
    Option("image_cache_limit_gib", OUTPUT, "images not used for longest are removed above this; 0: never", _whole(0), 100, metavar="GiB"),
    Option("summary", OUTPUT, "write a JSON summary here after each job", _path, metavar="FILE"),
    Option("log_level", OUTPUT, "DEBUG, INFO, WARNING or ERROR", _one_of("DEBUG", "INFO", "WARNING", "ERROR"), "INFO", metavar="LEVEL"),
    Option("log_format", OUTPUT, "text or json: the lines on standard error (a job's pilotlog.txt stays text)", _one_of("text", "json"), "text", metavar="FORMAT"),
    Option("metrics_port", OUTPUT, "answer GET /metrics (Prometheus) on this port of 127.0.0.1; 0: a free one, named in the log", _port, metavar="PORT"),
    Option("metrics_file", OUTPUT, "write the metrics to this file (*.prom) for the node exporter's textfile collector", _path, metavar="FILE"),
    Option("worker_log", OUTPUT, "where the pilot's whole log goes too; default, with Harvester's worker id: $TMPDIR/wrapper-wid.log", _path, metavar="FILE"),
    Option("worker_log_upload", OUTPUT, "PanDA cache the worker log is uploaded to at the end, e.g. https://host:25443/server/panda", _text, None, ("logs_frontend_w",), metavar="URL"),
    Option("worker_log_public", OUTPUT, "URL of the folder where uploaded worker logs are read", _text, None, ("logs_frontend_r",), metavar="URL"),
    Option("worker_log_name", OUTPUT, "name of the uploaded worker log; default: <Harvester's id>_<worker id>_gz.out (or .out)", _text, None, ("stdout_name",), metavar="NAME"),
    Option("use_realtime_logging", OUTPUT, "yes: send payload and pilot logs to the realtime logging server as they grow", _yes_or_no, False, ("USE_REALTIME_LOGGING",), metavar="yes|no"),
    Option("realtime_logging_server", OUTPUT, "the kind of server; google-cloud-logging is understood", _text, None, ("REALTIME_LOGGING_SERVER",), metavar="KIND"),
    Option("realtime_logname", OUTPUT, "log name of the payloads' lines", _text, "Panda-RubinLog", ("REALTIME_LOGNAME",), metavar="NAME"),
    Option("cloud_logging_endpoint", OUTPUT, "Google Cloud Logging endpoint", _https_url, "https://logging.googleapis.com", metavar="URL"),
    Option("cloud_logging_project", OUTPUT, "Google project of the logs; default: that of the key file or of the node", _text, metavar="ID"),
    Option("harvester_id", OUTPUT, "Harvester's id", _text, None, ("HARVESTER_ID",), metavar="ID"),
    Option("worker_id", OUTPUT, "Harvester's worker id", _whole(0), None, ("HARVESTER_WORKER_ID", "workerID"), metavar="N"),
    Option("scheduler_id", OUTPUT, "schedulerID in every message", _text, None, ("PANDA_JSID",), metavar="ID"),
    Option("batch_id", OUTPUT, "batchID in every message", _text, None, ("K8S_JOB_ID",), metavar="ID"),
    Option("node", OUTPUT, "this node's name", _text, None, ("PANDA_HOSTNAME",), metavar="NAME"),
    Option("version_tag", OUTPUT, "version tag in pilotID", _text, "PR", ("pilotType",), metavar="TAG"),
    Option("disk_limit_mib", OUTPUT, "disk ceiling of the pod", _mebibytes, None, ("storageLimitMiB",), metavar="MiB"),
    Option("min_free_mib", OUTPUT, "room the work volume must have before a job is asked for", _whole(0), 512, metavar="MiB"),
    Option("realtime_logfiles", OUTPUT, "payload log files named to the payload", _text, "payload-log.json", ("REALTIME_LOGFILES",), metavar="NAMES"),
    Option("submit_mode", OUTPUT, "PULL or PUSH", _one_of("PULL", "PUSH"), "PULL", ("submit_mode",), metavar="MODE"),
)
# fmt: on
BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}

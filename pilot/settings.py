"""Settings: flags > environment > file > defaults, read once into a frozen value. The only reader of os.environ.

Every option stands once in options.py: its name is the flag (with hyphens), the key of the settings file (with underscores) and
``PILOT_<NAME>``; the other environment names are Harvester's and Rubin's, of both generations. A value that is the literal
placeholder ``$name`` counts as unset: Harvester appends the real entry and leaves template text behind.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pilot.job.errors import SettingsError
from pilot.options import BY_NAME, OPTIONS, Option
from pilot.runtime.secret import Secret

CONFIG_PATHS = (Path("pilot.yaml"), Path("/etc/pilot/pilot.yaml"))
# For the wrapper that this pilot replaces; a proxy in a variable was never safe, and has not been set for years.
IGNORED = ("pilotUrlOpt", "pythonOption", "pilotVersion", "proxyContent")
WORKER_LOG_NAME = "wrapper-wid.log"
PUSH_JOB_FILE = Path("/scratch/jobconfig/pandaJobData.out")
# The data credentials a payload gets when its queue declares nothing of its own.
PAYLOAD_ENV_DEFAULT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGDATABASE",
)
# Payload variables that are no secrets: blacked out in every log they would only hide where data are.
OPEN_VARIABLES = frozenset(
    ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ENDPOINT_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE")
)
# What libraries would read behind our back; removed from the process once the settings are read.
BACK_DOORS = re.compile(
    r"(HTTPS?_PROXY|ALL_PROXY|NO_PROXY|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|SSL_CERT_(FILE|DIR)|NETRC|BOTO_CONFIG|AWS_.*|"
    r"GOOGLE_.*|GCLOUD_PROJECT|CLOUDSDK_.*|GCE_METADATA_.*|STORAGE_EMULATOR_HOST|GRPC_.*|PG[A-Z]+|OTEL_.*|"
    r"SSLKEYLOGFILE|APPTAINER(ENV)?_.*|SINGULARITY(ENV)?_.*|BOTO(CORE)?_EXPERIMENTAL__.*|_X_AMZN_TRACE_ID|API_.*_OVERRIDE|"
    r"(EN|DIS)ABLE_GCS_PYTHON_CLIENT_.*)",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of the node that the payload sees: ``source:target[:ro]``."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What the settings file says of one queue. ``payload_env``: names passed through; None: the default list.

    ``own_containers``: payloads start containers of their own, so that rung C, which forbids it, is not for them.
    """

    image: str | None = None
    payload_env: tuple[str, ...] | None = None
    payload_env_set: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()
    own_containers: bool = False


@dataclass(frozen=True)
class Settings:
    """Everything the pilot was told. Times in seconds; one field per option of the same name."""

    queue: str
    site: str | None
    job: Path | None
    label: str
    job_type: str | None
    resource_type: str | None
    image: str | None
    runtime: str
    require_isolation: str
    payload_user: str | None
    image_key: Path | None
    server: tuple[str, ...]
    api: str
    cert: Path | None
    key: Path | None
    ca: Path | None
    x509_proxy: Path | None
    token_file: Path | None
    origin: str | None
    token_key_file: Path | None
    cric: str
    cric_bucket: str | None
    storage_ca: Path | None
    gcs_endpoint: str
    s3_endpoint: str
    s3_key_file: Path | None
    google_application_credentials: Path | None
    metadata_url: str
    log_url_base: str | None
    transform_bases: tuple[str, ...]
    payload_s3_endpoint: str | None
    max_jobs: int
    max_empty: int
    empty_wait_s: float
    lifetime: float
    time_floor_s: float | None
    heartbeat: float
    server_silence_s: float
    start_wait_s: float
    log_retry_s: float
    final_retry_s: float
    looping_s: float
    max_processes: int
    max_inodes: int
    max_stdout_mib: int
    payload_grace_s: float
    shutdown_s: float
    config: Path | None
    workdir: Path
    image_cache: Path
    image_cache_limit_gib: int
    summary: Path | None
    log_level: str
    log_format: str
    metrics_port: int | None
    metrics_file: Path | None
    worker_log: Path | None
    worker_log_upload: str | None
    worker_log_public: str | None
    worker_log_name: str | None
    use_realtime_logging: bool
    realtime_logging_server: str | None
    realtime_logname: str
    cloud_logging_endpoint: str
    cloud_logging_project: str | None
    harvester_id: str | None
    worker_id: int | None
    scheduler_id: str | None
    batch_id: str | None
    node: str
    version_tag: str
    disk_limit_mib: int | None
    min_free_mib: int
    realtime_logfiles: str
    submit_mode: str
    recover_only: bool
    plain: bool  # no live view, even on a terminal
    queue_settings: QueueSettings
    payload_environment: Mapping[str, Secret]  # values of payload_env as found in the environment
    ignored: tuple[str, ...]  # names of Harvester's variables that were set and mean nothing here
    of_2021: bool  # started by a Harvester of the older generation
    sources: Mapping[str, str]  # where each value came from, in words


def read_settings(
    flags: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    config_paths: tuple[Path, ...] = CONFIG_PATHS,
) -> Settings:
    """Settings from parsed flags (texts, or lists of texts), the environment and the settings file.

    Raises SettingsError with one sentence naming the option, its source and what is wrong.
    """
    given = os.environ if environment is None else environment
    env = _without_placeholders(given)
    config, document = _config_file(flags, env, config_paths)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        values[option.name], sources[option.name] = _value(option, flags, env, document, config)
    values["config"] = config
    queues = _queues(document, config)
    if values["queue"] is None:
        raise SettingsError("no queue: give --queue NAME, for instance --queue DOMA_LSST_DEV, or set PILOT_QUEUE")
    _fill_in(values, sources, env)
    queue_settings = queues.get(values["queue"], QueueSettings())
    names = PAYLOAD_ENV_DEFAULT if queue_settings.payload_env is None else queue_settings.payload_env
    return Settings(
        **values,
        recover_only=bool(flags.get("recover_only")),
        plain=bool(flags.get("plain")) or "NO_COLOR" in env or env.get("TERM", "dumb") == "dumb",
        queue_settings=queue_settings,
        payload_environment={name: Secret(env[name]) for name in names if name in env},
        ignored=tuple(name for name in IGNORED if name in env),
        of_2021="stdout_name" in given and "K8S_JOB_ID" not in env,
        sources=sources,
    )


def read_options(names: tuple[str, ...], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The values of these options alone, for a command that is no pilot. Raises SettingsError."""
    env = _without_placeholders(os.environ)
    config, document = _config_file(flags, env, CONFIG_PATHS)
    return {name: _value(BY_NAME[name], flags, env, document, config)[0] for name in names}


def environment_now() -> dict[str, str]:
    """The environment of this process, for whoever has to read settings from it more than once."""
    return dict(os.environ)


def close_back_doors() -> None:
    """Remove from this process what libraries would read on their own: proxies, profiles, CA overrides, cloud variables."""
    for name in [name for name in os.environ if BACK_DOORS.fullmatch(name)]:
        del os.environ[name]
    # the Google client otherwise asks for the bucket's metadata behind our back, a right the pilot need not have
    os.environ["DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"] = "true"
    os.environ["NO_GCE_CHECK"] = "true"


def _without_placeholders(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if value.strip() and value.strip() != f"${name}"}


def _value(
    option: Option, flags: Mapping[str, Any], env: Mapping[str, str], document: Mapping[str, Any], config: Path | None
) -> tuple[Any, str]:
    """The option's value and where it came from, in words."""
    given = flags.get(option.name)
    if given is not None:
        return _read(option, given if option.repeatable else [given], option.flag), f"flag {option.flag}"
    variables = (f"PILOT_{option.name.upper()}", *option.environment)
    filed = option.name in document
    for name in variables[:1] if filed and option.set_for_all else variables:
        if name in env:
            texts = env[name].split(",") if option.repeatable else [env[name]]
            return _read(option, texts, f"the environment variable {name}"), f"environment variable {name}"
    if filed:
        entry = document[option.name]
        texts = entry if option.repeatable and isinstance(entry, list) else [entry]
        return _read(option, texts, f"{option.name} in {config}"), f"file {config}"
    return option.default, "default"


def _read(option: Option, texts: list[Any], where: str) -> Any:
    values = []
    for text in texts:
        if not isinstance(text, str | int | float):
            raise SettingsError(f"{where} is not a single value")
        plain = str(text).lower() if isinstance(text, bool) else str(text)
        try:
            values.append(option.read(plain))
        except ValueError as error:
            plain = re.sub(r"//[^/@]*@", "//***@", plain)  # a password in a URL is refused, not shown
            shown = plain if len(plain) < 80 else plain[:77] + "..."
            raise SettingsError(f"{where}: {shown!r} {error}") from None
    return tuple(values) if option.repeatable else values[0]


def _config_file(
    flags: Mapping[str, Any], env: Mapping[str, str], config_paths: tuple[Path, ...]
) -> tuple[Path | None, dict[str, Any]]:
    """The settings file and its mapping. One that was named must exist; the default ones may be absent."""
    named = flags.get("config") or env.get("PILOT_CONFIG")
    path = (
        _read(BY_NAME["config"], [named], "--config")
        if named
        else next((path for path in config_paths if path.is_file()), None)
    )
    if path is None:
        return None, {}
    import yaml

    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"the settings file {path} is not YAML: {str(error).splitlines()[0]}") from None
    if document is None:
        return path, {}
    if not isinstance(document, dict):
        raise SettingsError(f"the settings file {path} does not hold a mapping of settings")
    unknown = sorted(str(key) for key in document if key not in BY_NAME and key != "queues")
    if unknown:
        raise SettingsError(
            f"the settings file {path} has an unknown key {unknown[0]!r}; pilot-start --help lists the options"
        )
    return path, document


def _queues(document: Mapping[str, Any], config: Path | None) -> dict[str, QueueSettings]:
    queues = document.get("queues") or {}
    if not isinstance(queues, dict):
        raise SettingsError(f"queues in {config} is not a mapping of queue names")
    return {str(name): _queue_settings(f"queues.{name} in {config}", entry) for name, entry in queues.items()}


def _queue_settings(where: str, entry: Any) -> QueueSettings:
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} is not a mapping")
    unknown = sorted(str(key) for key in entry if key not in {known.name for known in fields(QueueSettings)})
    if unknown:
        raise SettingsError(f"{where} has an unknown key {unknown[0]!r}")
    image = entry.get("image")
    if image is not None and not isinstance(image, str):
        raise SettingsError(f"{where}: image is not a text")
    names = entry.get("payload_env")
    if names is not None and not (isinstance(names, list) and all(_is_name(name) for name in names)):
        raise SettingsError(f"{where}: payload_env is not a list of environment variable names")
    pairs = entry.get("payload_env_set") or {}
    if not (isinstance(pairs, dict) and all(_is_name(name) and isinstance(v, str | int) for name, v in pairs.items())):
        raise SettingsError(f"{where}: payload_env_set is not a mapping of variable names to texts")
    binds = entry.get("binds") or []
    if not isinstance(binds, list):
        raise SettingsError(f"{where}: binds is not a list")
    own_containers = entry.get("own_containers", False)
    if not isinstance(own_containers, bool):
        raise SettingsError(f"{where}: own_containers is neither true nor false")
    return QueueSettings(
        own_containers=own_containers,
        image=image,
        payload_env=None if names is None else tuple(names),
        payload_env_set={name: str(value) for name, value in pairs.items()},
        binds=tuple(_bind(where, text) for text in binds),
    )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _bind(where: str, text: object) -> Bind:
    parts = text.split(":") if isinstance(text, str) else []
    if len(parts) not in (2, 3) or not all(parts) or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise SettingsError(f"{where}: the bind {text!r} is not source:target or source:target:ro")
    if not (parts[0].startswith("/") and parts[1].startswith("/")):
        raise SettingsError(f"{where}: the bind {text!r} needs absolute paths")
    return Bind(Path(parts[0]), parts[1], read_only=parts[2:] == ["ro"])


def _fill_in(values: dict[str, Any], sources: dict[str, str], env: Mapping[str, str]) -> None:
    """Defaults that depend on other values or on the machine."""
    if values["workdir"] is None:
        home = Path(env.get("HOME", "/nonexistent"))
        values["workdir"] = Path(env["TMPDIR"]) / "pilot" if "TMPDIR" in env else home / ".cache/pilot/work"
        sources["workdir"] = "default, below TMPDIR" if "TMPDIR" in env else "default, below HOME"
    if values["image_cache"] is None:
        values["image_cache"] = values["workdir"] / "images"
    if values["node"] is None:
        values["node"] = socket.gethostname()
    if values["job"] is None and values["submit_mode"] == "PUSH":
        values["job"], sources["job"] = PUSH_JOB_FILE, "submit_mode PUSH"
    if values["token_file"] is None or _not_yet_refreshed(values["token_file"], sources["token_file"]):
        found, name = _token_file(env, "OIDC_AUTH_TOKEN", "PANDA_AUTH_TOKEN")
        if found is not None:
            values["token_file"], sources["token_file"] = found, f"environment variable {name}"
    if values["token_key_file"] is None:
        values["token_key_file"], name = _token_file(env, "PANDA_AUTH_TOKEN_KEY")
        if name:
            sources["token_key_file"] = f"environment variable {name}"
    if values["worker_log"] is None and values["worker_id"] is not None:
        values["worker_log"] = Path(env.get("TMPDIR", values["workdir"])) / WORKER_LOG_NAME
        sources["worker_log"] = "default, with Harvester's worker id"
    if sources["cert"].startswith("flag") and not sources["x509_proxy"].startswith("flag"):
        values["x509_proxy"] = None  # a certificate given by hand wins over a proxy the environment happens to name
    if values["payload_s3_endpoint"] is None:
        values["payload_s3_endpoint"] = values["s3_endpoint"]
    if (values["cert"] is None) != (values["key"] is None):
        raise SettingsError("--cert and --key belong together: give both, or --x509-proxy for a file that holds both")
    if values["token_file"] is not None and values["origin"] is None:
        raise SettingsError("a token needs its origin: give --origin VO.role, or set PANDA_AUTH_ORIGIN")


def _not_yet_refreshed(token_file: Path, source: str) -> bool:
    """OIDC_REFRESHED_AUTH_TOKEN counts when its file exists (the reference pilot's rule)."""
    return source.endswith("OIDC_REFRESHED_AUTH_TOKEN") and not token_file.exists()


def _token_file(env: Mapping[str, str], *variables: str) -> tuple[Path | None, str]:
    """The file the first of ``variables`` that is set names, searched in the folders the reference pilot looks in; and which."""
    variable = next((variable for variable in variables if variable in env), "")
    if not variable:
        return None, ""
    name = env[variable]
    proxy = env.get("X509_USER_PROXY")
    folders = [env.get("OIDC_AUTH_DIR"), env.get("PANDA_AUTH_DIR"), str(Path(proxy).parent) if proxy else None]
    folders += [env.get("PILOT_SOURCE_DIR"), env.get("PILOT_WORK_DIR"), env.get("HOME")]
    candidates = [Path(name)] if name.startswith("/") else [Path(folder) / name for folder in folders if folder]
    return next((path for path in candidates if path.exists()), candidates[0] if candidates else None), variable

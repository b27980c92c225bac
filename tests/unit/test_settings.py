"""Settings: flags > environment > file > defaults, one sentence an error, and nothing comes in by the back door."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pilot.job.errors import ExitCode, SettingsError
from pilot.options import OPTIONS
from pilot.runtime.secret import Secret
from pilot.settings import BACK_DOORS, PAYLOAD_ENV_DEFAULT, PUSH_JOB_FILE, Bind, QueueSettings, Settings, read_settings

HOME = {"HOME": "/home/jane"}


def read(
    flags: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    *,
    file: Path | None = None,
    queue: str = "Q",
) -> Settings:
    given_flags: dict[str, Any] = {"queue": queue} if queue else {}
    return read_settings(given_flags | (flags or {}), HOME | (env or {}), (file,) if file else ())


def refused(
    flags: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    *,
    file: Path | None = None,
    queue: str = "Q",
) -> str:
    with pytest.raises(SettingsError) as raised:
        read(flags, env, file=file, queue=queue)
    sentence = str(raised.value)
    assert raised.value.exit_code is ExitCode.USAGE
    assert sentence and "\n" not in sentence
    return sentence


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pilot.yaml"


def write(file: Path, document: object) -> Path:
    file.write_text(yaml.safe_dump(document))
    return file


# --- precedence -------------------------------------------------------------------------------------------------------


def test_flags_win_over_the_environment_that_over_the_file_and_that_over_the_defaults(file: Path) -> None:
    write(file, {"max_jobs": 3, "max_empty": 3, "lifetime": 3, "heartbeat": 3})
    env = {"PILOT_MAX_JOBS": "2", "PILOT_MAX_EMPTY": "2", "PILOT_LIFETIME": "2"}
    settings = read({"max_jobs": "1", "max_empty": "1"}, env, file=file)
    found = (settings.max_jobs, settings.max_empty, settings.lifetime, settings.heartbeat, settings.shutdown_s)
    assert found == (1, 1, 2.0, 3.0, 10.0)
    assert settings.sources["max_jobs"] == "flag --max-jobs"
    assert settings.sources["lifetime"] == "environment variable PILOT_LIFETIME"
    assert settings.sources["heartbeat"] == f"file {file}"
    assert settings.sources["shutdown_s"] == "default"


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.name != "config"], ids=lambda option: option.name)
def test_every_option_is_a_field_a_flag_a_variable_and_a_key(option: Any, file: Path) -> None:
    samples = {"queue": "Q7", "submit_mode": "PUSH", "log_level": "DEBUG", "runtime": "plain", "api": "legacy"}
    samples |= {"require_isolation": "B", "use_realtime_logging": "yes", "log_format": "json"}
    text = samples.get(option.name)
    for guess in (text, "https://host.example:1234", "17"):
        try:
            value = option.read(guess) if guess else None
        except ValueError:
            continue
        if value is not None:
            text = guess
            break
    assert text is not None
    wanted = (value,) if option.repeatable else value
    others = {"origin": "vo"}
    if option.name in ("cert", "key"):
        others |= {"cert": "c", "key": "k"}
    others.pop(option.name, None)
    write(file, others | {option.name: [text] if option.repeatable else text})
    for settings in (
        read(others | {option.name: [text] if option.repeatable else text}, queue="Q"),
        read(others, {f"PILOT_{option.name.upper()}": text}, queue="" if option.name == "queue" else "Q"),
        read(file=file, queue="" if option.name == "queue" else "Q"),
    ):
        assert getattr(settings, option.name) == wanted


def test_repeated_flags_and_comma_lists_are_lists(file: Path) -> None:
    urls = ("https://a.example", "https://b.example")
    assert read({"server": list(urls)}).server == urls
    assert read(env={"PILOT_SERVER": ",".join(urls)}).server == urls
    assert read(file=write(file, {"server": list(urls)})).server == urls
    assert read(file=write(file, {"server": urls[0]})).server == urls[:1]


def test_the_first_default_file_that_exists_is_read_and_a_named_one_must(tmp_path: Path, file: Path) -> None:
    write(file, {"max_jobs": 7})
    assert read_settings({"queue": "Q"}, HOME, (tmp_path / "absent.yaml", file)).max_jobs == 7
    other = write(tmp_path / "other.yaml", {"max_jobs": 8})
    assert read({"config": str(other)}, file=file).max_jobs == 8
    assert read(env={"PILOT_CONFIG": str(other)}, file=file).config == other
    assert "cannot read the settings file" in refused({"config": str(tmp_path / "absent.yaml")})
    assert "cannot read the settings file" in refused({"config": str(tmp_path)})


def test_an_empty_file_says_nothing(file: Path) -> None:
    file.write_text("# nothing\n")
    assert read(file=file).max_jobs == 0


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_without_a_queue_there_is_nothing_to_do() -> None:
    assert "--queue" in refused(queue="")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue", "../etc"),
        ("queue", "a b"),
        ("queue", "x" * 101),
        ("max_jobs", "-1"),
        ("max_jobs", "many"),
        ("max_jobs", "1.5"),
        ("max_empty", "0"),
        ("heartbeat", "0"),
        ("heartbeat", "nan"),
        ("heartbeat", "1e3"),
        ("lifetime", "-5"),
        ("shutdown_s", ""),
        ("server", ["http://plain.example"]),
        ("server", ["https://"]),
        ("server", ["https://[bad"]),
        ("server", ["https://host:port"]),
        ("api", "v2"),
        ("runtime", "docker"),
        ("log_level", "loud"),
        ("submit_mode", "push"),
        ("ca", ""),
        ("ca", "a\0b"),
        ("workdir", "~no-such-user-on-any-machine/x"),
        ("cric", "http://cric.example"),
        ("disk_limit_mib", "0"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_its_place(name: str, value: Any, file: Path) -> None:
    flag = "--" + name.replace("_", "-")
    assert refused({name: value}).startswith(f"flag {flag}") or refused({name: value}).startswith(flag)
    text = value[0] if isinstance(value, list) else value
    if text.strip() and "\0" not in text:
        queue = "" if name == "queue" else "Q"
        assert f"PILOT_{name.upper()}" in refused(env={f"PILOT_{name.upper()}": text}, queue=queue)
        assert f"{name} in {file}" in refused(file=write(file, {name: value}), queue=queue)


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    sentence = refused({"server": ["https://jane:sesame@host.example"]})
    assert "password" in sentence and "sesame" not in sentence


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("maxjobs: 3", "unknown key 'maxjobs'"),
        ("max-jobs: 3", "unknown key 'max-jobs'"),
        ("1: 2", "unknown key '1'"),
        ("- a\n- b", "mapping"),
        ("just words", "mapping"),
        ("a: [", "not YAML"),
        ("a: !!python/object/apply:os.system [id]", "not YAML"),
        ("max_jobs: [1, 2]", "not a single value"),
        ("max_jobs: {a: 1}", "not a single value"),
        ("server: [[a]]", "not a single value"),
        ("max_jobs: true", "whole number"),
        ("workdir:", "not a single value"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_its_name(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    sentence = refused(file=file)
    assert said in sentence and str(file) in sentence


def test_a_file_of_bytes_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00\x80")
    refused(file=file)


@given(st.sampled_from([option.name for option in OPTIONS if option.name != "config"]), st.text(max_size=30))
def test_any_text_is_a_setting_or_a_sentence(name: str, text: str) -> None:
    others = {"cert": "c", "key": "k", "origin": "vo"}
    option = next(option for option in OPTIONS if option.name == name)
    try:
        read(others | {name: [text] if option.repeatable else text})
    except SettingsError as error:
        assert "\n" not in str(error)


def test_certificate_and_key_belong_together() -> None:
    assert "--key" in refused({"cert": "c"})
    assert "--key" in refused({"key": "k"})


def test_a_token_needs_its_origin() -> None:
    assert "--origin" in refused({"token_file": "t"})
    assert read({"token_file": "t", "origin": "vo"}).token_file == Path("t")


# --- Harvester --------------------------------------------------------------------------------------------------------


def harvester_2026() -> dict[str, str]:
    """The whole environment that Harvester's Kubernetes plugin appends to a container today, in PULL mode with a proxy."""
    return {
        "computingSite": "DOMA_LSST_DEV",
        "pandaQueueName": "DOMA_LSST_DEV",
        "resourceType": "SCORE",
        "prodSourceLabel": "unified",
        "jobType": "unified",
        "pilotType": "RC",
        "pilotUrlOpt": "--piloturl https://host.example/pilot3.tgz",
        "pythonOption": "--pythonversion 3",
        "pilotVersion": "3.11.5.1",
        "proxySecretPath": "/proxy/x509up_u25606",
        "PANDA_AUTH_ORIGIN": "atlas.pilot",
        "PANDA_AUTH_DIR": "",
        "PANDA_AUTH_TOKEN": "",
        "PANDA_AUTH_TOKEN_KEY": "",
        "workerID": "4712",
        "HARVESTER_WORKER_ID": "4712",
        "HARVESTER_ID": "harvester-of-2026",
        "PANDA_JSID": "harvester-harvester-of-2026",
        "logs_frontend_w": "https://cache.example:25443/server/panda",
        "logs_frontend_r": "https://cache.example:25443/cache",
        "submit_mode": "PULL",
        "EXEC_DIR": "/scratch/executables",
        "TMPDIR": "/pilotdir",
        "HOME": "/pilotdir",
        "PANDA_HOSTNAME": "gke-node-7",
        "K8S_JOB_ID": "grid-job-4712",
        "storageRequestMiB": "16336.0",
        "storageLimitMiB": "16336.0",
    }


def harvester_2021() -> dict[str, str]:
    """That of 2021, with what Rubin's templates add: placeholders that nobody fills, and their own constants."""
    template = {name: f"${name}" for name in ("proxyContent", "pythonOption", "K8S_JOB_ID", "stdout_name")}
    return {
        **template,
        "computingSite": "DOMA_LSST_DEV",
        "pandaQueueName": "DOMA_LSST_DEV",
        "resourceType": "SCORE",
        "prodSourceLabel": "managed",
        "jobType": "managed",
        "pilotType": "PR",
        "pilotUrlOpt": "",
        "proxySecretPath": "/proxy/x509up_u25606",
        "workerID": "4701",
        "HARVESTER_WORKER_ID": "4701",
        "HARVESTER_ID": "harvester-of-2021",
        "PANDA_JSID": "harvester-harvester-of-2021",
        "logs_frontend_w": "https://cache.example:25443/server/panda",
        "logs_frontend_r": "https://cache.example:25443/cache",
        "stdout_name": "",
        "submit_mode": "PULL",
        "EXEC_DIR": "/scratch/executables",
        "TMPDIR": "/tmp",
        "GOOGLE_APPLICATION_CREDENTIALS": "/gcscreds/gcs-access.json",
        "PILOT_NOKILL": "True",
        "S3_ENDPOINT_URL": "https://storage.googleapis.com",
        "REALTIME_LOGGING_SERVER": "google-cloud-logging",
        "REALTIME_LOGNAME": "Panda-RubinLog",
        "REALTIME_LOGFILES": "payload-log.json",
        "USE_REALTIME_LOGGING": "yes",
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "sesame-open",
        "PGPASSWORD": "sesame-too",
    }


# Row by row what each variable comes to (facts on Harvester, the environment): variable -> (setting, 2026, 2021).
UNSET: Any = object()
ROWS: dict[str, tuple[str, Any, Any]] = {
    "computingSite": ("site", "DOMA_LSST_DEV", "DOMA_LSST_DEV"),
    "pandaQueueName": ("queue", "DOMA_LSST_DEV", "DOMA_LSST_DEV"),
    "resourceType": ("resource_type", "SCORE", "SCORE"),
    "prodSourceLabel": ("label", "unified", "managed"),
    "jobType": ("job_type", "unified", "managed"),
    "pilotType": ("version_tag", "RC", "PR"),
    "pilotUrlOpt": ("ignored", ("pilotUrlOpt", "pythonOption", "pilotVersion"), ()),
    "proxySecretPath": ("x509_proxy", Path("/proxy/x509up_u25606"), Path("/proxy/x509up_u25606")),
    "PANDA_AUTH_ORIGIN": ("origin", "atlas.pilot", None),
    "PANDA_AUTH_TOKEN": ("token_file", None, None),
    "PANDA_AUTH_TOKEN_KEY": ("token_key_file", None, None),
    "workerID": ("worker_id", 4712, 4701),
    "HARVESTER_ID": ("harvester_id", "harvester-of-2026", "harvester-of-2021"),
    "PANDA_JSID": ("scheduler_id", "harvester-harvester-of-2026", "harvester-harvester-of-2021"),
    "logs_frontend_w": ("worker_log_upload",) + ("https://cache.example:25443/server/panda",) * 2,
    "logs_frontend_r": ("worker_log_public",) + ("https://cache.example:25443/cache",) * 2,
    "stdout_name": ("worker_log_name", None, None),
    "(generation)": ("of_2021", False, True),
    "submit_mode": ("job", None, None),
    "TMPDIR": ("workdir", Path("/pilotdir/pilot"), Path("/tmp/pilot")),
    "TMPDIR of the log": ("worker_log", Path("/pilotdir/wrapper-wid.log"), Path("/tmp/wrapper-wid.log")),
    "PANDA_HOSTNAME": ("node", "gke-node-7", UNSET),
    "K8S_JOB_ID": ("batch_id", "grid-job-4712", None),
    "storageLimitMiB": ("disk_limit_mib", 16336, None),
    "GOOGLE_APPLICATION_CREDENTIALS": ("google_application_credentials", None, Path("/gcscreds/gcs-access.json")),
    "S3_ENDPOINT_URL": ("payload_s3_endpoint",) + ("https://storage.googleapis.com",) * 2,
    "REALTIME_LOGFILES": ("realtime_logfiles",) + ("payload-log.json",) * 2,
    "REALTIME_LOGNAME": ("realtime_logname",) + ("Panda-RubinLog",) * 2,
    "REALTIME_LOGGING_SERVER": ("realtime_logging_server", None, "google-cloud-logging"),
    "USE_REALTIME_LOGGING": ("use_realtime_logging", False, True),
}


@pytest.mark.parametrize("row", ROWS)
def test_exactly_harvesters_environment_is_enough(row: str) -> None:
    name, today, then = ROWS[row]
    for variables, wanted in ((harvester_2026(), today), (harvester_2021(), then)):
        settings = read_settings({}, variables, ())
        found = getattr(settings, name)
        assert found == (socket.gethostname() if wanted is UNSET else wanted)


def test_only_data_credentials_of_the_template_go_on_to_payloads() -> None:
    names = set(read_settings({}, harvester_2021(), ()).payload_environment)
    assert names == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"}
    assert read_settings({}, harvester_2026(), ()).payload_environment == {}


@pytest.mark.parametrize("name", sorted(set(harvester_2026()) | set(harvester_2021())))
@pytest.mark.parametrize("generation", [harvester_2026, harvester_2021])
@pytest.mark.parametrize("nothing", ["", " ", "${name}"], ids=["empty", "blank", "placeholder"])
def test_each_variable_may_say_nothing(name: str, generation: Any, nothing: str) -> None:
    """Harvester leaves a name empty that has no value, and a template's placeholder stands where nothing was appended."""
    without = {key: value for key, value in generation().items() if key != name}
    said_nothing = without | {name: nothing.replace("{name}", name)}
    left = read_settings({}, without, ())
    found = read_settings({}, said_nothing, ())
    if name == "stdout_name":  # being there at all is the mark of 2021
        assert found.of_2021 is (generation is harvester_2021)
        found = replace(found, of_2021=left.of_2021)
    assert found == left


def test_a_pod_in_push_mode_reads_the_mounted_job() -> None:
    settings = read_settings({}, harvester_2026() | {"submit_mode": "PUSH"}, ())
    assert (settings.job, settings.sources["job"]) == (PUSH_JOB_FILE, "submit_mode PUSH")


def test_a_pod_in_token_mode_has_its_files_in_the_named_folder(tmp_path: Path) -> None:
    for name in ("token", "key"):
        (tmp_path / name).write_text("x")
    token = {"PANDA_AUTH_DIR": str(tmp_path), "PANDA_AUTH_TOKEN": "token", "PANDA_AUTH_TOKEN_KEY": "key"}
    settings = read_settings({}, harvester_2026() | token | {"proxySecretPath": ""}, ())
    assert (settings.token_file, settings.token_key_file) == (tmp_path / "token", tmp_path / "key")
    assert (settings.origin, settings.x509_proxy) == ("atlas.pilot", None)


def test_the_origin_of_the_settings_file_wins_over_harvesters_and_over_nobody_elses(file: Path) -> None:
    write(file, {"origin": "panda_dev.pilot", "label": "of the file"})
    harvester = {"PANDA_AUTH_ORIGIN": "atlas.pilot", "prodSourceLabel": "unified"}
    settings = read(env=harvester, file=file)
    assert (settings.origin, settings.sources["origin"]) == ("panda_dev.pilot", f"file {file}")
    assert settings.label == "unified", "every other variable wins over the file"
    assert read(env={"OIDC_AUTH_ORIGIN": "atlas.pilot"}, file=file).origin == "panda_dev.pilot"
    assert read(env=harvester | {"PILOT_ORIGIN": "mine"}, file=file).origin == "mine"
    assert read({"origin": "flagged"}, harvester, file=file).origin == "flagged"
    assert read(env=harvester).origin == "atlas.pilot"


@pytest.mark.parametrize(
    ("text", "mib"), [("16336.0", 16336), ("16336", 16336), ("0x10", None), ("0.5", None), ("-1", None)]
)
def test_the_disk_limit_may_have_decimals(text: str, mib: int | None) -> None:
    if mib is None:
        assert "storageLimitMiB" in refused(env={"storageLimitMiB": text})
    else:
        assert read(env={"storageLimitMiB": text}).disk_limit_mib == mib


def test_the_queue_may_be_known_by_its_site_alone() -> None:
    assert read_settings({}, {"computingSite": "Q"}, ()).queue == "Q"


@pytest.mark.parametrize(("word", "on"), [("yes", True), ("y", True), ("YES", True), ("no", False), ("True", True)])
def test_realtime_logging_is_switched_in_the_words_in_use(word: str, on: bool) -> None:
    assert read(env={"USE_REALTIME_LOGGING": word}).use_realtime_logging is on


def test_blank_variables_are_unset() -> None:
    assert read(env={"K8S_JOB_ID": "  ", "PILOT_LABEL": ""}).batch_id is None


def test_push_mode_has_its_job_file_and_a_flag_wins() -> None:
    assert read(env={"submit_mode": "PUSH"}).job == PUSH_JOB_FILE
    assert read({"job": "mine"}, {"submit_mode": "PUSH"}).job == Path("mine")
    assert read(env={"submit_mode": "PULL"}).job is None


def test_the_service_account_key_has_two_spellings() -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIAL"):
        assert read(env={name: "/key.json"}).google_application_credentials == Path("/key.json")


def test_the_work_folder_is_below_tmpdir_else_below_home() -> None:
    assert read(env={"TMPDIR": "/t"}).workdir == Path("/t/pilot")
    assert read().workdir == Path("/home/jane/.cache/pilot/work")
    assert read_settings({"queue": "Q"}, {}, ()).workdir == Path("/nonexistent/.cache/pilot/work")


# --- credentials ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["PANDA_AUTH_TOKEN", "OIDC_AUTH_TOKEN"])
@pytest.mark.parametrize(
    "place", ["OIDC_AUTH_DIR", "PANDA_AUTH_DIR", "PILOT_SOURCE_DIR", "PILOT_WORK_DIR", "HOME", "proxy"]
)
def test_a_token_is_searched_where_the_established_pilot_does(tmp_path: Path, variable: str, place: str) -> None:
    (tmp_path / "token").write_text("t")
    env = {variable: "token", "PANDA_AUTH_ORIGIN": "vo", "HOME": "/nowhere"}
    env |= {"X509_USER_PROXY": str(tmp_path / "x509")} if place == "proxy" else {place: str(tmp_path)}
    assert read(env=env).token_file == tmp_path / "token"


def test_a_token_may_be_a_full_path_and_one_that_is_missing_is_named_all_the_same(tmp_path: Path) -> None:
    env = {"PANDA_AUTH_TOKEN": str(tmp_path / "t"), "PANDA_AUTH_ORIGIN": "vo"}
    assert read(env=env).token_file == tmp_path / "t"
    assert read(env={"PANDA_AUTH_TOKEN": "t", "PANDA_AUTH_DIR": "/d", "PANDA_AUTH_ORIGIN": "vo"}).token_file == Path(
        "/d/t"
    )


def test_a_refreshed_token_wins_once_its_file_exists(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("t")
    env = {
        "OIDC_REFRESHED_AUTH_TOKEN": str(tmp_path / "new"),
        "PANDA_AUTH_TOKEN": str(tmp_path / "old"),
        "OIDC_AUTH_ORIGIN": "vo",
    }
    assert read(env=env).token_file == tmp_path / "old"
    (tmp_path / "new").write_text("t")
    assert read(env=env).token_file == tmp_path / "new"


def test_a_certificate_given_by_hand_wins_over_a_proxy_in_the_environment() -> None:
    by_hand = {"cert": "c", "key": "k"}
    assert read(by_hand, {"X509_USER_PROXY": "/p"}).x509_proxy is None
    assert read(by_hand | {"x509_proxy": "/p"}).x509_proxy == Path("/p")
    assert read(env={"X509_USER_PROXY": "/p"}).x509_proxy == Path("/p")


# --- queues -----------------------------------------------------------------------------------------------------------


def test_a_queue_has_settings_of_its_own(file: Path) -> None:
    entry = {
        "image": "gs://images/x.sif",
        "payload_env": ["PGHOST", "MY_TOKEN"],
        "payload_env_set": {"A": "b", "N": 1},
        "binds": ["/data:/data:ro", "/scratch:/scratch", "/x:/y:rw"],
    }
    write(file, {"queues": {"Q": entry, "OTHER": {}}})
    env = {"PGHOST": "db", "MY_TOKEN": "sesame", "AWS_ACCESS_KEY_ID": "AKIA"}
    settings = read(env=env, file=file)
    assert settings.queue_settings == QueueSettings(
        image="gs://images/x.sif",
        payload_env=("PGHOST", "MY_TOKEN"),
        payload_env_set={"A": "b", "N": "1"},
        binds=(
            Bind(Path("/data"), "/data", True),
            Bind(Path("/scratch"), "/scratch"),
            Bind(Path("/x"), "/y"),
        ),
    )
    assert settings.payload_environment == {"PGHOST": Secret("db"), "MY_TOKEN": Secret("sesame")}
    assert read(file=file, queue="OTHER").queue_settings == read(queue="NEW").queue_settings == QueueSettings()


@pytest.mark.parametrize(
    "queues",
    [
        ["Q"],
        "Q",
        {"Q": None},
        {"Q": {"images": "x"}},
        {"Q": {"image": 1}},
        {"Q": {"payload_env": "PGHOST"}},
        {"Q": {"payload_env": ["A-B"]}},
        {"Q": {"payload_env": ["A\n"]}},
        {"Q": {"payload_env_set": {"A=B": "x"}}},
        {"Q": {"payload_env_set": {"A": [1]}}},
        {"Q": {"binds": "/a:/b"}},
        {"Q": {"binds": ["/a"]}},
        {"Q": {"binds": ["a:/b"]}},
        {"Q": {"binds": ["/a:b"]}},
        {"Q": {"binds": ["/a:/b:x"]}},
        {"Q": {"binds": ["/a::ro"]}},
        {"Q": {"binds": [5]}},
    ],
)
def test_settings_of_a_queue_that_make_no_sense_are_refused(file: Path, queues: object) -> None:
    assert "queues" in refused(file=write(file, {"queues": queues}))


def test_a_wrong_entry_of_another_queue_is_refused_too(file: Path) -> None:
    assert "queues.OTHER" in refused(file=write(file, {"queues": {"OTHER": {"image": 1}}}))


def test_a_payload_gets_the_data_credentials_there_are_as_secrets() -> None:
    env = dict.fromkeys(PAYLOAD_ENV_DEFAULT, "sesame") | {"OTHER": "x"}
    settings = read(env=env)
    assert set(settings.payload_environment) == set(PAYLOAD_ENV_DEFAULT)
    assert all(type(value) is Secret for value in settings.payload_environment.values())
    assert "sesame" not in repr(settings)


def test_no_data_credential_goes_to_a_payload_whose_queue_wants_none(file: Path) -> None:
    write(file, {"queues": {"Q": {"payload_env": []}}})
    assert read(env={"PGPASSWORD": "x"}, file=file).payload_environment == {}


# --- back doors -------------------------------------------------------------------------------------------------------

CLOSED = (
    "HTTPS_PROXY https_proxy ALL_PROXY NO_PROXY REQUESTS_CA_BUNDLE CURL_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR NETRC "
    "AWS_ACCESS_KEY_ID AWS_CA_BUNDLE AWS_PROFILE AWS_ENDPOINT_URL BOTO_CONFIG GOOGLE_APPLICATION_CREDENTIALS "
    "GOOGLE_CLOUD_PROJECT GCE_METADATA_HOST STORAGE_EMULATOR_HOST PGPASSWORD APPTAINERENV_X SINGULARITY_BIND "
    "APPTAINER_CACHEDIR SSLKEYLOGFILE"
)
OPEN = "PATH HOME TMPDIR LANG PANDA_AUTH_TOKEN PILOT_QUEUE PYTHONPATH TZ PAGER"


@pytest.mark.parametrize("name", CLOSED.split())
def test_a_back_door_is_known(name: str) -> None:
    assert BACK_DOORS.fullmatch(name)


@pytest.mark.parametrize("name", OPEN.split())
def test_a_front_door_stays_open(name: str) -> None:
    assert not BACK_DOORS.fullmatch(name)


def test_closing_the_back_doors_removes_them_from_the_process_and_its_children() -> None:
    code = (
        "import os, subprocess; from pilot.settings import close_back_doors; close_back_doors();"
        "print(sorted(os.environ)); print(subprocess.run(['env'], capture_output=True, text=True).stdout)"
    )
    env = dict.fromkeys(CLOSED.split(), "x") | {"PATH": "/usr/bin:/bin", "HOME": "/h", "GOOD": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert not [name for name in CLOSED.split() if f"'{name}'" in done.stdout or f"\n{name}=" in done.stdout]
    assert "'GOOD'" in done.stdout and "\nHOME=/h" in done.stdout
    assert "NO_GCE_CHECK=true" in done.stdout


@pytest.mark.parametrize(
    ("flags", "environment", "plain"),
    [
        ({}, {"TERM": "xterm-256color"}, False),
        ({"plain": True}, {"TERM": "xterm-256color"}, True),
        ({}, {"TERM": "xterm-256color", "NO_COLOR": "1"}, True),
        ({}, {"TERM": "xterm-256color", "NO_COLOR": ""}, False),  # as no-color.org has it
        ({}, {"TERM": "dumb"}, True),
        ({}, {}, True),
    ],
)
def test_who_gets_no_live_view(flags: dict[str, Any], environment: dict[str, str], plain: bool) -> None:
    assert read_settings({"queue": "Q", **flags}, environment, ()).plain is plain

#!/usr/bin/env python3
"""The starter for templates that still mount or fetch one: it finds the installed ``pilot-start`` and becomes it.

Nothing is downloaded. What Harvester says in the environment ``pilot-start`` reads itself; options that the starter, the wrapper or
the pilot of old were given are put into the words it knows, or named once on stderr and ignored. Arguments that none of the three
knew go to ``pilot-start`` as they are. Any Python runs it (Harvester says ``python``, which may be an old one); nothing else is needed.

Exit codes of its own: 127, there is no ``pilot-start`` here; 126, there is one that cannot be run; 2, an option lacks its value.
"""

import os
import sys

NOT_FOUND, CANNOT_RUN, USAGE = 127, 126, 2
INSTALLED = "/opt/pilot/bin/pilot-start"
JOB_FILE = "pandaJobData.out"
JOB_FOLDER = "/scratch/jobconfig"
PORT = "25443"  # of a PanDA server whose URL names none

# What an option means, as the environment says it: Harvester's own names where there is one.
MEANINGS = {
    "-q": "pandaQueueName", "--queue": "pandaQueueName",
    "-s": "computingSite", "--site": "computingSite",
    "-j": "prodSourceLabel", "--joblabel": "prodSourceLabel",
    "-i": "pilotType", "--versiontag": "pilotType",
    "--job-type": "jobType",
    "--resource-type": "resourceType",
    "--harvester-submit-mode": "submit_mode",
    "--url": "PILOT_SERVER",
    "-a": "TMPDIR", "--workdir": "TMPDIR",
    "-l": "PILOT_LIFETIME", "--lifetime": "PILOT_LIFETIME",
    "-v": "PILOT_MAX_EMPTY", "--getjobrequests": "PILOT_MAX_EMPTY",
    "--cacert": "X509_USER_PROXY",
    "--capath": "X509_CERT_DIR",
    "--realtime-logging-server": "REALTIME_LOGGING_SERVER",
    "--realtime-logname": "REALTIME_LOGNAME",
}  # fmt: skip
PORT_OPTIONS = ("-p", "--port")
DATA_FOLDER = "--harvester-datadir"
REALTIME = "--use-realtime-logging"
# Accepted and ignored: with a value, and without.
IGNORED = frozenset(
    "-r --resource -w --workflow -x --getjobfailures -L --leasetime -g --baseurls --pilot-user --pilotversion --pythonversion "
    "--piloturl --pandaenvtag --container --queuedata-url --storagedata-url --rucio-host --redirect-stdout --country-group "
    "--working-group --allow-other-country --allow-same-user --harvester-workdir --harvester-eventstatusdump "
    "--harvester-workerattributes --use-https --cleanup --input-dir --input-destination-dir --output-dir --use-rucio-traces "
    "--hpc-resource --hpc-mode --es-executor-type".split()
)
IGNORED_FLAGS = frozenset(
    "-d --debug -t --noproxyverification -u --verifypayloadproxy -z --noserverupdate --mute --localpy --no-pilot-log "
    "--subscribe-to-msgsvc --no-token-renewal -b --pod".split()
)


class Said:
    """What a command line of old said: variables to set, options that are ignored, arguments for ``pilot-start``."""

    def __init__(self):
        self.variables, self.ignored, self.rest = {}, [], []
        self.port = self.data_folder = None


def understand(arguments):
    """The command line's meaning. Raises ValueError with the option that lacks its value."""
    said, left = Said(), list(arguments)
    while left:
        word = left.pop(0)
        name, value = split(word)
        if name in IGNORED_FLAGS:
            said.ignored.append(name)
        elif name == REALTIME:
            said.variables["USE_REALTIME_LOGGING"] = "yes"
        elif name in MEANINGS or name in IGNORED or name in PORT_OPTIONS or name == DATA_FOLDER:
            if value is None and not left:
                raise ValueError(name)
            value = left.pop(0) if value is None else value
            note(said, name, value)
        else:
            said.rest.append(word)
    if said.port and "PILOT_SERVER" in said.variables:
        said.variables["PILOT_SERVER"] = with_port(said.variables["PILOT_SERVER"], said.port)
    elif "PILOT_SERVER" in said.variables:
        said.variables["PILOT_SERVER"] = with_port(said.variables["PILOT_SERVER"], PORT)
    return said


def split(word):
    """``--name=value`` and ``-nvalue`` in two; the value is None where it is the next word, if any."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name, value if equals else None
    if len(word) > 2 and word.startswith("-"):
        return word[:2], word[2:]
    return word, None


def note(said, name, value):
    """Remember an option that has a value."""
    if name in IGNORED:
        said.ignored.append(name)
    elif name in PORT_OPTIONS:
        said.port = value
    elif name == DATA_FOLDER:
        said.data_folder = value
    elif value:
        said.variables[MEANINGS[name]] = value


def with_port(url, port):
    """The old pilot's rule: a URL without a port gets one."""
    scheme, _, rest = url.rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    return "%s://%s%s%s" % (scheme, host if ":" in host else host + ":" + port, slash, path)


def job_of_push(environment, data_folder):
    """The job of a PUSH worker, where it does not lie where ``pilot-start`` looks by itself; None when it does."""
    if environment.get("submit_mode") != "PUSH" or "PILOT_JOB" in environment:
        return None
    folders = [JOB_FOLDER, data_folder, os.path.join(environment.get("TMPDIR", "/scratch"), "jobconfig")]
    folders += [environment.get("TMPDIR"), os.getcwd()]
    for folder in folders:
        if folder and os.path.isfile(os.path.join(folder, JOB_FILE)):
            return None if folder == JOB_FOLDER else os.path.join(folder, JOB_FILE)
    return None


def find(environment):
    """The installed ``pilot-start``: the one PILOT_START names, one beside this file, the image's, one in PATH."""
    if environment.get("PILOT_START"):
        return environment["PILOT_START"]
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pilot-start")
    folders = environment.get("PATH", os.defpath).split(os.pathsep)
    for path in [beside, INSTALLED] + [os.path.join(folder, "pilot-start") for folder in folders]:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def say(text):
    sys.stderr.write("pilots_starter: %s\n" % text)
    sys.stderr.flush()


def main(arguments, environment):
    """Become ``pilot-start``; returns an exit code when that is impossible."""
    program = find(environment)
    if program is None:
        say(
            "there is no pilot-start in this image (neither %s nor in PATH): name an image that holds the pilot, in the "
            "template or as k8s.host_image of the queue in CRIC" % INSTALLED
        )
        return NOT_FOUND
    try:
        said = understand(arguments)
    except ValueError as option:
        say("option %s lacks its value" % option)
        return USAGE
    environment = dict(environment, **said.variables)
    job = job_of_push(environment, said.data_folder)
    if job is not None:
        environment["PILOT_JOB"] = job
    if said.ignored:
        say("this pilot has no use for %s" % ", ".join(sorted(set(said.ignored))))
    try:
        os.execve(program, [program] + said.rest, environment)
    except OSError as trouble:
        say("%s cannot be run: %s" % (program, trouble.strerror))
    return CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))

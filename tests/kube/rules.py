"""What is wrong with a manifest although it fits the schema: rules of the API server, of Harvester, and of this project.

Each rule takes a workload (a Job or Deployment as a dictionary) and yields sentences; no sentence, nothing wrong. ``complaints``
asks all of them. Pod security levels are those of Kubernetes' own standards, as far as these pods could offend them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from pilot.options import BY_NAME
from pilot.settings import PAYLOAD_ENV_DEFAULT

Document = dict[str, Any]
Rule = Callable[[Document], Iterator[str]]

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LONGEST_LABEL = 63  # the Job controller puts the Job's name into the label job-name
LONGEST_TEMPLATE_NAME = 50  # "-" and the worker's number follow
SHELLS = {"sh", "bash", "dash", "/bin/sh", "/bin/bash", "/usr/bin/bash"}
HARVESTER_PLACES = ("/scratch/executables", "/scratch/jobconfig")
HEALTHCHECK = ["pilot-start", "--healthcheck"]
MONITOR_PERIOD_S = 60
DECIMAL_UNITS = {"": 0, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12}
BINARY_UNITS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}
UNITS = {unit: Decimal(10) ** power for unit, power in DECIMAL_UNITS.items()}
UNITS |= {unit: Decimal(2) ** power for unit, power in BINARY_UNITS.items()}
# Kubernetes' pod security standards: capabilities that "baseline" lets a pod add
BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID",
    "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip


def quantity(text: str | int) -> Decimal:
    """A Kubernetes quantity: cores, or bytes."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if found is None or found[2] not in UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return Decimal(found[1]) * UNITS[found[2]]


def pod_of(document: Document) -> Document:
    pod: Document = document["spec"]["template"]["spec"]
    return pod


def container_of(document: Document) -> Document:
    container: Document = pod_of(document)["containers"][0]
    return container


def complaints(document: Document, *rules: Rule) -> list[str]:
    """All that the rules have to say; without a choice, the rules for every workload, and for Jobs those of Jobs."""
    chosen = rules or (*OF_WORKLOADS, *(OF_JOBS if document["kind"] == "Job" else ()))
    return [sentence for rule in chosen for sentence in rule(document)]


# Kubernetes: what the schema does not know


def names_are_allowed(document: Document) -> Iterator[str]:
    pod = pod_of(document)
    named = [document["metadata"], *pod["containers"], *pod.get("volumes", ())]
    for name in (entry["name"] for entry in named):
        if not NAME.fullmatch(name) or len(name) > LONGEST_LABEL:
            yield f"{name!r} is no DNS label"


def nothing_stands_twice(document: Document) -> Iterator[str]:
    pod, container = pod_of(document), container_of(document)
    lists = {
        "environment variable": [entry["name"] for entry in container.get("env", ())],
        "volume": [entry["name"] for entry in pod.get("volumes", ())],
        "mount": [entry["mountPath"] for entry in container.get("volumeMounts", ())],
        "container": [entry["name"] for entry in pod["containers"]],
    }
    for what, entries in lists.items():
        for entry, times in Counter(entries).items():
            if times > 1:
                yield f"{what} {entry} stands {times} times"


def mounts_and_volumes_belong_together(document: Document) -> Iterator[str]:
    volumes = {volume["name"] for volume in pod_of(document).get("volumes", ())}
    mounted = {mount["name"] for mount in container_of(document).get("volumeMounts", ())}
    for name in mounted - volumes:
        yield f"the mount {name} has no volume"
    for name in volumes - mounted:
        yield f"the volume {name} is mounted nowhere"


def requests_are_within_limits(document: Document) -> Iterator[str]:
    resources = container_of(document).get("resources", {})
    for what, limit in resources.get("limits", {}).items():
        request = resources.get("requests", {}).get(what, limit)
        if quantity(request) > quantity(limit):
            yield f"{what}: request {request} above limit {limit}"


def privileges_do_not_contradict(document: Document) -> Iterator[str]:
    security = container_of(document).get("securityContext", {})
    if security.get("privileged") and security.get("allowPrivilegeEscalation") is False:
        yield "privileged forbids allowPrivilegeEscalation: false"
    if security.get("privileged") and "capabilities" in security:
        yield "privileged has all capabilities: drop means nothing"
    pod_user = pod_of(document).get("securityContext", {})
    if pod_user.get("runAsNonRoot") and security.get("runAsUser", pod_user.get("runAsUser")) == 0:
        yield "runAsNonRoot with runAsUser 0"


# This project: what a pilot's pod is like


def nothing_of_the_node_is_taken(document: Document) -> Iterator[str]:
    pod = pod_of(document)
    for volume in pod.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= {"emptyDir", "secret", "configMap"}:
            yield f"the volume {volume['name']} is a {', '.join(kinds)}"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is set"
    if "docker.sock" in str(document):
        yield "docker.sock is named"


def the_pod_has_no_token_and_no_links(document: Document) -> Iterator[str]:
    pod = pod_of(document)
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    if pod.get("enableServiceLinks") is not False:
        yield "enableServiceLinks is not false"
    if pod.get("serviceAccountName") != "pilot":
        yield "serviceAccountName is not pilot"


def secrets_are_files(document: Document) -> Iterator[str]:
    for entry in container_of(document).get("env", ()):
        reference = entry.get("valueFrom", {}).get("secretKeyRef")
        if reference is None:
            continue
        if reference["name"] != "credentials" or entry["name"] not in PAYLOAD_ENV_DEFAULT:
            yield f"the secret {reference['name']} is in the environment ({entry['name']}), where a file will do"
    if container_of(document).get("envFrom"):
        yield "envFrom puts whole objects into the environment"
    mounts = {mount["name"]: mount for mount in container_of(document).get("volumeMounts", ())}
    for volume in pod_of(document).get("volumes", ()):
        if "secret" not in volume:
            continue
        if volume["secret"].get("defaultMode", 0o644) & 0o337:
            yield f"files of the secret {volume['name']} are more than readable by owner and group"
        if not mounts.get(volume["name"], {}).get("readOnly"):
            yield f"the secret {volume['name']} is not mounted read-only"


def secrets_reach_the_pilot_and_nobody_else(document: Document) -> Iterator[str]:
    """Root without DAC_OVERRIDE reads what is root's; an ordinary user reads it as a member of fsGroup."""
    pod_security = pod_of(document).get("securityContext", {})
    user = container_of(document)["securityContext"].get("runAsUser", pod_security.get("runAsUser"))
    for volume in pod_of(document).get("volumes", ()):
        mode = volume.get("secret", {}).get("defaultMode")
        if mode is None:
            continue
        if user == 0 and mode != 0o400:
            yield f"the secret {volume['name']} is open to more than root ({mode:04o})"
        if user != 0 and (mode != 0o440 or "fsGroup" not in pod_security):
            yield f"uid {user} cannot read the secret {volume['name']}"


def the_environment_holds_constants(document: Document) -> Iterator[str]:
    for entry in container_of(document).get("env", ()):
        if "$" in str(entry.get("value", "")):
            yield f"{entry['name']} is a placeholder, which nothing replaces"
        name = entry["name"]
        if name.startswith("PILOT_") and name.removeprefix("PILOT_").lower() not in BY_NAME:
            yield f"{name} is no option of pilot-start"


def one_program_without_a_shell(document: Document) -> Iterator[str]:
    command = container_of(document).get("command")
    if not command:
        yield "no command: Harvester would start its own starter"
    elif command[0] in SHELLS or any(word in SHELLS for word in command):
        yield f"{command[0]} as process 1 forwards no signal"
    if container_of(document).get("args"):
        yield "args besides command"


def probes_ask_the_pilot(document: Document) -> Iterator[str]:
    container = container_of(document)
    for kind in ("startupProbe", "livenessProbe"):
        probe = container.get(kind)
        if probe is None:
            yield f"no {kind}"
            continue
        if probe.get("exec", {}).get("command") != HEALTHCHECK:
            yield f"{kind} does not run {' '.join(HEALTHCHECK)}"
        if probe.get("timeoutSeconds", 1) < 10:
            yield f"{kind} gives a busy node less than 10 s"
    if container.get("livenessProbe", {}).get("failureThreshold", 3) * 60 < 300:
        yield "livenessProbe ends a pilot within five minutes"
    if "readinessProbe" in container:
        yield "a readinessProbe, and nothing serves"


def there_is_time_to_leave(document: Document) -> Iterator[str]:
    grace_s = pod_of(document).get("terminationGracePeriodSeconds", 30)
    if not 2 * BY_NAME["shutdown_s"].default <= grace_s <= 120:
        yield f"terminationGracePeriodSeconds {grace_s}"


def the_root_is_read_only(document: Document) -> Iterator[str]:
    if container_of(document).get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
        yield "the root file system can be written"
    for mount in container_of(document).get("volumeMounts", ()):
        if mount["mountPath"] in ("/", "/usr", "/etc", "/dev"):
            yield f"{mount['mountPath']} is mounted over"


def the_work_volume_is_bounded(document: Document) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod_of(document).get("volumes", ())}
    for name, volume in volumes.items():
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"the volume {name} has no sizeLimit"
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(document).get("volumeMounts", ())}
    environment = {entry["name"]: entry.get("value") for entry in container_of(document).get("env", ())}
    for name in ("PILOT_WORKDIR", "TMPDIR", "HOME"):
        if environment.get(name) != mounts.get("pilot-dir"):
            yield f"{name} is not the mount of pilot-dir"


def the_image_is_pinned(document: Document) -> Iterator[str]:
    image = container_of(document).get("image", "")
    if not re.fullmatch(r"[^:@]+(:[0-9]+)?[^:@]*@sha256:[0-9a-f]{64}", image):
        yield f"the image {image} is not named by digest"
    if container_of(document).get("imagePullPolicy") != "IfNotPresent":
        yield "imagePullPolicy is not IfNotPresent"


# Jobs, and templates that Harvester loads


def a_job_ends(document: Document) -> Iterator[str]:
    policy, limit = pod_of(document).get("restartPolicy"), document["spec"].get("backoffLimit")
    if (policy, limit) not in (("Never", 0), ("OnFailure", 3)):
        yield f"restartPolicy {policy} with backoffLimit {limit}"
    if document["spec"].get("ttlSecondsAfterFinished", 0) < MONITOR_PERIOD_S * 60:
        yield "it is gone before Harvester has looked: a finished worker would count as cancelled"
    if "podFailurePolicy" in document["spec"]:
        yield "podFailurePolicy starts pods that no worker stands for"


def it_is_one_worker(document: Document) -> Iterator[str]:
    if (document["spec"].get("completions"), document["spec"].get("parallelism")) != (1, 1):
        yield "a worker is one pod"
    if len(document["metadata"]["name"]) > LONGEST_TEMPLATE_NAME:
        yield "no room for the worker's number in the name"
    if "namespace" in document["metadata"]:
        yield "the namespace is CRIC's to say"


def nothing_is_lost_in_harvester(document: Document) -> Iterator[str]:
    """Harvester keeps one container, and replaces the pod's labels and, if told so, its annotations."""
    if document["spec"]["template"].get("metadata"):
        yield "labels and annotations of the pod are replaced"
    if len(pod_of(document)["containers"]) != 1:
        yield "only the first container is kept"
    if pod_of(document).get("initContainers"):
        yield "an init container is one more image to be fetched"
    if "activeDeadlineSeconds" in pod_of(document):
        yield "the deadline is the queue's maxtime"
    taken = [mount["mountPath"] for mount in container_of(document).get("volumeMounts", ())]
    for path in taken:
        if any((place + "/").startswith(path.rstrip("/") + "/") for place in HARVESTER_PLACES):
            yield f"Harvester mounts below {path}"


OF_WORKLOADS: tuple[Rule, ...] = (
    names_are_allowed,
    nothing_stands_twice,
    mounts_and_volumes_belong_together,
    requests_are_within_limits,
    privileges_do_not_contradict,
    nothing_of_the_node_is_taken,
    the_pod_has_no_token_and_no_links,
    secrets_are_files,
    secrets_reach_the_pilot_and_nobody_else,
    the_environment_holds_constants,
    one_program_without_a_shell,
    probes_ask_the_pilot,
    there_is_time_to_leave,
    the_root_is_read_only,
    the_work_volume_is_bounded,
    the_image_is_pinned,
)
OF_JOBS: tuple[Rule, ...] = (a_job_ends, it_is_one_worker, nothing_is_lost_in_harvester)


# Pod security standards


def against_baseline(document: Document) -> list[str]:
    """What the level "baseline" refuses of a workload's pod."""
    pod, security = pod_of(document), container_of(document).get("securityContext", {})
    found = [f"{field}" for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    if security.get("privileged"):
        found.append("privileged")
    found += sorted(set(security.get("capabilities", {}).get("add") or ()) - BASELINE_CAPABILITIES)
    for profile in ("seccompProfile", "appArmorProfile"):
        for context in (pod.get("securityContext", {}), security):
            if context.get(profile, {}).get("type") == "Unconfined":
                found.append(f"{profile} Unconfined")
    found += [f"hostPath {volume['name']}" for volume in pod.get("volumes", ()) if "hostPath" in volume]
    return found


def against_restricted(document: Document) -> list[str]:
    """What the level "restricted" refuses of a workload's pod."""
    pod_security, security = pod_of(document).get("securityContext", {}), container_of(document)["securityContext"]
    found = against_baseline(document)
    capabilities = security.get("capabilities", {})
    if "ALL" not in (capabilities.get("drop") or ()) or set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        found.append("capabilities")
    if security.get("allowPrivilegeEscalation") is not False:
        found.append("allowPrivilegeEscalation")
    if not pod_security.get("runAsNonRoot") or security.get("runAsUser") == 0:
        found.append("runAsNonRoot")
    if pod_security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccompProfile")
    return found

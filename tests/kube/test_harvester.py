"""The rendering of templates is Harvester's: the figures and names recorded of its own code, in both generations."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.kube.harvester import GENERATIONS, Generation, Harvester, Submission, Worker, submit
from tests.kube.manifests import queue

LEAST: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "grid-job"},
    "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "grid-job"}]}}},
}
DEV = queue("DOMA_LSST_DEV")
PUSH = Worker(job="PandaID=1&jobPars=x", job_ram_mb=1024)


def rendered(
    generation: Generation = "2026",
    worker: Worker | None = None,
    params: dict[str, Any] | None = None,
    container: dict[str, Any] | None = None,
    pod: dict[str, Any] | None = None,
    **of_queue: Any,
) -> Submission:
    template = yaml.safe_load(yaml.safe_dump(LEAST))
    spec = template["spec"]["template"]["spec"]
    spec.update(pod or {})
    spec["containers"][0].update(container or {})
    of_queue = {**DEV, **of_queue, "params": params or {}}
    return submit(yaml.safe_dump(template), of_queue, worker or Worker(), generation)


def test_the_name_and_the_labels_are_the_workers() -> None:
    found = rendered(pod={"containers": [{"name": "one"}, {"name": "two"}]})
    assert found.job["metadata"]["name"] == "grid-job-4711"
    assert found.pod["metadata"]["labels"] == {
        "resourceType": "SCORE",
        "prodSourceLabel": "unified",
        "pq": "DOMA_LSST_DEV",
    }
    assert [container["name"] for container in found.pod["spec"]["containers"]] == ["one"]


def test_the_recorded_resources_of_the_development_queue_come_out() -> None:
    assert rendered().container["resources"] == {
        "requests": {"cpu": "0.9", "memory": "1800.0Mi", "ephemeral-storage": "16336.0Mi"},
        "limits": {"cpu": "1", "ephemeral-storage": "16336.0Mi"},
    }
    assert "memory" not in rendered("2021").container["resources"]["limits"]
    assert "ephemeral-storage" not in rendered("2021").container["resources"]["limits"]


def test_a_memory_limit_takes_cric_to_ask_for_it() -> None:
    params = {
        "k8s.resources.limits.use_memory_limit": True,
        "k8s.resources.limits.memory_limit_min_offset": 500,
        "k8s.resources.limits.memory_limit_safety_factor": 120,
    }
    assert rendered(params=params).container["resources"]["limits"]["memory"] == "2300Mi"


def test_resources_that_the_template_names_are_left_alone() -> None:
    given = {"requests": {"memory": "3Gi"}, "limits": {"memory": "4Gi", "cpu": "2"}}
    resources = rendered(container={"resources": given}).container["resources"]
    assert resources["requests"] == {"memory": "3Gi", "cpu": "0.9", "ephemeral-storage": "16336.0Mi"}
    assert resources["limits"] == {"memory": "4Gi", "cpu": "2", "ephemeral-storage": "16336.0Mi"}


def test_a_push_worker_is_given_the_memory_of_its_job() -> None:
    assert rendered(worker=PUSH).container["resources"]["requests"]["memory"] == "1024.0Mi"


def test_a_queue_of_all_kinds_divides_its_disk_among_its_cores() -> None:
    found = rendered(capability="ucore", corecount=8)
    assert found.environment["storageLimitMiB"] == "2042.0"


def test_without_a_command_the_starter_is_run() -> None:
    assert rendered().container["command"] == ["/usr/bin/bash"]
    assert "args" not in rendered(container={"command": ["pilot-start"]}).container


def test_the_queues_image_wins_over_the_templates() -> None:
    named = {"image": "pilot:1"}
    params = {"k8s.host_image": "pilot:2"}
    assert rendered(container=named, params=params).container["image"] == "pilot:2"
    assert rendered(container=named).container["image"] == "pilot:1"
    assert rendered().container["image"] == "atlasadc/atlas-grid-centos7"


def test_today_the_work_folder_is_put_over_what_the_template_says() -> None:
    given = {"env": [{"name": "TMPDIR", "value": "/tmp"}, {"name": "proxyContent", "value": "$proxyContent"}]}
    today, before = (rendered(generation, container=given) for generation in ("2026", "2021"))
    assert [entry["value"] for entry in today.container["env"] if entry["name"] == "TMPDIR"] == ["/tmp", "/pilotdir"]
    assert today.environment["TMPDIR"] == "/pilotdir"
    assert before.environment["TMPDIR"] == "/tmp"
    assert today.environment["proxyContent"] == "$proxyContent"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_each_generation_has_its_own_names(generation: Generation) -> None:
    told = set(rendered(generation).environment)
    today_only = {"PANDA_HOSTNAME", "K8S_JOB_ID", "storageRequestMiB", "storageLimitMiB", "HOME", "PANDA_AUTH_ORIGIN"}
    assert {"computingSite", "pandaQueueName", "HARVESTER_ID", "workerID", "submit_mode", "proxySecretPath"} <= told
    assert today_only <= told if generation == "2026" else not today_only & told
    assert ("stdout_name" in told) == (generation == "2021")


def test_an_unused_token_is_an_empty_text_and_the_job_names_itself() -> None:
    found = rendered().environment
    assert (found["PANDA_AUTH_TOKEN"], found["PANDA_AUTH_DIR"]) == ("", "")
    assert found["K8S_JOB_ID"] == "grid-job-4711"
    assert found["PANDA_HOSTNAME"] == {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}


def test_a_work_volume_of_the_template_is_used_as_it_is() -> None:
    volumes = {"volumes": [{"name": "pilot-dir", "emptyDir": {"sizeLimit": "5Gi"}}]}
    mounts = {"volumeMounts": [{"name": "pilot-dir", "mountPath": "/elsewhere"}]}
    for generation in GENERATIONS:
        found = rendered(generation, pod=volumes, container=mounts)
        assert [v for v in found.pod["spec"]["volumes"] if v["name"] == "pilot-dir"] == volumes["volumes"]
        assert [m["mountPath"] for m in found.container["volumeMounts"]] == ["/elsewhere", "/scratch/executables"]
    assert {"name": "pilot-dir", "mountPath": "/pilotdir"} in rendered().container["volumeMounts"]
    unbounded = {"volumes": [{"name": "pilot-dir", "emptyDir": {}}]}
    assert rendered("2021", pod=unbounded).pod["spec"]["volumes"][0]["emptyDir"] == {"sizeLimit": "16G"}


def test_a_push_worker_has_a_map_of_its_own_with_its_job() -> None:
    found = rendered(worker=PUSH, params={"k8s.namespace": "panda"})
    assert found.config_map is not None
    assert found.config_map["metadata"] == {"name": "4711", "namespace": "panda"}
    assert found.config_map["data"]["pandaJobData.out"] == "PandaID=1&jobPars=x"
    assert {"name": "job-config", "mountPath": "/scratch/jobconfig"} in found.container["volumeMounts"]
    assert rendered().config_map is None


def test_the_namespace_is_crics() -> None:
    assert rendered().namespace == "default"
    assert rendered(params={"k8s.namespace": "panda"}).namespace == "panda"
    assert rendered(queues=[{"ce_queue_name": "of-the-ce"}]).namespace == "of-the-ce"


def test_a_queue_without_maxtime_gives_its_pods_twenty_six_days() -> None:
    for generation in GENERATIONS:
        assert rendered(generation).pod["spec"]["activeDeadlineSeconds"] == 2_265_600
        assert rendered(generation, maxtime=3600).pod["spec"]["activeDeadlineSeconds"] == 3600
    assert "activeDeadlineSeconds" not in rendered(params={"k8s.use_active_deadline_seconds": False}).pod["spec"]


def test_pods_of_few_cores_attract_each_other_unless_the_template_says_otherwise() -> None:
    assert set(rendered().pod["spec"]["affinity"]) == {"podAffinity"}
    assert set(rendered("2021").pod["spec"]["affinity"]) == {"podAffinity", "podAntiAffinity"}
    assert rendered(pod={"affinity": {"nodeAffinity": {}}}).pod["spec"]["affinity"] == {"nodeAffinity": {}}
    many = rendered(worker=Worker(resource_type="MCORE", cores=8)).pod["spec"]["affinity"]
    assert many == {}


def test_a_priority_class_is_crics_the_special_one_first() -> None:
    params = {"k8s.scheduler.priorityClassName": "usual", "k8s.scheduler.priorityClassName.score_himem": "large"}
    assert rendered(params=params).pod["spec"]["priorityClassName"] == "usual"
    himem = Worker(resource_type="SCORE_HIMEM")
    assert rendered(params=params, worker=himem).pod["spec"]["priorityClassName"] == "large"


def test_annotations_are_kept_until_cric_forbids_eviction() -> None:
    template = yaml.safe_load(yaml.safe_dump(LEAST))
    template["spec"]["template"]["metadata"] = {"annotations": {"mine": "1"}, "labels": {"mine": "1"}}
    text = yaml.safe_dump(template)
    assert submit(text, DEV, Worker(), "2026").pod["metadata"]["annotations"] == {"mine": "1"}
    params = {**DEV, "params": {"k8s.annotations.safe_to_evict": False}}
    kept = submit(text, params, Worker(), "2026").pod["metadata"]["annotations"]
    assert kept == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}


def test_a_token_is_told_by_folder_and_name() -> None:
    harvester = Harvester(proxy=None, token_dir="/token", token="panda_token", token_key="panda_token_key")
    found = submit(yaml.safe_dump(LEAST), DEV, Worker(), "2026", harvester).environment
    assert (found["PANDA_AUTH_DIR"], found["PANDA_AUTH_TOKEN"]) == ("/token", "panda_token")
    assert found["proxySecretPath"] == ""

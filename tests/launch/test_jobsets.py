"""The JobSet manifests, against the fields and rules of jobset.x-k8s.io/v1alpha2 and of
batch/v1 that they use."""

import re

import pytest
import yaml

from tests.conftest import ROOT

MANIFESTS = sorted((ROOT / "launch").glob("jobset_*.yaml"))
# A type, a set of choices, a compiled pattern, [of each], {field: of it}. Fields with
# "!" must be there; others than these must not.
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
VALUE_FROM = {"!fieldRef": {"!fieldPath": re.compile(r"metadata\.annotations\['.+'\]")}}
CONTAINER = {
    "!name": NAME,
    "!image": str,
    "command": [str],
    "args": [str],
    "env": [{"!name": str, "value": str, "valueFrom": VALUE_FROM}],
    "resources": {"!limits": {"google.com/tpu": int, "nvidia.com/gpu": int}},
    "volumeMounts": [{"!name": NAME, "!mountPath": str}],
}
POD = {
    "!restartPolicy": {"Never", "OnFailure"},
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {
        "cloud.google.com/gke-tpu-accelerator": str,
        "cloud.google.com/gke-tpu-topology": str,
        "cloud.google.com/gke-accelerator": str,
    },
    "!containers": [CONTAINER],
    "volumes": [
        {
            "!name": NAME,
            "persistentVolumeClaim": {"!claimName": NAME},
            "emptyDir": {"medium": {"Memory"}},
        }
    ],
}
EXIT_CODES = {"containerName": NAME, "!operator": {"In", "NotIn"}, "!values": [int]}
JOB = {
    "completionMode": {"Indexed", "NonIndexed"},
    "completions": int,
    "parallelism": int,
    "backoffLimit": int,
    "podFailurePolicy": {
        "!rules": [
            {
                "!action": {"FailJob", "Ignore", "Count", "FailIndex"},
                "onExitCodes": EXIT_CODES,
            }
        ]
    },
    "!template": {"!spec": POD},
}
REASONS = {
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
}
RULE = {
    "!name": re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"),
    "!action": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
    "onJobFailureReasons": [REASONS],
    "targetReplicatedJobs": [NAME],
}
JOBSET = {
    "!apiVersion": {"jobset.x-k8s.io/v1alpha2"},
    "!kind": {"JobSet"},
    "!metadata": {
        "!name": NAME,
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": str},
    },
    "!spec": {
        "failurePolicy": {"maxRestarts": int, "rules": [RULE]},
        "network": {"enableDNSHostnames": bool, "publishNotReadyAddresses": bool},
        "ttlSecondsAfterFinished": int,
        "!replicatedJobs": [
            {"!name": NAME, "replicas": int, "!template": {"!spec": JOB}}
        ],
    },
}


def check(value, wanted, where="manifest"):
    if isinstance(wanted, dict):
        assert isinstance(value, dict), where
        known = {key.removeprefix("!"): inner for key, inner in wanted.items()}
        assert value.keys() <= known.keys(), where
        missing = {k[1:] for k in wanted if k.startswith("!")} - value.keys()
        assert not missing, f"{where}: {missing}"
        for key, inner in value.items():
            check(inner, known[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(value, list) and value, where
        for inner in value:
            check(inner, wanted[0], where)
    elif isinstance(wanted, set):
        assert value in wanted, where
    elif isinstance(wanted, re.Pattern):
        assert wanted.fullmatch(value), where
    else:
        assert type(value) is wanted, where


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.stem)
def manifest(request):
    return yaml.safe_load(request.param.read_text())


def test_every_field_is_known_and_of_its_type(manifest):
    check(manifest, JOBSET)


def test_the_parts_go_together(manifest):
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    environment = {one["name"]: one for one in container["env"]}
    hosts = int(environment["HOSTS"]["value"])
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    assert hosts == job["completions"] == job["parallelism"]
    (chips,) = container["resources"]["limits"].values()
    assert f"--config.preflight.devices={hosts * chips}" in container["args"]
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounted.keys() == {one["name"] for one in pod["volumes"]}
    (workdir,) = [a for a in container["args"] if a.startswith("--workdir=")]
    assert workdir.startswith(f"--workdir={mounted['runs']}/")
    assert container["command"] == ["bash", "launch/in_pod.sh"]
    # A refused preflight (status 2) ends it; all else starts it again.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy needs it
    # Names of pods, JOBSET-JOB-INDEX-INDEX-xxxxx, have at most 63 characters.
    assert len(f"{manifest['metadata']['name']}-{replicated['name']}-99-99-abcde") <= 63


def test_a_mistake_is_found():
    manifest = yaml.safe_load(MANIFESTS[0].read_text())
    manifest["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(AssertionError):
        check(manifest, JOBSET)

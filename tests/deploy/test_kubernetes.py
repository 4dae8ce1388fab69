"""Kubernetes: manifests against the schemas of its releases, and against each other."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import distributed.cli.dask_scheduler
import distributed.cli.dask_worker
import kubernetes_validate
import pytest
import typer.main
import yaml

from kythera.cli import app
from kythera.runs.executors import clusters

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
RELEASES = ("1.31", kubernetes_validate.latest_version())
FILES = sorted(p for p in FOLDER.glob("*.yaml") if p.name != "kustomization.yaml")
ENTRIES: list[dict[str, Any]] = [
    entry for path in FILES for entry in yaml.safe_load_all(path.read_text("utf-8"))
]
SETTINGS = {
    "workers": 3,
    "image": "kythera:1",
    "cores": 2,
    "memory": "4GiB",
    "spot": "[cloud.google.com/gke-spot=true]",
}


def pods() -> list[dict[str, Any]]:
    return [e["spec"]["template"] for e in ENTRIES if "template" in e.get("spec", {})]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (
        e for e in ENTRIES if e["kind"] == kind and e["metadata"]["name"] == name
    )
    return copy.deepcopy(found)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    "entry", ENTRIES, ids=lambda entry: f"{entry['kind']}-{entry['metadata']['name']}"
)
def test_kubernetes_would_take_it(entry, release):
    kubernetes_validate.validate(entry, release, strict=True)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (("spec",), "backofflimit", 3),
        (("spec", "podFailurePolicy", "rules", 0), "onPodCondition", []),
        (("spec", "template", "spec", "containers", 0), "resource", {}),
        (("spec", "template", "spec"), "restartPolicies", "Never"),
        (("spec",), "backoffLimit", "many"),
    ],
)
def test_a_slip_is_seen(path, name, value):
    study = named("Job", "telescope")
    place: Any = study
    for step in path:
        place = place[step]
    place[name] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(study, RELEASES[-1], strict=True)


def test_all_is_applied_but_studies():
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))
    files = {path.name for path in FILES}
    assert set(listed["resources"]) == files - {"study.yaml"}
    assert listed["resources"][0] == "namespace.yaml"
    assert [image["name"] for image in listed["images"]] == ["kythera"]


def test_all_in_one_namespace():
    for entry in ENTRIES:
        name = entry["metadata"][
            "name" if entry["kind"] == "Namespace" else "namespace"
        ]
        assert name == "kythera"


def test_each_service_finds_its_pods():
    for entry in ENTRIES:
        if entry["kind"] != "Service":
            continue
        (pod,) = (
            p for p in pods() if p["metadata"]["labels"] == entry["spec"]["selector"]
        )
        ports = {
            p["name"]: p["containerPort"] for p in pod["spec"]["containers"][0]["ports"]
        }
        for port in entry["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            assert target in ports or target in ports.values()


def test_each_set_selects_its_own_pods():
    for entry in ENTRIES:
        if entry["kind"] in ("Deployment", "StatefulSet"):
            labels = entry["spec"]["template"]["metadata"]["labels"]
            assert entry["spec"]["selector"]["matchLabels"] == labels


def test_policies_are_about_pods_that_exist():
    known = {pod["metadata"]["labels"]["app"] for pod in pods()}
    named_ones = set()
    for entry in ENTRIES:
        if entry["kind"] != "NetworkPolicy":
            continue
        named_ones |= set(entry["spec"]["podSelector"].get("matchLabels", {}).values())
        for rule in entry["spec"].get("ingress", []):
            for peer in rule.get("from", []):
                for expression in peer["podSelector"]["matchExpressions"]:
                    named_ones |= set(expression["values"])
    assert named_ones == known


def test_nothing_runs_as_root_or_without_limits():
    for pod in pods():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert (
            pod["spec"]["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        )
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])


def test_secrets_are_those_of_the_readme():
    text = (FOLDER.parent / "README.md").read_text("utf-8")
    for pod in pods():
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["name"] == "kythera"
                    assert f"--from-literal={reference['key']}=" in text


def test_workers_may_go_to_spot_nodes_and_nowhere_else():
    spec = named("Deployment", "workers")["spec"]["template"]["spec"]
    affinity = spec["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    labels = {term["matchExpressions"][0]["key"] for term in terms}
    tolerated = {toleration["key"] for toleration in spec["tolerations"]}
    assert tolerated <= labels
    assert spec["terminationGracePeriodSeconds"] <= 25
    for other in ("scheduler", "page"):
        assert (
            "tolerations" not in named("Deployment", other)["spec"]["template"]["spec"]
        )


def command(kind: str, name: str) -> list[str]:
    (container,) = named(kind, name)["spec"]["template"]["spec"]["containers"]
    return container.get("command") or container["args"]


@pytest.mark.parametrize("kind_name", [("Job", "telescope"), ("Deployment", "page")])
def test_commands_of_kythera_exist(kind_name):
    verb, *arguments = command(*kind_name)
    group = typer.main.get_command(app)
    found = group.get_command(None, verb)
    assert found.make_context(verb, arguments).params


def test_commands_of_dask_exist():
    dask, scheduler, *arguments = command("Deployment", "scheduler")
    assert (dask, scheduler) == ("dask", "scheduler")
    distributed.cli.dask_scheduler.main.make_context("scheduler", arguments)
    dask, worker, *arguments = command("Deployment", "workers")
    assert (dask, worker) == ("dask", "worker")
    given = distributed.cli.dask_worker.main.make_context("worker", arguments).params
    assert given["nanny"] is False
    assert given["nthreads"] == 1
    host, port = given["scheduler"].removeprefix("tcp://").split(":")
    assert named("Service", host)["spec"]["ports"][0]["port"] == int(port)
    assert f"--executor=dask:address=tcp://{host}:{port}" in command("Job", "telescope")


def test_pods_of_the_operator():
    resource = json.loads(clusters.script("kubernetes", SETTINGS))
    assert resource["spec"]["worker"]["replicas"] == 3
    for role in ("worker", "scheduler"):
        spec = resource["spec"][role]["spec"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}}
        kubernetes_validate.validate(pod | {"spec": spec}, RELEASES[-1], strict=True)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "scheduler"}}
    kubernetes_validate.validate(
        service | {"spec": resource["spec"]["scheduler"]["service"]},
        RELEASES[-1],
        strict=True,
    )
    worker = resource["spec"]["worker"]["spec"]
    (container,) = worker["containers"]
    assert container["image"] == "kythera:1"
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert worker["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert worker["tolerations"][0]["value"] == "true"
    assert "tolerations" not in resource["spec"]["scheduler"]["spec"]
    _, _, *arguments = container["command"]
    given = distributed.cli.dask_worker.main.make_context("worker", arguments).params
    assert given["nanny"] is False
    assert given["nthreads"] == 1


CHECK = """
import inspect, json, pathlib, sys
import dask_kubernetes.operator as operator
import jsonschema, yaml

resource = json.loads(sys.stdin.read())
place = pathlib.Path(operator.__file__).parent / "deployment"
(path,) = place.rglob("crds/daskcluster.yaml")
(version,) = [v for v in yaml.safe_load(path.read_text())["spec"]["versions"]]
assert resource["apiVersion"].endswith(version["name"])

def closed(schema):
    # a key that the schema does not name is a slip
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for value in schema.values():
        if isinstance(value, dict):
            closed(value)
    return schema

schema = closed(version["schema"]["openAPIV3Schema"])
schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
jsonschema.validate(resource, schema)
inspect.signature(operator.KubeCluster).bind(
    namespace="kythera", custom_cluster_spec=resource
)
wrong = json.loads(json.dumps(resource))
wrong["spec"]["worker"]["replica"] = 3
try:
    jsonschema.validate(wrong, schema)
except jsonschema.ValidationError:
    sys.stdout.write("taken")
"""


@pytest.mark.slow
def test_the_operator_would_take_it(tmp_path):
    """In an environment of its own: dask-kubernetes and comet-ml exclude each other."""
    uv = Path(sys.executable).with_name("uv")
    python = tmp_path / "venv" / "bin" / "python"
    for step in (
        ["venv", "-q", "-p", sys.executable, str(tmp_path / "venv")],
        ["pip", "install", "-q", "-p", str(python), "dask-kubernetes>=2025.1",
         "jsonschema"],
    ):  # fmt: skip
        subprocess.run([uv, *step], check=True, timeout=600)
    done = subprocess.run(
        [python, "-c", CHECK],
        input=clusters.script("kubernetes", SETTINGS),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert done.stdout == "taken", done.stderr

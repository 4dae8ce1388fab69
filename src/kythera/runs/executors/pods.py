"""Kubernetes: scheduler and workers as pods, through dask-kubernetes and its operator."""

import dataclasses
import json
import re
import uuid
from typing import Any

from kythera import errors
from kythera.runs.executors import settings


@dataclasses.dataclass(frozen=True)
class Kubernetes:
    """Kubernetes, where the operator of dask-kubernetes runs.

    Args:
        workers: one in each pod.
        image: with kythera, for scheduler and workers.
        cores: of a worker.
        memory: of a worker, such as "4Gi".
        namespace: that already exists.
        spot: labels of the nodes that may vanish, each with the taint that keeps other
            pods away: cloud.google.com/gke-spot=true. Workers may go there and nowhere
            else; the scheduler stays away.
        service_account: of the pods.
    """

    workers: int
    image: str
    cores: int = 1
    memory: str = "2Gi"
    namespace: str = "kythera"
    spot: tuple[str, ...] = ()
    service_account: str = "default"

    @property
    def size(self) -> int:
        """How many workers there will be."""
        return self.workers

    def check(self, kind: str) -> None:
        """Refuse what no cluster would take.

        Raises:
            InputError: a number, a size or a name that makes no sense.
        """
        settings.check_positive(kind, workers=self.workers, cores=self.cores)
        settings.check_memory(kind, self.memory)
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", self.namespace):
            raise errors.InputError(
                f"'namespace' of {kind!r} must be lower-case letters, digits and '-', "
                f"but is {self.namespace!r}. Make one: kubectl create namespace kythera."
            )
        for label in self.spot:
            if not re.fullmatch(r"[\w./-]+=[\w.-]+", label):
                raise errors.InputError(
                    f"'spot' of {kind!r} takes labels of nodes, but got {label!r}. "
                    "Write spot=[cloud.google.com/gke-spot=true]."
                )

    def resource(self, name: str = "kythera") -> dict[str, Any]:
        """The custom resource `DaskCluster`, as the operator takes it.

        Args:
            name: of the cluster, one in the namespace.
        """
        ports = [{"name": "tcp-comm", "containerPort": 8786, "protocol": "TCP"},
                 {"name": "http-dashboard", "containerPort": 8787, "protocol": "TCP"}]  # fmt: skip
        probe = {"httpGet": {"port": "http-dashboard", "path": "/health"}}
        scheduler = self._pod("scheduler", ["dask", "scheduler", "--host", "0.0.0.0"])
        deaths = {"name": "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"}
        scheduler["containers"][0]["env"].append(
            deaths | {"value": str(settings.DEATHS)}
        )
        scheduler["containers"][0] |= {
            "ports": ports, "readinessProbe": probe, "livenessProbe": probe,
        }  # fmt: skip
        # The operator gives each worker its name and the scheduler's address by the
        # environment; a pod's end is Kubernetes' business, as above.
        worker = self._pod(
            "worker",
            ["dask", "worker", "--no-nanny", "--nthreads", "1", "--memory-limit", "0",
             "--death-timeout", str(settings.PATIENCE), "--local-directory", "/tmp",
             "--name", "$(DASK_WORKER_NAME)"],
        )  # fmt: skip
        selector = {
            "dask.org/cluster-name": name,
            "dask.org/component": "scheduler",
        }
        services = [
            {"name": p["name"], "protocol": "TCP", "port": p["containerPort"],
             "targetPort": p["name"]}
            for p in ports
        ]  # fmt: skip
        return {
            "apiVersion": "kubernetes.dask.org/v1",
            "kind": "DaskCluster",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "worker": {"replicas": self.workers, "spec": worker},
                "scheduler": {
                    "spec": scheduler,
                    "service": {
                        "type": "ClusterIP", "selector": selector, "ports": services,
                    },
                },
            },
        }  # fmt: skip

    def _pod(self, name: str, command: list[str]) -> dict[str, Any]:
        resources = {"cpu": str(self.cores), "memory": self.memory.removesuffix("B")}
        container = {
            "name": name,
            "image": self.image,
            "command": command,
            "env": [{"name": n, "value": "1"} for n in settings.THREADS],
            "resources": {"requests": resources, "limits": resources},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        pod: dict[str, Any] = {
            "containers": [container],
            "serviceAccountName": self.service_account,
            "securityContext": {
                "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
            },
        }  # fmt: skip
        if name == "worker" and self.spot:
            pairs = [label.split("=") for label in self.spot]
            pod["nodeSelector"] = dict(pairs)
            pod["tolerations"] = [
                {"key": k, "operator": "Equal", "value": v} for k, v in pairs
            ]
        return pod

    def script(self) -> str:
        """The resource, for `kubectl apply`."""
        return json.dumps(self.resource(), indent=2) + "\n"

    def build(self) -> Any:
        """The cluster, its pods asked for; Kubernetes replaces those that vanish.

        Raises:
            UnsupportedError: dask-kubernetes is not installed.
        """
        factory = settings.attribute(
            "dask_kubernetes.operator", "KubeCluster", "kubernetes"
        )
        # of two clusters of one name the second would be the first
        resource = self.resource(f"kythera-{uuid.uuid4().hex[:8]}")
        return factory(namespace=self.namespace, custom_cluster_spec=resource)

"""The files that start a Ray on several nodes: their form, what they say, and that a run fits."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from actors.placement import bundles, demands
from rzero_ray.config.layout import resolve_layout
from rzero_ray.config.load import load_config
from rzero_ray.run.plan import rank_bytes
from rzero_ray.run.shape import find_shape

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
CLUSTERS = ["cluster.yaml", "cluster-on-premise.yaml"]

_RAYJOB_KEYS = {
    "entrypoint",
    "backoffLimit",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "rayClusterSpec",
}
"""Of `RayJobSpec` in KubeRay 1.6, those that the file uses; Kubernetes refuses what it has not."""
_CLUSTER_KEYS = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
_GROUP_KEYS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
_LONGEST_RAYJOB_NAME = 47
_BYTES = {"Gi": 2**30, "Mi": 2**20}


def ray_settings() -> dict[str, str]:
    """Return what `launch/env.sh` tells Ray, which all other files repeat or source."""
    found = re.findall(r'^export (\w+)="\${\1:-(.+)}"$', (LAUNCH / "env.sh").read_text(), re.M)
    return dict(found)


def test_env_sh_is_read_here_as_a_shell_reads_it(tmp_path: Path):
    # setup.sh, which would install, and token.sh are left out.
    lines = [line for line in (LAUNCH / "env.sh").read_text().splitlines() if "bash " not in line]
    (tmp_path / "env.sh").write_text("\n".join(lines).replace("then\nfi", "then :\nfi"))
    done = subprocess.run(
        ["bash", "-c", f"source {tmp_path}/env.sh && env"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if line[:4] == "RAY_")
    dashboards = told.pop("RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR")  # a folder of the user's own
    assert dashboards == f"{tmp_path}/.rzero_ray/grafana" and Path(dashboards).is_dir()
    assert told == ray_settings() and len(told) == 7


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash(name: str):
    done = subprocess.run(["bash", "-n", str(LAUNCH / name)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Slurm


@pytest.mark.parametrize("name", ["slurm.sh", "slurm-join.sh"])
def test_batch_scripts_are_for_sbatch_and_say_so(name: str):
    without = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = subprocess.run(["bash", LAUNCH / name], env=without, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and f"sbatch --nodes=1 launch/{name}" in done.stderr


@pytest.mark.parametrize("name", ["slurm.sh", "slurm-join.sh"])
def test_batch_scripts_take_ray_settings_from_env_sh_and_nodes_as_a_whole(name: str):
    text = (LAUNCH / name).read_text()
    assert text.index("source launch/env.sh") < text.index("ray symmetric-run")
    assert not [key for key in ray_settings() if re.search(rf"\b{key}=", text)]
    header = text[: text.index("set -uo pipefail")]
    options = re.findall(r"^#SBATCH (.+)$", header, re.M)
    assert {"--exclusive", "--ntasks-per-node=1", "--mem=0", "--no-kill"} <= set(options)
    # sbatch reads no option behind the first command.
    assert "#SBATCH" not in text[len(header) :]
    # The commands of a batch script and of its steps share nothing but what is exported.
    assert "export RAY_AUTH_TOKEN=" in text and "export -f agent" in text


# ray up


@pytest.mark.parametrize("name", CLUSTERS)
def test_cluster_files_are_what_ray_up_takes(name: str):
    prepared = prepare_config(yaml.safe_load((LAUNCH / name).read_text()))
    validate_config(prepared)
    workers = [
        node_type
        for key, node_type in prepared["available_node_types"].items()
        if node_type["max_workers"] > 0
    ]
    # It grows, it gives back, and what a run starts with is there before it asks.
    assert [(w["min_workers"], w["max_workers"]) for w in workers] == [(1, 2)]
    assert prepared["max_workers"] == 2 and prepared["idle_timeout_minutes"] > 0
    misspelt = prepared | {"idle_timeout_minute": 5}
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(misspelt)


@pytest.mark.parametrize("name", CLUSTERS)
def test_cluster_files_start_ray_with_the_settings_and_the_token(name: str):
    prepared = prepare_config(yaml.safe_load((LAUNCH / name).read_text()))
    for who in ("head", "worker"):
        (command,) = prepared[f"{who}_start_ray_commands"]
        assert command.index("launch/env.sh &&") < command.index("ray stop &&")
        assert command.index("ray stop &&") < command.index("ray start")
        assert not [key for key in ray_settings() if f"{key}=" in command]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in command or who == "worker"
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("launch/setup.sh" in command for command in prepared["setup_commands"])


@pytest.mark.parametrize("name", CLUSTERS)
def test_commands_of_cluster_files_are_bash(name: str):
    content = yaml.safe_load((LAUNCH / name).read_text())
    commands = [
        line for key, lines in content.items() if key.endswith("_commands") for line in lines
    ]
    assert len(commands) >= 4
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), command


# KubeRay


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "rayjob.yaml").read_text())


def _groups(rayjob: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def _container(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    return container


def _size(quantity: str) -> int:
    return int(quantity[:-2]) * _BYTES[quantity[-2:]]


def test_the_rayjob_has_the_form_that_kuberay_takes(rayjob: dict[str, Any]):
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    assert set(rayjob) == {"apiVersion", "kind", "metadata", "spec"}
    name, spec = rayjob["metadata"]["name"], rayjob["spec"]
    assert len(name) <= _LONGEST_RAYJOB_NAME and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert set(spec) <= _RAYJOB_KEYS and spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] > 0
    cluster = spec["rayClusterSpec"]
    assert set(cluster) <= _CLUSTER_KEYS
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["enableInTreeAutoscaling"] is True
    for group in _groups(rayjob):
        assert set(group) <= _GROUP_KEYS
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert "restartPolicy" not in group["template"]["spec"]  # autoscaler v2 sets it
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] < workers["maxReplicas"]


def test_every_container_of_the_rayjob_knows_what_env_sh_says(rayjob: dict[str, Any]):
    settings = ray_settings()
    # KubeRay gives mode and token to every container of Ray, its own ones too.
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {
        "mode": settings.pop("RAY_AUTH_MODE")
    }
    for group in _groups(rayjob):
        container = _container(group)
        told = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert len(told) == len(container["env"])
        assert {key: value for key, value in told.items() if key.startswith("RAY_")} == settings
        assert told["HF_HOME"].startswith("/shared/")
        (token,) = [entry for entry in container["env"] if entry["name"] == "HF_TOKEN"]
        assert token["valueFrom"]["secretKeyRef"]["optional"] is True


def test_pods_of_the_rayjob_have_what_ray_is_told(rayjob: dict[str, Any]):
    claim = yaml.safe_load((LAUNCH / "volume.yaml").read_text())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    images = set()
    for group in _groups(rayjob):
        container, told = _container(group), group["rayStartParams"]
        images.add(container["image"])
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        limits = resources["limits"]
        assert told["num-gpus"] == limits.get("nvidia.com/gpu", "0")
        assert told["num-cpus"] in (limits["cpu"], "0")
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        shared, shm = volumes[mounts["/shared"]], volumes[mounts["/dev/shm"]]["emptyDir"]
        assert shared["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert shm["medium"] == "Memory"
        # Ray takes 30 % of the memory for objects where it is told nothing, and wants it in there.
        objects = int(told.get("object-store-memory", 0.3 * _size(limits["memory"])))
        assert objects < _size(shm["sizeLimit"]) < _size(limits["memory"])
    assert len(images) == 1
    head = next(_groups(rayjob))
    assert (head["rayStartParams"]["num-cpus"], head["rayStartParams"]["num-gpus"]) == ("0", "0")


def _arguments(rayjob: dict[str, Any]) -> list[str]:
    words = rayjob["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "rzero_ray.driver"]
    return words[3:]


def test_the_run_of_the_rayjob_can_grow(rayjob: dict[str, Any]):
    layout = resolve_layout(load_config(_arguments(rayjob)), {"CPU": 48.0, "GPU": 8.0})
    assert layout.is_elastic and layout.num_engines["solver"] < layout.most_engines["solver"]


@pytest.mark.parametrize(("engines", "pods"), [("min", "minReplicas"), ("max", "maxReplicas")])
def test_the_run_of_the_rayjob_fits_its_pods(rayjob: dict[str, Any], engines: str, pods: str):
    given = _arguments(rayjob)
    reach = load_config(given).sampler.num_solver
    config = load_config(
        [*given, *(f"sampler.num_solver.{end}={getattr(reach, engines)}" for end in ("min", "max"))]
    )
    (workers,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = _container(workers)["resources"]["limits"]
    pod = Counter(
        CPU=float(limits["cpu"]),
        GPU=float(limits["nvidia.com/gpu"]),
        memory=_size(limits["memory"]) - int(workers["rayStartParams"]["object-store-memory"]),
    )
    layout = resolve_layout(config, {name: amount * workers[pods] for name, amount in pod.items()})
    shape = find_shape(config.model.path, None)
    assert layout.kind == "disaggregated" and shape is not None
    layout = replace(layout, rank_bytes=rank_bytes(config, shape, layout))
    wanted = bundles(demands(config, layout))
    everything = sum((Counter(bundle) for bundle in wanted.values()), Counter())
    # The learner's ranks fill one pod, and all of it together is in the pods that there may be.
    ranks = [Counter(bundle) for place, bundle in wanted.items() if place.startswith("learner")]
    assert sum(ranks, Counter()) <= pod
    assert everything <= Counter({name: amount * workers[pods] for name, amount in pod.items()})
    # Not more pods than that takes.
    assert everything["GPU"] > pod["GPU"] * (workers[pods] - 1)

"""The files of cluster/: Ray's own schema, what RayCluster asks for, shells; no secret, no open port."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

LAUNCHED = ("cluster.yaml", "cluster/on_premise.yaml")


def read(root: Path, name: str) -> dict[str, Any]:
    return yaml.safe_load((root / name).read_text())


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_own_schema_accepts_it(root: Path, name: str) -> None:
    validate_config(prepare_config(read(root, name)))


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_own_schema_sees_a_wrong_key(root: Path, name: str) -> None:
    with pytest.raises(Exception, match="workers_max"):
        validate_config(prepare_config(read(root, name)) | {"workers_max": 3})


def test_the_cloud_has_a_head_cpus_and_gpus_that_scale(root: Path) -> None:
    config = prepare_config(read(root, "cluster.yaml"))
    types = config["available_node_types"]
    assert set(types) == {"head", "cpu", "gpu"}
    assert types["head"]["resources"] == {"CPU": 0}
    for kind in ("cpu", "gpu"):
        assert 0 == types[kind]["min_workers"] < types[kind]["max_workers"]
    assert sum(kind["max_workers"] for kind in types.values()) <= config["max_workers"]


def test_images_have_the_pinned_ray(root: Path) -> None:
    lock = (root / "requirements.lock").read_text()
    pinned = re.search(r"^ray==(\S+)$", lock, re.MULTILINE)
    assert pinned
    texts = [(root / name).read_text() for name in ("cluster.yaml", "cluster/Dockerfile")]
    images = [version for text in texts for version in re.findall(r"rayproject/ray:([\d.]+)-", text)]
    assert len(images) == 3
    assert {*images, read_documents(root)[1]["spec"]["rayVersion"]} == {pinned[1]}


@pytest.mark.parametrize("name", LAUNCHED)
def test_start_commands(root: Path, name: str) -> None:
    """One token for all, dashboard on loopback, every node has the same settings, MLflow before Ray's head."""
    config = read(root, name)
    assert (
        config["file_mounts"][next(k for k in config["file_mounts"] if k.endswith("auth_token"))] == "~/.ray/auth_token"
    )
    head, worker = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    assert all("cluster/node.sh" in command for command in [*head, *worker])
    assert "cluster/mlflow.sh" in head[1]
    assert "ray start --head" in head[2]
    assert "--dashboard-host=127.0.0.1" in head[2]
    assert "RAY_HEAD_IP" in worker[1]
    assert "RAY_AUTH_MODE=token" in (root / "cluster" / "node.sh").read_text()


def read_documents(root: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((root / "cluster" / "kuberay.yaml").read_text()))


def test_the_ray_cluster_has_what_kuberay_requires(root: Path) -> None:
    """By structure: required fields, types and names as the operator's documentation has them; not its CRD schema."""
    claim, manifest = read_documents(root)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    spec = manifest["spec"]
    assert set(spec) <= {
        *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"),
        *("headGroupSpec", "workerGroupSpecs"),
    }
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert [group.get("groupName", "head") for group in groups] == ["head", "cpu", "gpu"]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        assert pod["containers"][0]["name"].startswith("ray-")  # Ray's container is the first
        mounted = {volume["name"] for volume in pod["volumes"]}
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted
            assert all(isinstance(entry["value"], str) for entry in container.get("env", []))
            asked, limit = container["resources"]["requests"], container["resources"]["limits"]
            assert asked == limit  # Ray takes the limit for what there is
            assert all(isinstance(value, str) for value in limit.values())
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert "nvidia.com/gpu" in groups[2]["template"]["spec"]["containers"][0]["resources"]["limits"]


def scripts(root: Path) -> list[Path]:
    return sorted((root / "cluster").glob("*.sh"))


def test_shells_can_read_the_scripts(root: Path) -> None:
    assert [path.name for path in scripts(root)] == ["mlflow.sh", "node.sh", "slurm.sh"]
    for path in scripts(root):
        subprocess.run(["bash", "-n", str(path)], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", str(path)], check=True)


def test_a_slurm_job_without_a_command_says_what_to_do(root: Path) -> None:
    done = subprocess.run(
        ["bash", str(root / "cluster" / "slurm.sh")], env={"SLURM_JOB_ID": "1"}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "sbatch cluster/slurm.sh jobs/train.py" in done.stderr


SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|hf_[A-Za-z0-9]{20}|\b[0-9a-f]{64}\b|(password|secret|token)\s*[:=]\s*[\"']?[0-9A-Za-z]{12}",
    re.IGNORECASE,
)
OPEN = re.compile(r"(host|address|listen)[= ]+(0\.0\.0\.0|::)\b", re.IGNORECASE)


def test_no_secret_and_no_open_port(root: Path) -> None:
    files = [root / "cluster.yaml", *(root / "cluster").iterdir()]
    assert len(files) >= 8
    for path in files:
        text = path.read_text()
        assert not SECRET.search(text), path
        assert not OPEN.search(text), path


def test_the_checks_see_a_secret_and_an_open_port() -> None:
    assert SECRET.search('password: "aVeryRealPassword1"')
    assert SECRET.search("AKIA" + 16 * "A")
    assert OPEN.search("mlflow server --host 0.0.0.0")


def test_the_dashboard_shows_every_metric_and_no_other(root: Path) -> None:
    from boltzray.runtime.telemetry import COUNTERS, GAUGES

    dashboard = json.loads((root / "cluster" / "grafana.json").read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_(boltzray_\w+)", target["expr"])
    }
    assert shown == {f"{name}_total" for name in COUNTERS} | set(GAUGES)
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)

"""The CPU image: really built, really started as compose starts it, without any network.

Takes some minutes, root, and Debian's packages buildah, debootstrap and iproute2, so it runs only
when asked for: `LUNGSEG_TEST_IMAGE=1 python -m pytest tests/deploy/test_image.py`.
`deploy/image/build.sh` tells how the base is made. No daemon is needed: the container is a
`chroot` in namespaces of its own, with what the image's own configuration and
`docker-compose.yml` ask for: user, read-only root, /tmp, no capabilities, no new privileges.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.supply.lock_files import of_image
from model_store.model_index import default_model

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/adalora-qat:cpu"
READY_WITHIN_S = 60.0
LARGEST_IMAGE_BYTES = 1_200_000_000

RUN = """
mount --bind "$root" "$root"; mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777,size=512m tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
for one in null zero random urandom; do
    touch "$root/dev/$one"; mount --bind /dev/$one "$root/dev/$one"
done
ip link set lo up
exec chroot "$root" setpriv --reuid {uid} --regid {gid} --clear-groups --bounding-set=-all \
    --inh-caps=-all --no-new-privs env -i --chdir={workdir} {environment} {entrypoint}
"""
ASK = """
import json, sys, urllib.request
sys.path.insert(0, {root!r})
from benchmarks.service.server_process import multipart
body, kind = multipart(open({root!r} + "/examples/phantom.png", "rb").read(), {{}})
request = urllib.request.Request(
    "http://127.0.0.1:8000/segment", body, {{"Content-Type": kind}}
)
with urllib.request.urlopen(request, timeout=60) as answer:
    print(json.dumps({{"status": answer.status, **json.load(answer)}}))
"""


@dataclass(frozen=True)
class Container:
    """The image, running.

    Attributes:
        process: `unshare`, whose exit code is the service's.
        pid: the service, as this machine numbers it.
        config: the image's configuration.
        root: its root folder.
    """

    process: subprocess.Popen[bytes]
    pid: int
    config: dict[str, Any]
    root: Path

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command beside the service, as its user."""
        uid, gid = self.config["User"].split(":")
        entered = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid"]
        entered += [f"--root=/proc/{self.pid}/root", f"--wd=/proc/{self.pid}/root/tmp"]
        entered += ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        return subprocess.run(
            [*entered, "env", "-i", *self.config["Env"], *command],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    if not os.environ.get("LUNGSEG_TEST_IMAGE"):
        pytest.skip("LUNGSEG_TEST_IMAGE is not set: the image was NOT built")
    missing = [one for one in ("buildah", "debootstrap", "ip", "nsenter") if not shutil.which(one)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no root or no {', '.join(missing)}: the image was NOT built")
    os.environ.setdefault("STORAGE_DRIVER", "vfs")
    subprocess.run([str(ROOT / "deploy/image/build.sh")], check=True)
    config = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    name = buildah("from", IMAGE)
    try:
        root = Path(buildah("mount", name))
        process = start(root, config)
        try:
            yield Container(process, child_of(process), config, root)
        finally:
            process.kill()  # with --kill-child
            process.wait()
    finally:
        buildah("umount", name)
        buildah("rm", name)


def start(root: Path, config: dict[str, Any]) -> subprocess.Popen[bytes]:
    uid, gid = config["User"].split(":")
    # What compose adds to the image's own environment.
    environment = [*config["Env"], "LUNGSEG_ALLOW_ANYONE=true"]
    script = RUN.format(
        uid=uid, gid=gid, workdir=config["WorkingDir"], environment=" ".join(environment),
        entrypoint=" ".join(config["Entrypoint"]),
    )  # fmt: skip
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "bash", "-ec"]
    return subprocess.Popen([*command, script], env=os.environ | {"root": str(root)})


def child_of(process: subprocess.Popen[bytes]) -> int:
    """Waits for the container: until the change of root, its process still sees this machine."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    stop_by = time.monotonic() + 20
    while not (pid := children.read_text().strip()) or os.readlink(f"/proc/{pid}/root") == "/":
        assert process.poll() is None and time.monotonic() < stop_by
        time.sleep(0.05)
    return int(pid)


def test_the_image_says_what_it_is(container: Container) -> None:
    config = container.config
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"])
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "python3", "-m", "service.healthcheck"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert not any("PIP" in one or "wheels" in one for one in config["Env"])


def test_the_model_is_inside_and_what_only_building_needs_is_not(container: Container) -> None:
    (packages,) = container.root.glob("opt/lungseg/lib/python3*/site-packages")
    models = packages / "model_store/models"
    stored = [str(path.parent.relative_to(models)) for path in models.glob("*/*/manifest.json")]
    assert stored == [default_model().label]
    for absent in (
        "pip",
        "pytest",
        "mypy",
        "training",
        "nvidia",
        "torch/test",
        "numpy/_core/tests",
    ):
        assert not (packages / absent).exists(), absent


def test_it_is_no_larger_than_it_should_be(container: Container) -> None:
    files = [path.lstat() for path in container.root.glob("opt/**/*")]
    files += [path.lstat() for path in container.root.glob("usr/**/*")]
    sizes = {(one.st_dev, one.st_ino): one.st_size for one in files}
    total = sum(sizes.values())
    print(f"the image holds {total / 1e9:.3f} GB")
    assert total <= LARGEST_IMAGE_BYTES


def test_every_version_is_the_locked_one(container: Container) -> None:
    locked = {f"{one.name}=={one.version}" for one in of_image("cpu")}
    found = container.inside(
        "python3", "-c", "from importlib.metadata import distributions as d\n"
        "for one in d(): print(one.name.lower().replace('_', '-') + '==' + one.version)",
    )  # fmt: skip
    installed = set(found.stdout.splitlines())
    installed = {line for line in installed if not line.startswith("adalora-qat==")}
    assert installed == locked


def test_it_gets_ready_answers_and_stops_without_network_or_rights(container: Container) -> None:
    stop_by = time.monotonic() + READY_WITHIN_S
    check = container.config["Healthcheck"]["Test"][1:]
    while (health := container.inside(*check)).returncode != 0:
        assert container.process.poll() is None and time.monotonic() < stop_by, health.stderr
        time.sleep(0.5)

    status = Path(f"/proc/{container.pid}/status").read_text()
    assert re.search(r"^Uid:\s+10001\s+10001\s", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    interfaces = Path(f"/proc/{container.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    assert container.inside("sh", "-c", "echo x > /opt/lungseg/x").returncode != 0

    asked = subprocess.run(
        ["nsenter", f"--target={container.pid}", "--net", sys.executable, "-c",
         ASK.format(root=str(ROOT))],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert answer["status"] == 200 and answer["model"]["name"] == default_model().name
    assert 0.1 < answer["masks"][0]["area_fraction"] < 0.6

    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    grace_s = float(compose["services"]["cpu"]["stop_grace_period"][:-1])
    os.kill(container.pid, signal.Signals[container.config["StopSignal"]])
    assert container.process.wait(grace_s) == 0

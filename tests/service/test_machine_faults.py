"""Faults of the machine, made for real: a clock that jumps, quotas, memory and disks too small.

Each is one sentence in the log and a row of the runbook. They need root, control groups that can be
made, and a C compiler; what is missing is skipped, loudly.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.service.server_process import RunningServer, running_server
from service.audit.chain import verify_files
from service.machine_watch import KINDS, MachineWatch
from tests.dicom_files import make_xray
from tests.service import node_peers
from tests.service.fake_model import form, picture, png
from tests.service.test_keys import line as key_line

CGROUPS = Path("/sys/fs/cgroup")


def said(server: RunningServer, event: str) -> list[dict[str, Any]]:
    """Lines of the service's log with an event."""
    with open(f"/proc/{server.process.pid}/fd/1") as file:
        lines = [json.loads(line) for line in file if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    stop_by = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < stop_by
        time.sleep(0.1)


def metric(server: RunningServer, kind: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    (line,) = [
        x
        for x in text.splitlines()
        if x.startswith(f'lungseg_machine_changes_total{{kind="{kind}"')
    ]
    return float(line.split()[1])


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A control group of its own, of the controller that the test names."""
    controller: str = request.param
    is_unified = (CGROUPS / "cgroup.controllers").exists()
    folder = (CGROUPS if is_unified else CGROUPS / controller) / f"lungseg-test-{os.getpid()}"
    wanted = {
        ("cpu", True): "cpu.max", ("cpu", False): "cpu.cfs_quota_us",
        ("memory", True): "memory.max", ("memory", False): "memory.limit_in_bytes",
    }[controller, is_unified]  # fmt: skip
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made ({error.strerror}): NOT tried")
    try:
        if not (folder / wanted).exists():
            pytest.skip(f"control groups here have no {controller}: NOT tried")
        yield folder / wanted
    finally:
        until(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


def serving(model: Path, limit: Path, *flags: str) -> Any:
    program = ("tests.service.in_group", str(limit.parent / "cgroup.procs"), "service")
    return running_server(model, ["--threads", "1", *flags], program=program)


@pytest.mark.parametrize("group", ["cpu"], indirect=True)
def test_a_quota_that_changes_is_said(group: Path, tiny_artifact: Path) -> None:
    def allow(cpus: float) -> None:
        is_unified = group.name == "cpu.max"
        group.write_text(f"{round(cpus * 1e5)} 100000" if is_unified else str(round(cpus * 1e5)))

    allow(1.5)
    with serving(tiny_artifact, group) as server:
        allow(1.0)
        until(lambda: said(server, "cpu quota changed"))
        (line,) = said(server, "cpu quota changed")
        assert (line["cpus_before"], line["cpus"]) == (1.5, 1.0)
        assert "threads of its start" in line["sentence"]
        assert metric(server, "cpu") == 1
        assert server.segment(png(picture()), {}).status == 200


@pytest.mark.parametrize("group", ["memory"], indirect=True)
def test_memory_too_small_costs_answers_and_says_so_and_more_heals_it(
    group: Path, tiny_artifact: Path
) -> None:
    with serving(tiny_artifact, group) as server:
        before = server.segment(png(picture()), {"overlay": "false"})
        used = "memory.current" if group.name == "memory.max" else "memory.usage_in_bytes"
        least = int((group.parent / used).read_text())
        # As much as it has and a little: what it takes next is too much.
        group.write_text(str(least + 8_000_000))
        large = png(picture(size=(6000, 6000)))
        until(lambda: _is_short(server, large))
        (line, *_) = said(server, "killed for want of memory")
        assert line["killed"] >= 1 and line["limit_bytes"] < 2**40
        assert "Raise its memory limit" in line["sentence"]
        assert server.process.poll() is None
        assert metric(server, "memory") >= 1
        group.write_text("max" if group.name == "memory.max" else "-1")
        until(lambda: server.segment(png(picture()), {"overlay": "false"}).status == 200)
        after = json.loads(server.segment(png(picture()), {"overlay": "false"}).body)
        assert after["masks"] == json.loads(before.body)["masks"]


def _is_short(server: RunningServer, large: bytes) -> bool:
    status = server.segment(large, {"overlay": "false"}).status
    assert status in (200, 422, 503)
    return bool(said(server, "killed for want of memory"))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Moves the clock of processes that are started from now on, by seconds from the true time."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler: a clock that jumps was NOT tried")
    library, file = tmp_path / "moved_clock.so", tmp_path / "offset"
    source = Path(__file__).with_name("moved_clock.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl"], check=True)

    def move(seconds: int) -> None:
        with file.open("r+b" if file.exists() else "wb", buffering=0) as opened:
            opened.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    move(0)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK_OFFSET_FILE", str(file))
    return move


def test_a_clock_that_jumps_is_said_and_breaks_nothing_but_expiry(
    clock: Callable[[int], None], tiny_artifact: Path, tmp_path: Path
) -> None:
    expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    keys, key = tmp_path / "keys", tmp_path / "audit-key"
    keys.write_text(f"{key_line('short', f'expires={expires}')}\n{key_line('long', '')}\n")
    key.write_text("0123456789abcdef")
    flags = ["--threads", "1", "--api-keys-file", str(keys), "--audit-key-file", str(key)]
    flags += ["--audit-log", str(tmp_path / "audit.jsonl")]
    with running_server(tiny_artifact, flags) as server:
        url = f"http://127.0.0.1:{server.port}/segment"

        def status(name: str) -> int:
            headers = {"X-API-Key": name}
            return httpx.post(url, **form(), headers=headers, timeout=60).status_code

        assert (status("short"), status("long")) == (200, 200)
        for seconds, expected in ((7200, 403), (-7200, 200)):
            clock(seconds)
            until(lambda: len(said(server, "clock moved")) == (1 if seconds > 0 else 2))  # noqa: B023
            assert (status("short"), status("long")) == (expected, 200)
        moved = [line["seconds"] for line in said(server, "clock moved")]
        assert [round(one, -2) for one in moved] == [7200, -14400]
        assert "timeouts and answers do not" in said(server, "clock moved")[0]["sentence"]
        assert metric(server, "clock") == 2
    assert (
        verify_files(tmp_path.glob("*.jsonl"), key.read_bytes()).state.entries == 6
    )  # and the first line


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("no small disk can be mounted: NOT tried")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_below_the_audit_log_costs_no_answer_and_no_line(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    with small_disk(tmp_path / "small", "64k") as folder:
        flags = ["--threads", "1", "--audit-log", str(folder / "audit.jsonl")]
        with running_server(tiny_artifact, [*flags, "--audit-key-file", str(key)]) as server:
            assert server.segment(png(picture()), {}).status == 200
            (folder / "filler").write_bytes(b"x" * 40_000)
            with pytest.raises(OSError, match="No space left"):
                (folder / "more").write_bytes(b"x" * 40_000)
            for _ in range(8):
                assert server.segment(png(picture()), {}).status == 200  # lines wait
            until(lambda: said(server, "audit log not written"))
            assert said(server, "audit log not written")[0]["reason"] == "No space left on device"
            (folder / "filler").unlink()
            (folder / "more").unlink()
            until(lambda: said(server, "audit log written again"))
        assert verify_files(folder.glob("*.jsonl"), key.read_bytes()).state.entries >= 10


def _whole(text: str) -> list[dict[str, Any]]:
    """The line, or nothing where it was cut when the disk was full."""
    try:
        return [json.loads(text)]
    except ValueError:
        return []


def test_a_full_disk_below_the_log_costs_lines_and_nothing_else(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    port, complaints = node_peers.free_port(), tmp_path / "stderr"
    url = f"http://127.0.0.1:{port}"
    flags = ["--host", "127.0.0.1", "--port", str(port), "--model", str(tiny_artifact)]
    command = [sys.executable, "-m", "service", "--threads", "1", *flags]

    def answered() -> bool:
        return httpx.post(f"{url}/segment", **form(), timeout=60).status_code == 200

    def ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/readyz", timeout=60).status_code == 200
        return False

    def lost() -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        (line,) = [one for one in lines if one.startswith("lungseg_log_lines_lost_total")]
        return float(line.split()[1])

    with small_disk(tmp_path / "small", "64k") as folder:
        log, filler = folder / "log", folder / "filler"
        with log.open("w") as output, complaints.open("w") as errors:
            process = subprocess.Popen(command, stdout=output, stderr=errors)
        try:
            until(ready)
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(b"x" * 100_000)
            until(lambda: answered() and lost() >= 20)
            filler.unlink()
            assert answered()
            until(lambda: "log lines lost" in log.read_text())
        finally:
            process.terminate()
            code = process.wait(30)
        lines = [one for text in log.read_text().splitlines() for one in _whole(text)]
        told = [one["count"] for one in lines if one["event"] == "log lines lost"]
        assert sum(told) >= 20 and lines[-1]["event"] == "stopped"
    assert (code, complaints.read_text()) == (0, "")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_while_the_node_receives_is_said_to_the_sender_and_heals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = node_peers.free_port()
    large = make_xray(np.zeros((1000, 1000), np.uint16))
    with (
        small_disk(tmp_path / "small", "400k") as folder,
        node_peers.service() as asked,
        node_peers.archive() as to,
    ):
        settings = node_peers.node_settings(folder / "spool", asked.url, to.port, port)
        with node_peers.running(settings):
            # One association: what does not fit ends neither it nor what comes after.
            sent = (large, node_peers.xray(1), large, node_peers.xray(2))
            assert node_peers.store(port, *sent) == [0xA700, 0, 0xA700, 0]
            until(lambda: len(to.files) == 6)
            # What a delivered job leaves is deleted last, which makes room.
            until(lambda: not any((folder / "spool" / "jobs").iterdir()))
            until(lambda: not any((folder / "spool" / "trash").iterdir()))
            with pytest.raises(OSError, match="No space left"):
                (folder / "filler").write_bytes(b"x" * 500_000)
            assert node_peers.store(port, node_peers.xray(3)) == [0xA700]
            (folder / "filler").unlink()
            assert node_peers.store(port, node_peers.xray(3)) == [0]
            until(lambda: len(to.files) == 9)
            assert list((folder / "spool" / "incoming").iterdir()) == []
    lines = [one for one in caplog.records if one.getMessage() == "out_of_resources"]
    assert [one.fields for one in lines] == [{"reason": "No space left on device"}] * 3  # type: ignore[attr-defined]


def test_each_remark_has_a_kind_that_the_metric_knows() -> None:
    now = {"wall": 0.0, "steady": 0.0}
    watch = MachineWatch(wall_s=lambda: now["wall"], steady_s=lambda: now["steady"])
    now |= {"wall": 61.0, "steady": 60.5}  # slewed
    assert watch.look() == []
    now |= {"wall": 50.0, "steady": 61.0}
    (remark,) = watch.look()
    assert remark.kind in KINDS and remark.fields["seconds"] == -11.5
    assert watch.look() == []  # said once

"""The audit log: lines that prove each other, across crashes, rotation, full disks and forgers."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.service.server_process import running_server
from model_store.geometry import window_to_uint8
from service.audit import log as audit_log
from service.audit.__main__ import EXIT_BROKEN, EXIT_UNREADABLE, main
from service.audit.chain import AuditError, BrokenChainError, ChainState, read_key, verify_files
from service.audit.log import AuditLog, AuditWatch
from service.settings import Settings, SettingsError
from service.settings_checks import require_whole_audit
from tests.service.fake_model import (
    FakePredictor,
    Gate,
    form,
    make_app,
    picture,
    png,
    running,
    sample,
)
from tests.service.test_keys import line as key_line

KEY = b"0123456789abcdef"
LARGE = 2**30


def written(folder: Path, count: int, **options: Any) -> list[Path]:
    """Writes a log of so many entries, and returns its files."""
    log = opened(folder, **options)
    for number in range(count):
        log.append({"event": "segment", "request_id": f"r{number}"}).result(10)
    log.close()
    return sorted(folder.glob("*.jsonl"))


def opened(folder: Path, **options: Any) -> AuditLog:
    return AuditLog(folder / "audit.jsonl", KEY, **({"max_bytes": LARGE} | options))


def entries(folder: Path) -> list[dict[str, Any]]:
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted((json.loads(line) for line in lines), key=lambda one: one["n"])


def change_a_word(lines: list[bytes]) -> None:
    lines[3] = lines[3].replace(b"r2", b"r7")


def take_one_out(lines: list[bytes]) -> None:
    del lines[3]


def swap_two(lines: list[bytes]) -> None:
    lines[3], lines[4] = lines[4], lines[3]


def say_one_twice(lines: list[bytes]) -> None:
    lines.insert(4, lines[3])


def begin_later(lines: list[bytes]) -> None:
    del lines[:3]


def add_one_of_another_key(lines: list[bytes]) -> None:
    forged = json.loads(lines[-1]) | {"n": len(lines), "seal": "0" * 64}
    lines.append(json.dumps(forged, separators=(",", ":")).encode())


def add_nonsense(lines: list[bytes]) -> None:
    lines.insert(4, b"nonsense")


@pytest.mark.parametrize(
    "forge",
    [change_a_word, take_one_out, swap_two, say_one_twice, begin_later, add_one_of_another_key,
     add_nonsense],
)  # fmt: skip
def test_whatever_a_forger_does_shows(
    forge: Callable[[list[bytes]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = written(tmp_path, 8)
    key = tmp_path / "key"
    key.write_bytes(KEY)
    command = ["verify", str(tmp_path), "--key-file", str(key)]
    assert main(command) == 0
    assert "entries 0 to 8" in capsys.readouterr().out
    lines = path.read_bytes().splitlines()
    forge(lines)
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert main(command) == EXIT_BROKEN
    assert "audit.jsonl, line " in capsys.readouterr().out


def test_lines_cut_off_at_the_end_show_by_the_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads: list[ChainState] = []
    (path,) = written(tmp_path, 5, watch=AuditWatch(on_head=heads.append))
    assert [one.entries for one in heads] == [1, 6]  # at the start and at the end
    key = tmp_path / "key"
    key.write_bytes(KEY)
    command = ["verify", str(path), "--key-file", str(key), "--head", heads[-1].seal]
    assert main(command) == 0
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-2]) + b"\n")
    assert main(command[:-2]) == 0  # nobody can tell without the head
    assert main(command) == EXIT_BROKEN
    assert "cut off" in capsys.readouterr().out


def test_another_key_proves_nothing(tmp_path: Path) -> None:
    files = written(tmp_path, 2)
    with pytest.raises(BrokenChainError):
        verify_files(files, b"another key of 16 bytes")
    with pytest.raises(BrokenChainError, match="not written with this key"):
        AuditLog(files[0], b"another key of 16 bytes", max_bytes=LARGE)
    assert verify_files(files, KEY).state.entries == 3


def test_the_chain_goes_on_over_files_and_starts(tmp_path: Path) -> None:
    for _ in range(3):
        written(tmp_path, 40, max_bytes=4096)
    files = sorted(tmp_path.glob("*.jsonl"))
    assert len(files) > 3 and all(path.stat().st_size < 3 * 4096 for path in files)
    found = verify_files(files, KEY)
    assert (found.first_entry, found.torn_lines) == (0, 0)
    said = entries(tmp_path)
    assert [one["n"] for one in said] == list(range(found.state.entries))
    assert sum(one["event"] == "segment" for one in said) == 120
    with pytest.raises(BrokenChainError):  # a file in the middle is gone
        verify_files([path for path in files if path != files[1]], KEY)
    newest = tmp_path / "audit.jsonl"
    assert verify_files([newest], KEY).first_entry > 0  # older ones may be kept elsewhere


def test_a_file_that_is_moved_away_is_followed_by_another(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append({"event": "segment"}).result(10)
    os.rename(tmp_path / "audit.jsonl", tmp_path / "audit.1.jsonl")
    log.append({"event": "segment"}).result(10)
    log.close()
    assert verify_files(tmp_path.glob("*.jsonl"), KEY).state.entries == 4


def test_a_line_that_a_crash_cut_off_is_excused_and_no_other(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:-30])
    written(tmp_path, 2)
    found = verify_files([path], KEY)
    assert found.torn_lines == 1
    lines = path.read_bytes().splitlines()
    torn = next(index for index, line in enumerate(lines) if not line.endswith(b"}"))
    lines[torn] = lines[torn].replace(b"r2", b"r9")
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(BrokenChainError, match="not a line of an audit log"):
        verify_files([path], KEY)


class FullDisk:
    """Takes some bytes more, then says that the disk is full, until it is emptied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = LARGE
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not os.readlink(f"/proc/self/fd/{descriptor}").endswith("audit.jsonl"):
            return self._write(descriptor, data)
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._write(descriptor, data[: self.left])
        self.left -= count
        return count


def test_a_full_disk_loses_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing: list[bool] = []
    disk = FullDisk(monkeypatch)
    log = opened(tmp_path, watch=AuditWatch(on_failing=failing.append))
    log.append({"event": "segment", "request_id": "before"}).result(10)
    disk.left = 40  # half a line
    waiting = [log.append({"event": "segment", "request_id": f"r{n}"}) for n in range(20)]
    until(lambda: log.is_failing)
    assert not any(one.done() for one in waiting)
    disk.left = LARGE
    for one in waiting:
        one.result(10)
    log.close()
    assert failing == [True, False]
    verify_files(tmp_path.glob("*.jsonl"), KEY)
    said = [one["request_id"] for one in entries(tmp_path) if one["event"] == "segment"]
    assert said == ["before", *(f"r{n}" for n in range(20))]


def test_what_may_not_wait_fails_at_once_and_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    log = opened(tmp_path, keeps_waiting=False)
    disk.left = 0
    with pytest.raises(OSError, match="No space left"):
        log.append({"event": "segment", "request_id": "refused"}).result(10)
    assert log.is_failing
    time.sleep(1.2)
    assert log.is_failing  # nothing but a line that is written shows that it works again
    disk.left = LARGE
    until(lambda: not log.is_failing)
    log.append({"event": "segment", "request_id": "after"}).result(10)
    log.close()
    verify_files(tmp_path.glob("*.jsonl"), KEY)
    said = [one.get("request_id", one["event"]) for one in entries(tmp_path)]
    assert said == ["begun", "written again", "after"]


def test_lines_that_are_given_up_are_counted_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "MOST_WAITING", 5)
    lost: list[int] = []
    disk = FullDisk(monkeypatch)
    log = opened(tmp_path, watch=AuditWatch(on_lost=lost.append))
    disk.left = 0
    log.append({"event": "segment", "request_id": "r0"})
    until(lambda: log.is_failing)
    waiting: list[Future[None]] = [log.append({"request_id": f"r{n}"}) for n in range(1, 9)]
    disk.left = LARGE
    waiting[-1].result(10)
    log.close()
    assert sum(lost) == 4
    said = entries(tmp_path)
    assert [one["lines"] for one in said if "lines" in one] == [4]
    assert [one["request_id"] for one in said if "request_id" in one] == [
        f"r{n}" for n in range(4, 9)
    ]


def test_lines_share_an_fsync_of_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    sync = os.fsync

    def counted(descriptor: int) -> None:
        calls.append(time.monotonic())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    log = opened(tmp_path)
    began = time.monotonic()
    for _ in range(300):
        log.append({"event": "segment"}).result(10)
    log.append({"event": "segment"}).result(10)
    until(lambda: len(calls) > 0, 5)  # also when nothing follows
    log.close()
    assert len(calls) <= time.monotonic() - began + 2


def test_two_processes_do_not_share_a_log(tmp_path: Path) -> None:
    log = opened(tmp_path)
    with pytest.raises(AuditError, match="Another process"):
        opened(tmp_path)
    log.close()
    opened(tmp_path).close()


def test_a_log_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot be written"):
        opened(tmp_path / "absent")
    with pytest.raises(AuditError, match="fewer than 16 bytes"):
        (tmp_path / "short").write_text("secret\n")
        read_key(tmp_path / "short")
    with pytest.raises(AuditError, match="cannot be read"):
        read_key(tmp_path / "absent")
    with pytest.raises(SettingsError, match="--audit-key-file"):
        require_whole_audit(Settings(audit_log=tmp_path / "a"))
    with pytest.raises(SettingsError, match="--audit-log"):
        require_whole_audit(Settings(audit_required=True))


@pytest.mark.anyio
async def test_an_entry_says_who_what_and_by_which_model_and_names_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, key = tmp_path / "keys", tmp_path / "key"
    keys.write_text(key_line("good", "name=ct-room"))
    key.write_bytes(KEY)
    folder = tmp_path / "audit"
    folder.mkdir()
    app = make_app(api_keys_file=keys, audit_log=folder / "audit.jsonl", audit_key_file=key)
    headers = {"X-API-Key": "good", "X-Request-ID": "r1"}
    async with running(app) as client:
        asked = form(name="DOE^JOHN.png", bbox="1,2,30,40", threshold="0.6")
        answered = await client.post("/segment", **asked, headers=headers)
        refused = await client.post(
            "/segment", files={"image": ("a", b"\x89PNG\r\n\x1a\n broken")}, headers=headers
        )
        assert (await client.post("/segment", **form())).status_code == 401
        assert (answered.status_code, refused.status_code) == (200, 400)
    begun, first, second = entries(folder)
    assert begun["event"] == "begun"
    mask = answered.json()["masks"][0]
    grey_level = round(float(window_to_uint8(picture()).mean()), 2)
    assert first | {"time": "", "seal": ""} == {
        "n": 1, "time": "", "event": "segment", "outcome": "answered", "request_id": "r1",
        "key": "ct-room", "model": "fake/1", "model_sha256": "0" * 64,
        "convention": "lung_field", "threshold": 0.6, "boxes": [[1.0, 2.0, 30.0, 40.0]],
        "clip": False, "image": {"width": 96, "height": 80, "grey_level": grey_level},
        "lungs": "both", "structures": ["lungs"],
        "media_type": "application/json", "area_px": [mask["area_px"]],
        "confidence": [round(mask["confidence"], 4)],
        "lungs_found": [
            {"confidence": round(mask["confidence"], 4),
             "area_ratio": round(mask["area_fraction"], 5)}
        ],
        "warnings": [one["code"] for one in answered.json()["warnings"]],
        "answer_sha256": hashlib.sha256(answered.content).hexdigest(),
        "input_sha256": hashlib.sha256(png(picture())).hexdigest(), "seal": "",
    }  # fmt: skip
    assert (second["outcome"], second["key"]) == ("undecodable_image", "ct-room")
    assert "DOE" not in (folder / "audit.jsonl").read_text()
    for content in (png(picture()), answered.content):
        (tmp_path / "file").write_bytes(content)
        assert main(["digest", str(tmp_path / "file"), "--log", str(folder)]) == 0
        assert '"request_id": "r1"' in capsys.readouterr().out
    (tmp_path / "file").write_bytes(b"never seen")
    assert main(["digest", str(tmp_path / "file"), "--log", str(folder)]) == EXIT_BROKEN
    assert main(["verify", str(tmp_path / "file.jsonl"), "--key-file", str(key)]) == EXIT_UNREADABLE


@pytest.mark.anyio
async def test_who_leaves_is_written_down_too(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    gate = Gate()  # the network answers when nobody waits any more
    app = make_app(FakePredictor(before=gate.hold), audit_log=tmp_path / "audit.jsonl",
                   audit_key_file=key, request_timeout_s=1.5)  # fmt: skip
    async with running(app) as client:
        assert (await client.post("/segment", **form())).status_code == 504
        gate.opened.set()
        assert sample(app, "lungseg_audit_failing") == 0
    (entry,) = [one for one in entries(tmp_path) if one["event"] == "segment"]
    assert entry["outcome"] == "given_up"
    assert entry["input_sha256"] == hashlib.sha256(png(picture())).hexdigest()


def test_a_service_whose_disk_is_full_refuses_and_comes_back(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    """The real process, with a limit on the size of files in place of a small disk."""
    key, folder = tmp_path / "key", tmp_path / "audit"
    key.write_bytes(KEY)
    folder.mkdir()
    log = opened(folder)
    for _ in range(2000):  # shared memory of requests is below this size
        log.append({"event": "segment", "request_id": "x" * 200})
    log.close()
    path = folder / "audit.jsonl"
    flags = ["--threads", "1", "--audit-log", str(path), "--audit-key-file", str(key)]
    flags += ["--audit-required", "true"]
    with running_server(tiny_artifact, flags) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert server.segment(png(picture()), {}).status == 200
        soft = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(
            server.process.pid, resource.RLIMIT_FSIZE, (path.stat().st_size + 10, soft[1])
        )
        for _ in range(2):
            refused = httpx.post(f"{url}/segment", **form(), timeout=30)
            assert (refused.status_code, refused.json()["code"]) == (503, "audit_unavailable")
        assert "lungseg_audit_failing 1.0" in httpx.get(f"{url}/metrics").text
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, soft)
        until(lambda: httpx.post(f"{url}/segment", **form(), timeout=30).status_code == 200)
        text = httpx.get(f"{url}/metrics").text
    assert "lungseg_audit_failing 0.0" in text and 'lungseg_audit_head{seal="' in text
    command = [sys.executable, "-m", "service.audit", "verify", str(folder), "--key-file", str(key)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("Unbroken: entries 0 to 20")
    assert sum(one.get("outcome") == "answered" for one in entries(folder)) == 2
    shutil.rmtree(folder)


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    stop_by = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < stop_by
        time.sleep(0.02)

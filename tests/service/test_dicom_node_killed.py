"""A node that is killed at any step, and started again, loses nothing and doubles nothing.

A life ends, without any cleaning up, at the n-th of the calls that change something which outlives
the process: what it renames, syncs and deletes, what it asks and what it sends. Then the node is
started again, and the sender sends what it was not told success for. For every n the archive must
end up with each object, the same bytes whenever it came twice, and the spool empty.

What an operator keeps for a time after its delivery is looked at by itself: there the calls count
of those steps alone that take a job out of the queue and delete it later.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.service.node_peers import (
    Archive,
    FakeService,
    archive,
    free_port,
    service,
    settings_text,
    store,
    until,
    xray,
)

pytest.importorskip("pynetdicom")
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,
]

# Imports once, and then forks a node for each life.
NURSERY = """
import itertools, os, shutil, sys, threading
from pynetdicom.association import Association
from service.dicom_node import node, segmenting, sending, spool
from service.dicom_node.__main__ import main

def live(die_at, config, steps):
    calls = itertools.count(1)
    counting = threading.local()
    def fatal(call):
        def counted(*arguments, **named):
            if steps == "all" or getattr(counting, "is_on", False):
                if next(calls) == die_at:
                    os._exit(9)
            return call(*arguments, **named)
        return counted
    def counting_within(method):
        def run(*arguments, **named):
            counting.is_on = True
            try:
                return method(*arguments, **named)
            finally:
                counting.is_on = False
        return run
    spool.Spool.finish = counting_within(spool.Spool.finish)
    spool.Spool.forget_delivered = counting_within(spool.Spool.forget_delivered)
    node.Node.CLEARING_INTERVAL_S = 0.05
    os.fsync, os.rename, os.utime = fatal(os.fsync), fatal(os.rename), fatal(os.utime)
    shutil.rmtree = fatal(shutil.rmtree)
    spool.Path.unlink = fatal(spool.Path.unlink)
    Association.send_c_store = fatal(Association.send_c_store)
    segmenting.Segmenter.segment = fatal(segmenting.Segmenter.segment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(main(["--config", config]))

for line in sys.stdin:
    what, number, *config = line.split()
    if what == "live":
        pid = os.fork()
        if pid == 0:
            live(int(number), *config)
        print(pid, flush=True)
    else:
        gone, _ = os.waitpid(int(number), os.WNOHANG if what == "poll" else 0)
        print(int(gone != 0), flush=True)
"""


class Nursery:
    """Starts nodes that die at a chosen call."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def live(self, die_at: int, config: Path, steps: str) -> int:
        return self._ask(f"live {die_at} {config} {steps}")

    def is_dead(self, pid: int) -> bool:
        return bool(self._ask(f"poll {pid}"))

    def end(self, pid: int) -> None:
        subprocess.run(["kill", "-9", str(pid)], check=False)
        self._ask(f"wait {pid}")

    def _ask(self, line: str) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def nursery() -> Generator[Nursery, None, None]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            yield Nursery(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


class Hospital:
    """One hospital in which the node dies once.

    Args:
        folder: for the spool and the node's file; made.
        asked: the service.
        to: the archive.
        nodes: starts the nodes.
        keep_delivered_s: how long the node keeps what it has delivered.
        steps: which calls count, `all` or those that take a job `out` of the queue.
    """

    def __init__(
        self,
        folder: Path,
        asked: FakeService,
        to: Archive,
        nodes: Nursery,
        keep_delivered_s: float = 0.0,
        steps: str = "all",
    ) -> None:
        folder.mkdir()
        self.keep_delivered_s, self.steps = keep_delivered_s, steps
        self.spool = folder / "spool"
        self.port = free_port()
        self.config = folder / "node.toml"
        text = settings_text(self.spool, asked.url, to.port, self.port)
        kept = f"[spool]\nkeep_delivered_s = {keep_delivered_s}\n"
        self.config.write_text(text.replace("[spool]\n", kept))
        self.archive, self.nodes = to, nodes

    def start(self, die_at: int) -> int | None:
        """Start a node.

        Returns:
            Its process once it listens; None when it died before.
        """
        pid = self.nodes.live(die_at, self.config, self.steps)
        while not _listens(self.port):
            if self.nodes.is_dead(pid):
                return None
        return pid

    def is_done(self) -> bool:
        left = self._left_in("jobs", "dead", "trash")
        kept = self._left_in("delivered")
        return len(self.archive.files) == 3 and not left and len(kept) == self._most_kept()

    def _most_kept(self) -> int:
        return 1 if self.keep_delivered_s > 60 else 0

    def _left_in(self, *folders: str) -> list[Path]:
        return [path for name in folders for path in (self.spool / name).iterdir()]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("where", ["receiving", "working"])
def test_a_node_that_is_killed_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, where: str
) -> None:
    """In two halves, which different processes can test at once."""
    first, last = (1, 9) if where == "receiving" else (10, 60)
    with service() as asked, nursery() as nodes:
        for die_at in range(first, last):
            with archive() as to:
                hospital = Hospital(tmp_path / str(die_at), asked, to, nodes)
                if not _dies_and_recovers(hospital, die_at, xray(die_at)):
                    assert die_at >= 20, "it was killed at too few places"
                    return
    assert where == "receiving", "there are more steps than the test tries"


@pytest.mark.parametrize("keep_delivered_s", [0.2, 3600])
def test_a_node_that_is_killed_when_it_has_delivered_keeps_one_whole_job_or_none(
    tmp_path: Path, keep_delivered_s: float
) -> None:
    """The X-ray was delivered before; where it is still kept, it makes room for the same one."""
    with service() as asked, nursery() as nodes:
        for die_at in range(1, 20):
            with archive() as to:
                hospital = Hospital(
                    tmp_path / str(die_at), asked, to, nodes, keep_delivered_s, steps="out"
                )
                sent = xray(die_at)
                if keep_delivered_s > 60:
                    _deliver(hospital, sent)
                has_died = _dies_and_recovers(hospital, die_at, sent)
                for job in (hospital.spool / "delivered").iterdir():
                    assert {path.name for path in job.iterdir()} == {"xray.dcm", "answer", "sent"}
                if not has_died:
                    assert die_at >= 6, "it was killed at too few places"
                    return
    pytest.fail("there are more steps than the test tries")


def _deliver(hospital: Hospital, sent: Dataset) -> None:
    pid = hospital.start(0)
    assert pid is not None
    try:
        assert store(hospital.port, sent) == [0x0000]
        until(hospital.is_done)
    finally:
        hospital.nodes.end(pid)


def _dies_and_recovers(hospital: Hospital, die_at: int, sent: Dataset) -> bool:
    """Let a node die at one call, start another, and look at what came out.

    Returns:
        Whether the first one died before everything was done.
    """
    pid = hospital.start(die_at)
    status = [None] if pid is None else store(hospital.port, sent, timeout_s=15)
    has_died = pid is None
    if pid is not None:
        if status == [0x0000]:
            until(lambda: hospital.is_done() or hospital.nodes.is_dead(pid))
            has_died = not hospital.is_done()
        else:
            until(lambda: hospital.nodes.is_dead(pid))
            has_died = True
        if not has_died:
            hospital.nodes.end(pid)
    again = hospital.start(0)
    assert again is not None
    try:
        if status != [0x0000]:
            assert store(hospital.port, sent, timeout_s=30) == [0x0000], die_at
        until(hospital.is_done)
    finally:
        hospital.nodes.end(again)
    assert hospital.archive.kinds() == ["sc", "seg", "sr"], die_at
    assert all(len(set(files)) == 1 for files in hospital.archive.files.values()), die_at
    return has_died

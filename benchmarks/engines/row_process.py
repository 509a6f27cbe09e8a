"""The process of a row: it loads one peer, then runs one timed call for each request.

So rows share no memory and no thread pool, and the peak of a process is the peak of its row. While
one works, the others wait.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engines.peers.known_peers import PEERS
from benchmarks.engines.peers.peer import PeerJob, PeerUnavailableError, normalized_inputs

STAGES = ("encoder", "image to mask")
PAUSE_S = 0.03
"""Pause between two calls, so that the threads of the last engine stop spinning."""
SHORT_MS = 300.0

_SPAWN = multiprocessing.get_context("spawn")
_FAILURES = (OSError, EOFError)


class RowProcess:
    """The parent's end of one row."""

    def __init__(self, work: Callable[[Connection, PeerJob], None], job: PeerJob) -> None:
        """Start a process that does ``work`` for ``job``."""
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=work, args=(theirs, job), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: str) -> Any:
        """Send a command and wait for its result.

        Raises:
            PeerUnavailableError: The row cannot do it, or its process ended.
        """
        try:
            self._connection.send(question)
            answer = self._connection.recv()
        except _FAILURES:
            self._process.join(5)
            code = self._process.exitcode
            raise PeerUnavailableError(f"its process ended with {code}") from None
        if isinstance(answer, PeerUnavailableError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()  # the process reads the end of file and returns
        self._process.join(20)
        self._process.terminate()
        self._process.join()


def answer_questions(connection: Connection, job: PeerJob) -> None:
    """Load a peer and execute commands until the end.

    Commands: ``load`` -> seconds; a name of `STAGES` -> milliseconds of one call on all images;
    ``masks`` -> bool (B, H, W), packed; ``memory`` -> MiB by name; ``engine`` -> its name or None.
    """
    row = _Row(job)
    while True:
        try:
            answer: Any = row.answer(connection.recv())
        except EOFError:
            return
        except PeerUnavailableError as error:
            answer = error
        except Exception as error:  # process boundary; the other rows continue
            traceback.print_exc()
            answer = PeerUnavailableError(f"{type(error).__name__}: {str(error)[:200]}")
        connection.send(answer)


def prepare_files(connection: Connection, job: PeerJob) -> None:
    """Make the files of a peer on any command; the result is the seconds."""
    connection.recv()
    started = time.perf_counter()
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # exporters and quantizers print progress bars
    logging.disable(logging.WARNING)
    answer: Any
    try:
        prepare = PEERS[job.label].prepare
        if prepare is not None:
            torch.set_num_threads(job.threads)
            prepare(job)
        answer = time.perf_counter() - started
    except PeerUnavailableError as error:
        answer = error
    except Exception as error:  # the top of a process
        traceback.print_exc()
        answer = PeerUnavailableError(f"{type(error).__name__}: {str(error)[:200]}")
    connection.send(answer)


class _Row:
    """The state of a row's process."""

    def __init__(self, job: PeerJob) -> None:
        self._job = job
        self._last_ms: dict[str, float] = {}
        torch.set_num_threads(job.threads)

    def answer(self, question: str) -> Any:
        if question == "load":
            return self._load()
        if question == "memory":
            return {**memory_mib(), "empty": self._empty_mib}
        if question == "engine":
            return getattr(self._peer, "engine_name", None)
        if question == "masks":
            return np.packbits(np.stack(self._draw()), axis=-1)
        return self._timed(question)

    def _timed(self, stage: str) -> float:
        """Return milliseconds of a call; short calls run twice, to fill the caches again."""
        time.sleep(PAUSE_S)
        milliseconds = 0.0
        for _ in range(2 if self._last_ms.get(stage, SHORT_MS) < SHORT_MS else 1):
            started = time.perf_counter()
            if stage == STAGES[0]:
                self._peer.encode_images(self._normalized)
            else:
                self._draw()
            milliseconds = 1e3 * (time.perf_counter() - started)
        self._last_ms[stage] = milliseconds
        return milliseconds

    def _load(self) -> float:
        job, started = self._job, time.perf_counter()
        self._empty_mib = memory_mib()["now"]
        self._images = list(np.load(job.images))
        self._normalized = normalized_inputs(self._images, job.config())
        self._peer = PEERS[job.label].build(job)
        return time.perf_counter() - started

    def _draw(self) -> list[Any]:
        return self._peer.predict_masks(self._images, self._job.box)


def memory_mib() -> dict[str, float]:
    """Return resident memory of this process in MiB: ``now`` and its ``peak``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return {"now": int(kib["VmRSS"]) / 1024, "peak": int(kib["VmHWM"]) / 1024}

"""The serving process's handle on the compute process: starts, calls and ends it.

Every wait for the other side is bounded: a process whose call takes longer than `stall_timeout_s`
counts as hung and is killed. Whoever killed it, the caller of this module gets `ComputeLost`.
"""

from __future__ import annotations

import dataclasses
import os
import select
import subprocess
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from model_store.model_info import ModelInfo
from model_store.self_test_result import SelfTestResult
from service.compute.early_start import STORED_MODEL, EarlyStart, start_compute_process
from service.compute.message_socket import MessageSocket
from service.compute.model_handle import (
    LOST_SENTENCE,
    Failure,
    Memory,
    ModelCallError,
    ModelRefusedError,
)
from service.compute.model_messages import (
    SELF_TEST,
    Hello,
    Refusal,
    receive_outputs,
    send_inputs,
)
from service.compute.network_data import NetworkInput, NetworkOutput
from service.compute.visible_gpus import environment_of
from service.errors import ComputeLost, OutOfMemory
from service.settings import Settings

LOAD_TIMEOUT_S = 180.0
END_TIMEOUT_S = 3.0
MEMORY_SENTENCE = (
    "The device had too little memory for this request; the memory has been freed. Send it again "
    "later, or a smaller image."
)


class ComputeChild:
    """A compute process with a loaded model; used by one thread at a time."""

    info: ModelInfo

    def __init__(
        self, settings: Settings, source: str = STORED_MODEL, early: EarlyStart | None = None
    ) -> None:
        """Start the process and wait until its model is loaded.

        Args:
            settings: settings for the process; with `cuda:N` it sees only that GPU, as `cuda`.
            source: `module:function` that makes the model in the process.
            early: a process started earlier, used unless it is already taken.

        Raises:
            ModelRefusedError: the model cannot be used.
            ComputeLost: the process ended, or took longer than `LOAD_TIMEOUT_S`.
        """
        self._gpu_bytes: Mapping[str, int] = {}
        self._stall_timeout_s = settings.stall_timeout_s
        self._deadline: float | None = None
        self._next_number = 0
        self._received: deque[tuple[int, NetworkOutput | Failure]] = deque()
        self._is_closed = threading.Event()
        environment = environment_of(settings.device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        started = None if early is None else early.take(source, environment)
        connection, self._process = started or start_compute_process(source, environment)
        self._connection = MessageSocket(connection)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        try:
            with self._bounded(LOAD_TIMEOUT_S):
                seen = {"device": "cuda"} if environment else {}
                self._connection.send(settings.model_copy(update=seen))
                answer, _ = self._connection.receive()
            if isinstance(answer, Refusal):
                place = f"On {settings.device}: " if environment else ""
                raise ModelRefusedError(place + answer.sentence, is_setting=answer.is_setting)
            assert isinstance(answer, Hello)
        except BaseException:
            self.close()
            raise
        self.info = answer.info
        if environment:
            self.info = dataclasses.replace(answer.info, device=settings.device)

    @property
    def process_id(self) -> int:
        """Id of the compute process."""
        return self._process.pid

    @property
    def memory(self) -> Memory:
        """Main memory of the process now, and GPU memory after its latest answer."""
        return Memory(resident_bytes(self.process_id), self._gpu_bytes)

    @property
    def is_running(self) -> bool:
        """Whether the compute process is running."""
        return self._process.poll() is None

    def answer_batch(self, inputs: Sequence[NetworkInput]) -> Iterator[NetworkOutput | Exception]:
        """Send images at once, and return an iterator over the answers as they arrive.

        The process works on the next image or batch while the caller uses the previous answer. A
        failed image yields its error, `ModelCallError` or `OutOfMemory`. Batches are answered in
        order.

        Raises:
            ComputeLost: the process ended, hung, or answered about another image.
        """
        first = self._next_number
        self._next_number += len(inputs)
        with self._bounded(self._stall_timeout_s):
            send_inputs(self._connection, first, inputs)
        return self._answers(first, self._next_number)

    def answer_is_there(self, wake: int) -> bool:
        """Wait for an answer, or until a descriptor is readable; False for the latter.

        Args:
            wake: the descriptor.

        Raises:
            ComputeLost: the process hung.
        """
        if self._received:
            return True
        with self._bounded(self._stall_timeout_s):
            readable, _, _ = select.select([self._connection.fileno(), wake], [], [])
        return self._connection.fileno() in readable

    def _answers(self, first: int, end: int) -> Iterator[NetworkOutput | Exception]:
        for number in range(first, end):
            if not self._received:
                with self._bounded(self._stall_timeout_s):
                    found, self._gpu_bytes = receive_outputs(self._connection, number)
                self._received.extend(enumerate(found, start=number))
            answered, one = self._received.popleft()
            if answered != number:
                raise self._lost()
            yield _error_of(one) if isinstance(one, Failure) else one

    def self_test(self) -> SelfTestResult:
        """Prove the model by its golden mask.

        Raises:
            ModelRefusedError: the golden files are missing or damaged.
            ModelCallError: the forward pass raised.
            ComputeLost: the process ended or hung.
        """
        with self._bounded(self._stall_timeout_s):
            self._connection.send((SELF_TEST, None))
            answer, _ = self._connection.receive()
        if isinstance(answer, Refusal):
            raise ModelRefusedError(answer.sentence, is_setting=answer.is_setting)
        if isinstance(answer, Failure):
            raise ModelCallError(answer)
        assert isinstance(answer, SelfTestResult)
        return answer

    def close(self) -> None:
        """End the process; may be called more than once."""
        self._is_closed.set()
        self._connection.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def _bounded(self, timeout_s: float) -> Generator[None, None, None]:
        """Kill the process if the block takes too long; ComputeLost if the process is gone."""
        self._deadline = time.monotonic() + timeout_s
        try:
            yield
        except (EOFError, OSError):
            raise self._lost() from None
        finally:
            self._deadline = None

    def _lost(self) -> ComputeLost:
        self._process.kill()
        return ComputeLost(LOST_SENTENCE, retry_after_s=2)

    def _watch(self) -> None:
        period_s = min(1.0, self._stall_timeout_s / 4)
        while not self._is_closed.wait(period_s):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self._process.kill()  # the blocked read or write ends with an error


def resident_bytes(process_id: int) -> int:
    """Return the main memory of a process; 0 if it is gone or there is no `/proc`."""
    try:
        statm = Path(f"/proc/{process_id}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _error_of(failure: Failure) -> Exception:
    if failure.out_of_memory:
        return OutOfMemory(MEMORY_SENTENCE, retry_after_s=2)
    if failure.device_lost:
        return ComputeLost(LOST_SENTENCE, retry_after_s=5)
    return ModelCallError(failure)

"""The compute process: loads the model and answers the serving process.

It is a process of its own because a model call can fail without an exception: the kernel kills it
for memory, a native library crashes, a GPU is lost for as long as its process lives. The serving
process survives, answers its callers, and starts this process again. This process ends when the
serving process is gone. It ignores signals, because a terminal or systemd sends them to both.

`compute_child` starts it by `python -m service.compute.compute_process FD MODULE:FUNCTION`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from service.child_process import ParentGoneError, die_with_parent, leave_signals_to_parent
from service.compute.hosted_model import (
    DeviceLostError,
    HostedModel,
    OutOfDeviceMemoryError,
    record_once,
)
from service.compute.message_socket import MessageSocket
from service.compute.model_handle import Failure, ModelRefusedError
from service.compute.model_messages import (
    PREDICT,
    Hello,
    Refusal,
    inputs_in,
    send_outputs,
)
from service.compute.network_arrays import network_output, prepared_request
from service.compute.network_data import NetworkOutput
from service.line_writer import never_wait_for_readers
from service.logging import configure_logging, describe_error
from service.settings import Settings

if TYPE_CHECKING:
    from model_store.preprocessing import PreparedRequest
    from model_store.self_test_result import SelfTestResult

logger = logging.getLogger("service.compute_process")

ModelMaker = Callable[[Settings], HostedModel]
Batch = list[tuple[int, "PreparedRequest"]]
"""Images sent together, each with the number of its answer."""


def main(arguments: Sequence[str]) -> int:
    """Run the compute process.

    Args:
        arguments: number of the socket's file descriptor, and `module:function` of the model.

    Returns:
        The exit code: 0 when the other side has gone.
    """
    try:
        die_with_parent()
    except ParentGoneError:
        return 0
    leave_signals_to_parent()
    never_wait_for_readers()
    configure_logging()
    module, _, function = arguments[1].partition(":")
    make_model: ModelMaker = getattr(importlib.import_module(module), function)
    connection = MessageSocket(socket.socket(fileno=int(arguments[0])))
    # The connection ended: the serving process is gone or wants another compute process.
    with connection, contextlib.suppress(EOFError, ConnectionError):
        _serve(connection, make_model)
    return 0


def _serve(connection: MessageSocket, make_model: ModelMaker) -> None:
    settings, _ = connection.receive()
    try:
        model = make_model(settings)
    except Exception as error:  # the top of this process
        connection.send(refusal_of(error))
        return
    connection.send(Hello(model.info))
    inbox = _Inbox(connection, settings.max_batch if model.shares_calls else 0)
    may_record = False
    while True:
        if may_record and inbox.is_empty:  # only after the self test, which makes the service ready
            may_record = record_once(model)
            continue
        batch = inbox.take()
        if batch is None:
            connection.send(_tested(model))
            may_record = True
        elif len(batch) == 1 or not _answer_together(connection, model, batch):
            for number, request in batch:
                _answer(connection, model, number, request)


class _Inbox:
    """Receives while the model computes, so that the next image is ready."""

    def __init__(self, connection: MessageSocket, most_together: int) -> None:
        self._connection = connection
        self._most_together = most_together  # 0: each is computed alone
        self._received: SimpleQueue[Batch | Exception | None] = SimpleQueue()
        self._next: list[Batch | Exception | None] = []  # taken, and not of the previous batch
        threading.Thread(target=self._receive, name="inbox", daemon=True).start()

    @property
    def is_empty(self) -> bool:
        """Whether `take` would wait."""
        return not self._next and self._received.empty()

    def take(self) -> Batch | None:
        """Wait for images, a single one if each is computed alone; None requests the self test.

        A shared call has all images received so far, up to the most in a call.

        Raises:
            EOFError: the other side has gone.
            ConnectionError: likewise.
        """
        batch = self._next.pop() if self._next else self._received.get()
        if isinstance(batch, Exception):
            raise batch
        while batch is not None and len(batch) < self._most_together:
            try:
                more = self._received.get_nowait()
            except Empty:
                break
            if not isinstance(more, list) or len(batch) + len(more) > self._most_together:
                self._next.append(more)
                break
            batch = batch + more
        return batch

    def _receive(self) -> None:
        try:
            while True:
                (kind, content), pieces = self._connection.receive()
                if kind == PREDICT:
                    received = inputs_in(content, pieces)
                    numbered = ((number, prepared_request(one)) for number, one in received)
                    if self._most_together:
                        self._received.put(list(numbered))
                        continue
                    for one in numbered:
                        self._received.put([one])
                else:
                    self._received.put(None)
        except (EOFError, OSError) as error:
            self._received.put(error)


def _answer_together(connection: MessageSocket, model: HostedModel, batch: Batch) -> bool:
    """Answer several images by one call; False if it failed and each needs its own call."""
    try:
        answers = model.answer_batch([request for _, request in batch])
        if len(answers) != len(batch):
            raise ValueError("the model gave another number of answers than it got images")
        outputs = [replace(network_output(answer), together=len(batch)) for answer in answers]
    except Exception as error:  # the border, as below
        failure = failure_of(error)
        fields = {"error_type": failure.error_type, "where": list(failure.where)}
        logger.error("batch failed", extra={"fields": {**fields, "batch_size": len(batch)}})
        error.__traceback__ = None  # its frames hold tensors
        if failure.out_of_memory:
            model.free_memory()
        return False
    numbers = [number for number, _ in batch]
    send_outputs(connection, list(zip(numbers, outputs, strict=True)), model.gpu_memory())
    return True


def _answer(
    connection: MessageSocket, model: HostedModel, number: int, request: PreparedRequest
) -> None:
    """Answer one image; its failure does not affect its neighbours."""
    found: NetworkOutput | Failure
    try:
        found = network_output(model.answer(request))
    except Exception as error:  # the border: every image gets an answer
        found = failure_of(error)
        error.__traceback__ = None  # its frames hold tensors
        if found.out_of_memory:
            model.free_memory()
    send_outputs(connection, [(number, found)], model.gpu_memory())


def _tested(model: HostedModel) -> SelfTestResult | Refusal | Failure:
    try:
        return model.self_test()
    except ModelRefusedError as error:
        return refusal_of(error)
    except Exception as error:  # the border, as above
        return failure_of(error)


def refusal_of(error: Exception) -> Refusal:
    """Return why a model cannot be used."""
    logger.error("model refused", extra={"fields": describe_error(error)})
    sentence = " ".join(str(error).split()) or type(error).__name__
    return Refusal(sentence, isinstance(error, ModelRefusedError) and error.is_setting)


def failure_of(error: Exception) -> Failure:
    """Describe a failed call without its message, with the kind of failure."""
    cause = error.__cause__ if isinstance(error, DeviceLostError | OutOfDeviceMemoryError) else None
    described = describe_error(cause or error)
    return Failure(
        described["error_type"],
        tuple(described["where"]),
        isinstance(error, MemoryError),
        isinstance(error, DeviceLostError),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The compute process: loads the model and answers what the serving process hands over.

A process of its own, because a model call can die in ways that no exception tells: the kernel
kills it for memory, a native library crashes, a GPU is lost for as long as its process lives. The
process that holds the callers' connections then still stands, tells them, and starts this one
anew. It ends when the other side is gone, and leaves signals to the other side, since
a terminal or systemd sends them to both.

`python -m service.compute.compute_process FD MODULE:FUNCTION` is how `compute_child` starts it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING

from service.child_process import ParentGoneError, die_with_parent, leave_signals_to_parent
from service.compute.hosted_model import DeviceLostError, HostedModel, OutOfDeviceMemoryError
from service.compute.model_handle import Failure, ModelRefusedError
from service.compute.model_messages import (
    PREDICT,
    Hello,
    Refusal,
    receive_inputs,
    send_failure,
    send_output,
)
from service.compute.network_arrays import network_output, prepared_request
from service.logging import configure_logging, describe_error
from service.settings import Settings

if TYPE_CHECKING:
    from model_store.preparation import PreparedRequest
    from model_store.self_test_result import SelfTestResult

logger = logging.getLogger("service.compute_process")

Batch = list[tuple[int, "PreparedRequest"]]
"""Images that were handed over together, each with the number of its answer."""


def main(arguments: Sequence[str]) -> int:
    """Runs the compute process.

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
    configure_logging()
    module, _, function = arguments[1].partition(":")
    make_model: Callable[[Settings], HostedModel] = getattr(
        importlib.import_module(module), function
    )
    connection = Connection(int(arguments[0]))
    # It ends when the serving process has ended, or wants another compute process.
    with connection, contextlib.suppress(EOFError, ConnectionError):
        _serve(connection, make_model)
    return 0


def _serve(connection: Connection, make_model: Callable[[Settings], HostedModel]) -> None:
    settings: Settings = connection.recv()
    try:
        model = make_model(settings)
    except Exception as error:  # the top of this process
        connection.send(refusal_of(error))
        return
    connection.send(Hello(model.info))
    inbox = _Inbox(connection, model.shares_calls)
    while True:
        batch = inbox.take()
        if batch is None:
            connection.send(_tested(model))
        elif len(batch) == 1 or not _answer_together(connection, model, batch):
            for number, request in batch:
                _answer(connection, model, number, request)


class _Inbox:
    """Receives while the model computes, so that the next image is there when it is wanted."""

    def __init__(self, connection: Connection, keeps_together: bool) -> None:
        self._connection = connection
        self._keeps_together = keeps_together
        self._received: SimpleQueue[Batch | Exception | None] = SimpleQueue()
        threading.Thread(target=self._receive, name="inbox", daemon=True).start()

    def take(self) -> Batch | None:
        """Waits for images, one where each is computed alone; None asks for the self test.

        Raises:
            EOFError: the other side has gone.
            ConnectionError: likewise.
        """
        received = self._received.get()
        if isinstance(received, Exception):
            raise received
        return received

    def _receive(self) -> None:
        try:
            while True:
                kind, content = self._connection.recv()
                if kind == PREDICT:
                    received = receive_inputs(self._connection, content)
                    numbered = ((number, prepared_request(one)) for number, one in received)
                    if self._keeps_together:
                        self._received.put(list(numbered))
                        continue
                    for one in numbered:
                        self._received.put([one])
                else:
                    self._received.put(None)
        except (EOFError, OSError) as error:
            self._received.put(error)


def _answer_together(connection: Connection, model: HostedModel, batch: Batch) -> bool:
    """Answers several images by one call; False when it failed and each has to be asked alone."""
    try:
        answers = model.answer_batch([request for _, request in batch])
        if len(answers) != len(batch):
            raise ValueError("the model gave another number of answers than it got images")
        outputs = [network_output(answer) for answer in answers]
    except Exception as error:  # the border, as below
        failure = failure_of(error)
        fields = {"error_type": failure.error_type, "where": list(failure.where)}
        logger.error("batch failed", extra={"fields": {**fields, "batch_size": len(batch)}})
        error.__traceback__ = None  # its frames hold tensors
        if failure.out_of_memory:
            model.free_memory()
        return False
    for (number, _), output in zip(batch, outputs, strict=True):
        send_output(connection, number, output, model.gpu_memory())
    return True


def _answer(
    connection: Connection, model: HostedModel, number: int, request: PreparedRequest
) -> None:
    """Answers one image; its failure is its own, so that the neighbours get their masks."""
    try:
        output = network_output(model.answer(request))
    except Exception as error:  # the border: every image gets an answer
        failure = failure_of(error)
        error.__traceback__ = None  # its frames hold tensors
        if failure.out_of_memory:
            model.free_memory()
        send_failure(connection, number, failure, model.gpu_memory())
        return
    send_output(connection, number, output, model.gpu_memory())


def _tested(model: HostedModel) -> SelfTestResult | Refusal | Failure:
    try:
        return model.self_test()
    except ModelRefusedError as error:
        return refusal_of(error)
    except Exception as error:  # the border, as above
        return failure_of(error)


def refusal_of(error: Exception) -> Refusal:
    """Says why a model cannot be used."""
    logger.error("model refused", extra={"fields": describe_error(error)})
    sentence = " ".join(str(error).split()) or type(error).__name__
    return Refusal(sentence, isinstance(error, ModelRefusedError) and error.is_setting)


def failure_of(error: Exception) -> Failure:
    """Describes a failed call without its words, and tells what kind of failure it is."""
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

"""Puts the parts of a node together."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from prometheus_client import start_http_server

from service.dicom_node.metrics import NodeMetrics
from service.dicom_node.receiving import Receiver
from service.dicom_node.segmenting import Segmenter
from service.dicom_node.sending import fault_of
from service.dicom_node.settings import NodeSettings
from service.dicom_node.spool import Spool
from service.dicom_node.work import Work

logger = logging.getLogger("service.dicom_node")

_STOP_TIMEOUT_S = 20.0


class Node:
    """One node, from its start to its stop."""

    CLEARING_INTERVAL_S: ClassVar[float] = 600.0
    """Seconds between two searches for files that broken associations left behind."""

    def __init__(self, settings: NodeSettings) -> None:
        """Open the spool.

        Raises:
            NodeSettingsError: a file with a secret cannot be read.
            OSError: the spool cannot be made or written.
            SpoolInUse: another node uses it.
        """
        self._settings = settings
        self._segmenter = Segmenter(settings.segment)
        spool = settings.spool
        self._spool = Spool(spool.folder, spool.max_bytes, spool.min_free_bytes)
        self.metrics = NodeMetrics(self._spool)
        self._work = Work(settings, self._spool, self._segmenter, self.metrics)
        self._receiver = Receiver(
            settings.receive, settings.select, self._spool, self.metrics, self._work.add
        )
        self._metrics_server: Any = None

    def start(self) -> None:
        """Process waiting X-rays, and listen.

        Raises:
            OSError: an address is not available.
        """
        metrics = self._settings.metrics
        if metrics.port:
            self._metrics_server, _ = start_http_server(
                metrics.port, metrics.host, registry=self.metrics.registry
            )
        self._work.start()
        self._receiver.start()
        logger.info("listening", extra={"fields": {"port": self._settings.receive.port}})

    def clear_stale(self) -> None:
        """Delete files of broken associations, and X-rays whose time in `delivered` is over."""
        self._spool.clear_stale()
        self._spool.forget_delivered(self._settings.spool.keep_delivered_s)

    def stop(self) -> None:
        """Accept no more, finish running steps, and leave the rest on disk."""
        self._receiver.stop()
        self._work.stop(_STOP_TIMEOUT_S)
        self._segmenter.close()
        if self._metrics_server is not None:
            self._metrics_server.shutdown()
        self._spool.close()
        logger.info("stopped")


def faults_of(settings: NodeSettings) -> list[str]:
    """Check every service and destination; return a sentence for each fault.

    Args:
        settings: content of the node's configuration file.
    """
    segmenter = Segmenter(settings.segment)
    faults = segmenter.check()
    segmenter.close()
    for one in settings.destinations:
        fault = fault_of(one, settings.receive.ae_title)
        if fault is not None:
            faults.append(f"destination {one.name}: {fault}")
    return faults

"""Report changes of the machine in log and metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from service.machine_watch import MachineRemark, MachineWatch
from service.metrics import Metrics

logger = logging.getLogger("service.machine")

LOOK_INTERVAL_S = 2.0


async def watch_machine(watch: MachineWatch, metrics: Metrics, workers: int) -> None:
    """Look periodically, until cancelled.

    Args:
        watch: detects changes of the machine.
        metrics: counts the changes.
        workers: number of image workers.
    """
    _say(watch.at_start(workers))
    while True:
        await asyncio.sleep(LOOK_INTERVAL_S)
        found = await asyncio.to_thread(watch.look)  # the kernel may keep such a file locked
        _say(found)
        for remark in found:
            metrics.machine_changes.labels(remark.kind).inc()


def _say(remarks: Sequence[MachineRemark]) -> None:
    for remark in remarks:
        fields = {**remark.fields, "sentence": remark.sentence}
        logger.warning(remark.event, extra={"fields": fields})

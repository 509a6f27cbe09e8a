"""A node with all that it talks to, on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.dicom_node.node import Node
from service.dicom_node.settings import NodeSettings
from tests.service.node_peers import Archive, FakeService, free_port, node_settings


class Hospital:
    """A node with all that it talks to."""

    def __init__(self, folder: Path, segmenting: FakeService, to: Archive) -> None:
        self.spool = folder / "spool"
        self.port = free_port()
        self.service, self.archive = segmenting, to
        self.settings = self.settings_with()

    def settings_with(self, **named: Any) -> NodeSettings:
        return node_settings(self.spool, self.service.url, self.archive.port, self.port, **named)

    def waiting(self) -> int:
        return len(list((self.spool / "jobs").iterdir()))

    def dead(self) -> list[str]:
        return [path.read_text() for path in (self.spool / "dead").glob("*/reason.txt")]


def metric(node: Node, name: str, **labels: str) -> float:
    return node.metrics.registry.get_sample_value(f"lungseg_node_{name}", labels) or 0.0

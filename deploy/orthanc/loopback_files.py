"""Variants of this folder's files for programs on one machine without containers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILES = Path(__file__).parent
HOST = "127.0.0.1"
SENDERS = ("STORESCU", "DCMSEND", "ECHOSCU", "FINDSCU", "GETSCU")
"""Default AE titles of DCMTK's and dcm4che's programs."""


@dataclass(frozen=True)
class Ports:
    """Ports of the three programs.

    Attributes:
        service: HTTP port of the service.
        node: C-STORE port of the node.
        metrics: HTTP port of the node's metrics.
        orthanc: HTTP port of Orthanc: page, REST and DICOMweb.
        dicom: C-STORE port of Orthanc.
    """

    service: int = 8000
    node: int = 11112
    metrics: int = 9112
    orthanc: int = 8042
    dicom: int = 4242


def orthanc_configuration(folder: Path, ports: Ports) -> dict[str, Any]:
    """Return the configuration of an Orthanc that only this machine can use.

    Orthanc opens its ports on all addresses, but accepts requests from this machine only.

    Args:
        folder: folder of Orthanc's storage.
        ports: one port for each listening socket.
    """
    values: dict[str, Any] = json.loads((FILES / "orthanc.json").read_text("utf-8"))
    modalities = {title.lower(): [title, HOST, 104] for title in SENDERS}
    modalities["lungseg"] = [values["DicomModalities"]["lungseg"][0], HOST, ports.node]
    return values | {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "Plugins": [plugin for plugin in values["Plugins"] if Path(plugin).exists()],
        "LuaScripts": [str(FILES / "forward.lua")],
        "DicomPort": ports.dicom,
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowEcho": False,
        "DicomCheckModalityHost": True,
        "DicomModalities": modalities,
        "HttpPort": ports.orthanc,
        "RemoteAccessAllowed": False,
        "OHIF": values["OHIF"] | {"UserConfiguration": str(FILES / "ohif.js")},
    }


def node_toml(spool: Path, ports: Ports) -> str:
    """Return the node's configuration file.

    Args:
        spool: folder in which X-rays wait.
        ports: one port for each listening socket.

    Raises:
        ValueError: `node.toml` lacks a line that is to be replaced.
    """
    text = (FILES / "node.toml").read_text("utf-8")
    networks = '["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]'
    for before, after in (
        ('folder = "/var/spool/lungseg"', f"folder = {json.dumps(str(spool))}"),
        ("port = 11112", f'host = "{HOST}"\nport = {ports.node}'),
        (f"addresses = {networks}", f'addresses = ["{HOST}"]'),
        ("http://lungseg:8000", f"http://{HOST}:{ports.service}"),
        ('host = "0.0.0.0"', f'host = "{HOST}"\nport = {ports.metrics}'),
        ('host = "orthanc"\nport = 4242', f'host = "{HOST}"\nport = {ports.dicom}'),
    ):
        if text.count(before) != 1:
            raise ValueError(f"deploy/orthanc/node.toml does not say {before!r} once")
        text = text.replace(before, after)
    return text

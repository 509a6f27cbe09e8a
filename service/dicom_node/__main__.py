"""Runs a node: `python -m service.dicom_node --config node.toml`, or checks it with `--check`.

Exit codes: 0 stopped, or all is well; 2 the file is not usable; 3 cannot listen or use the spool;
4 `--check` found a fault.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

EXIT_SETTINGS, EXIT_START, EXIT_FAULT = 2, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT.

    Args:
        arguments: without the program's name; `sys.argv`'s when None.

    Returns:
        The exit code.
    """
    flags = _parser().parse_args(arguments)
    try:
        import pynetdicom  # noqa: F401
    except ModuleNotFoundError:
        print("The node needs pip install 'adalora-qat[pacs]'.", file=sys.stderr)
        return EXIT_SETTINGS
    from service.dicom_node.node import Node, faults_of
    from service.dicom_node.settings import NodeSettingsError, read_node_settings
    from service.dicom_node.spool import SpoolInUse
    from service.logging import configure_logging

    configure_logging()
    warnings.simplefilter("ignore")  # libraries quote values of headers
    for library in ("pydicom", "pynetdicom", "dicomweb_client"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    try:
        settings = read_node_settings(flags.config)
        if flags.check:
            faults = faults_of(settings)
            print("\n".join(faults) if faults else "Everything answers.")
            return EXIT_FAULT if faults else 0
        node = Node(settings)
    except NodeSettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    except (OSError, SpoolInUse) as error:
        print(f"The node cannot start: {error}", file=sys.stderr)
        return EXIT_START
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        node.start()
    except OSError as error:
        print(f"The node cannot listen: {error.strerror or error}", file=sys.stderr)
        return EXIT_START
    while not stopped.wait(node.CLEARING_INTERVAL_S):
        node.clear_stale()
    node.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.dicom_node", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the TOML file")
    parser.add_argument(
        "--check", action="store_true", help="ask every service and destination, and say what fails"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Runs a node: `python -m service.dicom_node --config node.toml`, or checks it with `--check`.

`--fetch STUDY[/SERIES[/INSTANCE]]` puts X-rays of a WADO-RS server into the spool.

Exit codes: 0 stopped, or no fault; 2 the configuration is not usable; 3 cannot listen or use the
spool; 4 `--check` found a fault, or `--fetch` got nothing.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from service.stop_signals import StopSignals

if TYPE_CHECKING:
    from service.dicom_node.settings import NodeSettings

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
    from service.line_writer import never_wait_for_readers
    from service.logging import configure_logging

    configure_logging()
    warnings.simplefilter("ignore")  # libraries log values of headers
    for library in ("pydicom", "pynetdicom", "dicomweb_client"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    try:
        settings = read_node_settings(flags.config)
        if flags.check:
            faults = faults_of(settings)
            print("\n".join(faults) if faults else "Everything answers.")
            return EXIT_FAULT if faults else 0
        if flags.fetch:
            return _fetch(settings, tuple(flags.fetch.split("/")))
        node = Node(settings)
    except NodeSettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    except (OSError, SpoolInUse) as error:
        print(f"The node cannot start: {error}", file=sys.stderr)
        return EXIT_START
    never_wait_for_readers()
    stopped = StopSignals([signal.SIGTERM, signal.SIGINT])
    try:
        node.start()
    except OSError as error:
        print(f"The node cannot listen: {error.strerror or error}", file=sys.stderr)
        return EXIT_START
    while not stopped.wait(node.CLEARING_INTERVAL_S):
        node.clear_stale()
    node.stop()
    return 0


def _fetch(settings: NodeSettings, uids: tuple[str, ...]) -> int:
    """Put X-rays of a WADO-RS server into the spool, for the next start."""
    from service.dicom_node.fetching import FetchFailed, fetch
    from service.dicom_node.spool import Spool, SpoolFull

    if settings.fetch is None or not 1 <= len(uids) <= 3:
        print("--fetch needs [fetch] in the file, and STUDY[/SERIES[/INSTANCE]].", file=sys.stderr)
        return EXIT_SETTINGS
    chosen = settings.spool
    spool = Spool(chosen.folder, chosen.max_bytes, chosen.min_free_bytes)
    try:
        jobs, skipped = fetch(settings.fetch, settings.select, spool, uids)
    except FetchFailed as error:
        print(error, file=sys.stderr)
        return EXIT_FAULT
    except SpoolFull:
        print("The spool or its disk is full.", file=sys.stderr)
        return EXIT_START
    finally:
        spool.close()
    print(f"{len(jobs)} X-rays wait in the spool; {skipped} other objects were left.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.dicom_node", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the TOML file")
    parser.add_argument(
        "--check", action="store_true", help="ask every service and destination, and say what fails"
    )
    parser.add_argument(
        "--fetch",
        metavar="STUDY[/SERIES[/INSTANCE]]",
        help="put X-rays of the WADO-RS server into the spool of a node that does not run",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

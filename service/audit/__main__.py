"""`python -m service.audit`: verifies an audit log, or finds the entries about a file.

    python -m service.audit verify FOLDER --key-file KEY [--head SEAL]
    python -m service.audit digest FILE --log FOLDER

`verify` says where the chain is broken. With `--head`, a seal from the service's log or metrics, it
also notices lines cut off at the end. `digest` prints the entries in which a file was the X-ray or
the answer. Exit codes: 0 unbroken or found, 1 broken or not found, 2 nothing to read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from service.audit.chain import (
    AuditError,
    BrokenChainError,
    entries_of,
    read_key,
    verify_files,
)

EXIT_BROKEN, EXIT_UNREADABLE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; `sys.argv`'s when None.

    Returns:
        The exit code.
    """
    flags = _parser().parse_args(arguments)
    try:
        return int(flags.run(flags))
    except BrokenChainError as error:
        print(f"BROKEN: {error}")
        return EXIT_BROKEN
    except AuditError as error:
        print(error, file=sys.stderr)
        return EXIT_UNREADABLE


def _verify(flags: argparse.Namespace) -> int:
    found = verify_files(_files(flags.log), read_key(flags.key_file))
    if flags.head is not None and flags.head not in found.seals:
        raise BrokenChainError(
            f"no line has the seal {flags.head}: lines were cut off at the end, or it is of "
            "another log."
        )
    last = found.state.entries - 1
    torn = f"; {found.torn_lines} lines were cut off by a crash" if found.torn_lines else ""
    print(f"Unbroken: entries {found.first_entry} to {last}{torn}; head {found.state.seal}.")
    return 0


def _digest(flags: argparse.Namespace) -> int:
    try:
        digest = hashlib.sha256(flags.file.read_bytes()).hexdigest()
    except OSError as error:
        raise AuditError(f"{flags.file} cannot be read: {error.strerror}.") from None
    print(f"sha256 {digest}")
    found = 0
    for path in _files([flags.log]):
        for entry in entries_of(path):
            if digest in (entry.get("input_sha256"), entry.get("answer_sha256")):
                found += 1
                print(json.dumps(entry))
    print(f"{found} entries; `verify` tells whether they are as they were written.")
    return 0 if found else EXIT_BROKEN


def _files(named: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in named:
        files += path.glob("*.jsonl") if path.is_dir() else [path]
    return files


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service.audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    verify = commands.add_parser("verify", help="say whether a log is as it was written")
    verify.add_argument("log", type=Path, nargs="+", help="its folder, or its files")
    verify.add_argument("--key-file", type=Path, required=True, help="the key of the seals")
    verify.add_argument("--head", help="a seal that must be in the log")
    verify.set_defaults(run=_verify)
    digest = commands.add_parser("digest", help="find the entries of an X-ray or an answer")
    digest.add_argument("file", type=Path, help="the X-ray, or the answer as it was saved")
    digest.add_argument("--log", type=Path, required=True, help="the log's folder or a file")
    digest.set_defaults(run=_digest)
    return parser


if __name__ == "__main__":
    sys.exit(main())

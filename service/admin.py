"""`python -m service.admin`: show, replace or roll back the model of a running service.

    python -m service.admin status   --key-file KEY [--port 8001]
    python -m service.admin reload   --key-file KEY [--model FOLDER] [--of NAME/VERSION]
    python -m service.admin rollback --key-file KEY [--of NAME/VERSION]

Run it on the machine or in the container of a service started with --admin-port. The key has the
scope `admin`. Exit codes: 0 done, 1 refused (nothing has changed), 2 no answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EXIT_REFUSED, EXIT_NO_ANSWER = 1, 2
TIMEOUT_S = 330.0
PORT_VARIABLE = "LUNGSEG_ADMIN_PORT"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; `sys.argv`'s when None.

    Returns:
        The exit code.
    """
    flags = _parser().parse_args(arguments)
    fields = {}
    if flags.command != "status" and flags.of is not None:
        fields["of"] = flags.of
    if flags.command == "reload" and flags.model is not None:
        fields["model"] = str(flags.model.absolute())
    try:
        key = flags.key_file.read_text(encoding="ascii").strip()
        status, answer = _post(flags.port, flags.command, key, fields)
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"Nobody answers at 127.0.0.1:{flags.port}: {error}", file=sys.stderr)
        return EXIT_NO_ANSWER
    if status != http.client.OK:
        print(answer.get("detail", f"The service says {status}."), file=sys.stderr)
        return EXIT_REFUSED
    if answer.get("state") is not None:
        print(f"state: {answer['state']}")
    for model in answer.get("models") or [answer]:
        for name in ("served", "before"):
            if model.get(name) is not None:
                print(f"{name}: {_shown(model[name])}")
    return 0


def _post(port: int, command: str, key: str, fields: Any) -> tuple[int, dict[str, Any]]:
    """Send a request to the admin port; http.client uses no proxy."""
    method = "GET" if command == "status" else "POST"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body = json.dumps(fields) if fields else None
        connection.request(method, f"/admin/{command}", body, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    return response.status, answer if isinstance(answer, dict) else {}


def _shown(value: Mapping[str, Any]) -> str:
    return f"{value['name']} {value['version']} ({value['sha256']}) on {value['device']}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service.admin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("status", "say which model is served"),
        ("reload", "load another model, or the same folder again, and serve it"),
        ("rollback", "serve the model before again"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--key-file", type=Path, required=True, help="file with the key")
        command.add_argument(
            "--port",
            type=int,
            default=int(os.environ.get(PORT_VARIABLE) or 8001),
            help=f"the service's --admin-port (default: {PORT_VARIABLE}, or 8001)",
        )
        if name != "status":
            command.add_argument(
                "--of",
                metavar="NAME/VERSION",
                help="which of several models is changed; default: the first",
            )
        if name == "reload":
            command.add_argument(
                "--model", type=Path, help="its folder; default: the served one's, as it is now"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())

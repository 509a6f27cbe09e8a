"""`python -m deploy.supply`: write licences, SOUP list and bill of materials of the images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.supply.declared import record
from deploy.supply.lock_files import EXTRAS, IMAGES
from deploy.supply.soup import PAGE, page


def main() -> int:
    """Run one command; return 1 if the records do not match the lock files."""
    parser = argparse.ArgumentParser(prog="python -m deploy.supply", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record", help="record what the metadata of the locked versions declare")
    commands.add_parser("soup", help="write docs/regulatory/soup.md")
    bill = commands.add_parser("sbom", help="write a CycloneDX bill of materials of an image")
    bill.add_argument("--image", choices=list(IMAGES), default="cpu")
    bill.add_argument("--extra", choices=EXTRAS, action="append", default=[])
    bill.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        if given.command == "record":
            record()
        elif given.command == "soup":
            PAGE.write_text(page())
        else:
            from deploy.supply.sbom import sbom  # needs the extra `release`

            text = sbom(given.image, tuple(given.extra))
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(text)
    except ValueError as error:
        print(f"deploy.supply: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

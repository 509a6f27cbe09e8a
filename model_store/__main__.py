"""``python -m model_store``: list the stored models, prove them, fetch those that are missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model_store.model_index import (
    MODELS_FOLDER,
    IndexedModel,
    ModelIndexError,
    find_model,
    read_index,
)

EXIT_REFUSED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 2 with one sentence on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "list":
            return _list(arguments.into)
        from model_store.artifact import ArtifactError  # imports PyTorch
        from model_store.fetching import FetchError

        try:
            command = _verify if arguments.command == "verify" else _fetch
            return command(arguments)
        except (ArtifactError, FetchError, OSError) as error:
            return _refuse(error)
    except ModelIndexError as error:
        return _refuse(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="every stored model, and where it is")
    verify = commands.add_parser("verify", help="load models, predict their golden masks")
    verify.add_argument("model", nargs="?", help="NAME/VERSION; default: all that are here")
    fetch = commands.add_parser("fetch", help="bring a model in, and prove it")
    fetch.add_argument("model", help="NAME/VERSION")
    fetch.add_argument(
        "--from", dest="source", metavar="PLACE",
        help="a folder, a tar or zip archive, an https address, or git:COMMIT; default: where the "
        "index says",
    )  # fmt: skip
    for each in (listing, verify, fetch):
        each.add_argument(
            "--into", type=Path, default=Path("models"), metavar="FOLDER",
            help="folder of the fetched models (default: %(default)s)",
        )  # fmt: skip
    return parser


def _present(model: IndexedModel, into: Path) -> Path | None:
    """Return the folder of a model that is here: in the package, or fetched into a folder."""
    for root in (MODELS_FOLDER, into):
        if (root / model.label / "manifest.json").is_file():
            return root / model.label
    return None


def _list(into: Path) -> int:
    for model in read_index():
        place = _present(model, into) or f"not here ({model.where})"
        print(
            f"{model.label:<24} {model.status:<11} {model.size_bytes / 1e6:5.1f} MB  "
            f"{model.sha256[:12]}  {place}"
        )
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from model_store.fetching import FetchError, verify

    wanted = [find_model(arguments.model)] if arguments.model else list(read_index())
    here = [(m, folder) for m in wanted if (folder := _present(m, arguments.into)) is not None]
    if not here:
        raise FetchError(f"{arguments.model or 'no model'} is not stored here; `fetch` gets it")
    for model, folder in here:
        result = verify(model, folder)
        print(f"{model.label}: right ({result.agreement:.5f} of the golden mask), {folder}")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from model_store.fetching import fetch

    print(fetch(find_model(arguments.model), arguments.into, arguments.source))
    return 0


def _refuse(error: Exception) -> int:
    print(f"python -m model_store: {error}", file=sys.stderr)
    return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())

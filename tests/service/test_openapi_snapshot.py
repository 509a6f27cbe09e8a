"""The published interface is frozen: a change of it must be seen, and meant.

`UPDATE_OPENAPI=1 python -m pytest tests/service/test_openapi_snapshot.py` writes it again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.service.fake_model import make_app

FROZEN = Path(__file__).with_name("openapi.json")


def test_the_interface_is_the_frozen_one() -> None:
    document = make_app().openapi()
    document["info"].pop("version")
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_OPENAPI"):
        FROZEN.write_text(text, encoding="utf-8")
    assert json.loads(text) == json.loads(FROZEN.read_text(encoding="utf-8"))

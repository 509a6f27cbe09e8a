"""The documentation page works without any other host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.imaging.response_warnings import WarningCode
from tests.service.fake_model import form, make_app, running

pytestmark = pytest.mark.anyio


async def test_the_page_and_everything_it_loads_comes_from_here() -> None:
    """Every link answers 200 and none leads elsewhere."""
    async with running(make_app()) as client:
        page = await client.get("/docs")
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 4
        for link in links:
            assert not link.startswith(("http", "//"))
            asset = await client.get("/" + link)
            assert asset.status_code == 200
            assert len(asset.content) > 100
        start = (await client.get("/docs/assets/start.js")).text
    assert "validatorUrl: null" in start
    assert 'url: "openapi.json"' in start
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy


@pytest.mark.parametrize("name", ["nope.js", "..%2f__init__.py", "%2e%2e/core.py"])
async def test_only_the_known_files_are_served(name: str) -> None:
    """No way out of the folder."""
    async with running(make_app()) as client:
        assert (await client.get(f"/docs/assets/{name}")).status_code == 404


async def test_nothing_is_filled_in_that_would_change_a_mask() -> None:
    """The page sends examples and defaults: a box that nobody chose would cut a lung off."""
    async with running(make_app()) as client:
        document = (await client.get("/openapi.json")).json()
    for path in ("/segment", "/v1/segment"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        fields = content["multipart/form-data"]["schema"]["properties"]
        neutral = {
            **{"convention": "lung_field", "threshold": 0.5, "overlay": True},
            **{"lungs": "both", "islands": "keep", "clip": False},
            **{"measurements": False, "legend": False, "structure": "lungs"},
            "shapes": "png,rle",
        }
        for name, field in fields.items():
            assert not {"example", "examples"} & {*field, *field.get("items", {})}, name
            assert field.get("default") == neutral.get(name), name
        assert re.fullmatch(fields["bbox"]["items"]["pattern"], "64,80,960.5,900")


async def test_codes_headers_and_keys_are_described(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("0" * 64 + "\n")
    async with running(make_app()) as client:
        document = (await client.get("/openapi.json")).json()
        answer = await client.post("/segment", **form(), headers={"Accept": "image/png"})
    async with running(make_app(api_keys_file=keys)) as client:
        locked = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert set(schemas["ResponseWarning"]["properties"]["code"]["enum"]) == set(WarningCode)
    assert {"invalid_box", "queue_full"} < set(schemas["Problem"]["properties"]["code"]["enum"])
    described = document["paths"]["/segment"]["post"]["responses"]["200"]["headers"]
    sent = {name for name in answer.headers if name.startswith("x-lungseg")}
    assert sent <= {name.lower() for name in described}
    assert {"X-Request-ID", "Server-Timing"} < set(described)
    assert "securitySchemes" not in document["components"]
    assert set(locked["components"]["securitySchemes"]) == {"bearer", "key"}
    assert locked["paths"]["/segment"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert "security" not in locked["paths"]["/livez"]["get"]

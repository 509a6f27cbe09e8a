"""The documentation page works without any other host."""

from __future__ import annotations

import re

import pytest
from fake_model import make_app, running

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

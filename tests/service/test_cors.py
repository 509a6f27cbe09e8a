"""Pages of listed origins may call the service and read its answers; no other page may."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import SettingsError, settings_from
from tests.service.fake_model import form, make_app, running
from tests.service.test_keys import write_keys

pytestmark = pytest.mark.anyio
VIEWER = "https://viewer.example"
OTHERS = (f"{VIEWER}:8443", "http://viewer.example", "https://a.viewer.example", "null")


def preflight(origin: str, method: str = "POST", headers: str = "x-api-key") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


async def test_a_page_of_a_listed_origin_posts_and_reads_mask_and_refusal() -> None:
    async with running(make_app(cors_origins=f"http://localhost:3000, {VIEWER}")) as client:
        for origin in (VIEWER, "http://localhost:3000"):
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            mask = await client.post(
                "/segment", **form(), headers=headers | {"Accept": "image/png"}
            )
            refused = await client.post("/segment", headers=headers, files={"image": ("a", b"?")})
            for answer, status in ((mask, 200), (refused, 400)):
                assert answer.status_code == status
                assert answer.headers["access-control-allow-origin"] == origin
                assert "access-control-allow-credentials" not in answer.headers
                assert "origin" in answer.headers["vary"].lower()
            shown = mask.headers["access-control-expose-headers"].lower()
            own = {name for name in mask.headers if name.startswith("x-lungseg-")}
            assert len(own) > 10 and all(name in shown for name in (*own, "x-request-id"))


@pytest.mark.parametrize("origin", OTHERS)
async def test_any_other_page_finds_the_service_as_it_is_without(origin: str) -> None:
    async with running(make_app(cors_origins=VIEWER)) as listed, running(make_app()) as without:
        for client in (listed, without):
            asked = await client.options("/segment", headers=preflight(origin))
            read = await client.get("/v1/model", headers={"Origin": origin})
            posted = await client.post("/segment", **form(), headers={"Origin": origin})
            assert (asked.status_code, read.status_code, posted.status_code) == (405, 200, 403)
            for answer in (asked, read, posted):
                assert not any(name.startswith("access-control") for name in answer.headers)


async def test_a_browser_is_told_beforehand_what_it_may_send(tmp_path: Path) -> None:
    """Where keys are asked for, too: a browser sends none with its question."""
    app = make_app(cors_origins=VIEWER, api_keys_file=write_keys(tmp_path / "keys", "good"))
    async with running(app) as client:
        allowed = await client.options("/segment", headers=preflight(VIEWER))
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == VIEWER
        assert "POST" in allowed.headers["access-control-allow-methods"]
        for wrong in (preflight(VIEWER, method="DELETE"), preflight(VIEWER, headers="cookie")):
            refused = await client.options("/segment", headers=wrong)
            assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")
        headers = {"Origin": VIEWER}
        without_key = await client.post("/segment", **form(), headers=headers)
        with_key = await client.post("/segment", **form(), headers=headers | {"X-API-Key": "good"})
    for answer, status in ((without_key, 401), (with_key, 200)):
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
            status, VIEWER,
        )  # fmt: skip


def test_origins_are_written_as_browsers_write_them() -> None:
    given = "HTTPS://Viewer.Example:443, http://[::1]:80,http://10.0.0.7:8080,"
    settings = settings_from(["--cors-origins", given], {})
    assert settings.cors_origins == (VIEWER, "http://[::1]", "http://10.0.0.7:8080")


@pytest.mark.parametrize(
    "value", ["*", "null", "viewer.example", VIEWER + "/", "https://*.example", "https://a@b"]
)
def test_what_is_no_origin_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^--cors-origins is not usable: "):
        settings_from(["--cors-origins", value], {})

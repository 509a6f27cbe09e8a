"""API keys: several at once, read again on change, refusals before the upload, safe addresses."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import httpx
import pytest

from service.errors import MissingKey, WrongKey
from service.http.keys import ApiKeys, KeyFileError, read_hashes
from service.settings import Settings, SettingsError, require_safe_address
from tests.service.fake_model import form, make_app, running

pytestmark = pytest.mark.anyio


def write_keys(path: Path, *keys: str) -> Path:
    lines = ["# keys", "", *(hashlib.sha256(key.encode()).hexdigest() for key in keys)]
    replacement = path.with_suffix(".new")
    replacement.write_text("\n".join(lines) + "\n")
    os.replace(replacement, path)
    return path


def test_keys_change_while_the_service_runs(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys", "old", "other")
    keys = ApiKeys(path)
    keys.require({"authorization": "Bearer old"})
    keys.require({"x-api-key": "other"})
    write_keys(path, "new", "other")
    keys.require({"authorization": "bearer new"})
    with pytest.raises(WrongKey) as caught:
        keys.require({"authorization": "Bearer old"})
    assert "old" not in caught.value.detail
    path.write_text("broken")
    keys.require({"x-api-key": "new"})
    path.unlink()
    keys.require({"x-api-key": "new"})


def test_no_key_is_another_refusal(tmp_path: Path) -> None:
    keys = ApiKeys(write_keys(tmp_path / "keys", "a"))
    for headers in ({}, {"authorization": "Basic a"}, {"authorization": "Bearer "}):
        with pytest.raises(MissingKey):
            keys.require(headers)


@pytest.mark.parametrize("text", ["", "# none\n", "secret\n", "A" * 64, "0" * 63, "é"])
def test_a_file_that_cannot_be_used_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(KeyFileError):
        read_hashes(path)
    with pytest.raises(KeyFileError):
        read_hashes(tmp_path / "absent")


async def test_the_routes_that_give_masks_ask_and_the_probes_do_not(tmp_path: Path) -> None:
    app = make_app(api_keys_file=write_keys(tmp_path / "keys", "good"))
    async with running(app) as client:
        missing = await client.post("/segment", **form())
        wrong = await client.post("/segment", **form(), headers={"X-API-Key": "bad-DOE"})
        right = await client.post("/segment", **form(), headers={"X-API-Key": "good"})
        card = await client.get("/v1/model")
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/metrics")).status_code == 200
    assert (missing.status_code, missing.json()["code"]) == (401, "missing_key")
    assert missing.headers["www-authenticate"] == "Bearer"
    assert (wrong.status_code, wrong.json()["code"]) == (403, "wrong_key")
    assert "DOE" not in wrong.text
    assert (right.status_code, card.status_code) == (200, 401)


def test_a_public_address_needs_keys_or_a_word(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        require_safe_address(Settings(host=host))
    for host in ("0.0.0.0", "::", "192.168.0.5", "lungs.example"):
        with pytest.raises(SettingsError, match="--api-keys-file"):
            require_safe_address(Settings(host=host))
        require_safe_address(Settings(host=host, allow_anyone=True))
        require_safe_address(Settings(host=host, api_keys_file=tmp_path / "keys"))


async def test_too_many_headers_are_refused() -> None:
    headers = {f"X-Filler-{number}": "x" for number in range(120)}
    async with running(make_app()) as client:
        refused = await client.get("/livez", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (431, "headers_too_large")


async def test_an_upload_that_stops_is_cut() -> None:
    async def stopping() -> object:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        await asyncio.sleep(20)
        yield b"--b--"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    app = make_app(upload_idle_timeout_s=0.1)
    sent = []
    body = stopping()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": await anext(body), "more_body": True}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async with running(app) as client:
        scope = {
            "type": "http", "method": "POST", "path": "/segment", "raw_path": b"/segment",
            "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
            "headers": httpx.Headers(headers).raw, "server": ("test", 80),
            "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
        }  # fmt: skip
        scope["headers"] = [(name.lower(), value) for name, value in scope["headers"]]
        async with asyncio.timeout(5):
            await app(scope, receive, send)
        assert (await client.post("/segment", **form())).status_code == 200
    assert sent[0]["status"] == 408
    assert app.state.service.admission._upload_bytes == 0


async def test_every_answer_has_the_headers_of_safety() -> None:
    async with running(make_app()) as client:
        answer = await client.get("/docs")
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]

"""API keys: several at once, read again on change, refusals before the upload, safe addresses."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import (
    ExpiredKey,
    InsufficientScope,
    MissingKey,
    TooManyAttempts,
    WrongKey,
)
from service.http.key_file import KeyFileError, KeyScope, read_key_file, require_a_key
from service.http.keys import ApiKeys
from service.settings import Settings, SettingsError
from service.settings_checks import require_safe_address
from tests.service.fake_model import form, make_app, running, sample

pytestmark = pytest.mark.anyio
GOOD = {"X-API-Key": "good"}


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
        require_a_key(path)
    with pytest.raises(KeyFileError):
        require_a_key(tmp_path / "absent")


class Clock:
    """Seconds that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def line(key: str, *words: str) -> str:
    return " ".join([hashlib.sha256(key.encode()).hexdigest(), *words])


@pytest.mark.parametrize("empty", ["", "# all keys withdrawn\n", None])
def test_an_emptied_or_deleted_file_admits_nobody_a_second_later(
    empty: str | None, tmp_path: Path
) -> None:
    path, clock = write_keys(tmp_path / "keys", "intruder"), Clock()
    keys = ApiKeys(path, clock=clock)
    keys.require({"x-api-key": "intruder"})
    if empty is None:
        path.unlink()
    else:
        path.write_text(empty)
    keys.require({"x-api-key": "intruder"})  # it may be half written
    clock.now_s += 0.9
    keys.require({"x-api-key": "intruder"})
    clock.now_s += 0.2
    with pytest.raises(WrongKey):
        keys.require({"x-api-key": "intruder"})
    assert (keys.valid_keys, keys.file_problems) == (0, 1)
    write_keys(path, "new")
    keys.require({"x-api-key": "new"})
    assert (keys.valid_keys, keys.file_problems) == (1, 0)


def test_a_file_that_is_empty_for_a_moment_locks_nobody_out(tmp_path: Path) -> None:
    path, clock = write_keys(tmp_path / "keys", "good"), Clock()
    keys = ApiKeys(path, clock=clock)
    for _ in range(3):
        path.write_text("")
        keys.require({"x-api-key": "good"})
        clock.now_s += 0.5
        path.write_text(line("good"))
        keys.require({"x-api-key": "good"})
        clock.now_s += 5
        keys.require({"x-api-key": "good"})


def test_a_bad_line_is_ignored_and_counted_and_never_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_keys(tmp_path / "keys", "old")
    keys = ApiKeys(path)
    path.write_text(f"{line('new')}\nSECRET\n{line('x', 'colour=red')}\n\xe9\n", "latin-1")
    keys.require({"x-api-key": "new"})
    with pytest.raises(WrongKey):
        keys.require({"x-api-key": "old"})
    assert keys.file_problems == 3
    said = " ".join(str(getattr(record, "fields", "")) for record in caplog.records)
    assert "Line 2 of the file" in said and "Line 3" in said
    assert "SECRET" not in said + caplog.text


def test_a_file_that_cannot_be_read_changes_nothing_until_it_can(tmp_path: Path) -> None:
    path, clock = write_keys(tmp_path / "keys", "good"), Clock()
    keys = ApiKeys(path, clock=clock)
    path.unlink()
    path.mkdir()
    for _ in range(3):
        keys.require({"x-api-key": "good"})
        clock.now_s += 2
    assert keys.file_problems == 1
    path.rmdir()
    write_keys(path, "other")
    with pytest.raises(WrongKey):
        keys.require({"x-api-key": "good"})
    assert keys.file_problems == 0


def test_a_key_ends_at_its_date_and_says_so_before(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    path = tmp_path / "keys"
    path.write_text(
        "\n".join(
            [
                line("ended", f"expires={(now - timedelta(days=1)).date()}"),
                line("today", f"expires={now.date()}"),
                line("soon", f"expires={(now + timedelta(days=13)).isoformat()}"),
                line("later", f"expires={(now + timedelta(days=15)).isoformat()}"),
                line("moment", f"expires={(now - timedelta(seconds=1)).isoformat()}"),
            ]
        )
    )
    keys = ApiKeys(path)
    for key in ("today", "soon", "later"):
        keys.require({"x-api-key": key})
    for key in ("ended", "moment"):
        with pytest.raises(ExpiredKey):
            keys.require({"x-api-key": key})
    assert (keys.valid_keys, keys.keys_expiring_soon) == (3, 2)


def test_a_key_is_good_for_its_scopes_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(
        f"{line('bare')}\n{line('all', 'scopes=segment,metrics,admin', 'name=chief')}\n"
        f"{line('monitor', 'scopes=metrics')}\n"
    )
    keys = ApiKeys(path)
    allowed = {"bare": {"segment", "metrics"}, "monitor": {"metrics"}}
    allowed["all"] = {"segment", "metrics", "admin"}
    for key, scopes in allowed.items():
        for scope in KeyScope:
            if scope.value in scopes:
                keys.require({"x-api-key": key}, scope)
            else:
                with pytest.raises(InsufficientScope):
                    keys.require({"x-api-key": key}, scope)
    assert keys.require({"x-api-key": "all"}).name == "chief"
    assert keys.require({"x-api-key": "bare"}).name.startswith("key-")


@pytest.mark.parametrize(
    "words",
    ["name=", "name=a/b", "scopes=", "scopes=segment,root", "expires=soon", "expires=2027-02-30",
     "name=a name=b", "admin", "name=é"],
)  # fmt: skip
def test_a_line_with_a_wrong_word_admits_nobody(words: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(line("key", words), encoding="utf-8")
    content = read_key_file(path)
    assert content.keys == () and len(content.problems) == 1


def test_an_address_that_guesses_has_to_wait_and_nobody_else_has(tmp_path: Path) -> None:
    clock = Clock()
    keys = ApiKeys(write_keys(tmp_path / "keys", "good", "second"), 5, clock)
    keys.require({"x-api-key": "good"}, address="10.0.0.1")
    for number in range(5):
        with pytest.raises(WrongKey):
            keys.require({"x-api-key": f"guess {number}"}, address="10.0.0.1")
    for key in ("guess", "second"):  # a right guess is not told from a wrong one
        with pytest.raises(TooManyAttempts) as caught:
            keys.require({"x-api-key": key}, address="10.0.0.1")
    assert caught.value.retry_after_s == 12
    keys.require({"x-api-key": "good"}, address="10.0.0.1")  # known at this address
    keys.require({"x-api-key": "second"}, address="10.0.0.2")
    clock.now_s += 12
    keys.require({"x-api-key": "second"}, address="10.0.0.1")


def test_half_of_an_ipv6_address_is_one_caller(tmp_path: Path) -> None:
    keys = ApiKeys(write_keys(tmp_path / "keys", "good"), 3, Clock())
    for number in range(3):
        with pytest.raises(WrongKey):
            keys.require({"x-api-key": "guess"}, address=f"fd00::{number}")
    with pytest.raises(TooManyAttempts):
        keys.require({"x-api-key": "guess"}, address="fd00::77")
    with pytest.raises(WrongKey):
        keys.require({"x-api-key": "guess"}, address="fd00:0:0:1::77")


async def test_guesses_over_http_are_limited_counted_and_the_log_names_the_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(line("good", "name=ct-room"))
    app = make_app(api_keys_file=path, failed_keys_per_minute=3)
    caplog.set_level("INFO", "service")
    async with running(app) as client:
        assert (await client.post("/segment", **form(), headers=GOOD)).status_code == 200
        codes = []
        for number in range(5):
            headers = {"X-API-Key": f"guess {number}"}
            refused = await client.post("/segment", **form(), headers=headers)
            codes.append((refused.status_code, refused.json()["code"]))
        assert codes == [(403, "wrong_key")] * 3 + [(429, "too_many_attempts")] * 2
        assert int(refused.headers["retry-after"]) > 0
        assert (await client.post("/segment", **form(), headers=GOOD)).status_code == 200
        assert sample(app, "lungseg_key_attempts_failed_total") == 3
    lines = [getattr(record, "fields", {}) for record in caplog.records]
    assert [one.get("key") for one in lines if one.get("status") == 200] == ["ct-room"] * 2


async def test_metrics_ask_for_a_key_when_the_operator_says_so(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{line('monitor', 'scopes=metrics')}\n{line('good', 'scopes=segment')}\n")
    async with running(make_app(api_keys_file=path, metrics_key=True)) as client:
        statuses = [
            (await client.get("/metrics", headers=headers)).status_code
            for headers in ({}, GOOD, {"Authorization": "Bearer monitor"})
        ]
        described = (await client.get("/openapi.json")).json()["paths"]["/metrics"]["get"]
        refused = await client.post("/segment", **form(), headers={"X-API-Key": "monitor"})
    assert statuses == [401, 403, 200]
    assert described["security"]
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")


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
    async def stopping() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        await asyncio.sleep(20)
        yield b"--b--"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    app = make_app(upload_idle_timeout_s=0.5)
    sent = []
    body = stopping()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(body), "more_body": True}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async with running(app) as client:
        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": "/segment", "raw_path": b"/segment",
            "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
            "headers": httpx.Headers(headers).raw, "server": ("test", 80),
            "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
        }  # fmt: skip
        scope["headers"] = [(name.lower(), value) for name, value in scope["headers"]]
        async with asyncio.timeout(15):
            await app(scope, receive, send)
        assert (await client.post("/segment", **form())).status_code == 200
    assert sent[0]["status"] == 408
    assert app.state.service.admission.uploads.held_bytes == 0


async def test_every_answer_has_the_headers_of_safety() -> None:
    async with running(make_app()) as client:
        answer = await client.get("/docs")
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]

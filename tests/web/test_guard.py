"""Who may see the page, what a browser may do with it, and what is refused."""

import json
import re
import socket
import subprocess
import sys
import time

import httpx
import pytest

from kythera import errors
from kythera.runs.store import Store
from kythera.runs.study import Study
from kythera.web import app, guard

from . import stores
from .clients import Client

TOKEN = "0123456789abcdef-token"
OWN = {"x-kythera": "1"}
ALL = "/", "/api/studies", "/studies/1", "/static/main.js", "/nothing", "/api/nothing"


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.0.0.1:8765", "[::1]:1", "LOCALHOST:80"]
)
def test_names_of_this_machine_are_answered(client, host):
    assert client.get("/api/studies", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.nip.io"]
    + ["10.0.0.1", "", "[::2]", "evil@localhost", "localhost:80.evil.example"],
)
def test_a_name_of_elsewhere_is_refused(client, host):
    for path in ALL:
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 403
        assert "localhost" in answer.text


def test_a_caller_of_elsewhere_is_refused_whatever_name_it_gives(store):
    client = Client(store)
    for header in ("x-forwarded-for", "forwarded"):
        answer = client.get("/api/studies", headers={header: "127.0.0.1"})
        assert answer.status_code == 403
        assert header in answer.text
    client.caller = "203.0.113.5"
    for path in ALL:
        answer = client.get(path)
        assert answer.status_code == 403
        assert "203.0.113.5" in answer.text
    client = Client(store, token=TOKEN)
    client.caller = "203.0.113.5"
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/api/studies", headers=bearer).status_code == 200


def test_with_a_token_any_name_is_answered(store):
    client = Client(store, token=TOKEN, base="http://hub.example/")
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/api/studies", headers=bearer).status_code == 200


def test_without_the_token_nothing_of_a_study_is_seen(studied):
    client = Client(studied, token=TOKEN)
    for path in ("/", "/studies/1", "/studies/9", "/compare", "/nothing"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert "first" not in re.sub("<[^>]*>", "", answer.text)
        assert 'name="token"' in answer.text
    for path in ("/api/studies", "/api/studies/1/runs/1", "/api/nothing"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"][:9]) == (401, "This page")
    for wrong in (
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer \xe9".encode("latin-1")},
        {"cookie": f"kythera={TOKEN}"},
    ):
        assert client.get("/api/studies", headers=wrong).status_code == 401
    assert client.get(f"/api/studies?token={TOKEN}").status_code == 401


@pytest.mark.parametrize("how", ["address", "form"])
def test_the_token_is_asked_once(studied, how):
    client = Client(studied, token=TOKEN)
    if how == "address":
        answer = client.get(f"/?token={TOKEN}")
    else:
        answer = client.request("POST", "/login", data={"token": f" {TOKEN} "})
    assert answer.status_code == 200
    assert answer.headers["refresh"] == "0; url=./"
    assert TOKEN not in answer.text
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path" not in cookie  # valid below a proxy's prefix alone
    assert TOKEN not in cookie
    assert client.get("/api/studies").status_code == 200
    other = Client(studied, token="another-token-of-length")
    other.cookies = client.cookies
    assert other.get("/api/studies").status_code == 401
    wrong = Client(studied, token=TOKEN)
    assert wrong.get("/?token=wrong").status_code == 401
    assert not wrong.cookies


def test_the_cookie_is_secure_where_the_proxy_is(studied):
    client = Client(studied, token=TOKEN, base="https://hub.example/")
    assert "Secure" in client.get(f"/?token={TOKEN}").headers["set-cookie"]


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "with a blank in it....", "é" * 20]
)
def test_a_token_that_can_be_guessed_is_refused(store, token):
    with pytest.raises(
        errors.InputError, match="A token must have 16 to 200"
    ) as raised:
        app.make_app(store, token=token)
    assert not token or token not in str(raised.value)


def test_the_token_is_compared_in_constant_time(studied, monkeypatch):
    compared = []

    def digest(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(guard.hmac, "compare_digest", digest)
    client = Client(studied, token=TOKEN)
    client.get("/api/studies", headers={"authorization": "Bearer x"})
    assert (b"x", TOKEN.encode()) in compared


@pytest.mark.parametrize("token", [None, TOKEN])
def test_headers_of_every_answer(studied, token):
    client = Client(studied, token=token)
    refused = {"host": "evil.example"} if token is None else {}
    for path in ALL:
        for headers in ({}, refused):
            answer = client.get(path, headers=headers)
            for name, value in guard.HEADERS.items():
                assert answer.headers[name] == value
    assert "unsafe" not in guard.POLICY
    assert "http" not in guard.POLICY


def test_pages_fetch_nothing_from_elsewhere(studied, client):
    for path in ("/", "/studies/1", "/compare", "/studies/9"):
        text = client.get(path).text
        addresses = re.findall(r'(?:src|href|action)="([^"]*)"', text)
        assert addresses
        assert all(re.match(r"\.{1,2}/|#", a) for a in addresses), addresses
        assert " style=" not in text
        assert "<script>" not in text
        assert not re.search(r"\son\w+=", text)


def test_requests_are_small(store):
    client = Client(store, read_only=False)
    for options in (
        {"content": b"x" * (guard.MOST_BYTES + 1)},
        {"headers": {"content-length": "-1"}},
        {"headers": {"transfer-encoding": "chunked"}},
    ):
        answer = client.request("POST", "/api/studies/1/shares", **options)
        assert answer.status_code == 413


def test_a_page_that_only_reads_changes_nothing(studied, client):
    for method, path in (("DELETE", ""), ("POST", "/shares")):
        answer = client.request(
            method, f"/api/studies/1{path}", json={"name": "first"}, headers=OWN
        )
        assert answer.status_code == 403
        assert "--write" in answer.json()["error"]
    assert Study.list(studied)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-kythera": "0"},
        OWN | {"origin": "http://evil.example"},
        OWN | {"origin": "null"},
        OWN | {"origin": "http://localhost:9999"},
        OWN | {"sec-fetch-site": "cross-site"},
        OWN | {"sec-fetch-site": "same-site"},
        OWN | {"sec-fetch-site": "none"},
    ],
)
def test_another_site_changes_nothing(studied, headers):
    client = Client(studied, read_only=False)
    for method, path, name in (("DELETE", "", "first"), ("POST", "/shares", "eve")):
        answer = client.request(
            method, f"/api/studies/1{path}", json={"name": name}, headers=headers
        )
        assert answer.status_code == 403
    assert len(Study.list(studied)) == 1


def test_a_study_is_deleted_by_its_name(studied, toy_result):
    client = Client(studied, read_only=False)
    origin = OWN | {"origin": "http://localhost:8765"}

    def delete(number: int, name: str):
        content = {"json": {"name": name}, "headers": origin}
        return client.request("DELETE", f"/api/studies/{number}", **content)

    for name in ("First", "", "second"):
        assert delete(1, name).status_code == 409
    assert delete(1, "x" * 201).status_code == 422
    assert delete(7, "first").status_code == 404
    busy = stores.begin(studied, "busy", toy_result)
    with busy.begin():
        assert "is running" in delete(busy.id, "busy").json()["error"]
    assert delete(1, "first").status_code == 200
    assert [study.name for study in Study.list(studied)] == ["busy"]


def test_a_study_is_shared_by_its_owner_alone(studied, tmp_path):
    ada = Client(studied, read_only=False)
    bobs = Store(tmp_path / "runs.db", user="bob")
    bob = Client(bobs, read_only=False)
    share = {"json": {"name": "bob"}, "headers": OWN}
    assert bob.request("POST", "/api/studies/1/shares", **share).status_code == 404
    assert ada.request("POST", "/api/studies/1/shares", **share).status_code == 200
    assert bob.json("/api/studies/1/runs/1")["mine"] is False
    for method, path in (("DELETE", ""), ("POST", "/shares")):
        content = {"json": {"name": "first"}, "headers": OWN}
        answer = bob.request(method, f"/api/studies/1{path}", **content)
        assert answer.status_code == 403
        assert "may only read it" in answer.json()["error"]
    nobody = {"json": {"name": "\x07"}, "headers": OWN}
    assert ada.request("POST", "/api/studies/1/shares", **nobody).status_code == 400
    bobs.close()


@pytest.mark.parametrize("path", ["/", "/jupyter/proxy/1/"])
def test_any_prefix_of_a_proxy(studied, path):
    """One that leaves its prefix in the address, and one that takes it away."""
    client = Client(studied, root_path="/jupyter/proxy/1")
    for page, home in (("", "./"), ("studies/1", "../"), ("no/such/page", "../../")):
        text = client.get(path + page).text
        assert f'href="{home}static/page.css"' in text
    assert client.json(f"{path}api/studies")["studies"]


def test_beyond_this_machine_a_token_is_needed(store):
    for host in ("0.0.0.0", "::", "192.0.2.1", "machine.example"):
        with pytest.raises(errors.InputError, match="Without a token the page is for"):
            app.serve(store, host=host)


def test_an_address_that_is_not_to_be_had(store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.InputError, match="cannot listen at .* --port"):
            app.serve(store, port=port)
    with pytest.raises(errors.InputError, match="cannot listen"):
        app.serve(store, host="no such host.invalid", port=0, token=TOKEN)
    for port in (-1, 65536):
        with pytest.raises(errors.InputError, match="from 0 to 65535, but is"):
            app.serve(store, port=port)


def test_a_store_that_is_not_there(tmp_path):
    with pytest.raises(errors.StoreError, match="no store at"):
        app.serve(tmp_path / "nothing.db")
    assert not list(tmp_path.iterdir())


def test_the_command_serves(studied, tmp_path):
    """With a token, on all addresses, until it is interrupted."""
    command = [sys.executable, "-m", "kythera.cli", "serve", "--user", "ada"]
    options = ["--host", "0.0.0.0", "--port", "0", "--token", TOKEN]
    options += ["--store", str(tmp_path / "runs.db")]
    process = subprocess.Popen(
        command + options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert "read-only" in lines[0]
        port = re.findall(r":(\d+)/", lines[1])[0]
        assert TOKEN not in "".join(lines)
        answer = httpx.get(
            f"http://127.0.0.1:{port}/api/studies",
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=30,
        )
        assert json.loads(answer.text)["studies"][0]["name"] == "first"
        assert "server" not in answer.headers
    finally:
        process.terminate()
        began = time.monotonic()
        _, told = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert "Traceback" not in told

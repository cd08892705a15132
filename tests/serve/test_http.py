"""What a client sees: routes, errors in JSON, limits of bodies, who may ask, what is logged."""

import asyncio
import builtins
import gzip
import io
import json
import logging
import os

import pytest
from servers import PAGE, raw, serve_stubs, until, until_answered

pytest.importorskip("fastapi")

from vitrail.errors import UsageError
from vitrail.serve.guard import access_line
from vitrail.serve.settings import check_token, is_loopback, listen

POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
TOKEN = "0123456789abcdef"


def test_every_route_answers_and_every_error_is_json():
    async def test(server, client):
        page = await client.get("/")
        assert page.content == PAGE
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert (await client.get("/live")).json() == {"status": "live"}
        head = await client.head("/live")
        assert (head.status_code, head.content) == (200, b"")
        assert (await client.head("/predict")).status_code == 405
        assert (await client.get("/ready")).json() == {"status": "ready", "models": ["one", "two"], "notes": []}
        assert [row["name"] for row in (await client.get("/models")).json()["models"]] == ["one", "two"]
        described = (await client.get("/openapi.json")).json()
        assert {"/predict", "/attention", "/models", "/live", "/ready", "/metrics", "/"} <= described["paths"].keys()
        assert "examples" in json.dumps(described["paths"]["/predict"])
        for path, method, status in (
            ("/nothing", "GET", 404), ("/predict", "GET", 405), ("/../../etc/x", "GET", 404), ("/docs", "GET", 404),
            ("/%2e%2e/%2e%2e/x", "GET", 404), ("/predict?top=0", "POST", 422), ("/predict?score=nan", "POST", 422),
            ("/attention?map=nonsense", "POST", 422), ("/predict?model=three", "POST", 404),
            ("/models", "POST", 405), ("/models/one", "DELETE", 404), ("/", "PUT", 405), ("/admin", "GET", 404),
        ):  # fmt: skip
            answer = await client.request(method, path, content=b"x" if method == "POST" else None)
            assert answer.status_code == status, path
            assert answer.json()["error"], path
        assert (await client.post("/predict", content=b"500")).status_code == 500
        metrics = (await client.get("/metrics")).text
        for name in ("vitrail_stage_seconds", "vitrail_queue_length", "vitrail_requests_total", "vitrail_body_bytes"):
            assert name in metrics
        assert 'route="other"' in metrics

    serve_stubs(test)


def test_names_of_models_are_looked_up_and_never_paths(monkeypatch):
    """And nothing is opened because of them."""
    opened = []
    names = ["../one", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "one%00", "%2e%2e", "o" * 4096, "one/../two", "%ff"]

    async def test(server, client):
        for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat"), (os, "listdir")):
            real = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *a, _real=real, **k: opened.append(a[0]) or _real(*a, **k))
        for name in names:
            answer = await client.post(f"/predict?model={name}", content=b"x")
            assert answer.status_code == 404, name
            assert "etc" not in answer.text
        monkeypatch.undo()
        assert [path for path in opened if not str(path).endswith(".py")] == []  # FastAPI reads the source of a route
        assert (await client.post("/predict?model=two", content=b"x")).status_code == 200

    serve_stubs(test)


def test_a_body_that_is_too_long_is_refused_by_counted_bytes():
    limit = 100_000

    async def test(server, client):
        def read():
            return server.guard.metrics.body_bytes._value.get()

        answer = await raw(client, POST + b"Content-Length: 11000000\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413")
        assert read() == 0  # by what it says
        before = read()
        piece = b"10000\r\n" + bytes(65536) + b"\r\n"
        answer = await raw(client, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[piece] * 40)
        assert answer.startswith(b"HTTP/1.1 413") or answer == b""  # a client that goes on sending may not see it
        assert read() - before <= limit + 3 * 65536
        # a length that lies: what is more than it says is no part of the request
        answer = await raw(client, POST + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc" + b"d" * 5000)
        assert answer.count(b"HTTP/1.1") in (1, 2)
        assert b'"bytes": 3' in answer
        assert (await client.post("/predict", content=b"x" * limit)).status_code == 200
        assert (await client.post("/predict", content=b"x" * (limit + 1))).status_code == 413
        assert server.guard.app.routes  # it still runs
        assert (await client.get("/live")).status_code == 200

    serve_stubs(test, limits={"body": limit})


def test_bodies_that_do_not_come_headers_that_do_not_end_and_answers_that_nobody_takes_are_closed():
    limits = {"body_timeout": 0.5, "header_timeout": 0.5, "write_timeout": 0.5, "keep_alive": 1.0}

    async def test(server, client):
        slow = [
            raw(client, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "),
            raw(client, b""),
            raw(client, b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\nGET /live HT"),
            raw(client, POST + b"Content-Length: 100\r\n\r\n", *[b"x"] * 4, pause=0.12),
            raw(
                client,
                b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n",
                b"x",
                b"y",
                pause=0.1,
            ),
        ]
        answers = await asyncio.wait_for(asyncio.gather(*slow), 20)
        assert answers[0] == answers[1] == b""
        assert answers[2].count(b"200 OK") == 1
        assert answers[3].startswith(b"HTTP/1.1 408") or answers[3] == b""
        assert answers[4].startswith(b"HTTP/1.1 404") or answers[4] == b""
        await until_answered(client)

    serve_stubs(test, limits=limits)


def test_an_answer_that_is_not_read_is_given_up():
    async def test(server, client):
        server.guard.app = large_answer
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port, limit=1024)
        writer.transport.pause_reading()
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: server.server_state.connections)
        await until(lambda: not server.server_state.connections)
        writer.transport.abort()

    async def large_answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(2**26)})

    serve_stubs(test, limits={"write_timeout": 0.3})


def test_there_are_only_so_many_connections_and_bytes_of_bodies():
    async def test(server, client):
        host, port = client.base_url.host, client.base_url.port
        kept = [await asyncio.open_connection(host, port) for _ in range(3)]
        await until(lambda: len(server.server_state.connections) == 3)
        answer = await raw(client)
        assert answer.startswith(b"HTTP/1.1 503")
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]
        for _, writer in kept:
            writer.close()
        await until(lambda: not server.server_state.connections)
        answers = await asyncio.gather(*(client.post("/predict", content=b"x" * 60_000) for _ in range(3)))
        assert {a.status_code for a in answers} <= {200, 503}
        assert server.guard.app is not None

    serve_stubs(test, limits={"connections": 3, "memory": 100_000})


def test_what_is_no_http_gets_400_in_json():
    async def test(server, client):
        for text in (
            b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nbroken header\r\n\r\n",
            POST + b"X: " + b"y" * 40_000 + b"\r\n\r\n", POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ):  # fmt: skip
            answer = await raw(client, text)
            assert answer.startswith(b"HTTP/1.1 400"), text[:30]
            assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]
        broken = POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
        answer = await raw(client, broken)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
        assert (await client.get("/live")).status_code == 200

    serve_stubs(test)


def test_a_token_is_asked_for_and_compared():
    async def test(server, client):
        for path in ("/", "/live", "/ready"):
            assert (await client.get(path, headers={"authorization": ""})).status_code == 200
        for given in (
            "",
            "Bearer",
            "Bearer wrong",
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            TOKEN,
        ):
            for method, path in (
                ("POST", "/predict"),
                ("GET", "/models"),
                ("GET", "/metrics"),
                ("GET", "/openapi.json"),
            ):
                answer = await client.request(method, path, headers={"authorization": given})
                assert answer.status_code == 401, (given, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert TOKEN not in answer.text
        assert (await client.post("/predict", content=b"x")).status_code == 200
        assert (await client.post("/predict", content=b"x", headers={"host": "models.example"})).status_code == 200

    serve_stubs(test, token=TOKEN)


def test_without_a_token_only_this_machine_and_no_other_site_may_ask():
    async def test(server, client):
        for headers, status in (
            ({"host": "evil.example"}, 403), ({"host": "127.0.0.1.evil.example:8000"}, 403),
            ({"host": "[::1]:8000"}, 200), ({"host": "127.0.0.2"}, 200), ({"host": "[fe80::1]"}, 403),
            ({"host": "192.168.0.7:8000"}, 403), ({"host": "["}, 200), ({"host": "localhost:9999"}, 200),
            ({"sec-fetch-site": "cross-site"}, 403), ({"sec-fetch-site": "same-origin"}, 200),
        ):  # fmt: skip
            assert (await client.post("/predict", content=b"x", headers=headers)).status_code == status, headers

    serve_stubs(test)


def test_an_address_that_others_reach_needs_a_token():
    with pytest.raises(UsageError, match="no token protects it"):
        check_token("0.0.0.0", "")
    for token in ("short", "with spaces in it and", "é" * 20, "a\nbcdefghijklmnopq"):
        with pytest.raises(UsageError, match="at least 16"):
            check_token("127.0.0.1", token)
    check_token("0.0.0.0", TOKEN)
    check_token("127.0.0.1", "")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    with pytest.raises(UsageError, match="no address"):
        is_loopback("no such host")


def test_a_port_that_is_in_use_is_named():
    with listen("127.0.0.1", 0) as sock, pytest.raises(UsageError, match="in use") as error:
        listen("127.0.0.1", sock.getsockname()[1])
    assert f"--port {sock.getsockname()[1] + 1}" in str(error.value) if sock.fileno() >= 0 else True


def test_nothing_of_a_request_but_its_path_is_logged_and_that_cannot_break_out_of_its_line(caplog):
    caplog.set_level(logging.INFO, "vitrail.serve")

    async def test(server, client):
        await client.post("/a%0aERROR%20b%1b%5b2Jc?secret=1", content=b"private", headers={"x-private": "2"})
        await client.post("/predict", files={"image": ("holiday\n\x1b[31m.jpg", b"private", "image/jpeg")})

    serve_stubs(test)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines[:2]] == [
        "POST /a\\nERROR b\\x1b[2Jc 404", "POST /predict 200"
    ]  # fmt: skip
    assert not any(piece in line for piece in ("secret", "private", "holiday", "\n", "\x1b") for line in lines)
    assert len(access_line({"method": "G" * 500, "path": "/" * 5000}, 200, 0.1)) < 300


def test_before_and_after_the_models_are_open(tmp_path):
    gate = tmp_path / "gate"

    async def test(server, client):
        assert (await client.get("/live")).status_code == 200
        assert (await client.get("/ready")).status_code == 503
        early = await client.post("/predict", content=b"x")
        assert early.status_code == 503
        assert early.headers["retry-after"]
        gate.touch()
        await until(lambda: server.pool.ready.is_set())
        ready = await client.get("/ready")
        assert ready.status_code == 200
        assert "/" not in ready.text.replace("\\/", "")

    serve_stubs(test, [f"open={gate}"], is_ready=False)


def test_a_model_whose_files_change_is_served_as_it_was_and_that_is_stated(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"new")

    async def test(server, client):
        for path in ("/ready", "/models"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert "have changed" in answer.json()["notes"][0]
            assert str(tmp_path) not in answer.text
        assert (await client.post("/predict", content=b"x")).status_code == 200

    serve_stubs(test, [f"file={file}"])


def test_gzip_is_counted_by_what_it_unpacks_to():
    """By the worker, which is a stub here: the front process sends both on, and counts the packed bytes."""

    async def test(server, client):
        packed = gzip.compress(bytes(10**6))
        answer = await client.post("/predict", content=packed, headers={"content-encoding": "gzip"})
        assert answer.json()["bytes"] == len(packed)

    serve_stubs(test)

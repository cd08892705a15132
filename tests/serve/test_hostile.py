"""Odd and hostile requests on a plain socket, quotas, pages of other sites, and what is held of bodies."""

import asyncio
import io
import json

import pytest
from servers import raw, serve_stubs

pytest.importorskip("fastapi")

from vitrail.serve.bodies import Bodies
from vitrail.serve.frames import pack_frame, read_frame
from vitrail.serve.guard import Quota
from vitrail.serve.metrics import Metrics
from vitrail.serve.pool import ClientGone
from vitrail.serve.refusal import Refused
from vitrail.serve.settings import Limits

END = b"Host: localhost\r\nConnection: close\r\n\r\n"
KEEP = b"Host: localhost\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
ALICE, BOB = "alice-0123456789", "bob-0123456789ab"


def statuses(answer):
    return [int(piece[:3]) for piece in answer.split(b"HTTP/1.1 ")[1:]]


ODD = [  # a request, the statuses of what comes back
    (b"OPTIONS /predict HTTP/1.1\r\n" + END, [405]),
    (b"OPTIONS * HTTP/1.1\r\n" + END, [404]),
    (b"TRACE / HTTP/1.1\r\n" + END, [405]),
    (b"CONNECT example.com:443 HTTP/1.1\r\n" + END, [404]),
    (b"GET http://169.254.169.254/latest HTTP/1.1\r\n" + END, [404]),
    (b"GET //example.com/ HTTP/1.1\r\n" + END, [404]),
    (b"POST /predict/ HTTP/1.1\r\n" + END, [404]),  # no redirect to the host that the client names
    (b"GET /live HTTP/1.0\r\n\r\n", [200]),  # without a Host
    (b"GET /live HTTP/1.1\r\n\r\n", [400]),
    (b"GET /live HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", [400]),
    (b"GET /live HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nHost: localhost\r\n\r\n", [200]),
    (b"GET /live HTTP/1.1\r\n" + KEEP + b"GET /nothing HTTP/1.1\r\n" + KEEP + b"HEAD /live HTTP/1.1\r\n" + END,
     [200, 404, 200]),
    (POST + b"Content-Length: 3\r\n\r\nabc", [200]),
    (POST + b"Content-Length: 0\r\n\r\n", [200]),
    (POST + b"Content-Length: -1\r\n\r\n", [400]),
    (POST + b"Content-Length: +3\r\n\r\nabc", [400]),
    (POST + b"Content-Length: 99999999999999999999999999\r\n\r\n", [400]),
    (POST + b"Content-Length: 3, 3\r\n\r\nabc", [200]),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n", [200]),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", [400]),
    (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n3\r\nabc\r\n0\r\n\r\n", [200]),
    (POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", [100, 200]),
    (POST + b"Expect: 100-continue\r\nContent-Length: 300000\r\n\r\n", [413]),  # before it is sent
    (POST + b"".join(b"X-%d: y\r\n" % i for i in range(9000)) + b"\r\n", [400]),
    (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + END, [400]),
    (b"GET /\xff\xfe HTTP/1.1\r\n" + END, [400]),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [404, 400]),
]  # fmt: skip


def test_odd_requests_have_one_answer_each_in_json():
    async def test(server, client):
        for request, expected in ODD:
            answer = await asyncio.wait_for(raw(client, request), 20)
            assert statuses(answer) == expected, (request[:60], answer[:300])
            assert b"\r\nlocation:" not in answer.lower()
            if expected[-1] >= 400:
                assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"], request[:60]
        allow = await raw(client, b"OPTIONS /predict HTTP/1.1\r\n" + END)
        assert b"allow: POST" in allow
        assert server.pool.admitted == server.guard.metrics.admitted._value.get() == 0

    serve_stubs(test, limits={"body": 100_000, "keep_alive": 1.0, "header_timeout": 1.0})


def test_a_page_of_another_site_is_refused_by_its_origin_too():
    async def test(server, client):
        for origin, status in (
            ("http://evil.example", 403), ("null", 403), ("https://127.0.0.1.evil.example", 403), ("evil", 403),
            ("http://localhost:5000", 200), ("http://127.0.0.1:8000", 200), ("http://[::1]:1", 200),
        ):  # fmt: skip
            answer = await client.post("/predict", content=b"x", headers={"origin": origin})
            assert answer.status_code == status, origin
            assert "access-control-allow-origin" not in answer.headers

    serve_stubs(test)


def test_a_quota_is_of_one_token_and_fills_up_again():
    now = [100.0]
    quota = Quota(2.5, lambda: now[0])
    for _ in range(2):
        quota.take()
    with pytest.raises(Refused, match=r"more than 2\.5 predictions") as error:
        quota.take()
    assert (error.value.status, error.value.retry) == (429, 1)
    now[0] += 0.2
    quota.take()
    now[0] += 1000.0  # no more than those of a second at once
    for _ in range(2):
        quota.take()
    with pytest.raises(Refused):
        quota.take()
    slow = Quota(0.1, lambda: now[0])
    slow.take()
    with pytest.raises(Refused) as error:
        slow.take()
    assert error.value.retry == 10
    for _ in range(10_000):
        Quota(0.0).take()


def test_who_asks_too_often_gets_429_and_others_do_not():
    async def test(server, client):
        async def ask(token, method="POST", path="/predict"):
            return await client.request(method, path, content=b"x", headers={"authorization": f"Bearer {token}"})

        assert (await ask(ALICE)).status_code == 200
        for path in ("/predict", "/attention"):
            refused = await ask(ALICE, path=path)
            assert refused.status_code == 429
            assert 900 <= int(refused.headers["retry-after"]) <= 1000
            assert "predictions a second" in refused.json()["error"]
        assert (await ask(BOB)).status_code == 200
        for token in ("x", ALICE + BOB, f"{ALICE},{BOB}", BOB[:-1]):
            assert (await ask(token)).status_code == 401
        metrics = await ask(ALICE, "GET", "/metrics")  # what is no prediction has no quota
        assert metrics.status_code == 200
        assert 'vitrail_refused_total{why="quota"} 2.0' in metrics.text

    serve_stubs(test, token=f"{ALICE},{BOB}", quota=0.001)


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b"abc", b"def"], 0), ([b"x" * 60, b"y" * 60], 413), ([b"x" * 50] * 2, 503), ([b"abc", None], 499), ([], 408),
    ],
)  # fmt: skip
def test_bytes_of_bodies_are_counted_as_long_as_they_are_here(pieces, status):
    """100 bytes each, 190 all together, of which 100 are somebody else's."""
    bodies = Bodies(Limits(body=100, memory=190, body_timeout=0.05), Metrics())
    bodies.held = 100
    messages = [{"type": "http.request", "body": p, "more_body": p != pieces[-1] or i < len(pieces) - 1}
                if p is not None else {"type": "http.disconnect"} for i, p in enumerate(pieces)]  # fmt: skip

    async def receive():
        return messages.pop(0) if messages else await asyncio.sleep(100)

    async def read():
        async with bodies.read([], receive) as body:
            assert body == b"abcdef"
            assert bodies.held == 106

    try:
        asyncio.run(read())
        found = 0
    except Refused as error:
        found = error.status
    except ClientGone:
        found = 499
    assert found == status
    assert bodies.held == 100


def test_a_message_that_ends_in_the_middle_is_the_end():
    whole = pack_frame({"id": 1}, b"body")
    assert read_frame(io.BytesIO(whole)) == ({"id": 1}, b"body")
    for cut in range(len(whole)):
        assert read_frame(io.BytesIO(whole[:cut])) is None

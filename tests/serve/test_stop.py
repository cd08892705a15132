"""SIGTERM: nothing that is in flight is lost."""

import asyncio
import http.client
import os
import signal
import threading
import time

import pytest
from servers import PAGE, raw, serve_stubs, settings, until

pytest.importorskip("fastapi")

from vitrail.serve.run import serve


def test_sigterm_with_50_in_flight_loses_none():
    """In this process, with its real signal: the server ends with 0, and all 50 have their answers."""
    answers, unready, started = [], [], []

    def ask(address, method, path, body=None):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, text

    def post(address):
        answers.append(ask(address, "POST", "/predict", b"sleep 0.02")[0])

    def send(address):
        for thread in started:
            thread.start()
        while admitted(address) + len(answers) < 50:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        unready.append(ask(address, "GET", "/ready")[0])

    def admitted(address):
        return float(ask(address, "GET", "/metrics")[1].split(b"\nvitrail_in_flight ")[1].split()[0])

    def announce(models, address):
        started.extend(threading.Thread(target=post, args=(address,)) for _ in range(50))
        threading.Thread(target=send, args=(address,)).start()

    assert serve(settings(drain=1.0), PAGE, announce) == 0
    for thread in started:
        thread.join()
    assert answers == [200] * 50
    assert unready in ([503], [200])  # a signal may come a moment later


def test_what_stops_says_so_and_closes_its_connections(tmp_path):
    gate = tmp_path / "gate"

    async def test(server, client):
        slow = asyncio.create_task(client.post("/predict", content=b"until " + str(gate).encode()))
        await until(lambda: server.pool.admitted == 1)
        server.begin_stop(2.0)
        ready = await client.get("/ready")
        assert ready.status_code == 503
        assert ready.json() == {"status": "stopping"}
        assert ready.headers["connection"] == "close"
        late = asyncio.create_task(client.post("/predict", content=b"x"))  # it listens as long as it drains
        await until(lambda: server.pool.admitted == 2)
        gate.touch()
        assert (await late).status_code == 200
        assert (await slow).status_code == 200
        await until(lambda: not any(one.is_serving() for one in server.servers))
        assert await raw(client, b"") == b""

    serve_stubs(test)


def test_what_takes_longer_than_the_grace_is_given_up_with_503():
    async def test(server, client):
        slow = asyncio.create_task(client.post("/predict", content=b"sleep 5"))
        await until(lambda: server.pool.admitted == 1)
        server.begin_stop(0.0)
        assert (await slow).status_code == 503
        assert server.unanswered == 1

    serve_stubs(test, grace=0.3)

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

from vitrail.serve.run import serve, stop_on_hangup


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


@pytest.mark.parametrize(
    ("signals", "answered", "code"),
    [
        ((signal.SIGTERM, signal.SIGTERM), 200, 0), ((signal.SIGHUP,), 200, 0), ((signal.SIGINT,), 200, 0),
        ((signal.SIGTERM, signal.SIGINT), 503, 1), ((signal.SIGINT, signal.SIGINT), 503, 1),
    ],
)  # fmt: skip
def test_signals(signals, answered, code, tmp_path):
    """SIGTERM twice is as once, a terminal that is closed is SIGTERM, and Ctrl-C while it stops does not wait."""
    gate, answers, threads = tmp_path / "gate", [], []

    def ask(address):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.request("POST", "/predict", b"until " + str(gate).encode())
        answers.append(connection.getresponse().status)
        connection.close()

    def stop(address):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        while not answers and b"vitrail_in_flight 1.0" not in metrics(connection):
            time.sleep(0.02)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.2)  # two signals of a kind at once are one
        connection.close()
        if answered == 200:
            gate.touch()

    def metrics(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read()

    def announce(models, address):
        threads.extend(threading.Thread(target=one, args=(address,)) for one in (ask, stop))
        for thread in threads:
            thread.start()

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests were started with nohup
    try:
        assert serve(settings(), PAGE, announce) == code
    finally:
        signal.signal(signal.SIGHUP, before)
    for thread in threads:
        thread.join()
    assert answers == [answered]


def test_a_server_that_is_to_outlive_its_terminal_does(monkeypatch):
    class Server:
        """One that must not be asked to stop."""

    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    stop_on_hangup(Server())


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

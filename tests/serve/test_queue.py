"""The queue: exactly as many requests as there is room for, deadlines, clients that leave, workers that die."""

import asyncio

import pytest
from servers import raw, serve_stubs, settings, until, until_answered

pytest.importorskip("fastapi")

from vitrail.errors import CheckpointError, RunError
from vitrail.serve import pool
from vitrail.serve.run import build_server, run_server
from vitrail.serve.settings import listen


@pytest.fixture
def gate(tmp_path):
    """A file that does not exist: requests with the body `hold(gate)` are answered once it does."""
    return tmp_path / "gate"


def hold(gate):
    return b"until " + str(gate).encode()


def post(client, body, count):
    return [asyncio.create_task(client.post("/predict", content=body)) for _ in range(count)]


def test_exactly_as_many_are_refused_as_there_is_no_room_for(gate):
    """Queue 4, batches of 2, a worker with one batch in service, 12 requests: 6 are refused (the method of Triton)."""

    async def test(server, client):
        tasks = post(client, hold(gate), 2)
        await until(lambda: server.pool.admitted == 2)
        tasks += post(client, b"x", 10)
        await until(lambda: sum(task.done() for task in tasks) == 6)
        assert server.pool.admitted == 6
        gate.touch()
        answers = await asyncio.gather(*tasks)
        assert sorted(a.status_code for a in answers) == [200] * 6 + [503] * 6
        for refused in (a for a in answers if a.status_code == 503):
            assert int(refused.headers["retry-after"]) >= 1
            assert "waiting" in refused.json()["error"]
        assert server.pool.admitted == len(server.pool.queue) == 0
        assert (await client.post("/predict", content=b"x")).status_code == 200

    serve_stubs(test, ["batch=2"], {"queue": 4})


def test_a_full_queue_refuses_before_it_reads_a_body(gate):
    async def test(server, client):
        waiting = post(client, hold(gate), 2)
        await until(lambda: server.pool.admitted == 2)
        answer = await raw(client, b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"etry-after" in answer
        gate.touch()
        assert [a.status_code for a in await asyncio.gather(*waiting)] == [200, 200]

    serve_stubs(test, limits={"queue": 1})


def test_a_deadline_answers_504_and_frees_the_slot():
    async def test(server, client):
        answers = await asyncio.gather(*post(client, b"sleep 1", 3))
        assert [a.status_code for a in answers] == [504] * 3
        assert server.pool.admitted == len(server.pool.queue) == 0
        await until(lambda: not server.pool.workers[0].outstanding)  # the worker drops what is late
        await until_answered(client)

    serve_stubs(test, limits={"timeout": 0.5})


def test_a_deadline_that_the_worker_sees_first_is_the_same_answer():
    """Its own is empty: nobody waits for it, most of the time."""

    async def test(server, client):
        answer = await client.post("/predict", content=b"504")
        assert answer.status_code == 504
        assert "no answer within" in answer.json()["error"]
        assert answer.headers["retry-after"] == "1"

    serve_stubs(test)


def test_a_worker_that_speaks_nonsense_is_one_that_died():
    async def test(server, client):
        answer = await client.post("/predict", content=b"garbage")
        assert answer.status_code == 503
        assert "not tried again" in answer.json()["error"]
        await until_answered(client)

    serve_stubs(test)


def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch):
    real, refused = pool.start_worker, iter([OSError(12, "Cannot allocate memory")] * 2)

    async def start_worker(given):
        for error in refused:
            raise error
        return await real(given)

    monkeypatch.setattr(pool, "start_worker", start_worker)
    monkeypatch.setattr(pool, "RESTART_SECONDS", 0.0)

    async def test(server, client):
        assert (await client.post("/predict", content=b"x")).status_code == 200
        assert b"vitrail_worker_deaths_total 2.0" in (await client.get("/metrics")).content

    serve_stubs(test)
    refused = iter([OSError(12, "Cannot allocate memory")] * 9)
    with pytest.raises(RunError, match="5 workers ended within 60 s, the last with it cannot be started: cannot alloc"):
        end_of(settings())


def test_a_mistake_in_what_keeps_the_workers_ends_the_server(monkeypatch):
    async def start_worker(given):
        raise KeyError("ours")

    monkeypatch.setattr(pool, "start_worker", start_worker)
    with pytest.raises(RunError, match="cannot be kept: KeyError"):
        end_of(settings())


def test_a_client_that_leaves_frees_its_slot(gate):
    async def test(server, client):
        (busy,) = post(client, hold(gate), 1)
        await until(lambda: server.pool.admitted == 1)
        _, leaving = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        leaving.write(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        await until(lambda: server.pool.admitted == 2)
        leaving.transport.abort()
        await until(lambda: server.pool.admitted == 1)
        gate.touch()
        assert (await busy).status_code == 200

    serve_stubs(test)


def test_requests_are_batched_with_those_of_other_clients(gate):
    async def test(server, client):
        tasks = post(client, hold(gate), 1)
        await until(lambda: server.pool.admitted == 1)
        tasks += post(client, b"abc", 4)
        await until(lambda: server.pool.admitted == 5)
        gate.touch()
        assert max(a.json()["batch"] for a in await asyncio.gather(*tasks)) > 1
        assert b'vitrail_batch_size_bucket{le="1.0",model="one"}' in (await client.get("/metrics")).content

    serve_stubs(test, ["batch=4"])


def test_a_dead_worker_answers_at_once_and_another_one_takes_over(gate):
    """Its own requests get 503, and are not tried again; those that wait are answered by the next worker."""

    async def test(server, client):
        tasks = post(client, hold(gate), 1)
        await until(lambda: server.pool.admitted == 1)
        tasks += post(client, b"die", 1)
        await until(lambda: server.pool.admitted == 2 or tasks[0].done())
        others = await asyncio.gather(*post(client, b"x", 3))
        lost = await asyncio.gather(*tasks)
        assert [a.status_code for a in lost] == [503, 503]
        assert "not tried again" in lost[1].json()["error"]
        assert all(a.status_code == 200 or "not tried again" in a.text for a in others)
        await until_answered(client)
        assert b"vitrail_worker_deaths_total 1.0" in (await client.get("/metrics")).content

    serve_stubs(test)


def test_with_two_workers_the_death_of_one_is_no_loss_to_the_other(gate):
    async def test(server, client):
        await until(lambda: len(server.pool.workers) == 2)
        both = post(client, hold(gate), 2)
        await until(lambda: all(worker.outstanding for worker in server.pool.workers))
        killed = server.pool.workers[0]
        killed.kill()
        await until(lambda: killed not in server.pool.workers)
        others = post(client, b"x", 8)
        gate.touch()
        assert {a.status_code for a in await asyncio.gather(*others)} == {200}
        assert sorted(a.status_code for a in await asyncio.gather(*both)) == [200, 503]
        await until(lambda: len(server.pool.workers) == 2)

    serve_stubs(test, workers=2)


def test_a_worker_that_hangs_is_killed():
    async def test(server, client):
        assert (await client.post("/predict", content=b"hang")).status_code == 504
        hung = server.pool.workers[0]
        await until(lambda: server.pool.workers and hung not in server.pool.workers)
        await until_answered(client)

    serve_stubs(test, limits={"timeout": 0.3}, hang=0.5)


def end_of(given):
    """How a server of such settings ends by itself."""

    async def main():
        with listen(given.host, given.port) as sock:
            await asyncio.wait_for(run_server(build_server(given, b""), sock, lambda *_: None), 60)

    asyncio.run(main())


def test_models_that_cannot_be_opened_end_the_server_with_their_error():
    with pytest.raises(CheckpointError, match="there are no weights"):
        end_of(settings(["fails=1"]))


def test_a_worker_that_ends_while_it_opens_the_models_ends_the_server():
    with pytest.raises(RunError, match="while it opened the models"):
        end_of(settings(["breaks=1"]))


def test_a_worker_that_finds_another_model_is_not_mixed_with_the_others(tmp_path):
    """Two workers go on with one; the last one that is lost ends the server, with the reason."""
    version = tmp_path / "version"

    async def main():
        given = settings([f"version={version}"], workers=2)
        with listen(given.host, given.port) as sock:
            server = build_server(given, b"")
            task = asyncio.create_task(run_server(server, sock, lambda *_: None))
            await until(lambda: len(server.pool.workers) == 2)
            version.touch()
            for left in (1, 0):
                killed = server.pool.workers[0]
                killed.kill()
                await until(lambda one=killed: one not in server.pool.workers)
                await until(lambda count=left: len(server.pool.processes) == count)
                assert len(server.pool.workers) == left
            with pytest.raises(CheckpointError, match="has changed on the disk"):
                await asyncio.wait_for(task, 30)

    asyncio.run(main())


def test_five_deaths_within_a_minute_end_the_server():
    async def main():
        given = settings()
        with listen(given.host, given.port) as sock:
            server = build_server(given, b"")
            task = asyncio.create_task(run_server(server, sock, lambda *_: None))
            for _ in range(5):
                await until(lambda: server.pool.workers)
                killed = server.pool.workers[0]
                killed.kill()
                await until(lambda one=killed: one not in server.pool.workers)
            with pytest.raises(RunError, match="5 workers ended within 60 s, the last with signal 9"):
                await asyncio.wait_for(task, 30)

    asyncio.run(main())

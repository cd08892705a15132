"""The queue: exactly as many requests as there is room for, deadlines, clients that leave, workers that die."""

import asyncio

import pytest
from servers import raw, serve_stubs, settings, until

pytest.importorskip("fastapi")

from vitrail.errors import CheckpointError, RunError
from vitrail.serve.run import build_server, run_server
from vitrail.serve.settings import listen


def test_exactly_as_many_are_refused_as_there_is_no_room_for():
    """Queue 4, batches of 2, a worker with one batch in service, 12 requests: 6 are refused (the method of Triton)."""

    async def test(server, client):
        first = [asyncio.create_task(client.post("/predict", content=b"sleep 0.5")) for _ in range(2)]
        await until(lambda: server.pool.admitted == 2)
        others = await asyncio.gather(*(client.post("/predict", content=b"x") for _ in range(10)))
        answers = [*await asyncio.gather(*first), *others]
        assert sorted(a.status_code for a in answers) == [200] * 6 + [503] * 6
        for refused in (a for a in answers if a.status_code == 503):
            assert int(refused.headers["retry-after"]) >= 1
            assert "waiting" in refused.json()["error"]
        assert server.pool.admitted == len(server.pool.queue) == 0
        assert (await client.post("/predict", content=b"x")).status_code == 200

    serve_stubs(test, ["batch=2"], {"queue": 4})


def test_a_full_queue_refuses_before_it_reads_a_body():
    async def test(server, client):
        waiting = [asyncio.create_task(client.post("/predict", content=b"sleep 0.4")) for _ in range(2)]
        await until(lambda: server.pool.admitted == 2)
        answer = await raw(client, b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"etry-after" in answer
        assert [a.status_code for a in await asyncio.gather(*waiting)] == [200, 200]

    serve_stubs(test, limits={"queue": 1})


def test_a_deadline_answers_504_and_frees_the_slot():
    async def test(server, client):
        answers = await asyncio.gather(*(client.post("/predict", content=b"sleep 1") for _ in range(3)))
        assert [a.status_code for a in answers] == [504] * 3
        assert server.pool.admitted == len(server.pool.queue) == 0
        await until(lambda: not server.pool.workers[0].outstanding)  # the worker drops what is late
        assert (await client.post("/predict", content=b"x")).status_code == 200

    serve_stubs(test, limits={"timeout": 0.5})


def test_a_client_that_leaves_frees_its_slot():
    async def test(server, client):
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        busy = asyncio.create_task(client.post("/predict", content=b"sleep 0.5"))
        await until(lambda: server.pool.admitted == 1)
        _, leaving = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        leaving.write(head + b"sleep 9.0")
        await until(lambda: server.pool.admitted == 2)
        leaving.transport.abort()
        await until(lambda: server.pool.admitted == 1)
        assert (await busy).status_code == 200

    serve_stubs(test)


def test_requests_are_batched_with_those_of_other_clients():
    async def test(server, client):
        first = asyncio.create_task(client.post("/predict", content=b"sleep 0.3"))
        await until(lambda: server.pool.admitted == 1)
        rest = await asyncio.gather(*(client.post("/predict", content=b"abc") for _ in range(4)))
        await first
        assert max(a.json()["batch"] for a in rest) > 1
        assert b'vitrail_batch_size_bucket{le="1.0",model="one"}' in (await client.get("/metrics")).content

    serve_stubs(test, ["batch=4"])


def test_a_dead_worker_answers_at_once_and_another_one_takes_over():
    """Its own requests get 503, and are not tried again; those that wait are answered by the next worker."""

    async def test(server, client):
        fatal = asyncio.create_task(client.post("/predict", content=b"sleep 0.2"))
        await until(lambda: server.pool.admitted == 1)
        poison = asyncio.create_task(client.post("/predict", content=b"die"))
        await until(lambda: server.pool.admitted == 2)
        others = await asyncio.gather(*(client.post("/predict", content=b"x") for _ in range(3)))
        assert (await fatal).status_code == (await poison).status_code == 503
        assert "not tried again" in (await poison).json()["error"]
        assert [a.status_code for a in others] == [200] * 3
        assert b"vitrail_worker_deaths_total 1.0" in (await client.get("/metrics")).content

    serve_stubs(test)


def test_with_two_workers_the_death_of_one_is_no_loss_to_the_other():
    async def test(server, client):
        await until(lambda: len(server.pool.workers) == 2)
        both = [asyncio.create_task(client.post("/predict", content=b"sleep 0.3")) for _ in range(2)]
        await until(lambda: all(worker.outstanding for worker in server.pool.workers))
        killed = server.pool.workers[0]
        killed.kill()
        await until(lambda: killed not in server.pool.workers)
        answers = await asyncio.gather(*(client.post("/predict", content=b"x") for _ in range(8)))
        assert {a.status_code for a in answers} == {200}
        assert sorted(a.status_code for a in await asyncio.gather(*both)) == [200, 503]
        await until(lambda: len(server.pool.workers) == 2)

    serve_stubs(test, workers=2)


def test_a_worker_that_hangs_is_killed():
    async def test(server, client):
        assert (await client.post("/predict", content=b"hang")).status_code == 504
        hung = server.pool.workers[0]
        await until(lambda: server.pool.workers and hung not in server.pool.workers)
        assert (await client.post("/predict", content=b"x")).status_code == 200

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
        end_of(settings(["open=nonsense"]))


def test_five_deaths_within_a_minute_end_the_server():
    async def main():
        given = settings()
        with listen(given.host, given.port) as sock:
            server = build_server(given, b"")
            task = asyncio.create_task(run_server(server, sock, lambda *_: None))
            for _ in range(5):
                await until(lambda: server.pool.workers)
                server.pool.workers[0].kill()
                await until(lambda: not server.pool.workers)
            with pytest.raises(RunError, match="5 workers ended within 60 s, the last with signal 9"):
                await asyncio.wait_for(task, 30)

    asyncio.run(main())

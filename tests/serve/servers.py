"""Servers on loopback inside a test, with workers that hold no model."""

import asyncio
import contextlib
import dataclasses
import sys
from pathlib import Path

import httpx

from vitrail.serve.run import address_of, build_server, run_server
from vitrail.serve.settings import Limits, Settings, listen

STUB = str(Path(__file__).with_name("stub.py"))
MANY = httpx.Limits(max_connections=None)
PAGE = b"<!doctype html><title>page</title>"


def settings(stub=(), limits=None, **keys):
    """Settings of a server of stubs. stub: what they are started with, as in batch=2."""
    command = (sys.executable, "-S", STUB, *stub)
    return Settings(
        command=command, limits=Limits(**(limits or {})), **{"port": 0, "drain": 0.05, "grace": 10.0, **keys}
    )


@contextlib.asynccontextmanager
async def running(given, is_ready=True):
    """A server, and a client of it. At the end it is stopped, and its workers with it."""
    sock = listen(given.host, given.port)
    server = build_server(given, PAGE)
    task = asyncio.create_task(run_server(server, sock, lambda models, address: None))
    with sock:
        async with httpx.AsyncClient(base_url=address_of(sock), timeout=30, limits=MANY, verify=False) as client:
            if given.token:
                client.headers["authorization"] = f"Bearer {given.token}"
            try:
                if is_ready:
                    await asyncio.wait_for(server.pool.ready.wait(), 30)
                yield server, client
            finally:
                if not server.guard.is_draining:
                    server.begin_stop(0.0)
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(task, 30)


def serve_stubs(test, stub=(), limits=None, is_ready=True, **keys):
    """Runs `await test(server, client)` against a server of stubs."""

    async def main():
        async with running(settings(stub, limits, **keys), is_ready) as (server, client):
            await asyncio.wait_for(test(server, client), 60)

    asyncio.run(main())


async def until(condition, seconds=20.0):
    """Waits until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_answered(client, seconds=20.0):
    """Asks until there is an answer in time: how long one takes depends on what else the machine does."""
    async with asyncio.timeout(seconds):
        while (await client.post("/predict", content=b"x")).status_code != 200:
            await asyncio.sleep(0.01)


async def raw(client, *pieces, pause=0.0):
    """Sends bytes as they are; what comes back until the server closes."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        if writer is not None:
            writer.close()


def with_limits(given, **keys):
    return dataclasses.replace(given, limits=dataclasses.replace(given.limits, **keys))

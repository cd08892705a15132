"""Clients of `serve.py`, good and bad: HTTP/1.1 on plain sockets, so that they take little of the machine."""

import asyncio
import base64
import contextlib
import io
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from pathlib import Path

HOST = "127.0.0.1"
HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"


def make_model(folder, name, size):
    """A model of weights of chance. Returns the number of its parameters."""
    import torch

    from vitrail.assembly.model import assemble_model
    from vitrail.assembly.save import save_model
    from vitrail.recipe import Choice, InputConfig, Recipe

    torch.manual_seed(0)
    given = InputConfig(size=(size, size), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    recipe = Recipe(model=Choice(name, {}), task=Choice("classification"), input=given)
    bundle = assemble_model(recipe, tuple(f"class {i}" for i in range(10)))
    save_model(bundle, folder, None)
    return sum(p.numel() for p in bundle.model.parameters())


def jpeg(width, height, seed):
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).save(file, "JPEG")
    return file.getvalue()


class Connection:
    """One connection, kept as long as the server keeps it."""

    def __init__(self, port):
        self.port, self.streams = port, None

    async def ask(self, body, kind="image/jpeg", head=None):
        """Status (0: none came), seconds, and the body of the answer."""
        start, fresh = time.monotonic(), self.streams is None
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection(HOST, self.port)
            reader, writer = self.streams
            writer.write((head or HEAD.format(kind, len(body)).encode()) + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
            content = await reader.readexactly(int(headers.get(b"content-length", b"0")))
            if headers.get(b"connection") == b"close":
                self.close()
            return int(lines[0].split()[1]), time.monotonic() - start, content
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            if not fresh:  # the server had closed it meanwhile
                return await self.ask(body, kind, head)
            return 0, time.monotonic() - start, b""

    def close(self):
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def once(port, body, kind="image/png"):
    connection = Connection(port)
    found = await connection.ask(body, kind)
    connection.close()
    return found


async def together(port, body, count):
    found = await asyncio.gather(*(once(port, body) for _ in range(count)))
    return [(status, took) for status, took, _ in found]


async def closed_loop(port, body, clients, seconds):
    """Seconds of each good answer to clients that ask again as soon as they have one."""
    times, until = [], time.monotonic() + seconds

    async def go():
        connection = Connection(port)
        while time.monotonic() < until:
            status, took, _ = await connection.ask(body)
            if status == 200:
                times.append(took)
        connection.close()

    await asyncio.gather(*(go() for _ in range(clients)))
    return times


async def half_loop(port, body, clients, seconds):
    """(status, seconds) of requests of clients that rest as long as their last answer took: half of what the server can
    do, however much of the machine it gets just then."""
    found, until = [], time.monotonic() + seconds

    async def go():
        connection = Connection(port)
        while time.monotonic() < until:
            status, took, _ = await connection.ask(body)
            found.append((status, took))
            await asyncio.sleep(took)
        connection.close()

    await asyncio.gather(*(go() for _ in range(clients)))
    return found


async def count_loop(port, body, clients, count):
    """So many requests."""
    left = iter(range(count))

    async def go():
        connection = Connection(port)
        for _ in left:
            status, _, content = await connection.ask(body)
            assert status == 200, content
        connection.close()

    await asyncio.gather(*(go() for _ in range(clients)))


async def open_loop(port, body, pace, seconds, seed=0, spans=None):
    """(status, seconds) of requests at moments of chance, `pace` a second, whatever became of those before. spans: a
    list that gets (status, start, end) of each."""
    chance, free, found, tasks = random.Random(seed), [], [], []

    async def go():
        connection = free.pop() if free else Connection(port)
        status, took, _ = await connection.ask(body)
        found.append((status, took))
        if spans is not None:
            spans.append((status, time.monotonic() - took, time.monotonic()))
        free.append(connection)

    start, due = time.monotonic(), 0.0
    while due < seconds:
        due += chance.expovariate(pace)
        await asyncio.sleep(max(0.0, start + due - time.monotonic()))
        tasks.append(asyncio.create_task(go()))
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return found


def damaged(image, chance):
    """(content type, body) of one malformed request."""
    form = (
        b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + image + b"\r\n--xyz--\r\n"
    )
    seeds = [
        ("image/jpeg", image), ("multipart/form-data; boundary=xyz", form), ("multipart/form-data", form),
        ("application/json", json.dumps({"image": base64.b64encode(image).decode()}).encode()), ("image/png", b""),
        ("text/html", b"<!doctype html><html><body>" + image), ("application/json", b'{"image": "http://10.0.0.1/a"}'),
        ("image/gif", b"GIF89a" + image), ("application/x-www-form-urlencoded", b"image=" + base64.b64encode(image)),
    ]  # fmt: skip
    kind, body = chance.choice(seeds)
    body = bytearray(body)
    for _ in range(chance.randint(1, 12)):
        at = chance.randrange(len(body) + 1)
        body[at : at + chance.choice((0, 1, 3, 50, 5000))] = chance.randbytes(chance.randint(0, 4))
    if chance.random() < 0.3:
        del body[chance.randrange(len(body) + 1) :]
    return kind, bytes(body)


async def send_all(port, requests, good, clients):
    """The statuses of requests, the seconds of good ones meanwhile, and how many answers were not JSON."""
    statuses, times, left, plain = Counter(), [], iter(requests), 0

    async def go():
        nonlocal plain
        connection = Connection(port)
        for kind, body in left:
            status, _, content = await connection.ask(body, kind)
            statuses[status] += 1
            try:
                json.loads(content)
            except ValueError:
                plain += 1
        connection.close()

    async def watch():
        connection = Connection(port)
        while True:
            status, took, _ = await connection.ask(good)
            assert status == 200
            times.append(took)
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(go() for _ in range(clients)))
    watching.cancel()
    return statuses, times, plain


async def sort_out(port, bodies):
    """Those of (content type, body) that are refused as malformed."""
    return [row for row in bodies if (await once(port, row[1], row[0]))[0] in (400, 413, 415, 422)]


async def good_beside(port, good, bad, pace, seconds, every=0.25):
    """Seconds of good requests, one each `every` seconds, beside `pace` bad ones a second."""
    until, times = time.monotonic() + seconds, []

    async def ask_bad():
        connections, tasks, turn = [Connection(port) for _ in range(8)], [], 0
        while bad and time.monotonic() < until:
            kind, body = bad[turn % len(bad)]
            if len(tasks) >= 8:
                await tasks[turn - 8]
            tasks.append(asyncio.create_task(connections[turn % 8].ask(body, kind)))
            turn += 1
            await asyncio.sleep(1 / pace)
        await asyncio.gather(*tasks)
        for connection in connections:
            connection.close()

    flooding = asyncio.create_task(ask_bad())
    connection = Connection(port)
    while time.monotonic() < until:
        status, took, _ = await connection.ask(good)
        assert status == 200
        times.append(took)
        await asyncio.sleep(every)
    connection.close()
    await flooding
    return times


def bombs():
    """Small files of large images."""
    from PIL import Image

    found = {}
    sizes = {"PNG": (12_000, 12_000), "GIF": (12_000, 12_000), "TIFF": (12_000, 12_000), "WEBP": (16_000, 8_000)}
    for form, size in sizes.items():
        file = io.BytesIO()
        keys = {"compression": "tiff_deflate"} if form == "TIFF" else {"method": 0} if form == "WEBP" else {}
        Image.new("RGB" if form == "WEBP" else "L", size).save(file, form, **keys)
        found[form] = file.getvalue()
    for size in ((65_500, 1), (1, 65_500), (1, 1)):
        file = io.BytesIO()
        Image.new("L", size).save(file, "PNG")
        found[f"{size[0]} x {size[1]}"] = file.getvalue()
    return found


def is_open(sock):
    """Whether the server has not closed a connection."""
    try:
        return sock.recv(1000) != b""
    except BlockingIOError:
        return True


async def slow_clients(port, image, headers=500, bodies=200, readers=20):
    """500 that never end their headers, 200 that send a byte a second of a body, 20 that read nothing of a large page,
    and one that is good. Shares that were closed, and the longest seconds."""
    closed = {"headers": [], "bodies": [], "readers": []}
    asks = {
        "headers": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-", "bodies": HEAD.format("image/jpeg", 10**6).encode(),
        "readers": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    }  # fmt: skip

    async def go(kind):
        """One of them: closed by the server sooner or later, or kept for 40 s."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is not read does not lie in the kernel
        sock.setblocking(False)
        loop, begin = asyncio.get_running_loop(), time.monotonic()
        with sock, contextlib.suppress(OSError):
            await loop.sock_connect(sock, (HOST, port))
            await loop.sock_sendall(sock, asks[kind])
            while time.monotonic() - begin < 40:
                await asyncio.sleep(1)
                if kind == "readers":
                    open_now = not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                else:
                    await loop.sock_sendall(sock, b"x")
                    open_now = is_open(sock)
                if not open_now:
                    closed[kind].append(time.monotonic() - begin)
                    return
            return
        closed[kind].append(time.monotonic() - begin)

    stop = asyncio.Event()
    times = []

    async def good():
        connection = Connection(port)
        while not stop.is_set():
            status, took, _ = await connection.ask(image)
            assert status == 200
            times.append(took)
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(good())
    counts = {"headers": headers, "bodies": bodies, "readers": readers}
    await asyncio.gather(*(go(kind) for kind, count in counts.items() for _ in range(count)))
    stop.set()
    await watching
    figures = {}
    for kind, count in counts.items():
        figures[f"{kind} closed"], figures[f"{kind} longest"] = (
            len(closed[kind]) / count,
            max(closed[kind], default=0.0),
        )
    return figures, times


async def stop_with(server, image, count):
    """SIGTERM while so many are in flight: what they got, the status of /ready, seconds to the last answer."""
    tasks = [asyncio.create_task(once(server.port, image, "image/jpeg")) for _ in range(count)]
    await asyncio.sleep(0.3)
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    ready, _, _ = await Connection(server.port).ask(b"", head=b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
    found = await asyncio.gather(*tasks)
    return [(status, took) for status, took, _ in found], ready, time.monotonic() - start


async def kill_worker(server, image, busy):
    """Kills a worker: (status, seconds) of 20 requests, seconds to the first answer after it, and until it is
    back (of the clock, and of the processor)."""
    before = server.workers
    tasks = [asyncio.create_task(once(server.port, image, "image/jpeg")) for _ in range(20 if busy else 0)]
    await asyncio.sleep(0.1 if busy else 0.0)
    start = time.monotonic()
    os.kill(before[0], signal.SIGKILL)
    await asyncio.sleep(0.05)
    first = await once(server.port, image, "image/jpeg")
    answered = time.monotonic() - start if not busy else 0.0
    tasks += [asyncio.create_task(once(server.port, image, "image/jpeg")) for _ in range(0 if busy else 20)]
    found = [(status, took) for status, took, _ in [first, *await asyncio.gather(*tasks)]]
    if busy:
        answered = min((took for status, took in found if status == 503), default=0.0)
    while True:
        connection = Connection(server.port)
        text = (await connection.ask(b"", head=b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"))[2]
        connection.close()
        if b"\nvitrail_workers 2.0" in text and before[0] not in server.workers:
            (new,) = set(server.workers) - set(before)
            ticks = Path(f"/proc/{new}/stat").read_text().rpartition(")")[2].split()[11:13]
            processor = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
            return found, answered, (time.monotonic() - start, processor)
        await asyncio.sleep(0.1)

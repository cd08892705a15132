"""A server under load, overload, slow and hostile clients, and the end of its processes, on loopback.

    python benchmarks/serve.py [PART ...] [--seconds 10] [--bodies 10000] [--model vit/tiny] [--size 224] [--threads 1]
        [--workers 1]

Parts: load, overload, malformed, flood, bombs, slow, stop, death, memory; all by default; and soak (--minutes 10). The
model has weights of chance, and images are JPEGs of noise. Every part starts a server of its own in another process,
checks what it has to (a line that begins with FAILED, and exit 1), and prints its figures. Clients and server share the
machine, perhaps with others: what a time says of the server shows in `starved`, the seconds in which its threads were
ready and had no processor; what can be counted is counted. `serve_client.py` has the clients. Needs Linux (`/proc`).
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections import Counter
from pathlib import Path

import serve_client as client
from history import append

HERE = Path(__file__)
FAILED = []
PAGE = 8 * 2**20  # bytes: more than the buffers of a kernel take


def check(name, holds, text):
    print(f"  {'ok' if holds else 'FAILED'}: {name}: {text}")
    if not holds:
        FAILED.append(f"{name}: {text}")


class Server:
    """A front process, in a session of its own, and what it holds of the machine."""

    def __init__(self, options, **keys):
        settings = {"models": [["model", str(options.folder)]], "threads": options.threads, "port": 0}
        settings |= {"workers": options.workers, **keys}
        command = [sys.executable, str(HERE), "--front", json.dumps(settings)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().split()[-1]
        self.port = int(self.address.rpartition(":")[2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)
        self.process.stdout.close()

    @property
    def workers(self):
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def memory(self):
        """MB of the front process and its workers."""
        total = 0
        for pid in (self.process.pid, *self.workers):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                total += int(line.split()[1]) if line.startswith("VmRSS") else 0
        return total / 1024

    def starved(self):
        """Seconds in which a thread of the server could have run and had no processor, all threads together."""
        tasks = [t for pid in (self.process.pid, *self.workers) for t in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((t / "schedstat").read_text().split()[1]) for t in tasks) / 1e9

    def threads(self):
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in (self.process.pid, *self.workers))

    def files(self):
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (self.process.pid, *self.workers))


def front(text):
    """The front process of a server with such settings. The last word that it prints is its address."""
    from vitrail.serve.run import log_to_stderr, serve
    from vitrail.serve.settings import Limits, ModelSource, Settings

    given = json.loads(text)
    limits = Limits(**given.pop("limits", {}))
    models = tuple(ModelSource(*row) for row in given.pop("models"))
    if given.pop("leak", False):
        given["command"] = (sys.executable, str(HERE), "--leak")
    log_to_stderr(True)
    settings = Settings(models=models, limits=limits, **given)
    return serve(settings, bytes(PAGE), lambda models, address: print(address, flush=True))


def leak():
    """A worker that keeps a kilobyte of each request: what the part about memory has to find."""
    from vitrail.serve import worker

    kept, real = [], worker.Worker.predict

    def predict(self, items):
        kept.extend(os.urandom(1024) for _ in items)
        real(self, items)

    worker.Worker.predict = predict
    return worker.main()


def percentiles(times):
    times = sorted(times) or [0.0]
    return {f"p{p}": 1000 * times[min(len(times) - 1, int(len(times) * p / 100))] for p in (50, 95, 99)}


def show(name, figures):
    print(f"  {name}: " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()))


async def capacity(server, image, seconds):
    """Answers a second with a few clients that ask without a pause."""
    times = await client.closed_loop(server.port, image, 4, seconds)
    return len(times) / seconds


def load(options):
    """Open loop, Poisson arrivals at shares of the capacity."""
    found = {}
    with Server(options) as server:
        most = asyncio.run(capacity(server, options.image, options.seconds))
        found["capacity"] = most
        print(f"  capacity {most:.1f} answers a second")
        for share in (0.3, 0.5, 0.7, 0.9):
            before = server.starved()
            outcome = asyncio.run(client.open_loop(server.port, options.image, share * most, options.seconds))
            figures = {"requests": len(outcome), **percentiles([t for s, t in outcome if s == 200])}
            figures["starved"] = server.starved() - before
            figures["errors"] = sum(s != 200 for s, _ in outcome)
            found[f"{share}"] = figures
            show(f"{share} of capacity", figures)
            check("all are answered", figures["errors"] == 0, f"{figures['errors']} were not")
        ideal = percentiles(one_server(0.7))
        print(
            f"  one server of constant service would have {ideal['p99'] / ideal['p50']:.1f} times at 0.7 by arithmetic"
        )
        p50, p99 = found["0.7"]["p50"], found["0.7"]["p99"]
        check("p99 at 0.7 of capacity", p99 <= 3 * p50, f"{p99:.0f} ms, {p99 / p50:.1f} times the median")
    return found


def one_server(share, count=200_000):
    """The stays of so many arrivals of chance, in units of a service that always takes as long."""
    chance, arrival, free, stays = random.Random(0), 0.0, 0.0, []
    for _ in range(count):
        arrival += chance.expovariate(share)
        free = max(arrival, free) + 1
        stays.append(free - arrival)
    return stays


def overload(options):
    found = {}
    queue = 16
    with Server(options, limits={"queue": queue}) as server:
        most = asyncio.run(capacity(server, options.image, options.seconds))
        for share in (1.5, 2.0, 5.0):
            before, spans = server.starved(), []
            outcome = asyncio.run(
                client.open_loop(server.port, options.image, share * most, options.seconds, spans=spans)
            )
            waits = answers_meanwhile(spans)
            good, refused = [t for s, t in outcome if s == 200], [t for s, t in outcome if s == 503]
            figures = {
                "goodput": len(good) / options.seconds / most, "accepted p99": percentiles(good)["p99"],
                "answers meanwhile p99": waits[int(0.99 * len(waits))] if waits else 0,
                "starved": server.starved() - before,
                "refused": len(refused), "refused p50": percentiles(refused)["p50"],
                "refused p99": percentiles(refused)["p99"], "others": len(outcome) - len(good) - len(refused),
            }  # fmt: skip
            found[f"{share}"] = figures
            show(f"{share} of capacity {most:.1f}", figures)
            check("goodput", figures["goodput"] >= 0.9, f"{figures['goodput']:.2f} of capacity")
            check("nothing but 200 and 503", figures["others"] == 0, f"{figures['others']}")
            longest, late = 1.2 * (queue + 1), figures["answers meanwhile p99"]  # one batch of one
            check("accepted p99", late <= longest, f"{late} answers to others before its own, at most {longest:.1f}")
            check("refused at once", figures["refused p99"] <= 50, f"p99 {figures['refused p99']:.1f} ms")
    return found


def answers_meanwhile(spans):
    """How many answers each request that was answered saw others get, in order of size: its wait, by no clock."""
    ends = sorted(end for status, _, end in spans if status == 200)
    return sorted(bisect(ends, end) - bisect(ends, start) for status, start, end in spans if status == 200)


def flood(options):
    """Good traffic beside malformed bodies that are all refused, 50 a second, and alone, in turns."""
    chance, times = random.Random(options.seed), {"alone": [], "beside": []}
    with Server(options) as server:
        bodies = [client.damaged(options.image, chance) for _ in range(300)]
        refused = asyncio.run(client.sort_out(server.port, bodies))
        before = server.starved()
        for _ in range(4):
            for name, some in (("alone", []), ("beside", refused)):
                times[name] += asyncio.run(client.good_beside(server.port, options.image, some, 50, options.seconds))
        alone, beside = percentiles(times["alone"]), percentiles(times["beside"])
        figures = {"bodies": len(refused), "good": len(times["beside"]), "starved": server.starved() - before}
        figures |= {f"alone {k}": v for k, v in alone.items()} | {f"beside {k}": v for k, v in beside.items()}
        show("flood", figures)
        ratio = beside["p99"] / alone["p99"]
        check(
            "good p99 at most twice", ratio <= 2, f"{ratio:.2f} times ({beside['p50'] / alone['p50']:.2f} the median)"
        )
        return figures


def soak(options):
    """Clients that rest as long as their answers take, for --minutes: memory, files, threads, and whether the end is as
    fast as the beginning."""
    with Server(options) as server:
        most = asyncio.run(capacity(server, options.tiny, options.seconds))
        count, points, windows, statuses = 0, [], [], Counter()
        first = None
        for _ in range(10):
            outcome = asyncio.run(client.half_loop(server.port, options.tiny, 4, 6 * options.minutes))
            time.sleep(2)  # until the server has seen that they are gone
            count += len(outcome)
            statuses.update(s for s, _ in outcome)
            first = first or (server.files(), server.threads())
            points.append((count, server.memory()))
            windows.append(percentiles([t for s, t in outcome if s == 200]))
        slope = 10_000 * statistics.linear_regression(*zip(*points[1:], strict=True)).slope
        figures = {
            "capacity": most, "requests": count, "statuses": dict(statuses), "MB per 10,000": slope,
            "MB": points[-1][1],
            "files": server.files() - first[0], "threads": server.threads() - first[1],
            "p50 first": windows[0]["p50"], "p50 last": windows[-1]["p50"], "p99 first": windows[0]["p99"],
            "p99 last": windows[-1]["p99"], "starved": server.starved(),
        }  # fmt: skip
        show("soak", figures)
        check("all are answered", set(statuses) == {200}, str(dict(statuses)))
        check("memory is flat", slope <= 0.5, f"{slope:.2f} MB / 10,000")
        check("files and threads", figures["files"] <= 0 and figures["threads"] <= 0,
              f"{figures['files']} and {figures['threads']} more")  # fmt: skip
        return figures


def malformed(options):
    """Damaged forms, JSON, base64 and images, beside good traffic."""
    chance = random.Random(options.seed)
    requests = [client.damaged(options.image, chance) for _ in range(options.bodies)]
    with Server(options) as server:
        pids = server.workers
        before = percentiles(asyncio.run(client.closed_loop(server.port, options.image, 1, options.seconds)))
        start = time.monotonic()
        statuses, good, plain = asyncio.run(client.send_all(server.port, requests, options.image, 8))
        seconds = time.monotonic() - start
        after = percentiles(asyncio.run(client.closed_loop(server.port, options.image, 1, options.seconds)))
        figures = {
            "bodies": len(requests), "a second": len(requests) / seconds, "statuses": dict(sorted(statuses.items())),
            "not JSON": plain, "good p99 before": before["p99"], "good p99 during": percentiles(good)["p99"],
            "good p99 after": after["p99"],
        }  # fmt: skip
        show("malformed", figures)
        check("no answer of 5xx", not any(s >= 500 for s in statuses), str(dict(statuses)))
        check("every answer is JSON", plain == 0, f"{plain} are not")
        check("no worker ended", server.workers == pids, f"{pids} -> {server.workers}")
        return figures


def bombs(options):
    found = {}
    with Server(options) as server:
        asyncio.run(client.closed_loop(server.port, options.image, 2, 2))
        before, highest = server.memory(), 0.0
        for name, body in client.bombs().items():
            status, took, _ = asyncio.run(client.once(server.port, body))
            highest = max(highest, server.memory())
            found[name] = {"bytes": len(body), "status": status, "ms": 1000 * took}
            show(name, found[name])
            check("refused, or tiny and answered", status in (200, 413, 422), str(status))
        found["rise"] = highest - before
        body = next(iter(client.bombs().values()))
        outcome = asyncio.run(client.together(server.port, body, 50))
        found["rise of 50 together"] = server.memory() - before
        check("50 together", all(s in (413, 422, 503) for s, _ in outcome), str(Counter(s for s, _ in outcome)))
        most = max(found["rise"], found["rise of 50 together"])
        check(
            "memory",
            most <= 150,
            f"it rose by {most:.0f} MB at most, 50 together {found['rise of 50 together']:.0f} MB",
        )
    return found


def slow(options):
    """Clients that never end their headers, their bodies, or never read."""
    with Server(options) as server:
        alone = percentiles(asyncio.run(client.closed_loop(server.port, options.image, 1, options.seconds)))
        kinds, good = asyncio.run(client.slow_clients(server.port, options.image))
        figures = {"good p99 alone": alone["p99"], "good p99 beside them": percentiles(good)["p99"], **kinds}
        show("slow clients", figures)
        for kind, limit in (("headers", 5), ("bodies", 15), ("readers", 15)):
            share, longest = kinds[f"{kind} closed"], kinds[f"{kind} longest"]
            check(
                f"slow {kind}",
                share == 1 and longest <= limit + 3,  # a second for the last answer, one between two looks
                f"{share:.0%} closed, the last after {longest:.1f} s",
            )
        return figures


def stop(options):
    with Server(options, limits={"queue": 128}) as server:
        outcome, ready, seconds = asyncio.run(client.stop_with(server, options.image, 50))
        code = server.process.wait(60)
        figures = {"answered": sum(s == 200 for s, _ in outcome), "exit": code, "ready": ready, "seconds": seconds}
        show("SIGTERM with 50 in flight", figures)
        check(
            "none is lost",
            figures["answered"] == 50 and code == 0,
            f"{dict(Counter(s for s, _ in outcome))}, exit {code}",
        )
        return figures


def death(options):
    found = {}
    with Server(options, workers=2) as server:
        for name in ("idle", "busy"):
            outcome, answered, back = asyncio.run(client.kill_worker(server, options.image, name == "busy"))
            counts = Counter(s for s, _ in outcome)
            times = {"answered after": answered, "back after": back[0], "processor": back[1]}
            found[name] = {"statuses": dict(counts), **times}
            show(f"kill -9 of one of two, {name}", found[name])
            check("nothing but 200 and 503", set(counts) <= {200, 503}, str(dict(counts)))
            check("those of the dead are few", counts[503] <= (2 if name == "busy" else 1), str(dict(counts)))
            check("answered", answered <= 1, f"{answered:.2f} s after the kill")
            check("back", back[1] <= 10, f"{back[0]:.1f} s after the kill, {back[1]:.1f} s of the processor")
    return found


def memory(options):
    """MB for 10,000 requests, of a server and of one that keeps a kilobyte of each."""
    found = {}
    for name, keys in (("server", {}), ("control that leaks", {"leak": True})):
        with Server(options, **keys) as server:
            asyncio.run(client.count_loop(server.port, options.tiny, 4, options.requests // 4))
            files, points = server.files(), []
            for _ in range(8):
                asyncio.run(client.count_loop(server.port, options.tiny, 4, options.requests // 8))
                points.append(server.memory())
            xs = [(i + 1) * options.requests / 8 for i in range(8)]
            slope = statistics.linear_regression(xs, points).slope * 10_000
            found[name] = {
                "requests": options.requests,
                "MB per 10,000": slope,
                "MB": points[-1],
                "files": server.files() - files,
            }
            show(name, found[name])
    found["of the leak alone"] = found["control that leaks"]["MB per 10,000"] - found["server"]["MB per 10,000"]
    check(
        "memory is flat", found["server"]["MB per 10,000"] <= 0.5, f"{found['server']['MB per 10,000']:.2f} MB / 10,000"
    )
    check("a leak of 1 kB is seen", found["control that leaks"]["MB per 10,000"] >= 5, "10 MB / 10,000 are leaked")
    check("files", found["server"]["files"] <= 0, f"{found['server']['files']} more")
    return found


PARTS = {"load": load, "overload": overload, "malformed": malformed, "flood": flood, "bombs": bombs, "slow": slow,
         "stop": stop, "death": death, "memory": memory}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS, "soak"], default=[])
    parser.add_argument("--front")
    parser.add_argument("--leak", action="store_true")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--model", default="vit/tiny")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.front:
        return front(options.front)
    if options.leak:
        return leak()
    with tempfile.TemporaryDirectory() as place:
        options.folder = Path(place) / "model"
        count = client.make_model(options.folder, options.model, options.size)
        options.image, options.tiny = client.jpeg(320, 240, options.seed), client.jpeg(32, 32, options.seed)
        for name in options.parts or PARTS:
            part = {**PARTS, "soak": soak}[name]
            print(f"{name}: {part.__doc__ or ''}".strip())
            figures = part(options)
            settings = {key: vars(options)[key] for key in ("model", "size", "threads", "workers", "seconds")}
            append("serve", {name: figures}, {**settings, "parameters": count})
    print("\n".join(f"FAILED: {line}" for line in FAILED) or "all as it should be")
    return 1 if FAILED else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if "--leak" in sys.argv else sys.exit(code)

"""What faults of a store cost: seconds to read the same images with and without them, in turns, and that none is wrong.

python benchmarks/store.py [--images 200] [--rounds 3] [--answer-ms 20] [--share 0.05] [--mb-per-s 1]

A server on this machine answers each range after some milliseconds, at so many MB/s (0: as fast as it can); with
faults, a share of its answers is 503, another such share is cut off within the body, and another has wrong bytes.
"""

import argparse
import http.server
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from history import append
from PIL import Image

from vitrail.assembly.data import open_data
from vitrail.assembly.opening.packing import pack_data
from vitrail.recipe import DataConfig

SIDE, PIECE = 224, 2**12


class Server(http.server.ThreadingHTTPServer):
    root: Path
    answer_s: float
    share: float
    mb_per_s: float
    draw: random.Random

    def send(self, file: Any, body: bytes) -> None:
        """Writes at the speed of this store."""
        for first in range(0, len(body), PIECE):
            file.write(body[first : first + PIECE])
            if self.mb_per_s:
                time.sleep(len(body[first : first + PIECE]) / (self.mb_per_s * 1e6))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        data, given = (self.server.root / self.path.rpartition("/")[2]).read_bytes(), self.headers.get("Range")
        chance, share = self.server.draw.random() if given else 1.0, self.server.share
        if given:
            time.sleep(self.server.answer_s)
            first, last = map(int, given.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
        status = 503 if chance < share else 206 if given else 200
        body = b"" if status == 503 else bytes([data[0] ^ 1]) + data[1:] if 2 * share <= chance < 3 * share else data
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = share <= chance < 2 * share
        self.server.send(self.wfile, body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer-ms", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--mb-per-s", type=float, default=0.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(given.images):
            path = folder / "photos" / "train" / "ab"[i % 2] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            small = np.random.default_rng(i).integers(0, 256, (14, 14, 3), dtype=np.uint8)
            Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
        pack_data(
            DataConfig("imagefolder", {"path": str(folder / "photos"), "held_out": 0.0}), folder / "shards", 10**7
        )
        server = Server(("127.0.0.1", 0), Handler)
        server.root, server.answer_s, server.share = folder / "shards", given.answer_ms / 1000, 0.0
        server.mb_per_s, server.draw = given.mb_per_s, random.Random(0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        keys = {"path": f"http://127.0.0.1:{server.server_port}/", "cache": "none"}
        split = open_data(DataConfig("", keys))[0].splits["train"]
        local = open_data(DataConfig("", {"path": str(folder / "shards")}))[0].splits["train"]
        expected = [local.read(i) for i in range(len(local))]
        ratios = []
        for _ in range(given.rounds):
            seconds = []
            for share in (0.0, given.share):
                server.share, before = share, time.perf_counter()
                wrong = sum(not np.array_equal(split.read(i), expected[i]) for i in range(len(split)))
                seconds.append(time.perf_counter() - before)
                print(f"share {share:.2f}: {len(split) / seconds[-1]:.1f} images/s, {wrong} wrong", flush=True)
            ratios.append(seconds[1] / seconds[0])
        median = float(np.median(ratios))
        print(f"seconds with faults over without: median {median:.3f} of {[round(r, 3) for r in ratios]}")
        append("store", {"seconds with faults over without": median}, vars(given))


if __name__ == "__main__":
    main()

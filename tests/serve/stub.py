"""A worker without a model: what the body of a request says, it does. Started as a process of its own, without torch.

sleep SECONDS: answers after so long; until FILE: once there is such a file; die: ends at once; hang: answers nothing
ever; garbage: what is no message; 500: an answer of that status; 504: as a worker answers what is late, with nothing;
anything else: answers with the number of bytes.
"""

import json
import os
import struct
import sys
import threading
import time

LENGTHS = struct.Struct(">II")
MODELS = [
    {"name": "one", "model": "vit/nano", "output": "classes"},
    {"name": "two", "model": "vit/nano", "output": "classes"},
]


def send(header, body=b""):
    text = json.dumps(header).encode()
    sys.stdout.buffer.write(LENGTHS.pack(len(text), len(body)) + text + body)
    sys.stdout.buffer.flush()


def receive():
    lengths = sys.stdin.buffer.read(LENGTHS.size)
    if not lengths:
        os._exit(0)
    head, body = LENGTHS.unpack(lengths)
    return json.loads(sys.stdin.buffer.read(head)), sys.stdin.buffer.read(body)


def main():
    receive()
    options = dict(word.split("=") for word in sys.argv[1:])
    while "open" in options and not os.path.exists(options["open"]):
        time.sleep(0.01)
    if "breaks" in options:
        os._exit(7)
    if "fails" in options:
        send({"type": "failed", "what": "there are no weights", "fix": "train", "code": 4})
        return
    batch = int(options.get("batch", 1))
    models = [{**row, "sha256": os.path.exists(options.get("version", ""))} for row in MODELS]
    send(
        {
            "type": "loaded",
            "models": models,
            "files": [[options["file"], 0, 0, 0]] if "file" in options else [],
            "batch": batch,
        }
    )
    waiting, changed = [], threading.Condition()

    def work():
        while True:
            with changed:
                while not waiting:
                    changed.wait()
                some = waiting[:batch]
                del waiting[:batch]
            words = [] if time.monotonic() > some[0][0]["deadline"] else some[0][1].split()
            if words[:1] == [b"garbage"]:
                sys.stdout.buffer.write(LENGTHS.pack(5, 0) + b"hello")
                sys.stdout.buffer.flush()
                continue
            if words[:1] == [b"504"]:
                send({"type": "answer", "id": some[0][0]["id"], "status": 504, "stages": {}, "batch": 0})
                continue
            if words[:1] == [b"hang"]:
                time.sleep(1000)
            while words[:1] == [b"until"] and not os.path.exists(words[1]):
                time.sleep(0.01)
            if words[:1] == [b"sleep"]:
                time.sleep(float(words[1]))
            for header, body in some:
                status = int(body) if body in (b"500", b"422") else 200
                late = time.monotonic() > header["deadline"]
                about = {
                    "type": "answer",
                    "id": header["id"],
                    "status": 504 if late else status,
                    "stages": {"predict": 0.001},
                    "batch": len(some),
                }
                send(about, json.dumps({"bytes": len(body), "batch": len(some), "pid": os.getpid()}).encode())

    threading.Thread(target=work, daemon=True).start()
    while True:
        header, body = receive()
        if body == b"die":
            os._exit(9)
        if header["kind"] != "drop":
            with changed:
                waiting.append((header, body))
                changed.notify()


main()

"""A store on this machine that serves a folder by ranges, and fails where it is told to."""

import http.server
import threading
import time
from contextlib import contextmanager


class Faulty(http.server.BaseHTTPRequestHandler):
    """Serves a folder by ranges; `server.fault(number, name)` names what goes wrong with a request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.paths.add(self.path)
        name = self.path.rpartition("/")[2]
        server.asked.append((name, self.headers.get("Range")))
        fault = server.fault(len(server.asked), name)
        path = server.root / name
        if not path.is_file():
            return self.answer(404, b"")
        whole, status, more = path.read_bytes(), 200, {}
        if given := self.headers.get("Range"):
            first, last = map(int, given.removeprefix("bytes=").split("-"))
            whole, status = whole[first : last + 1], 206
        if fault in (503, 500, 429, 403):
            return self.answer(fault, b"busy", {"Retry-After": "0"})
        if fault == "redirect":
            return self.answer(302, b"", {"Location": "http://elsewhere.example/x"})
        if fault == "whole":
            return self.answer(200, path.read_bytes())
        if fault == "wrong bytes":
            whole = bytes([whole[0] ^ 1]) + whole[1:]
        if fault == "wrong length":
            whole += b"more"
        if fault == "slow":
            time.sleep(0.02)
        if fault == "trickle":
            return self.answer(status, whole, more, pause=0.01)
        if fault == "no length":
            return self.answer(status, whole, more, is_stated=False)
        return self.answer(status, whole, more, cut=fault == "reset")

    def answer(self, status, body, more=(), cut=False, pause=0.0, is_stated=True):
        self.send_response(status)
        for key, value in dict(more).items():
            self.send_header(key, value)
        if is_stated:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for i in range(0, len(body) if pause else 0, 64):
            self.wfile.write(body[i : i + 64])
            time.sleep(pause)
        if not pause:
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or not is_stated
        if cut:
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True


@contextmanager
def serve(root):
    """The server of a folder, without faults, at `url`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    server.handle_error = lambda *_: None  # of connections that a fault has cut
    server.root, server.asked, server.fault, server.paths = root, [], lambda *_: None, set()
    server.url = f"http://127.0.0.1:{server.server_port}/some/path/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()

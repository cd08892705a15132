"""The page of the server in Chromium, against a server that answers as `/openapi.json` says."""

import base64
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from browser import BROWSER, open_page
from PIL import Image

from vitrail.inference.page.assemble import render_for_server

pytestmark = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is installed")
EVIL = "<img src=x onerror=alert(1)>"
INPUT = {
    "size": [8, 8], "channels": 3, "mean": [0.5, 0.5, 0.5], "resize_mode": "stretch", "crop_ratio": 1,
    "interpolation": "bilinear", "background": [255, 255, 255],
}  # fmt: skip
COMMON = {"task": "", "multi_label": False, "input": INPUT, "sha256": "ab" * 32, "vitrail": "1", "model": "vit/nano"}
MODELS = [
    {**COMMON, "name": "photos", "output": "classes", "classes": [EVIL, "dog"], "attention": ["rollout"]},
    {**COMMON, "name": "scenes", "output": "masks", "classes": ["ground", "road", "car"], "attention": []},
    {**COMMON, "name": "things", "output": "boxes", "classes": ["cup", "plate"], "attention": []},
    {
        **COMMON,
        "name": "tags",
        "output": "classes",
        "classes": list("abcdefghijkl"),
        "attention": [],
        "multi_label": True,
    },
]
SIZE = {"model": "", "height": 20, "width": 30}
LABELS = np.repeat(np.array([0, 1, 1, 2], np.uint8), 150).reshape(20, 30)
TOKEN = "a-token-of-the-test"


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGE = png(np.full((20, 30, 3), 200, np.uint8))
ANSWERS = {
    "photos": {**SIZE, "label": EVIL, "probabilities": [
        {"label": EVIL, "index": 0, "probability": 0.93}, {"label": "dog", "index": 1, "probability": 0.07}]},
    "tags": {**SIZE, "label": "c|a", "probabilities": [
        {"label": name, "index": i, "probability": p} for i, (name, p) in enumerate(
            zip("abcdefghijkl", [0.6, 0.1, 0.8, *[0.01] * 9], strict=True))]},
    "scenes": {**SIZE, "classes": [], "mask": base64.b64encode(png(LABELS)).decode()},
    "things": {**SIZE, "objects": [
        {"label": "cup", "index": 0, "score": 0.88, "box": [1, 2, 9, 9]},
        {"label": "plate", "index": 1, "score": 0.3, "box": [10, 2, 20, 9]}]},
}  # fmt: skip
ATTENTION = {**SIZE, "kind": "rollout", "grid": [2, 2], "values": [0.1, 0.2, 0.3, 0.4], "covers": [8, 8],
             "area": {"top": 0, "left": 0, "rows": 20, "columns": 30, "canvas": [8, 8]}}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    def reply(self, status, content, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words):
        pass

    def do_GET(self):
        if self.path == "/":
            return self.reply(200, render_for_server("vitrail").encode(), "text/html; charset=utf-8")
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self.reply(401, b'{"error": "a token is needed"}')
        return self.reply(200, json.dumps({"models": MODELS, "notes": []}).encode())

    def do_POST(self):
        body, name = (
            self.rfile.read(int(self.headers["content-length"])),
            self.path.partition("model=")[2].split("&")[0],
        )
        if body != IMAGE:
            return self.reply(422, b'{"error": "the input is damaged", "fix": "take another"}')
        return self.reply(200, json.dumps(ATTENTION if self.path.startswith("/attention") else ANSWERS[name]).encode())


@contextmanager
def serving():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def give(tab, content):
    """Drops a file on the page, and waits for what comes of it."""
    text = base64.b64encode(content).decode()
    tab.evaluate(f"""(() => {{
      document.getElementById("timing").textContent = "";
      const data = new DataTransfer(), bytes = Uint8Array.from(atob("{text}"), c => c.charCodeAt(0));
      data.items.add(new File([bytes], "image.png", {{ type: "image/png" }}));
      dispatchEvent(new DragEvent("drop", {{ dataTransfer: data, bubbles: true, cancelable: true }}));
    }})()""")
    tab.wait("document.getElementById('timing').textContent || !document.getElementById('problem').hidden")


def pick(tab, index):
    tab.evaluate(f"""(() => {{
      document.getElementById("timing").textContent = "";
      const select = document.querySelector("#pick select");
      select.value = {index};
      select.onchange();
    }})()""")
    tab.wait("document.getElementById('timing').textContent")


def text_of(tab, key):
    return tab.evaluate(f"document.getElementById('{key}').textContent")


def test_page_asks_for_the_token_and_shows_every_kind_of_answer(tmp_path):
    rows = "[...document.querySelectorAll('#rows li')].map(row => row.textContent)"
    with serving() as address, open_page(address, tmp_path / "profile", offline=False) as tab:
        tab.wait("document.querySelector('#pick input')")
        assert text_of(tab, "lead") == "This server asks for a token."
        tab.evaluate(f"""(() => {{
          document.querySelector("#pick input").value = "{TOKEN}";
          document.querySelector("#pick form").requestSubmit();
        }})()""")
        tab.wait("document.querySelector('#pick select')")
        give(tab, IMAGE)
        assert text_of(tab, "verdict") == f"{EVIL} 93.0 %"
        assert tab.evaluate("document.querySelectorAll('input[type=range]').length") == 1
        assert tab.evaluate("document.querySelectorAll('main img').length") == 0
        pick(tab, 1)
        assert text_of(tab, "verdict") == "road, car"
        assert tab.evaluate(rows) == ["road50.0 %", "ground25.0 %", "car25.0 %"]
        pick(tab, 2)
        assert text_of(tab, "verdict") == "1 object"
        tab.evaluate("""(() => {
          const slider = document.querySelector("input[type=range]");
          slider.value = 20;
          slider.oninput();
        })()""")
        assert text_of(tab, "verdict") == "2 objects"
        assert tab.evaluate(rows) == ["cup1 × up to 88 %", "plate1 × up to 30 %"]
        pick(tab, 3)
        assert text_of(tab, "verdict") == "c, a"
        assert len(tab.evaluate(rows)) == 5
        assert text_of(tab, "more") == "Show all 12 classes"
        tab.evaluate("document.getElementById('more').onclick()")
        assert len(tab.evaluate(rows)) == 12
        give(tab, png(np.zeros((5, 5), np.uint8)))
        assert text_of(tab, "problem") == "the input is damaged\ntake another"
        give(tab, b"no image")
        assert "cannot read image.png as an image" in text_of(tab, "problem")
        assert not [one for one in tab.requests if not one.startswith((address, "blob:", "data:"))]
        assert not [one for one in tab.problems if "401" not in one and "422" not in one]

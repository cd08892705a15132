"""Runs functions of the page's scripts in node."""

import base64
import json
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

from vitrail.inference.page.assemble import read_part

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed: it runs the page's scripts here")
RUN = """
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"), (key, value) =>
  value && value.base64 !== undefined ? new Uint8Array(Buffer.from(value.base64, "base64")) : value);
const pack = (key, value) => value instanceof Uint8Array ? { base64: Buffer.from(value).toString("base64") }
  : ArrayBuffer.isView(value) ? [...value] : value;
process.stdout.write(JSON.stringify(cases.map(body), pack));
"""


def run_scripts(names: tuple[str, ...], body: str, cases: list[Any]) -> list[Any]:
    """The results of a function of JavaScript, `body`, for each case, with the page's scripts loaded. Arrays of uint8
    are sent and come back as arrays."""

    def pack(value: Any) -> Any:
        return {"base64": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()}

    source = "\n".join(map(read_part, names)) + f"\nconst body = {body};" + RUN
    done = subprocess.run(
        [str(NODE), "-e", source], input=json.dumps(cases, default=pack), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    def unpack(row: dict[str, Any]) -> Any:
        return np.frombuffer(base64.b64decode(row["base64"]), np.uint8) if set(row) == {"base64"} else row

    results: list[Any] = json.loads(done.stdout, object_hook=unpack)
    return results


def as_image(pixels: np.ndarray) -> dict[str, Any]:
    """uint8 [H W C] as the scripts take it."""
    height, width, channels = pixels.shape
    return {"width": width, "height": height, "channels": channels, "data": pixels}


def as_pixels(image: dict[str, Any]) -> np.ndarray:
    return image["data"].reshape(image["height"], image["width"], image["channels"])

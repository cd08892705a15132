"""The examples of the server's OpenAPI description."""

from typing import Any

Responses = dict[int | str, dict[str, Any]]
DESCRIPTION = (
    "Predictions of trained models. With a token every request but GET /, /live and /ready needs the header "
    "`Authorization: Bearer TOKEN`. Errors are JSON: `error` says what is wrong, `fix` what to do. 429 and 503 come "
    "with Retry-After."
)
PIXEL = (  # a PNG of one white pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAG7buVgAAAABJRU5ErkJggg=="
)
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image: its bytes, a form with a file, or base64 in JSON",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
            },
            "application/json": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": {"type": "string"}}},
                "example": {"image": PIXEL},
            },
        },
    }
}


def error(what: str, example: str) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"example": {"error": example}}}}


def answer(what: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"examples": content}}}


REFUSALS: Responses = {
    400: error("The body is empty, or no form or JSON of the kind it claims", "the body is empty"),
    401: error("A token is needed", "a token is needed, and this is none"),
    403: error(
        "Without a token: another machine's name, or a page of another site", "this server is for its own machine"
    ),
    404: error("No such model", "there is no such model"),
    408: error("The body did not come in time", "the body did not come within 15 s"),
    413: error("The body is too long", "the body is longer than 10,485,760 bytes"),
    415: error("A Content-Encoding that is not read", "a body with this Content-Encoding is not read"),
    422: error(
        "No image, a damaged one, or one of too many pixels", "the input is not an image: its bytes are not JPEG"
    ),
    429: error("More than the quota of this token", "more than 5 predictions a second"),
    503: error("The queue is full, the models are being opened, or a worker died", "too many requests are waiting"),
    504: error("No answer in time", "no answer within 30 s"),
}
IMAGE = {"model": "photos", "height": 480, "width": 640}
PREDICTIONS: Responses = {
    200: answer("By what the model predicts", {
        "classes": {"value": {**IMAGE, "label": "cat", "probabilities": [
            {"label": "cat", "index": 0, "probability": 0.93}, {"label": "dog", "index": 1, "probability": 0.07}]}},
        "masks": {"value": {**IMAGE, "classes": [
            {"label": "road", "index": 0, "share": 0.8}, {"label": "car", "index": 2, "share": 0.2}],
            "mask": "iVBORw0KGgo... (a PNG of class numbers, in base64)"}},
        "boxes": {"value": {**IMAGE, "objects": [
            {"label": "car", "index": 0, "score": 0.88, "box": [10.5, 20.0, 110.25, 95.0]}]}},
        "features": {"value": {**IMAGE, "features": [0.125, -0.25, 0.5]}},
    }),
    **REFUSALS,
}  # fmt: skip
ATTENTION: Responses = {
    200: answer("Cells of a grid over a part of the image", {"rollout": {"value": {
        **IMAGE, "kind": "rollout", "grid": [2, 2], "values": [0.1, 0.2, 0.3, 0.4], "covers": [224, 224],
        "area": {"top": 0, "left": 80, "rows": 480, "columns": 480, "canvas": [224, 224]},
    }}}),
    **REFUSALS,
}  # fmt: skip
LIVE: Responses = {200: answer("The process runs", {"live": {"value": {"status": "live"}}})}
READY: Responses = {
    200: answer("Requests are answered", {"ready": {"value": {"status": "ready", "models": ["photos"], "notes": []}}}),
    503: answer("Not yet, or not any more", {"starting": {"value": {"status": "starting"}}}),
}  # fmt: skip
MODELS: Responses = {
    200: answer("What is served", {"models": {"value": {"models": [{
        "name": "photos", "model": "vit/small", "task": "classification", "output": "classes", "multi_label": False,
        "classes": ["cat", "dog"], "input": {"size": [224, 224], "channels": 3}, "attention": ["rollout", "relevance"],
        "engine": "torch", "precision": "fp32", "sha256": "...", "vitrail": "...",
    }], "notes": []}}}),
}  # fmt: skip
PAGE: Responses = {200: {"description": "HTML", "content": {"text/html": {}}}}
METRICS: Responses = {200: {"description": "The text format of Prometheus", "content": {"text/plain": {}}}}

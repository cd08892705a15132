"""The routes of the server, on FastAPI."""

import time
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vitrail.serve import openapi
from vitrail.serve.bodies import Bodies
from vitrail.serve.guard import Guard, refusal_headers
from vitrail.serve.metrics import CONTENT_TYPE, Metrics
from vitrail.serve.pool import ClientGone, WorkerPool
from vitrail.serve.process import Answer
from vitrail.serve.refusal import Refused, error_body
from vitrail.serve.settings import Settings
from vitrail.serve.watching import changed_files
from vitrail.storage.json_text import to_json
from vitrail.version import __version__

CLIENT_GONE = 499  # as nginx counts requests whose client left; nobody gets it
CHANGED = "the files of a model have changed since the server was started; it serves the model that it read then"


class Service:
    """What the routes share."""

    def __init__(self, settings: Settings, pool: WorkerPool, metrics: Metrics):
        self.settings, self.pool, self.metrics = settings, pool, metrics
        self.bodies = Bodies(settings.limits, metrics)
        self.guard: Guard | None = None

    async def ask(self, request: Request, header: dict[str, Any]) -> Response:
        """Reads the body of a request and asks the workers. Errors: `Refused`."""
        header["model"], start = self.pool.find(header["model"]), time.monotonic()
        try:
            async with self.bodies.read(list(request.scope["headers"]), request.receive) as body:
                read = time.monotonic()
                given = {key: request.headers.get(f"content-{key}", "")[:1000] for key in ("type", "encoding")}
                answer: Answer = await self.pool.ask({**header, **given}, body, request.receive)
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        stages = {"read": read - start, **answer.stages, "answer": time.monotonic() - start}
        if answer.status == 200:
            self.metrics.observe_stages(header["model"], stages, answer.batch)
        headers = {"retry-after": "1"} if answer.status == 503 else {}
        return Response(answer.body, answer.status, headers, "application/json")

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and content of `/ready`."""
        pool = self.pool
        notes = [CHANGED] if changed_files(pool.files) else []
        if self.guard is not None and self.guard.is_draining:
            return 503, {"status": "stopping"}
        if pool.failure is not None:
            return 503, {"status": "failed"}
        if not pool.workers:
            return 503, {"status": "starting"}
        return 200, {"status": "ready", "models": [row["name"] for row in pool.models], "notes": notes}


def build_app(settings: Settings, pool: WorkerPool, metrics: Metrics, page: bytes) -> Guard:
    """The application. page: the HTML of `GET /`."""
    app = FastAPI(
        title="vitrail", version=__version__, description=openapi.DESCRIPTION, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    # the pages of documentation load scripts from elsewhere; a redirect would name the host that the client named
    service = Service(settings, pool, metrics)
    add_state_routes(app, service, page)
    add_prediction_routes(app, service)
    app.add_exception_handler(Refused, answer_refusal)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(Exception, answer_error)
    service.guard = Guard(app, settings, metrics, pool.check_room)
    return service.guard


def add_state_routes(app: FastAPI, service: Service, page: bytes) -> None:
    @app.get("/", response_class=Response, responses=openapi.PAGE, summary="A page that shows predictions")
    async def show_page() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    @app.get("/live", summary="Whether the process runs", responses=openapi.LIVE)
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/ready", summary="Whether requests are answered", responses=openapi.READY)
    async def ready() -> Response:
        status, content = service.readiness()
        return as_json(content, status)

    @app.get("/models", summary="The models, their classes and their input", responses=openapi.MODELS)
    async def models() -> Response:
        changed = changed_files(service.pool.files)
        return as_json({"models": service.pool.models, "notes": [CHANGED] if changed else []})

    @app.get("/metrics", response_class=Response, responses=openapi.METRICS, summary="Counters, for Prometheus")
    async def show_metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def add_prediction_routes(app: FastAPI, service: Service) -> None:
    model = Annotated[str, Query(description="A name of /models; the first one by default", max_length=5000)]

    @app.post("/predict", summary="Classes, masks or boxes of an image", responses=openapi.PREDICTIONS,
              openapi_extra=openapi.BODY)  # fmt: skip
    async def predict(
        request: Request,
        model: model = "",
        top: Annotated[int, Query(ge=1, le=100_000, description="How many classes, the most likely first")] = 5,
        score: Annotated[float, Query(ge=0, le=1, description="The lowest score of an object")] = 0.05,
    ) -> Response:
        return await service.ask(request, {"kind": "predict", "model": model, "top": top, "score": score})

    @app.post("/attention", summary="Which parts of an image a model attends to", responses=openapi.ATTENTION,
              openapi_extra=openapi.BODY)  # fmt: skip
    async def attention(
        request: Request,
        model: model = "",
        map: Annotated[Literal["auto", "rollout", "relevance", "gradient-cam"], Query(description="The kind")] = "auto",
        label: Annotated[str, Query(max_length=500, description="The class of relevance and gradient-cam")] = "",
    ) -> Response:
        return await service.ask(request, {"kind": "attention", "model": model, "map": map, "label": label})


def as_json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(to_json(content).encode(), status, media_type="application/json")


async def answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {key.decode(): value.decode() for key, value in refusal_headers(error)}
    return Response(error.body, error.status, headers, "application/json")


async def answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "there is no such page", 405: "this page does not take that method"}.get(
        error.status_code, "not possible"
    )
    fix = "GET /openapi.json lists what there is" if error.status_code in (404, 405) else ""
    return Response(error_body(what, fix), error.status_code, dict(error.headers or {}), "application/json")


async def answer_invalid(request: Request, error: Exception) -> Response:
    """Names the option, which is one of ours, and not what was given for it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return Response(error_body(f"{first['loc'][-1]}: {first['msg']}"), 422, media_type="application/json")


async def answer_error(request: Request, error: Exception) -> Response:
    return Response(error_body("the server could not answer"), 500, media_type="application/json")

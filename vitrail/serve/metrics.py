"""What `/metrics` says, in the text format of Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STAGES = ("read", "queue", "decode", "batch", "predict", "answer")


class Metrics:
    """The counters of one server; none is global. Labels are names of ours: nothing that a client sends becomes one."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("vitrail_requests", "Requests", ("route", "status"), registry=registry)
        self.seconds = Histogram(
            "vitrail_request_seconds", "From the first byte of a request to the last of its answer", ("route",),
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.stages = Histogram(
            "vitrail_stage_seconds", f"Of a prediction: {', '.join(STAGES)}", ("model", "stage"),
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.batches = Histogram(
            "vitrail_batch_size", "Images predicted together", ("model",), registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )  # fmt: skip
        self.refused = Counter("vitrail_refused", "Requests refused before a prediction", ("why",), registry=registry)
        self.queue = Gauge("vitrail_queue_length", "Requests that no worker has yet", registry=registry)
        self.admitted = Gauge("vitrail_in_flight", "Requests whose answer is awaited", registry=registry)
        self.body_bytes = Counter("vitrail_body_bytes", "Bytes of bodies read", registry=registry)
        self.workers = Gauge("vitrail_workers", "Workers that hold the models", registry=registry)
        self.deaths = Counter("vitrail_worker_deaths", "Workers that ended by themselves", registry=registry)
        self.connections = Gauge("vitrail_connections", "Open connections", registry=registry)

    def observe_stages(self, model: str, stages: dict[str, Any], batch: int) -> None:
        for stage in STAGES:
            if stage in stages:
                self.stages.labels(model, stage).observe(float(stages[stage]))
        if batch:
            self.batches.labels(model).observe(batch)

    def text(self) -> bytes:
        return generate_latest(self.registry)

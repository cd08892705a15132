"""How fast the mean of dice settles: its spread over many throws falls with the square root of their number."""

from dataclasses import dataclass

import numpy as np

from vitrail.studies._bench.bench import Bench, Job
from vitrail.studies._bench.result import StudyResult, markdown_table
from vitrail.validation import Positive


@dataclass(frozen=True)
class Config:
    throws: Positive = 200  # means that a spread is measured of
    most: Positive = 64  # dice of the last row


def run(config: Config, bench: Bench) -> StudyResult:
    """A row for 1, 4, 16, ... dice."""
    counts = [4**power for power in range(10) if 4**power <= config.most]
    values = bench.measure([Job(f"{n} dice") for n in counts], lambda job: spread(job, config.throws), line)
    table = markdown_table(
        ["dice", "spread"], [(str(n), f"{value:.3f}") for n, value in zip(counts, values, strict=True)]
    )
    return StudyResult({"dice": counts, "spread": values}, table, {})


def spread(job: Job, throws: int) -> float:
    """The standard deviation of the mean of a row's dice."""
    dice = np.random.default_rng(job.seed).integers(1, 7, (throws, int(job.row.split()[0])))
    return float(dice.mean(1).std())


def line(job: Job, value: float) -> str:
    return f"spread {value:.3f}"

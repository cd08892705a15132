"""`vitrail eval --features`: evaluates the generated images of a generative model, once or in a sweep."""

import dataclasses
from typing import Any, Protocol

from vitrail.cli.output.console import Console
from vitrail.cli.output.tables import Column, table
from vitrail.errors import UsageError
from vitrail.storage.json_text import to_json
from vitrail.validation import Positive, validate


class Given(Protocol):
    """Of the arguments of `vitrail eval`, those about generated images."""

    run: str
    data: str
    img_size: tuple[int, int] | None
    features: str
    sweep_guidance: tuple[float, ...]
    sweep_ema: tuple[Any, ...]
    vae: str
    count: int
    device: str
    json: bool


def check(given: Given, predictor: Any) -> None:
    """Errors: `UsageError` for options that do not fit the model."""
    if has_sweep(given) and not given.features:
        raise UsageError("a sweep evaluates generated images by a classifier's features", "--features RUN names one")
    if has_sweep(given) and given.data:
        raise UsageError("a sweep is kept in the folder of the run and uses its data", "leave --data out")
    if given.features and not predictor.task.is_generative:
        raise UsageError(
            f"{given.run} is no generative model, whose images --features evaluates", "leave --features out"
        )
    if given.img_size and predictor.task.is_generative:
        raise UsageError(
            f"{given.run} generates images of {'x'.join(map(str, predictor.recipe.input.size))}", "leave --img-size out"
        )


def has_sweep(given: Given) -> bool:
    return bool(given.sweep_guidance or given.sweep_ema)


def once(given: Given, predictor: Any, dataset: Any, part: str, folder: Any, world: Any) -> dict[str, Any]:
    """Metrics of the images that a model generates; kept in the folder of its run."""
    from vitrail.evaluation.generation import copying
    from vitrail.evaluation.generation.quality import RealImages, find_nearest
    from vitrail.inference.predictor import load_predictor
    from vitrail.storage.atomic import write_file

    classifier = load_predictor(given.features, str(world.device))
    cache = None if folder is None else folder.path / "features"
    progress = Console(given.json).progress("generating images")
    real = RealImages(predictor, classifier, dataset, part, validate(given.count, Positive, "--count"), cache, world)
    result = {"by": given.features, **dataclasses.asdict(real.compare(predictor, progress=progress))}
    copied = find_nearest(predictor, classifier, dataset, real.made, cache, world) if real.made else None
    result["copied"] = None if copied is None else dataclasses.asdict(copied.report)
    if folder is not None and world.is_first:
        write_file(folder.quality, to_json(result, indent=1, ensure_ascii=False).encode())
        copying.write_copying(folder.evaluation, "features", copied)
    return result


def sweep(given: Given, predictor: Any, dataset: Any, part: str, folder: Any, world: Any) -> list[dict[str, Any]]:
    """All weight averages at all guidance scales: a table, a figure, and the points for --json."""
    from vitrail.evaluation.generation import sweep as sweeping
    from vitrail.inference.predictor import load_predictor
    from vitrail.inference.sample import default_sampling
    from vitrail.report.plots.sweep import plot_sweep

    if world.size > 1:
        raise UsageError("a sweep is done by one process", "leave torchrun out")
    classifier, device = load_predictor(given.features, str(world.device)), str(world.device)
    averages: tuple[int, ...] = tuple(dict.fromkeys(given.sweep_ema)) or (1,)
    predictors = {a: predictor if a == 1 else load_predictor(given.run, device, a, given.vae) for a in averages}
    guidances = given.sweep_guidance or (default_sampling(predictor.bundle).guidance,)
    sweep_range = sweeping.SweepRange(tuple(guidances), predictors, validate(given.count, Positive, "--count"))
    points = sweeping.run_sweep(
        sweep_range, classifier, dataset, part, folder.path, world, Console(given.json).progress("generating images")
    )
    files = sweeping.write_sweep(points, folder.path, given.features)
    files.append(plot_sweep(points, folder.evaluation / "sweep.svg"))
    if not given.json:
        titles, rows = sweeping.table_cells(points)
        best, reused = sweeping.best_point(points), sum(not p.is_new for p in points)
        print("\n" + "\n".join(table([Column(t) for t in titles], rows)))
        print(f"lowest Fréchet distance: average {best.average}, guidance {best.guidance:g}")
        print(
            f"in {', '.join(map(str, files))}"
            + (f"; {reused} of {len(points)} rows were there already" if reused else "")
        )
    return [{"average": p.average, "guidance": p.guidance, **dataclasses.asdict(p.quality)} for p in points]


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['made']:,} generated images, {result['real']:,} real ones; ", end="")
    print(f"{result['width']} features of {result['by']}")
    floor = result["metrics_of_real"] or {}
    for name, value in result["metrics"].items():
        print(f"  {name:<18} {value:.4f}" + (f"   (of real images {floor[name]:.4f})" if floor else ""))
    if result["asked"] is not None:
        print(f"  {'of its class':<18} {result['asked']:.4f}   (of real images {result['asked_of_real']:.4f})")
    if result["copied"] is not None:
        from vitrail.evaluation.generation.copying import CopyingReport, describe_copying

        print(f"  {describe_copying(CopyingReport(**result['copied']))}")
    for note in result["notes"]:
        print(f"  note: {note}")

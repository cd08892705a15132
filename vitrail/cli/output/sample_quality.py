"""What `vitrail eval --features` does with a generative model: evaluates its images, once or in a sweep."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from vitrail.cli.output.console import Console
from vitrail.cli.output.tables import Column, table
from vitrail.errors import UsageError
from vitrail.validation import Positive, validate

STYLES = ("-", "--", ":")


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
    """Errors: `UsageError` for what cannot be asked of such a model."""
    if swept(given) and not given.features:
        raise UsageError("a sweep evaluates generated images by a classifier's features", "--features RUN names one")
    if swept(given) and given.data:
        raise UsageError("a sweep is kept in the folder of the run and uses its data", "leave --data out")
    if given.features and not predictor.task.is_generative:
        raise UsageError(
            f"{given.run} is no generative model, whose images --features evaluates", "leave --features out"
        )
    if given.img_size and predictor.task.is_generative:
        raise UsageError(
            f"{given.run} generates images of {'x'.join(map(str, predictor.recipe.input.size))}", "leave --img-size out"
        )


def swept(given: Given) -> bool:
    return bool(given.sweep_guidance or given.sweep_ema)


def once(given: Given, predictor: Any, dataset: Any, part: str, folder: Any, world: Any) -> dict[str, Any]:
    """How good the images are that a model generates; kept in the folder of its run."""
    from vitrail.evaluation.generation import copying
    from vitrail.evaluation.generation.quality import RealImages, find_nearest
    from vitrail.inference.predictor import load_predictor
    from vitrail.storage.atomic import write_file

    classifier, kept = (
        load_predictor(given.features, str(world.device)),
        None if folder is None else folder.path / "features",
    )
    progress = Console(given.json).progress("generating images")
    real = RealImages(predictor, classifier, dataset, part, validate(given.count, Positive, "--count"), kept, world)
    result = {"by": given.features, **dataclasses.asdict(real.compare(predictor, progress=progress))}
    copied = find_nearest(predictor, classifier, dataset, real.made, kept, world) if real.made else None
    result["copied"] = None if copied is None else dataclasses.asdict(copied.report)
    if folder is not None and world.is_first:
        write_file(folder.quality, json.dumps(result, indent=1, ensure_ascii=False).encode())
        copying.write_copying(folder.evaluation, "features", copied)
    return result


def sweep(given: Given, predictor: Any, dataset: Any, part: str, folder: Any, world: Any) -> list[dict[str, Any]]:
    """Every average at every guidance: a table, a figure, and the points for --json."""
    from vitrail.evaluation.generation import sweep as sweeping
    from vitrail.inference.predictor import load_predictor
    from vitrail.inference.sample import default_sampling

    if world.size > 1:
        raise UsageError("a sweep is done by one process", "leave torchrun out")
    classifier, device = load_predictor(given.features, str(world.device)), str(world.device)
    averages: tuple[int, ...] = tuple(dict.fromkeys(given.sweep_ema)) or (1,)
    makers = {a: predictor if a == 1 else load_predictor(given.run, device, a, given.vae) for a in averages}
    guidances = given.sweep_guidance or (default_sampling(predictor.bundle).guidance,)
    wanted = sweeping.SweepRange(tuple(guidances), makers, validate(given.count, Positive, "--count"))
    points = sweeping.run_sweep(
        wanted, classifier, dataset, part, folder.path, world, Console(given.json).progress("generating images")
    )
    files = sweeping.write_sweep(points, folder.path, given.features)
    files.append(draw(points, folder.evaluation / "sweep.svg"))
    if not given.json:
        titles, rows = sweeping.table_cells(points)
        best, taken = sweeping.best_point(points), sum(not p.is_new for p in points)
        print("\n" + "\n".join(table([Column(t) for t in titles], rows)))
        print(f"the least Fréchet distance: average {best.average}, guidance {best.guidance:g}")
        print(
            f"in {', '.join(map(str, files))}"
            + (f"; {taken} of {len(points)} rows were there already" if taken else "")
        )
    return [{"average": p.average, "guidance": p.guidance, **dataclasses.asdict(p.quality)} for p in points]


def draw(points: Sequence[Any], file: Path) -> Path:
    """Over guidance: the Fréchet distance, a line for each average, and precision and recall. The same numbers make the
    same bytes."""
    import matplotlib

    from vitrail.analysis.figures import create_charts

    figure, (left, right) = create_charts(2)
    for colour, average in enumerate(dict.fromkeys(p.average for p in points)):
        line = sorted((p for p in points if p.average == average), key=lambda p: p.guidance)
        across = [p.guidance for p in line]
        left.plot(
            across,
            [p.quality.metrics["frechet"] for p in line],
            color=f"C{colour}",
            marker=".",
            label=f"average {average}",
        )
        for style, name in zip(STYLES, ("precision", "recall"), strict=False):
            values = [p.quality.metrics[name] for p in line]
            right.plot(across, values, style, color=f"C{colour}", marker=".", label=f"{name}, average {average}")
    left.set(title="Fréchet distance", xlabel="guidance")
    right.set(title="precision and recall", xlabel="guidance", ylim=(0, 1.02))
    for axis in (left, right):
        axis.grid(True, alpha=0.3)
        axis.legend(fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "vitrail", "svg.fonttype": "none"}):
        try:
            figure.savefig(file, metadata={"Date": None})
        except OSError as error:
            raise UsageError(
                f"{file} cannot be written: {error.strerror or error}", "free the space it needs"
            ) from None
    return file


def show(found: dict[str, Any]) -> None:
    print(
        f"\n{found['made']:,} generated images, {found['real']:,} real ones; {found['width']} features of {found['by']}"
    )
    floor = found["metrics_of_real"] or {}
    for name, value in found["metrics"].items():
        print(f"  {name:<18} {value:.4f}" + (f"   (of real images {floor[name]:.4f})" if floor else ""))
    if found["asked"] is not None:
        print(f"  {'of its class':<18} {found['asked']:.4f}   (of real images {found['asked_of_real']:.4f})")
    if found["copied"] is not None:
        from vitrail.evaluation.generation.copying import CopyingReport, describe_copying

        print(f"  {describe_copying(CopyingReport(**found['copied']))}")
    for note in found["notes"]:
        print(f"  note: {note}")

"""What `vitrail eval --features` does with a model that makes pictures: judges what it makes, once or in a sweep."""

import dataclasses
import json
from typing import Any, Protocol

from vitrail.cli.output.console import Console
from vitrail.cli.output.tables import Column, table
from vitrail.errors import UsageError
from vitrail.report.plots.sweep import draw
from vitrail.validation import Positive, checked


class Given(Protocol):
    """Of the words of `vitrail eval`, those that are about made pictures."""

    run: str
    data: str
    size: tuple[int, int] | None
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
        raise UsageError("a sweep judges made pictures by a classifier's features", "--features RUN names one")
    if swept(given) and given.data:
        raise UsageError("a sweep is kept in the folder of the run and judged on its data", "leave --data out")
    if given.features and not predictor.task.is_generative:
        raise UsageError(f"{given.run} makes no pictures that could be judged by features", "leave --features out")
    if given.size and predictor.task.is_generative:
        raise UsageError(f"{given.run} makes pictures of {'x'.join(map(str, predictor.recipe.input.size))}", "leave --size out")


def swept(given: Given) -> bool:
    return bool(given.sweep_guidance or given.sweep_ema)


def once(given: Given, predictor: Any, dataset: Any, part: str, folder: Any, world: Any) -> dict[str, Any]:
    """How good the pictures are that a model makes; kept in the folder of its run."""
    from vitrail.evaluation.generation import copying
    from vitrail.evaluation.generation.quality import Real, near
    from vitrail.inference.predictor import load
    from vitrail.storage.atomic import write_file

    judge, kept = load(given.features, str(world.device)), None if folder is None else folder.path / "features"
    progress = Console(given.json).progress("making pictures")
    real = Real(predictor, judge, dataset, part, checked(given.count, Positive, "--count"), kept, world)
    said = {"by": given.features, **dataclasses.asdict(real.judged(predictor, progress=progress))}
    copied = near(predictor, judge, dataset, real.made, kept, world) if real.made else None
    said["copied"] = None if copied is None else dataclasses.asdict(copied.found)
    if folder is not None and world.first:
        write_file(folder.quality, json.dumps(said, indent=1, ensure_ascii=False).encode())
        copying.write(folder.evaluation, "features", copied)
    return said


def sweep(given: Given, predictor: Any, dataset: Any, part: str, folder: Any, world: Any) -> list[dict[str, Any]]:
    """Every average at every guidance: a table, a figure, and the points for --json."""
    from vitrail.evaluation.generation import sweep as sweeping
    from vitrail.inference.predictor import load
    from vitrail.inference.sample import usual

    if world.size > 1:
        raise UsageError("a sweep is done by one process", "leave torchrun out")
    judge, device = load(given.features, str(world.device)), str(world.device)
    averages: tuple[int, ...] = tuple(dict.fromkeys(given.sweep_ema)) or (1,)
    makers = {a: predictor if a == 1 else load(given.run, device, a, given.vae) for a in averages}
    guidances = given.sweep_guidance or (usual(predictor.described).guidance,)
    wanted = sweeping.Range(tuple(guidances), makers, checked(given.count, Positive, "--count"))
    points = sweeping.sweep(wanted, judge, dataset, part, folder.path, world, Console(given.json).progress("making pictures"))
    files = sweeping.write(points, folder.path, given.features)
    files.append(draw(points, folder.evaluation / "sweep.svg"))
    if not given.json:
        titles, rows = sweeping.cells(points)
        best, taken = sweeping.best(points), sum(not p.fresh for p in points)
        print("\n" + "\n".join(table([Column(t) for t in titles], rows)))
        print(f"the least Fréchet distance: average {best.average}, guidance {best.guidance:g}")
        print(f"in {', '.join(map(str, files))}" + (f"; {taken} of {len(points)} rows were there already" if taken else ""))
    return [{"average": p.average, "guidance": p.guidance, **dataclasses.asdict(p.found)} for p in points]


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['made']:,} made pictures, {found['real']:,} real ones; {found['width']} features of {found['by']}")
    floor = found["metrics_of_real"] or {}
    for name, value in found["metrics"].items():
        print(f"  {name:<18} {value:.4f}" + (f"   (of real pictures {floor[name]:.4f})" if floor else ""))
    if found["asked"] is not None:
        print(f"  {'of its class':<18} {found['asked']:.4f}   (of real pictures {found['asked_of_real']:.4f})")
    if found["copied"] is not None:
        from vitrail.evaluation.generation.copying import Copying, sentence

        print(f"  {sentence(Copying(**found['copied']))}")
    for note in found["notes"]:
        print(f"  note: {note}")

"""Initial weights of a run: from another run, a model folder, or a file of published weights.

Their model and preprocessing are used by the new run, unless other settings are given.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.assembly.load import load_bundle
from vitrail.assembly.model import ModelBundle, class_dependent
from vitrail.assembly.resolve import Names
from vitrail.assembly.whole import COLOURS, as_own, recipe_of, recognise_whole
from vitrail.contracts import Denoiser, Task
from vitrail.errors import CheckpointError, UsageError
from vitrail.recipe import Choice, InitConfig, InputConfig, Recipe
from vitrail.weights import locate as locating
from vitrail.weights import published as weights_published
from vitrail.weights.folders import read_published
from vitrail.weights.identify import Identified
from vitrail.weights.load import LoadOptions, MatchedTensors, choose_source, head_of, is_of_head, load_tensors
from vitrail.weights.read import RawWeights
from vitrail.weights.remote.identified import identify_located
from vitrail.weights.report import LoadReport, list_names

OF_TRAINING = ("drop_path", "dropout", "attention_dropout", "patch_dropout")  # keys of models that no weight depends on
OF_CLASSES = ("classes", "class_weights")  # keys of models and tasks that hold for their own classes only


@dataclass(frozen=True)
class WeightsOrigin:
    """Tensors and their origin. `recipe`: of vitrail's own weights only; `identified`: of published ones; `classes`:
    None where a file has no names. name: as the weights can be named again; about: what is kept with everything that is
    made from them; reasons: how they were found, in lines."""

    path: Path
    raw: RawWeights
    source: str
    recipe: Recipe | None = None
    classes: tuple[str, ...] | None = None
    identified: Identified | None = None
    name: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The name of the model of the weights, "" where that is not known."""
        if self.recipe is not None:
            return self.recipe.model.name
        return "" if self.identified is None else self.identified.model.name


def check_name(start: InitConfig) -> None:
    """Errors: `UsageError`, `CheckpointError` for a name of weights that means nothing; nothing is read or fetched."""
    if start.weights:
        locating.check_name(start.weights)


def find_weights(start: InitConfig, model: Choice | None = None) -> WeightsOrigin | None:
    """The weights that `start` names, read and checked. model: as typed, None for what the file is. Errors:
    `CheckpointError`, `UsageError`."""
    if not start.weights:
        return None
    located = locating.locate(start.weights, start.accept_licence)
    path, name, reasons = located.files, located.name, located.reasons
    if located.kind != "run":
        raw, sidecar = read_published(path, located.sha256 or None)
        if "recipe" not in raw.about:
            about = {**located.origin, "sha256": raw.sha256}
            whole = recognise_whole(raw, path, sidecar, model or Choice())
            if whole is not None:
                own, kept = as_own(whole, raw), recipe_of(whole)
                reasons = (*(reasons or (f"init.weights = {path}",)), *whole.reasons)
                return WeightsOrigin(path, own, whole.source, kept, whole.classes, None, name, about, reasons)
            found = identify_located(raw, sidecar, located, model, start.format)
            source = found.source.partition(":")[0]
            return WeightsOrigin(path, raw, source, None, found.classes, found, name, about, reasons)
    bundle, _ = load_bundle(path)
    raw = RawWeights(dict(bundle.model.state_dict()), {}, "", ())
    return WeightsOrigin(path, raw, "vitrail", bundle.recipe, bundle.classes, None, name, bundle.origin, reasons)


def check_same(origin: WeightsOrigin, about: Mapping[str, Any]) -> None:
    """Errors: `CheckpointError` where the weights are not those that a run began with."""
    before, now = about.get("sha256"), origin.about.get("sha256")
    if before and now and before != now:
        raise CheckpointError(
            f"{origin.name} is another file now: its SHA-256 is {now}, the run began with {before}", "start a new run"
        )


def has_new_head(origin: WeightsOrigin | None, classes: tuple[str, ...], task: str, start: InitConfig) -> bool:
    """Whether initial weights are for other classes than a task's outputs, by their names, or treated so. Without
    classes, whether they are of another task."""
    if origin is None:
        return False
    is_other = not classes and origin.recipe is not None and origin.recipe.task.name != task
    return origin.classes != classes or is_other or start.head == "new"


def head_kind(name: str, keys: Mapping[str, Any]) -> str | None:
    """The kind of head that a recipe's task for masks or boxes has; None for a task of one kind."""
    kind: str | None = vars(Names().task(Choice(name, dict(keys)), 2).config).get("head")  # of any number of classes
    return kind


def inherit_settings(
    recipe: Recipe, origin: WeightsOrigin, channels: int, task: Task, has_new_head: bool = False
) -> tuple[Recipe, list[str]]:
    """The recipe with the model and preprocessing of the weights where no others were given, and the reasons.

    `channels` of the data: weights for fewer channels are widened rather than colour dropped; centre crops are not
    inherited for masks and boxes, which need whole images. has_new_head: for other classes; then how the model was
    regularised is not inherited.
    """
    reasons = [f"init.{line}" if line.startswith("weights") else line for line in origin.reasons]
    reasons = reasons or [f"init.weights = {origin.path}"]
    if origin.recipe is None:
        theirs, why = published_recipe(recipe, origin, channels, task)
    else:
        theirs, why = origin.recipe, "as the weights were trained"
    same = recipe.model.name in ("", theirs.model.name)
    keys = {**(transferable_keys(theirs.model.keys) if same else {}), **recipe.model.keys}
    if has_new_head:
        keys = {k: value for k, value in keys.items() if k not in OF_TRAINING or k in recipe.model.keys}
    chosen = Choice(recipe.model.name or theirs.model.name, keys)
    if chosen != recipe.model:
        shown = origin.identified.reasons if origin.identified and same else ()
        reasons.append(f"model = {chosen.name}: {shown[0] if shown else why}")
        reasons += [f"init.weights: {line}" for line in shown[1:]]
    chosen_task = recipe.task
    # the weights depend on the objective of a generative model, and on the layers of a head for masks, boxes or texts
    needed = task.is_generative or task.is_dense or (task.keeps_settings and not has_new_head)
    if same and chosen_task.name == theirs.task.name and needed:
        theirs_keys = transferable_keys(theirs.task.keys)
        head = head_kind(theirs.task.name, theirs_keys) if task.is_dense else None
        if head is not None:  # recipes name it where it is not the default
            theirs_keys = {"head": head, **theirs_keys}
        if chosen_task.keys.get("head", head) in (head, "auto"):  # else its other settings mean nothing
            given_keys = {k: v for k, v in chosen_task.keys.items() if (k, v) != ("head", "auto")}
            chosen_task = Choice(chosen_task.name, {**theirs_keys, **given_keys})
    given, inherited = recipe.input, {}
    other_channels = (given.channels or max(channels, theirs.input.channels)) != theirs.input.channels
    for one in dataclasses.fields(InputConfig):
        value = getattr(theirs.input, one.name)
        unfit = (other_channels and one.name in ("channels", "mean", "std")) or (
            task.is_dense and (one.name, value) == ("resize_mode", "crop")
        )
        if getattr(given, one.name) == one.default != value and not unfit:
            inherited[one.name] = value
    if inherited:
        reasons.append(f"input.{', input.'.join(inherited)}: {why}")
    start = dataclasses.replace(recipe.init, weights=origin.name or origin.path.absolute().as_posix())
    return dataclasses.replace(
        recipe, model=chosen, task=chosen_task, input=dataclasses.replace(given, **inherited), init=start
    ), reasons


def transferable_keys(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys of a model or task that hold for other data: all but what is about its classes, unless there are
    none."""
    return {k: value for k, value in keys.items() if k not in OF_CLASSES or value in (0, [], ())}


def published_recipe(recipe: Recipe, origin: WeightsOrigin, channels: int, task: Task) -> tuple[Recipe, str]:
    """The model and preprocessing of a published file, as it was identified. Its size is that of the images, unless
    typed. Errors: `UsageError` for a model of latents without the autoencoder that makes them."""
    assert origin.identified is not None
    found = origin.identified
    if task.is_generative and (recipe.input.vae is not None or found.input.channels > max(COLOURS, channels)):
        if recipe.input.vae is None:
            raise UsageError(
                f"{found.model.name} of these weights is for latents of {found.input.channels} channels, "
                "which an autoencoder makes of images",
                "--input.vae FOLDER: an AutoencoderKL as diffusers saves it, or a pipeline with one",
            )
        found = dataclasses.replace(found, input=InputConfig())  # that of the weights is of latents
    keys = {k: v for k, v in found.model.keys.items() if k not in ("size", "channels")}
    return Recipe(model=Choice(found.model.name, keys), input=found.input), found.input_reason


def load_origin(bundle: ModelBundle, origin: WeightsOrigin, start: InitConfig) -> LoadReport:
    """Loads the weights into a new model: tables, patches and channels are resampled; of the head what fits is taken,
    and the rest is new.

    Errors: `CheckpointError`, and then the model is as it was.
    """
    model, classes = bundle.model, bundle.classes
    if origin.recipe is not None:  # its names are ours
        chosen = MatchedTensors(origin.source, origin.raw.tensors, (), {}, origin.raw.notes)
    else:
        tables = weights_published.load_table(weights_published.family_of(model)).sources
        chosen = choose_source(model, origin.raw, tables, origin.source)
    if isinstance(model, Denoiser):
        return load_denoiser(model, origin, chosen, start, classes)
    own_head = head_of(model.state_dict(), model)
    taken = set() if start.head == "new" else fitting_head(bundle, origin, chosen, own_head)
    new = own_head.keys() - taken
    if start.head == "keep" and new:
        state = (
            f"for {len(origin.classes)} other classes"
            if origin.classes and origin.classes != classes
            else f"of another kind or missing: {list_names(new)}"
        )
        raise CheckpointError(f"the head in {origin.path} is {state}", "--init.head new re-initialises it")
    left_out = {
        name: "not for this task or these classes; new ones take their place"
        for name in chosen.tensors
        if name not in taken and is_of_head(name, model.state_dict(), model)
    }
    chosen = dataclasses.replace(chosen, tensors={n: t for n, t in chosen.tensors.items() if n not in left_out})
    report = load_tensors(model, origin.raw, chosen, LoadOptions(resize=True, new=frozenset(new)))
    return dataclasses.replace(report, left_out={**report.left_out, **left_out})


def fitting_head(
    bundle: ModelBundle, origin: WeightsOrigin, chosen: MatchedTensors, own: Mapping[str, Tensor]
) -> set[str]:
    """The names of the tensors of a head that a model can take over: those of the same shape in a head for the same
    kind of output, and for other classes only those that do not depend on the classes.

    The classes are the same by name where names are known, else by their number.
    """
    if origin.recipe is not None:
        their_task = Names().task(origin.recipe.task, len(origin.classes or ()), bundle.task.multi_label)
        is_same_kind, same_classes = their_task.output == bundle.task.output, origin.classes == bundle.classes
    else:
        head = chosen.tensors.get("heads.0.weight")
        is_same_kind = bundle.task.is_classifier
        same_classes = head is not None and head.shape[0] == len(bundle.classes)
        if origin.classes is not None:
            same_classes = origin.classes == bundle.classes
    if not is_same_kind:
        return set()
    fitting = {n for n, t in own.items() if n in chosen.tensors and chosen.tensors[n].shape == t.shape}
    return fitting if same_classes else fitting - class_dependent(bundle)


def load_denoiser(
    model: Any, origin: WeightsOrigin, chosen: MatchedTensors, start: InitConfig, classes: tuple[str, ...]
) -> LoadReport:
    """The same for a denoiser. In place of a head it has an embedding of each class and a last one for no class:
    classes that the weights know by name keep theirs, others start from that of no class."""
    table, own = chosen.tensors.get("label.weight"), model.label.weight
    names = (
        origin.classes
        if origin.classes is not None
        else classes
        if table is not None and len(table) == len(classes) + 1
        else ()
    )
    wanted = classes if model.null else ()
    theirs = names if table is not None and len(table) == len(names) + 1 else ()
    if start.head == "keep" and wanted != theirs:
        state = f"for {len(theirs)} other classes" if theirs else "missing"
        raise CheckpointError(
            f"the class embedding in {origin.path} is {state}", "--init.head auto keeps classes of the same name"
        )
    if table is None or table.shape[1:] != own.shape[1:]:
        return load_tensors(model, origin.raw, chosen, LoadOptions(resize=True))  # its error names what does not fit
    kept = [theirs.index(name) if name in theirs and start.head != "new" else -1 for name in wanted]
    tensors = {**chosen.tensors, "label.weight": table[[*kept, -1]]}
    report = load_tensors(model, origin.raw, dataclasses.replace(chosen, tensors=tensors), LoadOptions(resize=True))
    fresh = kept.count(-1)
    note = f"{len(kept) - fresh} of {len(kept)} classes are known by name; the others start from that of no class"
    return dataclasses.replace(report, notes=(*report.notes, *([note] if fresh else [])))

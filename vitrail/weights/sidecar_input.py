"""The preprocessing of images that a sidecar states, as the keys of `[input]`: transformers' preprocessor_config.json,
timm's `pretrained_cfg`, OpenCLIP's `preprocess_cfg`."""

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from vitrail.errors import CheckpointError
from vitrail.weights.preprocessing import OPENAI
from vitrail.weights.sidecars import Pixels, Sidecar, checked, look_up

Mean = tuple[Annotated[float, Ge(0), Le(1)], ...]
Std = tuple[Annotated[float, Gt(0), Le(1000)], ...]
Crop = Annotated[float, Gt(0), Le(1)]
Factor = Annotated[float, Gt(0), Le(1)]
PIL = {2: "bilinear", 3: "bicubic"}  # transformers writes Pillow's numbers
WORDS = {"bilinear": "bilinear", "bicubic": "bicubic", "random": "bicubic"}
NEAREST = {1: "bicubic", "lanczos": "bicubic", "lanczos3": "bicubic", "hamming": "bilinear", 5: "bilinear"}
MODES = {"center": "crop", "squash": "stretch", "border": "fit"}  # timm's
OPEN_MODES = {"shortest": "crop", "squash": "stretch", "longest": "fit"}  # OpenCLIP's


def read_input(sidecar: Sidecar) -> dict[str, Any]:
    """The keys of `[input]` that the sidecar states: mean, std, size, resize_mode, crop_ratio, interpolation. Errors:
    `CheckpointError` that names the field."""
    if sidecar.writer == "timm":
        return read_timm(sidecar)
    if sidecar.writer == "open_clip":
        return read_open_clip(sidecar)
    return read_transformers(sidecar) if sidecar.preprocessing else {}


def read_open_clip(sidecar: Sidecar) -> dict[str, Any]:
    """preprocess_cfg, whose keys have OpenAI's values where they are left out; the size is that of the image tower."""

    def get(kind: Any, name: str) -> Any:
        return sidecar.get(kind, f"preprocess_cfg.{name}")

    found: dict[str, Any] = OPENAI._asdict()
    found |= {name: value for name, kind in (("mean", Mean), ("std", Std)) if (value := get(kind, name)) is not None}
    for name, theirs, words in (("interpolation", "interpolation", WORDS), ("resize_mode", "resize_mode", OPEN_MODES)):
        if (word := get(str, theirs)) is not None:
            found[name] = choose(word, words, sidecar.path_of(f"preprocess_cfg.{theirs}"))
    size = sidecar.get(Pixels | tuple[Pixels, Pixels], "model_cfg.vision_cfg.image_size")
    return found if size is None else {**found, "size": (size, size) if isinstance(size, int) else tuple(size)}


def read_timm(sidecar: Sidecar) -> dict[str, Any]:
    """pretrained_cfg, whose keys older files have beside it. A `first_conv` of other channels has statistics of its
    own."""

    def get(kind: Any, name: str) -> Any:
        return sidecar.get(kind, f"pretrained_cfg.{name}", name)

    found: dict[str, Any] = {"mean": get(Mean, "mean"), "std": get(Std, "std"), "crop_ratio": get(Crop, "crop_pct")}
    size = get(tuple[Pixels, Pixels, Pixels], "input_size")
    found["size"] = None if size is None else size[1:]
    if (word := get(str, "interpolation")) is not None:
        found["interpolation"] = choose(word, {**WORDS, **NEAREST}, sidecar.path_of("interpolation"))
    if (mode := get(str, "crop_mode")) is not None:
        found["resize_mode"] = choose(mode, MODES, sidecar.path_of("crop_mode"))
    elif found["crop_ratio"] is not None:
        found["resize_mode"] = "crop"
    return {key: value for key, value in found.items() if value is not None}


def read_transformers(sidecar: Sidecar) -> dict[str, Any]:
    """preprocessor_config.json: resize, crop, rescale, normalise, each of which can be off."""
    where = f"{sidecar.where or '.'}/preprocessor_config.json"
    own = sidecar.preprocessing

    def get(kind: Any, name: str) -> Any:
        value = look_up(own, name)
        return None if value is None else checked(value, kind, f"{name} in {where}")

    found: dict[str, Any] = {}
    mean, std = get(Mean, "image_mean"), get(Std, "image_std")
    if get(bool, "do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    factor = get(Factor, "rescale_factor") if get(bool, "do_rescale") is not False else None
    if mean is not None and std is not None:
        scale = 255 * factor if factor is not None else 1.0
        found["mean"], found["std"] = (
            tuple(v / scale if abs(scale - 1) > 1e-4 else v for v in vs) for vs in (mean, std)
        )
        checked(found["mean"], Mean, f"rescale_factor in {where} makes a mean that")
    if (resample := get(Annotated[int, Ge(0), Le(5)], "resample")) is not None:
        found["interpolation"] = choose(resample, {**PIL, **NEAREST}, f"resample in {where}")
    return {**found, **read_size(get, where)}


def read_size(get: Any, where: str) -> dict[str, Any]:
    """size, resize_mode and crop_ratio of transformers, whose `size` is a number, height and width, or the length
    of the shortest edge, and whose crop can be off."""
    size, crop = sides(get, "size", where), sides(get, "crop_size", where)
    resizes, crops = get(bool, "do_resize") is not False, get(bool, "do_center_crop")
    shortest = get(Pixels, "size.shortest_edge") if isinstance(get(Any, "size"), dict) else None
    if crops is None:
        crops = crop is not None and (shortest is not None or size is None or crop != size)
    if (part := get(Crop, "crop_pct")) is not None and shortest is not None:  # ConvNeXt, PVT: the size after the crop
        return {"size": (shortest, shortest), "resize_mode": "crop", "crop_ratio": part}
    if not resizes:
        return {} if crop is None else {"size": crop, "resize_mode": "crop", "crop_ratio": 1.0}
    before = shortest if shortest is not None else None if size is None else min(size)
    if crops and crop is not None and before is not None:
        return {"size": crop, "resize_mode": "crop", "crop_ratio": min(1.0, min(crop) / before)}
    if shortest is not None:
        return {"size": (shortest, shortest), "resize_mode": "crop", "crop_ratio": 1.0}
    return {} if size is None else {"size": size, "resize_mode": "stretch"}


def sides(get: Any, name: str, where: str) -> tuple[int, int] | None:
    """(height, width) of a size that is a number, a list of two, or an object with height and width."""
    value = get(Any, name)
    if isinstance(value, dict):
        height, width = get(Pixels, f"{name}.height"), get(Pixels, f"{name}.width")
        return None if height is None or width is None else (height, width)
    if isinstance(value, list):
        pair: tuple[int, int] = checked(value, tuple[Pixels, Pixels], f"{name} in {where}")
        return pair
    return None if value is None else (checked(value, Pixels, f"{name} in {where}"),) * 2


def choose(value: Any, known: dict[Any, str], where: str) -> str:
    if value in known:
        return known[value]
    words = ", ".join(str(word) for word in known)
    raise CheckpointError(f"{where} is {value!r}, which is not here", f"one of {words}; correct it, or remove the file")

"""What an exported file says of itself: for programs in `model.json`, in plain words there and in the file."""

from typing import Any

from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.inference.exported import ExportInfo
from vitrail.inference.graph import InferenceGraph
from vitrail.storage.json_text import to_json
from vitrail.version import __version__

RESIZE = {  # by `Preprocess.resize_mode`: what is done outside, before an image goes in
    "stretch": "resize to {h} x {w} (height x width), whatever the aspect ratio",
    "crop": "resize so that height x {crop} >= {h} and width x {crop} >= {w}, the smaller such image; "
            "crop {h} x {w} from its centre",
    "fit": "resize in its aspect ratio to fit into {h} x {w}; pad below and to the right with {colour}",
    "slide": "resize in its aspect ratio to cover {h} x {w}; cut it into windows of {h} x {w} that overlap by a third",
    "tile": "keep its size; pad to at least {h} x {w} with {colour}; cut it into windows of {h} x {w} "
            "that overlap by a third",
}  # fmt: skip
ANSWERS = {
    "probabilities": "float32 [batch, {classes}], one for each class",
    "logits": "float32 [batch, {classes}, height, width], before softmax",
    "masks": "uint8 [batch, height, width], the index of the likeliest class of each pixel",
    "boxes": "float32 [batch, boxes, 6]: left, top, right, bottom in pixels, score, index of the class; best first",
    "features": "float32 [batch, features], of the whole image",
    "attention": "float32 [batch, rows, columns]: the share of each cell of the image in the answer (rollout)",
}


SUPPRESSION = (
    "; candidates: of two of a class whose intersection over union is above {nms_iou:g} the better one counts, from "
    "the best on (non-maximum suppression, which is not in the file)"
)


def describe_outputs(bundle: ModelBundle, info: ExportInfo) -> dict[str, str]:
    """What each output is, in a sentence; of boxes that hold duplicates, how they are left out."""
    rule = "" if bundle.task.nms_iou is None else SUPPRESSION.format(nms_iou=bundle.task.nms_iou)
    ends = {name: rule if name == info.outputs[0] else "" for name in info.outputs}
    texts = {name: ANSWERS[name].format(classes=len(bundle.classes)) + end for name, end in ends.items()}
    return texts if info.any_batch else {name: text.replace("[batch,", "[1,") for name, text in texts.items()}


def new_info(
    bundle: ModelBundle,
    graph: InferenceGraph,
    export_format: str,
    file: str,
    source_sha256: str,
    any_batch: bool = True,
) -> ExportInfo:
    """What is known of an export before its file is written."""
    return ExportInfo(
        file=file,
        export_format=export_format,
        inputs=graph.input_names,
        outputs=graph.names,
        image_type=graph.image_type,
        size=graph.size,
        any_size=graph.any_size,
        sha256="",
        source_sha256=source_sha256,
        version=__version__,
        licence=str(bundle.origin.get("licence", "")),
        any_batch=any_batch,
    )


def describe_resize(pre: Preprocess) -> str:
    """How an image becomes one that the file takes, in a sentence."""
    rule = RESIZE[pre.resize_mode].format(
        h=pre.size[0], w=pre.size[1], crop=f"{pre.crop_ratio:g}", colour=list(pre.padding_color)
    )
    return f"{rule}; {pre.interpolation} with antialiasing, rounded to uint8"


def describe_input(bundle: ModelBundle, info: ExportInfo) -> dict[str, Any]:
    """Input and outputs in plain words, for the sidecar; none of a file that computes nothing."""
    if not info.inputs:
        return {}
    pre = build_preprocess(bundle.recipe.input)
    values = "uint8, 0 to 255" if info.image_type == "uint8" else "float32, 0 to 1"
    sides = ["any height", "any width"] if info.any_size else list(info.size)
    count = "batch" if info.any_batch else 1
    images = {
        "shape": [count, pre.channels, *sides], "values": values,
        "channels": {1: "grey", 3: "RGB"}.get(pre.channels, f"{pre.channels} channels"),
        "resize": describe_resize(pre),
        "inside": {"mean": list(pre.mean), "std": list(pre.std), "of": "pixels in [0, 1]; do not normalise before"},
    }  # fmt: skip
    inputs = {"images": images}
    if "sizes" in info.inputs:
        inputs["sizes"] = {
            "shape": [count, 2], "values": "int64: height and width of each image without padding"
        }  # fmt: skip
    return {"inputs": inputs, "outputs": describe_outputs(bundle, info)}


def file_metadata(bundle: ModelBundle, info: ExportInfo) -> dict[str, str]:
    """Texts for the metadata of the file itself: they say what the sidecar does, should it get lost."""
    pre = build_preprocess(bundle.recipe.input)
    return {
        "classes": to_json(list(bundle.classes)),
        "multi_label": to_json(bundle.task.multi_label),
        "task": bundle.recipe.task.name,
        "model": bundle.recipe.model.name,
        "mean": to_json(list(pre.mean)),
        "std": to_json(list(pre.std)),
        "normalised": "inside the model",
        "size": to_json(list(info.size)),
        "any_size": to_json(info.any_size),
        "image_type": info.image_type,
        "channels": to_json(pre.channels),
        "resize": describe_resize(pre),
        "outputs": to_json(describe_outputs(bundle, info)),
        **({} if bundle.task.nms_iou is None else {"nms_iou": to_json(bundle.task.nms_iou)}),
        "licence": info.licence or "not stated",
        "version": f"vitrail {info.version}",
        "source_sha256": info.source_sha256,
    }

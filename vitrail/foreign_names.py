"""Names of models in timm, torchvision, transformers and the papers' repositories, answered with ours.

One rule a family, not a list of names: a rule reads size, patch, window and image size out of a name, so that names
that do not exist yet are read as well.

>>> translate("vit_base_patch32_384.augreg_in21k_ft_in1k", ["vit/base"])
Model(name='vit/base', keys={'patch': 32, 'size': 384})
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from vitrail.errors import UsageError

LETTERS = {"ti": "tiny", "t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
SIZE = "(?P<size>tiny|small|medium|base|large|huge|giant|gigantic)"
PIXELS = r"(?:_(?P<pixels>\d{3,4}))?"
TAGS = r"(?:_(?:in1k|in21k|in22k|1k|22k|22kto1k|ft))*"  # what weights were trained on: the architecture is the same
CONVOLUTIONAL = (
    "net|nest|incep|next|nas|conv|vgg|dark|dla|dpn|rcnn|xception|ssd|raft|3d|2plus1d|mc3"  # in names elsewhere
)
OTHER_KINDS = "vit|tnt|pit_|vim|former|beit|eva|hiera|clip|dino|cait|coat|xcit|mixer|mlp|twins|volo|aim|mamba|sequencer"


TASKS = {  # methods by the names of their papers: our tasks
    "dino": "self_distillation", "lejepa": "joint_embedding", "sigreg": "joint_embedding", "jepa": "joint_embedding",
    "mae": "masked_autoencoding", "clip": "contrastive", "siglip": "contrastive", "deit": "distillation",
    "detr": "detection", "fcos": "detection", "ddpm": "diffusion",
}  # fmt: skip


class Model(NamedTuple):
    """A model of ours, and the keys of its `Config` that differ from its defaults."""

    name: str
    keys: Mapping[str, Any]

    def as_flags(self) -> str:
        """`--model vit/base --model.patch 32 --img-size 384`."""
        words = {"size": "--img-size"}
        flags = [f"{words.get(k, f'--model.{k}'.replace('_', '-'))} {as_word(v)}" for k, v in self.keys.items()]
        return " ".join([f"--model {self.name}", *flags])

    def as_call(self) -> str:
        """`vitrail.create("vit/base", patch=32, size=384)`."""
        return f'vitrail.create("{self.name}"{"".join(f", {k}={v!r}" for k, v in self.keys.items())})'


def refuse_method(floor: str, name: str, tasks: Iterable[str]) -> None:
    """Errors: `UsageError` for a method by the name of its paper in place of a task. tasks: the names of ours."""
    if floor == "tasks" and name not in tasks and (task := TASKS.get(name.lower())):
        raise UsageError(f"{name} is the task {task} here", f"--task {task}")


class Answer(NamedTuple):
    what: str
    fix: str


def answer(name: str, ours: Iterable[str]) -> Answer | None:
    """What to say about a name of another library; None for any other text. ours: the names of all our models."""
    ours = list(ours)
    if any(name.lower().startswith(f"{n.partition('/')[0]}/") for n in ours):
        return None  # a misspelling of one of ours
    if model := translate(name, ours):
        return Answer(f"{name} is {model.name} here: {model.as_flags()}", f"in Python: {model.as_call()}")
    near = nearest_kind(name, ours)
    if not near:
        return None
    return Answer(
        f"there is no {name} here; the nearest models are {', '.join(near)}",
        f"--model {near[0]}; vitrail models lists them all",
    )


def translate(name: str, ours: Iterable[str]) -> Model | None:
    """Our model of the same architecture; None where there is none."""
    text, ours = normalise(name), {n.replace("/", "_"): n for n in ours}
    if text in ours:
        return Model(ours[text], {})
    for pattern, read in RULES:
        if match := re.fullmatch(pattern + TAGS, text):
            model = read({k: v for k, v in match.groupdict().items() if v is not None})
            if model.name in ours.values():
                return model
    return None


def normalise(name: str) -> str:
    """A name without its hub, organisation and training tag, in lower case, with _ between its parts."""
    text = re.sub(r"^(hf[-_]hub:|torchvision[./](models[./])?|timm[./])", "", name.strip().lower())
    text = re.sub(r"^[\w-]+/(?=[a-z]\w*[-_\d])", "", text)  # google/vit-base-patch16-224; not DiT-XL/2
    return re.sub(r"[-_/ ]+", "_", re.sub(r"\..*$", "", text)).strip("_")


def nearest_kind(name: str, ours: list[str]) -> list[str]:
    """Models of the kind of a foreign name that we have not, at most three; none for a name that is no such one."""
    text = normalise(name)
    parts = text.split("_")
    numbers = re.findall(r"\d+", text)
    if len(parts) < 2 and not numbers:
        return []
    head = re.sub(r"(?<!v)\d+\w*$", "", parts[0])
    size = next((LETTERS.get(p, p) for p in parts[1:] if f"vit/{LETTERS.get(p, p)}" in ours), "small")
    if room := {"vit": "vit", "deit": "deit", "swin": "swin", "swinv2": "swin_v2", "resnet": "resnet"}.get(head):
        own = [n for n in ours if n.startswith(f"{room}/")]
        same = [n for n in own if n.partition("/")[2] in (size, f"{size}_w8", *numbers)]
        return (same or own[:3]) if numbers else []  # vit_bse is a misspelling
    if any(f"{text}_".startswith(f"{n.partition('/')[0]}_") for n in ours):
        return []  # a misspelling of one of ours
    if re.search(OTHER_KINDS, text):
        return [n for n in (f"vit/{size}", f"swin/{size}") if n in ours]
    if re.search(CONVOLUTIONAL, text):
        return [n for n in ("resnet/50", "mobilevit/s", f"vit/{size}") if n in ours]
    return []


def as_word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def vit(found: dict[str, str]) -> Model:
    size = LETTERS.get(found["size"], found["size"])
    patch = 14 if size in ("huge", "giant", "gigantic") else 16
    keys: dict[str, Any] = {"patch": int(found.get("patch", patch))}
    keys = {k: v for k, v in keys.items() if v != patch}
    if "dino" in found and size not in ("small", "base", "large"):
        return Model("", {})  # DINOv2's giant has SwiGLU and another width
    if "dino" in found:  # the weights of DINOv2, with LayerScale, on images of 518 pixels
        keys |= {"patch": 14, "size": 518, "layer_scale": 1e-5}
        keys |= {"registers": 4, "position_tokens": False} if "registers" in found else {}
    return Model(f"vit/{size}", {**keys, **pixels_of(found, 224)})


def relpos(found: dict[str, str]) -> Model:
    size, tokens = found["size"], int("cls" in found)
    hidden = (
        {"small": 384, "medium": 512}.get(size, 128)
        if "shared" in found
        else 256
        if (size, tokens) == ("medium", 1)
        else 128
    )
    keys: dict[str, Any] = {"position": "relative_log", "qkv_bias": False, "tokens": tokens, "relative_width": hidden}
    keys |= {"norm_at": "branch"} if "rpn" in found else {"layer_scale": 1e-6}
    normed_after = not {"shared", "rpn"} & found.keys() and found.get("cls") != "_cls"
    return Model(f"vit/{size}", {**keys, **({"pool": "mean", "fc_norm": True} if normed_after else {})})


def clip(found: dict[str, str]) -> Model:
    size, patch, pixels = found["size"], found.get("patch"), int(found.get("pixels", 224))
    exact = "timm" in found and "quick" not in found and size in ("base", "large")
    larger = "_32" if patch == "32" else "_336" if (size, pixels, exact) == ("large", 336, False) else ""
    keys = {} if larger == "_336" else pixels_of(found, 224)
    return Model(f"clip/{'open_' * exact}{size}{larger}", keys)


def siglip(found: dict[str, str]) -> Model:
    size, patch, pixels = found["size"].removesuffix("opt").strip("_"), found["patch"], found.get("pixels", "224")
    pixels = "378" if (size, patch, pixels) == ("so400m", "14", "384") else pixels
    parts = [size, *([patch] if (size, patch) in (("base", "32"), ("so400m", "16")) else [])]
    parts += [] if pixels == "224" else [pixels]
    return Model(f"siglip/{'_'.join(parts)}", {"pool": "mean"} if "gap" in found else {})


def dinov3(found: dict[str, str]) -> Model:
    size = LETTERS.get(found["size"], found["size"])
    keys = {"qkv_bias": False} if "timm" in found and "bias" not in found else {}
    return Model(f"dinov3/{size}{'_plus' * ('plus' in found)}", keys)


def beit(found: dict[str, str]) -> Model:
    larger = f"_{found['pixels']}" if found.get("pixels", "224") != "224" else ""
    return Model(f"beit/{'v2_' * ('two' in found)}{found['size']}{larger}", {})


def eva(found: dict[str, str]) -> Model:
    larger = f"_{found['pixels']}" if found.get("pixels", "224") != "224" else ""
    return Model(f"eva/{'02_' * ('two' in found)}{found['size']}{'_clip' * ('clip' in found)}{larger}", {})


def deit(found: dict[str, str]) -> Model:
    three, distilled = "3_" if "three" in found else "", "_distilled" if "distilled" in found else ""
    larger = "_384" if found.get("pixels") == "384" else ""
    return Model(f"deit/{three}{LETTERS.get(found['size'], found['size'])}{distilled}{larger}", {})


def rope(found: dict[str, str]) -> Model:
    return Model(f"deit/rope_{'ape_' * ('ape' in found)}{found['size']}", {})


def hybrid(found: dict[str, str]) -> Model:
    larger = "_384" if found.get("pixels") == "384" else ""
    return Model(f"hybrid/r{found.get('depth', '')}_{found['size']}{larger}", {})


def swin(found: dict[str, str]) -> Model:
    size, window, pixels = LETTERS.get(found["size"], found["size"]), found.get("window", "7"), found.get("pixels")
    return Model(f"swin/{size}_384" if (window, pixels) == ("12", "384") else f"swin/{size}",
                 {} if (window, pixels) in (("7", None), ("7", "224"), ("12", "384")) else
                 {"window": int(window), **pixels_of(found, 224)})  # fmt: skip


def swin_v2(found: dict[str, str]) -> Model:
    window, pixels = found.get("window", "8"), found.get("pixels", "256").rpartition("to")[2]
    end = {"8": "", "16": ""}.get(window, f"_{pixels}")
    return Model(f"swin_v2/{LETTERS.get(found['size'], found['size'])}_w{window}{end}", {})


def crossvit(found: dict[str, str]) -> Model:
    dagger, larger = "_dagger" if "dagger" in found else "", "_384" if found.get("pixels") == "408" else ""
    return Model(f"crossvit/{found['size']}{dagger}{larger}", {})


def of_family(family: str, default: int = 224) -> Callable[[dict[str, str]], Model]:
    """The rule of a family whose names only have a size."""
    return lambda found: Model(f"{family}/{LETTERS.get(found['size'], found['size'])}", pixels_of(found, default))


def mobilevit(found: dict[str, str]) -> Model:
    return Model(f"mobilevit/{found['size'].replace('small', 's').replace('_', '')}", {})


def samvit(found: dict[str, str]) -> Model:
    size = LETTERS.get(found["size"], found["size"])
    return Model(f"samvit/{size}{'_224' if found.get('pixels') == '224' else ''}", {})


def tiny_vit(found: dict[str, str]) -> Model:
    return Model(f"tiny_vit/{found['size']}{'' if found['pixels'] == '224' else '_' + found['pixels']}", {})


def denoiser(found: dict[str, str]) -> Model:
    size = found["size"] if found["size"] == "xl" else LETTERS.get(found["size"], found["size"])
    keys = {"size": 64} if (found["kind"], found.get("pixels")) == ("dit", "512") else {}
    return Model(f"{found['kind']}/{size}_{found['patch']}", keys)


def pixels_of(found: dict[str, str], default: int) -> dict[str, int]:
    pixels = int(found.get("pixels", default))
    return {} if pixels == default else {"size": pixels}


RULES: tuple[tuple[str, Callable[[dict[str, str]], Model]], ...] = (
    (rf"vit_{SIZE}_patch(?P<patch>\d+)(?:(?P<registers>_reg4)?(?P<dino>_dinov2))?{PIXELS}", vit),
    (r"vit_(?P<shared>s)?relpos_(?P<size>small|medium|base)_patch16(?P<cls>_cls(?:gap)?)?(?P<rpn>_rpn)?_224", relpos),
    (rf"(?P<timm>vit)_{SIZE}_patch(?P<patch>\d+)_clip(?P<quick>_quickgelu)?{PIXELS}", clip),
    (rf"clip_vit_{SIZE}_patch(?P<patch>\d+){PIXELS}", clip),  # transformers
    (rf"vit_(?P<size>base|large|so400m|giantopt)_patch(?P<patch>\d+)_siglip(?P<gap>_gap)?{PIXELS}", siglip),
    (rf"siglip2?_(?P<size>base|large|so400m|giant_opt)_patch(?P<patch>\d+){PIXELS}", siglip),
    (r"(?P<timm>vit)_(?P<size>small|base|large|huge|7b)(?P<plus>_plus)?_patch16_dinov3(?P<bias>_qkvb)?", dinov3),
    (r"dinov3_vit(?P<size>[sblh]|7b)16(?P<plus>plus)?(?:_pretrain_[a-z0-9]+)?", dinov3),  # transformers, torch.hub
    (rf"beit(?P<two>v2)?_(?P<size>base|large)_patch16{PIXELS}(?:_pt22k)?(?:_ft22k(?:to1k)?)?", beit),
    (rf"eva(?P<two>02)?_(?P<size>tiny|small|base|large|giant|enormous)_patch(?:14|16)(?P<clip>_clip)?{PIXELS}", eva),
    (rf"vit_?(?P<size>ti|[sblhg])_?(?P<patch>\d+){PIXELS}", vit),  # torchvision, papers: vit_b_16, ViT-B/16
    (r"dino_?vit_?(?P<size>[sb])_?(?P<patch>\d+)", vit),  # torch.hub: dino_vits16
    (r"(?P<dino>dinov2)_(?:with_(?P<registers>registers)_)?(?P<size>small|base|large)", vit),  # transformers
    (r"(?P<dino>dinov2)_vit(?P<size>[sbl])14(?:_(?P<registers>reg))?", vit),  # torch.hub
    (rf"deit(?P<three>3)?_{SIZE}(?P<distilled>_distilled)?_patch(?:16|14){PIXELS}", deit),
    (r"vit_(?P<size>small|base|large)_patch16_rope(?P<ape>_ape)?_224", rope),
    (rf"vit_(?P<size>tiny|small|base|large)_r(?P<depth>26|50)?_s(?:16|32)(?:_p8)?{PIXELS}", hybrid),
    (r"vit_hybrid_(?P<size>base)_bit_(?P<pixels>384)", lambda found: hybrid({**found, "depth": "50"})),
    (rf"swin_{SIZE}(?:_patch4)?_window(?P<window>\d+){PIXELS}", swin),
    (r"swin_(?P<size>[tsbl])", swin),  # torchvision
    (rf"swin_?v2_{SIZE}(?:_patch4)?_window(?P<window>\d+(?:to\d+)?)_(?P<pixels>\d+(?:to\d+)?)", swin_v2),
    (r"swin_v2_(?P<size>[tsb])", swin_v2),
    (rf"crossvit_(?P<size>tiny|small|base|9|15|18)(?P<dagger>_dagger)?{PIXELS}", crossvit),
    (rf"pvt_?v2_(?P<size>b\d(?:_li)?)(?:near)?{PIXELS}", of_family("pvt_v2")),
    (rf"pvt_(?P<size>tiny|small|medium|large){PIXELS}", of_family("pvt")),
    (rf"efficientvit_(?P<size>[bl]\d){PIXELS}", of_family("efficientvit")),
    (r"efficientvit_(?P<size>m\d)", of_family("efficientvit_msra")),
    (r"mobilevit_(?P<size>(?:x{1,2}_?)?s(?:mall)?)", mobilevit),
    (r"tiny_vit_(?P<size>5m|11m|21m)_(?P<pixels>224|384|512)", tiny_vit),
    (rf"samvit_(?P<size>base|large|huge)_patch16{PIXELS}", samvit),
    (r"sam_vit_(?P<size>base|large|huge|[blh])(?:_[0-9a-f]{6})?", samvit),  # transformers, and the original's files
    (r"resnet_?(?P<size>18|34|50|101|152)", of_family("resnet")),
    (rf"(?P<kind>dit)_(?P<size>xl|[sbl])_(?P<patch>\d+){PIXELS}(?:x\d+)?", denoiser),
    (rf"(?P<kind>jit)_(?P<size>[blhg])_(?P<patch>\d+){PIXELS}", denoiser),
)

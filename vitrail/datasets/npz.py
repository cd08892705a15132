"""One NPZ file in the format of MedMNIST (Yang et al. 2023, arXiv:2110.14795): `train_images`, `train_labels`, ..."""

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data.dataset import ArrayReader, Dataset, Entry, Split
from vitrail.data.files import suggest_path
from vitrail.data.levels import scale_to_bytes, value_range
from vitrail.data.survey.advice import advise_on_range
from vitrail.errors import BadImage, DataError

PARTS = ("train", "val", "test")
LARGEST = 2**34  # bytes of all arrays, unpacked
LAYOUT = "the file has train_images [N H W] or [N H W C] and train_labels [N], [N 1] or [N K]; likewise val_ and test_"
ORGANS = "bladder|femur-left|femur-right|heart|kidney-left|kidney-right|liver|lung-left|lung-right|pancreas|spleen"
NAMES = {  # as in the publication; retinamnist's five grades have numbers only
    "pathmnist": "adipose|background|debris|lymphocytes|mucus|smooth muscle|normal colon mucosa"
    "|cancer-associated stroma|colorectal adenocarcinoma epithelium",
    "chestmnist": "atelectasis|cardiomegaly|effusion|infiltration|mass|nodule|pneumonia|pneumothorax|consolidation"
    "|edema|emphysema|fibrosis|pleural|hernia",
    "dermamnist": "actinic keratoses and intraepithelial carcinoma|basal cell carcinoma|benign keratosis-like lesions"
    "|dermatofibroma|melanoma|melanocytic nevi|vascular lesions",
    "octmnist": "choroidal neovascularization|diabetic macular edema|drusen|normal",
    "pneumoniamnist": "normal|pneumonia",
    "breastmnist": "malignant|normal, benign",
    "bloodmnist": "basophil|eosinophil|erythroblast|immature granulocytes|lymphocyte|monocyte|neutrophil|platelet",
    "tissuemnist": "Collecting Duct, Connecting Tubule|Distal Convoluted Tubule|Glomerular endothelial cells"
    "|Interstitial endothelial cells|Leukocytes|Podocytes|Proximal Tubule Segments|Thick Ascending Limb",
    "organamnist": ORGANS,
    "organcmnist": ORGANS,
    "organsmnist": ORGANS,
}


@dataclass(frozen=True)
class Config:
    path: str = ""
    classes: tuple[str, ...] = ()  # names of classes; empty: as published if the file's name is known, else 0, 1, ...


def matches(path: str) -> bool:
    """A file that ends in .npz."""
    return path.lower().endswith(".npz") and Path(path).expanduser().is_file()


def build(config: Config) -> Dataset:
    """The images as uint8 arrays; above 8 bits scaled by the rule of `decode`, one range for all."""
    path = Path(config.path).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file", suggest_path(path))
    arrays = _arrays(path)
    images = {part: _images(path, part, arrays) for part in PARTS if f"{part}_images" in arrays}
    labels = {part: _labels(path, part, arrays, len(images[part])) for part in images}
    if not images:
        raise DataError(f"{path} has no train_images (it has {', '.join(sorted(arrays)) or 'nothing'})", LAYOUT)
    if len({(a.shape[3], y.shape[1:]) for a, y in zip(images.values(), labels.values(), strict=True)}) > 1:
        raise DataError(f"{path}: the splits differ in channels or in the shape of labels", LAYOUT)
    try:
        images, notes = _eight_bits(images)
    except BadImage as error:
        raise DataError(f"{path} {error.what}", error.fix) from None
    classes = config.classes or _classes(path, labels)
    _check_range(path, labels, classes)
    splits = {
        part: Split([f"{part}/{i}" for i in range(len(a))], labels[part], ArrayReader(a)) for part, a in images.items()
    }
    stat = path.stat()
    return Dataset(
        "npz",
        tuple(classes),
        splits,
        next(iter(images.values())).shape[3],
        (Entry(path.name, stat.st_size, stat.st_mtime_ns),),
        tuple(notes),
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the splits. The unpacked size is checked first, in the zip's directory and array headers."""
    try:
        with zipfile.ZipFile(path) as file:
            members = [m for m in file.infolist() if m.filename.removesuffix(".npy") in _array_names()]
            sizes = {m.filename: max(m.file_size, _unpacked_bytes(file, m)) for m in members}
            if (total := sum(sizes.values())) > LARGEST:
                raise DataError(
                    f"{path} unpacks to {total:,} bytes, more than {LARGEST:,}",
                    "store the images smaller, or as files in folders",
                )
            arrays = {}
            for m in members:
                if sizes[m.filename] > m.file_size:
                    raise ValueError(f"{m.filename} claims {sizes[m.filename]:,} bytes and has {m.file_size:,}")
                with file.open(m) as member:
                    arrays[m.filename.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
            return arrays or dict.fromkeys((m.filename for m in file.infolist()), np.empty(0))
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        SyntaxError,
        tokenize.TokenError,  # of the header of an array, which is a literal of Python
    ) as error:
        text = (str(error).splitlines() or ["it cannot be read"])[0]
        raise DataError(
            f"{path} is truncated or not an NPZ file of numbers: {text[:120]}", "download or create the file again"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from None


def _array_names() -> set[str]:
    return {f"{part}_{kind}" for part in PARTS for kind in ("images", "labels")}


def _unpacked_bytes(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes by the array's header. Raises ValueError for arrays of Python objects, which require unpickling."""
    with file.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} has Python objects, not numbers")
    return int(np.prod(shape, dtype=object)) * dtype.itemsize


def _images(path: Path, part: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """[N H W C], of whatever type."""
    array = arrays[f"{part}_images"]
    shape = " x ".join(map(str, array.shape))
    if path.stem.lower().split("_")[0].endswith("3d") and array.ndim >= 4:
        raise DataError(f"{path} has volumes, not images: {part}_images is {shape}", "use a set of images")
    if array.ndim not in (3, 4) or array.size == 0:
        raise DataError(f"{path}: {part}_images is {shape}, not [N H W] or [N H W C]", LAYOUT)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: {part}_images has the dtype {array.dtype}, not pixel values", LAYOUT)
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] > 4:
        raise DataError(
            f"{path}: {part}_images is {shape}: the channels are the second axis",
            "move them last: images.transpose(0, 2, 3, 1)",
        )
    return array if array.ndim == 4 else array[..., None]


def _labels(path: Path, part: str, arrays: dict[str, np.ndarray], count: int) -> np.ndarray:
    """int64 [N], or uint8 [N K] with zeros and ones."""
    name = f"{part}_labels"
    if name not in arrays:
        raise DataError(f"{path} has {part}_images but no {name}", LAYOUT)
    labels = arrays[name]
    if labels.dtype.kind not in "biu" or labels.ndim not in (1, 2) or labels.size == 0:
        raise DataError(
            f"{path}: {name} is {labels.dtype} {list(labels.shape)}, not whole numbers [N], [N 1] or [N K]", LAYOUT
        )
    if len(labels) != count:
        raise DataError(
            f"{path}: {part} has {count:,} images but {len(labels):,} labels", "download or create the file again"
        )
    if labels.size > len(labels):
        if not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"{path}: {name} {list(labels.shape)} has values other than 0 and 1",
                "multi-label targets are 0 or 1",
            )
        return labels.astype(np.uint8)
    return labels.reshape(-1).astype(np.int64)


def _eight_bits(images: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The images as bytes, and a note where they are dark."""
    lowest = min(float(a.min()) for a in images.values())
    highest = max(float(a.max()) for a in images.values())
    kind = np.result_type(*images.values())
    if kind.kind in "iu" and kind != np.uint16 and lowest >= 0 and highest <= 255:
        low, high = 0.0, 255.0  # a wider integer type with values of 8 bits
    else:
        low, high = value_range(kind, lowest, highest)
    notes = advise_on_range(highest / high) if (low, high) == (0, 65535) else []
    return {part: scale_to_bytes(a, low, high) for part, a in images.items()}, notes


def _classes(path: Path, labels: dict[str, np.ndarray]) -> tuple[str, ...]:
    first = next(iter(labels.values()))
    count = first.shape[1] if first.ndim == 2 else max(int(y.max()) for y in labels.values()) + 1
    # bloodmnist_224.npz has larger images of the same data set
    published = tuple(NAMES.get(path.stem.lower().split("_")[0], "").split("|"))
    if len(published) >= max(count, 2):
        return published
    if count > 100_000:
        raise DataError(f"{path}: the largest label is {count - 1:,}", "labels are class numbers: 0, 1, 2, ...")
    return tuple(str(i) for i in range(count))


def _check_range(path: Path, labels: dict[str, np.ndarray], classes: tuple[str, ...]) -> None:
    for part, y in labels.items():
        if y.ndim == 2 and y.shape[1] != len(classes):
            raise DataError(
                f"{path}: {part}_labels has {y.shape[1]} columns, but there are {len(classes)} classes",
                "set classes to the names of all classes",
            )
        bad = np.flatnonzero((y < 0) | (y >= len(classes))) if y.ndim == 1 else np.empty(0, int)
        if bad.size:
            what = f"{part}/{bad[0]} has label {y[bad[0]]}, but there are {len(classes)} classes"
            raise DataError(f"{path}: {what}", "labels are 0, 1, 2, ...")

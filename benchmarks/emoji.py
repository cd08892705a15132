"""Images and words from nothing: vit/nano and a text tower of its size learn 1,700 emoji with their names and tags in
English and Russian, and are asked about the held-out tenth of the concepts. Writes its part of docs/results.md, with a
grid of what words find.

    OMP_NUM_THREADS=2 python benchmarks/emoji.py --runs runs/emoji

Beside it stand chance, and a bag of colours: a ridge regression from the histogram of an image's colours to the words
of its captions, which ranks captions by the cosine with what it predicts. A run that is there is not repeated, one that
was broken off goes on.
"""

import argparse
import math
import resource
from pathlib import Path

import numpy as np
import torch
from history import append
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

import vitrail
from vitrail.cli.main import main as command
from vitrail.data.dataset import Split
from vitrail.datasets import emoji
from vitrail.inference.search.index import SearchIndex
from vitrail.inference.search.query import search
from vitrail.inference.search.sheet import write_sheet
from vitrail.metrics.retrieval import retrieval_metrics

DOCS = Path(__file__).parents[1] / "docs"
START, END, GRID = "<!-- emoji -->", "<!-- /emoji -->", "emoji-search.png"
WORDS = (
    "--data emoji --model vit/nano --model.patch 4 --model.stem patch --img-size 32 32 --workers 0 --seed 0 "
    "--train.eval-every 0 --runtime.save-every 100 --device cpu"
)
QUERIES = ("heart", "сердце", "flag", "флаг", "animal", "животное", "food", "еда", "angry face", "red", "красный")
LEVELS = 6  # of each channel in the bag of colours
RIDGE = 10.0
ASKED = {  # which captions are ranked: the languages, and whether tags are among them
    "names and tags, both languages": (("en", "ru"), True),
    "names, English": (("en",), False),
    "names, Russian": (("ru",), False),
}


def captions(split: Split) -> tuple[list[str], list[int]]:
    """The captions of a part, and whose they are."""
    assert split.annotation is not None
    pairs = [(text, i) for i in range(len(split)) for text in split.annotation(i)]
    return [text for text, _ in pairs], [i for _, i in pairs]


def chance(texts: int, own: list[int], k: int = 10) -> float:
    """The expected recall@k of a random order. own: captions of each image."""
    return sum(1 - math.comb(texts - n, k) / math.comb(texts, k) for n in own) / len(own)


def histogram(images: np.ndarray) -> Tensor:
    """The share of each colour, [N LEVELS^3], without white, square roots of it."""
    bins = images.astype(np.int64) * LEVELS // 256
    codes = (bins[..., 0] * LEVELS + bins[..., 1]) * LEVELS + bins[..., 2]
    counts = np.stack([np.bincount(one.ravel(), minlength=LEVELS**3) for one in codes])[:, :-1]
    return torch.from_numpy(np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))).float()


def recall_among_all(images: Tensor, own: Tensor, owners: list[int], others: Tensor, k: int = 10) -> float:
    """The share of images that have one of their texts `own` among the k first of these and of `others`."""
    whose = torch.tensor([*owners, *[-1] * len(others)])
    first = (images @ torch.cat([own, others]).T).topk(k).indices
    return float((whose[first] == torch.arange(len(images))[:, None]).any(1).double().mean())


def bag_of_colours(train: Split, test: Split) -> dict[str, float]:
    """The recalls of the baseline; "all": among the captions of all emoji."""
    texts, owners = captions(train)
    words = TfidfVectorizer(sublinear_tf=True).fit(texts)
    joined = [" ".join(text for text, o in zip(texts, owners, strict=True) if o == i) for i in range(len(train))]
    targets = torch.from_numpy(words.transform(joined).toarray()).float()
    assert train.array is not None
    assert test.array is not None
    x, y = histogram(train.array), targets - targets.mean(0)
    weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]) / x.shape[0], x.T @ y)
    predicted = torch.nn.functional.normalize(histogram(test.array) @ weights + targets.mean(0), dim=1)
    asked, own = captions(test)
    rows, others = (
        torch.nn.functional.normalize(torch.from_numpy(words.transform(part).toarray()).float(), dim=1)
        for part in (asked, texts)
    )
    among_all = recall_among_all(predicted, rows, own, others)
    return {**retrieval_metrics(predicted, rows, torch.tensor(own)), "all": among_all}


def measure(run: Path) -> dict[str, dict[str, float]]:
    """The figures of each way to ask: the model's recalls, chance, and those of the baseline."""
    predictor, figures = vitrail.load(run), {}
    for name, (languages, tags) in ASKED.items():
        splits = emoji.build(emoji.Config(languages=languages, tags=tags)).splits
        texts, own = captions(splits["test"])
        images = vitrail.embed(predictor, list(splits["test"].array))
        others, _ = captions(splits["train"])
        rows, learned = vitrail.embed(predictor, texts=texts), vitrail.embed(predictor, texts=others)
        ours = retrieval_metrics(images, rows, torch.tensor(own))
        colours = bag_of_colours(splits["train"], splits["test"])
        counts = np.bincount(own).tolist()
        figures[name] = {
            "r1": ours["image_to_text_r1"], "r10": ours["image_to_text_r10"], "back_r10": ours["text_to_image_r10"],
            "chance": chance(len(texts), counts), "colours": colours["image_to_text_r10"],
            "colours_back": colours["text_to_image_r10"], "all_r10": recall_among_all(images, rows, own, learned),
            "all_chance": chance(len(texts) + len(others), counts), "all_colours": colours["all"],
        }  # fmt: skip
    return figures


def draw_grid(run: Path, out: Path, top: int = 8) -> None:
    """What words find among the held-out emoji, a row each."""
    predictor, split = vitrail.load(run), emoji.build(emoji.Config()).splits["test"]
    rows = vitrail.embed(predictor, list(split.array)).numpy()
    index = SearchIndex(None, np.zeros((len(rows), 2)), rows, np.zeros(len(rows), bool))  # type: ignore[arg-type]
    found = search(index, vitrail.embed(predictor, texts=QUERIES), top)
    write_sheet(out, split, [[one.number for one in own] for own in found])


def write_page(figures: dict[str, dict[str, float]], steps: int, minutes: float | None) -> None:
    """Replaces the part of docs/results.md."""
    head = (
        "| captions that are ranked | image to text R@10 | R@1 | chance | colours | text to image R@10 | colours | "
        "image to text R@10 among all emoji's | chance | colours |"
    )
    rows = [
        f"| {name} | {f['r10']:.1%} ({f['r10'] / f['chance']:.1f} x chance) | {f['r1']:.1%} | {f['chance']:.1%} | "
        f"{f['colours']:.1%} | {f['back_r10']:.1%} | {f['colours_back']:.1%} | {f['all_r10']:.1%} "
        f"({f['all_r10'] / f['all_chance']:.0f} x) | {f['all_chance']:.2%} | {f['all_colours']:.1%} |"
        for name, f in figures.items()
    ]
    cost = "" if minutes is None else f", {minutes:.1f} minutes of one core in all"
    text = "\n".join(
        [
            START,
            f"`python benchmarks/emoji.py`: {steps:,} steps{cost}. 196 held-out emoji, of concepts not trained on.",
            "",
            head,
            "|---" * 10 + "|",
            *rows,
            "",
            f"![Held-out emoji found by words]({GRID})",
            "",
            f"*The held-out emoji that are most like {', '.join(QUERIES)}, a row each.*",
            END,
        ]
    )
    page = DOCS / "results.md"
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(START)
    page.write_text(before + text + rest.partition(END)[2], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=900)
    given = parser.parse_args()
    run = given.runs / "emoji"
    words = ["--resume", str(run)] if run.exists() else [*WORDS.split(), "--steps", str(given.steps), "--out", str(run)]
    is_new = not run.exists()
    assert command(["train", *words]) in (0, None)
    minutes = resource.getrusage(resource.RUSAGE_SELF)
    spent = (minutes.ru_utime + minutes.ru_stime) / 60 if is_new else None
    figures = measure(run)
    for name, own in figures.items():
        print(name, {key: round(value, 4) for key, value in own.items()})
    draw_grid(run, DOCS / GRID)
    write_page(figures, given.steps, spent)
    append("emoji", figures, {"steps": given.steps, "minutes": spent})


if __name__ == "__main__":
    main()

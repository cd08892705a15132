"""Makes the files of the embedded set from the IDX files of Fashion-MNIST.

    python benchmarks/make_mini.py FOLDER_OF_GZ OUT_FOLDER

The same images every time, by a stated seed; with the same Pillow and zlib the same bytes too.
"""

import argparse
from pathlib import Path

from PIL import Image

from vitrail.datasets import idx
from vitrail.datasets.mini import COLUMNS, COUNTS, SIDE, choose_indices

LICENCE = """The MIT License (MIT)

Copyright © 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated \
documentation files (the “Software”), to deal in the Software without restriction, including without limitation the \
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to \
permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the \
Software.

THE SOFTWARE IS PROVIDED “AS IS”, WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE \
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR \
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR \
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def make(source: str, out: Path) -> None:
    """Writes train.png, test.png (sprites of grey tiles), labels.txt (a line a part, a digit an image) and the
    licence."""
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    splits = idx.build(idx.Config(source)).splits
    for part, count in COUNTS.items():
        take = splits[part].select(choose_indices(part, len(splits[part])))
        assert take.array is not None
        rows, columns = count // COLUMNS[part], COLUMNS[part]
        sprite = take.array.reshape(rows, columns, SIDE, SIDE).swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE)
        Image.fromarray(sprite).save(out / f"{part}.png", optimize=True)
        lines.append(f"{part} {''.join(map(str, take.labels))}\n")
    (out / "labels.txt").write_text("".join(lines), newline="\n")
    (out / "LICENSE.fashion-mnist").write_text(LICENCE, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="folder that holds the four IDX files")
    parser.add_argument("out", type=Path, help="folder to write to, normally vitrail/datasets/mini")
    given = parser.parse_args()
    make(given.source, given.out)

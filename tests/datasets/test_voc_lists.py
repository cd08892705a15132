"""VOC's lists of images are followed however their lines are written, and what they call test is never trained on."""

import pytest
from dense_data import SIZE, halves, make_image, mask, problem, xml

from vitrail.datasets import voc, voc_masks


def put(root, lists: dict[str, str], stem="img {}", count=6, folder="Main"):
    """Images with an XML, and lists by name."""
    for i in range(count):
        make_image(root / "JPEGImages" / f"{stem.format(i)}.jpg", i)
        xml(root / "Annotations" / f"{stem.format(i)}.xml", [("cd"[i % 2], 1, 2, 20, 8)].copy())
    (root / "ImageSets" / folder).mkdir(parents=True)
    for name, text in lists.items():
        (root / "ImageSets" / folder / f"{name}.txt").write_text(text)
    return root


def build(path, **settings):
    return voc.build(voc.Config(str(path), **settings))


def numbers(data) -> dict[str, str]:
    """The numbers of the images of each part."""
    return {part: "".join(name[-5] for name in split.names) for part, split in data.splits.items()}


@pytest.mark.parametrize(
    ("stem", "line"),
    [
        ("img {}", "img {}"),
        ("img {}", "img {} -1"),
        ("{}", "{}  1"),
        ("{}", "{}.jpg"),
        ("{}", "JPEGImages/{}.jpg\r"),
        ("{}", "./JPEGImages\\{}.jpg"),
        ("a.b {} 1", "a.b {} 1"),
    ],
)
def test_lines_of_lists(tmp_path, stem, line):
    text = ["".join(line.format(i) + "\n" for i in own) for own in (range(3), range(3, 6))]
    data = build(put(tmp_path, {"train": "\ufeff" + text[0], "val": text[1], "cat_train": text[1]}, stem))
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 3, "val": 3}
    assert data.splits["val"].names == [f"JPEGImages/{stem.format(i)}.jpg" for i in range(3, 6)]


def test_lists_by_the_names_of_their_parts(tmp_path):
    data = build(put(tmp_path / "a", {"trainval": "0\n1\n2\n", "test": "3\n4\n"}, "{}"))
    assert numbers(data) == {"train": "012", "test": "34"}
    assert "left out, as they belong to no split: 1 image" in data.notes
    data = build(put(tmp_path / "b", {"Training": "0\n1\n", "validation": "2\n", "trainval": "0\n1\n2\n"}, "{}"))
    assert numbers(data) == {"train": "01", "val": "2"}
    data = build(put(tmp_path / "c", {"trainval": "0\n1\n2\n3\n"}, "{}"))
    assert sorted(len(n) for n in numbers(data).values()) == [1, 3]
    data = build(put(tmp_path / "d", {"train": "0\n1\n2\n", "test": "2\n3\n"}, "{}"))
    assert numbers(data) == {"train": "01", "test": "23"}
    assert "in more than one list: 1 image, the first 2: used as test" in data.notes
    assert numbers(build(put(tmp_path / "e", {"test": "0\n1\n2\n3\n4\n5\n"}, "{}"))) == {"test": "012345"}


def test_everything_difficult_is_refused_with_a_flag_that_works(tmp_path):
    root = put(tmp_path, {}, "{}")
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    assert "training boxes are crowds or difficult" in problem(voc, root)
    assert not build(root, crowds="objects").splits["train"].annotation(0).crowd.any()


def test_masks_of_other_classes_than_those_of_voc(tmp_path):
    root = put(tmp_path, {"train": "img 0\nimg 1.jpg\n", "test": "img 2\n"}, folder="Segmentation")
    for i in range(4):
        mask(root / "SegmentationClass" / f"img {i}.png", halves(0, 1))
    data = voc_masks.build(voc_masks.Config(str(root)))
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 2, "test": 1}
    assert "left out, as they are in no list of ImageSets/Segmentation: 1 image with a mask" in data.notes
    assert "left out, as they lack a mask: 2 images" in data.notes
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nground:0,0,0::\nlung:1,1,1::\n")
    data = voc_masks.build(voc_masks.Config(str(root)))
    assert data.classes == ("ground", "lung")
    assert data.splits["train"].annotation(0).shape == SIZE

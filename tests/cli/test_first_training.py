"""The first training starts, and `check` tells the same as `train` about the same data; every command that it prints
works as printed."""

import shlex

import numpy as np
import pytest
from PIL import Image
from places import SHORT, images, refused, vitrail

from vitrail.data.survey.assess import assess
from vitrail.data.survey.images import survey_images
from vitrail.datasets import imagefolder

BAD = b"<html>404</html>"


def suggested(out: str) -> list[str]:
    """The words of the command that `check` suggests."""
    return shlex.split(next(line for line in out.splitlines() if line.strip().startswith("vitrail train")))[1:]


def both(*words: object) -> tuple[str, str]:
    """What `check` and `train --dry-run` print, which must agree on whether a run can start."""
    checked, seen, err = vitrail("check", *words)
    trained, planned, why = vitrail("train", "--data", *words, *SHORT, "--dry-run")
    assert (checked, err) == (trained, ""), seen + why
    return seen, planned + why


def notes(text: str) -> set[str]:
    """The notes that `train` prints."""
    return {line.removeprefix("  note: ") for line in text.splitlines() if line.startswith("  note: ")}


def test_a_few_unreadable_images_are_left_out_and_listed(tmp_path):
    folder = images(tmp_path / "d", each=10)
    (folder / "ant" / "0.png").write_bytes(BAD)
    seen, planned = both(folder)
    assert "not readable: 1 image (5.00%): ant/0.png is not an image: its bytes are a" in planned
    assert notes(planned) <= {line.strip() for line in seen.splitlines()}  # check says whatever train says
    assert "15 train, 4 val" in planned
    assert vitrail(*suggested(seen), *SHORT, "--dry-run")[0] == 0


def test_the_settings_are_those_that_training_chooses(tmp_path):
    folder = images(tmp_path / "d", each=30)
    (folder / "ant" / "0.png").write_bytes(b"")
    checked = vitrail("check", folder)[1].split("suggested")[1].splitlines()[2:]
    planned = vitrail("train", "--data", folder, "--dry-run")[1].split("model: ")[1].splitlines()[1:-1]
    assert [line.strip() for line in checked] == [line.strip() for line in planned]


def test_data_without_a_training_part_is_told_what_it_is_for(tmp_path):
    images(tmp_path / "d" / "test")
    code, out, err = vitrail("check", tmp_path / "d")
    assert (code, err) == (3, "")
    assert "test images are never trained on" in out
    assert "suggested" not in out


@pytest.mark.parametrize("more", [[], ["--data.on-error", "fail"]])
def test_more_of_them_stop_it_and_the_way_out_works(tmp_path, more):
    folder = images(tmp_path / "d", each=6)
    for name in ("ant/0.png", "ant/1.png", "bee/1.png"):
        (folder / name).write_bytes(BAD)
    seen, planned = both(folder, *more)
    assert "3 images (25.00%) cannot be read" in " ".join(planned.split())
    assert "not ready for training" in seen
    assert vitrail(*suggested(seen), *SHORT, "--dry-run")[0] == 0


def test_none_is_left_out_where_none_may_be(tmp_path):
    folder = images(tmp_path / "d", each=20)
    (folder / "ant" / "0.png").write_bytes(b"")
    seen, planned = both(folder, "--data.on-error", "fail")
    assert "--data.on-error skip leaves them out" in " ".join(planned.split())
    assert suggested(seen)[-2:] == ["--data.on-error", "skip"] or "--data.on-error" not in suggested(seen)
    assert vitrail(*suggested(seen), *SHORT, "--dry-run")[0] == 0


def test_few_images_warn_and_one_alone_is_refused(tmp_path):
    few = images(tmp_path / "few", each=6)
    for text in both(few):
        assert "fewer than 20 training images: 2 classes; start from pre-trained weights, or add images" in text
    (few / "cow").mkdir()
    Image.new("RGB", (12, 12)).save(few / "cow" / "0.png")
    seen, planned = both(few)
    for text in (seen, planned):
        assert "1 class has one image only: cow" in text
    assert "suggested" not in seen
    (few / "cow" / "1.png").write_bytes(b"")  # an image that cannot be read is none
    data = imagefolder.build(imagefolder.Config(str(few)))
    assert "cow" in assess(data, survey_images(data), (), "skip", 1.0).refusal.what


def test_a_refused_start_leaves_nothing(tmp_path, monkeypatch):
    images(tmp_path / "d", ("ant", "bee", "cow"), each=2)
    (tmp_path / "d" / "ant" / "0.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, "train --data d --data.max-errors 0", 3, "cannot be read")
    refused(tmp_path, "train --data d", 3, "one image only")


def deep(path, top: int, kind=np.uint16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, top + 1, (16, 16))
    values[0, 0] = top
    Image.fromarray(values.astype(kind)).save(path)


@pytest.mark.parametrize(("top", "suffix", "kind"), [(4095, "png", np.uint16), (4095, "tif", np.int32)])
def test_twelve_bits_in_sixteen_are_told(tmp_path, top, suffix, kind):
    for i in range(4):
        deep(tmp_path / "ab"[i % 2] / f"{i}.{suffix}", top if i else 100, kind)
    for text in both(tmp_path):
        assert "use 6.2% of their range (values up to 4,095 of 65,535, as of 12 bits in 16): 17 grey levels" in text
        assert "multiply their values by 16" in text
    for i in range(4):  # as it says
        values = np.asarray(Image.open(tmp_path / "ab"[i % 2] / f"{i}.{suffix}")).astype(np.uint16) * 16
        Image.fromarray(values).save(tmp_path / "ab"[i % 2] / f"{i}.{suffix}")
    assert "of their range" not in both(tmp_path)[0]

"""`vitrail check` on sets with masks and boxes: what is there by class, what is wrong, and the exit code that says
so."""

from dense_data import coco, halves, make_image, mask
from places import must, vitrail

FEW = ["--data.count-train", "6", "--data.count-val", "2", "--data.count-test", "0"]


def test_check_shows_masks_and_boxes():
    out = must("check", "shapes", *FEW)
    assert "pixels by class" in out
    assert "background" in out
    out = must("check", "shapes-boxes", *FEW)
    assert "boxes by class" in out
    assert "background" not in out
    assert "boxes by class" in must("check", "shapes", "--data.annotation", "boxes", *FEW)


def test_check_on_boxes_in_files(tmp_path):
    out = must("check", coco(tmp_path))
    assert "boxes           4 train, 4 val" in out
    out = must("check", tmp_path, "--data.annotation", "masks")
    assert "pixels by class" in out


def test_check_is_3_for_masks_that_cannot_be_used(tmp_path):
    for i in range(4):
        make_image(tmp_path / "images" / f"{i}.png", i)
        mask(tmp_path / "masks" / f"{i}.png", halves(0, 1))
    assert vitrail("check", tmp_path)[0] == 0
    mask(tmp_path / "masks" / "2.png", halves(0, 1, (9, 9)))
    code, out, _ = vitrail("check", tmp_path)
    assert code == 3
    assert "images/2.png: " in out
    assert "is 9 x 9" in out


def test_what_is_no_data_is_answered_with_what_would_be(tmp_path):
    (tmp_path / "notes.docx").write_text("")
    code, _, err = vitrail("check", tmp_path / "notes.docx")
    assert code == 3
    assert "for masks" in err
    assert "for boxes" in err

"""Names that Windows or macOS cannot keep are told, and paths are read on either side."""

from pathlib import Path

import pytest
from places import images, must

from vitrail.data.portable import is_reserved, portability_notes
from vitrail.validation import as_path


def test_names_that_differ_by_case_only_are_told_with_their_folders():
    assert portability_notes(["Cat/1.png", "cat/2.png", "dog/a.png", "dog/A.png", "dog/b.png"]) == [
        "4 names differ only in upper and lower case: on Windows and macOS they are one (Cat, cat, ...)"
    ]


@pytest.mark.parametrize(
    "name", ["con", "NUL.png", "aux.tar.gz", "com1", "Lpt9.jpg", "dog.", "dog ", "a:b.png", "a\\b", 'a"b', "a\nb", "a?"]
)
def test_names_that_windows_refuses_are_told(name):
    assert is_reserved(name)
    assert "1 names cannot exist on Windows" in portability_notes([f"dog/{name}"])[0]


@pytest.mark.parametrize("name", ["cone", "console.png", "com10.png", "dog.png", ".hidden", "größe 1.png", "a'b"])
def test_other_names_are_not(name):
    assert not is_reserved(name)
    assert portability_notes([f"dog/{name}"]) == []


def test_long_paths_are_told():
    note = portability_notes(["deep/" * 50 + "a.png"])[-1]
    assert note.startswith("3 names are longer than 240 characters: too long for many a Windows (deep/deep/")


def test_check_and_train_tell_the_same(own_folder):
    images(Path("data"), classes=("Cat", "cat"), each=4)
    text = "2 names differ only in upper and lower case: on Windows and macOS they are one (Cat, cat)"
    for words in (["check", "data"], ["train", "--data", "data", "--dry-run", "--steps", "1", "--img-size", "32"]):
        assert text in " ".join(must(*words).split())


def test_a_path_that_was_written_on_windows_is_read(own_folder):
    Path("photos/train").mkdir(parents=True)
    assert as_path("photos\\train") == Path("photos/train")
    assert as_path("photos\\test") == Path("photos\\test"), "what is not there is named as it was given"
    Path("a\\b").mkdir()
    assert as_path("a\\b") == Path("a\\b")
    images(Path("photos/set"), each=3)
    assert "6 images" in must("check", "photos\\set") or "ant" in must("check", "photos\\set")

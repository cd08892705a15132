"""Lists of texts on the command line are written as lists of numbers are: one word after the other."""

import pytest
from dense_data import make_image, xml
from places import must, vitrail

from vitrail.cli.syntax.keys import take_keys


@pytest.mark.parametrize(
    ("words", "rest", "keys"),
    [
        ("v --data.classes dog cat", "v", {"classes": ["dog", "cat"]}),
        ("--data.classes dog cat --steps 2", "--steps 2", {"classes": ["dog", "cat"]}),
        ("--data.classes dog", "", {"classes": ["dog"]}),
        ("--data.classes 0 1 true 1e3", "", {"classes": ["0", "1", "true", "1e3"]}),  # texts, whatever they look like
        ('--data.classes ["a","b"] v', "v", {"classes": ["a", "b"]}),
        ("--data.test a.jpg b.jpg -e 3", "-e 3", {"test": ["a.jpg", "b.jpg"]}),
        ("--data.split 0.5 0.5 v", "v", {"split": [0.5, 0.5]}),
        ("--data.annotation boxes v", "v", {"annotation": "boxes"}),
    ],
)
def test_words_of_keys(words, rest, keys):
    assert take_keys(words.split()) == (rest.split(), [("data", keys)])


def test_classes_by_words(tmp_path):
    for i in range(4):
        make_image(tmp_path / f"{i}.jpg", i)
        xml(tmp_path / f"{i}.xml", [(("cat", "dog")[i % 2], 1, 1, 9, 9)])
    out = must("check", tmp_path, "--data.classes", "dog", "cat")
    assert out.index("\n  dog ") < out.index("\n  cat ")
    code, _, err = vitrail("check", tmp_path, "--data.classes", "dog")
    assert code == 3
    assert "'cat' is not among the classes" in " ".join(err.split())

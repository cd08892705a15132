"""Search of images by texts, classes that texts name, and embeddings: what is found, and what happens to the index."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.cli.main import main
from vitrail.cli.texts.labels import read_labels
from vitrail.errors import UsageError
from vitrail.inference.search import index as search_index
from vitrail.inference.search.images import open_images
from vitrail.inference.search.index import SearchIndex, build_index, index_path, read_index
from vitrail.inference.search.query import search

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
TINY = [
    "--model", "vit/nano", "--model.width", "32", "--model.depth", "1", "--model.heads", "2", "--img-size", "16", "16",
    "--task.text-width", "32", "--task.text-depth", "1", "--task.text-heads", "2", "--batch-size", "4",
    "--workers", "0", "--optim.lr", "0.003", "--train.eval-every", "0", "--data.split", "1", "0",
    "--steps", "60",
]  # fmt: skip


def run(*words):
    return main([str(word) for word in words])


def draw(path, color, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 60, (16, 16, 3)).astype(np.uint8)
    pixels[4:12, 4:12] = COLORS[color]
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of squares of four colours, trained until it knows them."""
    root = tmp_path_factory.mktemp("pairs")
    for color in COLORS:
        draw(root / f"{color}.png", color)
        (root / f"{color}.txt").write_text(f"a {color} square")
    folder = tmp_path_factory.mktemp("runs") / "squares"
    assert run("train", "--data", root, "--out", folder, *TINY) in (0, None)
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder to search, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    for i, color in enumerate(COLORS):
        draw(root / f"{color}.png", color, 100 + i)
    draw(root / "more" / "second red.png", "red", 200)
    return root


def found(capsys, *words):
    capsys.readouterr()
    assert run("search", *words, "--json") in (0, None)
    out, err = capsys.readouterr()
    return json.loads(out), err


def names(one):
    return [os.path.basename(item["path"]) for item in one["results"]]


def test_a_text_finds_the_images_that_it_describes(trained, photos, capsys):
    answer, err = found(capsys, trained, photos, "a red square", "a blue square", "--top", 2)
    red, blue = answer["searches"]
    assert set(names(red)) == {"red.png", "second red.png"}
    assert names(blue)[0] == "blue.png"
    assert red["results"][0]["score"] > red["results"][1]["score"] > 0.2
    assert answer["index"]["new"] == 5
    assert "5 images embedded; the next search uses the index of these" in err
    assert run("search", trained, photos, "a red square", "--top", 1, "--out", photos.parent / "found.png") in (0, None)
    assert "red.png" in capsys.readouterr().out
    with Image.open(photos.parent / "found.png") as sheet:
        assert sheet.size == (16, 16)


def test_the_index_follows_the_folder(trained, photos, capsys, monkeypatch):
    predictor = vitrail.load(trained)
    images = open_images(str(photos), 3)
    before, changes = build_index(predictor, images)
    assert (changes.new, changes.is_new, len(before.names)) == (5, True, 5)
    embedded = []
    real = search_index.embed_part
    monkeypatch.setattr(search_index, "embed_part", lambda *a: embedded.append(a[2].tolist()) or real(*a))
    again, changes = build_index(predictor, images)
    assert changes[:3] == (0, 0, 0)
    assert not embedded
    np.testing.assert_array_equal(again.embeddings, before.embeddings)
    draw(photos / "green.png", "yellow", 7)
    (photos / "red.png").unlink()
    draw(photos / "another blue.png", "blue", 8)
    images = open_images(str(photos), 3)
    after, changes = build_index(predictor, images)
    assert changes[:3] == (1, 1, 1)
    assert embedded == [[0, 2]]
    assert list(after.names) == ["another blue.png", "blue.png", "green.png", "more/second red.png", "yellow.png"]
    whole, changes = build_index(predictor, images, rebuild=True)
    assert changes.new == 5
    np.testing.assert_allclose(whole.embeddings, after.embeddings, atol=1e-6)
    answer, err = found(capsys, trained, photos, "a yellow square", "--top", 2)
    assert set(names(answer["searches"][0])) == {"green.png", "yellow.png"}
    assert err == ""


def test_an_index_is_kept_while_it_is_made_and_a_damaged_one_is_made_again(trained, photos, monkeypatch):
    predictor, images = vitrail.load(trained), open_images(str(photos), 3)
    monkeypatch.setattr(search_index, "AT_ONCE", 2)
    real, parts, stops = search_index.embed_part, [], [KeyboardInterrupt]

    def stop(*given):
        parts.append(len(given[2]))
        if stops and len(parts) == 2:
            raise stops.pop()
        return real(*given)

    monkeypatch.setattr(search_index, "embed_part", stop)
    with pytest.raises(KeyboardInterrupt):
        build_index(predictor, images)
    _, changes = build_index(predictor, images)
    assert (changes.new, parts) == (3, [2, 2, 2, 1])
    path = index_path(predictor, images)
    data = path.read_bytes()
    for damaged in (data[:-9], data[:-1] + bytes([data[-1] ^ 1]), b"", b"x" * 100):
        path.write_bytes(damaged)
        assert read_index(path) is None
        parts.clear()
        assert build_index(predictor, images)[1].is_new


def test_images_that_cannot_be_read_are_left_out_and_not_tried_again(trained, photos, capsys):
    (photos / "broken.png").write_bytes(b"no image")
    answer, err = found(capsys, trained, photos, "a red square", "--top", 99)
    assert len(answer["searches"][0]["results"]) == 5
    assert "left out, as they cannot be read: 1 image, the first: " in err
    answer, err = found(capsys, trained, photos, "a red square", "--top", 99)
    assert (len(answer["searches"][0]["results"]), err) == (5, "")
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    for _ in range(2):  # also where the index has them all already
        assert run("search", trained, photos, "a red square") == 3
        err = " ".join(capsys.readouterr().err.split())
        assert "no image can be read, the first: " in err
        assert "-> repair them, or give a folder with others" in err


def test_an_index_that_lies_under_the_name_of_another_is_not_used(trained, photos):
    predictor = vitrail.load(trained)
    here, there = (open_images(str(folder), 3) for folder in (photos, photos / "more"))
    for images in (here, there):
        build_index(predictor, images)
    index_path(predictor, there).replace(index_path(predictor, here))
    _, changes = build_index(predictor, here)
    assert (changes.new, changes.is_new, changes.gone) == (5, True, 0)


def test_an_index_that_cannot_be_kept_is_said(trained, photos, capsys, monkeypatch):
    (photos / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(photos / "file"))
    answer, err = found(capsys, trained, photos, "a blue square", "--top", 1)
    assert names(answer["searches"][0]) == ["blue.png"]
    assert "5 images embedded; the next search embeds them again, as the index cannot be kept" in err


def test_only_one_image_is_looked_for(trained, photos, capsys):
    for several in (photos, photos / "*e*.png"):
        assert run("search", trained, photos, "--image", several) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "images -> --image takes the file of one image" in " ".join(err.split())


def test_an_image_finds_those_that_are_like_it(trained, photos, capsys):
    answer, _ = found(capsys, trained, photos, "--image", photos / "red.png", "--top", 2)
    assert names(answer["searches"][0]) == ["red.png", "second red.png"]
    assert answer["searches"][0]["results"][0]["score"] == pytest.approx(1, abs=1e-4)


def test_a_data_set_is_searched_as_well(trained, photos, capsys):
    lines = [f"{color}.png,a {color} square" for color in COLORS]
    (photos / "table.csv").write_text("\n".join(["image,caption", *lines]))
    answer, _ = found(capsys, trained, photos / "table.csv", "a green square", "--top", 1)
    assert answer["searches"][0]["results"][0]["path"] == str(photos / "green.png")
    (photos / "more" / "other.tar").write_bytes(b"")  # beside a tar file a folder is read as --data reads it
    (photos / "more" / "second red.txt").write_text("a red square")
    answer, _ = found(capsys, trained, photos / "more", "a red square", "--top", 1)
    assert answer["searches"][0]["results"][0]["path"] == str(photos / "more" / "second red.png")
    for name in ("empty", "texts"):
        (photos / name).mkdir()
        if name == "texts":
            (photos / name / "a.txt").write_text("a cat")
        assert run("search", trained, photos / name, "a cat") == 3
        assert "there is no image in" in capsys.readouterr().err
    assert run("search", trained, photos / "nowhere", "a cat") == 3
    assert "there is no file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to look for"),
        (["a cat", "  "], "a text is empty"),
        (["a cat", "--image", "x.png"], "a text and --image are given"),
        (["a cat", "--top", "0"], "--top is 0"),
        (["a cat", "--out", "x.jpg"], "--out takes the name of a new .png"),
    ],
)
def test_what_cannot_be_searched_is_said(trained, photos, capsys, words, message):
    assert run("search", trained, photos, *words) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_a_text_tower_says_so(photos, tmp_path, capsys):
    vitrail.save(vitrail.create("vit/nano", classes=2, width=32, depth=1, heads=2), tmp_path / "model")
    assert run("search", tmp_path / "model", photos, "a cat") == 2
    assert "has no text tower" in " ".join(capsys.readouterr().err.split())
    assert run("predict", tmp_path / "model", photos / "red.png", "--labels", "a cat,a dog") == 2
    answer, _ = found(capsys, tmp_path / "model", photos, "--image", photos / "red.png", "--top", 1)
    assert names(answer["searches"][0]) == ["red.png"]
    assert vitrail.embed(tmp_path / "model", photos / "red.png").shape == (1, 32)
    with pytest.raises(UsageError, match="has no text tower"):
        vitrail.embed(tmp_path / "model", texts="a cat")


def test_search_is_the_hand_written_one():
    rows = torch.nn.functional.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    rows[7] = rows[3]
    unread = np.zeros(50, bool)
    unread[11] = True
    index = SearchIndex(None, np.zeros((50, 2)), rows.numpy(), unread)
    for top in (1, 5, 49, 80):
        for query, own in zip(rows[:9], search(index, rows[:9], top), strict=True):
            scores = [float(row) for row in rows.numpy() @ query.numpy()]
            expected = sorted((i for i in range(50) if i != 11), key=lambda i, s=scores: (-s[i], i))
            assert [one.number for one in own] == expected[: min(top, 49)]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a cat,a dog", ("a cat", "a dog")),
        (' a cat , "a dog, asleep" ', ("a cat", "a dog, asleep")),
        ('"he said ""hi""",b', ('he said "hi"', "b")),
        ("a cat\na dog\n", ("a cat", "a dog")),
        ("a\n\nb", ("a", "b")),
        ("a cat,,b", ("a cat", "", "b")),
        ("кошка,собака", ("кошка", "собака")),
        ("it's,b", ("it's", "b")),
    ],
)
def test_labels_are_read_as_a_line_of_csv(text, labels):
    assert read_labels(text) == labels


@pytest.mark.parametrize("text", ['"a cat,b', 'a "cat"x",b"', '"a"b,c'])
def test_quotes_that_do_not_close_are_said(text):
    if '"' in text[:1]:
        with pytest.raises(UsageError, match="--labels cannot be read"):
            read_labels(text)
    else:
        assert len(read_labels(text)) == 2


def test_a_file_of_labels_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "old.txt").write_text("Bär\nKöter\n", encoding="latin-1")
    for name, message in (("old.txt", "is not UTF-8 text"), ("none.txt", "cannot be read: No such file")):
        with pytest.raises(UsageError, match=message):
            read_labels(str(tmp_path / name))
    assert read_labels("a.txt,b.txt") == ("a.txt", "b.txt")


def test_labels_name_the_classes_of_a_prediction(trained, photos, tmp_path, capsys):
    labels = '"a red square",a blue square,a green square'
    words = ["predict", trained, photos / "red.png", photos / "blue.png", "--labels", labels]
    assert run(*words, "--csv", tmp_path / "table.csv") in (0, None)
    lines = capsys.readouterr().out.splitlines()
    assert "red.png: a red square " in lines[0]
    assert "blue.png: a blue square " in lines[1]
    assert (tmp_path / "table.csv").read_text().startswith("path,label,probability,p_a red square,p_a blue square")
    (tmp_path / "labels.txt").write_text("a red square\n\na blue square\n")
    assert run(*words[:-1], tmp_path / "labels.txt", "--json") in (0, None)
    record = json.loads(capsys.readouterr().out.splitlines()[0])
    assert list(record["probabilities"]) == ["a red square", "a blue square"]
    predictor = vitrail.load(trained, labels=["a red square", "a blue square"])
    prediction = predictor.predict(photos / "red.png")
    assert prediction.labels == ["a red square"]
    assert prediction.probabilities[0, 0].item() == pytest.approx(record["probabilities"]["a red square"], abs=1e-5)
    images, texts = vitrail.embed(trained, photos / "red.png"), vitrail.embed(predictor, texts=predictor.classes)
    scale = predictor.model.model.log_scale.exp()
    torch.testing.assert_close((scale * images @ texts.T).softmax(1), prediction.probabilities, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("a cat", "there is one label only, 'a cat', and nothing to tell it apart from"),
        ("a cat,,b", "a label is empty"),
        ("a cat,b, a  cat", "the label 'a cat' is given twice"),
        ('"a cat', "--labels cannot be read"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_said(trained, photos, capsys, labels, message):
    assert run("predict", trained, photos / "red.png", "--labels", labels) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_embeddings_have_unit_length_and_need_something_to_embed(trained, photos):
    images = vitrail.embed(trained, photos, batch=2)
    assert images.shape == (5, 32)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(5))
    texts = vitrail.embed(trained, texts=("a red square", "x" * 100_000, "\x00 a\nred \ud800square"))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    for given in ({}, {"images": photos, "texts": ["a"]}, {"texts": []}, {"texts": [" "]}, {"images": []}):
        with pytest.raises(UsageError):
            vitrail.embed(trained, **given)


@pytest.mark.parametrize("odd", [5, [1, 2], [None], b"a cat", [b"a cat", b"a dog"]])
def test_what_is_no_text_is_refused(trained, odd):
    with pytest.raises(UsageError, match="is no text"):
        vitrail.embed(trained, texts=odd)
    with pytest.raises(UsageError, match="is no text"):
        vitrail.load(trained, labels=odd)

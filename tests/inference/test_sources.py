"""What a predictor takes: files, folders, globs, videos, addresses, arrays; and what the command writes of it."""

import csv
import http.server
import json
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.assembly.model import assemble_model
from vitrail.assembly.save import save_model
from vitrail.cli.main import main
from vitrail.errors import BadImage, DataError, UsageError
from vitrail.inference import download
from vitrail.recipe import Choice, InputConfig, Recipe

CLASSES = ("ant", "bee", "cow")


def model_folder(task, folder, channels=3):
    """A model with weights of chance, saved as a run's is."""
    torch.manual_seed(0)
    recipe = Recipe(
        model=Choice("vit/nano", {"width": 32, "depth": 1, "heads": 2, "patch": 4, "stem": "patch"}),
        task=Choice(*task),
        input=InputConfig(size=(16, 16), channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels),
    )
    return save_model(assemble_model(recipe, CLASSES), folder, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models of the three kinds, a folder of images of many sizes with a text, a broken image and a video."""
    root = tmp_path_factory.mktemp("place")
    model_folder(("classification", {}), root / "classes")
    model_folder(("classification", {}), root / "grey", channels=1)
    model_folder(("segmentation", {"head": "linear"}), root / "masks")
    boxes = {"queries": 6, "width": 16, "heads": 2, "decoder": 1, "hidden": 16}
    model_folder(("detection", boxes), root / "boxes")
    random = np.random.default_rng(0)
    (root / "photos/more").mkdir(parents=True)
    for i, size in enumerate([(20, 30, 3), (16, 16, 3), (9, 40, 3), (50, 12, 3), (31, 31, 3)]):
        path = root / "photos" / ("more" if i > 2 else "") / f"{i}.png"
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(path)
    (root / "photos/notes.txt").write_text("words")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return root


@pytest.fixture
def here(place, monkeypatch, tmp_path):
    """Works in a folder with links to the place, so that what is written is the test's own."""
    for path in place.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Seven frames, of which number n is of grey level 30 n."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for n in range(7):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 30 * n, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_of_a_turned_video_are_upright(here):
    """As telephones write them: the matrix in the header says a quarter turn clockwise."""
    av = pytest.importorskip("av")
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # the left half is white: after the turn it is on top
    with av.open("turned.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    level, turned = ((1, 0, 0, 0, 1, 0, 0, 0), (0, 1, 0, -1, 0, 0, 0, 0))
    as_bytes = [b"".join((n << 16).to_bytes(4, "big", signed=True) for n in m) for m in (level, turned)]
    data = Path("turned.mp4").read_bytes()
    track = data.index(as_bytes[0], data.index(b"tkhd"))
    Path("turned.mp4").write_bytes(data[:track] + as_bytes[1] + data[track + 32 :])
    (one,) = vitrail.load("classes").stream("turned.mp4")
    assert one.image.pixels.shape == (32, 16, 3)
    assert one.image.pixels[2:12].mean() > 240
    assert one.image.pixels[20:30].mean() < 15


ALL = ["photos/0.png", "photos/1.png", "photos/2.png", "photos/more/3.png", "photos/more/4.png"]


@pytest.mark.parametrize(("given", "sources"), [
    ("photos", ALL), (Path("photos"), ALL), ("photos/*.png", ALL[:3]), ("photos/**/*.png", ALL), ("photos/**", ALL),
    ("photos/[01].png", ALL[:2]), ("photos/m*", ALL[3:]), (["photos/more", "photos/0.png"], [*ALL[3:], ALL[0]]),
    (["photos/0.png", np.zeros((8, 8, 3), np.uint8)], [ALL[0], "image 1"]),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*not images or videos")
def test_files_folders_and_globs(here, given, sources):
    predictor = vitrail.load("classes")
    found = predictor(given)
    assert found.sources == sources
    assert found.probabilities.shape == (len(sources), 3)
    labels, probabilities = found
    assert labels == [CLASSES[i] for i in probabilities.argmax(1)]


def test_a_file_with_the_letters_of_a_glob_is_that_file(here):
    Image.new("RGB", (9, 9)).save("a[1].png")
    Image.new("RGB", (9, 9)).save("a1.png")
    assert vitrail.load("classes")("a[1].png").sources == ["a[1].png"]


@pytest.mark.parametrize(("given", "piece"), [
    ("nothere/*.png", "nothing matches"), ("photos/*.txt", "no image matches"), ("nothere", "there is no nothere"),
    ("empty", "no image in empty"),
])  # fmt: skip
def test_paths_that_hold_no_image(here, given, piece):
    Path("empty").mkdir()
    with pytest.raises(DataError, match=piece):
        vitrail.load("classes")(given)


def test_what_a_folder_or_a_glob_leaves_out_is_told(here):
    Path("mixed").mkdir()
    Image.new("RGB", (9, 9)).save("mixed/a.png")
    for name in ("b.mp4", "c.svg", "d.txt"):
        Path("mixed", name).write_bytes(b"")
    with pytest.warns(UserWarning, match="left out") as told:
        vitrail.load("classes")("mixed")
    assert [str(w.message) for w in told] == [
        "images that cannot be read here were left out: 1 .svg; to read them: convert them to JPEG or PNG",
        "1 video in mixed left out: name them, as in mixed/*.mp4",
    ]


@pytest.mark.parametrize("kind", ["classes", "masks", "boxes"])
def test_in_batches_and_one_by_one_is_the_same(here, kind):
    predictor = vitrail.load(kind)
    together = [one.checked() for one in predictor.stream("photos", batch=4)]
    assert len(together) == 5
    for image, value in zip(ALL, together, strict=True):
        (alone,) = predictor.stream(image)
        np.testing.assert_allclose(np.asarray(alone.checked()), np.asarray(value), rtol=1e-4, atol=1e-4)
    called = predictor("photos")
    assert len(getattr(called, "labels", called)) == 5


def test_a_stream_goes_on_after_an_image_that_cannot_be_read(here):
    predictor = vitrail.load("classes")
    found = list(predictor.stream(["photos/0.png", "broken.jpg", "photos/1.png"], batch=2))
    assert [one.error is None for one in found] == [True, False, True]
    assert [one.path for one in found] == ["photos/0.png", "broken.jpg", "photos/1.png"]
    assert torch.allclose(found[2].value, predictor("photos/1.png").probabilities[0], atol=1e-6)
    with pytest.raises(BadImage, match="truncated or damaged"):
        predictor(["photos/0.png", "broken.jpg"])


def test_what_python_prints_has_at_most_five_lines(here):
    for kind in ("classes", "masks", "boxes"):
        text = repr(predictor := vitrail.load(kind))
        assert len(text.splitlines()) <= 5
        assert "vit/nano" in text
        assert "ant, bee, cow" in text
        assert str(predictor.source) in text
        assert len(repr(predictor.model).splitlines()) <= 5
        assert "parameters; 3 classes on ViT" in repr(predictor.model)
    for name in ("vit/nano", "swin/tiny", "dit/nano"):
        with torch.device("meta"):
            made, trunk = vitrail.create(name), vitrail.backbone(name)
        assert len(repr(made).splitlines()) <= 5
        assert len(repr(trunk).splitlines()) <= 5
    assert "vit/nano with 1000 classes" in repr(vitrail.create("vit/nano"))
    text = repr(vitrail.load("classes")(["photos"] * 20))
    assert len(text.splitlines()) == 5
    assert "photos/0.png" in text
    assert "97 more" in text
    assert all(len(repr(one).splitlines()) == 1 for one in vitrail.load("boxes").stream("photos"))


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        where = {"/file": "file:///etc/hostname", "/ftp": "ftp://127.0.0.1/x.png"}.get(self.path)
        if where or self.path == "/lost.png":
            self.send_response(302 if where else 404)
            self.send_header("Location", where or "/")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(Path("photos/0.png").read_bytes() if self.path.startswith("/0.png") else bytes(50_000))

    def log_message(self, *_):
        pass


@pytest.fixture
def web(here, monkeypatch):
    """A server on this machine."""
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_addresses_that_a_person_typed(web):
    predictor = vitrail.load("classes")
    found = predictor([f"{web}/0.png?size=2", "photos/1.png"])
    assert found.sources == [f"{web}/0.png?size=2", "photos/1.png"]
    assert torch.allclose(found.probabilities, predictor(ALL[:2]).probabilities, atol=1e-6)


@pytest.mark.parametrize(("path", "piece"), [
    ("/lost.png", "the server answers 404"), ("/file", "cannot be read: "), ("/ftp", "cannot be read: "),
    ("/zeros", "is not an image"),
])  # fmt: skip
def test_addresses_that_give_no_image(web, path, piece):
    with pytest.raises(BadImage, match=piece):
        vitrail.load("classes")(web + path)


def test_addresses_are_limited_in_size_and_time(web, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 20_000)
    with pytest.raises(BadImage, match="it is larger than"):
        download.download(f"{web}/zeros")
    monkeypatch.setattr(download, "LARGEST", 2**20)
    monkeypatch.setattr(download, "LONGEST_S", -1.0)
    with pytest.raises(BadImage, match="it takes longer than"):
        download.download(f"{web}/zeros")
    with pytest.raises(BadImage, match="can a browser here reach 127"):
        download.download("http://127.0.0.1:9/x.png")


def test_the_frames_of_a_video(here, clip):
    predictor = vitrail.load("classes")
    frames = list(predictor.stream(clip, every=3))
    assert [one.image.frame for one in frames] == [0, 3, 6]
    assert [round(one.image.seconds, 3) for one in frames] == [0, 0.3, 0.6]
    assert [one.name for one in frames][1] == f"{clip}#3"
    for one in frames:
        assert abs(int(one.image.pixels.mean()) - 30 * one.image.frame) <= 4
        assert one.image.pixels.shape == (16, 32, 3)
    assert len(predictor(clip).labels) == 7
    assert len(vitrail.load("masks")(str(clip))) == 7
    assert [one.image.pixels.shape for one in vitrail.load("grey").stream(clip, every=9)] == [(16, 32, 1)]
    (here / "cut.mp4").write_bytes(clip.read_bytes()[:300])
    with pytest.raises(BadImage, match=r"cut\.mp4 (cannot be read as a video|has no frames)"):
        predictor("cut.mp4")


def test_a_video_without_pyav_is_told_before_anything_is_loaded(here, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    Path("clip.mp4").write_bytes(b"")
    assert main(["predict", "classes", "clip.mp4", "--csv", "x.csv"]) == 2
    assert "pip install 'vitrail[video]'" in capsys.readouterr().err
    with pytest.raises(UsageError, match="PyAV"):
        vitrail.load("classes")("clip.mp4")
    assert not Path("x.csv").exists()


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_a_table(here, clip, capsys):
    assert main(["predict", "classes", "photos", "broken.jpg", "--csv", "out.csv"]) == 3
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "written to out.csv"
    table = rows("out.csv")
    assert [row["path"] for row in table] == [*ALL, "broken.jpg"]
    assert list(table[0]) == ["path", "label", "probability", "p_ant", "p_bee", "p_cow", "error"]
    assert all(float(row["probability"]) == float(row[f"p_{row['label']}"]) for row in table[:-1])
    assert "damaged" in table[-1]["error"]
    assert main(["predict", "classes", "photos", "--csv", "out.csv"]) == 2
    assert "out.csv is there already and is never overwritten" in capsys.readouterr().err
    assert main(["predict", "classes", str(clip), "--every", "3", "--csv", "frames.csv", "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["frame"], row["seconds"]) for row in printed] == [(0, 0.0), (3, 0.3), (6, 0.6)]
    assert [row["frame"] for row in rows("frames.csv")] == ["0", "3", "6"]


def test_the_command_writes_a_folder(here, clip, capsys):
    assert main(["predict", "classes", "photos", "--out", "found"]) == 0
    assert len(rows("found/predictions.csv")) == 5
    assert main(["predict", "masks", "photos/0.png", str(clip), "--every", "4", "--out", "maps"]) == 0
    written = {p.name for p in Path("maps").iterdir()}
    assert {"0.png", "0-overlay.png", "0.json", "clip-000000.png", "clip-000004-overlay.png"} <= written
    shares = rows("maps/predictions.csv")
    assert [row["frame"] for row in shares] == ["", "0", "4"]
    assert sum(float(shares[0][f"share_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-4)
    assert main(["predict", "boxes", "photos", "--score", "0", "--csv", "new/boxes.csv"]) == 0
    assert not Path("predictions").exists(), "a table was asked for, and nothing else"
    found = vitrail.load("boxes")("photos/0.png")[0]
    first = [row for row in rows("new/boxes.csv") if row["path"] == "photos/0.png"]
    assert len(first) == sum(found[:, 4] >= 0.05)
    np.testing.assert_allclose([float(first[0][k]) for k in ("left", "right")], found[0, [0, 2]], atol=0.02)
    assert main(["predict", "boxes", "photos", "--out", "found"]) == 2
    assert "found is there already" in capsys.readouterr().err


def test_a_refused_prediction_leaves_nothing(here):
    before = sorted(Path().iterdir())
    assert main(["predict", "classes", "nothere.png", "--csv", "x.csv", "--out", "y"]) == 3
    assert main(["predict", "nothere", "photos", "--csv", "x.csv", "--out", "y"]) == 4
    assert main(["predict", "classes", "photos", "--every", "0"]) == 2
    assert sorted(Path().iterdir()) == before


def test_attention_of_files(here):
    predictor = vitrail.load("classes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (layer,) = vitrail.attention(predictor, "photos")
    assert layer.weights.shape[0] == 5
    assert len(repr(layer).splitlines()) == 1

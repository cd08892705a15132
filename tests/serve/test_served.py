"""What a worker does with a model: the same answers as `predict`, alone and in batches; bombs, attention, NaN."""

import base64
import io
import os
import shutil
import threading

import numpy as np
import pytest
from model_folders import CLASSES, TASKS, model_folder
from PIL import Image
from places import must

from vitrail.assembly.model import assemble_model
from vitrail.assembly.save import save_model
from vitrail.errors import BadImage, CheckpointError, UsageError
from vitrail.inference.predictor import load_predictor
from vitrail.recipe import Choice, InputConfig, Recipe
from vitrail.serve.answers import Options
from vitrail.serve.frames import pack_frame, read_frame
from vitrail.serve.refusal import Refused
from vitrail.serve.served import ServedModel, open_model, weight_files
from vitrail.serve.settings import ModelSource, Settings
from vitrail.serve.watching import changed_files, fingerprint
from vitrail.serve.worker import Worker

WORK = Settings().hello()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, task in TASKS.items():
        model_folder(root / name, task)
    model_folder(root / "cropped", TASKS["classes"], resize_mode="crop")
    return root


@pytest.fixture(scope="module")
def models(folders):
    return {name: open_model(name, str(folders / name), WORK) for name in (*TASKS, "cropped")}


def test_tokens_are_merged_where_it_is_asked(folders):
    work = Settings(merge=3).hello()
    merging, plain = open_model("a", str(folders / "classes"), work), open_model("b", str(folders / "classes"), WORK)
    pixels, _ = plain.read(png(16, 16), 10**6)
    own = load_predictor(folders / "classes", merge=3).predict_pixels([pixels])
    np.testing.assert_array_equal(merging.predict([pixels]), own)
    assert not np.array_equal(merging.predict([pixels]), plain.predict([pixels]))


def png(*size, mode="RGB"):
    random = np.random.default_rng(sum(size))
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


SIZES = [(20, 30), (16, 16), (9, 40), (50, 12), (31, 31)]


@pytest.mark.parametrize("name", [*TASKS, "cropped"])
def test_answers_are_those_of_predict_alone_and_in_any_batch(name, models, folders):
    model, predictor = models[name], load_predictor(folders / name)
    read = [model.read(png(*size), 10**6) for size in SIZES]
    together = model.predict([pixels for pixels, _ in read])
    backwards = model.predict([pixels for pixels, _ in reversed(read)])[::-1]
    for i, (size, (pixels, found)) in enumerate(zip(SIZES, read, strict=True)):
        assert found == size
        expected = predictor.predict([png(*size)]).probabilities[0] if predictor.task.is_classifier else (
            predictor.predict_scenes([png(*size)])[0]
        )  # fmt: skip
        for value in (model.predict([pixels])[0], together[i], backwards[i]):
            np.testing.assert_allclose(np.asarray(value), np.asarray(expected), atol=1e-5)


def test_answers_by_what_the_model_predicts(models):
    found = {name: models[name].answer(models[name].predict([models[name].read(png(20, 30), 10**6)[0]])[0], (20, 30),
                                       Options(top=2, score=0.0)) for name in TASKS}  # fmt: skip
    for name, content in found.items():
        assert (content["model"], content["height"], content["width"]) == (name, 20, 30)
    rows = found["classes"]["probabilities"]
    assert rows[0]["label"] == found["classes"]["label"]
    assert rows[0]["probability"] >= rows[1]["probability"]
    assert len(rows) == 2
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["masks"]["mask"]))))
    assert mask.shape == (20, 30)
    for row in found["masks"]["classes"]:
        assert row["share"] == np.mean(mask == row["index"])
    scores = [row["score"] for row in found["boxes"]["objects"]]
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("name", [*TASKS, "cropped"])
def test_attention_lies_over_the_part_that_the_model_sees(name, models):
    model = models[name]
    pixels, size = model.read(png(20, 30), 10**6)
    content = model.explain(pixels, size, "auto", "")
    assert content["kind"] == model.maps.kinds[0]
    assert len(content["values"]) == content["grid"][0] * content["grid"][1] == 16
    area = content["area"]
    expected = {"top": 1, "left": 6, "rows": 18, "columns": 18} if name == "cropped" else {
        "top": 0, "left": 0, "rows": 20, "columns": 30}  # fmt: skip
    assert {key: area[key] for key in ("top", "left")}.keys() == {"top", "left"}
    assert all(abs(area[key] - value) <= 1 for key, value in expected.items())
    other = {"rollout": "gradient-cam"}.get(model.maps.kinds[0], "rollout")
    with pytest.raises(Refused, match="has no"):
        model.explain(pixels, size, other, "")
    with pytest.raises(Refused, match="no such class"):
        model.explain(pixels, size, "auto", "../../etc/passwd")


def bomb(form, size):
    file = io.BytesIO()
    Image.new("1" if form in ("PNG", "TIFF", "GIF") else "RGB", size).save(file, form)
    return file.getvalue()


LARGE = (6000, 6000)


@pytest.mark.parametrize(
    ("form", "size"),
    [
        ("PNG", (6000, 6000)),
        ("GIF", (6000, 6000)),
        ("TIFF", (6000, 6000)),
        ("WEBP", (5000, 3000)),
        ("PNG", (65500, 400)),
    ],
)
def test_bombs_are_refused_by_their_header(form, size, models, monkeypatch):
    content = bomb(form, size)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("its pixels were decoded"))
    if form == "GIF":
        monkeypatch.undo()  # Pillow loads a GIF's first frame when it is asked for its size
    with pytest.raises(BadImage, match="pixels"):
        models["classes"].read(content, 25_000_000)


def test_a_line_of_pixels_is_refused_before_it_is_enlarged(models):
    """Its shorter side becomes that of the model, and the other grows with it."""
    for size in ((65500, 1), (1, 65500)):
        with pytest.raises(BadImage, match="too long or too narrow"):
            models["cropped"].read(bomb("PNG", size), 10_000_000)
        assert models["classes"].read(bomb("PNG", size), 25_000_000)[0].shape == (16, 16, 3)
    assert models["cropped"].read(bomb("PNG", (1, 1)), 25_000_000)[1] == (1, 1)


def test_a_model_is_described_without_its_place(models, folders):
    about = models["classes"].describe()
    assert about["classes"] == list(CLASSES)
    assert about["input"]["size"] == (16, 16)
    assert len(about["sha256"]) == 64
    assert str(folders) not in str(about)
    assert [p.suffix for p in weight_files(models["classes"].predictor.source) if p.suffix != ".json"] == [
        ".safetensors"
    ]


def test_a_file_that_is_replaced_written_or_removed_has_changed(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    before = [fingerprint(file)]
    assert changed_files(before) == []
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").replace(file)
    assert changed_files(before) == [str(file)]
    file.unlink()
    assert changed_files(before) == [str(file)]


def test_weights_that_are_not_finite_are_refused(folders, tmp_path):
    from vitrail.storage.tensors import pack, unpack

    shutil.copytree(folders / "classes", tmp_path / "nan")
    tensors, about = unpack(tmp_path / "nan/model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    (tmp_path / "nan/model.safetensors").write_bytes(pack(tensors, about))
    with pytest.raises(CheckpointError):
        open_model("nan", str(tmp_path / "nan"), WORK)


def test_an_engine_that_answers_nan_is_refused(models):
    class Broken:
        """A predictor of which every answer is not a number."""

        def __getattr__(self, name):
            return getattr(models["classes"].predictor, name)

        def predict_pixels(self, images):
            return [np.full(3, np.nan)] * len(images)

    model = ServedModel.__new__(ServedModel)
    model.name, model.predictor, model.batch = "broken", Broken(), 1
    with pytest.raises(CheckpointError, match="not finite"):
        model.warm_up()


def test_a_model_that_generates_is_not_served(tmp_path):
    model = Choice("dit/nano", {"width": 32, "depth": 1, "heads": 2, "patch": 4, "size": (16, 16), "classes": 3})
    given = InputConfig(size=(16, 16), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    recipe = Recipe(model=model, task=Choice("diffusion"), input=given)
    save_model(assemble_model(recipe, CLASSES), tmp_path / "dit", None)
    with pytest.raises(UsageError, match="generative"):
        open_model("dit", str(tmp_path / "dit"), WORK)


def test_an_answer_that_is_not_finite_is_none(models):
    model = models["classes"]
    with pytest.raises(ArithmeticError):
        model.answer(np.array([0.5, np.nan, 0.5]), (9, 9), Options())


def test_a_jpeg_that_would_be_decoded_for_hours_is_refused(models, monkeypatch):
    monkeypatch.setattr("vitrail.serve.served.has_many_scans", lambda content: content == b"many")
    with pytest.raises(BadImage, match="scans"):
        models["classes"].read(b"many", 10**6)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadImage("it is no image", "send one"), 422), (UsageError("no such class"), 422), (Refused(413, "long"), 413),
        (CheckpointError("/srv/models/a is damaged", "take another"), 500), (OSError(5, "x", "/srv/models/a"), 500),
        (MemoryError("/srv/models/a"), 503),
    ],
)  # fmt: skip
def test_what_is_not_the_clients_mistake_is_ours_and_says_nothing_of_it(error, status, capfd):
    target = io.BytesIO()
    Worker(io.BytesIO(), target).refuse({"id": 1}, error)
    target.seek(0)
    frame = read_frame(target)
    assert frame.header["status"] == status
    assert b"srv" not in frame.body + capfd.readouterr().err.encode()
    assert (b'"error"' in frame.body) is True


@pytest.mark.slow
def test_exported_files_answer_as_the_model_does(folders, models, tmp_path):
    """Behind the same worker: ONNX Runtime and OpenVINO."""
    run = shutil.copytree(folders / "classes", tmp_path / "classes")
    must("export", run, "--format", "onnx")
    must("export", run, "--format", "onnx", "--attention", "--out", tmp_path / "with")
    pixels = [models["classes"].read(png(*size), 10**6)[0] for size in SIZES]
    expected = models["classes"].predict(pixels)
    for source, engine in ((run, "onnx"), (run / "export/onnx", "auto"), (run, "openvino")):
        model = open_model("a", str(source), {**WORK, "engine": engine, "device": "auto"})
        model.warm_up()
        for value, right in zip(model.predict(pixels), expected, strict=True):
            np.testing.assert_allclose(value, right, atol=1e-5)
        assert model.describe()["engine"] in (engine, "onnx")
        with pytest.raises(Refused, match="no attention"):
            model.explain(pixels[0], (16, 16), "auto", "")
    explained = open_model("classes", str(tmp_path / "with"), WORK).explain(pixels[0], (20, 30), "auto", "")
    right = models["classes"].explain(pixels[0], (20, 30), "rollout", "")
    np.testing.assert_allclose(explained.pop("values"), right.pop("values"), atol=1e-5)
    assert explained == right


@pytest.mark.slow
@pytest.mark.parametrize("task", ["masks", "boxes"])
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_exported_masks_and_boxes_are_served_as_the_models_are(task, engine, folders, models, tmp_path):
    """The whole answer, of images of several sizes, alone and together."""
    run = shutil.copytree(folders / task, tmp_path / task)
    must("export", run, "--format", "onnx")
    served, right = open_model(task, str(run), {**WORK, "engine": engine, "device": "auto"}), models[task]
    served.warm_up()
    assert served.describe()["output"] == task
    pixels = [right.read(png(*size), 10**6)[0] for size in SIZES]
    together = served.predict(pixels)
    for image, size, value in zip(pixels, SIZES, together, strict=True):
        options = Options(score=0.0)
        expected = right.answer(right.predict([image])[0], size, options)
        for found in (served.answer(value, size, options), served.answer(served.predict([image])[0], size, options)):
            if task == "masks":
                masks = [
                    np.asarray(Image.open(io.BytesIO(base64.b64decode(a.pop("mask"))))) for a in (found, {**expected})
                ]
                assert masks[0].shape == size
                assert np.mean(masks[0] == masks[1]) >= 0.999
                continue
            for one, other in zip(found.pop("objects"), expected["objects"], strict=True):
                assert one["label"] == other["label"]
                assert one["score"] == pytest.approx(other["score"], abs=1e-5)
                assert one["box"] == pytest.approx(other["box"], abs=0.02)
    with pytest.raises(Refused, match="no attention"):
        served.explain(pixels[0], SIZES[0], "auto", "")


class Pipe:
    """A worker in this process, and the two ends of its pipes."""

    def __init__(self, **keys):
        (down, self.down), (self.up, up) = os.pipe(), os.pipe()
        self.asked, self.answers = os.fdopen(self.down, "wb"), os.fdopen(self.up, "rb")
        self.worker = Worker(os.fdopen(down, "rb"), os.fdopen(up, "wb"))
        self.thread = threading.Thread(target=self.worker.run, daemon=True)
        self.thread.start()
        self.ask(Settings(**keys).hello())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.asked.close()
        self.thread.join(30)
        for stream in (self.answers, self.worker.source, self.worker.target):
            stream.close()

    def ask(self, header, body=b""):
        self.asked.write(pack_frame(header, body))
        self.asked.flush()

    def answer(self):
        return read_frame(self.answers)


def test_a_worker_answers_what_it_is_asked(folders):
    sources = (ModelSource("a", str(folders / "classes")), ModelSource("b", str(folders / "boxes")))
    ask = {"kind": "predict", "type": "", "encoding": "", "top": 5, "score": 0.0, "deadline": 1e12}
    attention = {"model": "a", "kind": "attention", "map": "auto"}
    requests = [
        ({"model": "a"}, png(20, 30), 200), ({"model": "b"}, png(20, 30), 200), ({"model": "a"}, b"no image", 422),
        ({"model": "a"}, b"", 400), ({"model": "a", "deadline": 0.0}, png(20, 30), 504),
        ({**attention, "label": ""}, png(20, 30), 200), ({**attention, "label": "wolf"}, png(20, 30), 422),
    ]  # fmt: skip
    with Pipe(models=sources, threads=1) as pipe:
        loaded = pipe.answer().header
        assert [row["name"] for row in loaded["models"]] == ["a", "b"]
        assert {os.path.basename(row[0]) for row in loaded["files"]} >= {"model.safetensors"}
        for number, (header, body, status) in enumerate(requests):
            pipe.ask({**ask, **header, "id": number}, body)
            frame = pipe.answer()
            assert (frame.header["id"], frame.header["status"]) == (number, status), frame.body
            assert (b'"model"' in frame.body) == (status == 200)
        pipe.ask({"kind": "drop", "id": 6})  # too late: it has its answer, and nothing is kept of it
        pipe.ask({**ask, "model": "a", "id": 7}, png(20, 30))
        assert pipe.answer().header["status"] == 200
        assert pipe.worker.present == pipe.worker.dropped == set()


def test_a_worker_says_why_it_cannot_open_its_models(tmp_path):
    with Pipe(models=(ModelSource("a", str(tmp_path)),)) as pipe:
        header = pipe.answer().header
        assert header["type"] == "failed"
        assert header["code"] == CheckpointError.code
        assert header["what"]


def test_one_bad_request_of_a_batch_is_no_loss_to_the_others(folders, models, monkeypatch):
    sent = []
    worker = Worker(io.BytesIO(), io.BytesIO())
    monkeypatch.setattr(worker, "send", lambda header, body=b"": sent.append((header["id"], header["status"])))
    model = models["classes"]
    real = model.predict
    monkeypatch.setattr(model, "predict", lambda images: 1 / 0 if any(i is None for i in images) else real(images))
    worker.models = {"a": model}
    from vitrail.serve.worker import Item

    def item(number, pixels):
        header = {"id": number, "model": "a", "kind": "predict", "deadline": 1e12, "top": 1, "score": 0.0}
        return Item(header, pixels, (16, 16), 0.0, 0.0)

    good = np.zeros((16, 16, 3), np.uint8)
    worker.predict([item(1, good), item(2, None), item(3, good)])
    assert sorted(sent) == [(1, 200), (2, 500), (3, 200)]

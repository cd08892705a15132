"""`vitrail export --format html`: one file with everything in it, and the proof that it answers as torch does."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from browser import BROWSER, open_page
from PIL import Image

from vitrail.analysis.rollout import rollout
from vitrail.cli.main import main
from vitrail.data.decode import decode
from vitrail.export.formats import html
from vitrail.export.formats.html import runtime
from vitrail.inference.load_any import load_any
from vitrail.inference.page.assemble import pack, read_block
from vitrail.inference.predictor import load_predictor

NO_BROWSER = "neither chromium nor google-chrome is installed" if BROWSER is None else ""
NO_RUNTIME = "" if runtime.is_cached() else "ONNX Runtime Web is not in the cache: vitrail export RUN --format html"
in_browser = pytest.mark.skipif(bool(NO_BROWSER or NO_RUNTIME), reason=NO_BROWSER or NO_RUNTIME)
SLIDE = """(() => {
  const slider = document.querySelector("input[type=range]");
  slider.value = VALUE;
  slider.oninput();
  return document.getElementById("canvas").toDataURL();
})()"""  # what the image looks like with so much of the attention over it
ANSWERED = "document.getElementById('timing')?.textContent"


@pytest.fixture(scope="module")
def page(run):
    """The page, with the runtime of this machine where it has one, else with one that cannot run."""
    with pytest.MonkeyPatch.context() as patch:
        if not runtime.is_cached():
            patch.setattr(html, "check_runtime", lambda folder: None)
            patch.setattr(html, "read_runtime", lambda folder: {"runtime": pack(b"export {};"), "wasm": pack(b"\0asm")})
        assert main(["export", str(run), "--format", "html"]) == 0
    return run / "export" / "html" / "index.html"


def read_about(page):
    text = page.read_text()
    start = text.index('id="page">') + len('id="page">')
    return json.loads(text[start : text.index("</script>", start)])["model"]


def test_it_is_one_file_with_its_sidecars(page):
    assert sorted(path.name for path in page.parent.iterdir()) == ["index.html", "model.json", "proof.json"]
    about = json.loads((page.parent / "model.json").read_text())["export"]
    assert (about["file"], about["export_format"]) == ("index.html", "html")
    assert json.loads((page.parent / "model.json").read_text())["inputs"]["images"]["shape"] == [1, 3, 32, 32]
    assert "Copyright (c) Microsoft Corporation" in page.read_text()


def test_graph_is_for_one_image_of_one_size(page):
    import onnx

    graph = onnx.load_from_string(read_block(page.read_text(), "graph")).graph
    [images] = graph.input
    assert [axis.dim_value for axis in images.type.tensor_type.shape.dim] == [1, 3, 32, 32]
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_it_knows_the_model_and_some_images(page):
    about = read_about(page)
    facts = {fact["name"]: fact["value"] for fact in about["facts"]}
    assert about["classes"] == ["0", "1", "2"]
    assert about["attention"] == {"grid": [4, 4], "covers": [32, 32]}
    assert about["title"] == "vit/nano on tiny.npz"
    assert {"Accuracy", "Classes", "Input", "Parameters", "Licence of the weights", "Exported by"} <= facts.keys()
    assert [one["label"] for one in about["examples"][:3]] == ["0", "1", "2"]
    image = Image.open(io.BytesIO(base64.b64decode(about["examples"][0]["data"])))
    assert (image.format, image.size) == ("PNG", (32, 32))


def test_vitrail_itself_can_use_it(page, run):
    images = [np.random.default_rng(i).integers(0, 256, (40, 30, 3), np.uint8) for i in range(3)]
    _, ours = load_any(page.parent).predict(images)
    _, expected = load_predictor(run).predict(images)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_runtime_is_a_flag_of_the_page_alone(run, capsys):
    assert main(["export", str(run), "--runtime", "/nowhere"]) == 2
    assert "--runtime is of the page" in capsys.readouterr().err
    assert main(["export", str(run), "--format", "html", "--runtime", "/nowhere"]) == 2
    assert "npm pack onnxruntime-web@1.30.0" in capsys.readouterr().err
    assert main(["export", str(run), "--format", "html", "--image-type", "float32"]) == 2


def encode(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@in_browser
def test_in_chromium_without_a_network(page, run, tmp_path):
    """From the disk, with the network off: no request, the pixels of `decode`, the input of `Preprocess` and the
    probabilities of torch."""
    predictor = load_predictor(run)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    see_through = np.dstack([pixels, np.linspace(0, 255, 70, dtype=np.uint8)[None].repeat(50, 0)])
    upside_down = Image.Exif()
    upside_down[0x0112] = 6
    files = [encode(pixels, "PNG"), encode(see_through, "PNG"), encode(pixels, "JPEG", quality=95, subsampling=0),
             encode(pixels, "PNG", exif=upside_down)]  # fmt: skip
    ask = """(async text => {
      const file = new Blob([Uint8Array.from(atob(text), c => c.charCodeAt(0))]);
      const image = await vitrail.read(file), [input] = vitrail.prepare(image);
      const planes = new Uint8Array(input.data.length), plane = input.width * input.height;
      planes.forEach((_, i) => planes[i] = input.data[i % plane * input.channels + Math.floor(i / plane)]);
      const { probabilities, attention } = await vitrail.run(planes);
      return { size: [image.height, image.width], pixels: [...image.data], planes: [...planes],
        probabilities: [...probabilities], attention: [...attention] };
    })"""
    with open_page(page.as_uri(), tmp_path / "profile") as tab:
        tab.wait(ANSWERED)
        shown = tab.evaluate("document.getElementById('verdict').textContent")
        looks = [tab.evaluate(SLIDE.replace("VALUE", str(value))) for value in (0, 60, 60)]
        answers = [tab.evaluate(f'{ask}("{base64.b64encode(one).decode()}")') for one in files]
    assert not tab.problems
    assert [one for one in tab.requests if not one.startswith(("data:", "blob:null"))] == [page.as_uri()[:100]]
    assert shown.split()[0] in predictor.classes
    assert looks[0] != looks[1] == looks[2]
    for one, answer in zip(files, answers, strict=True):
        expected = decode(one)
        assert tuple(answer["size"]) == expected.shape[:2]
        assert np.abs(np.array(answer["pixels"]).reshape(expected.shape) - expected.astype(int)).max() <= 1
        planes = torch.tensor(answer["planes"], dtype=torch.uint8).view(1, 3, 32, 32)
        difference = planes[0].int() - predictor.preprocess.image(expected).int()
        assert difference.abs().max() <= 1
        rows = predictor.task.predict(predictor.model, predictor.preprocess.batch(planes))[0]
        torch.testing.assert_close(torch.tensor(answer["probabilities"]), rows.detach(), atol=1e-5, rtol=0)
        shares = rollout(predictor.model, predictor.preprocess.batch(planes))[0]
        torch.testing.assert_close(torch.tensor(answer["attention"]), shares.flatten(), atol=1e-5, rtol=0)


@pytest.mark.slow
@in_browser
def test_int8_in_chromium(page, run, tmp_path):
    """A smaller page, whose model is the int8 one."""
    out = tmp_path / "int8"
    assert main(["export", str(run), "--format", "html", "--int8", "--force", "--out", str(out)]) == 0
    small = out / "index.html"
    assert len(read_block(small.read_text(), "graph")) < 0.8 * len(read_block(page.read_text(), "graph"))
    assert {"Numbers of the model": "int8"}.items() <= {
        f["name"]: f["value"] for f in read_about(small)["facts"]
    }.items()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    _, expected = load_any(out).predict([pixels])
    with open_page(small.as_uri(), tmp_path / "profile") as tab:
        tab.wait(ANSWERED)
        planes = pixels.transpose(2, 0, 1).flatten().tolist()
        answer = tab.evaluate(f"vitrail.run(new Uint8Array({planes})).then(one => [...one.probabilities])")
    torch.testing.assert_close(torch.tensor(answer)[None], expected, atol=1e-3, rtol=0)

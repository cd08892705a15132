"""Images with captions from the folder to the report: what a run of them keeps, resumes and refuses."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.assembly import load
from vitrail.cli.main import main
from vitrail.data.texts.tokenizer import load_library
from vitrail.inference.predictor import load_predictor
from vitrail.storage.tensors import unpack

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
TINY = [
    "--model", "vit/nano", "--model.width", "32", "--model.depth", "1", "--model.heads", "2", "--img-size", "16", "16",
    "--task.text-width", "32", "--task.text-depth", "1", "--task.text-heads", "2", "--batch-size", "16",
    "--workers", "0",
    "--optim.lr", "0.003",
]  # fmt: skip


def run(*words):
    assert main([str(word) for word in words]) in (0, None)


def train(pairs, folder, *words):
    """Six steps."""
    run("train", "--data", pairs, "--out", folder, *TINY, "--steps", 6, "--train.eval-every", 3, *words)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Squares of four colours, each with two captions, one of them Russian."""
    root = tmp_path_factory.mktemp("data") / "pairs"
    root.mkdir()
    draw, russian = np.random.default_rng(0), dict(zip(COLORS, ("красный", "зелёный", "синий", "жёлтый"), strict=True))
    for i in range(48):
        name = list(COLORS)[i % 4]
        pixels = draw.integers(0, 60, (16, 16, 3)).astype(np.uint8)
        pixels[4:12, 4:12] = COLORS[name]
        Image.fromarray(pixels).save(root / f"{i:02}.png")
        (root / f"{i:02}.txt").write_text(f"a {name} square\n{russian[name]} квадрат\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def trained(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(pairs, folder, "--runtime.save-every", 3)
    return folder


def weights(folder):
    return unpack(folder / "model.safetensors")[0]


def test_a_run_learns_is_evaluated_and_reported(trained):
    metrics = json.loads((trained / "evaluation/val.json").read_text())
    assert metrics["count"] == 10
    assert 0 < metrics["mean_recall"] <= 1
    assert "Recall@10" in (trained / "report.html").read_text(encoding="utf-8")
    recipe = (trained / "recipe.toml").read_text(encoding="utf-8")
    assert "tokenizer_hash" in recipe


def test_the_tokenizer_is_in_the_finished_weights(trained):
    predictor = load_predictor(trained)
    tokenizer = predictor.model.tokenizer.open()
    assert tokenizer.decode(tokenizer.encode(["A RED square"])[0]) == "a red square"
    assert predictor.model.embed_texts(["красный квадрат", "a red square"]).shape == (2, 32)


def test_the_command_that_predicts_gives_the_embedding(trained, pairs, capsys, tmp_path):
    run("predict", trained, pairs / "00.png", "--json", "--csv", tmp_path / "rows.csv")
    assert len(json.loads(capsys.readouterr().out.splitlines()[0])["features"]) == 32
    run("predict", trained, pairs / "00.png")
    assert "32 features" in capsys.readouterr().out
    run("eval", trained, "--csv", tmp_path / "ranks.csv")
    assert "text_to_image_r10" in capsys.readouterr().out
    head, *rows = (tmp_path / "ranks.csv").read_text().splitlines()
    assert head == "image,rank"  # the captions are as many as the images, and no row of theirs is an image's
    assert len(rows) == 10
    assert all(1 <= float(row.split(",")[1]) <= 20 for row in rows)
    run("train", "--data", pairs, *TINY, "--steps", 1, "--out", tmp_path / "run")
    shown = capsys.readouterr().out
    assert f'vitrail search {tmp_path / "run"} FOLDER "a red car"' in shown


@pytest.mark.slow
def test_such_a_run_is_exported(trained, tmp_path):
    run("export", trained, "--format", "torch", "--out", tmp_path / "file")


def test_other_commands_refuse_such_a_run(trained, tmp_path, capsys):
    assert main(["look", str(trained), "--gradients"]) == 2
    assert "learns from captions" in capsys.readouterr().err
    assert main(["export", str(trained), "--format", "html", "--out", str(tmp_path / "page")]) == 2
    assert "this model gives features" in capsys.readouterr().err


def test_a_resumed_run_ends_with_the_same_bits(trained, pairs, tmp_path):
    folder = tmp_path / "half"
    train(pairs, folder, "--runtime.save-every", 3)
    for path in sorted((folder / "checkpoints").iterdir())[1:]:  # as if killed before the last one
        import shutil

        shutil.rmtree(path)
    run("train", "--resume", folder)
    one, other = weights(trained), weights(folder)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_micro_batches_give_the_weights_of_the_whole_batch(trained, pairs, tmp_path):
    folder = tmp_path / "micro"
    train(pairs, folder, "--runtime.micro-batch", 6)
    one, other = weights(trained), weights(folder)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-4, rtol=1e-3, msg=name)


def test_a_locked_image_tower_keeps_its_weights(trained, pairs, tmp_path):
    folder = tmp_path / "locked"
    run("train", "--data", pairs, "--out", folder, "--weights", trained, "--optim.freeze", "backbone", "--steps", 2,
        "--batch-size", 16, "--workers", 0)  # fmt: skip
    one, other = load.load_bundle(trained)[0].model.state_dict(), weights(folder)  # of the best evaluation
    assert all(torch.equal(one[name], other[name]) for name in one if name.startswith("backbone."))
    assert torch.equal(one["tokenizer.content"], other["tokenizer.content"])
    assert not torch.equal(one["text.proj.weight"], other["text.proj.weight"])


def test_text_tower_and_tokenizer_of_two_models_do_not_mix(trained, pairs, tmp_path, capsys):
    bundle, _ = load.load_bundle(trained)
    (tmp_path / "other.json").write_bytes(bundle.model.tokenizer.open().content.replace(b'"Lowercase"', b'"NFKC"'))
    code = main(["train", "--data", str(pairs), "--out", str(tmp_path / "run"), "--weights", str(trained), "--task",
                 "contrastive", "--task.tokenizer", str(tmp_path / "other.json"), "--steps", "1"])  # fmt: skip
    assert code == 2
    assert "another model than the weights" in capsys.readouterr().err


def test_defaults_speak_of_captions(pairs, tmp_path, capsys):
    words = ["train", "--data", pairs, *TINY, "--steps", 1, "--dry-run", "--out", tmp_path / "run"]
    run(*words)
    shown = capsys.readouterr().out
    assert "augment.hflip = True: no caption speaks of left or right" in shown
    assert "a batch has a pair several times" not in shown
    words[words.index("--batch-size") + 1] = 64
    run(*words)
    assert "more than the 38 training images: a batch has a pair several times" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--task.vocabulary", "300"), ("--task.context", "24")])
def test_a_text_tower_keeps_its_tokens_and_places(trained, pairs, tmp_path, capsys, words):
    base = ["train", "--data", str(pairs), "--out", str(tmp_path / "run"), "--weights", str(trained), "--steps", "1"]
    assert main([*base, "--batch-size", "16", "--workers", "0", *words]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "has other tokens, places or widths than are asked for" in err
    assert "--init.head new" in err


def test_few_pairs_are_learned_by_softmax_and_muon_and_words_in_pieces(pairs, trained, tmp_path, capsys):
    words = ["train", "--data", pairs, "--model", "vit/pico", "--steps", 1, "--dry-run", "--out", tmp_path / "run"]
    run(*words)
    shown = capsys.readouterr().out
    for said in ("task.loss = softmax", "optim.name = muon", "task.subword_dropout = 0.2"):
        assert said in shown
    run(*words, "--task.loss", "sigmoid", "--optim.name", "adamw", "--task.subword-dropout", 0.0)
    shown = capsys.readouterr().out
    assert "softmax" not in shown
    assert "muon" not in shown
    assert "subword_dropout" not in shown
    run(*words[:3], "--steps", 1, "--dry-run", "--out", tmp_path / "run", "--weights", trained)
    assert "optim.name = adamw" in capsys.readouterr().out


def test_a_backbone_of_another_task_has_no_head_for_captions(trained, pairs, tmp_path, capsys):
    base = ["train", "--data", pairs, "--model", "vit/nano", "--img-size", 16, 16, "--batch-size", 16, "--workers", 0]
    run(*base, "--task", "masked_autoencoding", "--model.patch", 4, "--steps", 1, "--out", tmp_path / "mae")
    capsys.readouterr()
    words = ["train", "--data", pairs, "--weights", tmp_path / "mae", "--steps", 1, "--dry-run"]
    run(*words)
    shown = capsys.readouterr().out
    assert "the head is kept" not in shown
    run(*words[:3], "--weights", trained, *words[5:])
    assert "the head is kept" in capsys.readouterr().out


def test_subword_dropout_needs_a_tokenizer_of_pieces(pairs, tmp_path, capsys):
    library = load_library()
    names = {"[UNK]": 0, "<pad>": 1, "red": 2}
    words = library.Tokenizer(library.models.WordLevel(names, unk_token="[UNK]"))
    words.save(str(tmp_path / "words.json"))
    code = main(["train", "--data", str(pairs), "--out", str(tmp_path / "run"), *TINY, "--steps", "1",
                 "--task.tokenizer", str(tmp_path / "words.json"), "--task.subword-dropout", "0.1"])  # fmt: skip
    assert code == 2
    assert "leave --task.tokenizer out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_mixed_images_are_refused(pairs, tmp_path, capsys):
    code = main(["train", "--data", str(pairs), "--out", str(tmp_path / "run"), *TINY, "--augment.mixup", "0.2"])
    assert code == 2
    assert "captions cannot be mixed" in capsys.readouterr().err


def test_images_with_classes_are_told_apart_by_the_names_of_these(trained, pairs, tmp_path, capsys):
    for i in range(16):
        name = list(COLORS)[i % 4]
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.open(pairs / f"{i:02}.png").save(tmp_path / "photos" / name / f"{i}.png")
    run("eval", trained, "--data", tmp_path / "photos", "--csv", tmp_path / "rows.csv", "--img-size", 24, 24)
    shown = capsys.readouterr().out
    assert "top1" in shown
    assert "classes" in shown
    head, *rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert "red" in head
    assert len(rows) == 16
    for name, inside, message in (
        ("none", "", "this data has neither captions nor classes"),
        ("one", "red", "this data has one class only, 'red'"),
    ):
        (tmp_path / name / inside).mkdir(parents=True)
        Image.open(pairs / "00.png").save(tmp_path / name / inside / "0.png")
        assert main(["eval", str(trained), "--data", str(tmp_path / name)]) == 2
        err = " ".join(capsys.readouterr().err.split())
        assert message in err
        assert "--labels" not in err  # which eval has not


@pytest.mark.slow
def test_a_new_text_tower_has_a_tokenizer_of_the_captions_it_learns_from(trained, tmp_path):
    root = tmp_path / "others"
    root.mkdir()
    for i in range(12):
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(root / f"{i}.png")
        (root / f"{i}.txt").write_text(f"brightness number {i} of twelve", encoding="utf-8")
    words = ["train", "--data", root, "--weights", trained, "--steps", 1, "--batch-size", 4, "--workers", 0]
    run(*words, "--init.head", "new", "--out", tmp_path / "new")
    run(*words, "--out", tmp_path / "kept")
    one, new, kept = (weights(folder)["tokenizer.content"] for folder in (trained, tmp_path / "new", tmp_path / "kept"))
    assert torch.equal(one, kept)
    assert not torch.equal(one[:100], new[:100]) or len(one) != len(new)


def test_the_text_tower_is_summarised_where_a_given_tokenizer_ends_a_text(pairs, tmp_path, capsys):
    library = load_library()
    ids = {"[PAD]": 0, "[UNK]": 1, "a": 2, "red": 3, "blue": 4, "[CLS]": 5, "[SEP]": 6}
    made = library.Tokenizer(library.models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = library.pre_tokenizers.Whitespace()
    file = tmp_path / "tokenizer.json"
    made.save(str(file))
    words = ["train", "--data", str(pairs), *TINY, "--steps", "1", "--task.tokenizer", str(file)]
    assert main([*words, "--out", str(tmp_path / "none")]) == 2
    assert "ends no text with a token" in " ".join(capsys.readouterr().err.split())
    made.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 5), ("[SEP]", 6)]
    )
    made.save(str(file))
    assert main([*words, "--task.text-end", "99", "--out", str(tmp_path / "wrong")]) == 2
    assert "no text ends with token 99" in " ".join(capsys.readouterr().err.split())
    run(*words, "--out", tmp_path / "run")
    assert "task.text_end = 6" in capsys.readouterr().out
    red, blue = vitrail.embed(tmp_path / "run", texts=["a red", "a blue"])
    assert float(red @ blue) < 0.9999


def test_a_tokenizer_is_that_of_the_recipe(trained, pairs, tmp_path, capsys):
    base = ["train", "--data", str(pairs), *TINY, "--steps", "1", "--out", str(tmp_path / "run")]
    assert main([*base, "--task.tokenizer-size", "5"]) == 2
    assert "task.tokenizer_size is 5, and that of the tokenizer " in " ".join(capsys.readouterr().err.split())
    other = tmp_path / "other"
    shutil.copytree(pairs, other)
    for text in other.glob("*.txt"):
        text.write_text("another caption")
    assert main(["train", str(trained / "recipe.toml"), "--data", str(other), "--out", str(tmp_path / "again")]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "give another tokenizer than that of which the recipe has the SHA-256" in err
    assert "leave task.tokenizer_size and task.tokenizer_hash out" in err

"""Wrong words and wrong data: the exit code, a few plain lines that say what to do, nothing on disk."""

import pytest
from places import SHORT, good_rows, images, must, npz, refused, table, vitrail

USAGE, DATA, CHECKPOINT = 2, 3, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder full of things to get wrong."""
    root = tmp_path_factory.mktemp("place")
    for name, classes in (
        ("good", ("ant", "bee")),
        ("mixed", ("ant", "bee")),
        ("alone", ("ant",)),
        ("hollow", ("ant",)),
    ):
        images(root / name, classes)
    (root / "hollow" / "cow").mkdir()
    (root / "mixed" / "ant" / "bad.png").write_text("no image")
    for name in ("empty", "words/a", "words/b", "tables", "junk/a", "junk/b"):
        (root / name).mkdir(parents=True)
    for kind in "ab":
        (root / "words" / kind / "x.txt").write_text("hello")
        for i in range(3):
            (root / "junk" / kind / f"{i}.png").write_text("no image")
    table(root / "tables" / "x.csv", [])
    (root / "file.txt").write_text("hello\n")
    recipes = {
        "empty": b"", "broken": b"[model\nname = 3", "binary": bytes(range(256)), "section": b"[modell]\n",
        "key": b"[optim]\nlrr = 1\n",
        "value": b"model = 'vit/nano'\n", "both": b"[train]\nsteps = 3\nepochs = 2\n[data]\npath = 'good'\n",
        "kind": b"[train]\nbatch_size = '9'\n",
        "switch": b"[optim]\nlr = true\n", "many": b"[optim]\nlr = [1, 2]\n",
    }  # fmt: skip
    for name, content in recipes.items():
        (root / f"{name}.toml").write_bytes(content)
    npz(root / "tiny.npz")
    rows = good_rows()
    table(root / "range.csv", [*rows[:4], "good/bee/5.png,7"])
    table(root / "negative.csv", [*rows[:4], "good/bee/5.png,-1"])
    table(root / "nolabel.csv", ["good/ant/0.png,1"], "path,colour")
    table(root / "lost.csv", [*rows, "good/bee/99.png,1"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        must("train", "--data", "good", "--out", "run", "--quiet", *SHORT)
        from safetensors.torch import save_file
        from torch import zeros

        save_file({"a": zeros(3)}, "foreign.safetensors")
    whole = (root / "run" / "model.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (root / "flipped.safetensors").write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    return root


LONG = "x" * 5000
T = "train --data good"
N = "train --data good --model vit/nano"
WRONG = [
    # commands
    ("trian", USAGE, "did you mean 'train'"),
    ("TRAIN", USAGE, "did you mean 'train'"),
    ("evaluate run", USAGE, "did you mean 'eval'"),
    ("''", USAGE, "there are bench, check"),
    (LONG, USAGE, "unknown command"),
    ("--helpp", USAGE, "did you mean '--help'"),
    ("--data mini train", USAGE, "the command comes first"),
    ("\u202e\x07", USAGE, "unknown command"),
    # options
    (f"{T} --modle vit/nano", USAGE, "did you mean '--model'"),
    (f"{T} --learning-rate 1e-3", USAGE, "unknown option --learning-rate; here it is --lr"),
    (f"{T} --batch 3", USAGE, "unknown option --batch; here it is --batch-size"),
    (f"{T} --depth 3", USAGE, "did you mean --model.depth?"),
    (f"{T} --smoothing 0.1", USAGE, "did you mean --task.smoothing?"),
    ("train -d good", USAGE, "did you mean --data"),
    (f"{T} --train 3", USAGE, "did you mean one of its keys, --train.epochs"),
    ("train -- --data good", USAGE, "unknown option '--'"),
    ("search run good -40", USAGE, "no text tower"),
    ("search run good -x", USAGE, "vitrail search ... -- WORD"),
    ("search run good -- -x", USAGE, "no text tower"),
    ("predict run -- -x.png", DATA, "-x.png"),
    ("train --data", USAGE, "--data needs a value"),
    (f"{T} --out", USAGE, "--out needs a value"),
    (f"{T} --resume", USAGE, "--resume needs a value"),
    ("train --data=", USAGE, "--data is empty"),
    (f"{T} --out ''", USAGE, "--out is empty"),
    ("train --resume ''", USAGE, "--resume is empty"),
    (f"{T} --data tiny.npz", USAGE, "--data is given twice"),
    (f"{T} --batch-size 4 --batch-size 8", USAGE, "--batch-size is given twice"),
    (f"{T} --augment.hflip --augment.no-hflip", USAGE, "--augment.hflip is given twice"),
    (f"{T} good", USAGE, "unexpected argument 'good'"),
    (f"{T} --quiet yes", USAGE, "unexpected argument 'yes'"),
    ("train both.toml key.toml", USAGE, "unexpected argument 'key.toml'"),
    (f"{T} --data.classes a b", USAGE, "unknown key 'classes' in data (imagefolder)"),
    (f"{T} --data.sampler a b", USAGE, "unexpected argument 'b'"),
    # sections, keys and values of a recipe
    (f"{T} --modl.depth 3", USAGE, "did you mean 'model'"),
    (f"{T} --optim.leraning-rate 1", USAGE, "did you mean 'lr'"),
    (f"{T} --train.bacth 3", USAGE, "did you mean 'batch_size'"),
    (f"{T} --train.batch-size.size 3", USAGE, "did you mean 'batch_size'"),
    (f"{N} --model.deepth 3", USAGE, "unknown key 'deepth' in vit/nano; did you mean 'depth'"),
    (f"{T} --model.deepth 3", USAGE, "did you mean 'depth'"),
    (f"{T} --data.hold-out 0.3", USAGE, "did you mean 'held_out'"),
    (f"{T} --task.smothing 0.3", USAGE, "did you mean 'smoothing'"),
    (f"{T} --precision bf61", USAGE, "did you mean 'bf16'"),
    (f"{T} --augment.crop rnadom", USAGE, "did you mean 'random'"),
    (f"{T} --optim.freeze backbon", USAGE, "did you mean 'backbone'"),
    (f"{T} --task.loss bec", USAGE, "did you mean 'bce'"),
    (f"{N} --model.position lerned", USAGE, "did you mean 'learned'"),
    (f"{T} --model vti/nano", USAGE, "vit/nano"),
    (f"{T} --model vit/nono", USAGE, "did you mean 'vit/nano'"),
    (f"{T} --model vit", USAGE, "vit/small"),
    (f"{T} --model nano", USAGE, "did you mean dit/nano, jit/nano, vit/nano"),
    (f"{T} --model vit/", USAGE, "not the whole name"),
    (f"{T} --model /nano", USAGE, "vit/nano"),
    (f"{T} --model vit/nano/extra", USAGE, "did you mean 'vit/nano'"),
    (f"{T} --model nobody.here/x", USAGE, "there is no module 'nobody.here'"),
    (f"{T} --model os.path", USAGE, "has no Config"),
    (f"{T} --model {LONG}", USAGE, "not the whole name"),
    (f"{T} --task clasification", USAGE, "did you mean 'classification'"),
    ("train --data.name imagefoldr --data.path good", USAGE, "did you mean 'imagefolder'"),
    # kinds and ranges
    (f"{T} --batch-size abc", USAGE, "takes a whole number, not 'abc'"),
    (f"{T} --batch-size 1.5", USAGE, "takes a whole number, not 1.5"),
    (f"{T} --batch-size 0", USAGE, "at least 1, not 0"),
    (f"{T} --batch-size -3", USAGE, "at least 1, not -3"),
    (f"{T} --batch-size=", USAGE, "--batch-size is empty"),
    (f"{T} --train.eval-every=", USAGE, "takes a whole number, not ''"),
    (f"{T} --batch-size", USAGE, "--batch-size needs a value"),
    (f"{T} --batch-size '4; rm -rf /'", USAGE, "takes a whole number"),
    (f"{T} --steps 0", USAGE, "at least 1, not 0"),
    (f"{T} --steps -1", USAGE, "at least 1, not -1"),
    (f"{T} --steps 99999999999999999999999", USAGE, "at most"),
    (f"{T} --epochs 0", USAGE, "more than 0, not 0"),
    (f"{T} --epochs -1", USAGE, "more than 0, not -1"),
    (f"{T} --epochs nan", USAGE, "not a finite number"),
    (f"{T} --seed -1", USAGE, "at least 0"),
    (f"{T} --seed 99999999999999999999", USAGE, "at most"),
    (f"{T} --lr nan", USAGE, "not a finite number"),
    (f"{T} --lr inf", USAGE, "not a finite number"),
    (f"{T} --lr 1e400", USAGE, "not a finite number"),
    (f"{T} --lr -1", USAGE, "at least 0, not -1"),
    (f"{T} --lr 1,5", USAGE, "takes a number, not '1,5'"),
    (f"{T} --lr 2024-01-01", USAGE, "takes a number"),
    (f"{T} --lr 1 2", USAGE, "takes a number, not 1 2"),
    (f"{T} --optim.betas 0.9", USAGE, "takes 2 numbers"),
    (f"{T} --optim.betas 0.9 1.5", USAGE, "less than 1"),
    (f"{T} --input.size 28", USAGE, "for example 28 28"),
    (f"{T} --img-size 0 0", USAGE, "more than 0, not 0 0"),
    (f"{T} --img-size 28 28 28", USAGE, "takes 2 whole numbers, not 28 28 28"),
    (f"{T} --input.std 0 0 0", USAGE, "more than 0"),
    (f"{T} --input.std 1 1", USAGE, "2 values for 3 channels"),
    (f"{T} --input.crop-ratio 0", USAGE, "at least 0.1"),
    (f"{T} --input.background 300 0 0", USAGE, "at most 255"),
    (f"{T} --augment.hflip maybe", USAGE, "true or false, not 'maybe'"),
    (f"{T} --augment.no-crop", USAGE, "needs a value"),
    (f"{T} --augment.random-erasing 7", USAGE, "at most 1"),
    (f"{T} --augment.magnitude 99", USAGE, "at most 30"),
    (f"{T} --augment.mixup -1", USAGE, "at least 0"),
    (f"{T} --workers -1", USAGE, "at least 0"),
    (f"{T} --workers 100000", USAGE, "at most 256"),
    (f"{T} --runtime.micro-batch 0", USAGE, "more than 0"),
    ("train --data.path", USAGE, "takes a text"),
    (f"{T} --data.path bad", USAGE, "--data is given twice"),
    # settings that contradict each other, the model or the data
    (f"{T} --steps 3 --epochs 2", USAGE, "both given"),
    (f"{T} --runtime.keep-checkpoints 1", USAGE, "--runtime.keep-checkpoints 2"),
    (f"{T} --batch-size 7 --augment.mixup 0.2", USAGE, "not even"),
    (f"{T} --augment.scale 0.9 0.1", USAGE, "the smaller fraction comes first"),
    (f"{T} --optim.freeze 99", USAGE, "the model has 1"),
    (f"{T} --input.channels 2", USAGE, "cannot be converted to that"),
    (f"{N} --model.channels 2", USAGE, "the images have 3"),
    (f"{N} --model.heads 5", USAGE, "heads that fit"),
    (f"{N} --model.heads 0", USAGE, "more than 0"),
    (f"{N} --model.width 0", USAGE, "more than 0"),
    (f"{N} --model.depth -1", USAGE, "at least 0"),
    (f"{N} --model.patch 3", USAGE, "not a power of two"),
    (f"{N} --model.patch 20", USAGE, "16 and 32"),
    (f"{N} --model.patch 0", USAGE, "more than 0"),
    (f"{N} --model.dropout 2", USAGE, "less than 1"),
    (f"{T} --task.classes 0", USAGE, "the data has 2"),
    (f"{T} --task.classes 7", USAGE, "the data has 2"),
    (f"{T} --task.multi-label", USAGE, "the data has false"),
    # recipes
    ("train nothere.toml", USAGE, "there is no recipe nothere.toml"),
    ("train brokn.toml", USAGE, "beside it: broken.toml"),
    ("train empty.toml", USAGE, "no data was given"),
    ("train broken.toml", USAGE, "line 1"),
    ("train binary.toml", USAGE, "not UTF-8"),
    ("train section.toml", USAGE, "did you mean 'model'"),
    ("train key.toml", USAGE, "did you mean 'lr'"),
    ("train value.toml", USAGE, "write [model]"),
    ("train both.toml", USAGE, "both given"),
    ("train kind.toml", USAGE, "takes a whole number, not '9'"),
    ("train switch.toml", USAGE, "takes a number, not true"),
    ("train many.toml", USAGE, "takes a number, not 1 2"),
    ("train good", USAGE, "vitrail train --data FOLDER"),
    ("train mini", USAGE, "vitrail train --data mini"),
    ("train file.txt", USAGE, "a .toml file"),
    # data
    ("train", USAGE, "--data mini"),
    ("train --data minni", USAGE, "did you mean 'mini'"),
    ("train --data nothere", DATA, "there is no file or folder nothere"),
    ("train --data goood", DATA, "beside it: good"),
    ("train --data /nothere/at/all", DATA, "there is no /nothere/at either"),
    ("train --data ~nobody-here/x", USAGE, "home folder"),
    (f"train --data {LONG}", USAGE, "cannot be accessed"),
    ("train --data 'a b\u202e'", DATA, "there is no file or folder"),
    ("train --data empty", DATA, "one folder a class"),
    ("train --data alone", DATA, "one class only"),
    ("train --data hollow", DATA, "cow/"),
    ("train --data words", DATA, "has no images"),
    ("train --data tables", DATA, "name the file: --data tables/x.csv"),
    ("train --data junk", DATA, "6 images (100.00%) cannot be read"),
    ("train --data mixed --data.max-errors 0", DATA, "or --data.max-errors 0.077 leaves them out"),
    ("train --data mixed --data.on-error fail", DATA, "--data.on-error skip leaves them out"),
    ("train --data file.txt", DATA, "not a data set that can be read"),
    ("train --data good/ant/0.png", DATA, "not a data set that can be read"),
    ("train --data negative.csv", DATA, "line 6"),
    ("train --data nolabel.csv", DATA, "line 1: no column label"),
    ("train --data lost.csv", DATA, "line 14"),
    ("""train --data range.csv --data.classes '["a","b"]'""", DATA, "line 6: label '7' is out of range"),
    # where it would be written
    (f"{T} --out good", USAGE, "never overwritten"),
    (f"{T} --out run", USAGE, "--resume run continues it"),
    (f"{T} --out file.txt", USAGE, "never overwritten"),
    (f"{T} --out file.txt/run", DATA, "cannot be written"),
    (f"{T} --out file.txt/deeper/run", DATA, "cannot be written"),
    (f"{T} --out {LONG}", USAGE, "cannot be accessed"),
    # devices
    (f"{T} --device xyz", USAGE, "there are auto, cpu, cuda, mps"),
    (f"{T} --device cdua", USAGE, "did you mean 'cuda'"),
    (f"{T} --device gpu", USAGE, "did you mean 'cuda'"),
    (f"{T} --device meta", USAGE, "unknown device"),
    (f"{T} --device cuda:99", USAGE, "there is no GPU 'cuda:99' here"),
    # resuming
    ("train --resume nothere", CHECKPOINT, "there is no run nothere"),
    ("train --resume good", CHECKPOINT, "good is not the folder of a run"),
    ("train --resume run --out other", USAGE, "--resume continues a run as it is"),
    ("train both.toml --resume run", USAGE, "--resume continues a run as it is"),
    ("train --resume run --lr 1", USAGE, "--allow-change optim.lr"),
    ("train --resume run --model.depth 5", USAGE, "model.depth: 1 -> 5"),
    ("train --resume run --data tiny.npz", USAGE, "data.path"),
    ("train --resume run --lr 1 --allow-change optim.lrr", USAGE, "did you mean 'optim.lr'"),
    (f"{T} --allow-change optim.lr", USAGE, "belongs to --resume"),
    # eval
    ("eval", USAGE, "needs RUN"),
    ("eval nothere", CHECKPOINT, "there is no run nothere"),
    ("eval empty", CHECKPOINT, "not the folder of a run"),
    ("eval run --split vla", USAGE, "did you mean 'val'"),
    ("eval run --split test", USAGE, "parts: train, val"),
    ("eval run --data nothere", DATA, "there is no file or folder nothere"),
    ("eval run --data tiny.npz", DATA, "the model does not know '0'"),
    ("eval run --jsn", USAGE, "did you mean '--json'"),
    ("eval run more", USAGE, "unexpected argument 'more'"),
    ("eval foreign.safetensors --data good", CHECKPOINT, "does not name its model"),
    ("eval cut.safetensors --data good", CHECKPOINT, "the file has"),
    ("eval flipped.safetensors --data good", CHECKPOINT, "altered"),
    ("eval file.txt --data good", CHECKPOINT, "not a whole .safetensors file"),
    # predict
    ("predict", USAGE, "needs RUN"),
    ("predict run", USAGE, "no image was given"),
    ("predict run nothere.png", DATA, "there is no nothere.png"),
    ("predict run file.txt", DATA, "1 of 1 images could not be read"),
    ("predict run empty", DATA, "there is no image in empty"),
    ("predict run good --top 0", USAGE, "--top is 0"),
    ("predict run good --top x", USAGE, "--top takes a whole number, not 'x'"),
    ("predict run ~nobody-here/x.png", USAGE, "home folder"),
    ("predict good/ant/0.png run", USAGE, "the run comes first"),
    ("predict nothere good", CHECKPOINT, "there is no run nothere"),
    ("predict empty good", CHECKPOINT, "not the folder of a run"),
    ("predict flipped.safetensors good", CHECKPOINT, "altered"),
    ("predict foreign.safetensors good", CHECKPOINT, "name its model"),
    # check, models, cost, report, doctor
    ("check", USAGE, "needs DATA"),
    ("check nothere", DATA, "there is no file or folder nothere"),
    ("check alone", DATA, "one class only"),
    ("check --path mini", USAGE, "unknown option --path"),
    ("models vitt", USAGE, "'vit'"),
    ("models nano", USAGE, "vit/nano"),
    ("models vit/nono", USAGE, "did you mean 'vit/nano'"),
    ("models vit nano", USAGE, "unexpected argument 'nano'"),
    ("cost", USAGE, "needs MODEL"),
    ("cost vit", USAGE, "vit/small"),
    ("cost vti/nano", USAGE, "vit/nano"),
    ("cost nothere", CHECKPOINT, "there is no run nothere"),
    ("cost vit/nano --img-size 0 0", USAGE, "is not possible"),
    ("cost vit/nano --img-size 28,x", USAGE, "takes 2 whole numbers, or one for a square, not 'x'"),
    ("cost vit/nano --img-size x y", USAGE, "takes 2 whole numbers"),
    ("cost vit/nano --img-size 28 28 28", USAGE, "no third number"),
    ("cost vit/nano --img-size 28,0", USAGE, "is not possible"),
    ("cost vit/nano --img-size 999999999999", USAGE, "too many numbers to count"),
    ("cost vit/nano --batch-size 0", USAGE, "cannot be counted for 0 images"),
    ("cost vit/nano --img-size 28,56 --plot x.txt", USAGE, "ends in .svg or .png"),
    ("cost vit/nano --img-size 28 --plot x.svg", USAGE, "one size is not enough for a plot"),
    ("cost vit/nano --img-size 28,56 --plot no/x.svg", USAGE, "there is no folder no"),
    ("cost vit/nano --classes 0", USAGE, "more than 0"),
    ("cost vit/nano --classes x", USAGE, "takes a whole number"),
    ("cost vit/nano --model.dpth 2", USAGE, "did you mean 'depth'"),
    ("cost vit/nano --lr 2", USAGE, "vitrail cost has no --lr"),
    ("cost vit/nano --optim.eps 2", USAGE, "does not change the cost of a model"),
    ("cost run --model.depth 2", USAGE, "the model of a run cannot be changed"),
    ("report nothere", CHECKPOINT, "there is no run nothere"),
    ("report good", CHECKPOINT, "not the folder of a run"),
    ("doctor --fodler .", USAGE, "did you mean '--folder'"),
    ("doctor nothere", CHECKPOINT, "there is no run nothere"),
    ("doctor good", CHECKPOINT, "not the folder of a run"),
    ("doctor run --folder .. --json", USAGE, "--folder is where runs would be written"),
    ("doctor run more", USAGE, "unexpected argument 'more'"),
]


@pytest.mark.parametrize(("words", "code", "piece"), WRONG, ids=[w[:60] for w, _, _ in WRONG])
def test_wrong_words(place, monkeypatch, words, code, piece):
    monkeypatch.chdir(place)
    refused(place, words, code, piece)


def test_debug_shows_the_traceback_and_the_same_code(place, monkeypatch):
    monkeypatch.chdir(place)
    code, _, err = vitrail("train", "--debug", "--data", "good", "--modle", "x")
    assert code == USAGE
    assert "Traceback" in err
    assert err.rstrip().endswith("every option")


def test_an_unwritable_output_is_told(place, monkeypatch):
    """Nothing is trained for an hour and then lost."""
    monkeypatch.chdir(place)
    code, out, _ = vitrail("train", "--data", "good", "--out", "file.txt/run", "--dry-run")
    assert (code, out) == (DATA, "")

"""`vitrail plan` against the table of published and simulated figures that its formulas come from."""

import json

import pytest
from places import must, vitrail

from vitrail.cli.main import main
from vitrail.report.plan.gpus import GPUS
from vitrail.report.plan.plan import ModelNumbers, Training, compute_seconds, plan_training


def planned(*words):
    return json.loads(must("plan", "--json", *words))


@pytest.fixture(scope="module")
def base():
    """ViT-B/16 on 1,024 H100 with 128 images each, as the paper model has it."""
    return planned("--gpus", 1024, "--model", "vit/base", "--batch-size", 131072, "--mfu", 0.4)


def by_name(found, name):
    return next(s for s in found["strategies"] if s["name"] == name)


def test_time_and_data_of_vit_base_on_1024_gpus(base):
    """34 ms of arithmetic; 17 ms of communication of a flat FSDP, 4.1 of HSDP; 3.84 million images, 423 GB and 15,400
    cores a second."""
    assert base["compute_s"] * 1e3 == pytest.approx(34, rel=0.02)
    assert by_name(base, "fsdp")["comm_s"] * 1e3 == pytest.approx(17 * 1.2, rel=0.1), "with its padding"
    assert by_name(base, "hsdp")["comm_s"] * 1e3 == pytest.approx(4.1, rel=0.1)
    assert base["recommended"] == "ddp", "whose 17 ms hide behind the backward pass"
    assert base["images_per_s"] == pytest.approx(3.84e6, rel=0.02)
    assert base["data_bytes_per_s"] == pytest.approx(423e9, rel=0.02)
    assert base["decode_cores"] == pytest.approx(15_400, rel=0.02)


def test_where_communication_does_not_hide_the_machines_keep_copies():
    found = planned("--gpus", 1024, "--model", "vit/base", "--batch-size", 32768)
    assert found["recommended"] == "hsdp"
    assert found["step_s"] == found["compute_s"]


def test_bytes_a_parameter_are_those_of_the_fake_process_group(base):
    """HSDP of 8: 3.99 gathered, 4.05 reduced among the shards, 0.51 among the machines."""
    parameters, traffic = base["model"]["parameters"], by_name(base, "hsdp")["traffic"]
    assert traffic["all_gather"] / parameters == pytest.approx(3.99, rel=0.05)
    assert traffic["reduce_scatter"] / parameters == pytest.approx(4.05, rel=0.05)
    assert traffic["all_reduce"] / parameters == pytest.approx(0.51, rel=0.05)
    assert by_name(base, "fsdp")["padding"] > by_name(base, "hsdp")["padding"] >= 1


def test_memory_decides_where_a_copy_does_not_fit():
    """7 billion parameters of 16 B each are 112 GB."""
    model = ModelNumbers("large", (224, 224), 7 * 10**9, 1600 * 10**9, 197 * 4096 * 40, ())
    training = Training(16, 8, 512, GPUS["h100"], 0.4, 1, 10**6, "none", 0, 10**5, 250)
    found = plan_training(model, training)
    ddp, fsdp, hsdp = found.strategies
    assert not ddp.micro_batch
    assert fsdp.micro_batch
    assert hsdp.micro_batch
    assert found.recommended.name != "ddp"
    assert found.auto.name in ("fsdp", "hsdp")
    small = plan_training(model, training.__class__(**{**vars(training), "gpus": 1, "batch": 32}))
    assert small.recommended.micro_batch == 0


def test_checkpointing_takes_a_third_more_time_and_less_memory():
    plain, full = (planned("--gpus", 8, "--model", "vit/tiny", "--grad-checkpoint", k) for k in ("none", "full"))
    assert full["compute_s"] == pytest.approx(4 / 3 * plain["compute_s"])
    assert by_name(full, "ddp")["activations"] < by_name(plain, "ddp")["activations"] / 10


def test_the_mean_of_an_mfu_is_images_a_second():
    """ViT-S at 22 % of an H100: 7,716 published."""
    model = ModelNumbers("vit/small", (224, 224), 22_000_000, 4_620_000_000, 0, ())
    training = Training(1, 1, 256, GPUS["h100"], 0.22, 1, 256, "none", 0, 1, 1)
    assert 256 / compute_seconds(model, training) == pytest.approx(7716, rel=0.05)


def test_the_text_has_the_numbers_and_what_nobody_has_measured(capsys):
    assert main(["plan", "--gpus", "8", "--model", "vit/tiny", "--batch-size", "2048"]) == 0
    said = capsys.readouterr().out
    assert "batch 2,048, 256 a GPU" in said
    assert "recommended: --parallel ddp" in said
    assert "not measured:" in said
    assert "the MFU: it is assumed" in said


@pytest.mark.parametrize(("words", "piece"), [
    ("--gpus 8", "needs --model"),
    ("--model vit/base --gpus 0", "--gpus takes a number above 0"),
    ("--model vit/base --gpus 12 --batch-size 100", "is not divisible by 12 GPUs -> --batch-size 96 or 108"),
    ("--model vit/base --mfu 40", "--mfu is a share between 0 and 1"),
    ("--model vit/base --gpu h1000", "unknown GPU 'h1000'; did you mean 'h100'"),
    ("--model vit/bass", "did you mean"),
    ("--model vit/base --batch-size -8", "--batch-size takes a number of images from 1 to 1,000,000,000, not -8"),
    ("--model vit/base --batch-size 0", "from 1 to 1,000,000,000, not 0"),
    ("--model vit/base --batch-size 8000000000", "from 1 to 1,000,000,000, not 8,000,000,000"),
    ("--model vit/base --epochs inf", "--epochs takes a number above 0, up to 1,000,000, not inf"),
    ("--model vit/base --epochs nan", "not nan"),
    ("--model vit/base --image-kb 1e400", "--image-kb takes a number above 0, up to"),
    ("--model vit/base --averages -1", "no number below 0"),
    ("--model vit/base --gpus 100000000", "--gpus takes a number above 0, up to 1,000,000"),
])  # fmt: skip
def test_refused(words, piece):
    code, _, said = vitrail("plan", *words.split())
    assert code == 2
    assert piece in " ".join(said.split())


def test_a_plan_of_the_largest_numbers_takes_no_longer(capsys):
    """Its micro-batches are divisors: they are not tried one by one."""
    words = ["--gpus", "1", "--batch-size", "1000000000", "--epochs", "1000000", "--core-images-per-s", "1e-300"]
    assert main(["plan", "--model", "vit/nano", *words, "--json"]) == 2
    assert "--core-images-per-s" in capsys.readouterr().err
    assert main(["plan", "--model", "vit/nano", *words[:-2], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    micro = found["strategies"][0]["micro_batch"]
    assert micro > 1
    assert 10**9 % micro == 0


SMALL = ["--model.depth", 2, "--model.width", 32, "--model.heads", 2, "--gpus", 16]


@pytest.mark.slow
def test_a_simulated_step_moves_the_bytes_of_the_formula():
    """torch's own FSDP over 16 processes that do not exist, two machines of eight."""
    found = planned("--model", "vit/nano", *SMALL, "--batch-size", 16, "--simulate")["simulated"]
    assert found["name"] == "hsdp"
    for kind in ("all_gather", "reduce_scatter", "all_reduce"):
        assert found["step"][kind] == pytest.approx(found["formula"][kind], rel=0.1), kind

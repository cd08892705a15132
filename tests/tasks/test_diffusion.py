"""Diffusion: the losses and samplers of the originals to the last digits, and what the formulas must do anyhow."""

import math

import pytest
import torch
from oracles import DIT, JIT, golden, relative_error, take
from torch import nn

from vitrail.errors import UsageError
from vitrail.layers.adaln import Conditioning
from vitrail.tasks.diffusion import Config, Sampling, build, flow, gaussian
from vitrail.tasks.diffusion.guidance import Guidance, NoiseStreams, guide_model
from vitrail.types import Batch

SPACES = ["x", "eps", "v"]


@pytest.fixture(scope="module")
def dit():
    held, state = golden("dit_tiny")
    return take("dit", "original", DIT, state), held, build(Config(classes=10))


@pytest.fixture(scope="module")
def jit():
    held, state = golden("jit_tiny")
    return take("jit", "original", JIT, state), held, build(Config(objective="flow", classes=10))


@torch.no_grad()
def test_gaussian_loss_is_the_originals(dit):
    model, held, task = dit
    x0, noise, t, labels = (held[f"loss.{name}"] for name in ("x0", "noise", "t", "labels"))
    assert t.min() == 0, "the first place, where the bound is another, is among them"
    row = task.chain.rows(t)
    x = gaussian.add_noise(row, x0, noise)
    found = gaussian.gaussian_losses(row, model(x, t, labels), x0, x, noise, t == 0)
    for name in ("mse", "vb"):
        assert relative_error(found[name], held[f"loss.{name}"]) <= 1e-5
    assert relative_error(found["mse"] + found["vb"], held["loss.total"]) <= 1e-5
    mean = task.gaussian(model, x0, t, noise, labels)
    torch.testing.assert_close(mean["mse"] + mean["vb"], held["loss.total"].mean())


@torch.no_grad()
def test_guidance_drives_three_of_four_channels_as_the_original(dit):
    model, held, _ = dit
    x, labels, wanted = held["cfg.x"][:2], held["cfg.y"][:2], held["cfg.out"][:2]
    three = guide_model(model, labels, Guidance(4.0, 3))(x, 300)
    assert relative_error(three, wanted) <= 1e-5
    every = guide_model(model, labels, Guidance(4.0))(x, 300)
    assert torch.equal(every[:, :3], three[:, :3])
    assert torch.equal(every[:, 4:], three[:, 4:])
    plain = guide_model(model, labels, Guidance())(x, 300)
    blind = guide_model(model, labels * 0 + 10, Guidance())(x, 300)
    torch.testing.assert_close(every[:, :4], blind[:, :4] + 4 * (plain - blind)[:, :4], rtol=1e-4, atol=1e-4)


def test_ancestral_sampling_is_the_originals(dit):
    model, held, task = dit
    assert list(gaussian.respace_chain(task.chain, 10).times) == held["sample.timesteps"].tolist()
    draw = iter(held["sample.noises"]).__next__
    states = list(task.states(model, held["sample.z"], held["sample.labels"], Sampling(steps=10, guidance=1.5), draw))
    assert len(states) == 10
    assert relative_error(states[-1], held["sample.out"]) <= 1e-5


@torch.no_grad()
def test_flow_loss_is_the_originals(jit):
    model, held, task = jit
    t = torch.sigmoid(-0.8 + 0.8 * held["loss.t_normal"])
    found = task.flow(model, held["loss.x"], t, held["loss.noise"], held["loss.labels"])
    assert relative_error(found["v"], held["loss.value"][0]) <= 1e-5


def test_heun_sampling_is_the_originals(jit):
    model, held, task = jit
    noise = held["sample.z0"] / task.noise_scale(held["sample.z0"])
    calls = []
    hook = model.patch_embed.register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
    states = list(task.states(model, noise, held["sample.labels"], Sampling(steps=8, guidance=2.5), None))
    hook.remove()
    assert len(states) == 8
    assert relative_error(states[-1], held["sample.out"]) <= 1e-5
    assert calls == [2] + [4] * 14, (
        "one answer where nothing is guided, two in one batch elsewhere; the last step asks once"
    )


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "ddim with chance"])
def test_a_step_is_that_of_diffusers(kind):
    """On its own choice of places, which is another than DiT's."""
    diffusers = pytest.importorskip("diffusers")
    eta = 0.7 if kind == "ddim with chance" else 0.0
    keys = {"beta_start": 1e-4, "beta_end": 2e-2, "clip_sample": False}
    theirs = (
        diffusers.DDPMScheduler(**keys, variance_type="learned_range")
        if kind == "ddpm"
        else diffusers.DDIMScheduler(**keys, set_alpha_to_one=True)
    )
    theirs.set_timesteps(10)
    x, out = torch.randn(2, 4, 6, 6), 0.3 * torch.randn(2, 8, 6, 6)
    noises = [torch.randn(x.shape, generator=torch.Generator().manual_seed(i)) for i in range(10)]
    draw = iter(noises).__next__
    chain = gaussian.select_places(gaussian.linear_betas(), [100 * i for i in range(10)])
    if kind == "ddpm":
        mine = list(gaussian.ddpm_steps(lambda x, t: out, x, chain, draw))
    else:
        mine = list(gaussian.ddim_steps(lambda x, t: out, x, chain, draw, eta=eta))
    for i, t in enumerate(theirs.timesteps):
        if kind == "ddpm":
            x = theirs.step(out, t, x, generator=torch.Generator().manual_seed(i)).prev_sample
        else:
            x = theirs.step(out[:, :4], t, x, eta=eta, variance_noise=noises[i] if eta and i < 9 else None).prev_sample
        assert relative_error(mine[i], x) <= 1e-5


def test_the_chain_ends_in_noise_and_shortened_ones_know_the_same_places():
    chain = gaussian.linear_betas()
    assert float(chain.kept[-1]) < 1e-4
    assert float(gaussian.linear_betas(250).kept[-1]) < 1e-4
    for steps in (2, 7, 250, 999, 1000):
        short = gaussian.respace_chain(chain, steps)
        assert len(set(short.times)) == steps
        assert (short.times[0], short.times[-1]) == (0, 999)
        torch.testing.assert_close(short.kept, chain.kept[list(short.times)])
    for steps in (1, 1001):
        with pytest.raises(UsageError, match=f"cannot be sampled in {steps}"):
            gaussian.respace_chain(chain, steps)


def test_shades_are_a_distribution():
    """All 256 of them, and their probabilities add up to one."""
    shades = torch.linspace(-1, 1, 256)
    for mean, std in ((0.1, 0.3), (-0.9, 0.05), (1.0, 0.5)):
        total = (
            gaussian.shade_log_probability(shades, torch.full((256,), mean), torch.full((256,), math.log(std)))
            .exp()
            .sum()
        )
        assert float(total) == pytest.approx(1, abs=1e-3)


def test_the_bound_is_nothing_for_the_annotation_and_teaches_the_variance_only():
    chain = gaussian.linear_betas()
    x0, noise, places = torch.rand(3, 2, 4, 4) * 2 - 1, torch.randn(3, 2, 4, 4), torch.tensor([5, 300, 999])
    row = chain.rows(places)
    x = gaussian.add_noise(row, x0, noise)
    exact = torch.cat([noise, torch.full_like(noise, -1)], 1).requires_grad_()
    found = gaussian.gaussian_losses(row, exact, x0, x, noise, places == 0)
    assert float(found["vb"].detach().abs().max()) < 1e-3
    assert not found["mse"].detach().any()
    wrong = (exact.detach() + 0.5).requires_grad_()
    gaussian.gaussian_losses(row, wrong, x0, x, noise, places == 0)["vb"].sum().backward()
    assert not wrong.grad[:, :2].any()
    assert wrong.grad[:, 2:].all()


class Knows(nn.Module):
    """Says the truth about one image, in any space."""

    def __init__(self, x, say):
        super().__init__()
        self.x, self.say, self.null = x, say, 0
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, z, t, label):
        return self.denoise(z, self.condition(t, label))

    def condition(self, t, label):
        return Conditioning((t[:, None, None, None],), label[:, None])

    def denoise(self, z, told):
        return self.say(z, told.moves[0], self.x)


SAID = {
    "x": lambda z, t, x: x.expand_as(z),
    "eps": lambda z, t, x: (z - t * x) / (1 - t),
    "v": lambda z, t, x: (x - z) / (1 - t),
}


@pytest.mark.parametrize("prediction", SPACES)
@pytest.mark.parametrize("loss", SPACES)
def test_all_nine_pairs_of_prediction_and_loss(prediction, loss):
    """The error of what is said, turned into the space of the loss and compared there with the truth."""
    task = build(Config(objective="flow", classes=0, prediction=prediction, loss_space=loss))
    x, noise, t = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.tensor([0.1, 0.4, 0.6, 0.9])
    time = t[:, None, None, None]
    z = flow.interpolate(x, noise, time)
    out = flow.flow_target(x, noise, prediction) + 0.3 * torch.randn_like(x)
    image = {"x": out, "eps": (z - (1 - time) * out) / time, "v": z + (1 - time) * out}[prediction]
    turned = {"x": image, "eps": (z - time * image) / (1 - time), "v": (image - z) / (1 - time)}[loss]
    wanted = (turned - flow.flow_target(x, noise, loss)).square().mean()
    found = task.flow(Knows(x, lambda *_: out), x, t, noise, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(found[loss], wanted, rtol=1e-3, atol=1e-5)
    exact = task.flow(
        Knows(x, lambda *_: flow.flow_target(x, noise, prediction)), x, t, noise, torch.zeros(4, dtype=torch.int64)
    )
    assert float(exact[loss]) == 0


@pytest.mark.parametrize("prediction", SPACES)
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_whoever_knows_the_image_arrives_at_it(prediction, sampler):
    task = build(Config(objective="flow", prediction=prediction, noise_scale=1.0))
    x = torch.randn(1, 3, 8, 8)
    labels = torch.zeros(2, dtype=torch.int64)
    how = Sampling(sampler=sampler, steps=10)
    states = list(task.states(Knows(x, SAID[prediction]), torch.randn(2, 3, 8, 8), labels, how, None))
    torch.testing.assert_close(states[-1], x.expand(2, -1, -1, -1), rtol=0, atol=0.15 if prediction == "eps" else 1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_whoever_knows_the_image_finds_it_in_the_noise(sampler):
    x = (torch.rand(1, 3, 8, 8) * 2 - 1).expand(2, -1, -1, -1)
    chain = gaussian.respace_chain(gaussian.linear_betas(), 20)

    def denoise(z, t):
        row = chain.row(chain.times.index(t))
        return (z - row.signal * x) / row.noise

    draw = NoiseStreams(0, range(2), (3, 8, 8))
    *_, last = getattr(gaussian, f"{sampler}_steps")(denoise, draw(), chain, draw, True)
    torch.testing.assert_close(last, x, rtol=0, atol=1e-4)


def test_labels_are_dropped_as_often_as_asked_and_the_seed_says_which():
    task = build(Config(classes=10, label_dropout=0.25))
    model, labels = Knows(None, None), torch.arange(4000) % 10
    model.null = 10
    torch.manual_seed(0)
    found = task.drop_labels(model, labels)
    torch.manual_seed(0)
    assert torch.equal(found, task.drop_labels(model, labels))
    assert float((found == 10).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(found[found != 10], labels[found != 10])
    model.null = 0
    assert not task.drop_labels(model, labels).any(), "a model without classes hears of none"


def test_the_same_seed_gives_the_same_loss(dit, jit):
    for model, _, task in (dit, jit):
        config = model.config
        batch = Batch(torch.rand(4, config.channels, *config.size) * 2 - 1, torch.arange(4))
        found = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(float(sum(task.loss(model, batch).values()).detach()))
        assert found[0] == found[1] != found[2]
        assert math.isfinite(found[0])


def test_streams_know_the_seed_and_the_number_alone():
    first = NoiseStreams(3, [0, 1, 2], (2, 4))
    a, b = first(), first()
    other = NoiseStreams(3, [2], (2, 4))
    assert torch.equal(other(), a[2:])
    assert torch.equal(other(), b[2:])
    assert not torch.equal(a, b)
    assert not torch.equal(NoiseStreams(4, [2], (2, 4))(), a[2:])


def test_what_does_not_go_together_is_told(dit, jit):
    for model, objective, said in (
        (dit[0], "flow", "a learned variance is for the gaussian objective"),
        (nn.Linear(1, 1), "flow", "is not a denoiser"),
    ):
        with pytest.raises(UsageError, match=said):
            build(Config(objective=objective, classes=10)).assemble(model)
    with pytest.raises(UsageError, match="the model has 10 classes, the data has 3"):
        build(Config(classes=3)).assemble(jit[0])
    with pytest.raises(UsageError, match="several"):
        build(Config(multi_label=True))
    noise, labels = torch.randn(1, 4, 8, 8), torch.tensor([1])
    for how, task, said in (
        (Sampling(sampler="heun"), dit[2], "the sampler heun is not for the gaussian objective"),
        (Sampling(sampler="ddpm"), jit[2], "the sampler ddpm is not for the flow objective"),
        (Sampling(eta=0.5), dit[2], "eta has no meaning for the sampler ddpm"),
        (Sampling(clip=True), jit[2], "clip has no meaning"),
        (Sampling(interval=(0.1, 0.9)), dit[2], "interval has no meaning"),
    ):
        with pytest.raises(UsageError, match=said):
            next(task.states(dit[0], noise, labels, how, None))


@pytest.mark.parametrize(("size", "scale"), [((28, 28), 1.0), ((256, 256), 1.0), ((512, 512), 2.0), ((1024, 256), 2.0)])
def test_noise_grows_with_the_side_and_is_never_weaker_than_images(size, scale):
    images = torch.zeros(2, 1, *size)
    assert build(Config(objective="flow")).noise_scale(images) == scale
    assert build(Config(objective="flow", noise_scale=0.5)).noise_scale(images) == 0.5


@pytest.mark.parametrize("objective", ["flow", "gaussian"])
def test_noisy_is_noise_at_first_and_the_image_at_last(objective):
    task, x, noise = build(Config(objective=objective)), torch.full((2, 1, 8, 8), 0.5), torch.randn(2, 1, 8, 8)
    far, _ = task.add_noise_at(x, 0.0, noise)
    near, _ = task.add_noise_at(x, 1.0, noise)
    torch.testing.assert_close(near, x, atol=0.05, rtol=0)
    torch.testing.assert_close(far, noise, atol=0.05, rtol=0)

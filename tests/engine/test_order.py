"""Order, shares and mixing as properties: which images, in which order, on however many processes, in whatever
pieces."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.loader import TrainRequests
from vitrail.data.sampling import Keys, SampleStream, derive_seed, epoch_order, shard_indices, uniform_numbers
from vitrail.data.transforms.mixing import Mixing, cutmix_boxes, draw_mixing, mix_batch
from vitrail.types import Batch

WORLDS = (1, 2, 3, 4, 8)
seeds = st.integers(0, 2**64 - 1)


@settings(max_examples=500, deadline=None)
@given(seeds, st.integers(1, 300), st.integers(1, 8), st.integers(0, 40))
def test_the_shares_of_any_number_of_processes_are_the_batch_in_order(seed, count, each, step):
    batch = each * 24  # divides by all of them
    whole = SampleStream(seed, count, batch).keys(step)
    for world in WORLDS:
        keys = SampleStream(seed, count, batch).keys(step)
        shares = [keys.shard(rank, world) for rank in range(world)]
        assert all(len(s.ids) == batch // world for s in shares)
        assert np.array_equal(np.concatenate([s.ids for s in shares]), whole.ids)
        assert np.array_equal(np.concatenate([s.epochs for s in shares]), whole.epochs)


@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(1, 100), st.integers(1, 70))
def test_every_epoch_shows_every_image_once(seed, count, batch):
    stream, epochs = SampleStream(seed, count, batch), 3
    steps = -(-epochs * count // batch)
    keys = [stream.keys(step) for step in range(steps)]
    ids, shown = (np.concatenate([getattr(k, part) for k in keys]) for part in ("ids", "epochs"))
    assert np.all(np.diff(shown) >= 0)
    for epoch in range(epochs):
        assert sorted(ids[shown == epoch]) == list(range(count))


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(1, 100), st.integers(1, 30), st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_a_step_is_the_same_however_one_gets_to_it(seed, count, batch, steps):
    """A resumed run asks for step 40 first; one that was never stopped has asked for all before."""
    used = SampleStream(seed, count, batch)
    for step in steps:
        a, b = used.keys(step), SampleStream(seed, count, batch).keys(step)
        assert np.array_equal(a.ids, b.ids)
        assert np.array_equal(a.epochs, b.epochs)


@given(st.integers(0, 50), st.integers(1, 50), st.sampled_from(WORLDS))
def test_requests_of_a_resumed_run_are_the_rest_of_those_of_a_whole_one(start, more, world):
    stream = SampleStream(0, 30, 24)
    whole = TrainRequests(stream, 0, start + more, 0, world)
    rest = TrainRequests(stream, start, start + more, 0, world)
    assert len(rest) == more
    assert all(np.array_equal(rest[i].ids, whole[start + i].ids) for i in range(more))


@given(st.integers(0, 60), st.sampled_from(WORLDS))
def test_every_image_is_judged_by_exactly_one_process(count, world):
    shares = [shard_indices(count, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(seeds, seeds)
def test_other_seeds_give_other_orders(a, b):
    same = np.array_equal(epoch_order(a, 0, 50), epoch_order(b, 0, 50))
    assert same == (a == b)
    assert not np.array_equal(epoch_order(a, 0, 50), epoch_order(a, 1, 50))


@given(seeds, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), min_size=1, max_size=40))
def test_an_image_draws_the_same_in_any_company(seed, pairs):
    epochs, ids = (np.array(x) for x in zip(*pairs, strict=True))
    together = uniform_numbers(seed, Keys(epochs, ids), 3)
    alone = [uniform_numbers(seed, Keys(epochs[i : i + 1], ids[i : i + 1]), 3)[0] for i in range(len(ids))]
    assert together.tolist() == alone
    assert np.all((together >= 0) & (together < 1))


def test_draws_are_uniform_and_purposes_independent():
    keys = Keys(np.repeat(np.arange(20), 500), np.tile(np.arange(500), 20))
    draws = np.stack([uniform_numbers(0, keys, purpose) for purpose in range(4)])
    assert np.all(np.abs(draws.mean(1) - 0.5) < 0.01)
    assert np.all(np.abs(np.corrcoef(draws) - np.eye(4)) < 0.04)
    counts = np.stack([np.histogram(row, 20, (0, 1))[0] for row in draws])
    assert np.all(((counts - 500) ** 2 / 500).sum(1) < 44), "chi-squared with 19 degrees of freedom, p = 0.001"


def test_neighbouring_large_seeds_are_told_apart():
    """Above 2^63 a number must not pass through floating point on its way into a generator."""
    large = [2**63 + i for i in range(4)] + [2**64 - 1 - i for i in range(4)]
    assert len({epoch_order(seed, 0, 50).tobytes() for seed in large}) == 8
    assert len({draw_mixing(seed, 0, 8, Mixing(0.4)).keep.tobytes() for seed in large}) == 8


def test_seeds_of_generators_do_not_repeat():
    assert len({derive_seed(s, e, i) for s in range(5) for e in range(40) for i in range(40)}) == 5 * 40 * 40


def batch_of(count, seed=0):
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 2, 7, 9, generator=random)
    return Batch(images, torch.eye(5)[torch.arange(count) % 5])


mixings = st.sampled_from(
    [
        Mixing(0.4, 0.0),
        Mixing(0.0, 1.0),
        Mixing(0.4, 1.0),
        Mixing(0.4, 1.0, prob=0.5, cutmix_prob=0.8),
        Mixing(0.8, 1.0, mode="batch"),
    ]
)


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(0, 1000), mixings, st.data())
def test_any_cut_into_pieces_mixes_the_same(seed, step, mixing, data):
    pairs = 12
    batch = batch_of(2 * pairs)
    drawn = draw_mixing(seed, step, pairs, mixing)
    whole = mix_batch(batch, drawn)
    bounds = [0, *sorted(data.draw(st.sets(st.integers(1, pairs - 1), max_size=5))), pairs]
    parts = []
    for a, b in pairwise(bounds):
        parts.append(
            mix_batch(Batch(batch.inputs[2 * a : 2 * b], batch.targets[2 * a : 2 * b]), drawn.part(slice(a, b)))
        )
    assert torch.equal(torch.cat([p.inputs for p in parts]), whole.inputs)
    assert torch.equal(torch.cat([p.targets for p in parts]), whole.targets)


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(0, 1000), mixings)
def test_mixing_keeps_what_there_is(seed, step, mixing):
    """Targets sum to one, a pair holds what it held before, and a cut keeps as many pixels as its target says."""
    batch = batch_of(12)
    drawn = draw_mixing(seed, step, 6, mixing)
    mixed = mix_batch(batch, drawn)
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(12))
    pair = mixed.inputs.unflatten(0, (-1, 2)).sum(1)
    torch.testing.assert_close(pair, batch.inputs.unflatten(0, (-1, 2)).sum(1))
    rows, columns = cutmix_boxes(drawn.keep, drawn.places, 7, 9)
    for i in np.flatnonzero(drawn.cut.repeat(2)):
        kept = (mixed.inputs[i] == batch.inputs[i]).all(0).float().mean().item()
        said = mixed.targets[i, i % 5].item()
        assert abs(kept - said) < 1e-6
        assert abs(1 - rows[i // 2].mean() * columns[i // 2].mean() - said) < 1e-6

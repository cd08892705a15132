"""Repeated augmentation and balanced sampling: pure functions of (seed, step) that show what they promise, how often
they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.sampling import GENERATOR, Keys, SampleStream, derive_seed, mixed_bits

seeds = st.integers(0, 2**63 - 1)


def streams(seed, count, batch, repeats=1, labels=None):
    return SampleStream(seed, count, batch, repeats, labels)


def shown(stream, steps):
    """The keys of some steps, one after the other."""
    keys = [stream.keys(step) for step in range(steps)]
    return Keys(*(np.concatenate([getattr(k, part) for k in keys]) for part in ("epochs", "ids")))


@st.composite
def settings_of(draw):
    """(seed, labels, batch, repeats): classes of very different sizes, one of them perhaps empty."""
    counts = draw(st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(lambda c: sum(c) > 0))
    labels = np.repeat(np.arange(len(counts)), counts)
    repeats = draw(st.integers(1, 4))
    return draw(seeds), labels, 24 * draw(st.integers(1, 3)), repeats


@settings(max_examples=150, deadline=None)
@given(settings_of(), st.booleans(), st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_a_step_is_the_same_however_one_gets_to_it_and_on_however_many_processes(made, balanced, steps):
    seed, labels, batch, repeats = made
    given = (seed, len(labels), batch, repeats, labels if balanced else None)
    used = SampleStream(*given)
    for step in steps:
        a, b = used.keys(step), SampleStream(*given).keys(step)
        assert np.array_equal(a.ids, b.ids)
        assert np.array_equal(a.epochs, b.epochs)
        for world in (2, 3, 8):
            assert np.array_equal(np.concatenate([a.shard(rank, world).ids for rank in range(world)]), a.ids)


@settings(max_examples=150, deadline=None)
@given(settings_of(), st.booleans())
def test_no_showing_comes_twice(made, balanced):
    """(epoch, image) says what is done to an image, so two showings must never share it."""
    seed, labels, batch, repeats = made
    keys = shown(SampleStream(seed, len(labels), batch, repeats, labels if balanced else None), 12)
    assert len(set(zip(keys.epochs.tolist(), keys.ids.tolist(), strict=True))) == 12 * batch


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_an_epoch_shows_a_share_of_the_images_as_often_as_asked(seed, repeats, rounds, epochs):
    count = 12 * repeats * rounds
    keys = shown(streams(seed, count, 12, repeats), epochs * count // 12)
    for epoch in range(epochs):
        ids = keys.ids[epoch * count : (epoch + 1) * count]
        found, times = np.unique(ids, return_counts=True)
        assert len(found) == count // repeats
        assert set(times) == {repeats}


@settings(max_examples=200, deadline=None)
@given(seeds, st.integers(1, 5), st.integers(40, 200), st.sampled_from([24, 32, 48]))
def test_copies_lie_in_one_batch_and_never_beside_each_other(seed, repeats, count, batch):
    stream = streams(seed, count, batch, repeats)
    apart = 0
    for step in range(count // batch):  # the first epoch
        ids = stream.keys(step).ids
        pairs = ids.reshape(-1, 2)
        assert not (repeats > 1 and (pairs[:, 0] == pairs[:, 1]).any()), "an image would be mixed with itself"
        apart += sum(1 for n in np.unique(ids, return_counts=True)[1] if n < repeats)
    assert apart <= 2 * (count // batch), (
        "only the image where a batch begins and the one where it ends may be torn apart"
    )


def test_without_repeats_the_stream_is_the_permutation():
    a, b = shown(streams(3, 50, 10), 15), shown(streams(3, 50, 10, 1, None), 15)
    assert np.array_equal(a.ids, b.ids)
    assert a.epochs.tolist() == [0] * 50 + [1] * 50 + [2] * 50


@settings(max_examples=150, deadline=None)
@given(settings_of())
def test_balanced_shows_every_class_equally_often(made):
    """To one image after every epoch, and every image of a class equally often to one too."""
    seed, labels, _, _ = made
    stream = SampleStream(seed, len(labels), 10, 1, labels)
    keys = [stream.epoch(e) for e in range(6)]
    for epochs in range(1, 7):
        ids = np.concatenate([k.ids for k in keys[:epochs]])
        classes = np.bincount(labels[ids], minlength=labels.max() + 1)[np.unique(labels)]
        assert classes.max() - classes.min() <= 1
        for c in np.unique(labels):
            times = np.bincount(ids, minlength=len(labels))[labels == c]
            assert times.max() - times.min() <= 1


def test_balanced_with_repeats_is_balanced_over_epochs():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    ids = shown(SampleStream(0, 100, 30, 3, labels), 100).ids
    share = np.bincount(labels[ids]) / len(ids)
    assert np.abs(share - 1 / 3).max() < 0.01


def test_balanced_batches_are_shuffled():
    """Not class after class: a batch would hold one class in each of its pairs' halves."""
    labels = np.repeat(np.arange(4), 250)
    ids = SampleStream(0, 1000, 100, 1, labels).epoch(0).ids
    follows = (labels[ids[1:]] == (labels[ids[:-1]] + 1) % 4).mean()
    assert abs(follows - 0.25) < 0.05
    assert len(np.unique(SampleStream(1, 1000, 100, 1, labels).epoch(0).ids != ids)) == 2, "another seed, another order"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_class_of_few_images_goes_round_in_ever_new_orders(count):
    labels = np.array([0] * 200 + [1] * count)
    stream = SampleStream(0, len(labels), 10, 1, labels)
    keys = stream.epoch(0)
    rare = labels[keys.ids] == 1
    assert sorted(keys.epochs[rare]) == sorted(np.arange(rare.sum()) // count)
    orders = {tuple(stream.class_turns(np.flatnonzero(labels == 1), count * r, count * (r + 1)).ids) for r in range(30)}
    assert len(orders) > 1 or count == 1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 2**40))
def test_one_seed_is_made_as_those_of_many_are(seed, epoch, index):
    many = mixed_bits(seed, Keys(np.array([epoch, 0]), np.array([index, 1])), GENERATOR)
    assert derive_seed(seed, epoch, index) == int(many[0]) >> 1

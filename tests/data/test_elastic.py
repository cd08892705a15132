"""A run that goes on with other numbers of processes sees each image once, as grain's `ElasticIterator` does: one
number is all its state."""

import grain
import numpy as np
import pytest
from grain.experimental import ElasticIterator

from vitrail.data.sampling import SampleStream, epoch_order

SEED, COUNT, BATCH = 3, 96, 12


def ours(plan):
    """The images of every global batch, process by process."""
    step, batches = 0, []
    for processes, steps in plan:
        stream = SampleStream(SEED, COUNT, BATCH)  # a new start knows the step, and nothing else
        for _ in range(steps):
            keys = stream.keys(step)
            batches.append(np.concatenate([keys.shard(rank, processes).ids for rank in range(processes)]))
            step += 1
    return batches


def theirs(plan):
    """The same of grain, with the images in our order."""
    source = grain.MapDataset.source(np.concatenate([epoch_order(SEED, epoch, COUNT) for epoch in (0, 1)]))
    state, batches = {"global_next_index": 0}, []
    for processes, steps in plan:
        shards = [
            iter(ElasticIterator(source, BATCH, grain.sharding.ShardOptions(rank, processes)))
            for rank in range(processes)
        ]
        for shard in shards:
            shard.set_state(state)
        batches += [np.concatenate([next(shard) for shard in shards]) for _ in range(steps)]
        assert len({shard.get_state()["global_next_index"] for shard in shards}) == 1
        state = shards[0].get_state()
    return batches


@pytest.mark.parametrize("plan", [((1, 3), (2, 3), (4, 2)), ((4, 1), (1, 5), (2, 2)), ((2, 5), (4, 8), (1, 3))])
def test_each_image_is_seen_once_whatever_the_processes(plan):
    mine, grains = ours(plan), theirs(plan)
    assert [sorted(batch) for batch in mine] == [sorted(batch) for batch in grains]
    for epoch in range(len(mine) * BATCH // COUNT):
        batches = mine[epoch * COUNT // BATCH : (epoch + 1) * COUNT // BATCH]
        assert sorted(np.concatenate(batches)) == list(range(COUNT))
    one = ours([(1, sum(steps for _, steps in plan))])
    assert np.array_equal(mine, one), "and in the same order"

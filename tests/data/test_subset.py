import numpy as np

from vitrail.data.subset import stratified_subset


def test_takes_the_same_share_of_every_class_and_nests():
    labels = np.repeat([0, 1, 2], [400, 100, 5])
    tenth, third = (stratified_subset(labels, share, 7) for share in (0.1, 0.3))
    assert np.bincount(labels[tenth]).tolist() == [40, 10, 1]
    assert set(tenth) < set(third)
    assert np.array_equal(stratified_subset(labels, 1.0, 7), np.arange(505))
    assert not np.array_equal(tenth, stratified_subset(labels, 0.1, 8))


def test_images_of_several_classes():
    labels = np.random.default_rng(0).integers(0, 2, (200, 3))
    assert len(stratified_subset(labels, 0.25, 0)) == 50

"""Copies are noticed by how near they lie to training images, against held-out ones."""

import pytest
import torch

from vitrail.metrics import copying


def drawn(count, seed, width=12):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def pieces(many, each):
    return [(many[i : i + each], torch.arange(i, min(i + each, len(many)))) for i in range(0, len(many), each)]


@pytest.mark.parametrize("each", [1, 7, 100])
def test_the_nearest_are_those_of_the_whole_matrix_however_it_is_cut(each):
    asked, many = drawn(5, 0), drawn(40, 1)
    found = copying.nearest_neighbors(asked, pieces(many, each), 3)
    wanted = torch.cdist(asked, many).topk(3, largest=False)
    torch.testing.assert_close(found.distances, wanted.values)
    assert torch.equal(found.indices, wanted.indices)


def test_of_several_views_the_nearest_counts():
    many = drawn(40, 1)
    views = torch.stack([drawn(2, 0), many[[30, 4]]])
    found = copying.nearest_neighbors(views, pieces(many, 16), 1)
    assert found.indices[:, 0].tolist() == [30, 4]
    assert not found.distances.any()


def test_copies_lie_closer_and_strangers_farther():
    train, held = drawn(200, 1), drawn(100, 2)
    far = copying.nearest_neighbors(held, pieces(train, 64), 1).distances[:, 0]

    def judged(made):
        return copying.compare_distances(copying.nearest_neighbors(made, pieces(train, 64), 1).distances[:, 0], far)

    copies = judged(train[:50] + 0.01 * drawn(50, 3))
    assert copies.relative < 0.1
    assert (copies.closer, copies.nearer) == (1.0, 50)
    assert copies.deviations > 5
    honest = judged(drawn(100, 4))
    assert honest.relative == pytest.approx(1, abs=0.15)
    assert abs(honest.deviations) < 3
    strange = judged(drawn(100, 5) * 3)
    assert strange.deviations < -5
    assert strange.nearer == 0


def test_the_statistic_is_that_of_mann_and_whitney():
    from scipy.stats import mannwhitneyu

    made, held = drawn(30, 6, 1)[:, 0], drawn(20, 7, 1)[:, 0] + 0.5
    found = copying.compare_distances(made, held)
    assert found.closer == pytest.approx(1 - mannwhitneyu(made.numpy(), held.numpy()).statistic / 600)

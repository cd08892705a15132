"""The linear probe and the neighbours' vote against plain numpy; how labels are drawn; what is kept of features and
when it is used."""

import numpy as np
import pytest
import tiny
import torch
from quick import spread
from scipy.optimize import minimize

from vitrail.analysis import probe as maths
from vitrail.errors import RunError, UsageError
from vitrail.evaluation import features as evaluation_features
from vitrail.evaluation import probe as probing
from vitrail.evaluation.probe import ProbeRequest
from vitrail.inference import predictor


def features(count=60, width=5, classes=3, several=False, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (count, classes)) if several else np.arange(count) % classes
    middle = labels @ random.normal(size=(classes, width)) if several else random.normal(size=(classes, width))[labels]
    return torch.from_numpy(middle + random.normal(size=(count, width))), torch.from_numpy(labels)


def by_hand(x, y, classes, l2):
    """The same minimum by scipy, on features standardised by numpy."""
    x = (x - x.mean(0)) / x.std(0)
    hot = y if y.ndim == 2 else np.eye(classes)[y]

    def objective(flat):
        weight, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        z = x @ weight + bias
        if y.ndim == 2:
            value = (np.logaddexp(0, z) - hot * z).sum(1).mean()
        else:
            value = (np.log(np.exp(z).sum(1)) - (hot * z).sum(1)).mean()
        return value + l2 / 2 * (weight**2).sum()

    found = minimize(objective, np.zeros((x.shape[1] + 1) * classes), method="BFGS", options={"gtol": 1e-7}).x
    return found[:-classes].reshape(-1, classes)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_probe_is_the_minimum_that_scipy_finds(several, l2):
    x, y = features(several=several)
    fitted = maths.fit_probe(x, y, 3, l2)
    assert torch.allclose(fitted.weight, torch.from_numpy(by_hand(x.numpy(), y.numpy(), 3, l2)), atol=1e-4)
    said = fitted.probabilities(x, several)
    if several:
        assert not torch.allclose(said.sum(1), torch.ones(60, dtype=said.dtype))
    else:
        assert torch.allclose(said.sum(1), torch.ones(60, dtype=said.dtype))


def test_with_an_endless_penalty_only_the_shares_of_the_classes_are_left():
    x, _ = features()
    y = torch.from_numpy(np.array([0] * 45 + [1] * 15))
    said = maths.fit_probe(x, y, 2, 1e4).probabilities(x, False)
    assert torch.allclose(said, torch.tensor([0.75, 0.25], dtype=said.dtype).expand(60, 2), atol=1e-3)


def test_a_feature_that_never_changes_and_the_scale_of_the_others_make_no_difference():
    x, y = features()
    padded = torch.cat([x * 1000 + 5, torch.full((60, 1), 7.0)], dim=1)
    a, b = (maths.fit_probe(f, y, 3, 1e-2).probabilities(f, False) for f in (x, padded.double()))
    assert torch.allclose(a, b, atol=1e-6)


def noisy(count=90, seed=0):
    """Three classes whose means differ by little in each of 200 features: a strong penalty is best."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    middle = 0.2 * np.random.default_rng(0).normal(size=(3, 200))
    return torch.from_numpy(middle[y] + random.normal(size=(count, 200))), torch.from_numpy(y)


def test_the_strength_stays_at_one_nth_where_all_are_equally_good():
    """With features that say all, or nothing."""
    random = np.random.default_rng(0)
    y = torch.from_numpy(np.arange(200) % 4)
    said = torch.nn.functional.one_hot(y).double() + 0.01 * torch.from_numpy(random.normal(size=(200, 4)))
    noise = torch.from_numpy(random.normal(size=(200, 60)))
    for x in (said, noise):
        choice = maths.choose_l2(x, y, 4, 0)
        assert choice.l2 == 1 / 200
        assert choice.reason == "1/N; no other is clearly better in cross-validation"
        assert {1 / 200, 1e-2, 10.0} <= set(choice.scores)
    assert set(maths.choose_l2(said, y, 4, 0).scores.values()) == {1.0}


def test_it_moves_where_another_is_clearly_better_and_says_so():
    x, y = noisy()
    choice = maths.choose_l2(x, y, 3, 0)
    assert choice.l2 > 0.1
    assert choice.reason == "1/N, 0.011, is clearly worse in cross-validation"
    new, labels = noisy(3_000, seed=1)
    moved, stayed = (maths.score(maths.fit_probe(x, y, 3, l2).logits(new), labels) for l2 in (choice.l2, 1 / 90))
    assert moved > stayed + 0.01


def test_better_by_less_than_a_standard_error_is_no_reason_to_move(monkeypatch):
    """The loss of each image decides: the same gain on all images moves, one that is as large on average does not."""
    x, y = features(60)
    default, other = 1 / 60, 1.0
    for gains, chosen in ((torch.full((60,), 0.1), other), (torch.tensor([7.0] + [0.0] * 59) - 0.01, default)):
        each = iter([torch.ones(60) - gains, torch.ones(60)])  # the stronger one is tried first
        monkeypatch.setattr(maths, "calibrated_losses", lambda *_, each=each: next(each))
        assert gains.mean() > 0.09
        assert maths.choose_l2(x, y, 3, 0, strengths=(other,)).l2 == chosen


def test_it_moves_no_farther_than_it_has_to(monkeypatch):
    """Of strengths as good as the best one, that nearest to 1/N."""
    x, y = features(60)
    means = {10.0: 1.0, 1.0: 0.9, 0.1: 0.9005, 1 / 60: 1.0}
    wave = 0.01 * torch.linspace(-1, 1, 60)
    each = iter([torch.full((60,), mean) + wave * i for i, mean in enumerate(means.values())])
    monkeypatch.setattr(maths, "calibrated_losses", lambda *_: next(each))
    choice = maths.choose_l2(x, y, 3, 0, strengths=(10.0, 1.0, 0.1))
    assert (choice.l2, choice.reason) == (0.1, "1/N, 0.017, is clearly worse in cross-validation")


def test_confidence_decides_nothing():
    x, y = features(60)
    logits = maths.fit_probe(x, y, 3, 1e-2).logits(x)
    near, far = (float(maths.calibrated_losses(logits * times, y).mean()) for times in (0.5, 2.0))
    assert near == pytest.approx(far, rel=1e-3)
    assert far < float(maths.loss(logits * 2.0, y)) + 1e-9


def test_the_choice_is_the_same_again_and_with_any_number_of_threads():
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 1, 3):
            torch.set_num_threads(threads)
            found.append([maths.choose_l2(*data, 3, 0)[::2] for data in (noisy(30), features(60, seed=1))])
    finally:
        torch.set_num_threads(before)
    assert all(one == found[0] for one in found)


def test_where_nothing_can_be_held_out_it_is_one_nth():
    x, _ = features(4)
    choice = maths.choose_l2(x, torch.arange(4), 4, 0)
    assert (choice.l2, choice.scores, choice.reason) == (1 / 4, {}, "1/N, as no image of a class can be held out")


def test_folds_are_of_every_class_alike_and_leave_each_class_something_to_learn_from():
    labels = np.repeat([0, 1, 2, 3], [40, 7, 2, 1])
    folds = maths.draw_folds(labels, 3)
    assert np.array_equal(folds, maths.draw_folds(labels, 3))
    assert not np.array_equal(folds, maths.draw_folds(labels, 4))
    assert np.bincount(folds[:40]).tolist() == [8] * 5
    assert set(np.bincount(folds[40:47]).tolist()) == {1, 2}
    assert len(set(folds[47:49])) == 2
    assert folds[49] == maths.ALWAYS, "held out, its class would be unknown"
    several = np.zeros((30, 3), np.uint8)
    several[:, 0], several[4, 1], several[[5, 6], 2] = 1, 1, 1
    folds = maths.draw_folds(several, 0)
    assert folds[4] == maths.ALWAYS
    assert maths.ALWAYS in folds[[5, 6]] or folds[5] != folds[6]


def test_of_many_features_fewer_parts_are_held_out(monkeypatch):
    fits = []
    monkeypatch.setattr(maths, "fit_probe", lambda x, *_, **__: fits.append(len(x)) or maths.LinearProbe(*ZERO))
    x, y = features(60)
    for enough, parts in ((2_000, 5), (24, 2), (5, 1)):
        monkeypatch.setattr(maths, "ENOUGH", enough)
        del fits[:]
        maths.choose_l2(x, y, 3, 0, strengths=(1.0,))
        assert fits == [48] * parts * 2, "of 1 and of 1/N"


ZERO = [torch.zeros(*shape, dtype=torch.float64) + one for shape, one in (((5,), 0), ((5,), 1), ((5, 3), 0), ((3,), 0))]


def test_weaker_penalties_than_one_nth_are_tried_only_while_they_help():
    x, y = noisy()
    tried = list(maths.choose_l2(x, y, 3, 0).scores)
    assert tried == sorted(tried, reverse=True)
    assert tried[-1] == 1 / 90, "stronger ones were better"


@pytest.mark.parametrize("pieces", [2**24, 100])
def test_neighbours_vote_as_in_a_loop(monkeypatch, pieces):
    monkeypatch.setattr(maths, "SIMILARITIES", pieces)
    x, y = features(40)
    queries, _ = features(17, seed=1)
    found = maths.knn_probabilities(x, y, queries, 3, (1, 5, 99))
    known = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
    for i, query in enumerate(queries.numpy()):
        similar = known @ query / np.linalg.norm(query)
        for k in (1, 5, 99):
            votes = np.zeros(3)
            for j in np.argsort(-similar)[:k]:
                votes[y[j]] += np.exp(similar[j] / maths.TEMPERATURE)
            np.testing.assert_allclose(found[k][i].numpy(), votes / votes.sum(), rtol=1e-9)


def test_labels_are_drawn_from_every_class_and_nested():
    labels = np.repeat([0, 1, 2], [100, 20, 3])
    few, more = maths.draw_subset(labels, 0.05, 1), maths.draw_subset(labels, 0.5, 1)
    assert np.bincount(labels[few]).tolist() == [5, 1, 1]
    assert np.bincount(labels[more]).tolist() == [50, 10, 2]
    assert set(few) < set(more)
    assert maths.draw_subset(labels, 0.05, 2).tolist() != few.tolist() == maths.draw_subset(labels, 0.05, 1).tolist()
    assert maths.draw_subset(labels, 1.0, 0).tolist() == list(range(123))


def test_with_several_classes_an_image_every_class_keeps_one():
    labels = np.zeros((200, 3), np.uint8)
    labels[:, 0], labels[7, 1], labels[9, 2] = 1, 1, 1
    drawn = maths.draw_subset(labels, 0.05, 0)
    assert labels[drawn].any(0).all()
    assert 10 <= len(drawn) <= 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    data = tiny.npz(root / "data")
    tiny.finish(tiny.begin(tiny.recipe(data, train={"steps": 3}), root / "run"))
    return root


@pytest.fixture
def computed(monkeypatch):
    """How many images' features were computed."""
    counts, real = [], evaluation_features.compute_features

    def counting(net, split, *given):
        counts.append(len(split))
        return real(net, split, *given)

    monkeypatch.setattr(evaluation_features, "compute_features", counting)
    return counts


def test_features_are_those_of_the_backbone_in_order(place):
    found = predictor.load_predictor(place / "run")
    data = np.load(place / "data" / "tiny.npz")["val_images"]
    split = probing.open_data_of(str(place / "run"))[0].splits["val"]
    ours = evaluation_features.compute_features(found.model, split, found.preprocess, tiny.ALONE)
    batch = found.preprocess.batch(torch.from_numpy(data.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        assert torch.allclose(ours, torch.cat(found.model.backbone(batch).summaries, dim=1), atol=1e-6)


def test_a_run_on_a_share_of_its_images_is_probed_on_these(place, computed, tmp_path):
    trained = tiny.begin(
        tiny.recipe(place / "data" / "tiny.npz", train={"steps": 3}, data={"fraction": 0.5}), tmp_path / "run"
    )
    tiny.finish(trained)
    found = probing.run_probe(ProbeRequest(str(tmp_path / "run")), tiny.ALONE)
    assert computed == [24, 17]
    assert found.labelled == 24
    there, run = probing.open_data_of(str(tmp_path / "run"))
    assert list(there.splits["train"].names) == list(trained.dataset.splits["train"].names)
    assert run is not None
    assert probing.open_data_of("", str(place / "data" / "tiny.npz"))[1] is None


def test_features_are_computed_once(place, computed, tmp_path):
    request = ProbeRequest(str(place / "run"), ks=(3,), cache=str(tmp_path / "kept"))
    first = probing.run_probe(request, tiny.ALONE)
    assert computed == [48, 17]
    again = probing.run_probe(request, tiny.ALONE)
    assert computed == [48, 17]
    assert (again.linear, again.knn, again.l2) == (first.linear, first.knn, first.l2)
    assert (first.part, first.count, first.labelled, first.random) == ("val", 17, 48, False)
    some = probing.run_probe(
        ProbeRequest(str(place / "run"), ks=(3,), labels=0.2, cache=str(tmp_path / "kept")), tiny.ALONE
    )
    assert computed == [48, 17]
    assert some.labelled == 9


def test_a_run_keeps_its_features_itself(place, computed):
    probing.run_probe(ProbeRequest(str(place / "run")), tiny.ALONE)
    assert len(list((place / "run" / "features").iterdir())) == 2


def test_other_weights_or_data_are_other_features(place, computed, tmp_path):
    probing.run_probe(ProbeRequest(str(place / "run"), cache=str(tmp_path)), tiny.ALONE)
    tiny.finish(tiny.begin(tiny.recipe(place / "data" / "tiny.npz", train={"steps": 4}), tmp_path / "other"))
    probing.run_probe(ProbeRequest(str(tmp_path / "other"), cache=str(tmp_path)), tiny.ALONE)
    assert computed == [48, 17, 48, 17]
    data = tiny.npz(tmp_path / "data", train=51)
    probing.run_probe(ProbeRequest(str(place / "run"), str(data), cache=str(tmp_path)), tiny.ALONE)
    assert computed[4:] == [51, 17]


@pytest.mark.parametrize("harm", spread(["flip", "cut", "swap", "foreign"], 2))
def test_a_cache_that_is_damaged_or_holds_others_is_computed_again(place, computed, tmp_path, harm):
    request = ProbeRequest(str(place / "run"), cache=str(tmp_path))
    first = probing.run_probe(request, tiny.ALONE)
    one, other = sorted(tmp_path.glob("*.safetensors"))
    content = one.read_bytes()
    if harm == "cut":
        one.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        one.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif harm == "swap":
        one.write_bytes(other.read_bytes())
    else:
        from safetensors.torch import save_file

        save_file({"features": torch.zeros(48, 16)}, one)
    again = probing.run_probe(request, tiny.ALONE)
    assert len(computed) == 3
    assert any("computed again" in note for note in again.notes)
    assert again.linear == first.linear
    assert one.read_bytes() == content
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_written_costs_a_note(place, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation_features, "write_file", full)
    found = probing.run_probe(ProbeRequest(str(place / "run"), cache=str(tmp_path / "kept")), tiny.ALONE)
    assert any("No space left" in note for note in found.notes)


def test_several_classes_an_image_have_a_linear_probe_only(tmp_path):
    data = tiny.npz(tmp_path, multi=True)
    found = probing.run_probe(ProbeRequest("vit/nano", str(data), keys=tiny.MODEL), tiny.ALONE)
    assert 0 < found.linear["mAP"] <= 1
    assert found.knn == {}
    assert found.random
    assert found.width == 16


def test_random_weights_come_from_the_seed(place):
    data = str(place / "data" / "tiny.npz")
    a, b, c = (
        probing.run_probe(ProbeRequest("vit/nano", data, seed=s, keys=tiny.MODEL), tiny.ALONE) for s in (0, 0, 1)
    )
    assert a == b
    assert a.linear["nll"] != c.linear["nll"]


def test_features_that_are_not_finite_are_refused(place, tmp_path, monkeypatch):
    def spoilt(net, split, *_):
        found = torch.zeros(len(split), 4)
        found[3, 1] = torch.nan
        return found

    monkeypatch.setattr(evaluation_features, "compute_features", spoilt)
    with pytest.raises(RunError, match="1 images are not finite, the first: train/3"):
        probing.run_probe(ProbeRequest(str(place / "run"), cache=str(tmp_path)), tiny.ALONE)
    assert not list(tmp_path.iterdir())


def test_the_training_part_cannot_judge(place):
    with pytest.raises(UsageError, match="learns from"):
        probing.run_probe(ProbeRequest(str(place / "run"), split="train"), tiny.ALONE)

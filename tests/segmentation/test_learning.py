"""Learning to label pixels: the loss by hand, the step size, figures and their standard errors, what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from ptheta.data.label_maps import IGNORED
from ptheta.data.order import generator
from ptheta.data.pictures import PictureData
from ptheta.engine.errors import InputError, UsageError
from ptheta.engine.hardware import detect
from ptheta.segmentation import context, deeplab, hdc
from ptheta.segmentation.augmentation import median_frequency
from ptheta.segmentation.learning import Segmenter, judged, matrices
from ptheta.segmentation.metrics import scores

CLASSES = ("ground", "thing", "other")


class Fixed(Segmenter):
    """A network whose scores are the picture's channels."""

    name = "fixed"

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.set_up((3, 20, 20), classes, 0, None)

    def scores(self, v):
        return v


def told(n: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(seed, 0, "pictures")
    x = torch.randint(0, 256, (n, 3, 20, 20), generator=g, dtype=torch.uint8)
    y = torch.tensor([0, 1, 2, IGNORED], dtype=torch.uint8)[torch.randint(0, 4, (n, 20, 20), generator=g)]
    return x, y


def data(**parts) -> PictureData:
    x, y = told(24)
    has = {"train": x[:16], "train_maps": y[:16], "valid": x[16:], "valid_maps": y[16:], **parts}
    read = {k: lambda k=k: {k: has[k]} for k in has if has[k] is not None}
    return PictureData("some", (3, 20, 20), "made for a test.", CLASSES, read)


def learner(module=hdc, pictures=None, **settings):
    config = module.Config(**{"width": 4, "batch_size": 4, **settings})
    return module.Method(config, pictures or data(), 0, detect("cpu", "fp32", 1), 10)


# ---------------------------------------------------------------- eqs. (1) and (2)


def test_the_loss_is_eq_1_pixel_by_pixel():
    net = Fixed()
    net.balance.copy_(torch.tensor([0.5, 2.0, 3.0]))
    x, y = told()
    above = below = 0.0
    p = (x / 255).softmax(1)
    for b, i, j in np.ndindex(*y.shape):
        if (label := int(y[b, i, j])) != IGNORED:
            a = net.balance[label].item()
            above, below = above - a * math.log(p[b, label, i, j]), below + a
    assert net(x, y).item() == pytest.approx(above / below, rel=1e-5)


def test_where_nothing_is_to_be_learned_the_loss_is_zero_and_so_is_its_gradient():
    net = hdc.HDC((3, 20, 20), CLASSES, width=4)
    loss = net(told()[0], torch.full((6, 20, 20), IGNORED, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0 and all(not p.grad.any() for p in net.parameters() if p.grad is not None)


def test_ignored_pixels_teach_nothing():
    """Whatever the network would have to say there: the gradient by its scores is zero."""
    x, y = told()
    v = (x / 255).requires_grad_()
    Fixed()(v, y).backward()
    assert not v.grad.abs().sum(1)[y == IGNORED].any() and v.grad.abs().sum(1)[y != IGNORED].all()


def test_the_step_size_is_eq_2():
    method = learner(warmup=3, learning_rate=0.1)
    want = [0.1 * min(1, (t + 1) / 4) * (1 - t / 10) ** 0.9 for t in range(11)]
    assert [method.learning_rate(t) for t in range(11)] == pytest.approx(want)


def test_pictures_are_normalised_by_the_training_set_and_classes_weighted():
    method = learner(balance="median")
    x = method.model.normalised(method.x).double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(method.model.balance, median_frequency(method.y, 3))
    assert torch.equal(learner().model.balance, torch.ones(3))


def test_batches_are_forms_of_the_asked_size_with_their_labels():
    x, y = next(learner(crop=16).batches(0, 0, 1))
    assert x.shape == (4, 3, 16, 16) and y.shape == (4, 16, 16) and x.min() >= 0 and x.max() <= 1
    first, again = (next(learner().batches(5, 0, 1)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again)) and first[0].shape == (4, 3, 20, 20)
    halves = [next(learner().batches(5, rank, 2)) for rank in (0, 1)]
    assert all(torch.equal(torch.cat(parts), whole) for parts, whole in zip(zip(*halves), first))


def test_no_pixel_is_said_to_be_of_a_class_that_is_called_void():
    x, y = told()
    y[y == 1] = IGNORED
    net = Fixed(("ground", "Void", "other"))
    assert set(net.predict(x).unique().tolist()) == {0, 2} and not net.probabilities(x)[:, 1].any()
    p = (x / 255)[:, [0, 2]].softmax(1)
    nats = [-math.log(p[b, int(y[b, i, j]) // 2, i, j]) for b, i, j in np.ndindex(*y.shape) if y[b, i, j] != IGNORED]
    assert net(x, y).item() == pytest.approx(np.mean(nats), rel=1e-5)
    each = scores(sum(matrices(net, x, y)))
    assert math.isnan(each.iou[1]) and each.miou == pytest.approx(each.iou[[0, 2]].mean().item())


# ---------------------------------------------------------------- figures


def test_figures_are_those_of_all_pictures_together():
    x, y = told()
    found = judged(matrices(Fixed(), x, y))
    said = x.long().argmax(1)
    kept = y != IGNORED
    p = torch.zeros(3, 3, dtype=torch.long)
    for t, s in zip(y[kept].long(), said[kept]):
        p[t, s] += 1
    for name, value in scores(p).named().items():
        assert found[name].mean == value and found[name].n == 6


def test_standard_errors_are_those_of_many_such_sets():
    """Of sets of 40 pictures drawn anew, the deviation of pixel accuracy is what one set's bootstrap says."""
    g = np.random.RandomState(0)

    def pictures() -> list[torch.Tensor]:
        right = g.binomial(50, g.beta(4, 2, 40))
        return [torch.tensor([[r, 50 - r], [10, 20]]) for r in right]

    sets = [pictures() for _ in range(300)]
    for name in ("pa", "miou"):
        values = [scores(torch.stack(each).sum(0)).named()[name] for each in sets]
        said = [judged(each)[name].standard_error for each in sets[:20]]
        assert np.mean(said) == pytest.approx(np.std(values), rel=0.15)
    assert math.isnan(judged(pictures()[:1])["pa"].standard_error)


def test_what_is_0_over_0_is_no_measurement():
    """κ, where there is one class and nothing else was said."""
    maps = torch.zeros(8, 20, 20, dtype=torch.uint8)
    method = learner(pictures=data(valid_maps=maps))
    torch.nn.init.zeros_(method.model.W)
    method.model.b.data.view(3, -1)[0] = 1.0
    found = method.evaluate(method.data, "valid")
    assert found["pa"].mean == 1 and "kappa" not in found and "miou" in found


# ---------------------------------------------------------------- other networks' weights


def test_a_run_starts_from_another_networks_backbone():
    of, to = hdc.HDC((3, 20, 20), ("x", "y"), seed=1, width=4, rates=(1, 2)), learner(deeplab, rates=(2, 4))
    before = {k: v.clone() for k, v in to.model.state_dict().items()}
    to.start_from(of)
    after = to.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in of.state_dict().items() if k.startswith("backbone."))
    others = [k for k in after if k.startswith(("pyramid.", "near.", "decoder."))]
    assert others and all(torch.equal(after[k], before[k]) for k in others)
    with pytest.raises(InputError, match="--init holds a hdc whose backbone does not fit; .* the same --width"):
        to.start_from(hdc.HDC((3, 20, 20), CLASSES, width=6))


def test_the_balance_is_the_new_datas():
    to = learner(balance="median")
    weights = to.model.balance.clone()
    to.start_from(hdc.HDC((3, 20, 20), CLASSES, width=4))
    assert torch.equal(to.model.balance, weights)


# ---------------------------------------------------------------- what is refused


def test_data_without_maps_or_without_labels_to_learn_are_refused():
    with pytest.raises(InputError, match="some has no label maps in train; name data that have"):
        learner(pictures=data(train_maps=None))
    for split, count in (("train", 16), ("valid", 8)):
        with pytest.raises(InputError, match=f"some has no labelled pixel in {split}: all of its labels are 255"):
            learner(pictures=data(**{f"{split}_maps": torch.full((count, 20, 20), IGNORED, dtype=torch.uint8)}))
    with pytest.raises(InputError, match="some has the class ground alone; at least 2"):
        learner(pictures=dataclasses.replace(data(), classes=("ground",)))
    with pytest.raises(InputError, match="some has pictures of 12x20; allowed: sides from 16"):
        learner(pictures=dataclasses.replace(data(), shape=(3, 12, 20)))
    with pytest.raises(UsageError, match="crop = 35 is more than pictures of 20x20 fill; allowed: up to 34"):
        learner(crop=35)
    with pytest.raises(InputError, match="there is no picture to score"):
        judged([])


def test_a_run_knows_its_label_maps_again():
    one, other = data(), data(train_maps=told(24)[1][:16].flip(0))
    assert one.fingerprint() == data().fingerprint() != other.fingerprint()


@pytest.mark.parametrize("module", [context, deeplab, hdc])
def test_arguments_give_the_model_again(module):
    method = learner(module)
    again = module.Model(**method.model.arguments)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in method.model.state_dict().items()
    }
    own = {f.name for f in dataclasses.fields(module.Config)}
    assert own & set(method.model.arguments) >= {"width"}

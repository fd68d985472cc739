"""Models that act: what they take and give, against the policy by hand, and what survives saving."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from environments_by_hand import Dot, Scripted
from gymnasium import spaces as S

from ptheta.control.a2c import A2C, Method
from ptheta.control.actors import Actor
from ptheta.control.envs import Environment
from ptheta.control.spaces import Spaces
from ptheta.data.order import generator
from ptheta.engine.errors import InputError
from ptheta.engine.hardware import detect


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, 0, "some"))


def with_actions(space: S.Space) -> Environment:
    return Environment(lambda: Scripted([], space))


LOW, HIGH = np.array([-2, 0, 1], np.float32), np.array([1, 10, 1.5], np.float32)
DISCRETE, BOUNDED = with_actions(S.Discrete(3, start=5)), with_actions(S.Box(LOW, HIGH))
UNBOUNDED = with_actions(S.Box(-np.inf, np.inf, (3,)))
EVERY = pytest.mark.parametrize("environment", [DISCRETE, BOUNDED, UNBOUNDED], ids=["discrete", "bounded", "unbounded"])


def model_for(environment: Environment, seed: int = 0, seen: bool = True) -> A2C:
    """With weights that tell actions apart, and moments that are not trivial."""
    model = A2C("made", environment.spaces.to_dict(), (8,), sigma=0.8, seed=seed).eval()
    if seen and not environment.spaces.pixels:
        model.moments.update(3 + 2 * some(50, *environment.spaces.observation, seed=seed))
    with torch.no_grad():
        for i, p in enumerate(model.policy.parameters()):
            p.add_(some(*p.shape, seed=i))
    return model


@torch.no_grad()
def by_hand(model: A2C, s: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the policy says of raw observations, by the equations of the normaliser alone."""
    m = model.moments
    deviation = (m.squares / m.count + 1e-8).sqrt()
    return model.policy.given(((s.double() - m.mean) / deviation).clamp(-10, 10).float())


def as_done(environment: Environment, a: torch.Tensor) -> np.ndarray:
    """The environment's actions of the policy's."""
    if environment is DISCRETE:
        return a.numpy() + 5
    if environment is UNBOUNDED:
        return a.numpy()
    return np.clip((LOW + HIGH) / 2 + (HIGH - LOW) / 2 * a.numpy(), LOW, HIGH)


# ---------------------------------------------------------------- acting


@EVERY
def test_the_best_action_is_the_policys_as_the_environment_takes_it(environment):
    model, s = model_for(environment), 3 + 4 * some(40, 2, seed=9)
    given = by_hand(model, s)
    best = given[0].argmax(1) if environment is DISCRETE else given[0]
    want = as_done(environment, best)
    found = model.act(s.numpy())
    assert isinstance(found, np.ndarray) and found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    space = environment.make().action_space
    for i, row in enumerate(s):
        one = model.act(row.numpy())
        np.testing.assert_allclose(one, want[i], rtol=1e-4, atol=1e-5)
        assert space.contains(one) and type(one) is (int if environment is DISCRETE else np.ndarray)
    assert environment is UNBOUNDED or len(np.unique(found, axis=0)) >= 3
    if environment is BOUNDED:
        assert (found == LOW).any() and (found == HIGH).any()  # some were clipped


@EVERY
def test_arrays_lists_and_tensors_are_the_same(environment):
    model, s = model_for(environment), some(4, 2, seed=3).double()
    want = model.act(s.float().numpy())
    for x in (s.numpy(), s.tolist(), s, s.clone().requires_grad_(), tuple(map(tuple, s.tolist()))):
        assert np.array_equal(model.act(x), want)
    whole = np.array([[1, -2], [3, 0]])
    assert np.array_equal(model.act(whole), model.act(whole.astype(np.float32)))
    assert len(model.act(np.zeros((0, 2)))) == 0


@EVERY
def test_draws_are_of_the_policy_and_of_their_seed(environment):
    model, n = model_for(environment), 4000
    s = torch.tensor([3.5, 2.0])
    rows = s.expand(n, 2).numpy()
    drawn = model.act(rows, deterministic=False, seed=1)
    assert np.array_equal(drawn, model.act(rows, deterministic=False, seed=1))
    assert not np.array_equal(drawn, model.act(rows, deterministic=False, seed=2))
    given = by_hand(model, s[None])
    if environment is DISCRETE:
        p = given[0].softmax(1)[0].numpy()
        found = np.bincount(drawn - 5, minlength=3) / n
        assert (np.abs(found - p) < 4 * np.sqrt(p * (1 - p) / n) + 1e-9).all() and p.max() < 0.999
    else:
        want = as_done(environment, given[0] + given[1].exp() * some(20_000, 3, seed=8))
        error = 5 * want.std(0) * np.sqrt(1 / n + 1 / 20_000) + 1e-6
        assert (np.abs(drawn.mean(0) - want.mean(0)) < error).all()
    one = model.act(s.numpy(), deterministic=False, seed=7)
    assert np.array_equal(one, model.act(s.numpy(), deterministic=False, seed=7))


def test_to_act_changes_nothing():
    model = model_for(BOUNDED).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    random = torch.random.get_rng_state()
    model.act([1.0, 2.0])
    model.act([[1.0, 2.0]], deterministic=False)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state()) and model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("bad", [[1.0, 2.0, 3.0], 1.0, [[[1.0, 2.0]]], [[1.0], [2.0]], [], "ab", [[1.0, 2.0], [3.0]],
                                 None, {"a": 1}], ids=str)  # fmt: skip
def test_an_observation_of_another_shape_is_refused(bad):
    with pytest.raises(InputError, match=r"^the observation .*[:;]") as got:
        model_for(DISCRETE).act(bad)
    assert "\n" not in str(got.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_not_finite_is_refused(bad):
    for s in ([0.0, bad], [[0.0, 0.0], [bad, 0.0]]):
        with pytest.raises(InputError, match="not finite"):
            model_for(DISCRETE).act(s)


# ---------------------------------------------------------------- what the environment gives


@pytest.mark.parametrize(
    "make",
    [Dot, lambda: gymnasium.make("ptheta/GridWorld-v0"), lambda: gymnasium.make("Blackjack-v1"),
     lambda: gymnasium.make("Pendulum-v1"), lambda: gymnasium.make("HalfCheetah-v5")],
    ids=["pictures", "numbers", "tuples", "rows", "float64"],
)  # fmt: skip
def test_a_model_plays_with_what_the_environment_gives(make):
    environment = Environment(make)
    model = A2C("made", json.loads(json.dumps(environment.spaces.to_dict())), (8,))
    env = make()
    s, _ = env.reset(seed=0)
    for _ in range(20):
        a = model.act(s)
        assert env.action_space.contains(a)
        s, _, over, cut, _ = env.step(a)
        if over or cut:
            s, _ = env.reset()


def test_a_picture_is_seen_alike_from_either_side():
    environment = Environment(Dot)
    model = model_for(environment)
    picture = environment.make().reset(seed=3)[0]
    given = model.policy.given(torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()))[0]
    for x in (picture, picture.transpose(2, 0, 1)):
        assert model.act(x) == int(given.argmax())
    assert model.act(np.stack([picture, 255 - picture])).shape == (2,)
    with pytest.raises(InputError, match="allowed: bytes"):
        model.act(picture / 255)


def test_a_policy_learns_from_pictures():
    """An update moves every weight, and some more tell left from right."""
    updates = 16
    config = Method.Config(envs=8, rollout=8, hidden=(16,), gamma=0.0, learning_rate=1e-3)
    method = Method(config, Environment(Dot), 0, detect("cpu", "fp32", 1), 8 * 8 * updates)
    before = {name: p.clone() for name, p in method.model.named_parameters()}
    batches = method.batches(0, 0, 1)
    logs = method.update(next(batches))
    assert torch.isfinite(logs["loss"]) and logs["units"] == 64
    assert not [name for name, p in method.model.named_parameters() if torch.equal(p, before[name])]
    assert method.model.moments.count == 0  # pictures are bytes
    for _ in range(updates - 1):
        method.update(next(batches))
    assert method.evaluate(method.data, "valid", 16)["return_mean"].mean > 7.5  # of 8; 4 by chance


# ---------------------------------------------------------------- normalisation


@pytest.mark.parametrize("seen", [True, False])
def test_frozen_is_normalised(seen):
    """Before anything was seen, too: or a policy would act by other numbers than it learns from."""
    model, s = model_for(DISCRETE, seen=seen), 40 * some(200, 2)
    frozen = model.frozen()
    assert torch.equal(frozen(s), model.normalised(s))
    want = ((s.double() - model.moments.mean) / (model.moments.squares / 50 + 1e-8).sqrt()).clamp(-10, 10).float()
    torch.testing.assert_close(model.normalised(s), want if seen else s)
    before = frozen(s)
    model.moments.update(some(9, 2))
    assert torch.equal(frozen(s), before) and not torch.equal(model.normalised(s), before)


def test_frozen_does_not_write_into_what_it_is_given():
    model, s = model_for(DISCRETE), 40 * some(5, 2)
    before = s.clone()
    model.frozen()(s)
    assert torch.equal(s, before)


def test_pictures_are_not_normalised():
    model = model_for(Environment(Dot))
    x = torch.randint(256, (2, 3, 16, 16), generator=generator(0, 0, "x"), dtype=torch.uint8)
    assert model.normalised(x) is x and model.frozen()(x) is x


def test_log_prob_is_of_raw_observations():
    model, s = model_for(BOUNDED), some(6, 2)
    mu, log_sigma = by_hand(model, s)
    a = some(6, 3, seed=5)
    want = torch.distributions.Normal(mu, log_sigma.exp()).log_prob(a).sum(1)
    torch.testing.assert_close(model.log_prob(s, a), want, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("environment", [DISCRETE, BOUNDED, UNBOUNDED, Environment(Dot),
                                         Environment("ptheta/GridWorld-v0")],
                         ids=["discrete", "bounded", "unbounded", "pictures", "numbers"])  # fmt: skip
def test_a_saved_model_acts_the_same(environment, tmp_path):
    model = model_for(environment)
    model.save_pretrained(tmp_path)
    again = A2C.from_pretrained(tmp_path)
    shape = environment.spaces.observation
    s = some(30, *shape, seed=4).numpy() * 4
    if environment.spaces.pixels:
        s = (np.abs(s) * 40).clip(0, 255).astype(np.uint8)
    for deterministic in (True, False):
        assert np.array_equal(model.act(s, deterministic), again.act(s, deterministic))
    assert again.spaces == environment.spaces == model.spaces and again.environment == "made" and not again.training
    assert json.loads((tmp_path / "config.json").read_text())["model"]["spaces"] == environment.spaces.to_dict()


@pytest.mark.parametrize("change", [lambda d: d.pop("low"), lambda d: d.update(observation=None),
                                    lambda d: d.update(low=["a"])])  # fmt: skip
def test_spaces_that_are_none_are_refused(change, tmp_path):
    model_for(BOUNDED).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config["model"]["spaces"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r'config\.json has an impossible "model" entry: .*describes no spaces') as got:
        A2C.from_pretrained(tmp_path)
    assert "\n" not in str(got.value)


@pytest.mark.parametrize(
    "spaces",
    [
        Spaces((4,), 2),
        Spaces((4,), 3, first=-1),
        Spaces((3, 84, 84), None, (-1.0, 0.25), (1.0, 1e30)),
        Spaces((2,), None, (-np.inf,) * 3, (np.inf,) * 3),
        Spaces((2,), None, tuple(map(float, LOW / np.float32(3))), tuple(map(float, HIGH))),
        Environment("Blackjack-v1").spaces,
        Environment(Dot).spaces,
    ],
    ids=str,
)
def test_spaces_survive_json(spaces):
    written = json.dumps(spaces.to_dict(), allow_nan=False)
    assert Spaces.from_dict(json.loads(written)) == spaces
    assert hash(Spaces.from_dict(json.loads(written))) == hash(spaces)


def test_spaces_of_models_before_there_was_a_layout_are_read():
    d = Spaces((4,), 2).to_dict()
    del d["given"]
    assert Spaces.from_dict(d) == Spaces((4,), 2)


def test_an_actor_has_to_decide():
    class Bare(Actor):
        name = "bare"

    model = Bare()
    model.set_up("made", DISCRETE.spaces.to_dict(), 0)
    with pytest.raises(NotImplementedError):
        model.act([0.0, 0.0])

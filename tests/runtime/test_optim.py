"""The optimisers are torch's to 1e-6, and the surgery on their state touches what it should."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import optim

SETTINGS: dict[str, Any] = {"learning_rate": 2.25e-3, "b1": 0.5, "b2": 0.9, "eps": 1e-8}


def params_of(rng):
  return {
    "net": {
      "conv": {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)},
      "norm": {"scale": rng.normal(size=4)},
    },
    "codebook": rng.normal(size=(5, 2)),
  }


def as_float32(tree):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def train(optimizer, params, gradients):
  state = optimizer.init(params)
  step = jax.jit(optimizer.update)
  for grads in gradients:
    updates, state = step(as_float32(grads), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def train_torch(make, params, gradients):
  leaves, treedef = jax.tree.flatten(params)
  tensors = [torch.tensor(np.array(x, np.float32), requires_grad=True) for x in leaves]
  optimizer = make(tensors)
  for grads in gradients:
    for tensor, grad in zip(tensors, jax.tree.leaves(grads), strict=True):
      tensor.grad = torch.tensor(np.array(grad, np.float32))
    optimizer.step()
  return jax.tree.unflatten(treedef, [t.detach().numpy() for t in tensors])


def assert_close(a, b, **tolerance):
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, err_msg=jax.tree_util.keystr(path), **tolerance)


def test_adam_is_torchs():
  rng = np.random.default_rng(0)
  params, gradients = params_of(rng), [params_of(rng) for _ in range(5)]
  ours, _ = train(optim.make_optimizer(name="adam", **SETTINGS), as_float32(params), gradients)
  theirs = train_torch(
    lambda p: torch.optim.Adam(p, lr=2.25e-3, betas=(0.5, 0.9), eps=1e-8), params, gradients
  )
  assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_sgd_is_torchs_with_nesterovs_momentum_and_decay_of_kernels_alone():
  rng = np.random.default_rng(1)
  params, gradients = params_of(rng), [params_of(rng) for _ in range(5)]
  optimizer = optim.make_optimizer(name="sgd", learning_rate=0.01, b1=0.9, weight_decay=0.3)
  ours, _ = train(optimizer, as_float32(params), gradients)
  names = [p[-1].key for p, _ in jax.tree_util.tree_leaves_with_path(params)]

  def make(tensors):
    groups = [
      {"params": [t], "weight_decay": 0.3 if name == "kernel" else 0.0}
      for t, name in zip(tensors, names, strict=True)
    ]
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)

  assert_close(ours, train_torch(make, params, gradients), rtol=1e-5, atol=1e-6)


def test_a_line_falls_to_a_hundredth_after_its_warm_up():
  rate = optim.make_schedule(learning_rate=1.0, schedule="linear", warmup_steps=4, total_steps=100)
  found = [float(rate(step)) for step in (0, 2, 4, 50, 100)]
  np.testing.assert_allclose(found, [0.0, 0.5 * (1 - 0.0198), 1 - 0.0396, 0.505, 0.01], rtol=1e-5)


def test_adamw_is_torchs_with_decay_of_kernels_alone():
  rng = np.random.default_rng(1)
  params, gradients = params_of(rng), [params_of(rng) for _ in range(5)]
  optimizer = optim.make_optimizer(name="adamw", weight_decay=0.3, **SETTINGS)
  ours, _ = train(optimizer, as_float32(params), gradients)
  names = [p[-1].key for p, _ in jax.tree_util.tree_leaves_with_path(params)]

  def make(tensors):
    decayed = [t for t, name in zip(tensors, names, strict=True) if name == "kernel"]
    rest = [t for t, name in zip(tensors, names, strict=True) if name != "kernel"]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=2.25e-3, betas=(0.5, 0.9), eps=1e-8)

  assert names.count("kernel") == 1
  assert_close(ours, train_torch(make, params, gradients), rtol=1e-6, atol=1e-6)


def test_clipping_is_torchs():
  rng = np.random.default_rng(2)
  params, gradients = params_of(rng), [params_of(rng) for _ in range(5)]
  ours, _ = train(optim.make_optimizer(clip=0.7, **SETTINGS), as_float32(params), gradients)

  def make(tensors):
    optimizer = torch.optim.Adam(tensors, lr=2.25e-3, betas=(0.5, 0.9), eps=1e-8)
    optimizer.register_step_pre_hook(
      lambda *_: torch.nn.utils.clip_grad_norm_(tensors, 0.7) and None
    )
    return optimizer

  assert_close(ours, train_torch(make, params, gradients), rtol=2e-6, atol=2e-6)


def test_accumulated_halves_are_the_whole_batch():
  rng = np.random.default_rng(3)
  params, halves = params_of(rng), [params_of(rng) for _ in range(6)]
  whole = [jax.tree.map(lambda a, b: (a + b) / 2, x, y) for x, y in zip(halves[::2], halves[1::2])]
  settings = {**SETTINGS, "schedule": "cosine"}
  accumulated = optim.make_optimizer(accumulate=2, warmup_steps=2, total_steps=8, **settings)
  direct = optim.make_optimizer(warmup_steps=1, total_steps=4, **settings)
  ours, _ = train(accumulated, as_float32(params), halves)
  expected, _ = train(direct, as_float32(params), whole)
  assert_close(ours, expected, rtol=1e-6, atol=1e-7)


def test_schedules_have_their_corners():
  rate = optim.make_schedule(learning_rate=2.0, schedule="cosine", warmup_steps=10, total_steps=110)
  np.testing.assert_allclose([rate(i) for i in (0, 5, 10, 60, 110)], [0, 1, 2, 1, 0], atol=1e-6)
  rate = optim.make_schedule(learning_rate=2.0, warmup_steps=10)
  np.testing.assert_allclose([rate(i) for i in (0, 5, 10, 1000)], [0, 1, 2, 2])
  rate = optim.make_schedule(learning_rate=2.0, schedule="cosine", total_steps=100)
  np.testing.assert_allclose([rate(i) for i in (0, 50, 100)], [2, 1, 0], atol=1e-6)
  assert optim.make_schedule(learning_rate=2.0)(7) == 2.0


@pytest.mark.parametrize(
  ("settings", "says"),
  [
    ({"name": "lion"}, "'adam', 'adamw' or 'sgd'"),
    ({"name": "adam", "weight_decay": 0.1}, "'adamw'"),
    ({"schedule": "triangle"}, "'constant', 'cosine' or 'linear'"),
    ({"schedule": "cosine", "warmup_steps": 9, "total_steps": 9}, "shorter warm-up"),
    ({"accumulate": 0}, "1 or more"),
  ],
)
def test_mistakes_say_what_was_meant(settings, says):
  with pytest.raises(UserError, match=says):
    optim.make_optimizer(learning_rate=1e-3, **settings)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_revived_rows_forget_everything_and_others_nothing(accumulate):
  rng = np.random.default_rng(4)
  params, gradients = as_float32(params_of(rng)), [params_of(rng) for _ in range(6)]
  optimizer = optim.make_optimizer(name="adam", accumulate=accumulate, **SETTINGS)
  _, state = train(optimizer, params, gradients)
  mask = jnp.array([False, True, False, False, True])
  zeroed = jax.jit(lambda s, m: optim.zero_rows(s, "codebook", m))(state, mask)
  touched = 0
  for (path, old), new in zip(
    jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(zeroed), strict=True
  ):
    if "codebook" not in jax.tree_util.keystr(path):
      np.testing.assert_array_equal(new, old)
      continue
    touched += 1
    assert np.all(np.asarray(old) != 0)
    np.testing.assert_array_equal(new, np.where(mask[:, None], 0, old))
  assert touched == (2 if accumulate == 1 else 3)  # two moments, and the accumulator


def test_a_revived_code_stands_still_when_nothing_pulls_it():
  rng = np.random.default_rng(5)
  params = as_float32(params_of(rng))
  optimizer = optim.make_optimizer(name="adam", **SETTINGS)
  params, state = train(optimizer, params, [params_of(rng) for _ in range(3)])
  state = optim.zero_rows(state, "codebook", jnp.array([True, False, False, False, False]))
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
  assert np.all(np.asarray(updates["codebook"][0]) == 0)
  assert np.all(np.asarray(updates["codebook"][1:]) != 0)


def test_a_misspelt_parameter_is_an_error_not_a_silence():
  state = optim.make_optimizer(learning_rate=1e-3).init({"codebook": jnp.zeros((3, 2))})
  with pytest.raises(ValueError, match="codebok"):
    optim.zero_rows(state, "codebok", jnp.zeros(3, bool))
  with pytest.raises(ValueError, match="'book'"):
    optim.zero_rows(state, "book", jnp.zeros(3, bool))


def test_all_finite_sees_one_bad_number_in_any_leaf():
  tree = {"a": jnp.ones((2, 3)), "n": jnp.int32(3), "key": jax.random.key(0)}
  assert optim.all_finite(tree)
  for bad in (jnp.nan, jnp.inf, -jnp.inf):
    assert not optim.all_finite({**tree, "a": tree["a"].at[1, 2].set(bad)})
  assert not optim.all_finite({"half": jnp.array([jnp.nan], jnp.bfloat16)})
  assert optim.all_finite({})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_leaves_no_trace(accumulate):
  rng = np.random.default_rng(6)
  params, good = as_float32(params_of(rng)), [params_of(rng) for _ in range(4)]
  bad = jax.tree.map(lambda x: x * np.nan, good[0])
  optimizer = optim.make_optimizer(accumulate=accumulate, **SETTINGS)

  @jax.jit
  def step(params, state, grads):
    updates, new_state = optimizer.update(grads, state, params)
    new = (optax.apply_updates(params, updates), new_state, jax.random.key(1))
    old = (params, state, jax.random.key(0))
    return optim.select(optim.all_finite(grads), new, old)[:2]

  state = optimizer.init(params)
  for grads in (good[0], bad, good[1], good[2], bad, good[3]):
    params, state = step(params, state, as_float32(grads))
  expected, _ = train(optimizer, as_float32(params_of(np.random.default_rng(6))), good)
  assert_close(params, expected, rtol=1e-6)


def test_the_average_of_weights_forgets_its_start_then_keeps_the_decay():
  ema = optim.ema_update({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, 0.999, 0)
  np.testing.assert_allclose(ema["w"], 0.9, rtol=1e-6)  # decay (1 + 0) / (10 + 0)
  ema = optim.ema_update({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, 0.999, jnp.int32(1_000_000))
  np.testing.assert_allclose(ema["w"], 0.001, rtol=1e-4)

"""`--config.key=value`: one value of a config changed from the command line, with its type kept."""

import ast
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from hiresmed_jax.errors import UserError

# What settings are called elsewhere, or were called before, by the last part of their keys.
_OTHER_NAMES = {
  **dict.fromkeys(("lr", "rate", "base_lr"), "learning_rate"),
  **dict.fromkeys(("bs", "batch", "batchsize", "train_batch_size"), "batch_size"),
  **dict.fromkeys(("wd", "decay_weight", "l2"), "weight_decay"),
  **dict.fromkeys(("epoch", "num_epochs", "max_epochs"), "epochs"),
  **dict.fromkeys(("iters", "iterations", "num_steps", "max_steps", "train_steps"), "steps"),
  **dict.fromkeys(("optim", "opt", "optimiser", "optimizer_name"), "optimizer.name"),
  **dict.fromkeys(("beta1", "momentum"), "b1"),
  **dict.fromkeys(("resolution", "image_size", "imgsz", "img_size"), "size"),
  **dict.fromkeys(("num_workers", "jobs"), "workers"),
  **dict.fromkeys(("grad_clip", "clip_norm", "max_norm"), "clip"),
  **dict.fromkeys(("grad_accum", "accumulation", "accumulation_steps"), "accumulate"),
  **dict.fromkeys(("codes", "codebook_size", "n_embed"), "num_codes"),
  "beta2": "b2",
  "bare": "lesion_free",
  "random_seed": "seed",
  "precision": "dtype",
}
_NEAR, _NEAR_AS_A_WHOLE = 0.6, 0.85  # likeness, of at most 1, of names of which one may be meant
_AS_GOOD = 0.05  # names whose scores differ by less are told together
_MOST_NAMED = 4


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Pairs (dotted key, value) of every value that is not itself a group."""
  for key in config:
    value = config[key]
    if isinstance(value, Mapping | ConfigDict):
      yield from leaves(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def apply_override(config: ConfigDict, override: str) -> None:
  """Sets one "key=value" (dotted key) in place.

  Raises:
    UserError: an unknown key, a group in place of a value, a value of another type.
  """
  key, equals, text = override.partition("=")
  if not equals:
    raise UserError(f"--config.{key} needs a value: --config.{key}=VALUE")
  *path, last = key.split(".")
  group = config
  for name in path:
    if name not in group or not isinstance(group[name], ConfigDict):
      raise UserError(_no_key(config, key))
    group = group[name]
  if last not in group:
    raise UserError(_no_key(config, key))
  if isinstance(group[last], ConfigDict):
    raise UserError(f"config.{key} is a group: set one of {_listed(f'{key}.', group[last])}")
  try:
    with group.ignore_type():  # parse_value sees to types
      group[last] = parse_value(text, like=group[last])
  except ValueError as error:
    raise UserError(f"--config.{override}: {error}") from error


def parse_value(text: str, *, like: Any) -> Any:
  """Reads one override's text as a value of the type that `like` has.

  `None` unsets anything but a boolean; where `like` is None any number, tuple or text is taken. An
  integer fits a float, "1e5" an integer; a tuple keeps the type of its items, and its brackets and
  quotes may be left out ("color,cutout"). Numbers in brackets in place of a text are a tuple: a
  window is "stored" or (-1000, 400).

  Raises:
    ValueError: the text is not such a value; the message says what was expected.
  """
  text = text.strip()
  if isinstance(like, bool):
    try:
      return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
      raise ValueError("expected True or False") from None
  if text == "None":
    return None
  if isinstance(like, tuple):
    return _parse_tuple(text, like)
  if isinstance(like, str) and not text.startswith("("):
    return text
  value = _literal(text)
  if isinstance(like, str):
    return value if isinstance(value, tuple) and value else text
  return value if like is None else _fit(value, like)


def _parse_tuple(text: str, like: tuple[Any, ...]) -> tuple[Any, ...]:
  value = _literal(text)
  if isinstance(value, str):
    value = tuple(_literal(part.strip(" '\"")) for part in text.strip("()[]").split(",") if part)
  items = value if isinstance(value, tuple) else (value,)
  kinds = {type(item) for item in like}
  if kinds == {int, float}:
    kinds = {float}
  if len(kinds) != 1 or kinds <= {type(None), tuple}:
    return items  # nothing, or no one thing, is known of its items
  pattern = next(item for item in like if type(item) in kinds)
  return tuple(_fit(item, pattern) for item in items)


def _literal(text: str) -> Any:
  """Number, boolean, None or tuple of them; text where it is nothing of that."""
  if text.lower() in ("inf", "+inf", "-inf"):
    return float(text)
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return text
  return _plain(value)


def _plain(value: Any) -> Any:
  if isinstance(value, list | tuple):
    return tuple(_plain(item) for item in value)
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise ValueError(f"expected a number, text or a tuple, not {value!r}")


def _fit(value: Any, like: Any) -> Any:
  """`value` as the type of `like`, which is a bool, int, float or str."""
  if type(value) is type(like):
    return value
  if type(like) is float and type(value) is int and abs(value) < 1e300:
    return float(value)
  if type(like) is int and type(value) is float and value.is_integer():
    return int(value)
  expected = {bool: "True or False", int: "an integer", float: "a number", str: "text"}[type(like)]
  raise ValueError(f"expected {expected}, not {value!r}")


def _no_key(config: ConfigDict, key: str) -> str:
  near = nearest_keys(key, [name for name, _ in leaves(config)])
  # Of names that are equally near, those of the route that is to be trained are meant.
  own = [name for name in near if name.startswith(f"{config.get('route', '')}.")]
  if near:
    meant = alternatives(f"config.{name}" for name in own or near)
    return f"no key config.{key}; did you mean {meant}?"
  return f"no key config.{key}; there are {_listed('', config)}"


def nearest_keys(key: str, known: Iterable[str]) -> list[str]:
  """The dotted keys that are most likely meant by one that does not exist; [] if none is near.

  The last part counts most: a wrong or missing group before it is forgiven. Other common names
  ("lr" for learning_rate) are understood.
  """
  path, _, last = key.rpartition(".")
  path, _, last = f"{path}.{_OTHER_NAMES.get(last.lower(), last)}".strip(".").rpartition(".")
  scores = {}
  for name in known:
    group, _, end = name.rpartition(".")
    alike = _alike(last, end)
    if alike >= _NEAR or _alike(key, name) >= _NEAR_AS_A_WHOLE:
      inner = group.split(".")[-1]  # "optimizer.lr" leaves the route out
      scores[name] = 2 * alike + (max(_alike(path, group), _alike(path, inner)) if path else 0)
  best = max(scores.values(), default=0.0)
  return [name for name, score in scores.items() if score > best - _AS_GOOD][:_MOST_NAMED]


def nearest_word(word: str, known: Iterable[str]) -> list[str]:
  """The known word that is most likely meant by another one, or []."""
  return difflib.get_close_matches(word, list(known), n=1)


def known_words(word: str, known: Iterable[str]) -> str:
  """What follows an unknown word in a message: the nearest known one, and all of them."""
  known = list(known)
  near = [name for name in known if name.endswith(f"/{word}")][:1]
  near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
  return (f"; did you mean {near[0]}?" if near else "") + f" (there are {', '.join(known)})"


def alternatives(words: Iterable[str]) -> str:
  """ "a, b or c"."""
  *first, last = words
  return f"{', '.join(first)} or {last}" if first else last


def _alike(first: str, second: str) -> float:
  return difflib.SequenceMatcher(None, first, second).ratio()


def _listed(prefix: str, config: Iterable[str]) -> str:
  return ", ".join(f"{prefix}{key}" for key in config)

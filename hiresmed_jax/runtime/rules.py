"""What the value of a setting may be: rules with the text that a refusal needs."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hiresmed_jax.runtime.overrides import alternatives


class Rule(NamedTuple):
  """What a value may be."""

  use: str  # completes "use ..."
  allows: Callable[[Any], bool]  # whether a value is one; it raises nothing, whatever the value is
  words: tuple[str, ...] = ()  # the known ones, for near misses


def one_of(*known: Any) -> Rule:
  """One of a few words or numbers; None may be among them."""
  words = tuple(word for word in known if isinstance(word, str))
  return Rule(alternatives(map(repr, known)), lambda value: _among(value, known), words)


def some_of(*known: Any, least: int = 0) -> Rule:
  """A tuple of some of a few words or numbers, at least `least` of them."""
  words = tuple(word for word in known if isinstance(word, str))
  number = "one or more" if least else "any"
  return Rule(
    f"{number} of {', '.join(map(repr, known))}",
    lambda value: _is_tuple(value, least) and all(_among(item, known) for item in value),
    words,
  )


def whole(low: int, high: int, note: str = "", *, multiple: int = 1) -> Rule:
  """A whole number within bounds that `multiple` divides."""
  kind = f"a multiple of {multiple}" if multiple > 1 else "a whole number"
  return Rule(
    f"{kind} from {low:,} to {high:,}{_noted(note)}",
    lambda value: _is_whole(value, low, high, multiple),
  )


def wholes(low: int, high: int, note: str = "", *, least: int = 1) -> Rule:
  """A tuple of whole numbers within bounds, at least so many: 0 or 1."""
  return Rule(
    f"{('no, ', '')[least]}one or more whole numbers from {low:,} to {high:,}{_noted(note)}",
    lambda value: _is_tuple(value, least) and all(_is_whole(item, low, high) for item in value),
  )


def rows_columns(low: int, high: int, note: str = "", *, multiple: int = 1) -> Rule:
  """(rows, columns), both within bounds, that `multiple` divides."""
  kind = f"multiples of {multiple}" if multiple > 1 else "each"
  return Rule(
    f"(rows, columns), {kind} from {low:,} to {high:,} px{_noted(note)}",
    lambda value: (
      _is_tuple(value, 2)
      and len(value) == 2
      and all(_is_whole(side, low, high, multiple) for side in value)
    ),
  )


def number(low: float, high: float, note: str = "", *, below: bool = False) -> Rule:
  """A number within bounds; `below`: less than the upper one."""
  most = f"less than {high:,}" if below else f"{high:,}"
  return Rule(
    f"a number from {low:,} to {most}{_noted(note)}",
    lambda value: _is_number(value) and low <= value <= high and not (below and value == high),
  )


def share(note: str = "", *, below: bool = False) -> Rule:
  """A number from 0 to 1; `below`: less than 1."""
  return number(0, 1, note, below=below)


def flag(note: str = "") -> Rule:
  """True or False."""
  return Rule(f"True or False{_noted(note)}", lambda value: isinstance(value, bool))


def text(note: str) -> Rule:
  """Any text."""
  return Rule(note, lambda value: isinstance(value, str))


def plain_name(note: str) -> Rule:
  """A text that is the name of one folder."""
  return Rule(
    f"{note}, without slashes",
    lambda value: (
      isinstance(value, str) and value.strip(".") != "" and not set(value) & set("/\\\0")
    ),
  )


def interval(*words: str) -> Rule:
  """One of some words, or a pair of numbers of which the first is less than the second."""
  return Rule(
    f"{', '.join(map(repr, words))} or (low, high) with low below high",
    lambda value: (
      _among(value, words)
      or (
        _is_tuple(value, 2)
        and len(value) == 2
        and all(map(_is_number, value))
        and -float("inf") < value[0] < value[1] < float("inf")
      )
    ),
    words,
  )


def span(low: float, high: float, note: str = "") -> Rule:
  """(), or a pair of numbers within bounds of which the first is less than the second."""
  return Rule(
    f"() or (least, most) from {low:,} to {high:,}{_noted(note)}",
    lambda value: (
      _is_tuple(value, 0)
      and len(value) in (0, 2)
      and all(map(_is_number, value))
      and (not value or low <= value[0] < value[1] <= high)
    ),
  )


def _noted(note: str) -> str:
  return f" ({note})" if note else ""


def _among(value: Any, known: Iterable[Any]) -> bool:
  # 1 is not True here.
  return any(type(value) is type(one) and value == one for one in known)


def _is_tuple(value: Any, least: int) -> bool:
  return isinstance(value, list | tuple) and len(value) >= least


def _is_whole(value: Any, low: int, high: int, multiple: int = 1) -> bool:
  whole = isinstance(value, int) and not isinstance(value, bool)
  return whole and low <= value <= high and value % multiple == 0


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


# What settings of the same name may be in every route.
OPTIMIZER = one_of("adam", "adamw", "sgd")
SCHEDULE = one_of("constant", "cosine", "linear")
LEARNING_RATE = number(0, 10)
MOMENTUM = share(below=True)
WEIGHT_DECAY = number(0, 10, "0 with 'adam'")
ACCUMULATE = whole(1, 65_536, "batches of one update")
CLIP = number(0, 1_000_000, "global norm; 0: off")
WEIGHT = number(0, 1_000_000)  # of a loss
DTYPE = one_of("auto", "float32", "bfloat16")
BATCH_SIZE = whole(1, 65_536)
EPOCHS = whole(0, 10_000_000)
STEPS = whole(0, 1_000_000_000, "0: as many as `epochs` say")
EVERY = whole(1, 1_000_000_000, "steps")
EVAL_EVERY = whole(1, 1_000_000_000, "steps; evaluation, checkpoint and figures")
KEEP_CHECKPOINTS = whole(1, 1000)
MAX_SKIPPED = whole(1, 1_000_000, "updates in a row that are not finite end the run")
FLIP = flag("True: left and right may change places")

"""A map over a stream with threads: in order, and with few items under way at a time."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def ordered_map(
  function: Callable[[_In], _Out], items: Iterable[_In], *, workers: int
) -> Iterator[_Out]:
  """Yields `function(item)` in the order of `items`; at most 2 * workers items are under way.

  Threads, not processes: decoding and encoding let go of the interpreter's lock. What `function`
  or `items` raise is raised here, in its place; closing the generator drops what has not begun.
  """
  if workers <= 1:
    yield from map(function, items)
    return
  pending: collections.deque[concurrent.futures.Future[_Out]] = collections.deque()
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  try:
    for item in items:
      pending.append(pool.submit(function, item))
      if len(pending) >= 2 * workers:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
  finally:
    pool.shutdown(wait=True, cancel_futures=True)

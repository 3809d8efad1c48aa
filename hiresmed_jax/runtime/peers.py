"""The other processes of a run: when one of them fails, all end, and soon."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator

import jax

from hiresmed_jax.errors import UserError

GONE = 75  # the status of a process that ends because another has: for whoever started them
# How gloo, NCCL and JAX's coordination service speak of a process that is gone.
_GONE = re.compile(r"gloo|nccl|(closed|reset) by peer|heartbeat|coordination ?service", re.I)


@contextlib.contextmanager
def leave_together(
  *, patience: float = 10.0, unless: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
  """Ends this process when what runs within fails, though others may still be at work.

  A process ends only when all the others have come to their end too, and these wait for it in the
  next collective: without this they would wait for minutes. A collective that failed because
  another process is gone becomes one line, and status 75, at once. With any other exception, which
  passes through, the others have `patience` seconds to make the same mistake; then this process
  ends, and they see that it is gone. In a run of one process nothing is changed.

  Args:
    patience: seconds.
    unless: exceptions that all processes have agreed upon.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1 or isinstance(error, unless):
      raise
    told = " ".join(str(error).split())
    if isinstance(error, Exception) and not isinstance(error, UserError) and _GONE.search(told):
      print(
        f"error: another process of this run is gone ({told[:160]}): see what it said; the same "
        "command, given to all of them, goes on from the last checkpoint",
        file=sys.stderr,
        flush=True,
      )
      _end(GONE)
    timer = threading.Timer(patience, _end, (2 if isinstance(error, UserError) else 1,))
    timer.daemon = True
    timer.start()
    raise


def _end(status: int) -> None:
  sys.stdout.flush()
  os._exit(status)

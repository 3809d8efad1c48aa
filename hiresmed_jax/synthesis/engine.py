"""Many images: threads that sample, insert and write while the devices compute."""

from collections.abc import Sequence
from pathlib import Path

import jax

from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.synthesis import folder
from hiresmed_jax.synthesis.image import Setting, make


def run(
  setting: Setting,
  out: Path,
  *,
  token: str,
  workers: int,
  devices: Sequence[jax.Device] | None = None,
) -> list[str]:
  """Makes the images of a request that are missing in a folder.

  Every image is one thread's from its index to its files. Its background goes through the model on
  one device; which, makes no difference to its bytes. Lesions are small: the host puts them in.

  Args:
    setting: what they are made of.
    out: the folder, claimed.
    token: see `folder.write`.
    workers: threads.
    devices: all of this process by default.

  Returns:
    A line for each image that could not be made.
  """
  places, host = list(devices or jax.local_devices()), _host()
  wanted = setting.request.indices()
  missing = [index for index in wanted if not folder.is_made(out, index)]
  failures: list[str] = []

  def one(turn_and_index: tuple[int, int]) -> str | None:
    turn, index = turn_and_index
    with jax.default_device(host):
      try:
        made = make(setting, index, places[turn % len(places)])
      except UserError as mistake:
        return f"image {index}: {mistake}"
      with setting.clock("write"):
        folder.write(out, made, form=setting.request.format, token=token)
    return None

  done = len(wanted) - len(missing)
  with Progress(len(wanted), "synthesize", done=done, unit="image") as progress:
    for failure in ordered_map(one, enumerate(missing), workers=workers):
      if failure is not None:
        failures.append(failure)
        progress.print(failure)
      progress.advance()
  return failures


def _host() -> jax.Device:
  """The first CPU; where only an accelerator was asked for, that."""
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError:
    return jax.local_devices()[0]

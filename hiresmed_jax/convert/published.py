"""Where the weights of the networks are published, and how they get here.

The sha256 of a trunk and of the Inception network begins with the eight digits in its published
name; the heads' are those of the files in the publisher's own package (lpips 0.1.4). A download
that does not match is dropped, and without a known sha256 nothing is downloaded.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import requests

from hiresmed_jax import files
from hiresmed_jax.convert import arrays, features, inception, resnet
from hiresmed_jax.errors import UserError

TORCHVISION = "https://download.pytorch.org/models/"
# A commit, not a branch: what lies there cannot change.
LPIPS = (
  "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
  "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/"
)


@dataclasses.dataclass(frozen=True)
class Published:
  """One file at its publisher's."""

  url: str  # where it is published; without a sha256, the page that leads there
  # Of the whole file, hexadecimal; None where the publisher offers no file to check.
  sha256: str | None
  size: int | None  # in bytes, where known
  what: str  # what it holds, in a few words
  licence: str  # its publisher's

  @property
  def name(self) -> str:
    """The file's name, which is the last part of its address."""
    return self.url.rsplit("/", 1)[-1]


def _trunk(name: str, sha256: str, size: int, what: str) -> Published:
  return Published(
    TORCHVISION + name, sha256, size, f"{what}, trained on ImageNet", "BSD-3-Clause (torchvision)"
  )


def _heads(name: str, sha256: str, size: int) -> Published:
  return Published(
    LPIPS + name, sha256, size, "LPIPS heads, version 0.1", "BSD-2-Clause (PerceptualSimilarity)"
  )


FILES: dict[str, tuple[Published, ...]] = {
  "vgg16": (
    _trunk(
      "vgg16-397923af.pth",
      "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
      553_433_881,
      "VGG16",
    ),
    _heads("vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868", 7_289),
  ),
  "alexnet": (
    _trunk(
      "alexnet-owt-7be5be79.pth",
      "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
      244_408_911,
      "AlexNet",
    ),
    _heads("alex.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0", 6_009),
  ),
  "squeezenet": (
    _trunk(
      "squeezenet1_1-b8a52dc0.pth",
      "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
      4_958_839,
      "SqueezeNet 1.1",
    ),
    _heads(
      "squeeze.pth", "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76", 10_811
    ),
  ),
  "inception": (
    Published(
      "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
      "pt_inception-2015-12-05-6726825d.pth",
      "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
      95_628_359,
      "Inception of 2015-12-05, for FID",
      "Apache-2.0 (pytorch-fid)",
    ),
  ),
  "radimagenet": (
    Published(
      "https://github.com/BMEII-AI/RadImageNet",
      None,
      None,
      "ResNet-50, trained on RadImageNet",
      "its publisher's terms",
    ),
  ),
}


def need_means(net: str) -> None:
  """Raises UserError, with what to do, where files cannot be checked, or not be read here."""
  for file in FILES[net]:
    if file.sha256 is None:
      raise UserError(
        f"{net} is not downloaded, since its publisher states no checksum: find {file.what}, by "
        f"way of {file.url}, then run `python -m hiresmed_jax.weights convert FILE --net {net}`"
      )
  arrays.need_torch(FILES[net][0].name)


def fetch(
  net: str, *, folder: Path | None = None, mirror: str | None = None, progress: bool = False
) -> Path:
  """Downloads a network's files, checks and converts them, and leaves the result alone.

  Args:
    net: a key of FILES.
    folder: where to; the cache folder when None.
    mirror: http(s) address that serves files of the same names, in place of the publishers'.
    progress: draws a bar on stderr.

  Returns:
    The converted file, for `load_perceptual` or `load_cached`.

  Raises:
    UserError: no torch to read the files with, a failed download, a file that is not the one
      published, or none that can be checked.
  """
  need_means(net)  # before half a gigabyte is on its way
  if mirror and not mirror.startswith(("http://", "https://")):
    raise UserError(f"--mirror {mirror} is no http:// or https:// address")
  target = cache_path(net, folder)
  downloads = target.parent / "downloads"
  with files.locked(downloads):
    whole = {file.name for published in FILES.values() for file in published}
    for left in downloads.iterdir():  # by a download that was killed
      if left.is_file() and left.name not in whole:
        left.unlink()
    paths = [_download(net, file, downloads, mirror, progress) for file in FILES[net]]
    files.write_npz(target, convert(paths, net))
    for path in paths:
      path.unlink()
    if not any(downloads.iterdir()):
      downloads.rmdir()
  return target


def _download(net: str, file: Published, folder: Path, mirror: str | None, progress: bool) -> Path:
  url = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
  pooch.get_logger().setLevel("ERROR")
  try:
    # pooch puts a file under its name only when it is whole and its hash is right; one that is
    # there already is taken as it is.
    path = pooch.retrieve(
      url,
      known_hash=f"sha256:{file.sha256}",
      fname=file.name,
      path=folder,
      downloader=pooch.HTTPDownloader(progressbar=progress, timeout=60),
    )
  except (requests.RequestException, ValueError) as error:
    if isinstance(error, requests.HTTPError) and error.response is not None:
      error.response.close()  # pooch has left its body, and with it the connection, unread
    addresses = " and ".join(f.url for f in FILES[net])
    names = " ".join(f.name for f in FILES[net])
    raise UserError(
      f"{url}: {_reason(error)}. Download {addresses} by other means, then run "
      f"`python -m hiresmed_jax.weights convert {names} --net {net}`"
    ) from error
  return Path(path)


def _reason(error: Exception) -> str:
  if isinstance(error, requests.HTTPError) and error.response is not None:
    return f"the server answered {error.response.status_code}"
  if isinstance(error, requests.Timeout):
    return "the server did not answer in time"
  if isinstance(error, requests.RequestException):
    return "no connection"
  return "what came is not the published file (its sha256 differs)"


# The networks that are no LPIPS trunks, each with a module of its own.
_OWN: dict[str, Any] = {"inception": inception, "radimagenet": resnet}


def cache_path(net: str, folder: Path | None = None) -> Path:
  """The file of a network of FILES, in `folder` or the cache folder."""
  return _OWN[net].cache_path(folder) if net in _OWN else features.cache_path(net, folder)


def convert(paths: Sequence[Path], net: str) -> dict[str, np.ndarray]:
  """What the cache's file of a network holds, from downloaded files.

  Raises:
    UserError: files that cannot be read or do not fit.
  """
  return _OWN[net].convert(paths) if net in _OWN else features.convert(paths, net)


def state(net: str) -> str:
  """Of the cache's file: "yes", "to 768 features only", "no", or "damaged: .." with the reason."""
  path = cache_path(net)
  if not path.is_file():
    return "no"
  try:
    if net == "inception":
      reached = inception.reach(path)
      return "yes" if reached == 2048 else f"to {reached} features only"
    found = arrays.read(path)
    problem = resnet.difference(found) if net == "radimagenet" else features.difference(found, net)
  except UserError as error:
    problem = str(error)
  return f"damaged: {problem}" if problem else "yes"

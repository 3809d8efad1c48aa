"""Command `weights`: the published weights of the frozen networks, on this machine."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hiresmed_jax import files
from hiresmed_jax.convert import inception, published
from hiresmed_jax.errors import ANEW, UserError
from hiresmed_jax.runtime import cli, interrupt

EXAMPLE = """  python -m hiresmed_jax.weights list
  python -m hiresmed_jax.weights fetch squeezenet
  python -m hiresmed_jax.weights convert vgg16-397923af.pth vgg.pth --net vgg16
  python -m hiresmed_jax.weights convert pt_inception-2015-12-05-6726825d.pth --net inception"""


def main(argv: list[str]) -> int | None:
  """Runs one of the three actions."""
  actions: dict[str, Callable[[list[str]], None]] = {
    "list": list_weights,
    "fetch": fetch,
    "convert": convert,
  }
  if argv and argv[0] in actions:
    with interrupt.stops_at_once(ANEW):
      actions[argv[0]](argv[1:])
    return 0
  parser = cli.Parser(
    "weights",
    "Lists, fetches and converts the weights that perceptual losses, LPIPS and FID need. They lie "
    "in $HIRESMED_CACHE, or in hiresmed_jax in your cache folder. `weights ACTION --help` tells "
    "more.",
    example=EXAMPLE,
  )
  parser.add_argument("action", choices=list(actions), help="what to do")
  parser.parse(argv)
  return 0


def list_weights(argv: list[str]) -> None:
  """One row per network: what it is, where it comes from, whether it is here."""
  parser = cli.Parser(
    "weights list",
    "Lists the networks, where their weights come from, and which of them are here.",
    example="  python -m hiresmed_jax.weights list",
  )
  parser.add_argument("--json", action="store_true", help="the same, complete, as JSON")
  options, _ = parser.parse(argv)
  rows = [_row(net) for net in published.FILES]
  if options.json:
    print(json.dumps(rows, indent=2))
    return
  table = Table("name", "what", "licence", "download", "sha256", "here", "path")
  for row in rows:
    files = row["files"]
    table.add_row(
      row["name"],
      "\n".join(file["what"] for file in files),
      "\n".join(file["licence"] for file in files),
      "\n".join(_size(file["size"]) if file["size"] else "by hand" for file in files),
      "\n".join(f"{file['sha256'][:12]}.." if file["sha256"] else "by hand" for file in files),
      row["here"],
      row["path"],
    )
  # Without a terminal there is no width to fit, and a log with broken lines cannot be searched.
  Console(width=None if sys.stdout.isatty() else 1000).print(table)


def fetch(argv: list[str]) -> None:
  """Downloads, checks and converts the networks named."""
  parser = cli.Parser(
    "weights fetch",
    "Downloads networks from their publishers, checks their sha256 and converts them. Needs torch "
    "to read the publishers' files; nothing needs it afterwards.",
    example="  python -m hiresmed_jax.weights fetch vgg16 squeezenet",
  )
  parser.add_argument("net", nargs="+", choices=list(published.FILES), help="networks")
  parser.add_argument("--mirror", metavar="URL", help="an address that serves the same files")
  options, _ = parser.parse(argv)
  wanted = []
  for net in dict.fromkeys(options.net):
    if published.state(net) == "yes":
      print(f"{net} is here: {published.cache_path(net)}")
      continue
    published.need_means(net)
    wanted.append(net)
  for net in wanted:
    total = _size(sum(file.size or 0 for file in published.FILES[net]))
    print(f"{net}: downloading {total}", flush=True)
    path = published.fetch(net, mirror=options.mirror, progress=sys.stderr.isatty())
    print(f"{net}: {path}", flush=True)


def convert(argv: list[str]) -> None:
  """Converts files that the user has downloaded."""
  parser = cli.Parser(
    "weights convert",
    "Converts downloaded files into the one that training and evaluation read. For LPIPS a "
    "complete .npz, or trunk and heads together; for inception and radimagenet one file. Each is "
    ".pth or .pt (needs torch), .safetensors or .npz. A file with the beginning of the Inception "
    "network converts too, and serves the features up to where it reaches.",
    example="  python -m hiresmed_jax.weights convert vgg16-397923af.pth vgg.pth --net vgg16",
  )
  parser.add_argument(
    "file", nargs="+", type=Path, help="trunk and heads, in any order, or the one file"
  )
  parser.add_argument("--net", required=True, choices=list(published.FILES), help="which network")
  parser.add_argument("--out", type=Path, help="a .npz file; where training looks when left out")
  options, _ = parser.parse(argv)
  out = options.out or published.cache_path(options.net)
  if out.suffix != ".npz":
    raise UserError(f"--out {out} must end in .npz")
  converted = published.convert(options.file, options.net)
  files.write_npz(out, converted)
  count = sum(value.size for value in converted.values())
  print(f"{options.net}: {len(converted)} arrays, {count:,} numbers -> {out}")
  if options.net == "inception":
    print(f"it serves features up to {inception.reach(out)}")


def _row(net: str) -> dict:
  files = [
    {"what": f.what, "url": f.url, "licence": f.licence, "size": f.size, "sha256": f.sha256}
    for f in published.FILES[net]
  ]
  path = published.cache_path(net)
  return {"name": net, "files": files, "here": published.state(net), "path": str(path)}


def _size(count: int) -> str:
  return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


if __name__ == "__main__":
  cli.run(main)

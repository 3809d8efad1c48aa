"""Command `evaluate`: images compared with real ones, in tables with their protocols."""

import argparse
import pathlib
from collections.abc import Callable

from hiresmed_jax.convert.arrays import cache_folder
from hiresmed_jax.convert.inception import RESIZES
from hiresmed_jax.errors import ANEW, UserError
from hiresmed_jax.evaluation import convergence, networks, readers, run
from hiresmed_jax.runtime import cli, compilation, interrupt, mesh
from hiresmed_jax.runtime.progress import Progress

_EXAMPLE = """\
  python -m hiresmed_jax.evaluate --real data/stones_ct --synthetic out --out report
  python -m hiresmed_jax.evaluate --workdir hdfb=runs/a --workdir hdfb=runs/b \\
    --workdir plain=runs/c --lpips squeezenet --tap 768 --out report
  python -m hiresmed_jax.evaluate --real real --baseline DDM=ddm --baseline VQGAN=vqgan --out report
  python -m hiresmed_jax.evaluate --workdir runs/a --data data/other_hospital --out report
  python -m hiresmed_jax.evaluate --run hdfb=runs/a --run plain=runs/c --out report
  python -m hiresmed_jax.evaluate --reader-study answers.csv --out report"""


def main(argv: list[str]) -> None:
  """Writes report.md, report.json and figures."""
  options = vars(_options(argv))
  as_json = options.pop("json")
  request = run.Request(**options)
  if request.samplings is not None and request.samplings < 1:
    raise UserError(f"--samplings {request.samplings}: use 1 or more")
  lpips = dict.fromkeys(request.lpips or ["alexnet", "vgg16"])
  request = request._replace(lpips=[name for name in lpips if name != "none"])
  compilation.keep_programs(cache_folder())
  with (
    interrupt.stops_at_once(ANEW),
    cli.only_json(as_json),
    Progress(None, "evaluate", unit=""),
  ):
    run.evaluate(request, mesh.make_mesh())
  if as_json:
    print((request.out / "report.json").read_text().strip())
  else:
    print(f"report: {(request.out / 'report.md').absolute()}")


def _options(argv: list[str]) -> argparse.Namespace:
  parser = cli.Parser(
    "evaluate",
    "Compares images with real ones: the paper's tables with tests and protocols, lesions one by "
    "one, convergence, reader studies. A method named twice has several seeds or samplings.",
    example=_EXAMPLE,
  )
  add = parser.add_argument
  path = pathlib.Path
  add("--real", type=path, metavar="DIR",
      help="prepared dataset (its held-out images count) or a folder of images")  # fmt: skip
  add("--synthetic", action="append", default=[], type=_named("synthetic"), metavar="[NAME=]DIR",
      help="what `synthesize` wrote, or a folder of images; may be repeated")  # fmt: skip
  add("--workdir", action="append", default=[], type=_named("ours"), dest="workdirs",
      metavar="[NAME=]DIR",
      help="trained run: its reconstructions of held-out images; may be repeated")  # fmt: skip
  add("--baseline", action="append", default=[], type=_named(), dest="baselines",
      metavar="NAME=DIR",
      help="another method's images, named as the real ones, or with _0, _1 ..")  # fmt: skip
  add("--data", type=path, metavar="DIR", help="dataset of the workdirs (where they noted it), or "
      "another prepared dataset, on whose held-out images they are measured")  # fmt: skip
  add("--run", action="append", default=[], type=_named(), dest="runs", metavar="NAME=DIR",
      help="run whose metrics.jsonl is drawn beside others'; may be repeated")  # fmt: skip
  add("--quantity", default=convergence.QUANTITY, metavar="KEY",
      help="of metrics.jsonl, for --run (reconstruction)")  # fmt: skip
  add("--threshold", action="append", default=[], type=float, dest="thresholds", metavar="X",
      help="error to be reached; may be repeated (three that all runs reach)")  # fmt: skip
  add("--reader-study", type=path, metavar="CSV", help=readers.FORMAT)
  add("--lpips", nargs="+", action="extend", choices=[*networks.LPIPS_NETS, "none"],
      metavar="NET", help="alexnet, vgg16, squeezenet or none (alexnet vgg16)")  # fmt: skip
  add("--features", choices=networks.FEATURE_NETS, default="inception", dest="network",
      help="network of FID, KID, precision and recall (inception)")  # fmt: skip
  add("--inception", type=path, dest="file", metavar="FILE",
      help="weights of that network (cache folder)")  # fmt: skip
  add("--tap", type=int, choices=(64, 192, 768, 2048), default=2048,
      help="features of Inception; a number of fewer than 2048 carries its tap (2048)")  # fmt: skip
  add("--resize", choices=tuple(RESIZES), default="legacy", dest="how",
      help="of Inception's input: pytorch-fid's, TensorFlow's or clean-fid's (legacy)")  # fmt: skip
  add("--samplings", type=int, metavar="N", help="images of each background (as fit best)")
  add("--seed", type=int, default=0, help="of subsets, halves and resamples (0)")
  add("--out", required=True, type=path, metavar="DIR", help="folder of the report")
  add("--overwrite", action="store_true", help="replace a report that is there")
  add("--json", action="store_true", help="print the report as one JSON object")
  return parser.parse(argv)[0]


def _named(default: str = "") -> Callable[[str], run.Named]:
  """Parses NAME=DIR, or DIR alone where there is a default name."""

  def parse(text: str) -> run.Named:
    name, equals, folder = text.partition("=")
    if not equals and default:
      name, folder = default, text
    if not name or not folder:
      raise argparse.ArgumentTypeError(f"{text}: write NAME=DIR")
    return name, pathlib.Path(folder)

  return parse


if __name__ == "__main__":
  cli.run(main)

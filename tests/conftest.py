"""What every test gets: eight CPU devices, a strict CI, the shared folder where there is one."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import hypothesis
import jax
import pytest

from hiresmed_jax.runtime import compilation

REPO = Path(__file__).resolve().parents[1]
ALLOWED_SKIPS = REPO / "tests" / "allowed_skips.txt"
# What numbers are compared with (launch/references.sh). Not every Python has a build of each.
REFERENCES = {"torch", "torchvision", "torchmetrics", "lpips", "pytorch_fid", "ultralytics"}
REFERENCES |= {"pycocotools"}

_skipped: list[tuple[str, str]] = []


def pytest_configure(config: pytest.Config) -> None:
  is_xdist_worker = hasattr(config, "workerinput")  # has its parent's environment
  if os.environ.get("HIRESMED_QUICK") and not is_xdist_worker:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {' '.join(quick_flags())}"
  # Tiny tensors, and as many processes as cores: torch's threads would only wait for each other.
  os.environ.setdefault("OMP_NUM_THREADS", "1")
  # Eight devices, so that meshes are real in every test; it must precede the first computation.
  jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS") or "cpu")
  jax.config.update("jax_num_cpu_devices", 8)
  # Commands keep weights and programs in the user's cache; tests get one of their own, empty.
  if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["HIRESMED_CACHE"] = cache = tempfile.mkdtemp(prefix="hiresmed-tests-")
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
  # What one test has compiled the others find, those in other processes too.
  compilation.keep_programs(Path(os.environ["HIRESMED_CACHE"]))
  # No deadline: the first example compiles. In CI the same examples every time.
  in_ci = bool(os.environ.get("CI"))
  hypothesis.settings.register_profile("here", deadline=None, max_examples=50, derandomize=in_ci)
  hypothesis.settings.load_profile("here")


def quick_flags() -> list[str]:
  """XLA's flags for programs that are soon compiled, and slow: what they mean is the same."""
  flags = ["--xla_backend_optimization_level=0"]
  # Halves the time once more; a version that does not know a flag ends the process.
  known = jax.__version_info__[:2] == (0, 10)
  return [*flags, "--xla_cpu_use_fusion_emitters=false"] if known else flags


class Module(pytest.Module):
  """A test file, skipped where a reference package that it imports is not installed."""

  def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
    try:
      return super().collect()
    except self.CollectError as error:
      name = getattr(error.__cause__, "name", None)
      if name not in REFERENCES:
        raise
      pytest.skip(f"No module named '{name}'", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
  return Module.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  # Commands and routes take longest: where they come last, one process waits for another.
  def is_short(item: pytest.Item) -> bool:
    folder = item.path.relative_to(REPO / "tests").parts[0]
    return folder != "routes" and folder != item.path.name

  items.sort(key=is_short)


@pytest.fixture(scope="session")
def shared() -> Path:
  """Folder of real images and reference numbers; the test is skipped where it is absent."""
  folder = Path(os.environ.get("HIRESMED_SHARED") or REPO.parent / "shared")
  if not (folder / "data").is_dir():
    pytest.skip("no shared folder (HIRESMED_SHARED)")
  return folder


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
  _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
  _note_skip(report)


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
  # A plain skip leaves (file, line, reason); an expected failure is "skipped" too, with wasxfail.
  if report.skipped and not hasattr(report, "wasxfail"):
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if (report.nodeid, reason) not in _skipped:  # every process collects
      _skipped.append((report.nodeid, reason))


def forbidden_skips(
  skipped: list[tuple[str, str]], allowed: str, absent: Iterable[str] = ()
) -> list[str]:
  """Lines for the skips that must not be.

  Args:
    skipped: (test id or file, reason) each.
    allowed: those that may be skipped, one test id or file per line, # comments.
    absent: reference packages that this Python has no build of: what needs them may be skipped.
  """
  without = [f"No module named '{name}'" for name in absent]
  skipped = [(node, reason) for node, reason in skipped if not any(w in reason for w in without)]
  patterns = [line.split("#")[0].strip() for line in allowed.splitlines()]
  patterns = [p for p in patterns if p]
  # Where tests run in several processes, the name of an xdist_group ends the id.
  skipped = [(re.sub(r"@[^]@]*$", "", node), reason) for node, reason in skipped]
  return [
    f"{node}: {reason}"
    for node, reason in skipped
    if not any(node == p or node.startswith((p + "::", p + "[")) for p in patterns)
  ]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
  # A parity test that skips itself proves nothing, and nobody reads a green log.
  is_xdist_worker = hasattr(session.config, "workerinput")
  if not os.environ.get("CI") or is_xdist_worker:
    return
  absent = os.environ.get("HIRESMED_ABSENT", "").split()
  lines = forbidden_skips(_skipped, ALLOWED_SKIPS.read_text(), absent)
  if lines:
    print("\nskipped in CI and not on tests/allowed_skips.txt:", *lines, sep="\n  ")
    session.exitstatus = max(int(exitstatus), 1)

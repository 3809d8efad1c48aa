"""The shell around every command: how options look and how a command ends (`EXIT_CODES`)."""

import argparse
import contextlib
import difflib
import errno
import io
import multiprocessing
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from hiresmed_jax.errors import Stopped, UserError, printable

OVERRIDE = "--config."
CONFIG = "FILE.py[:ROUTE[,PRESET]]"  # how a config is named on a command line
EXIT_CODES = {
  0: "done",
  1: "a fault of this program; its traceback says where",
  2: "a mistake of the user, or no space or memory left; one line says what helps",
  75: "another process of the same run has ended",
  130: "stopped by Ctrl-C; `train` has saved, and the same command goes on",
  143: "stopped by SIGTERM; the same",
}
_SCRIPT, _MODULE = "hiresmed", "python -m hiresmed_jax"
_FLUSH_SECONDS = 0.5
# How Python and NumPy, XLA and OpenCV say it.
_OUT_OF_MEMORY = ("MemoryError", "RESOURCE_EXHAUSTED", "Insufficient memory")


def program(command: str = "") -> str:
  """How the user calls a command: by the script `hiresmed`, or as a module."""
  if pathlib.Path(sys.argv[0]).stem == _SCRIPT:
    return f"{_SCRIPT} {command}".rstrip()
  return f"{_MODULE}.{command}" if command else _MODULE


class Parser(argparse.ArgumentParser):
  """argparse with our conventions: one line for a mistake, no abbreviations, the example kept.

  Args:
    command: its name, as `program` takes it.
    description: what the command does, one sentence.
    notes: shown after the options.
    example: command lines with `python -m hiresmed_jax.X`, shown at the end of `--help` with the
      program that was called.
    overrides: whether `--config.key=value` belongs to this command.
  """

  def __init__(
    self,
    command: str,
    description: str,
    *,
    notes: str = "",
    example: str = "",
    overrides: bool = False,
  ) -> None:
    if example:
      shown = example.replace(f"{_MODULE}.", program("X")[:-1])
      notes = f"{notes}\n\nexample:\n{shown}".strip()
    super().__init__(
      prog=program(command),
      description=description,
      epilog=notes or None,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      # An abbreviation that works today is ambiguous after the next option, in the user's script.
      allow_abbrev=False,
    )
    self._overrides = overrides

  def error(self, message: str) -> NoReturn:
    """Raises UserError in place of argparse's usage block."""
    raise UserError(f"{message} (see {self.prog} --help)")

  def parse(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options and, apart, the `key=value` of every `--config.key=value`, in the order given.

    Raises:
      UserError: an unknown or malformed option; a near miss is named.
    """
    overrides, rest = split_overrides(argv) if self._overrides else ([], list(argv))
    options, unknown = self.parse_known_args(rest)
    if unknown:
      known = [name for action in self._actions for name in action.option_strings]
      near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
      hint = f"; did you mean {near[0]}?" if near else ""
      self.error(f"{unknown[0]} is not an option of this command{hint}")
    return options, overrides


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Takes `--config.key=value` and `--config.key value` out of a command line.

  Returns:
    (overrides as "key=value", everything else in its order).

  Raises:
    UserError: an override without a value.
  """
  overrides: list[str] = []
  rest: list[str] = []
  arguments = iter(argv)
  for argument in arguments:
    if not argument.startswith(OVERRIDE):
      rest.append(argument)
      continue
    override = argument.removeprefix(OVERRIDE)
    if "=" not in override:
      value = next(arguments, None)
      if value is None or value.startswith("--"):
        raise UserError(f"{argument} needs a value: {argument}=VALUE")
      override = f"{override}={value}"
    overrides.append(override)
  return overrides, rest


def run(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
  """Runs a command's `main(argv)` and leaves the process with the exit code it has earned.

  `main` returns an exit code, or None for 0. Without `argv` it is given the process's own.

  Raises:
    SystemExit: always, but where the command was asked to stop, which ends the process, and for an
      exception that is neither the user's nor one of a full disk or memory: that one passes
      through with its traceback, since it is a bug.
  """
  _open_streams()
  try:
    code = main(list(sys.argv[1:] if argv is None else argv)) or 0
    sys.stdout.flush()  # a full disk or a closed pipe behind stdout shows here, not at shutdown
  except UserError as mistake:
    code = _fail(" ".join(str(mistake).split()))
  except KeyboardInterrupt as stopped:
    # Not by the interpreter's own end: that waits for a compiler at work, or crashes in it.
    end(stopped.code if isinstance(stopped, Stopped) else 130, str(stopped) or "interrupted")
  except BrokenPipeError:
    # `... | head` has seen enough. Nothing may be written to the dead pipe, at shutdown neither.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code = 0
  except OSError as error:
    where = f" for {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      code = _fail(f"no space left on the disk{where}: free some and run the same command again")
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and where:
      code = _fail(f"{error.filename}: {error.strerror}: it must be possible to read and write it")
    else:
      raise
  except Exception as error:
    if not any(sign in f"{type(error).__mro__} {error}" for sign in _OUT_OF_MEMORY):
      raise
    first = str(error).strip().split("\n")[0]
    code = _fail(f"out of memory: use smaller images, batches or networks ({first})")
  if code > 128 and not _has_peers():
    end(code)  # it was asked to stop: a compiler may be at work in a thread
  sys.exit(code)


def _has_peers() -> bool:
  """Whether other processes of this run wait for this one to end as they do."""
  jax = sys.modules.get("jax")
  return jax is not None and jax.process_count() > 1


def end(status: int, line: str = "") -> NoReturn:
  """Ends this process and those that it has started, at once; `line` goes to standard error."""
  if line:
    os.write(2, f"{line}\n".encode())
  for process in multiprocessing.active_children():
    process.terminate()
  # In a thread: another one may hold the stream, and wait for a reader that reads no more.
  flush = threading.Thread(target=sys.stdout.flush, daemon=True)
  flush.start()
  flush.join(_FLUSH_SECONDS)
  os._exit(status)


@contextlib.contextmanager
def only_json(asked: bool) -> Iterator[None]:
  """Within, what is printed goes to standard error where `asked`: the other is for JSON alone."""
  with contextlib.redirect_stdout(sys.stderr) if asked else contextlib.nullcontext():
    yield


class _Output(io.FileIO):
  """A stream whose reader may leave, as `| head` does: the work goes on, into nothing."""

  def write(self, data: Any) -> int:
    """Writes, or drops it when nobody reads."""
    try:
      return super().write(data)
    except BrokenPipeError:
      os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
      return len(data)


def _open_streams() -> None:
  """Standard output and error that stay open, whatever their reader does; closed ones are nothing.

  Another program's or a test's own streams are left as they are.
  """
  for number, name in ((1, "stdout"), (2, "stderr")):
    stream = getattr(sys, name)
    if stream is None:
      try:
        os.fstat(number)
      except OSError:  # else the next file that is opened would get what is printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
      setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    elif stream is getattr(sys, f"__{name}__") and stream.fileno() == number:
      stream.flush()
      raw = _Output(number, "w", closefd=False)
      whole_lines = number == 2 or raw.isatty()
      # A file name need not be UTF-8.
      patient = io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=whole_lines
      )
      setattr(sys, name, patient)


def _fail(line: str) -> int:
  print(f"error: {printable(line)}", file=sys.stderr, flush=True)
  return 2

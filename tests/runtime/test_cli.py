import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.errors import ANEW, Stopped, UserError
from hiresmed_jax.runtime import cli, interrupt


def ends_with(main, capsys, argv=()):
  with pytest.raises(SystemExit) as end:
    cli.run(main, argv)
  return end.value.code, capsys.readouterr().err


def raising(error):
  def main(argv):
    raise error

  return main


def test_work_done_is_zero(capsys):
  assert ends_with(lambda argv: None, capsys) == (0, "")


def test_main_gets_the_arguments_and_may_choose_the_code(capsys):
  assert ends_with(len, capsys, ["a", "b", "c"])[0] == 3


def test_arguments_of_the_process(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["program", "x"])
  seen = []
  with pytest.raises(SystemExit):
    cli.run(seen.extend)
  assert seen == ["x"]


def test_a_mistake_is_one_line_and_two(capsys):
  code, text = ends_with(raising(UserError("no such\n  folder: x")), capsys)
  assert (code, text) == (2, "error: no such folder: x\n")


@pytest.mark.parametrize(
  ("error", "code", "text"),
  [
    (KeyboardInterrupt(), 130, "interrupted"),
    (Stopped(143), 143, "stopped: the same command goes on from there"),
    (Stopped(143, step=3), 143, "stopped; saved at step 3: the same command goes on from there"),
    (Stopped(130, then=ANEW), 130, "stopped: nothing was written; the same command begins anew"),
  ],
)
def test_a_stop_is_one_line_and_the_signal_s_code(monkeypatch, error, code, text):
  def end(*given):
    raise SystemExit(given)

  monkeypatch.setattr(cli, "end", end)
  with pytest.raises(SystemExit) as ended:
    cli.run(raising(error), ())
  assert ended.value.code == (code, text)


def test_a_stop_leaves_no_process_and_waits_for_no_reader():
  """The other end of standard output is not read, and the process's own end would wait for it."""
  code = """
import multiprocessing, sys, threading, time
from hiresmed_jax.runtime import cli

def main(argv):
  child = multiprocessing.Process(target=time.sleep, args=(60,))
  child.start()
  print(child.pid, file=sys.stderr, flush=True)
  threading.Thread(target=sys.stdout.write, args=("x" * 1000000,), daemon=True).start()
  time.sleep(0.2)
  raise KeyboardInterrupt

if __name__ == "__main__":
  cli.run(main, [])
"""
  with subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  ) as process:
    assert process.wait(30) == 130
    child, told = process.stderr.read().split()
  assert told == "interrupted"
  for _ in range(100):
    if not Path(f"/proc/{child}").exists():
      break
    time.sleep(0.05)
  else:
    pytest.fail("the child is there")


def test_names_cannot_steer_the_terminal(capsys):
  name = os.fsdecode(b"a\x1b]0;b\x07\xff \xe2\x80\xaec")
  told = ends_with(raising(UserError(f"no {name}")), capsys)[1]
  assert told == "error: no a\\x1b]0;b\\x07\ufffd \\u202ec\n"


def test_a_file_system_that_cannot_be_written_is_one_line(capsys):
  code, text = ends_with(raising(OSError(errno.EROFS, "Read-only", "runs/a")), capsys)
  assert (code, text.count("\n")) == (2, 1)
  assert text.startswith("error: runs/a: Read-only")


def test_full_disk_is_one_line(capsys):
  code, text = ends_with(raising(OSError(errno.ENOSPC, "full", "runs/a.npz")), capsys)
  assert code == 2
  assert text.count("\n") == 1
  assert "no space left" in text
  assert "runs/a.npz" in text


@pytest.mark.parametrize("make", [lambda: jnp.zeros(1 << 46), lambda: np.ones(1 << 45)])
def test_memory_that_no_machine_has_is_one_line(make, capsys):
  code, text = ends_with(lambda argv: make(), capsys)
  assert code == 2
  assert text.startswith("error: out of memory: use smaller images")
  assert text.count("\n") == 1


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad disk"), ValueError("a bug")])
def test_a_bug_keeps_its_traceback(error):
  with pytest.raises(type(error)):
    cli.run(raising(error), [])


@pytest.mark.parametrize(
  ("body", "code"),
  [("1 / 0", 1), ("os.kill(os.getpid(), signal.SIGTERM)", 143)],
)
def test_codes_that_a_shell_sees(body, code):
  assert {0, 1, 2, interrupt.GONE, 128 + signal.SIGINT, 128 + signal.SIGTERM} == set(cli.EXIT_CODES)
  program = f"import os, signal\nfrom hiresmed_jax.runtime import cli\ncli.run(lambda argv: {body})"
  shell = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, program]
  done = subprocess.run(shell, capture_output=True, text=True, check=False)
  assert done.returncode == code
  assert ("Traceback" in done.stderr) == (code == 1)


@pytest.mark.parametrize("shell", ["| head -1", ">&-", ">&- 2>&-"])
def test_work_goes_on_when_nobody_reads(shell, tmp_path):
  program = """
import pathlib, sys
from rich.console import Console
from hiresmed_jax.runtime import cli
def main(argv):
  for _ in range(1000):
    print("x" * 1000)
    Console().print("y" * 100)
  file = open("file", "wb")
  print("z", flush=True)
  file.write(b"done")
  file.close()
cli.run(main)
"""
  command = f'set -o pipefail; "$0" -c "$1" {shell}'
  done = subprocess.run(
    ["bash", "-c", command, sys.executable, program],
    cwd=tmp_path,
    capture_output=True,
    env=os.environ | {"PYTHONPATH": os.getcwd()},
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, b"")
  assert (tmp_path / "file").read_bytes() == b"done"


def test_closed_pipe_is_quiet():
  program = (
    "from hiresmed_jax.runtime import cli\n"
    "cli.run(lambda argv: [print('x' * 1000) for _ in range(10_000)] and None)"
  )
  command = [sys.executable, "-c", program]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=30) == 0
  assert errors == b""


def parser(**options):
  made = cli.Parser("train", "Trains.", example="  train --config kub.py", **options)
  made.add_argument("--config", required=True)
  made.add_argument("--workdir")
  made.add_argument("--format", choices=("png", "dicom"))
  return made


def test_overrides_are_set_apart():
  argv = ["--config.a.b=3", "--config", "kub.py:all", "--config.c", "(1,1)", "--workdir=w"]
  options, overrides = parser(overrides=True).parse(argv)
  assert (options.config, options.workdir) == ("kub.py:all", "w")
  assert overrides == ["a.b=3", "c=(1,1)"]


def test_a_negative_value_is_a_value():
  assert cli.split_overrides(["--config.a", "-1"]) == (["a=-1"], [])


@pytest.mark.parametrize(
  ("argv", "line"),
  [
    (["--config", "x", "--workdirr", "w"], "did you mean --workdir?"),
    (["--config", "x", "--work", "w"], "--work is not an option"),
    (["--config", "x", "stray"], "stray is not an option"),
    (["--config", "x", "--format", "jpg"], "jpg"),
    (["--workdir", "w"], "required: --config"),
    (["--config", "x", "--config.seed"], "--config.seed=VALUE"),
    (["--config", "x", "--config.seed", "--workdir"], "--config.seed=VALUE"),
  ],
)
def test_wrong_options(argv, line):
  with pytest.raises(UserError) as mistake:
    parser(overrides=True).parse(argv)
  assert line in str(mistake.value)
  assert "\n" not in str(mistake.value)


def test_a_command_without_a_config_refuses_overrides():
  with pytest.raises(UserError, match="not an option"):
    parser().parse(["--config", "x", "--config.a=1"])


def test_help_keeps_the_example(capsys):
  with pytest.raises(SystemExit) as end:
    parser().parse(["--help"])
  assert end.value.code == 0
  assert "\n  train --config kub.py" in capsys.readouterr().out

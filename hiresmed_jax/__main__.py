"""`hiresmed` and `python -m hiresmed_jax`: the commands, exit codes, and the way to each."""

import difflib
import importlib
from typing import NoReturn

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import cli

COMMANDS = {
  "prepare": "turn a folder of images, boxes and masks into records with a split and an audit",
  "train": "train a route of a config on prepared records; the same command again resumes",
  "synthesize": "put new lesions into backgrounds: images, twins without them, masks and labels",
  "reconstruct": "send images through a trained background model: what it gives back, as files",
  "evaluate": "compare images with real ones: tables with tests and protocols, lesions, readers",
  "explain": "show networks, cost, memory and departures from the paper, without running anything",
  "weights": "list, fetch and convert the published weights of the perceptual networks",
}


def main(argv: list[str]) -> int | None:
  """Runs the command that comes first, with the other arguments; without one, lists them.

  Raises:
    UserError: no such command; also what the command raises.
  """
  if argv and argv[0] in COMMANDS:
    code: int | None = importlib.import_module(f"hiresmed_jax.{argv[0]}").main(argv[1:])
    return code
  if argv and argv[0] not in ("-h", "--help", "help"):
    near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
    meant = f"did you mean {cli.program(near[0])}?" if near else f"{cli.program()} lists them"
    raise UserError(f"no command {argv[0]!r}; {meant}")
  width = max(map(len, COMMANDS))
  for name, line in COMMANDS.items():
    print(f"{cli.program(f'{name:<{width}}')}  {line}")
  print("\nexit codes")
  for status, meaning in cli.EXIT_CODES.items():
    print(f"  {status:>3}  {meaning}")
  return None


def console() -> NoReturn:
  """The script `hiresmed`."""
  cli.run(main)


if __name__ == "__main__":
  console()

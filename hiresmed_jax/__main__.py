"""`python -m hiresmed_jax`: the commands, one line each."""

import difflib

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import cli

COMMANDS = {
  "prepare": "turn a folder of images, boxes and masks into records with a split and an audit",
  "train": "train a route of a config on prepared records; the same command again resumes",
  "synthesize": "put new lesions into backgrounds: images, twins without them, masks and labels",
  "evaluate": "compare images with real ones: tables with tests and protocols, lesions, readers",
  "explain": "show networks, cost, memory and departures from the paper, without running anything",
  "weights": "list, fetch and convert the published weights of the perceptual networks",
}


def main(argv: list[str]) -> None:
  """Prints the list; any argument but a plea for help is a mistake, and the answer names a command.

  Raises:
    UserError: there was an argument.
  """
  if argv and argv[0] not in ("-h", "--help", "help"):
    near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
    if near:
      raise UserError(f"commands are modules: write python -m hiresmed_jax.{near[0]}")
    raise UserError(f"no command {argv[0]!r}; python -m hiresmed_jax lists the commands")
  width = max(map(len, COMMANDS))
  for name, line in COMMANDS.items():
    print(f"python -m hiresmed_jax.{name:<{width}}  {line}")


if __name__ == "__main__":
  cli.run(main)

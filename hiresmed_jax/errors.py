"""What is meant for the user's eyes: a mistake, a stop, text that a terminal can show."""


class UserError(Exception):
  """A mistake of the user's: one line that says what to do. Commands print it and exit with 2."""


GOES_ON = "the same command goes on from there"
ANEW = "nothing was written; the same command begins anew"


class Stopped(KeyboardInterrupt):
  """The command was asked to stop.

  Attributes:
    code: the exit status, 128 + the signal's number, as a shell reports it.
    agreed: whether all processes of the run stop here.
  """

  def __init__(self, code: int, *, step: int = 0, agreed: bool = False, then: str = GOES_ON):
    """`step`: of the checkpoint that was saved, 0: none; `then`: what the same command will do."""
    saved = f"; saved at step {step}" if step else ""
    super().__init__(f"stopped{saved}: {then}")
    self.code, self.agreed = code, agreed


def counted(number: int, what: str) -> str:
  """A number and what it counts: "1 image", "2 images"."""
  return f"{number:,} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
  """Text of others, such as a file's name, without what steers a terminal or is not UTF-8."""
  text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
  return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

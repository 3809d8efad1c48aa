"""The one exception that is meant for the user's eyes."""


class UserError(Exception):
  """A mistake of the user's: one line that says what to do. Commands print it and exit with 2."""

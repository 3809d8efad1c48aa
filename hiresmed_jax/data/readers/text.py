"""Label files and tables as text: encodings, XML and the dialects of CSV, opened safely."""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from hiresmed_jax import files

MAX_FILE_BYTES = 1 << 30
_COMMENTS = re.compile(r"\A(#.*\n|\s*\n)+")
# Three digits after a comma may as well be thousands.
_DECIMAL_COMMA = re.compile(r"-?\d+,(?!\d{3}$)\d+")


class BadBoxes(ValueError):
  """Labels that are refused. The message is the reason, for a user; it names no file."""


def text_of(path: Path, *, other: str = "") -> str:
  """A file as text: UTF-8, UTF-16 with its mark, or the encoding `other`.

  Raises:
    BadBoxes: it cannot be opened, or is none of these.
  """
  try:
    data = files.content(path, MAX_FILE_BYTES)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
      return data.decode("utf-16")
    try:
      return data.decode("utf-8-sig")
    except UnicodeDecodeError:
      if not other or b"\0" in data:
        raise
      return data.decode(other)
  except (OSError, UnicodeDecodeError):
    raise BadBoxes("cannot be opened as text") from None


def rows_of(path: Path) -> tuple[list[str], Iterator[Mapping[str, str | None]]]:
  """(header, rows) of a table with commas, semicolons or tabs, as Excel and others write it.

  Blank lines and those with # before the header are passed over. Where another sign than the comma
  parts the columns, a comma may be the decimal one: it becomes a point. Text that is not UTF-8 is
  read as Windows wrote it: a name that this garbles fits no image.

  Raises:
    BadBoxes: see `text_of`.
    csv.Error: from the rows too.
  """
  text = _COMMENTS.sub("", text_of(path, other="cp1252"))
  first, _, rest = text.partition("\n")
  named = re.fullmatch(r"sep=(.)\r?", first, re.IGNORECASE)
  text, first = (rest, rest.partition("\n")[0]) if named else (text, first)
  mark = named[1] if named else max(",;\t", key=first.count)
  reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)
  header = list(reader.fieldnames or ())
  if mark == ",":
    return header, iter(reader)
  return header, ({k: _with_point(v) for k, v in row.items()} for row in reader)


def _with_point(text: str | None) -> str | None:
  plain = isinstance(text, str) and _DECIMAL_COMMA.fullmatch(text.strip())
  return text.replace(",", ".") if plain and text else text


def xml_of(path: Path) -> ElementTree.Element:
  """The root of an XML file, its tags without namespaces. Raises BadBoxes: see `parse_xml`."""
  try:
    root = parse_xml(files.content(path, MAX_FILE_BYTES))
  except OSError:
    raise BadBoxes("cannot be opened as text") from None
  for element in root.iter():
    element.tag = element.tag.rpartition("}")[2]
  return root


def parse_xml(data: bytes) -> ElementTree.Element:
  """The root of an XML document without a document type, and so without entities to expand.

  Raises:
    BadBoxes: not XML, or a document type declaration.
  """

  def refuse(*_: object) -> None:
    raise BadBoxes("is XML with a document type declaration, which is not read")

  parser = expat.ParserCreate()
  parser.StartDoctypeDeclHandler = refuse
  try:
    parser.Parse(data, True)
    return ElementTree.fromstring(data)
  except (expat.ExpatError, ElementTree.ParseError, ValueError, RecursionError) as error:
    if isinstance(error, BadBoxes):
      raise
    raise BadBoxes("is not well-formed XML") from None


def number_of(value: object, where: str) -> float:
  """A finite number of a label. Raises BadBoxes for anything else."""
  if isinstance(value, (str, int, float)) and not isinstance(value, bool):
    try:
      number = float(value)
    except (ValueError, OverflowError):
      number = math.nan
    if math.isfinite(number):
      return number
  raise BadBoxes(f"{where} holds something that is not a finite number")


def size_of(value: object, what: str) -> int:
  """A width or height that a label declares. Raises BadBoxes."""
  number = number_of(value, f"the image's {what}")
  if number < 1 or number != int(number):
    raise BadBoxes(f"gives an image {what} of {number:g}")
  return int(number)

from pathlib import Path

import pytest

from hiresmed_jax.data.readers.text import BadBoxes, rows_of, text_of, xml_of


@pytest.mark.parametrize(
  ("text", "encoding"),
  [
    ("name,x,é\na b,3.5,1\n", "utf-8-sig"),
    ("name,x,é\r\na b,3.5,1\r\n", "utf-16"),
    ("name;x;é\na b;3,5;1\n", "cp1252"),
    ("sep=;\nname;x;é\na b;3,5;1\n", "utf-8"),
    ("name\tx\té\na b\t3.5\t1\n", "utf-8"),
    ('name,x,é\n"a b",3.5,1\n', "utf-8"),
  ],
)
def test_tables_as_programs_write_them(tmp_path: Path, text: str, encoding: str) -> None:
  (tmp_path / "a.csv").write_bytes(text.encode(encoding))
  header, rows = rows_of(tmp_path / "a.csv")
  assert header == ["name", "x", "é"]
  assert list(rows) == [{"name": "a b", "x": "3.5", "é": "1"}]


def test_thousands_and_names_with_commas_stay(tmp_path: Path) -> None:
  (tmp_path / "a.csv").write_text("name;x\na,b;1,024\n")
  assert list(rows_of(tmp_path / "a.csv")[1]) == [{"name": "a,b", "x": "1,024"}]


def test_what_is_no_text(tmp_path: Path) -> None:
  (tmp_path / "a").write_bytes(b"\x00\xff\x81")
  for read in (text_of, rows_of):
    with pytest.raises(BadBoxes):
      read(tmp_path / "a")
  (tmp_path / "a").write_bytes("größe".encode("latin-1"))
  with pytest.raises(BadBoxes):
    text_of(tmp_path / "a")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_xml_of_any_encoding_and_namespace(tmp_path: Path, encoding: str) -> None:
  text = f'<?xml version="1.0" encoding="{encoding}"?><a xmlns="http://x"><b>größe</b></a>'
  (tmp_path / "a.xml").write_bytes(text.encode(encoding))
  assert xml_of(tmp_path / "a.xml").findtext("b") == "größe"

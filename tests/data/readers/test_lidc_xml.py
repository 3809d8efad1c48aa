import re
from pathlib import Path

import numpy as np
import pytest

from hiresmed_jax.data.readers.lidc_readings import read
from hiresmed_jax.data.sample import Unreadable
from tests.data.readers.lidc_series import SERIES, message, nodule, other, point, uid

RING = np.array([[3, 2], [4, 3], [3, 4], [2, 3], [3, 2]])


def write(path: Path, text: str) -> Path:
  path.write_text(text)
  return path


@pytest.mark.parametrize("namespace", ['xmlns="http://www.nih.gov"', "", 'xmlns="urn:other"'])
def test_what_the_readers_drew(tmp_path: Path, namespace: str) -> None:
  drawn = nodule([(4, RING, True), (5, RING + 1, False)])
  text = message([[drawn, other(2, 9, 8)], [point(3, 7, 6)], [], []], namespace=namespace)
  reading = read(write(tmp_path / "069.xml", text))
  assert reading.series_uid == SERIES
  assert [len(reader) for reader in reading.readers] == [1, 1, 0, 0]
  first, second = reading.readers[0][0]
  assert (first.sop_uid, first.z, first.inclusion) == (uid(4), 20.0, True)
  assert (second.sop_uid, second.inclusion) == (uid(5), False)
  np.testing.assert_array_equal(first.points, RING)
  assert not first.is_point
  assert reading.readers[1][0][0].is_point


def test_a_prefix_and_other_capitals(tmp_path: Path) -> None:
  text = message([[nodule([(4, RING, True)])]], namespace='xmlns:a="http://www.nih.gov"')
  text = re.sub(r"<(/?)(?=[A-Za-z])", r"<\1a:", text).replace("InstanceUid", "InstanceUID")
  assert len(read(write(tmp_path / "a.xml", text)).readers[0][0][0].points) == 5


BOMB = '<!DOCTYPE a [<!ENTITY b "xxxxxxxxxx"><!ENTITY c "&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda t: t.replace("<LidcReadMessage", BOMB + "<LidcReadMessage"), "document type"),
    (lambda t: t.replace("LidcReadMessage", "IdriReadMessage"), "of a radiograph"),
    (lambda t: t.replace("LidcReadMessage", "annotation"), "no LIDC reading"),
    (lambda t: t.replace(SERIES + "<", "<"), "of which series"),
    (lambda t: t[:-20], "not well-formed"),
    (lambda t: "", "is empty"),
    (lambda t: t.replace("<xCoord>3<", "<xCoord>-3<"), "no pixel"),
    (lambda t: t.replace("<xCoord>3<", "<xCoord>3.5<"), "no pixel"),
    (lambda t: t.replace("<xCoord>3<", "<xCoord>1e9<"), "no pixel"),
    (lambda t: t.replace("<xCoord>3<", "<xCoord>nan<"), "no pixel"),
    (lambda t: re.sub("<edgeMap>.*</edgeMap>", "", t), "without points"),
    (lambda t: t.replace(">TRUE<", ">MAYBE<"), "neither inclusion nor exclusion"),
    (lambda t: re.sub("<image(Z|SOP).*?</image.*?>", "", t), "on no slice"),
  ],
)
def test_what_is_not_believed(tmp_path: Path, change, says: str) -> None:
  text = change(message([[nodule([(4, RING, True)])]]))
  with pytest.raises(Unreadable, match=says):
    read(write(tmp_path / "a.xml", text))


def test_a_missing_file(tmp_path: Path) -> None:
  with pytest.raises(Unreadable, match="cannot be opened"):
    read(tmp_path / "none.xml")


def test_the_real_files(shared: Path) -> None:
  paths = sorted((shared / "data" / "lidc_xml").glob("*.xml"))
  readings = [read(path) for path in paths]
  assert len({reading.series_uid for reading in readings}) == len(paths) == 24
  assert {len(reading.readers) for reading in readings} == {4}
  nodules = [n for reading in readings for reader in reading.readers for n in reader]
  contours = [contour for one in nodules for contour in one]
  # Counted in the text, without an XML parser.
  text = "".join(path.read_text() for path in paths)
  assert len(nodules) == text.count("<unblindedReadNodule>") == 819
  assert len(contours) == text.count("<roi>") == 1586
  assert sum(not contour.inclusion for contour in contours) == text.count(">FALSE<") == 4
  assert sum(len(contour.points) for contour in contours) == text.count("<edgeMap>") == 35507
  assert sum(all(contour.is_point for contour in one) for one in nodules) == 531

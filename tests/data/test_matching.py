"""Random layouts with a known truth: never a wrong pairing, never a silent loss."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.data import matching
from hiresmed_jax.data.matching import match
from hiresmed_jax.errors import UserError

STEMS = ("IM0001", "IM0002", "im0001", "Müller 3", "Снимок-7", "画像04", "صورة", "a.b", "x_1")
FOLDERS = ("p0", "p1", "Ärzte", "患者", "site/p0", "")
SUFFIXES = (".png", ".PNG", ".jpg", ".dcm", ".IMA", ".nii.gz", "")
PREFIXES = ("", "images/", "./", "/data/upload/1/", "C:\\label\\", "..\\labels\\")


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[str], list[str], list[int | None]]:
  """(images, names of labels, the image that each was made for; None: of no image that is here)."""
  everything = [f"{f}/{s}".strip("/") for f in FOLDERS for s in STEMS]
  plain = draw(st.lists(st.sampled_from(everything), min_size=1, max_size=8, unique=True))
  images = [name + draw(st.sampled_from(SUFFIXES)) for name in plain]
  names: list[str] = []
  truth: list[int | None] = []
  for number, name in enumerate(plain):
    how = draw(st.sampled_from(("whole", "stem", "bare", "mask", "case", "other", "none")))
    if how == "none":
      continue
    label = images[number] if draw(st.booleans()) else name
    if how == "bare":
      label = label.rpartition("/")[2]
    if how == "mask":
      label = f"{name}_mask"
    if how == "case":
      label = label.swapcase()
    label = draw(st.sampled_from(PREFIXES)) + label if how in ("whole", "stem") else label
    # A path of elsewhere may end in an image that lies in no folder: then it means that one.
    last = name.rpartition("/")[2]
    if how == "other" and last.casefold() not in {one.casefold() for one in plain}:
      label, number = f"elsewhere 2/{name.rpartition('/')[2]}", None
    if draw(st.booleans()):
      label = label.replace("/", "\\")
    names.append(unicodedata.normalize(draw(st.sampled_from(("NFC", "NFD"))), label))
    truth.append(number)
  return images, names, truth


@given(layout=layouts())
def test_never_a_wrong_pairing_and_never_a_silent_loss(
  layout: tuple[list[str], list[str], list[int | None]],
) -> None:
  images, names, truth = layout
  found = match(names, images)
  accounted = [*found.found.values(), *found.ambiguous, *found.unused]
  assert sorted(accounted) == list(range(len(names)))
  for (image, page), name in found.found.items():
    assert page is None
    if image == truth[name]:
      continue
    # Only where the name, in its own case, is that of the other image as well.
    label, other = (
      "/" + matching.stem_of(unicodedata.normalize("NFC", text).replace("\\", "/").lstrip("./"))
      for text in (names[name], images[image])
    )
    assert label.endswith(other) or other.endswith(label)


@given(stems=st.lists(st.sampled_from(STEMS), min_size=1, max_size=6, unique=True),
       prefix=st.sampled_from(PREFIXES), form=st.sampled_from(("NFC", "NFD")))  # fmt: skip
def test_whole_paths_are_all_found(stems: list[str], prefix: str, form: str) -> None:
  images = [f"p{n % 2}/{stem}.png" for n, stem in enumerate(stems)]
  names = [unicodedata.normalize(form, prefix + image) for image in images]
  found = match(names, images)
  assert found.found == {(n, None): n for n in range(len(images))}


@pytest.mark.parametrize(
  ("names", "images", "found", "ambiguous", "unused"),
  [
    # Three patients whose image is called the same.
    (["IM0001"], ["p0/IM0001.png", "p1/IM0001.png"], {}, [0], []),
    (["p1/IM0001"], ["p0/IM0001.png", "p1/IM0001.png"], {(1, None): 0}, [], []),
    (["p2/IM0001"], ["p0/IM0001.png", "p1/IM0001.png"], {}, [], [0]),
    # One image of another patient is no match, though its name is the only one.
    (["p1/IM0001"], ["p0/IM0001.png"], {}, [], [0]),
    (["/data/valid/a.png"], ["train/a.png"], {}, [], [0]),
    (["/data/upload/1/a.png"], ["set/a.png", "set/b.png"], {(0, None): 0}, [], []),
    (["txt/a", "txt/b"], ["dcm/a.dcm", "dcm/b.dcm"], {(0, None): 0, (1, None): 1}, [], []),
    (["txt/a", "txt/b"], ["dcm/x/a.dcm", "mr/b.dcm"], {}, [], [0, 1]),
    # Two files of one stem.
    (["a"], ["a.png", "a.jpg"], {}, [0], []),
    (["a.jpg"], ["a.png", "a.jpg"], {(1, None): 0}, [], []),
    # Two labels of one image; the exact one wins.
    (["a", "A"], ["a.png"], {(0, None): 0}, [], [1]),
    (["x/a", "y/a"], ["a.png"], {}, [0, 1], []),
    (["train/labels/a", "valid/labels/a"], ["train/images/a.jpg", "valid/images/a.jpg"],
     {(0, None): 0, (1, None): 1}, [], []),
    (["kidney_001"], ["imagesTr/kidney_001_0000.nii.gz"], {(0, None): 0}, [], []),
    (["stack#2", "stack#0"], ["stack.tif"], {(0, 2): 0, (0, 0): 1}, [], []),
    (["a1b2c3d4-case 1.png"], ["case 1.png"], {(0, None): 0}, [], []),
    (["img0"], ["img0.dicom"], {(0, None): 0}, [], []),
    (["1.2.840.1"], ["1.2.840.1", "1.2.840.10"], {(0, None): 0}, [], []),
  ],
)  # fmt: skip
def test_what_a_name_means(names, images, found, ambiguous, unused) -> None:
  assert match(names, images) == (found, ambiguous, unused)


def test_lost_labels_are_an_error() -> None:
  _, use = matching.attach("abcdefghij", [f"{c}.txt"[:1] for c in "abcdefghij"],
                           [f"{c}.png" for c in "abcdefghi"], "labels")  # fmt: skip
  use.check()  # one of ten
  _, use = matching.attach("ab", ["a", "b"], ["a.png", "c.png"], "labels")
  with pytest.raises(UserError, match=r"1 of 2 labels are used: 1 fit none \(b\)"):
    use.check()
  for lost in (matching.Use("labels", 0, (), ()), matching.Use("labels", 1, ("a",), ())):
    with pytest.raises(UserError):
      lost.check()


def test_many_images_of_one_name_are_matched_without_a_search() -> None:
  images = [f"p{n:05d}/study/IM0001.png" for n in range(10_000)]
  names = [f"p{n:05d}/study/IM0001" for n in range(10_000)]
  began = time.process_time()
  assert len(match(names, images).found) == 10_000
  assert time.process_time() - began < 10  # some 1 s; each against each takes minutes

"""Images as they were asked for, over hundreds of random requests."""

import collections
import dataclasses

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage

from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.lesions.parametric import Lumps
from hiresmed_jax.lesions.patch import NoLesion, SourceEmpty
from hiresmed_jax.synthesis import fitting, folder, image, shams
from hiresmed_jax.synthesis.request import Diameter
from tests.synthesis import drawn

MODES = ("paper", "feather", "poisson", "ct", "projection", None)
# What a request that cannot be met may be answered with.
KNOWN = (
  "no room",
  "no lesion of that diameter",
  "would lie on what is forbidden",
  "would reach beyond",
  "would lie too near",
  "outside the image",
  "too few with room",
  "on forbidden tissue",
  "no place is calm enough",
)
HEIGHT, WIDTH = drawn.SHAPE


def make(setting, index):
  return image.make(setting, index, jax.devices()[0])


@st.composite
def requests(draw):
  least = draw(st.integers(1, 3))
  points = st.tuples(st.floats(-3, WIDTH + 3), st.floats(-3, HEIGHT + 3))
  low = draw(st.floats(4, 8))
  blocked = [draw(st.integers(0, n - 20)) for n in drawn.SHAPE]
  return {
    "physics": draw(st.sampled_from(("none", "ct", "projection"))),
    "index": draw(st.integers(0, 1000)),
    "existing": draw(st.sampled_from(("inpaint", "label"))),
    "block": draw(st.sampled_from((None, blocked))),
    "request": {
      "lesions": (least, draw(st.integers(least, 3))),
      "diameter": draw(
        st.sampled_from((None, None, Diameter(low, low + 2, "px"), Diameter(low, low, "px")))
      ),
      "at": tuple(draw(st.lists(points, max_size=1))) if draw(st.booleans()) else (),
      "seed": draw(st.integers(0, 2**32 - 1)),
      "blend": draw(st.sampled_from(MODES)),
      "paper": draw(st.sampled_from((False, False, False, True))),
      "shams": draw(st.sampled_from((0, 0, 1))),
      "source": draw(st.sampled_from(("copy", "parametric"))),
    },
  }


def of(prepared, wish):
  data, found = prepared[wish["physics"]]
  blocked = None
  if wish["block"]:
    blocked = np.zeros(drawn.SHAPE, bool)
    row, column = wish["block"]
    blocked[row : row + 20, column : column + 20] = True
  values = {"existing": wish["existing"]}
  return drawn.setting(data, found, user_mask=blocked, values=values, **wish["request"])


@pytest.mark.slow
def test_every_request_is_met_or_refused_in_a_line(prepared):
  told = collections.Counter()

  @hypothesis.settings(max_examples=250, derandomize=True)
  @hypothesis.given(requests())
  def check(wish):
    setting = of(prepared, wish)
    try:
      made = make(setting, wish["index"])
    except UserError as mistake:
      told[next((line for line in KNOWN if line in str(mistake)), str(mistake))] += 1
      return
    told["made"] += 1
    expect_what_was_asked(setting, made, wish)

  check()
  assert set(told) <= {*KNOWN, "made"}
  assert told["made"] > 150


def expect_what_was_asked(setting, made, wish):
  request, facts = setting.request, made.facts["lesions"]
  new = [fact for fact in facts if fact["kind"] != "own"]
  low, high = request.lesions
  assert low <= len(new) <= high
  assert sorted(set(np.unique(made.mask)) - {0}) == [fact["id"] for fact in facts]
  assert len(made.boxes) == len(facts)
  assert (wish["existing"] == "label") == (len(facts) > len(new))
  for number, fact in enumerate(new):
    mine = made.mask == fact["id"]
    rows, columns = np.nonzero(mine)
    centre = np.array([columns.mean(), rows.mean()]) + 0.5
    np.testing.assert_allclose(centre, fact["centre"], atol=1e-4)
    if number < len(request.at):
      assert np.hypot(*(centre - request.at[number])) < 1
    size = 2 * np.sqrt(mine.sum() / np.pi)
    assert size == pytest.approx(fact["diameter_px"])
    if request.diameter:
      asked = fact["diameter_asked_px"]
      assert request.diameter.low <= asked <= request.diameter.high
      assert abs(size - asked) <= (0.5 if asked < 10 else 0.05 * asked)
    assert ndimage.label(mine, np.ones((3, 3)))[1] == 1
    x1, y1, x2, y2 = fact["tight_box"]
    assert mine[int(y1) : int(y2), int(x1) : int(x2)].sum() == mine.sum()
    if request.paper:  # it asks for the centre alone
      continue
    assert not (mine & (made.canvas.forbidden_mask > 0)).any()
    assert not (mine & ~made.canvas.content).any()
    if setting.user_mask is not None:
      assert not (mine & setting.user_mask).any()
  beyond = ndimage.distance_transform_edt(made.mask == 0) > 4
  np.testing.assert_array_equal(made.image[beyond], made.twin[beyond])
  assert (made.image != made.twin).any()
  assert made.image.dtype == made.twin.dtype == made.item["image"].dtype
  assert (made.sham_mask is not None) == (request.shams > 0)


def test_a_background_whose_own_labels_cover_each_other_is_not_used(tmp_path):
  first, second = (
    drawn.sample(seed, group, masks=False) for seed, group in enumerate(drawn.groups("train", 2))
  )
  twice = dataclasses.replace(first, boxes=first.boxes[[0, 0]])  # two labels of one lesion
  records.write_dataset([twice, second], tmp_path / "data", kind="phantom", name="drawn")
  data = records.open_dataset(tmp_path / "data")
  setting = drawn.setting(data, values={"existing": "label"})
  tried = 0
  for index in range(4):
    made = make(setting, index)
    np.testing.assert_array_equal(made.item["boxes"], second.boxes)
    expect_what_was_asked(setting, made, {"existing": "label"})
    tried += sum("covered by another" in one["why"] for one in made.facts["background"]["attempts"])
  assert tried


def test_the_same_index_gives_the_same_image_and_another_another(prepared):
  setting = drawn.setting(*prepared["none"], shams=1)
  one, again, other = (make(setting, index) for index in (5, 5, 6))
  np.testing.assert_array_equal(one.image, again.image)
  assert one.facts == again.facts or str(one.facts) == str(again.facts)  # NaN is not NaN
  assert not np.array_equal(one.mask, other.mask)


def test_without_lesions_nothing_is_left_of_the_source_s_own(prepared):
  data, found = prepared["none"]
  made = make(drawn.setting(data, found), 0)
  own = made.item["lesion_mask"] > 0
  before = made.item["image"][..., 0].astype(float)
  ring = ndimage.binary_dilation(own, iterations=6) & ~ndimage.binary_dilation(own, iterations=3)
  was = before[own].mean() - before[ring].mean()
  left = made.twin[..., 0].astype(float)[own].mean() - made.twin[..., 0].astype(float)[ring].mean()
  assert was > 50
  assert abs(left) < 0.1 * was


def test_own_lesions_that_are_kept_are_labelled_and_not_in_the_twin(prepared):
  made = make(drawn.setting(*prepared["none"], values={"existing": "label"}), 0)
  own = [fact for fact in made.facts["lesions"] if fact["kind"] == "own"]
  assert len(own) == 2
  for fact in own:
    mine = made.mask == fact["id"]
    assert made.item["lesion_mask"][mine].min() > 0
    assert fact["contrast"] > 40


def test_millimetres(prepared):
  wish = {"diameter": Diameter(6.4, 6.4, "mm"), "lesions": (1, 1)}
  setting = drawn.setting(*prepared["projection"], **wish)
  (fact,) = make(setting, 0).facts["lesions"]
  assert fact["diameter_asked_px"] == pytest.approx(8.0, rel=1e-6)
  assert fact["diameter_mm"] == pytest.approx(6.4, abs=0.4)


@pytest.mark.parametrize("source", ["copy", "parametric"])
def test_finer_pixels_get_the_sizes_that_donors_of_more_pixels_can_have(prepared, source):
  setting = drawn.setting(*prepared["projection"], source=source)  # of 0.8 mm
  scene, rng = canvas.real(setting.source[0]), np.random.default_rng(0)
  native = setting.lesions.native_px
  for spacing_mm in (0.8, 0.5):
    fitted = fitting.draw(
      setting.lesions, rng, scene._replace(spacing_mm=(spacing_mm, spacing_mm)), None
    )
    found_mm = 2 * np.sqrt(fitted.mask.sum() / np.pi) * spacing_mm
    assert 0.8 * native.min() * 0.85 < found_mm < 0.8 * native.max() * 1.15
    assert fitted.patch.diameter_px <= 1.4 * native.max() * 1.05
  with pytest.raises(NoLesion, match=r"differ by more than 0\.7 to 1\.4 times"):
    fitting.draw(setting.lesions, rng, scene._replace(spacing_mm=(0.1, 0.1)), None)


@pytest.mark.parametrize(
  ("changes", "line"),
  [
    ({"diameter": Diameter(50, 50, "px")}, "no lesion of that diameter"),
    ({"at": ((500.0, 3.0),)}, "lies outside the image"),
    ({"at": ((95.0, 44.0),), "lesions": (1, 1)}, "forbidden|beyond"),
    ({"lesions": (90, 90)}, "no room for 90 lesions"),
  ],
)
def test_what_cannot_be_is_said(prepared, changes, line):
  with pytest.raises(UserError, match=line):
    make(drawn.setting(*prepared["none"], **changes), 0)


def test_a_mask_of_another_size_is_said(prepared):
  setting = drawn.setting(*prepared["none"], user_mask=np.zeros((4, 9), bool))
  with pytest.raises(UserError, match=f"--mask is of 9 x 4 pixels, .* of {WIDTH} x {HEIGHT}"):
    make(setting, 0)


def test_a_donor_that_is_not_of_the_training_split_is_refused(prepared):
  data, found = prepared["none"]
  setting = drawn.setting(data, found._replace(groups=frozenset({"another"})))
  with pytest.raises(UserError, match="not of this dataset's training split"):
    make(setting, 0)


class Empty:
  """Gives copies, and none at every other draw."""

  def __init__(self, found):
    self.copies, self.draws = Copies(found.patches), 0

  def draw(self, rng, diameter_px=None):
    self.draws += 1
    if self.draws % 2 == 0:
      raise SourceEmpty("the bank gave no lesion", "do something else")
    return self.copies.draw(rng, diameter_px)


def test_where_the_bank_gives_none_another_source_does_and_it_is_labelled(
  prepared, tmp_path, monkeypatch
):
  data, found = prepared["ct"]
  monkeypatch.setattr(shams, "faintest", lambda *_: 0.0)  # every lesion is drawn once
  wish = {"source": "singan", "on_empty": "parametric", "lesions": (3, 3)}
  setting = drawn.setting(data, found, **wish)._replace(
    lesions=Empty(found), substitute=Lumps.fit(found.patches)
  )
  made = make(setting, 0)
  facts = made.facts["lesions"]
  assert [fact["kind"] for fact in facts] == ["copy", "parametric", "copy"]
  why = [None, "the bank gave no lesion", None]
  assert [fact["substitute_because"] for fact in facts] == why
  expect_what_was_asked(setting, made, {"existing": "inpaint"})
  # Its outline, box and pixels are those of any other lesion.
  mine = made.mask == facts[1]["id"]
  assert np.abs(made.image - made.twin.astype(float))[mine].mean() > 10
  assert made.boxes[1] == tuple(facts[1]["tight_box"])
  folder.claim(tmp_path / "out", {})
  folder.write(tmp_path / "out", made, setting, token="token")
  assert folder.substitutes(folder.gather(tmp_path / "out", setting)) == (1, 3)

  with pytest.raises(SourceEmpty, match="the bank gave no lesion: do something else"):
    make(setting._replace(lesions=Empty(found), substitute=None), 0)

import json
from typing import NamedTuple

import numpy as np
import pytest
from scipy import ndimage

from hiresmed_jax import files
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import bank, sampling
from hiresmed_jax.lesions.patch import LesionPatch, centroid
from hiresmed_jax.ops.insertion_parts import TAIL_PX
from tests.lesions import drawn

# Windows that are smaller than real ones: few levels, which compile soon.
SMALL = [drawn.patch(d, side=24, seed=i) for i, d in enumerate((5.0, 6.0, 8.0))]
LARGE = [drawn.patch(13.0, side=32, seed=3, physics="projection")]


@pytest.fixture(scope="module")
def groups():
  return [drawn.bank_group(SMALL), drawn.bank_group(LARGE)]


@pytest.fixture(scope="module")
def repeating(groups):
  """A bank that gives its training lesions' shapes back."""
  return bank.Bank(groups, start=1)


def test_training_images_come_back_as_they_were():
  for patch in SMALL + LARGE:
    image = bank.training_image(patch)
    assert image.shape == (*patch.alpha.shape, 2)
    made = bank.as_patch(image, bank.member_of(patch))
    np.testing.assert_allclose(made.values, patch.values, atol=1e-3)
    np.testing.assert_array_equal(made.mask, patch.mask)
    assert made.kind == "singan"
    for field in ("diameter_px", "spacing_mm", "physics", "donor", "donor_group", "value_range"):
      assert getattr(made, field) == getattr(patch, field)
    far = ndimage.distance_transform_edt(~made.mask) > TAIL_PX + 1
    np.testing.assert_array_equal(made.values[far], made.surround[far])
    # The disc is gone from the surround.
    assert np.abs(made.surround[made.mask].mean() - patch.surround.mean()) < 5


def shaped(alpha, member):
  image = bank.training_image(SMALL[2])
  image[..., -1] = 2 * alpha - 1
  return bank.as_patch(image, member)


def test_samples_that_are_no_lesions_say_why():
  member = bank.member_of(SMALL[2])
  nothing = np.zeros((24, 24), np.float32)
  assert shaped(nothing, member) == "empty"
  aside = drawn.disc(24, 8.0, (4, 4), 0.8)
  assert shaped(aside, member) == "empty"
  long = nothing.copy()
  long[9:15] = 1
  assert shaped(long, member) == "at the border"
  assert shaped(np.ones_like(nothing), member) == "at the border"
  assert shaped(drawn.disc(24, 13.0, (12, 12), 0.8), member) == "other size"
  assert shaped(drawn.disc(24, 4.0, (12, 12), 0.8), member) == "other size"
  both = np.maximum(drawn.disc(24, 8.0, (12, 12), 0.8), aside)
  made = shaped(both, member)
  np.testing.assert_array_equal(made.mask, drawn.disc(24, 8.0, (12, 12), 0.8) >= 0.5)
  assert not made.alpha[:6, :6].any()  # the other one is no part of it


def test_a_mask_beside_the_lesion_that_is_seen_is_no_sample():
  member = bank.member_of(SMALL[2])
  assert member.overlap == pytest.approx(1.0, abs=0.2)
  beside = drawn.disc(24, 8.0, (12, 15), 0.8)
  assert shaped(beside, member) == "beside its mask"
  # Members of older files have no overlap to compare with.
  assert isinstance(shaped(beside, member._replace(overlap=0.0)), LesionPatch)
  # A bone beside the lesion is not part of it.
  image = bank.training_image(SMALL[2])
  image[:, :4, 0] = image[..., 0].max()
  assert isinstance(bank.as_patch(image, member), LesionPatch)


def test_a_mask_that_fits_badly_is_drawn_where_the_lesion_is_seen():
  member = bank.member_of(SMALL[2])
  image = bank.training_image(SMALL[2])
  kept = bank.as_patch(image, member)
  np.testing.assert_array_equal(kept.mask, SMALL[2].mask)
  image[..., 1] = np.roll(image[..., 1], 1, axis=1)  # the mask a pixel off
  mended = bank.as_patch(image, member)
  assert np.count_nonzero(mended.mask ^ SMALL[2].mask) <= 0.15 * np.count_nonzero(SMALL[2].mask)
  assert bank.seen_overlap(mended.values.mean(-1), mended.mask) > 0.9
  # Where people draw masks that are not what is seen, they stay as they were made.
  left = bank.as_patch(image, member._replace(overlap=0.45))
  np.testing.assert_array_equal(left.mask, np.roll(SMALL[2].mask, 1, axis=1))


def test_a_lesion_that_does_not_reach_the_middle_is_no_sample():
  member = bank.member_of(SMALL[2])._replace(overlap=0.0, diameter_px=12.0)
  aside = np.zeros((24, 24), np.float32)
  aside[5:19, 15:20] = 1.0
  assert shaped(aside, member) == "beside the middle"
  aside[5:19, 13:20] = 1.0
  assert isinstance(shaped(aside, member), LesionPatch)


def test_values_stay_within_those_of_the_donor():
  patch = SMALL[2]
  image = bank.training_image(patch)
  image[..., 0] = 5 * image[..., 0]
  made = bank.as_patch(image, bank.member_of(patch)._replace(overlap=0.0))
  assert made.values.min() >= patch.values.min()
  assert made.values.max() <= patch.values.max()


@pytest.mark.parametrize("wanted", [3.9, 5.0, 7.3, 10.5, 14.0, 17.0])
def test_a_diameter_asked_for_is_met(repeating, wanted):
  for seed in range(3):
    made = repeating.draw(np.random.default_rng(seed), wanted)
    assert abs(made.diameter_px - wanted) <= drawn.tolerance(wanted)
    assert np.hypot(*(np.array(centroid(made.mask)) - made.alpha.shape[0] / 2)) <= 1
    assert made.kind == "singan"


def test_no_lesion_of_that_diameter(repeating):
  with pytest.raises(UserError, match="no lesion of that diameter"):
    repeating.draw(np.random.default_rng(0), 40.0)


def test_what_is_thrown_away_is_counted_and_the_end_is_a_line(groups):
  # Of no noise these generators make a flat image: all of it would be lesion.
  silent = groups[0].generators._replace(fixed=0 * groups[0].generators.fixed)
  noisy = bank.Bank([groups[0]._replace(generators=silent)], start=1)
  with pytest.raises(
    UserError, match=r"no lesion in 96 tries \(at the border 96\): train it longer"
  ) as error:
    noisy.draw(np.random.default_rng(0))
  assert "\n" not in str(error.value)
  assert sum(noisy.rejected.values()) == 96
  assert "accepted" not in noisy.rejected


def test_a_bank_comes_back_from_its_folder_with_the_same_bytes(repeating, tmp_path):
  (first, *others), last = repeating.groups[0].members, repeating.groups[1]
  measured = repeating.groups[0]._replace(members=(first._replace(accepted=0.75), *others))
  dropped = bank.member_of(SMALL[0])._replace(accepted=0.0)
  bank.save(tmp_path / "lesion", [measured, last], start=1, left_out=[dropped])
  opened = bank.load(tmp_path / "lesion")
  assert opened.members[0].accepted == 0.75
  assert np.isnan([member.accepted for member in opened.members[1:]]).all()
  facts = json.loads((tmp_path / "lesion" / bank.FACTS).read_text())
  assert [(one["donor"], one["accepted"]) for one in facts["left_out"]] == [("donor0", 0.0)]
  expected = [first._replace(accepted=0.75), *others, *last.members]
  assert str(opened.members) == str(expected)  # NaN is never equal
  assert opened.start == 1
  assert [g.pyramid for g in opened.groups] == [g.pyramid for g in repeating.groups]
  for wanted in (None, 6.5):
    made = [b.draw(np.random.default_rng(5), wanted) for b in (repeating, repeating, opened)]
    assert len({m.values.tobytes() + m.alpha.tobytes() for m in made}) == 1
  assert {p.name for p in (tmp_path / "lesion").iterdir()} == {
    bank.WEIGHTS,
    bank.FACTS,
    files.DIGESTS,
  }


def test_sampling_is_compiled_once_for_a_window_size(repeating):
  rng = np.random.default_rng(0)
  for number in (0, 3):
    repeating.sample(number, 0)
  programs = sampling.sample._cache_size()
  for _ in range(6):
    repeating.draw(rng)
  assert sampling.sample._cache_size() == programs


def test_a_bank_of_before_a_field_was_added_has_its_default(groups, tmp_path, monkeypatch):
  bank.save(tmp_path, groups, start=0)
  fields = [*bank.Member.__annotations__.items(), ("sharpness", float)]
  later = NamedTuple("Member", fields)
  later.__new__.__defaults__, later._field_defaults = (0.5,), {"sharpness": 0.5}
  monkeypatch.setattr(bank, "Member", later)
  members = bank.load(tmp_path).members
  assert {member.sharpness for member in members} == {0.5}
  assert [member.diameter_px for member in members] == [p.diameter_px for p in SMALL + LARGE]


def test_no_bank_and_a_damaged_one_are_one_line(groups, tmp_path):
  with pytest.raises(UserError, match="no bank of lesions in"):
    bank.load(tmp_path)
  bank.save(tmp_path, groups, start=0)
  facts = json.loads((tmp_path / bank.FACTS).read_text())
  weights = (tmp_path / bank.WEIGHTS).read_bytes()
  (tmp_path / bank.WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
  with pytest.raises(UserError, match=r"bank.safetensors is damaged.*train the lesion route again"):
    bank.load(tmp_path)
  (tmp_path / bank.WEIGHTS).write_bytes(weights)
  (tmp_path / files.DIGESTS).unlink()
  for damage in (
    {**facts, "groups": [{}]},
    {**facts, "groups": [{**facts["groups"][0], "members": []}]},
    {"version": 1},
    [],
  ):
    (tmp_path / bank.FACTS).write_text(json.dumps(damage))
    with pytest.raises(UserError, match="damaged"):
      bank.load(tmp_path)
  (tmp_path / bank.FACTS).write_text(json.dumps({**facts, "version": 9}))
  with pytest.raises(UserError, match="newer version") as error:
    bank.load(tmp_path)
  assert "\n" not in str(error.value)
  (tmp_path / bank.FACTS).write_text(json.dumps(facts))
  (tmp_path / bank.WEIGHTS).write_bytes(weights[: len(weights) // 2])
  with pytest.raises(UserError, match="damaged"):
    bank.load(tmp_path)

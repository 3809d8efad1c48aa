"""Backgrounds are made once for all images of a seed, and kept within a number of bytes."""

import jax
import numpy as np
import pytest

from hiresmed_jax.synthesis import background, image
from hiresmed_jax.synthesis.mapped import Kept
from tests.synthesis import drawn

KB = 900  # with what is counted for an entry, 1,000


def made_of(setting, index):
  return image.make(setting, index, jax.devices()[0])


def test_those_that_were_not_used_for_longest_are_dropped():
  kept, made = Kept(3000), []

  def get(key):
    def make():
      made.append(key)
      return {"array": np.zeros(KB, np.uint8), "same": None}

    return kept.get(key, make)

  for key in (1, 2, 3, 1, 4, 1, 2):
    get(key)
  assert made == [1, 2, 3, 4, 2]
  with pytest.raises(ValueError, match="read-only"):
    get(1)["array"][0] = 1
  large = np.zeros(4000, np.uint8)
  assert kept.get(9, lambda: large) is large
  get(1)
  assert made[-1] == 2  # it did not push out the others
  nothing = Kept(0)
  nothing.get(0, lambda: None)
  assert len(nothing) == 0


def test_an_array_counts_once():
  kept, array = Kept(1000), np.zeros(KB, np.uint8)
  kept.get(0, lambda: [array, array])
  assert kept.get(0, lambda: None) is not None


@pytest.mark.parametrize("paper", [False, True])
def test_images_are_the_same_with_and_without_what_is_kept(prepared, paper):
  setting = drawn.setting(*prepared["ct"], paper=paper, lesions=(1, 1))
  keeping = setting._replace(kept=Kept(1 << 30))
  for index in (0, 1, 2, 0):
    bare, kept = (made_of(one, index) for one in (setting, keeping))
    np.testing.assert_array_equal(bare.image, kept.image)
    np.testing.assert_array_equal(bare.twin, kept.twin)
    np.testing.assert_array_equal(bare.mask, kept.mask)
  assert len(keeping.kept) == len({made_of(setting, i).item["image_id"] for i in range(3)})


def test_a_background_is_one_for_all_images_of_a_seed(prepared):
  setting = drawn.setting(*prepared["ct"], backgrounds=1, num=2)._replace(kept=Kept(1 << 30))
  first, second = (made_of(setting, index) for index in (0, 1))
  np.testing.assert_array_equal(first.twin, second.twin)
  assert (first.mask != second.mask).any()
  np.testing.assert_array_equal(first.image, made_of(setting, 0).image)
  other_seed = setting._replace(request=setting.request._replace(seed=1, backgrounds=6))
  others = [made_of(other_seed, index) for index in range(6)]
  (other,) = [made for made in others if made.item["image_id"] == first.item["image_id"]]
  assert (other.twin != first.twin).any()  # other noise where its lesions were


def test_backgrounds_that_cannot_be_used_are_not_tried_twice(prepared):
  tried = []

  class Nothing(background.Maker):
    def make(self, item, key, device):
      tried.append(item["image_id"])

  maker = Nothing(None, True, 0.5)
  setting = drawn.setting(*prepared["none"], maker=maker)._replace(kept=Kept(1000))
  with pytest.raises(Exception, match="backgrounds in a row"):
    made_of(setting, 0)
  assert len(tried) == len(set(tried)) == 6

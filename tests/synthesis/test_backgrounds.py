"""Few backgrounds, several images on each: what tables of samplings need."""

import pytest

from hiresmed_jax.errors import UserError
from hiresmed_jax.synthesis import image, request
from tests.synthesis import drawn


class Nothing:
  """A maker of backgrounds that keeps what it is asked for, and makes none."""

  def __init__(self):
    self.asked = []

  def make(self, item, key, device):
    self.asked.append(item["image_id"])


def tried(prepared, index, **changes):
  """Image ids of the backgrounds that are tried for an image, in order."""
  maker = Nothing()
  setting = drawn.setting(*prepared["none"], maker=maker, **changes)
  with pytest.raises(UserError, match="backgrounds in a row"):
    image.make(setting, index, None)
  return maker.asked


def test_images_take_turns(prepared):
  first = [tried(prepared, i, backgrounds=3)[0] for i in range(9)]
  assert first[:3] == first[3:6] == first[6:]
  assert len(set(first)) == 3
  # Where one cannot be used, the next one is no other image's.
  assert tried(prepared, 0, backgrounds=3)[1] not in first
  other = [tried(prepared, i, backgrounds=3, seed=1)[0] for i in range(3)]
  assert other != first[:3]


def test_without_the_option_images_are_what_they_were(prepared):
  drawn_each = [tried(prepared, i)[0] for i in range(12)]
  assert len(set(drawn_each)) > 3
  plain = drawn.REQUEST
  assert "backgrounds" not in plain.identity()  # folders made before it go on
  assert plain._replace(backgrounds=3).identity()["backgrounds"] == 3
  with pytest.raises(UserError, match="--backgrounds 0"):
    request.checked(plain._replace(backgrounds=0))

"""The lesion route from phantoms to a bank that synthesize opens."""

import json
from unittest import mock

import jax
import numpy as np
import pytest

from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import survey, workdir
from hiresmed_jax.lesions import bank
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.ops import pyramid
from hiresmed_jax.routes import run, singan_task
from hiresmed_jax.routes.lesion import train as lesion
from hiresmed_jax.runtime.config import load_config
from tests import tiny, tiny_run
from tests.lesions import drawn

pytestmark = pytest.mark.xdist_group("lesion route")  # trained once
LESION = f"{tiny.__file__}:lesion"
PHANTOMS = ["data.phantom.size=128", "data.phantom.num=16"]


@pytest.fixture(scope="module", autouse=True)
def two_levels():
  """Not the five of so small a window: each is a program more to compile."""

  def of_window(side, *, min_size, factor):
    return pyramid.Pyramid(((3 * side // 4,) * 2, (side, side)), 0.75, 1.0)

  with mock.patch.object(pyramid, "lesion_pyramid", of_window):
    yield


def patch(side: int, group: str, diameter_px: float = 6.0) -> LesionPatch:
  image = np.zeros((side, side, 1), np.float32)
  image[side // 2 - 3 : side // 2 + 3, side // 2 - 3 : side // 2 + 3] = 1.0
  return LesionPatch(
    values=image,
    surround=image,
    alpha=image[..., 0],
    diameter_px=diameter_px,
    spacing_mm=(1.0, 1.0),
    physics="ct",
    donor=f"image of {group}",
    donor_group=group,
    kind="copy",
    value_range=(0.0, 255.0),
  )


def test_one_lesion_of_each_patient_before_a_second():
  values = load_config(LESION, ["lesion.limit=3", "lesion.sides=(32,48)"]).lesion
  patches = [patch(48, "a"), patch(32, "a"), patch(64, "b"), patch(32, "c"), patch(32, "d")]
  chosen = lesion.chosen(patches, values)
  assert [(p.alpha.shape[0], p.donor_group) for p in chosen] == [(32, "c"), (32, "d"), (48, "a")]
  everything = load_config(LESION, ["lesion.limit=0"]).lesion
  assert len(lesion.chosen(patches, everything)) == 3


def test_lesions_that_their_mask_does_not_show_are_passed_over_where_there_are_others():
  body = np.zeros((32, 32), np.float32)
  body[12:20, 12:20] = 1.0
  patches = [
    patch(32, group)._replace(values=100 * np.roll(body, off, 1)[..., None], alpha=body)
    for group, off in (("a", 0), ("b", 6), ("c", 1), ("d", 5))
  ]
  values = load_config(LESION, ["lesion.limit=2", "lesion.least_overlap=0.5"]).lesion
  assert [p.donor_group for p in lesion.chosen(patches, values)] == ["a", "c"]
  values = load_config(LESION, ["lesion.limit=3", "lesion.least_overlap=0.5"]).lesion
  assert [p.donor_group for p in lesion.chosen(patches, values)] == ["a", "b", "c"]


def test_values_are_those_of_the_backend():
  values = load_config(LESION, ["lesion.steps=2000", "lesion.cpu_steps=7"]).lesion
  cpu, gpu = (lesion.resolved(values, backend) for backend in ("cpu", "gpu"))
  assert (cpu.steps, cpu.at_once) == (7, 1)
  assert (gpu.steps, gpu.at_once) == (2000, 0)
  assert "cpu_steps" not in cpu
  assert values.steps == 2000


def test_the_pyramid_has_the_factor_that_is_asked_for():
  values = load_config(LESION, ["lesion.factor=0.6"]).lesion
  with mock.patch.object(pyramid, "lesion_pyramid") as made:
    singan_task.pyramid_of(values, 64)
  made.assert_called_once_with(64, min_size=values.min_size, factor=0.6)


class Luck:
  """Stands for training: what share of a lesion's samples passes is known for each training.

  Of no noise the generators of a bad one make a flat image, all of which would be lesion.
  """

  def __init__(self, shares: dict[str, tuple[float, ...]]):
    self.shares, self.trained, self.seeds = shares, [], set()

  def fit(self, part, finish):
    self.trained.append([patch.donor for patch in part.patches])
    self.seeds.add(part.seed)
    return {"results": finish(None)}

  def measured(self, part, state):
    groups = []
    for patches in lesion._by_side(part.patches).values():
      group = drawn.bank_group(patches)
      now = [self.shares[patch.donor][len(self.trained) - 1] for patch in patches]
      fixed = np.stack([f * (share > 0.2) for f, share in zip(group.generators.fixed, now)])
      members = tuple(m._replace(accepted=share) for m, share in zip(group.members, now))
      generators = group.generators._replace(fixed=fixed)
      groups.append(group._replace(members=members, generators=generators))
    return groups


@pytest.fixture
def luck(monkeypatch, tmp_path):
  """Runs the route on four lesions with these shares -> (results, what was trained, the bank)."""
  patches = [drawn.patch(d, side=24, seed=i) for i, d in enumerate((5.0, 6.0, 8.0))]
  patches.append(drawn.patch(9.0, side=32, seed=3))
  found = survey.Survey(None, patches, np.zeros((0, 5)), frozenset(), {}, ())
  monkeypatch.setattr(lesion.survey, "load_or_make", lambda *_: found)
  monkeypatch.setattr(lesion, "chosen", lambda patches, values: patches)

  def run(*shares, **changes):
    known = Luck({f"donor{number}": each for number, each in enumerate(shares)})
    monkeypatch.setattr(lesion, "_fit", known.fit)
    monkeypatch.setattr(lesion, "_measured", known.measured)
    config = load_config(LESION, ["lesion.least_accepted=0.25", "lesion.start=1"])
    config.lesion.update(changes)
    done = lesion.train(config, None, tmp_path / "lesion", tiny_run.mesh())
    return done["results"], known, bank.load(tmp_path / "lesion" / "bank")

  return run


def test_lesions_whose_samples_fail_are_trained_again_and_then_left_out(luck, tmp_path, capsys):
  results, known, opened = luck((0.5,), (0.2, 0.1, 0.0), (0.0, 0.9), (0.0, 0.0, 1.0))
  everyone = ["donor0", "donor1", "donor2", "donor3"]
  assert known.trained == [everyone, everyone[1:], ["donor1", "donor3"]]
  assert len(known.seeds) == 3
  assert (results["trained_again"], results["left_out"]) == (3, 1)
  assert results["windows"] == {"24": 2, "32": 1}
  kept = {member.donor: member.accepted for member in opened.members}
  assert kept == pytest.approx({"donor0": 0.5, "donor2": 0.9, "donor3": 1.0})
  # The generators are those of the training that was good: each gives its own lesion.
  for number, size in enumerate((5.0, 8.0, 9.0)):
    assert abs(opened.sample(number, 0).diameter_px - size) < 1
  facts = json.loads((tmp_path / "lesion" / "bank" / bank.FACTS).read_text())
  assert [(one["donor"], one["accepted"]) for one in facts["left_out"]] == [("donor1", 0.2)]
  assert "3 were trained again, 1 are left out" in capsys.readouterr().out


def test_no_lesion_that_can_be_drawn_is_one_line(luck):
  with pytest.raises(UserError, match=r"no SinGAN of 4 gives lesions: at most 20%") as error:
    luck(*[(0.0, 0.2)] * 4, trainings=2)
  assert "\n" not in str(error.value)
  results, known, opened = luck(*[(0.0,)] * 4, least_accepted=0.0)
  assert (len(known.trained), results["left_out"], len(opened.members)) == (1, 0, 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("lesion_route")
  config = load_config(LESION, PHANTOMS)
  with tiny_run.quick_compiler():
    results = run.train(config, data=None, workdir=folder)
  return folder, config, results["lesion"]


@pytest.mark.slow
def test_a_bank_is_trained_on_all_devices(trained):
  folder, config, done = trained
  values = config.lesion
  opened = bank.load(folder / "lesion" / "bank")
  assert done["results"]["lesions"] == len(opened.members) == values.limit
  assert jax.device_count() == 8  # 3 lesions and 5 that only fill the devices up
  assert done["results"]["windows"] == {"32": 3}
  (group,) = opened.groups
  assert [size[0] for size in group.pyramid.sizes] == [24, 32]
  assert group.generators.amplitudes.shape == (3, len(group.pyramid.sizes))
  assert done["best_step"] == values.cpu_steps * len(group.pyramid.sizes)
  figures = {path.name for path in (folder / "lesion" / "figures").iterdir()}
  assert f"level_{done['best_step']:07d}.png" in figures
  rows = tiny_run.metrics(folder / "lesion")
  assert rows[-1]["step"] == done["best_step"]
  assert np.isfinite(rows[-1]["val_rmse"])


@pytest.mark.slow
def test_the_bank_is_of_training_patients_and_is_found(trained):
  folder, _, done = trained
  dataset = workdir.dataset_of(folder, None)
  groups = {item["group"] for item in records.source(dataset, "train")}
  opened = bank.load(folder / "lesion" / "bank")
  assert {member.donor_group for member in opened.members} <= groups
  made = workdir.finished(folder, "lesion", dataset.card["fingerprint"])
  assert made.best_step == done["best_step"]
  assert (
    json.loads((folder / "data.json").read_text())["fingerprint"] == dataset.card["fingerprint"]
  )
  assert isinstance(opened.sample(1, 0), LesionPatch | str)
  assert isinstance(opened, bank.Bank)


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(trained, monkeypatch, capsys):
  folder, config, done = trained
  monkeypatch.setattr(
    "hiresmed_jax.routes.loop.compile_programs", lambda *_: pytest.fail("compiled")
  )
  assert run.train(config, data=None, workdir=folder)["lesion"] == done
  assert "is trained already" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"another config \(lesion.alpha"):
    run.train(load_config(LESION, [*PHANTOMS, "lesion.alpha=3.0"]), data=None, workdir=folder)


@pytest.mark.slow
def test_a_training_again_is_a_run_of_its_own(tmp_path, monkeypatch):
  given = ["lesion.least_accepted=1.0", "lesion.trainings=2", "lesion.limit=2"]
  config, folders, fit = load_config(LESION, [*PHANTOMS, *given]), [], lesion.loop.fit

  def noted(task, **options):
    folders.append(options["folder"])
    return fit(task, **options)

  monkeypatch.setattr(lesion.loop, "fit", noted)
  refused = pytest.raises(UserError, match="no SinGAN of 2 gives lesions")
  with tiny_run.quick_compiler(), tiny_run.on_one_device(), refused:
    run.train(config, data=None, workdir=tmp_path)
  first, again = folders
  assert first == tmp_path / "lesion"
  assert len(bank.load(again / "bank").members) == 2
  assert (again / "DONE.json").is_file()
  assert not (first / "DONE.json").exists()

"""The rows of the results table, made from the JSON file of each benchmark."""

import statistics
from collections.abc import Callable, Iterator

from benchmarks import rows_of_steps
from benchmarks.rows_of_steps import Result, Row


def _anchor(result: Result) -> Iterator[Row]:
  package = result["package"]
  for way, found in result["ways"].items():
    seeds = len(found["runs"])
    for which in ("best", "last"):
      figures = "; ".join(
        f"{label} {found[which][key]['mean']:.3f}"
        + (f" (SD {found[which][key]['sd']:.3f})" if seeds > 1 else "")
        for key, label in (("map50", "mAP50"), ("map50_95", "mAP50-95"), ("froc", "FROC"))
      )
      yield Row(
        f"yolo11n from scratch on 511 images of stones_ct, {result['epochs']} epochs, {way}, "
        f"{found['size']} px, {which} epoch, {seeds} seed{'s' if seeds > 1 else ''}",
        f"{figures}; the ultralytics package {package['map50']:.3f} and {package['map50_95']:.3f}"
        " (best of 30)",
      )


def _blocks(result: Result) -> Iterator[Row]:
  for name, unit in (("psnr", " dB"), ("l1", "")):
    numbers = result["numbers"][name]
    low, high = numbers["interval_95"]
    yield Row(
      f"{result['config']}: HDFB less residual, held-out {name}, {result['seeds']} seeds",
      f"{numbers['difference']:+.2g}{unit} (95 % interval {low:+.2g} to {high:+.2g})",
    )
  seconds = result["seconds_per_step"]
  yield Row(
    "seconds per step, HDFB and residual", f"{seconds['hdfb']:.2f} and {seconds['residual']:.2f}"
  )


def _by_eye(result: Result) -> Iterator[Row]:
  for data in ("stones_ct", "nodules_ct"):
    found = result[data]
    shares = (f"{found[where]:.1%}" for where in ("inside", "at_the_edge", "outside"))
    yield Row(
      f"{data}: centres of {found['lesions']} real lesions inside the organs drawn by eye, within "
      f"{found['edge_px']:g} px of their edge, outside, {found['images']} validation images",
      ", ".join(shares),
    )


def _cpu_gains(result: Result) -> Iterator[Row]:
  times = {name: row["median_ms"] for name, row in result["without"].items()}
  whole = times.pop("everything")
  shape = " x ".join(str(side) for side in result["images"])
  for name, median in times.items():
    yield Row(
      f"HDFB network, {shape}, forward + backward: time without {name}",
      f"{median / whole:.2f}x ({median:.0f} and {whole:.0f} ms)",
    )


def _danger(result: Result) -> Iterator[Row]:
  corrected, names = result["corrected"], {"rule": "the rule", "unet": "the U-Net"}
  for key, name in names.items():
    found = corrected[key]
    yield Row(
      f"{result['data']}: bone and lung by {name} against {corrected['images']} masks corrected by "
      "hand, mean Dice, IoU, median HD95",
      f"{found['dice']:.3f} (least {found['least_dice']:.3f}), {found['iou']:.3f}, "
      f"{found['hd95_px_median']:.1f} px",
    )
  for key, name in names.items():
    states = result["excluded"][key]
    yield Row(
      f"{states['emptied']['lesions']} real held-out lesions whose place {name} forbids, image as "
      "it is and without lesions",
      f"{states['as_they_are']['share']:.1%} and {states['emptied']['share']:.1%}",
    )
  if lungs := result["lungs"]:
    yield Row(
      f"all but lung on {lungs['images']} held-out chest radiographs, mean Dice, IoU",
      f"{lungs['dice']:.3f}, {lungs['iou']:.3f}",
    )


def _depthwise(result: Result) -> Iterator[Row]:
  for name in ("forward", "forward+backward"):
    rows = [row for row in result["rows"] if row["pass"] == name]
    for side in ("lax", "torch"):
      ratios = [row[side]["median_ms"] / row["ours"]["median_ms"] for row in rows if side in row]
      if ratios:
        other = {"lax": "XLA", "torch": "PyTorch"}[side]
        yield Row(
          f"{name}: time of {other} over ours, {len(ratios)} shapes",
          f"median {statistics.median(ratios):.2g}x, {min(ratios):.2g}x to {max(ratios):.2g}x",
        )


def _input_pipeline(result: Result) -> Iterator[Row]:
  for row in result["feeding"]["rows"]:
    best: dict[tuple[str, str], float] = {}
    for one in result["rates"]:
      if one["bits"] == row["bits"]:
        case = one["epoch"], one["augmentation"]
        best[case] = max(best.get(case, 0.0), one["images_per_second"])
    stages = next(s for s in result["stages"] if s["bits"] == row["bits"])["milliseconds"]
    most = max(stages, key=lambda stage: stages[stage])
    about = f"{result['size']} px, {row['bits']} bits"
    share = f"most of it {most}, {stages[most]:.1f} of {sum(stages.values()):.1f} ms"
    for epoch, more in (("first", f"; {share}"), ("later", "")):
      rates = f"{best[epoch, 'best']:.0f} images/s augmented, {best[epoch, 'none']:.0f} not"
      yield Row(f"{about}, {epoch} epoch{'s' if epoch == 'later' else ''}", rates + more)
    gpu = result["feeding"]["gpu_images_per_second"]
    need = f"; a train step of {gpu:.1f}/s takes {row['cores_for_the_gpu']:.1f}" if gpu else ""
    yield Row(
      f"16 cores would feed, {row['bits']} bits, augmented, later epochs",
      f"{row['images_per_second_of_16_cores']} images/s{need}",
    )


def _insertion_realism(result: Result) -> Iterator[Row]:
  about = f"{result['data']}, {result['lesions']} lesions of {result['groups']} groups"
  for name, verdicts in result["auc"].items():
    judge = max(verdicts, key=lambda name: verdicts[name]["auc"])
    low, high = verdicts[judge]["interval"]
    others = ", ".join(f"{v['auc']:.2f}" for other, v in verdicts.items() if other != judge)
    yield Row(
      f"{about}: AUC, {name}, strictest judge ({judge})",
      f"{verdicts[judge]['auc']:.2f} (95 % interval {low:.2f} to {high:.2f}); others {others}",
    )
  for name, shares in result["clipped"].items():
    yield Row(f"{about}: clipped plateau of lesions of 6 px or more, {name}",
              f"{100 * shares[-1]:.0f} %")  # fmt: skip


def _utility(result: Result) -> Iterator[Row]:
  about = f"{result['data']}, {result['split']}, {result['steps']} steps"
  for one in result["differences"]:
    mean, low, high = (100 * one[key] for key in ("value", "low", "high"))
    yield Row(
      f"{about}, {one['share']:.0%} of the training groups: FROC, arm {one['of']} less "
      f"{one['less']}, {one['seeds']} seeds",
      f"{mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}; p {one['p_holm']:.2f})",
    )


def _physics_oracle(result: Result) -> Iterator[Row]:
  for row in result["rows"]:
    known, estimated = (100 * row[way]["median"] for way in ("known", "estimated"))
    yield Row(
      f"sphere of {row['diameter_mm']:g} mm, {row['sites']} sites: contrast added to a projection "
      "beside that of a projected volume, median relative error",
      f"{known:.1f} %; with the donor's surround estimated {estimated:.0f} %",
    )


def _convergence(result: Result) -> Iterator[Row]:
  images = f"{result['images']['train']} images of {result['images']['size']} px"
  for row in result["comparison"]:
    if row["images"] != "train" or row["ours_seconds"] is None:
      continue
    than = "" if row["reached"] else ">= "
    yield Row(
      f"{images}: seconds to an error under {row['threshold']}, {row['recipe']} over ours",
      f"{than}{row['times_seconds']:.1f}x ({row['baseline_seconds']:.0f} s and "
      f"{row['ours_seconds']:.0f} s)",
    )
  for name, recipe in result["recipes"].items():
    finals = [run["final"] for run in recipe["runs"]]
    train, held = (statistics.mean(f[key] for f in finals) for key in ("train", "held_out"))
    yield Row(
      f"{images}, {result['seconds_per_run']:g} s, {len(finals)} seeds: error of {name}",
      f"training {train:.4f}, held out {held:.4f}",
    )
  factors = result.get("factors", {"seeds": 0})
  for name, changed in factors.items():
    if name != "seeds":
      yield Row(f"{images}, {factors['seeds']} seed(s): ours but {name}", _factor(changed))


def _factor(changed: Result) -> str:
  """The figures of ours with one setting changed."""
  finals = [run["final"] for run in changed["runs"]]
  train, held = (statistics.mean(f[key] for f in finals) for key in ("train", "held_out"))
  milliseconds = 1e3 * changed["seconds_per_step"]
  figures = f"training {train:.4f}, held out {held:.4f}; {milliseconds:.0f} ms a step"
  for row in changed["comparison"]:
    if row["images"] == "train" and row["threshold"] == 0.1 and row["ours_seconds"] is not None:
      than = "" if row["reached"] else ">= "
      figures += f"; error under 0.1: {than}{row['times_steps']:.1f}x the steps of ours"
      figures += f", {than}{row['times_seconds']:.1f}x the seconds"
  return figures


def _singan(result: Result) -> Iterator[Row]:
  for row in result["lesions"]:
    if row["by"] == "torch":
      continue
    ratio = f", {row['times_torch']:.2f}x PyTorch" if row["times_torch"] else ""
    yield Row(
      f"SinGAN of {row['count']} lesions of {row['side']} px at once, {row['way']} {row['dtype']}, "
      f"extrapolated to {result['steps_per_level']:,} steps a level",
      f"{row['lesions_per_hour']:.0f} lesions an hour{ratio}",
    )


def _lesions(result: Result) -> Iterator[Row]:
  what = f"{result['data']}, {result['lesions']} lesions, {result['steps']} steps a level"
  for kind, row in result["kinds"].items():
    yield Row(
      f"{what}: LPIPS between lesions of {kind} over that between real ones; distance to the "
      "nearest training crop",
      f"{row['over_real']:.2f}; {row['nearest_training_crop']:.3f} (between real lesions "
      f"{result['nearest_other_real']:.3f})",
    )
  one = result.get("of_one_over_real")
  within = f"; between samples of one lesion {one:.2f} of real" if one is not None else ""
  yield Row(f"{what}: samples that pass the test of shape", f"{result['accepted']:.0%}{within}")


def _synthesize(result: Result) -> Iterator[Row]:
  for way, row in result["ways"].items():
    stages = row["milliseconds_of_a_thread_per_image"]
    longest = max(stages, key=lambda stage: float(stages[stage]))
    yield Row(
      f"labelled images of {result['size']} px with {result['lesions']} lesions, twin and masks, "
      f"background {way}, {result['threads']} threads",
      f"{row['images_per_second']:.2f} images/s; most of it {longest}, {stages[longest]:.0f} of "
      f"{sum(stages.values()):.0f} ms",
    )


def _stream(result: Result) -> Iterator[Row]:
  (height, width, _), cores = result["image"], result["cores_used"]
  for epoch in result["epochs"]:
    yield Row(
      f"{result['data']}, images of {width} x {height} with labels from a stream, {cores} "
      f"core{'s' if cores > 1 else ''}, {epoch['what']}",
      f"{epoch['images_per_processor_second']:.1f} a second of the processor, "
      f"{epoch['images_per_second']:.1f} a second of the clock",
    )


def _detector(result: Result) -> Iterator[Row]:
  pages = ", large pages" if "hugetlb" in (result["glibc_tunables"] or "") else ""
  for row in result["rows"]:
    for part in ("training", "in use"):
      rates = row[part]["images_per_second"]
      without = part == "in use" and not row["package_suppresses"]
      yield Row(
        f"{result['net']}, {result['batch']} images of {result['size']} px, {row['precision']}"
        f"{pages}: {part}, images/s{' (the package without suppression)' if without else ''}",
        f"{rates['ours']:.1f}; the ultralytics package {rates['package']:.1f}, ours "
        f"{row[part]['times']:.2f}x",
      )


def _metrics(result: Result) -> Iterator[Row]:
  fid = result["fid"]
  sides = ", ".join(f"{fid['times'][side]:.1f}x {side}" for side in fid["times"])
  yield Row(
    f"FID of {fid['images']:,} x {fid['features']:,} features",
    f"{fid['seconds']['ours']:.2f} s; ours {sides}",
  )
  for name in ("ssim", "lpips"):
    for row in result[name]:
      rates = dict(row["images_per_second"])
      ours = rates.pop("ours")
      others = "; ".join(
        f"{side} {rate:.1f}, ours {ours / rate:.2f}x" for side, rate in rates.items()
      )
      yield Row(
        f"{name.upper()}{' of ' + row['net'] if 'net' in row else ''}, {row['size']} px, images/s",
        f"{ours:.1f}; {others}",
      )


def _placement(result: Result) -> Iterator[Row]:
  prior, context, made = result["prior"], result["context"], result["placements"]
  part = "held-out" if result.get("split", "test") == "test" else "validation"
  about = f"{result['data']}, {prior['lesions']} {part} lesions of {prior['groups']} groups"
  for name, gain in prior["over_uniform"].items():
    used = " (in use)" if name == prior["used"] else ""
    yield Row(
      f"{about}: nats a lesion over the uniform prior, {name}{used}",
      f"{gain['mean']:+.2f} (95 % interval {gain['low']:+.2f} to {gain['high']:+.2f})",
    )
  for name, shares in (result.get("regions") or {}).items():
    regions = [f"{one} {share:.1%}" for one, share in shares.items() if one != "sites"]
    yield Row(
      f"{result['data']}, regions drawn by eye: shares of {shares['sites']} places, {name}",
      ", ".join(regions).replace("_", " "),
    )
  for name, found in context.items():
    if name in ("sites", "groups"):
      continue
    low, high = found["interval"]
    yield Row(
      f"{about}: AUC of the context of sites, {name}",
      f"{found['auc']:.2f} (95 % interval {low:.2f} to {high:.2f})",
    )
  yield Row(
    f"{about}: placements with a pixel on the mask; real lesions that the mask forbids",
    f"{made['on_the_mask']} of {made['made']:,}; {100 * result['danger']['false_exclusion']:.1f} %",
  )


def _faults(result: Result) -> Iterator[Row]:
  for row in result["rows"]:
    if row["tried"]:
      yield Row(f"{row['kind']}: {row['what']}", f"{row['held']} of {row['tried']} held")


def _baseline_step(result: Result) -> Iterator[Row]:
  for case in result["cases"]:
    ours, theirs = (case["median_ms"][side] for side in ("ours", "torch"))
    yield Row(
      f"{case['name']}, {case['parameters']:,} parameters, {case['batch']} images of "
      f"{case['side']} px, a training step beside PyTorch's (not compiled)",
      f"{theirs / ours:.2f}x ({ours:.0f} and {theirs:.0f} ms)",
    )


def _table2(result: Result) -> Iterator[Row]:
  ((kind, amount),) = result["budget"].items()
  about = f"Table 2, {result['data']} at 64 px, {amount:g} {kind} of training each"
  for name, row in result["rows"].items():
    kid = row["distances"]["KID"]
    figure = kid.get("missing") or f"{kid['name']} {kid['value']:.3g}"
    if kid.get("sd") is not None:
      figure += f" (SD {kid['sd']:.2g})"
    if psnr := row.get("numbers", {}).get("psnr"):
      figure += f"; PSNR {psnr['value']:.1f} dB"
    figure += "" if row["converged"] else "; not converged"
    what = "reconstructions" if row["paired"] else "from noise"
    yield Row(f"{about}: {name}, {what}, {row['parameters']:,} parameters", figure)
  floors = [
    f"{name} {one['value']:.3g}" for name, one in result["floors"].items() if "value" in one
  ]
  yield Row(f"{about}: floors of KID, {result['held_out']} held-out images", "; ".join(floors))


SUMMARIES: dict[str, Callable[[Result], Iterator[Row]]] = {
  "anchor": _anchor,
  "blocks": _blocks,
  "convergence": _convergence,
  "by_eye": _by_eye,
  "cpu_gains": _cpu_gains,
  "danger": _danger,
  "depthwise": _depthwise,
  "detector": _detector,
  "faults": _faults,
  "first_look": rows_of_steps.first_look,
  "input_pipeline": _input_pipeline,
  "insertion_realism": _insertion_realism,
  "lesions": _lesions,
  "metrics": _metrics,
  "physics_oracle": _physics_oracle,
  "placement": _placement,
  "programs": rows_of_steps.programs,
  "device_programs": rows_of_steps.device_programs,
  "scaling": rows_of_steps.scaling,
  "singan": _singan,
  "stream": _stream,
  "synthesize": _synthesize,
  "baseline_step": _baseline_step,
  "table2": _table2,
  "train_step": rows_of_steps.train_step,
  "utility": _utility,
}

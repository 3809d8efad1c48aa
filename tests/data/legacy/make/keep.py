"""keep.py OUT USED: takes figures and paths out of what make.sh made; writes expected.json."""

import hashlib
import json
import pathlib
import shutil
import sys

ROOT = "/moved"  # in the place of OUT
out, work = map(pathlib.Path, sys.argv[1:])

expected = {"commit": "c96ee6b", "synthesize": {}, "results": {}}
for name in ("plain", "networks"):
  made = work / name
  files = [p for p in sorted(made.rglob("*")) if p.is_file() and p.name != "contact_sheet.png"]
  expected["synthesize"][name] = {
    "sha256": {
      p.relative_to(made).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
  }
  for p in files:
    if p.parent.name in ("images", "masks", "labels") or p.name in (
      "request.json",
      "manifest.jsonl",
    ):
      kept = out / "expected" / name / p.relative_to(made)
      kept.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(p, kept)
for route in ("background", "lesion", "location", "danger"):
  expected["results"][route] = json.loads((out / "run" / route / "DONE.json").read_text())
# Without the figures of Inception, whose weights are not there.
ours = json.loads((work / "report" / "report.json").read_text())["methods"]["ours"]
expected["evaluate"] = {name: ours[name] for name in ("numbers", "table_6", "lesions", "runs")}

for folder in [
  *out.glob("run/*/figures"),
  out / "run/lesion/checkpoints",
  out / "run/location/bare",
]:
  shutil.rmtree(folder, ignore_errors=True)
(out / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
for path in filter(pathlib.Path.is_file, out.rglob("*")):
  if str(out).encode() in path.read_bytes():
    path.write_text(path.read_text().replace(str(out), ROOT))  # text, or it fails
  assert not any(str(f).encode() in path.read_bytes() for f in (out, work, pathlib.Path.home())), (
    path
  )

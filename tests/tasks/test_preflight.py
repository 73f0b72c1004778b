"""Preflight: what it finds of machines, and that it never hangs."""

import json
import socket
import threading

import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.runtime import exits, joining
from ddae_jax.settings.preflight import PreflightSettings
from ddae_jax.settings.train import TrainSettings
from ddae_jax.tasks.preflight import judge, network, seen, workdir
from ddae_jax.tasks.preflight.network import AllReduce
from ddae_jax.tasks.preflight.workdir import View
from tests.tools import runs as run_tools

MACHINE = {
    "host": "a",
    "words": ["--config=digits"],
    "settings": "5e77",
    "code": "c0de",
    "versions": {"python": "3.12.1", "jax": "0.10.2"},
    "platform": "gpu",
    "devices": 8,
    "gpus": list("01234567"),
    "tpu_chips": 0,
    "image_shape": [8, 8, 1],
    "data_trouble": None,
    "disk_needed": 10**9,
    "disk_free": 2 * 10**9,
}


def machines(*changes):
    return [MACHINE | {"host": f"host{i}"} | one for i, one in enumerate(changes)]


def troubles(found):
    return [one.trouble for one in found if one.trouble]


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(index, count, *words):
    ours = (*run_tools.TINY, "--task=preflight", f"--process_count={count}")
    return run_tools.start(*ours, f"--process_index={index}", *words)


def test_the_counts_are_those_that_were_asked_for():
    everyone = machines({}, {})
    wanted = PreflightSettings(processes=2, hosts=2, devices=16)
    assert not troubles(judge.machines(everyone, wanted))
    wanted = PreflightSettings(processes=4, hosts=4, devices=32)
    assert troubles(judge.machines(everyone, wanted)) == [
        "2 processes, but config.preflight.processes=4",
        "2 hosts, but config.preflight.hosts=4",
        "16 devices, but config.preflight.devices=32",
    ]


@pytest.mark.parametrize(
    ("machine", "part"),
    [
        ({"platform": "cpu", "devices": 1}, "8 of 8 GPUs of host host1 would be idle"),
        ({"devices": 1}, "7 of 8 GPUs of host host1"),
        ({"gpus": [], "tpu_chips": 4, "platform": "cpu"}, "4 of 4 TPU chips"),
        ({"gpus": ["0", "1"], "devices": 2}, ""),
        ({"gpus": [], "tpu_chips": 4, "platform": "tpu", "devices": 8}, ""),
    ],
)
def test_idle_accelerators_are_a_mistake(machine, part):
    found = judge.machines(machines({}, machine), PreflightSettings())[-1]
    assert part in found.trouble and bool(part) == bool(found.trouble)
    allowed = PreflightSettings(allow_unused=True)
    assert not judge.machines(machines({}, machine), allowed)[-1].trouble


def test_processes_of_one_host_share_its_gpus():
    half = {"host": "a", "devices": 4}
    found = judge.machines([MACHINE | half, MACHINE | half], PreflightSettings())
    assert not troubles(found)
    found = judge.machines(machines({}, {"devices": 7}, {}), PreflightSettings())
    assert "process 1 (host1) has 7 devices, others 8" in troubles(found)


@pytest.mark.parametrize(
    ("machine", "differences", "part"),
    [
        ({"code": "other"}, {}, "process 1 (host1) has other code of ddae_jax"),
        ({"versions": {"python": "3.12.1", "jax": "0.11"}}, {}, "has jax 0.11, proc"),
        ({}, {1: "config.seed=1, not 0"}, "process 1 (host1) has config.seed=1, not 0"),
        ({"words": ["--task=probe"]}, {}, "--task=probe --config=digits"),
    ],
)
def test_code_and_settings_are_the_same_everywhere(machine, differences, part):
    (trouble,) = troubles(judge.sameness(machines({}, machine), differences))
    assert part in trouble
    assert not troubles(judge.sameness(machines({}, {}), {}))


def test_the_workdir_is_one():
    good = View(sees=True, writes=True, shows=True)
    everyone = machines({}, {})
    assert not judge.workdirs(everyone, [good, good]).trouble
    for view in (View(False, True, True), View(True, True, False)):
        trouble = judge.workdirs(everyone, [good, view]).trouble
        assert "process 1 (host1) has another --workdir" in trouble
    view = View(True, False, False)
    assert "cannot write" in judge.workdirs(everyone, [good, view]).trouble


def test_other_measures_are_judged():
    full = machines({"disk_free": 10**8}, {})
    assert "0.1 GB free in --workdir" in judge.disk(full).trouble
    assert not judge.disk(machines({}, {})).trouble
    lacking = {"image_shape": None, "data_trouble": "no folder X"}
    assert "lacks the data: no folder X" in judge.data(machines({}, lacking)).trouble
    assert not judge.data(machines(lacking, lacking)).trouble
    late = judge.clocks(machines({}, {}), [0.0, -7.0], 5.0)
    assert "process 1 (host1) is -7.0 s off" in late.trouble
    slow = AllReduce(devices=2, bytes=10**9, seconds=1.0, right=True)
    assert slow.bandwidth == 10**9
    assert not judge.all_reduce(slow, 0.5).trouble
    assert "below config.preflight" in judge.all_reduce(slow, 2.0).trouble
    wrong = AllReduce(devices=2, bytes=10**9, seconds=1.0, right=False)
    assert "wrong" in judge.all_reduce(wrong, 0).trouble


def test_checkpoints_are_counted():
    train = TrainSettings(steps=1000, keep_latest=2, keep_every=100, keep_best=True)
    assert seen.checkpoints_kept(train) == 2 + 1 + 10 + 1


def test_words_of_one_process_alone_do_not_count():
    words = ["--config=a", "--process_index=1", "--local_devices", "0,1", "--task=b"]
    assert seen.shared_words(words) == ["--config=a", "--task=b"]


def test_a_folder_that_cannot_be_written_is_seen(tmp_path):
    assert workdir.views(tmp_path, 0.1) == [View(True, True, True)]
    assert not list(tmp_path.iterdir())
    assert workdir.views(tmp_path / "none", 0.1) == [View(False, False, False)]


def test_one_process_alone(tmp_path, capsys):
    words = ["main", *run_tools.TINY, f"--workdir={tmp_path}", "--preflight"]
    main.run([*words, "--task=report"])
    found = json.loads((tmp_path / "preflight.json").read_text())
    assert found["passed"] and found["processes"] == 1
    assert found["checks"]["all-reduce"]["right"]
    assert "preflight" in (tmp_path / "report.html").read_text().lower()
    with pytest.raises(SystemExit) as ended:
        main.main(
            [*words, "--config.preflight.processes=8", "--config.preflight.devices=9"]
        )
    assert ended.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert line.endswith(
        "preflight: 1 processes, but config.preflight.processes=8; 1 devices, but "
        "config.preflight.devices=9"
    )
    assert not json.loads((tmp_path / "preflight.json").read_text())["passed"]


def test_a_check_without_an_answer_is_one_line(monkeypatch):
    left = []
    monkeypatch.setattr(exits, "leave", lambda *what: left.append(what))
    with exits.limit(0.01, "error: no answer"):
        threading.Event().wait(0.5)
    assert left == [("error: no answer", 2)]
    with exits.limit(0.2, "error: no answer"):
        pass
    threading.Event().wait(0.4)
    assert len(left) == 1


def test_the_sum_over_all_devices_is_checked():
    import jax

    from ddae_jax.runtime import parallel

    measured = network.time_all_reduce(parallel.make_mesh(), 1)
    assert measured.right and measured.devices == jax.device_count()


@pytest.mark.slow
def test_processes_that_differ_and_one_that_never_comes(tmp_path):
    """Real processes: one line each, within the limit, status 2."""
    port = f"--coordinator=localhost:{free_port()}"
    seeds = [
        start(i, 2, port, f"--workdir={tmp_path}", f"--config.seed={i}") for i in (0, 1)
    ]
    nobody = f"--coordinator=localhost:{free_port()}"
    alone = start(
        1, 2, nobody, f"--workdir={tmp_path}", "--config.preflight.join_seconds=2"
    )
    _, errors = alone.communicate(timeout=60)
    assert alone.returncode == 2, errors
    assert errors.splitlines()[-1].startswith(
        f"error: {nobody}: the 2 processes of the"
    )
    for process in seeds:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 2, errors
        last = errors.splitlines()[-1]
        assert last.startswith("error: preflight: process 1 (")
        assert last.endswith("has config.seed=1, not 0 of process 0")
    assert not json.loads((tmp_path / "preflight.json").read_text())["passed"]


@pytest.mark.slow
def test_processes_that_agree(tmp_path):
    words = (
        f"--coordinator=localhost:{free_port()}",
        f"--workdir={tmp_path}",
        "--config.preflight.processes=2",
        "--config.preflight.hosts=1",
    )
    for process in [start(i, 2, *words) for i in (0, 1)]:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    found = json.loads((tmp_path / "preflight.json").read_text())
    assert found["passed"] and found["checks"]["workdir"] == 2
    assert found["checks"]["all-reduce"]["bandwidth"] > 0
    assert not list(tmp_path.glob(".preflight-*"))


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_other(tmp_path):
    """Process 1 leaves out the preflight and is at another exchange; no hang."""
    words = (f"--coordinator=localhost:{free_port()}", f"--workdir={tmp_path}")
    first = start(0, 2, *words)
    other = start(1, 2, *words, "--task=report")
    _, errors = first.communicate(timeout=100)
    other.kill()
    assert first.returncode == 2, errors
    assert "error: process 1 is at 'a result of process 0', process 0 at" in errors


@pytest.mark.parametrize(
    ("coordinator", "loopback"),
    [
        ("localhost:1", True),
        ("127.0.1.1:1", True),
        ("[::1]:1", True),
        ("10.0.0.2:1", False),
        ("node001:1", False),
    ],
)
def test_a_loopback_coordinator_is_refused_for_several_hosts(coordinator, loopback):
    assert joining.is_loopback(coordinator) == loopback
    if loopback:
        with pytest.raises(UserError, match="of the 2 hosts"):
            joining.join(coordinator, 2, 0, hosts=2)


def test_slurm_tells_how_many_hosts_there_are(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "3")
    with pytest.raises(UserError, match="of the 3 hosts"):
        joining.join("localhost:1", 3, 0)


@pytest.mark.parametrize(
    ("given", "environment", "ids"),
    [
        (None, {}, None),
        ("2,3", {}, [2, 3]),
        # One task per node: all GPUs that the node shows, not one (jax#16788).
        (None, {"SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "2"}, [0, 1, 2]),
        (None, {"SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "6"}, None),
    ],
)
def test_which_gpus_a_process_takes(monkeypatch, given, environment, ids):
    taken = {}
    monkeypatch.setattr(
        joining.jax.distributed,
        "initialize",
        lambda *_, **options: taken.update(options),
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    joining.join("auto", None, None, given)
    assert taken["local_device_ids"] == ids
    joining.join("a:1", 2, 0, given)
    assert taken["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize("words", ["a", "0,0", "0,", "-1"])
def test_local_devices_that_are_none(words):
    with pytest.raises(UserError, match="--local_devices"):
        joining.join("a:1", 2, 0, words)

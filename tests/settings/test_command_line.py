"""The command line: what cannot be used is named in one line, with exit status 2."""

import json
import os
import subprocess
import sys

import pytest

from ddae_jax import main
from ddae_jax.diffusion.edm import EDM
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.settings import command_line, plain, schema
from ddae_jax.train.objectives import OBJECTIVES, chosen
from ddae_jax.train.objectives.dispersive import Dispersive
from tests.conftest import ROOT

DIGITS = str(ROOT / "configs" / "digits.py")
TINY = f"--config={DIGITS}:test"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path_factory, monkeypatch):
    """Default workdirs lie in the current folder: earlier runs must not be seen."""
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))


def run(*words):
    """The real command line in a process of its own: (status, lines of stderr)."""
    process = subprocess.run(
        [sys.executable, "-m", "ddae_jax.main", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return process.returncode, process.stderr.splitlines(), process.stdout


def parse(*words):
    return command_line.parse(["main", *words], main.define_flags)


@pytest.mark.parametrize(
    "words, parts",
    [
        (
            (TINY, "--config.train.stpes=3"),
            ("config.train.stpes", "Did you mean 'train.steps'?", "train.batch_size"),
        ),
        (
            (TINY, "--task=pretrain,smaple"),
            ("task", "'smaple'", "Did you mean 'sample'?", "probe"),
        ),
        (
            ("--config=configs/digit.py",),
            ("--config", "'configs/digit.py'", "'configs/digits.py'", "cifar10.py"),
        ),
        (
            ("--config=configs/cifar10.py:edm_dpmpp",),
            ("variant", "'edm_dpmpp'", "Did you mean 'edm_ddpmpp'?", "edm_ddpm"),
        ),
    ],
)
def test_a_process_ends_with_status_2_and_one_line(words, parts, tmp_path):
    status, lines, _ = run(*words, f"--workdir={tmp_path / 'run'}")
    assert status == 2
    assert len(lines) == 1 and lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "word, parts",
    [
        (
            "--config.data.name=cifar11",
            ("data.name", "'cifar11'", "mean 'cifar10'", "tfds:NAME"),
        ),
        ("--config.probe.taps=out_44", ("taps", "'out_44'", "mean 'out_4'", "out_1")),
        ("--config.network.name=unte", ("network.name", "'unte'", "mean 'unet'")),
        ("--config.process.name=emd", ("process.name", "mean 'edm'", "flow")),
        ("--config.sampler.name=dim", ("sampler.name", "mean 'ddim'", "ancestral")),
        ("--config.sampler.name=heun", ("sampler.name", "'heun'", "ancestral, ddim")),
        ("--config.dtype=float16", ("dtype", "mean 'bfloat16'", "float32")),
        ("--config.train.batch_size=0", ("train.batch_size", "0 is not 1 or more")),
        ("--config.train.learning_rate=nan", ("learning_rate", "nan")),
        ("--config.train.warmup_steps=-1", ("warmup_steps", "-1 is not 0 or more")),
        (
            "--config.network.dropout=2",
            ("network.dropout", "2.0 is not 0 or more, below 1"),
        ),
        (
            "--config.probe.held_out=1.",
            ("probe.held_out", "1.0 is not above 0, below 1"),
        ),
        ("--config.probe.times=(1,'a')", ("probe.times", "'a' is not a number")),
        ("--config.probe.noise_levels=0", ("noise_levels", "0.0 is not above 0")),
        ("--config.process.timesteps=0", ("process", "timesteps: 0 is not")),
        (
            "--config.network.attention=(True,)",
            ("network: attention", "for 1 levels", "for 2"),
        ),
        ("--config.train.augment_probability=.1", ("augment_channels=9", "has 0")),
        ("--config.train.steps=many", ("train.steps", "'many'")),
        ("--config.train.steps=1.5", ("train.steps", "'1.5'")),
        ("--config.train.flip=maybe", ("train.flip", "maybe")),
        ("--config.train.steps", ("train.steps", "=VALUE")),
        ("--config.tasks=()", ("tasks: empty",)),
        ("--config.finetune.crop=-1", ("finetune.crop", "-1 is not 0 or more")),
        ("--config.sample.guidance_interval=(2.0,1.0)", ("guidance_interval", "2.0")),
        ("--confg=3", ("'confg'", "config")),
        ("word", ("'word'", "--")),
    ],
)
def test_what_cannot_be_used_is_named(word, parts, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(["main", TINY, f"--workdir={tmp_path / 'run'}", word])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "word, part",
    [
        ("network.channels=33", "config.network: not for images of (8, 8, 1)"),
        ("data.image_size=7", "config.network: not for images of (7, 7, 1)"),
        ("data.image_size=-3", "image_size"),
    ],
)
def test_a_network_that_does_not_fit_is_named_before_training(
    word, part, tmp_path, capsys
):
    with pytest.raises(SystemExit) as stopped:
        main.main(["main", TINY, f"--workdir={tmp_path}", f"--config.{word}"])
    assert stopped.value.code == 2
    assert part in capsys.readouterr().err.splitlines()[-1]


def test_config_is_asked_for(tmp_path):
    with pytest.raises(UserError, match="name a file"):
        parse()
    with pytest.raises(UserError, match="there is no file"):
        parse(f"--config={tmp_path / 'nowhere' / 'a.py'}")
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="has no function get_config"):
        parse(f"--config={tmp_path / 'a.py'}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        parse(f"--workdir={tmp_path}")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--process_count=2", "--process_index=0"), "--coordinator=HOST:PORT"),
        (("--process_index=1",), "--coordinator=HOST:PORT"),
        (("--coordinator=localhost:1234",), "--process_count and --process_index"),
    ],
)
def test_processes_that_could_not_find_each_other_do_not_start(tmp_path, words, part):
    with pytest.raises(UserError, match=part):
        main.run(["main", TINY, f"--workdir={tmp_path}", "--task=report", *words])


def test_class_conditional_is_what_the_checkpoint_was_trained_with(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    saved = parse(
        TINY, f"--workdir={tmp_path}", "--config.train.class_conditional=True"
    )
    command_line.save(saved, tmp_path)
    for words in ((), (TINY,), (TINY, "--config.train.class_conditional=False")):
        config = parse(*words, f"--workdir={tmp_path}").settings
        assert config.train.class_conditional


def test_help_lists_flags_and_tasks():
    status, _, text = run("--help")
    assert status == 0
    for word in (
        "--workdir",
        "--task",
        "pretrain",
        "probe",
        "--config.train.batch_size=128",
    ):
        assert word in text


def test_flags_change_the_config_and_name_the_workdir():
    command = parse(TINY, "--config.train.steps=9", "--config.probe.taps=out_2,out_1")
    assert command.settings.train.steps == 9
    assert command.settings.probe.taps == ("out_2", "out_1")
    assert str(command.workdir) == "runs/digits-test"
    assert str(parse(f"--config={DIGITS}").workdir) == "runs/digits"
    assert parse(TINY, "--task=sample,report").tasks == ("sample", "report")


def test_a_process_brings_its_fields_and_its_sampler():
    config = parse(
        TINY, "--config.process.name=edm", "--config.process.p_mean=-1"
    ).settings
    assert config.process == EDM(p_mean=-1.0)
    assert config.names["sampler"] == "heun"


@pytest.fixture
def trained(tmp_path):
    """A workdir as training leaves it, as far as the command line looks."""
    words = (TINY, f"--workdir={tmp_path}", "--config.train.steps=9")
    command_line.save(parse(*words), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def test_a_later_task_uses_the_saved_config(trained):
    saved = json.loads((trained / "config.json").read_text())
    command = parse(f"--workdir={trained}", "--task=sample", "--config.sample.count=3")
    changed = {"sample": saved["sample"] | {"count": 3}}
    assert json.loads(json.dumps(plain.of_settings(command.settings))) == json.loads(
        json.dumps(saved | changed)
    )
    assert command.tasks == ("sample",)


def test_a_task_that_was_named_once_is_not_the_configs(tmp_path):
    command_line.save(parse(TINY, f"--workdir={tmp_path}", "--task=pretrain"), tmp_path)
    tasks = parse(TINY).settings.tasks
    assert parse(f"--workdir={tmp_path}").tasks == tasks
    assert len(tasks) > 1


@pytest.mark.parametrize(
    "name, content",
    [
        ("config.json", b"\xff\xfe"),
        ("config.json", b"[1, 2]"),
        ("config.json", b'{"network": {"name": ["unet"]}}'),
        ("config.json", None),
        ("data.json", b"["),
        ("data.json", None),
    ],
)
def test_a_damaged_file_of_a_workdir_is_named(trained, name, content, capsys):
    (trained / "data.json").write_text("{}")
    (trained / name).unlink()
    if content is None:
        os.mkfifo(trained / name)
    else:
        (trained / name).write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main.main(["main", f"--workdir={trained}", "--task=sample"])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {trained / name}: ")


def test_data_that_is_not_described_is_named(trained):
    (trained / "data.json").write_text('{"image_shape": 3}')
    experiment = Experiment(parse(f"--workdir={trained}").settings, trained)
    with pytest.raises(UserError, match=r"data.json: damaged: image_shape is 3"):
        _ = experiment.image_shape


def test_a_value_of_another_kind_in_the_saved_config_is_named(trained):
    path = trained / "config.json"
    saved = json.loads(path.read_text())
    saved["train"]["steps"] = ["many"]
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=r"config\.json: not the config of a run"):
        parse(f"--workdir={trained}")


@pytest.mark.parametrize(
    "word, field, kept, given",
    [
        ("network.channels=64", "network.channels", 32, 64),
        ("process.name=edm", "process.name", "'ddpm'", "'edm'"),
        ("data.image_size=16", "data.image_size", 8, 16),
        ("data.channels=3", "data.channels", None, 3),
    ],
)
def test_a_contradiction_is_said_and_what_was_trained_is_used(
    trained, caplog, word, field, kept, given
):
    config = parse(f"--workdir={trained}", f"--config.{word}").settings
    assert f"was trained with {field}={kept}: that is used, not {given}" in caplog.text
    saved = json.loads((trained / "config.json").read_text())
    for section in ("network", "process", "data"):
        assert (
            json.loads(json.dumps(plain.of_settings(config)[section])) == saved[section]
        )
    assert config.names["sampler"] == "ddim"
    parse(f"--workdir={trained}")


def test_a_field_of_another_version_is_said(trained, caplog):
    path = trained / "config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"colour": "red"}))
    assert parse(f"--workdir={trained}").settings.train.steps == 9
    assert "field colour is not known" in caplog.text


def test_every_command_is_noted(trained):
    command_line.save(parse(f"--workdir={trained}"), trained)
    lines = (trained / "commands.txt").read_text().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("python -m ddae_jax.main") for line in lines)


@pytest.mark.slow
def test_a_later_task_without_a_checkpoint_says_what_to_do(tmp_path):
    words = (TINY, f"--workdir={tmp_path}", "--task=sample")
    status, lines, _ = run(*words)
    assert status == 2
    assert "no checkpoint; run --task=pretrain first" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_mistyped_workdir_is_named_with_the_nearest(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "config.json").touch()
    (tmp_path / "digist_photos").mkdir()  # no run
    with pytest.raises(UserError, match=r"mean '.*/digits'"):
        parse(f"--workdir={tmp_path / 'digist'}", "--task=probe")
    with pytest.raises(UserError, match="there is no folder"):
        parse(f"--workdir={tmp_path / 'nowhere' / 'run'}", "--task=probe")


def test_a_config_that_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "config.py")
    with pytest.raises(UserError, match=r"config\.py: not a regular file but a named"):
        parse(f"--config={tmp_path / 'config.py'}")


def test_the_projects_own_configs_are_found_by_name_anywhere():
    command = parse("--config=cifar10:edm_ddpmpp")
    assert (command.settings.name, command.settings.names["process"]) == (
        "cifar10",
        "edm",
    )
    with pytest.raises(UserError, match="mean 'digits'"):
        parse("--config=digist")


def test_a_config_gets_what_was_registered_after_it(monkeypatch):
    config = schema.default()
    monkeypatch.setitem(OBJECTIVES, "late", Dispersive)
    schema.complete(config)
    assert config.is_locked and not config.objectives.late.on
    assert schema.build(config).section("objectives").late == Dispersive()


def test_settings_stay_what_they_are_when_more_is_registered(monkeypatch):
    config = schema.default()
    config.objectives.dispersive.on = True
    settings = schema.build(config)
    monkeypatch.setitem(OBJECTIVES, "late", Dispersive)
    ((name, objective),) = chosen(settings.section("objectives"))
    assert (name, objective) == ("dispersive", Dispersive(on=True))

"""The task fid: its numbers, where its images come from, what it refuses."""

import json
import pickle

import jax
import numpy as np
import pytest
import scipy.linalg

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.metrics.frechet import feature_sums
from ddae_jax.metrics.scores import kernel_distance, precision_recall
from ddae_jax.runtime import checkpoint
from ddae_jax.runtime.files import write_json
from ddae_jax.settings import schema
from ddae_jax.tasks import fid
from ddae_jax.tasks.fid import collect as fid_features
from ddae_jax.tasks.fid import samples as fid_samples
from ddae_jax.train import state as train_state
from tests.tools import fid as fid_tools
from tests.tools.experiments import experiment_of

STEP = 3


@pytest.fixture(scope="module")
def config():
    config = schema.default()
    config.data.name = "digits"
    config.network.image_channels = 1
    config.network.channels = 32
    config.network.channel_multipliers = (1,)
    config.network.attention = (False,)
    config.network.blocks = 1
    config.sampler.steps = 2
    config.sample.batch_size = 8
    return config


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, config):
    """A workdir with a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("run")
    data = {"image_shape": [8, 8, 1], "class_count": 10, "train_images": 1297}
    write_json(folder / "data.json", data)
    recipe = experiment_of(config).train_step(10)
    init = train_state.create(recipe.denoiser, recipe.optimizer, (8, 8, 1))
    state = jax.jit(init)(jax.random.key(7))
    with checkpoint.manager(folder, checkpoint.Keep()) as manager:
        checkpoint.save(manager, STEP, state, 0.5)
    return folder


@pytest.fixture
def settings(config, tmp_path):
    """A config whose network is the tiny one, and whose cache is empty."""
    config = config.copy_and_resolve_references()
    fid_tools.write_network(tmp_path / "net")
    config.fid.features = str(tmp_path / "net")
    config.fid.cache = str(tmp_path / "cache")
    config.fid.batch_size = 16
    config.fid.kid_subset_size, config.fid.kid_subsets = 10, 5
    return config


def measure(config, workdir):
    fid.run(experiment_of(config, workdir))
    return json.loads((workdir / "fid.json").read_text())


def distance_as_pytorch_fid(one, other):
    """Written from the formula and the steps of pytorch-fid: a matrix root by scipy."""
    (mu_1, sigma_1), (mu_2, sigma_2) = (
        (features.mean(axis=0), np.cov(features, rowvar=False))
        for features in (one, other)
    )
    root = scipy.linalg.sqrtm(sigma_1 @ sigma_2)
    if np.iscomplexobj(root):
        root = root.real
    return np.sum((mu_1 - mu_2) ** 2) + np.trace(sigma_1 + sigma_2 - 2 * root)


def two_folders(tmp_path, shape=(8, 8, 1)):
    pixels = [fid_tools.images(21, 0, shape), fid_tools.images(30, 1, shape)]
    folders = [
        fid_tools.write_folder(tmp_path / name, images)
        for name, images in zip(("samples", "reference"), pixels, strict=True)
    ]
    return pixels, folders


def test_two_folders_have_the_distance_of_pytorch_fid(settings, tmp_path):
    pixels, folders = two_folders(tmp_path)
    settings.fid.samples, settings.fid.reference = map(str, folders)
    settings.fid.precision_count = 20
    report = measure(settings, tmp_path)
    network = fid_tools.write_network(tmp_path / "net")
    fake, real = (
        np.asarray(network.chain(network.tensors, images), np.float64)
        for images in pixels
    )
    assert report["fid"] == pytest.approx(distance_as_pytorch_fid(fake, real), 1e-5)
    assert report["step"] is None
    assert report["distance"] == "Frechet distance"
    assert "not to be compared with Inception" in report["shown"]["note"]
    # Precision, recall and KID are of 20 images of both.
    real, fake = (x[fid_features.chosen(len(x), 20)] for x in (real, fake))
    shares = precision_recall(real, fake)
    assert report["precision"] == shares.precision
    assert report["recall"] == shares.recall
    kid = kernel_distance(real, fake, 10, 5)
    assert report["kid"]["mean"] == pytest.approx(kid.mean, rel=1e-4)
    protocol = report["protocol"]
    assert (protocol["sample_count"], protocol["reference_count"]) == (21, 30)
    assert protocol["precision_recall_kid_samples"] == 20
    assert protocol["weights_sha256"] == network.sha256
    assert [row[0] for row in report["shown"]["rows"]] == [
        "Frechet distance",
        "precision",
        "recall",
        "kernel distance",
    ]
    for picture in ("fid.png", "fid+2.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")

    # An .npz of the same images; no features kept.
    np.savez(tmp_path / "samples.npz", arr_0=pixels[0])
    settings.fid.samples = str(tmp_path / "samples.npz")
    settings.fid.precision_count = 0
    again = measure(settings, tmp_path)
    assert again["fid"] == pytest.approx(report["fid"], rel=1e-9)
    assert "precision" not in again and "kid" not in again


def test_published_statistics_files_are_references(settings, tmp_path):
    pixels, folders = two_folders(tmp_path)
    settings.fid.samples = str(folders[0])
    settings.fid.reference = str(folders[1])
    expected = measure(settings, tmp_path)
    network = fid_tools.write_network(tmp_path / "net")
    found = np.asarray(network.chain(network.tensors, pixels[1]))
    real = feature_sums(found).statistics()
    both = {"mu": real.mean, "sigma": real.covariance}
    np.savez(tmp_path / "counted.npz", count=real.count, **both)
    np.savez(tmp_path / "edm.npz", **both)
    np.savez(tmp_path / "adm.npz", arr_0=pixels[1], **both)
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps({"fid": both, "fd_dinov2": {}}))
    for name in ("counted.npz", "edm.npz", "adm.npz", "edm2.pkl"):
        settings.fid.reference = str(tmp_path / name)
        report = measure(settings, tmp_path)
        assert report["fid"] == pytest.approx(expected["fid"], rel=1e-6), name
        # Only ADM's file has images.
        has_images = name == "adm.npz"
        assert ("precision" in report) == ("kid" in report) == has_images
        assert ("has no images" in report["shown"]["note"]) == (not has_images)
        count = report["protocol"]["reference_count"]
        assert count == (30 if name == "counted.npz" else None)
        assert len(report["protocol"]["reference_identity"]) == 64
    np.savez(tmp_path / "images.npz", arr_0=pixels[1])
    settings.fid.reference = str(tmp_path / "images.npz")
    assert measure(settings, tmp_path)["precision"] == expected["precision"]


@pytest.mark.slow
def test_the_sampler_streams_what_the_task_sample_writes(
    settings, checkpoints, monkeypatch
):
    settings.fid.count = 21  # not a multiple of any batch
    settings.fid.keep_samples = True
    drawn = measure(settings, checkpoints)
    assert drawn["step"] == STEP
    assert drawn["protocol"]["samples"] == f"drawn from step {STEP}, EMA weights"
    folder = checkpoints / fid_samples.FOLDER
    assert len(list(folder.iterdir())) == 21
    settings.fid.keep_samples = False
    settings.fid.samples = str(folder)
    stored = measure(settings, checkpoints)
    for name in ("fid", "precision", "recall"):
        assert drawn[name] == pytest.approx(stored[name], rel=1e-5)
    settings.fid.samples = ""

    # A job that was stopped goes on where it was, with the same result.
    monkeypatch.setattr(fid_features, "_BLOCK", 5)
    monkeypatch.setattr(fid_samples, "_SAVE_SECONDS", 0)
    sampled, firsts = fid_samples.batches, []

    def stopping(config, trained, class_count, first=0):
        firsts.append(first)
        for number, batch in enumerate(sampled(config, trained, class_count, first)):
            if not first and number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(fid_samples, "batches", stopping)
    with pytest.raises(KeyboardInterrupt):
        measure(settings, checkpoints)
    assert (checkpoints / fid_samples.PARTIAL).is_file()
    resumed = measure(settings, checkpoints)
    assert firsts == [0, 8]
    for name in ("fid", "precision", "recall"):
        assert resumed[name] == pytest.approx(drawn[name], rel=1e-5)
    assert not (checkpoints / fid_samples.PARTIAL).exists()


def test_a_stopped_job_with_other_settings_begins_anew(settings, tmp_path):
    collected = fid_features.start(fid_network(settings), 9, keep=2)
    collected = collected.add(np.ones((3, 5), "f"), None)
    path, shown = tmp_path / "partial.npz", []
    fid_samples._save(path, "this job", collected, np.zeros((3, 8, 8, 1), np.uint8))
    start = fid_features.Collected()
    assert fid_samples._resume(path, "another job", start, shown) is start
    assert fid_samples._resume(path, "this job", start, shown).count == 3
    assert len(shown) == 3


def fid_network(settings):
    from ddae_jax.tasks.fid import network as fid_network

    return fid_network.feature_network(experiment_of(settings))


def test_reference_statistics_are_cached_by_content(settings, tmp_path, monkeypatch):
    _, folders = two_folders(tmp_path)
    settings.fid.samples, settings.fid.reference = map(str, folders)
    first = measure(settings, tmp_path)
    counts = []
    collect = fid_features.collect

    def counting(extract, batches, collected, *rest, **named):
        counts.append(collected.total)
        return collect(extract, batches, collected, *rest, **named)

    monkeypatch.setattr(fid_features, "collect", counting)
    second = measure(settings, tmp_path)
    assert counts == [21]
    for name in ("fid", "precision", "kid"):
        assert second[name] == first[name]
    # Another image, another network.
    (folders[1] / "0000.png").unlink()
    measure(settings, tmp_path)
    assert counts == [21, 29, 21]
    network = fid_tools.write_network(tmp_path / "net")
    changed = {name: 2 * tensor for name, tensor in network.tensors.items()}
    from ddae_jax.weights import layer_chain

    layer_chain.write(tmp_path / "net", network.chain, changed, "another", {})
    measure(settings, tmp_path)
    assert counts == [21, 29, 21, 29, 21]


@pytest.mark.slow
def test_a_classifier_of_the_digits_on_the_command_line(checkpoints, tmp_path):
    words = [
        "main",
        "--config=configs/digits.py:test",
        "--task=fid",
        f"--workdir={checkpoints}",
        "--config.network.channel_multipliers=(1,)",
        "--config.network.attention=(False,)",
        f"--config.fid.cache={tmp_path / 'cache'}",
    ]
    main.main(words)
    report = json.loads((checkpoints / "fid.json").read_text())
    name = "classifier trained on digits, 6 steps, seed 0"
    assert report["features"] == name and name in report["summary"]
    rows = {row[0]: row[1] for row in report["shown"]["rows"]}
    # The network is random: real images that it has not seen are much closer.
    assert rows["Frechet distance of real test images"] < report["fid"] / 4
    network = checkpoints / "fid_classifier" / "network.json"
    about = json.loads(network.read_text())["about"]
    assert about["images"] == 1297 and about["training_accuracy"] > 0.3
    written = network.stat().st_mtime_ns
    main.main(words)
    assert network.stat().st_mtime_ns == written
    again = json.loads((checkpoints / "fid.json").read_text())
    assert again["fid"] == report["fid"]
    main.main([*words, "--config.fid.classifier_steps=2"])
    assert network.stat().st_mtime_ns != written


def test_a_set_in_memory_and_one_on_disk_have_one_identity():
    from ddae_jax.data import identity as data_identity
    from ddae_jax.data import source as data_source

    pixels, labels = fid_tools.images(9, 0), np.zeros(9, int)
    sets = [
        data_source.from_arrays("a", "train", images, labels, ["x"])
        for images in (pixels, pixels.copy(), pixels[::-1])
    ]
    first, same, other = map(data_identity.of_source, sets)
    assert first == same != other
    streamed = data_source.from_arrays(
        "a", "train", pixels, labels, ["x"], resident_bytes=0
    )
    assert streamed.images is None
    assert data_identity.of_source(streamed) == first


@pytest.mark.parametrize(
    "change, message",
    [
        ({"samples": "empty"}, "fid.samples: .*a folder without images"),
        ({"samples": "nowhere"}, "fid.samples: there is no file or folder"),
        ({"samples": "mixed"}, "fid.samples: .*of one size"),
        ({"samples": "few"}, r"fid.samples: 3 image\(s\), at least 4"),
        ({"samples": "colours"}, r"fid.samples: images are \(8, 8, 3\), tiny network"),
        ({"reference": "empty"}, "fid.reference: .*a folder without images"),
        ({"reference": "few"}, "fid.reference: 3 image"),
        ({"reference": "wide.npz"}, "fid.reference: .*width 9, tiny .* width 5"),
        ({"reference": "wide.pkl"}, "fid.reference: .*width 9, tiny .* width 5"),
        ({"reference": "odd.npz"}, "fid.reference: .*mu is missing"),
        ({"reference": "text.npz"}, "fid.reference: .*no readable .npz"),
        ({"features": "nowhere"}, "fid.features: .*is no folder; known: empty"),
        ({"features": "few"}, "no feature network"),
        (
            {"features": ""},
            r"fid.inception: no file is given. Get pt_inception.*https://",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, tmp_path, change, message):
    pixels, folders = two_folders(tmp_path)
    (tmp_path / "empty").mkdir()
    fid_tools.write_folder(tmp_path / "few", pixels[0][:3])
    fid_tools.write_folder(tmp_path / "colours", fid_tools.images(9, 0, (8, 8, 3)))
    mixed = fid_tools.write_folder(tmp_path / "mixed", pixels[0][:5])
    fid_tools.write_folder(mixed / "more", fid_tools.images(1, 0, (9, 9, 1)))
    wide = {"mu": np.zeros(9), "sigma": np.eye(9)}
    np.savez(tmp_path / "wide.npz", **wide)
    np.savez(tmp_path / "odd.npz", something=np.zeros(9))
    (tmp_path / "wide.pkl").write_bytes(pickle.dumps({"fid": wide}))
    (tmp_path / "text.npz").write_text("nothing")
    settings.fid.samples, settings.fid.reference = map(str, folders)
    for field, value in change.items():
        settings.fid[field] = str(tmp_path / value) if value else ""
    with pytest.raises(UserError, match=message) as raised:
        fid.run(experiment_of(settings, tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fid.count": 3}, r"fid.count: 3 image\(s\), at least 4"),
        ({"data.image_size": 12}, r"images are \(12, 12, 1\), tiny network takes"),
        ({"data.channels": 3}, r"images are \(8, 8, 3\), tiny network takes"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(
    settings, checkpoints, change, message
):
    for field, value in change.items():
        section, name = field.split(".")
        settings[section][name] = value
    with pytest.raises(UserError, match=message):
        fid.run(experiment_of(settings, checkpoints))

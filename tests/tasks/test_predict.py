"""The task predict: what it writes, against a plain forward pass and scikit-learn."""

import csv
import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from ddae_jax import main
from ddae_jax.data import digits, image_files
from ddae_jax.data import source as data_source
from ddae_jax.errors import UserError
from ddae_jax.features.encode import encode_set, extract
from ddae_jax.runtime.files import write_json
from ddae_jax.runtime.random import stream
from ddae_jax.settings import schema
from ddae_jax.tasks import predict
from ddae_jax.tasks.predict import head as predict_head
from ddae_jax.tasks.predict import known
from tests.tools import dense as dense_tools
from tests.tools import runs as run_tools
from tests.tools.experiments import experiment_of

LEVEL = 0.05


@pytest.fixture(scope="module")
def test_digits():
    options = {"folder": None, "image_size": None, "channels": None}
    return digits.load("test", resident_bytes=1 << 30, **options)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, test_digits):
    """21 test digits in a folder a class, in several formats."""
    folder = tmp_path_factory.mktemp("pictures")
    kinds = ("png", "bmp", "gif", "tiff", "webp")
    for i in range(21):
        name = f"{test_digits.labels[i]}/{i:03d}.{kinds[i % 5]}"
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        options = {"lossless": True} if path.suffix == ".webp" else {}
        Image.fromarray(test_digits.images[i, ..., 0]).save(path, **options)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    dense_tools.write_checkpoint(folder)
    return folder


def make_config(pictures, **fields):
    config = dense_tools.make_config()
    config.predict.images = str(pictures)
    config.predict.tap, config.predict.noise_level = "out_2", LEVEL
    for name, value in fields.items():
        config.predict[name] = value
    return config


def read(workdir):
    with np.load(workdir / "features.npz") as file:
        features = dict(file)
    with (workdir / "predictions.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    return features, header, rows


def labels_of(rows):
    return np.array([int(row[0].split("/")[0]) for row in rows])


def test_predictions_from_the_command_line(pretrained_copy, pictures):
    workdir = pretrained_copy
    main.main(
        [
            "main",
            f"--workdir={workdir}",
            "--task=predict,report",
            f"--config.predict.images={pictures}",
            "--config.predict.train_count=0",
        ]
    )
    features, header, rows = read(workdir)
    names = [str(digit) for digit in range(10)]
    assert header == ["file", "class", "probability", *names]
    files = sorted(
        path.relative_to(pictures).as_posix()
        for path in pictures.rglob("*")
        if path.is_file() and path.suffix != ".txt"
    )
    assert [row[0] for row in rows] == files == features["files"].tolist()
    assert features["features"].shape == (21, 32)
    assert features["features"].dtype == np.float32
    assert features["class_names"].tolist() == names
    assert features["tap"] == "out_2" and features["noise_level"] < 0.06
    for _, name, best, *rest in rows:
        values = np.array(rest, float)
        assert values.sum() == pytest.approx(1, abs=1e-4)
        assert name == names[values.argmax()] and float(best) == values.max()
    right = np.mean([row[1] == row[0].split("/")[0] for row in rows])
    assert right > 0.6
    found = json.loads((workdir / "predict.json").read_text())
    assert found["step"] == 4 and sum(found["counts"].values()) == 21
    assert found["protocol"]["head trained on"] == "1297 training images of digits"
    best = [float(row[2]) for row in rows]
    assert found["mean_confidence"] == pytest.approx(np.mean(best), abs=1e-5)
    assert found["accuracy"] == pytest.approx(right)  # the folders name the classes
    assert f"accuracy {100 * right:.2f} %, by folder" in found["summary"]
    assert (workdir / "predict.png").read_bytes().startswith(b"\x89PNG")
    assert "Predictions for your images" in (workdir / "report.html").read_text()
    assert not list(workdir.glob("*.part"))


@pytest.mark.slow
def test_features_and_head_against_a_plain_loop_and_scikit_learn(
    workdir, pictures, test_digits
):
    config = make_config(pictures, train_count=200)
    predict.run(experiment_of(config, workdir))
    features, _, rows = read(workdir)
    trained = experiment_of(config, workdir).trained()
    places = [int(re.search(r"(\d+)\.", row[0])[1]) for row in rows]
    images = jnp.float32(test_digits.images[places]) / 127.5 - 1
    key = stream(config.seed, "predict/noise")
    noise = jnp.stack(
        [jax.random.normal(jax.random.fold_in(key, i), (8, 8, 1)) for i in range(21)]
    )
    time = trained.denoiser.process.time_at(jnp.array([LEVEL]))[0]
    plain = extract(trained.denoiser, trained.params, images, time, noise, ("out_2",))
    np.testing.assert_allclose(features["features"], plain["out_2"], atol=1e-4)

    train = data_source.subset(experiment_of(config).source("train"), np.arange(200))
    (encoded,) = encode_set(
        trained.encoder(("out_2",)),
        trained.params,
        trained.mesh,
        train,
        (float(time),),
        stream(config.seed, "predict/head"),
        config.predict.batch_size,
    )
    encoded = encoded["out_2"]
    mean, scale = encoded.mean(0), encoded.std(0)
    theirs = LogisticRegression(C=1 / (200 * config.probe.l2), max_iter=5000, tol=1e-8)
    theirs.fit((encoded - mean) / scale, train.labels)
    expected = theirs.predict_proba((features["features"] - mean) / scale)
    ours = np.array([row[3:] for row in rows], float)
    np.testing.assert_allclose(ours, expected, atol=0.02)


@pytest.mark.slow
def test_the_head_is_kept_for_the_same_checkpoint_and_settings(
    workdir, pictures, caplog
):
    config = make_config(pictures, train_count=150)
    predict.run(experiment_of(config, workdir))
    first, _, rows = read(workdir)
    kept = (workdir / predict_head.FILE).read_bytes()
    config.predict.batch_size = 7  # three whole batches; 21 of 16 leaves a part
    with caplog.at_level("INFO"):
        predict.run(experiment_of(config, workdir))
    assert any("predict: the head of" in text for text in caplog.messages)
    assert (workdir / predict_head.FILE).read_bytes() == kept
    again, _, same = read(workdir)
    np.testing.assert_allclose(again["features"], first["features"], atol=1e-4)
    assert [row[:2] for row in same] == [row[:2] for row in rows]
    config.probe.l2 = 1.0
    predict.run(experiment_of(config, workdir))
    assert (workdir / predict_head.FILE).read_bytes() != kept
    # With much regularisation nothing is certain.
    assert max(float(row[2]) for row in read(workdir)[2]) < 0.9
    (workdir / predict_head.FILE).write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=r"head\.npz: damaged; delete it"):
        predict.run(experiment_of(config, workdir))
    (workdir / predict_head.FILE).unlink()


@pytest.mark.slow
def test_a_fine_tuned_network_predicts(workdir, pictures):
    config = make_config(pictures, head="finetune")
    with pytest.raises(UserError, match="nothing is fine-tuned there"):
        predict.run(experiment_of(config, workdir))
    head = dense_tools.write_finetuned(workdir, config)
    predict.run(experiment_of(config, workdir))
    features, header, rows = read(workdir)
    assert header[3:] == ["cat", "dog", "owl"] and features["tap"] == "out_1"
    scores = features["features"] @ head["kernel"] + head["bias"]
    expected = jax.nn.softmax(scores)
    found = np.array([row[3:] for row in rows], float)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    shutil.rmtree(workdir / "finetune")


def test_features_alone_as_in_the_document(workdir, pictures, monkeypatch, capsys):
    """Runs the code of docs/features_in_sklearn.md on these features."""
    shutil.rmtree(workdir / "more", ignore_errors=True)
    train = experiment_of(dense_tools.make_config()).source("train")
    for i in range(200):
        name = f"more/{train.labels[i]}/{i}.png"
        dense_tools.save(workdir / name, train.images[i, ..., 0])
    (workdir / "predictions.csv").unlink(missing_ok=True)
    predict.run(experiment_of(make_config(workdir / "more", head=""), workdir))
    assert not (workdir / "predictions.csv").exists()
    found = json.loads((workdir / "predict.json").read_text())
    assert found["images"] == 200 and found["protocol"]["head"] == "none"
    (workdir / "runs" / "digits").mkdir(parents=True)
    shutil.copy(workdir / "features.npz", workdir / "runs" / "digits")
    monkeypatch.chdir(workdir)
    text = (run_tools.ROOT / "docs" / "features_in_sklearn.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(code, names)  # our own document
    assert names["accuracies"].mean() > 0.5
    printed = capsys.readouterr().out
    assert printed.startswith("accuracy 0.") and printed.count("{") == 10


@pytest.mark.parametrize("enlarge", [False, True])
def test_files_are_brought_to_the_images_of_the_data_set(tmp_path, enlarge):
    grey = np.full((4, 6), 90, np.uint8)
    dense_tools.save(tmp_path / "small.png", grey)
    dense_tools.save(tmp_path / "large.png", np.stack([grey.repeat(9, 0)] * 3, -1))
    read = image_files.read(tmp_path / "small.png", (8, 8, 1), enlarge)
    assert (read == 90).sum() == (64 if enlarge else 24)
    large = image_files.read(tmp_path / "large.png", (8, 8, 1), enlarge)
    assert large.shape == (8, 8, 1) and (large == 90).all()
    colour = image_files.read(tmp_path / "large.png", (8, 8, 3), enlarge)
    assert colour.shape == (8, 8, 3)
    with pytest.raises(UserError, match=r"small\.png: 4x6 pixels; this network takes"):
        image_files.read(tmp_path / "small.png", (8, 10, 1), enlarge)


def unreadable(folder):
    (folder / "b.png").write_bytes(b"\x89PNG broken")


@pytest.mark.parametrize(
    "prepare, fields, message",
    [
        (None, {}, r"predict\.images: no images in .*, it is empty"),
        (
            lambda f: (f / "a.txt").write_text(""),
            {},
            r"predict\.images: no images in .*; it holds a\.txt",
        ),
        (
            lambda f: os.mkfifo(f / "a.png"),
            {},
            r"predict\.images: no images in .*; it holds a\.png",
        ),
        (unreadable, {"head": ""}, r"b\.png: not a readable image"),
        (unreadable, {"images": "/nowhere"}, r"there is no file or folder /nowhere"),
        (unreadable, {"images": ""}, r"predict\.images: name a file or a folder"),
        (unreadable, {"train_count": 1}, r"the 1 training images .* one class"),
        (unreadable, {"train_count": 8}, r"train_count: 8 training images .* 10"),
        (unreadable, {"train_count": 10}, r"train_count: the 10 training images .* 10"),
        (
            unreadable,
            {"noise_level": 1e9},
            r"predict\.noise_level: 1000000000\.0 is not",
        ),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    workdir, tmp_path, prepare, fields, message
):
    if prepare:
        prepare(tmp_path)
    fields = {"images": str(tmp_path)} | fields
    with pytest.raises(UserError, match=message) as raised:
        predict.run(experiment_of(make_config(tmp_path, **fields), workdir))
    assert "\n" not in str(raised.value)


def test_tap_and_noise_level_are_the_probes_unless_given(workdir, pictures):
    config = make_config(pictures, head="", tap="", noise_level=0.0)
    chosen = {"tap": "out_1", "given": 21, "time": 21.0, "noise_level": 0.0794}
    write_json(workdir / "probe.json", {"chosen": chosen})
    denoiser = experiment_of(config).denoiser
    choose = predict_head.cell.choose
    cell = choose(experiment_of(config, workdir), "predict", denoiser)
    assert (cell.tap, cell.time.time) == ("out_1", 21.0)
    config.predict.tap = "out_2"
    assert choose(experiment_of(config, workdir), "predict", denoiser).tap == "out_2"
    config.predict.noise_level = 1.0
    found = choose(experiment_of(config, workdir), "predict", denoiser)
    assert found.time.noise_level == pytest.approx(1, rel=0.01)
    config.predict.tap = ""
    write_json(workdir / "probe.json", {"chosen": chosen | {"tap": "out_1+out_2"}})
    found = choose(experiment_of(config, workdir), "predict", denoiser)
    assert found.tap == "out_2" and "that the probe joined" in found.chosen_by
    write_json(workdir / "probe.json", {"chosen": chosen | {"tap": "out_99"}})
    with pytest.raises(UserError, match=r"no tap out_99; set config\.predict\.tap"):
        choose(experiment_of(config, workdir), "predict", denoiser)
    (workdir / "probe.json").unlink()
    found = choose(experiment_of(schema.default(), workdir), "predict", denoiser)
    assert (found.tap, found.time.noise_level) == ("out_2", pytest.approx(0.05, 0.05))


def test_folders_of_other_names_tell_no_classes():
    assert known.of_folders(["cat/1.png", "a/dog/2.png"], ("cat", "dog")).tolist() == [
        0,
        1,
    ]
    assert known.of_folders(["cat/1.png", "bird/2.png"], ("cat", "dog")) is None
    assert known.of_folders(["1.png"], ("cat", "1.png")) is None

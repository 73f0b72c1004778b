"""What --task=explore answers, and what it refuses; a browser: test_explore_browser."""

import base64
import contextlib
import http.client
import importlib.util
import io
import json
import urllib.parse
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from ddae_jax.data import image_files
from ddae_jax.data import source as data_source
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.flow import Flow
from ddae_jax.diffusion.times import at_level
from ddae_jax.errors import UserError
from ddae_jax.features.encode import encode_set
from ddae_jax.heads import retrieval
from ddae_jax.tasks import explore
from ddae_jax.tasks.explore import levels, panel, uploads
from ddae_jax.tasks.explore.explorer import Explorer
from tests.tools import probes
from tests.tools.experiments import experiment_of


class Client:
    """Asks the real server, by whatever name and for whichever page."""

    def __init__(self, port):
        self.port = port
        self.own = {"origin": f"http://127.0.0.1:{port}"}

    def ask(self, path, content=None, **headers):
        """(status, headers, content)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            method = "GET" if content is None else "POST"
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request(method, path, content, named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def view(self, status=200, **changed):
        """What "/view" is answered with."""
        asked = {"source": "chosen", "number": 1, "level": 9, "tap": "out_1"}
        query = urllib.parse.urlencode(asked | changed)
        answered, _, content = self.ask(f"/view?{query}")
        assert answered == status, content
        return json.loads(content)

    def upload(self, content, status=200):
        """What "/upload" is answered with, asked by the own page."""
        answered, _, text = self.ask("/upload", content, **self.own)
        assert answered == status, text
        return json.loads(text)


@pytest.fixture(scope="module")
def experiment(probe_workdir):
    config = probes.make_config()
    config.explore.count, config.explore.references = 3, 40
    config.explore.batch_size = config.explore.neighbours = 16
    config.explore.taps = ("out_2", "out_1")
    return experiment_of(config, probe_workdir)


@pytest.fixture(scope="module")
def explorer(experiment):
    return explore.open_explorer(experiment)


@pytest.fixture(scope="module")
def client(experiment, explorer):
    for name in ("starlette", "uvicorn"):
        pytest.importorskip(name, reason="needs pip install 'ddae_jax[explore]'")
    from ddae_jax.tasks.explore import application, serving

    kept = uploads.Uploads(experiment, explorer.trained)
    page = panel.render(experiment, explorer)
    served = application.application(explorer, kept, page)
    with serving.listen(0) as listening, serving.started(served, listening):
        yield Client(listening.getsockname()[1])


def pixels(url):
    content = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def png(*size, mode="RGB"):
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("process", "least", "most"),
    [(DDPM(), 0.01, 80), (EDM(), 0.002, 80), (Flow(), 0.002, 80)],
)
def test_levels_are_even_over_the_range_of_the_process(process, least, most):
    opened_at = at_level(process, 0.05, "level")
    found = levels.of(process, opened_at)
    values = np.array([level.noise_level for level in found])
    assert opened_at in found
    np.testing.assert_allclose([values[0], values[-1]], [least, most], rtol=0.13)
    steps = np.diff(np.log10(values))
    assert (steps > 0.03).all() and (steps < 0.2).all()
    assert len({level.time for level in found}) == len(found)


def test_the_page_is_the_report_with_one_tab_more(client, explorer):
    status, headers, content = client.ask("/")
    assert status == 200
    text = content.decode()
    assert 'id="tab-explore"' in text and 'id="tab-provenance"' in text
    assert "connect-src 'self'" in text and "default-src 'none'" in text
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    shown = json.loads(text.split("data-levels='")[1].split("'")[0])
    assert shown == [level.noise_level for level in explorer.levels]


def test_neighbours_are_those_of_the_features_at_that_noise_level(
    client, explorer, experiment
):
    """As `predict` and `dense` make features, by the same functions."""
    trained, time = explorer.trained, explorer.levels[9].time

    def features(source, stream):
        key = experiment.stream(stream)
        encode = trained.encoder(("out_1",))
        words = (trained.variables, trained.mesh, source, (time,), key, 16)
        return retrieval.normalise(encode_set(encode, *words)[0]["out_1"])

    asked = data_source.subset(explorer.chosen.source, [1])
    references = explorer.references
    cosines = (
        features(asked, "explore/noise")
        @ features(references.source, "explore/references").T
    )[0]
    found = client.view()["neighbours"]
    best = np.argsort(-cosines)[:16]
    assert len(references.names) == 40 and len(found) == 16
    np.testing.assert_allclose(
        [one["cosine"] for one in found], cosines[best], atol=1e-5
    )
    nearest = references.source.read(best[:1])[0, ..., 0]
    np.testing.assert_array_equal(pixels(found[0]["image"]), nearest)
    assert found[0]["name"] == references.names[best[0]]


def test_the_slider_changes_what_is_shown(client, explorer):
    clean = explorer.chosen.source.read([1])[0, ..., 0].astype(int)
    found = [client.view(level=level) for level in (0, 9, 25)]
    away = [np.abs(pixels(one["noisy"]) - clean).mean() for one in found]
    assert away[0] < 5 < away[1] < away[2]
    for tap in ("out_2", "out_1"):
        maps = [pixels(one["maps"][tap]["colours"]) for one in found]
        size = found[0]["maps"][tap]["size"]
        assert size == "{}x{}".format(*maps[0].shape[:2])
        assert not np.array_equal(maps[0], maps[2])
    assert [one["noise_level"] for one in found] == [
        explorer.levels[level].noise_level for level in (0, 9, 25)
    ]
    assert client.view(level=0) == found[0]  # kept, or computed anew: the same


@pytest.mark.slow
def test_classes_are_shown_where_there_is_a_head(client, explorer, experiment):
    assert explorer.predictor is None and client.view()["classes"] == []
    (experiment.workdir / "probe.json").write_text(
        json.dumps(
            {"chosen": {"tap": "out_1", "given": 1, "time": 1.0, "noise_level": 0.01}}
        )
    )
    try:
        changed = experiment.changed("predict", train_count=200)
        found = explore.open_explorer(changed)
    finally:
        (experiment.workdir / "probe.json").unlink()
    image = found.chosen.source.read([0])[0]
    shown = found.explored(image, found.opened_at, "out_1").probabilities
    assert shown.shape == (10,) and shown.sum() == pytest.approx(1)
    (expected,) = encode_set(
        found.predictor.encode,
        found.trained.variables,
        found.trained.mesh,
        data_source.subset(found.chosen.source, [0]),
        (1.0,),
        experiment.stream("explore/noise"),
        1,
    )
    expected = found.predictor.head.probabilities(expected["out_1"])[0]
    np.testing.assert_allclose(shown, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"level": "99"}, "level: 0 to 38"),
        ({"level": "-1"}, "level"),
        ({"level": "9" * 5000}, "level"),
        ({"level": "²"}, "level"),
        ({"number": 3}, "number: 0 to 2"),
        ({"tap": "<b>"}, "tap"),
        ({"source": "/etc/passwd"}, "source"),
        ({"source": "upload", "number": 77}, "choose it again"),
    ],
)
def test_a_wrong_question_is_answered_by_one_line(client, asked, line):
    error = client.view(400, **asked)["error"]
    assert line in error and "\n" not in error


def test_an_image_of_the_users_own_is_brought_to_the_networks_size(client, tmp_path):
    content = png(40, 30)
    answer = client.upload(content)
    path = tmp_path / "own.png"
    path.write_bytes(content)
    expected = image_files.read(path, (8, 8, 1), image_files.enlarges("digits"))
    shown = pixels(answer["image"])
    np.testing.assert_array_equal(shown, expected[..., 0])
    seen = client.view(source="upload", number=answer["number"], level=0)
    assert np.abs(pixels(seen["noisy"]).astype(int) - shown).mean() < 5


def giant():
    """A PNG file whose header tells of 10^10 pixels."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check

    sides = (100_000).to_bytes(4, "big") * 2
    header = chunk(b"IHDR", sides + b"\x08\0\0\0\0")
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0"))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "not a readable image"),
        (b"<svg onload=alert(1)>", "not a readable image"),
        (png(20, 20)[:200], "not a readable image"),
        (giant(), "your image: "),
        (png(8000, 6300, mode="1"), "at most 50 million"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS is not read"),
        (b"0" * (uploads.MOST_BYTES + 1), "at most 32 MiB"),
    ],
    ids=("empty", "svg", "cut", "giant", "large", "eps", "long"),
)
def test_a_file_that_cannot_be_used_is_answered_by_one_line(client, content, line):
    error = client.upload(content, 400)["error"]
    assert line in error and "\n" not in error


def test_only_the_last_uploads_are_kept(experiment, explorer):
    kept = uploads.Uploads(experiment, explorer.trained)
    numbers = [kept.add(png(8, 8)) for _ in range(33)]
    assert len(set(numbers)) == 33 and kept.get(numbers[-1]).shape == (8, 8, 1)
    with pytest.raises(UserError, match="choose it again"):
        kept.get(numbers[0])


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {"host": "evil.org"}, 400),
        ("/view", {"host": "127.0.0.1.evil.org"}, 400),
        ("/view", {"origin": "http://evil.org"}, 403),
        ("/view", {"origin": "null"}, 403),
        ("/view", {"origin": "http://127.0.0.1:81"}, 403),
        ("/view", {"sec_fetch_site": "cross-site"}, 403),
        ("/view", {"sec_fetch_site": "same-site"}, 403),
        ("/", {"sec_fetch_site": "cross-site"}, 200),
        # Through a tunnel the port is another one.
        ("/", {"host": "localhost:99", "origin": "http://localhost:99"}, 200),
        ("/other", {}, 404),
    ],
)
def test_pages_of_other_origins_are_refused(client, path, headers, status):
    assert client.ask(path, **headers)[0] == status


@pytest.mark.parametrize("headers", [{}, {"origin": "http://evil.org"}])
def test_nothing_is_taken_from_pages_of_other_origins(client, headers):
    assert client.ask("/upload", png(8, 8), **headers)[0] == 403


def test_the_extra_is_named_where_it_is_missing(experiment, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "ddae_jax\[explore\]"'):
        explore.run(experiment)


def test_it_takes_one_process(experiment, client, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="one process, and this run has 2"):
        explore.run(experiment)


def test_a_port_that_is_taken_is_one_line(experiment, client):
    from ddae_jax.tasks.explore import serving

    with serving.listen(0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"explore\.port: {port}: .*in use"):
            explore.run(experiment.changed("explore", port=port))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"neighbours": 41}, "config.explore.neighbours: 41 of 40 references"),
        ({"taps": ("out_9",)}, "config.explore.taps: no tap 'out_9'"),
        ({"images": "nowhere"}, "config.explore.images: there is no file"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(experiment, explorer, changed, line):
    with pytest.raises(UserError, match=line):
        Explorer(experiment.changed("explore", **changed), explorer.trained, None)

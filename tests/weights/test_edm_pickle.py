"""NVlabs' network pickles, written as its own classes write themselves."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.settings import saved, schema
from ddae_jax.tasks import import_weights
from ddae_jax.weights import edm_pickle
from tests.tools import golden_values, persistent_modules
from tests.tools.experiments import experiment_of

FACTS = dict(img_resolution=16, img_channels=3, sigma_data=0.5, sigma_max=float("inf"))
CLASSES, LABEL = 5, 3


@pytest.fixture(autouse=True, scope="module")
def torch():
    """Writes the files; what reads them needs no torch."""
    return pytest.importorskip(
        "torch", reason="torch is not installed: pip install ddae_jax[torch]"
    )


def conditional(state):
    """`state` of a conditional network that is the golden one for class LABEL.

    A label adds sqrt(CLASSES) times its column, and the bias, to what linear layer 0
    of the embedding takes.
    """
    rng = np.random.default_rng(0)
    first = state["model.map_layer0.weight"]
    weight = rng.standard_normal((first.shape[1], CLASSES), np.float32)
    bias = rng.standard_normal(first.shape[1], np.float32)
    added = first @ (np.sqrt(CLASSES) * weight[:, LABEL] + bias)
    return dict(state) | {
        "model.map_label.weight": weight,
        "model.map_label.bias": bias,
        "model.map_layer0.bias": (state["model.map_layer0.bias"] - added).astype(
            np.float32
        ),
    }


def content(state, classes, **attributes):
    """What a snapshot of its training holds."""
    facts = FACTS | dict(label_dim=classes, use_fp16=False) | attributes
    return {
        "ema": persistent_modules.network(state, **facts),
        "loss_fn": persistent_modules.persistent("EDMLoss", sigma_data=0.5),
        "augment_pipe": persistent_modules.persistent("AugmentPipe", p=0.12),
        "dataset_kwargs": {"path": "cifar10.zip", "use_labels": bool(classes)},
    }


def golden_state(name, classes):
    state = golden_values.state(golden_values.load(name)[0])
    return conditional(state) if classes else state


@pytest.mark.parametrize("classes", [0, CLASSES])
@pytest.mark.parametrize("name", ["edm_ddpmpp_small", "edm_ncsnpp_small"])
def test_edm_pickles_import_and_compute_what_their_code_computes(
    name, classes, tmp_path
):
    state = golden_state(name, classes)
    path = tmp_path / "edm.pkl"
    path.write_bytes(persistent_modules.dumps(content(state, classes), 4))
    config = schema.default()
    config.import_weights.path = str(path)
    import_weights.run(experiment_of(config, tmp_path / "w"))
    config = saved.read(tmp_path / "w")
    assert config.network.num_classes == classes
    assert (config.process.name, config.process.sigma_data) == ("edm", 0.5)
    assert config.sampler.clip is False
    trained = experiment_of(config, tmp_path / "w").trained()
    bias = trained.params["embedding"]["linear1"]["bias"]
    np.testing.assert_array_equal(bias, state["model.map_layer0.bias"])

    _, arrays = golden_values.load(name)
    found = trained.denoiser.x0(
        trained.params,
        jnp.array(golden_values.nhwc(arrays["in/x"])),
        jnp.array(arrays["in/sigma"]),
        jnp.full(2, LABEL) if classes else None,
    )
    expected = golden_values.nhwc(arrays["out/denoised_noaug"])
    assert golden_values.relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("classes", [0, CLASSES])
def test_every_form_of_pickle_is_read_without_its_code(torch, classes, tmp_path):
    state = golden_state("edm_ddpmpp_small", classes)
    written = content(state, classes)
    # A buffer that is not saved with the network.
    written["ema"].register_buffer("passing", torch.zeros(2), persistent=False)
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    files = [persistent_modules.dumps(written, protocol) for protocol in range(2, 6)]
    assert all(new in file or old in file for file in files)
    # As numpy before version 2 wrote them.
    files += [file.replace(new, old) for file in files[:2]]
    path = tmp_path / "edm.pkl"
    for file in files:
        path.write_bytes(file)
        found = edm_pickle.read(path)
        assert (found.image_shape, found.sigma_data) == ((16, 16, 3), 0.5)
        assert found.state.keys() == state.keys()
        for name, array in found.state.items():
            np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_truncated_and_alien_edm_pickles(torch, tmp_path):
    path = tmp_path / "edm.pkl"
    state = golden_state("edm_ddpmpp_small", 0)
    file = persistent_modules.dumps(content(state, 0), 4)
    path.write_bytes(file[: len(file) // 2])
    with pytest.raises(UserError, match="corrupt or truncated"):
        edm_pickle.read(path)
    network = persistent_modules.network
    for alien, reason in [
        ({"model": 1}, 'holds no network "ema"'),
        ({"ema": network({}, "VPPrecond")}, "VPPrecond"),
        ({"ema": network({})}, "img_resolution"),
        ({"ema": torch.nn.Linear(1, 1)}, r"asks for torch\.nn\.modules\.linear\.Lin"),
    ]:
        path.write_bytes(persistent_modules.dumps(alien, 4))
        with pytest.raises(UserError, match=reason) as error:
            edm_pickle.read(path)
        assert "\n" not in str(error.value)

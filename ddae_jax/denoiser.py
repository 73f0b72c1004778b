"""A denoiser is a network under a process: it gives x0, the noise, or the taps."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ddae_jax.diffusion.process import Process
from ddae_jax.errors import UserError
from ddae_jax.models.base import Network
from ddae_jax.runtime import piecewise

Images = Float[Array, "batch height width channels"]
Times = Float[Array, "batch"]
Labels = Int[Array, "batch"]


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network and the process whose noise it was trained to remove.

    `params` is always the tree below flax's "params" collection.
    """

    network: Network
    process: Process

    def init(self, key: PRNGKeyArray, image_shape: Sequence[int]) -> dict:
        """Draws parameters for images of shape (height, width, channels).

        Raises:
          UserError: the network cannot take such images.
        """
        images = jnp.zeros((1, *image_shape), jnp.float32)
        time = jnp.ones((1,), jnp.float32)
        params = self.network.init(key, images, time)["params"]
        # Weights that training keeps normalised are so before its first step, too.
        return self.network.project(params)

    def output(
        self,
        params: dict,
        x_t: Images,
        time: Times,
        labels: Labels | None = None,
        augment_labels: Float[Array, "batch augment"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Images:
        """The network's raw output; a dropout key means training mode.

        Under a process of learned variance it has twice the channels of the images.

        Raises:
          UserError: the output is not of that shape, or the network cannot take what it
            is given.
        """
        inputs = (x_t, time, labels, augment_labels, dropout_key)
        return self.output_and_taps(params, *inputs)[0]

    def x0(
        self, params: dict, x_t: Images, time: Times, labels: Labels | None = None
    ) -> Images:
        """Estimate of the clean image, not clipped."""
        return self.process.x0(self.output(params, x_t, time, labels), x_t, time)

    def loss(
        self,
        params: dict,
        x0: Images,
        noise: Images,
        time: Times,
        labels: Labels | None = None,
        augment_labels: Float[Array, "batch augment"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch"]:
        """The process's training loss per example; see `output` for errors."""
        x_t = self.process.add_noise(x0, noise, time)
        output = self.output(params, x_t, time, labels, augment_labels, dropout_key)
        return self.loss_of(params, output, x0, noise, x_t, time)

    def loss_of(
        self,
        params: dict,
        output: Images,
        x0: Images,
        noise: Images,
        x_t: Images,
        time: Times,
    ) -> Float[Array, "batch"]:
        """The process's training loss per example, of a raw output for `x_t`."""
        losses = self.process.loss(output, x0, noise, x_t, time)
        if self.network.uncertainty:
            # Karras et al. 2024 (EDM2), eq. 15
            _, network_time = self.process.network_inputs(x_t, time)
            log_variance = self.network.apply(
                {"params": params}, network_time, method="log_variance"
            )
            losses = losses / jnp.exp(log_variance) + log_variance
        return losses

    def _check_output(self, output: Images, x_t: Images) -> None:
        """An output of another shape would broadcast, and train to noise."""
        *size, channels = x_t.shape
        doubled = self.process.learned_variance
        wanted = (*size, channels * (2 if doubled else 1))
        if output.shape != wanted:
            raise UserError(
                f"the network makes {output.shape[1:]} of images {x_t.shape[1:]}; the "
                f"process needs {wanted[1:]}"
            )

    def taps(
        self,
        params: dict,
        x_t: Images,
        time: Times,
        names: Sequence[str],
        labels: Labels | None = None,
        augment_labels: Float[Array, "batch augment"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> dict[str, Array]:
        """Intermediate outputs of one forward pass; a dropout key means training mode.

        Only the named taps are returned, so XLA drops every layer after the deepest.

        Raises:
          UserError: the network has no tap of that name.
        """
        inputs = (x_t, time, labels, augment_labels, dropout_key, names)
        return self._pass(params, *inputs)[1]

    def output_and_taps(
        self,
        params: dict,
        x_t: Images,
        time: Times,
        labels: Labels | None = None,
        augment_labels: Float[Array, "batch augment"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
        names: Sequence[str] = (),
    ) -> tuple[Images, dict[str, Array]]:
        """`output` and `taps` of one forward pass; for errors see there."""
        inputs = (x_t, time, labels, augment_labels, dropout_key, names)
        output, taps = self._pass(params, *inputs)
        self._check_output(output, x_t)
        return output, taps

    def _pass(self, params, x_t, time, labels, augment_labels, dropout_key, names):
        paths = self.network.tap_paths()
        for name in names:
            if name not in paths:
                raise UserError(f"no tap {name!r}; known: {', '.join(paths)}")
        wanted = {paths[name] for name in names}
        scaled, network_time = self.process.network_inputs(x_t, time)
        output, state = self.network.apply(
            {"params": params},
            scaled,
            network_time,
            labels,
            augment_labels,
            train=dropout_key is not None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
            capture_intermediates=lambda module, method: (
                method == "__call__" and "/".join(module.path) in wanted
            ),
            mutable=["intermediates"],
        )
        captured = state.get("intermediates", {})

        def find(path):
            node = captured
            for part in path.split("/"):
                node = node[part]
            return node["__call__"][0]

        return output, {name: find(paths[name]) for name in names}

    def any_labels(self, count: int) -> Labels | None:
        """Labels to trace a program with: None, where the network can do without."""
        network = self.network
        if network.num_classes and network.null_label is None:
            return jnp.zeros(count, jnp.int32)
        return None

    def tap_shapes(
        self, image_shape: Sequence[int], names: Sequence[str]
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the taps of one image, with an axis of the batch of 1."""
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        time = jax.ShapeDtypeStruct((1,), jnp.float32)
        return jax.eval_shape(
            lambda params, x_t, time: self.taps(
                params, x_t, time, names, self.any_labels(1)
            ),
            self.parameter_shapes(image_shape),
            images,
            time,
        )

    def parameter_shapes(self, image_shape: Sequence[int]) -> dict:
        """The tree of parameters as ShapeDtypeStructs, nothing computed."""
        return _init.eval_shape(jax.random.key(0), self, tuple(image_shape))

    def init_program(self, image_shape: Sequence[int]) -> ClosedJaxpr:
        """`init` as a function of the key, traced: key -> leaves of the tree."""
        return _init.trace(jax.random.key(0), self, tuple(image_shape)).jaxpr

    def parameter_count(self, image_shape: Sequence[int]) -> int:
        """Number of parameters that training may change."""
        shapes = self.parameter_shapes(image_shape)
        trainable = self.network.trainable(shapes)
        sizes = jax.tree.map(lambda leaf, kept: leaf.size * kept, shapes, trainable)
        return sum(jax.tree.leaves(sizes))

    def used_parameters(self, image_shape: Sequence[int], tap: str) -> tuple[str, ...]:
        """ "/"-joined paths of the parameters that enter the computation of `tap`.

        Found in the traced program, backwards from the tap, so that it holds for every
        network. Among them may be `fixed_parameters` of the network, which get no
        gradient.

        Raises:
          UserError: the network has no tap of that name.
        """
        shapes = flatten_dict(self.parameter_shapes(image_shape), sep="/")

        def output(leaves):
            params = unflatten_dict(dict(zip(shapes, leaves, strict=True)), sep="/")
            images = jnp.zeros((1, *image_shape))
            labels = self.any_labels(1)
            return self.taps(params, images, jnp.ones(1), (tap,), labels)[tap]

        program = jax.make_jaxpr(output)(list(shapes.values()))
        [(_, variables)] = piecewise.needed(program)
        pairs = zip(shapes, program.jaxpr.invars, strict=True)
        return tuple(path for path, variable in pairs if variable in variables)


# Traced once for all who ask for shapes.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _init(key: PRNGKeyArray, denoiser: Denoiser, image_shape: tuple[int, ...]) -> dict:
    return denoiser.init(key, image_shape)

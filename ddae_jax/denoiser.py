"""A denoiser is a network under a process: it gives x0, the noise, or the taps."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ddae_jax.diffusion.process import Process
from ddae_jax.errors import UserError

Images = Float[Array, "batch height width channels"]
Times = Float[Array, "batch"]
Labels = Int[Array, "batch"]


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network and the process whose noise it was trained to remove.

    `params` is always the tree below flax's "params" collection.
    """

    network: nn.Module
    process: Process

    def init(self, key: PRNGKeyArray, image_shape: Sequence[int]) -> dict:
        """Draws parameters for images of shape (height, width, channels)."""
        images = jnp.zeros((1, *image_shape), jnp.float32)
        time = jnp.ones((1,), jnp.float32)
        params = self.network.init(key, images, time)["params"]
        # Weights that training keeps normalised are so before its first step, too.
        if hasattr(self.network, "project"):
            return self.network.project(params)
        return params

    def output(
        self,
        params: dict,
        x_t: Images,
        time: Times,
        labels: Labels | None = None,
        augment_labels: Float[Array, "batch augment"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Images:
        """The network's raw output; a dropout key means training mode."""
        scaled, network_time = self.process.network_inputs(x_t, time)
        return self.network.apply(
            {"params": params},
            scaled,
            network_time,
            labels,
            augment_labels,
            train=dropout_key is not None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )

    def x0(
        self, params: dict, x_t: Images, time: Times, labels: Labels | None = None
    ) -> Images:
        """Estimate of the clean image, unclipped."""
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
        """The process's training loss of each example."""
        x_t = self.process.add_noise(x0, noise, time)
        output = self.output(params, x_t, time, labels, augment_labels, dropout_key)
        self._check_output(output, x0)
        losses = self.process.loss(output, x0, noise, x_t, time)
        if getattr(self.network, "uncertainty", False):
            # Karras et al. 2024 (EDM2), eq. 15
            _, network_time = self.process.network_inputs(x_t, time)
            log_variance = self.network.apply(
                {"params": params}, network_time, method="log_variance"
            )
            losses = losses / jnp.exp(log_variance) + log_variance
        return losses

    def _check_output(self, output: Images, x0: Images) -> None:
        """An output of another shape would broadcast, and train to noise."""
        *size, channels = x0.shape
        doubled = hasattr(self.process, "x0_and_variance")
        wanted = (*size, channels * (2 if doubled else 1))
        if output.shape != wanted:
            raise UserError(
                f"the network gives {output.shape[1:]} for images of {x0.shape[1:]}; "
                f"its process needs {wanted[1:]}"
            )

    def taps(
        self,
        params: dict,
        x_t: Images,
        time: Times,
        names: Sequence[str],
        labels: Labels | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> dict[str, Array]:
        """Intermediate outputs of one forward pass; a dropout key means training mode.

        Only the named taps are returned, so XLA drops every layer behind the deepest.

        Raises:
          UserError: the network has no tap of that name.
        """
        paths = self.network.tap_paths()
        for name in names:
            if name not in paths:
                raise UserError(f"no tap {name!r}; known: {', '.join(paths)}")
        wanted = {paths[name] for name in names}
        scaled, network_time = self.process.network_inputs(x_t, time)
        _, state = self.network.apply(
            {"params": params},
            scaled,
            network_time,
            labels,
            train=dropout_key is not None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
            capture_intermediates=lambda module, method: (
                method == "__call__" and "/".join(module.path) in wanted
            ),
            mutable=["intermediates"],
        )
        captured = state["intermediates"]

        def find(path):
            node = captured
            for part in path.split("/"):
                node = node[part]
            return node["__call__"][0]

        return {name: find(paths[name]) for name in names}

    def parameter_shapes(self, image_shape: Sequence[int]) -> dict:
        """The tree of parameters as ShapeDtypeStructs, nothing computed."""
        return jax.eval_shape(
            lambda key: self.init(key, image_shape), jax.random.key(0)
        )

    def parameter_count(self, image_shape: Sequence[int]) -> int:
        """Number of trainable parameters."""
        shapes = self.parameter_shapes(image_shape)
        flat = flax.traverse_util.flatten_dict(shapes, sep="/")
        fixed = getattr(self.network, "fixed_parameters", ())
        return sum(leaf.size for path, leaf in flat.items() if path not in fixed)

"""What classifiers of noisy images see of a process: times, and what tells the noise.

Two conventions (DDAE's code, Xiang et al., arXiv 2303.09769). A *head* on features is
told the published index of a time: DDPM's t in 1..T, EDM's place in the 18-step
schedule. A *network* from scratch is told t/T (VP) or ln(sigma) (VE), as in Song et
al. 2021 (arXiv 2011.13456). The publication has neither for flows and DiT: there the
index is 1000 t and DiT's own 0-based t, and the network is told t and t/T.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.dit_process import LearnedVarianceDDPM
from ddae_jax.diffusion.edm import EDM, PROBE_STEPS
from ddae_jax.diffusion.flow import Flow
from ddae_jax.diffusion.process import Process

TEST_POINTS = 20
"""Times at which a process with T steps, or a flow, is tested."""

# A flow's time in the unit of DDPM's, for which the sinusoid was made.
_FLOW_SCALE = 1000


def head_times(
    process: Process, key: PRNGKeyArray, count: int
) -> Float[Array, "count"]:
    """Draws the process's own times to train a head at.

    EDM's are uniform over the 18 sigmas of the published schedule; those of other
    processes are the ones that their denoiser was trained at.
    """
    if isinstance(process, EDM):
        sigmas = process.schedule(PROBE_STEPS)[::-1].astype(np.float32)
        index = jax.random.randint(key, (count,), 1, PROBE_STEPS + 1)
        return jnp.asarray(sigmas)[index]
    return process.training_times(key, count)


def head_condition(
    process: Process, time: Float[Array, "batch"]
) -> Float[Array, "batch"]:
    """Returns what a head is told: the published index, between them a real number."""
    if isinstance(process, EDM):
        low, high = (
            sigma ** (1 / process.rho)
            for sigma in (process.sigma_min, process.sigma_max)
        )
        root = time ** (1 / process.rho)
        return 1 + (PROBE_STEPS - 1) * (root - low) / (high - low)
    if isinstance(process, Flow):
        return _FLOW_SCALE * time
    return time


def network_times(
    process: Process, key: PRNGKeyArray, count: int
) -> Float[Array, "count"]:
    """Draws the process's own times to train a network from scratch at.

    DDPM's t is uniform, EDM's ln(sigma) normal: those of the denoiser's training.
    """
    return process.training_times(key, count)


def network_condition(
    process: Process, time: Float[Array, "batch"]
) -> Float[Array, "batch"]:
    """Returns what a network from scratch is told of the noise."""
    if isinstance(process, EDM):
        return jnp.log(time)
    if isinstance(process, DDPM | LearnedVarianceDDPM):
        return time / process.timesteps
    return time


def published_times(process: Process) -> tuple[int | float, ...]:
    """Returns the published times of the test, as `process.official_time` takes them.

    DDPM: 1, 51, ..., 951 of 1000; EDM: 1..18; DiT: 0, 50, ..., 950; flows: 0.95, 0.90,
    ..., 0.05, from little noise to much.
    """
    if isinstance(process, EDM):
        return tuple(range(1, PROBE_STEPS + 1))
    if isinstance(process, Flow):
        return tuple(1 - i / TEST_POINTS for i in range(1, TEST_POINTS))
    first = 1 if isinstance(process, DDPM) else 0
    step = max(process.timesteps // TEST_POINTS, 1)
    return tuple(range(first, process.timesteps + first, step))

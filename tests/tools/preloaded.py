"""What runs import, for the server of `kills` that forks them."""

import sklearn.datasets  # noqa: F401

from ddae_jax import experiment  # noqa: F401
from ddae_jax.tasks import TASKS

for task in TASKS.values():
    task.load()

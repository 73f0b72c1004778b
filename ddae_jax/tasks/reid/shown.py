"""What the task reid found, for the report."""

from ddae_jax.data.person_images import PersonImages
from ddae_jax.experiment import Experiment
from ddae_jax.report.outcome import Outcome
from ddae_jax.tasks.reid.features import Network, embed


def outcome_of(
    experiment: Experiment,
    network: Network,
    query: PersonImages,
    gallery: PersonImages,
    facts: dict,
) -> Outcome:
    import numpy as np

    settings = experiment.settings.reid
    asked = embed(
        network,
        query,
        experiment.stream("reid/query_noise"),
        settings.test_batch_size,
        settings.normalise_test,
    )
    found = embed(
        network,
        gallery,
        experiment.stream("reid/gallery_noise"),
        settings.test_batch_size,
        settings.normalise_test,
    )
    d = ((asked[0][:, None] - found[0][None]) ** 2).sum(-1)
    junk = (query.identities[:, None] == gallery.identities[None]) & (
        query.cameras[:, None] == gallery.cameras[None]
    )
    d = np.where(junk, np.inf, d)
    order = np.argsort(d, 1, kind="stable")
    hit = gallery.identities[order] == query.identities[:, None]
    hit &= ~np.take_along_axis(junk, order, 1)
    rank1 = hit[:, 0].mean()
    aps = []
    for row in hit:
        at = np.flatnonzero(row)
        if len(at):
            aps.append(((np.arange(len(at)) + 1) / (at + 1)).mean())
    rows = [("global", rank1, float(np.mean(aps)))]
    return Outcome(
        "Persons across cameras",
        f"{rank1} {np.mean(aps)}",
        {**facts, "rank1": rank1, "map": float(np.mean(aps))},
        {},
        ("d", "r1", "mAP"),
        rows,
    )

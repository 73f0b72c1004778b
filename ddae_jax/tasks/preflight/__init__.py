"""Whether machines, network and workdir are what a run needs, before it costs anything.

Every process tells what it sees; all of them come to the same verdict. A check that
gets no answer ends the process with one line instead of a hang.
"""

import contextlib
import time
from collections.abc import Iterator

import jax
from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.report import outcome
from ddae_jax.runtime import exits, processes
from ddae_jax.settings.preflight import PreflightSettings
from ddae_jax.tasks.preflight import judge, network, seen, workdir
from ddae_jax.tasks.preflight.judge import Finding

NAME = "preflight"


def run(experiment: Experiment) -> None:
    """Checks machines and network; writes preflight.json and .txt.

    Raises:
      UserError: one line with all that is wrong.
    """
    started = time.monotonic()
    settings = experiment.settings.preflight
    found = _checks(experiment, settings)
    wrong = [one.trouble for one in found if one.trouble]
    summary = "; ".join(wrong) or _summary(found)
    report = outcome.Outcome(
        title="Preflight",
        summary=summary,
        facts={
            "passed": not wrong,
            "processes": jax.process_count(),
            "devices": jax.device_count(),
            "checks": {one.check: one.value for one in found},
            "troubles": wrong,
        },
        protocol={
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "seconds": round(time.monotonic() - started, 1),
        },
        headers=("check", "found", "verdict"),
        rows=[(one.check, one.shown, one.trouble or "good") for one in found],
    )
    try:
        outcome.write(experiment.workdir, NAME, report)
    except (OSError, UserError) as error:  # the workdir: among the findings
        logging.info("%s: %s; not written: %s", NAME, summary, error)
    if wrong:
        raise UserError(f"{NAME}: {summary}")


def _checks(experiment: Experiment, settings: PreflightSettings) -> list[Finding]:
    with _limit("data and code", settings):
        mine = seen.by_this_process(experiment)
    with _limit("an answer of all processes", settings):
        everyone = processes.gather(mine, "preflight")
    with _limit("settings", settings):
        different = network.differences(experiment.settings, everyone)
    found = judge.machines(everyone, settings)
    found += judge.sameness(everyone, different)
    with _limit("workdir", settings):
        views = workdir.views(experiment.workdir)
    found.append(judge.workdirs(everyone, views))
    found.append(judge.disk(everyone))
    found.append(judge.data(everyone))
    with _limit("clocks", settings):
        offsets = network.clock_offsets()
    found.append(judge.clocks(everyone, offsets, settings.clock_seconds))
    with _limit("all-reduce", settings):
        measured = network.time_all_reduce(experiment.mesh, settings.megabytes)
    found.append(judge.all_reduce(measured, settings.least_bandwidth))
    return found


@contextlib.contextmanager
def _limit(check: str, settings: PreflightSettings) -> Iterator[None]:
    """No check hangs: neither for want of an answer, nor because a process is gone."""
    line = (
        f"error: {NAME}: {check}: no answer within {settings.seconds} s "
        f"(config.preflight.seconds) in process {jax.process_index()} of "
        f"{jax.process_count()}"
    )
    with exits.limit(settings.seconds, line):
        try:
            yield
        except UserError:
            raise
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if jax.process_count() == 1:
                raise
            reason = " ".join(str(error).split())[:200]
            # At once: the end of a process waits for the others, one of which is gone.
            exits.leave(f"error: {NAME}: {check}: another process is lost: {reason}", 2)


def _summary(found: list[Finding]) -> str:
    shown = {one.check: one.shown for one in found}
    return (
        f"devices: {shown['devices']}, processes: {shown['processes']}, hosts: "
        f"{shown['hosts']}, all-reduce: {shown['all-reduce']}"
    )

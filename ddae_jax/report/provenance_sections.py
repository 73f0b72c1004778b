"""The page's part about how the run came about: commands, config, software, devices."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping

import jax

import ddae_jax
from ddae_jax.report import page
from ddae_jax.runtime.files import read_json

_TAB = "Provenance"
_PACKAGES = ("ddae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def commands(workdir: pathlib.Path, config: Mapping) -> page.PageSection:
    """The commands that were run, and the resolved config.

    Args:
      config: shown where the workdir has no config.json.
    """
    blocks = []
    path = workdir / "commands.txt"
    if path.is_file():
        blocks.append(page.Preformatted(path.read_text(errors="replace").strip()))
    content = read_json(workdir / "config.json") or dict(config)
    shown = page.Preformatted(json.dumps(content, indent=2, default=str))
    blocks.append(page.Folded("config.json", [shown]))
    return page.PageSection("Command and config", blocks, _TAB)


def versions() -> page.PageSection:
    """Software and hardware that wrote this page."""
    facts = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = git_commit(pathlib.Path(ddae_jax.__file__).parent.parent)
    if commit:
        facts["git commit"] = commit
    facts["platform"] = platform.platform()
    kinds = [device.device_kind for device in jax.devices()]
    facts["devices"] = ", ".join(
        f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)
    )
    return page.PageSection("Versions", [page.Facts(facts)], _TAB)


def git_commit(root: pathlib.Path) -> str | None:
    """The commit checked out at `root`, with "-dirty" where files differ from it.

    None where `root` itself is no checkout: a package installed below someone else's
    is not of their commit. Hooks, monitors and locks of the checkout stay untouched.
    """
    if not (root / ".git").exists():
        return None
    words = ("--no-optional-locks", "-c", "core.fsmonitor=false", "describe")
    asked = ("--always", "--dirty", "--abbrev=12", "--exclude=*")
    # What a surrounding git says of another repository does not count.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", *words, *asked],
            cwd=root,
            env=outside,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None

"""setup.py's floors are what requirements-oldest.txt tests."""

import re

from tests.conftest import ROOT


def floors():
    """The lowest version of each library that an installation needs, by lower name."""
    text = (ROOT / "setup.py").read_text()
    required = text.split("install_requires=[")[1].split("]")[0]
    return {
        name.lower(): version
        for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', required)
    }


def pinned(name):
    """The versions of a requirements file, by lower name."""
    lines = (ROOT / name).read_text().splitlines()
    found = re.findall(r"^([\w.-]+)==(\S+)$", "\n".join(lines), re.MULTILINE)
    return {name.lower(): version for name, version in found}


def test_the_oldest_set_is_at_the_floors():
    oldest = pinned("requirements-oldest.txt")
    assert len(floors()) > 20
    above = {
        name: (version, oldest.get(name))
        for name, version in floors().items()
        if not f"{oldest.get(name)}.".startswith(f"{version}.")
    }
    assert not above


def test_the_tested_set_has_all_that_is_required():
    assert not floors().keys() - pinned("requirements.lock").keys()

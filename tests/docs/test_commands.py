"""README.md and docs: their commands can be taken, and their links lead somewhere."""

import re
import shlex

import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.settings import command_line, saved, schema
from tests.conftest import ROOT

PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "RESULTS.md", "CONTRIBUTING.md")),
        ROOT / "benchmarks" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
PROGRAM = re.compile(
    r"^ *(?:make demo +# )?(?:python -m ddae_jax\.main|bash launch/local\.sh \d+"
    r"|sbatch (?:--\S+ )*launch/slurm\.sbatch) (.+)",
    re.MULTILINE,
)

# An object store takes credentials.
PLACEHOLDERS = {
    r"^--config=\.\.\.$": "--config=digits",
    r"^--workdir=\w+://\w+/": "--workdir=",
}


def commands(text):
    """The words of every command that stands in a line of its own."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [shlex.split(words, comments=True) for words in PROGRAM.findall(joined)]


def links(text):
    """What a page links to in its own repository, without the place in the page."""
    code = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", code)
    return [link.split("#")[0] for link in found if not re.match(r"\w+:|#", link)]


COMMANDS = [
    pytest.param(words, id=f"{page.name}-{index}")
    for page in PAGES
    for index, words in enumerate(commands(page.read_text()))
]


def test_commands_and_links_are_found():
    text = """
    python -m ddae_jax.main --config=digits \\
        --task=probe  # a comment
bash launch/local.sh 2 --config='digits'
| `python -m ddae_jax.main --config=none` | [there](a.md#b), [out](https://c.org)
"""
    assert commands(text) == [["--config=digits", "--task=probe"], ["--config=digits"]]
    assert links(text) == ["a.md"]
    assert len(COMMANDS) > 30


def take(words, monkeypatch):
    """Parses a command as main does; a workdir that it goes on from holds the digits.

    Raises:
      UserError: as main.
    """
    monkeypatch.chdir(ROOT)
    for written, meant in PLACEHOLDERS.items():
        words = [re.sub(written, meant, word) for word in words]
    monkeypatch.setattr(saved, "read", lambda workdir: schema.default())
    return command_line.parse(["main", *words], main.define_flags)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_is_taken(words, monkeypatch):
    assert take(words, monkeypatch).tasks


@pytest.mark.parametrize(
    "word",
    [
        "--config=digit",
        "--config=digits:none",
        "--config.train.step=1",
        "--tasks=probe",
    ],
)
def test_a_command_with_a_mistake_is_not_taken(word, monkeypatch):
    with pytest.raises(UserError):
        take(["--config=digits", word], monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    gone = [
        link for link in links(page.read_text()) if not (page.parent / link).exists()
    ]
    assert not gone

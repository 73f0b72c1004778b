"""--task=prepare by the command line; what TFDS does is tested in tests/data."""

from ddae_jax import main
from tests.tools import runs as run_tools
from tests.tools import tiny_tfds


def flags(folder, name):
    workdir = f"--workdir={folder / 'run'}"
    data = (f"--config.data.name={name}", f"--config.data.folder={folder}")
    return (*run_tools.TINY, "--task=prepare", workdir, *data)


def test_names_the_folder_of_a_set_that_is_there(tmp_path, caplog):
    tiny_tfds.write(tmp_path)
    with caplog.at_level("INFO"):
        main.run(["main", *flags(tmp_path, "tfds:tiny_pictures")])
    here = tmp_path / "tiny_pictures" / "1.2.0"
    assert f"tfds:tiny_pictures is prepared in {here}" in caplog.messages


def test_a_set_that_needs_no_preparation_is_refused_in_one_line(tmp_path):
    errors = run_tools.run(*flags(tmp_path, "digits"), status=2)
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: digits: nothing to prepare")

"""Pickles that attack the reader, and thousands that are only broken."""

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime.safe_pickle import safe_unpickle

ARRAYS = {
    "uint8": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": np.arange(20)[::3],
    "big-endian": np.arange(5, dtype=">i4"),
    "bool": np.array([True, False]),
    "half": np.ones((1, 2), np.float16),
    "empty": np.zeros((0, 7)),
    "no axes": np.array(3.5),
}


def text_keys(found):
    return {
        key.decode() if isinstance(key, bytes) else key: value
        for key, value in found.items()
    }


@pytest.mark.parametrize("numpy_1", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_come_back(protocol, numpy_1):
    content = pickle.dumps(ARRAYS, protocol)
    if numpy_1:  # the old name is shorter, the frame's length must follow
        content = pickle.dumps(ARRAYS, min(protocol, 3))
        content = content.replace(b"numpy._core.", b"numpy.core.")
    found = text_keys(safe_unpickle(content, "file"))
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numbers_text_and_containers_come_back(protocol):
    shared = ["a", b"\xff\x00", "ä"]
    whole = {
        "numbers": [1, -1, 1 << 40, -(1 << 70), 0.5, True, False, None],
        "numpy": (np.sqrt(0.5), np.int64(3), np.bool_(True), np.array(2, ">i2")[()]),
        "nested": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, [], {"k": shared}),
        "again": shared,
        "set": {1, "two"},
        "bytes": [b"", bytearray(b"xy")],
    }
    found = safe_unpickle(pickle.dumps(whole, protocol), "file")
    assert found == whole
    assert found["again"] is found["nested"][-1]["k"]


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_numpy_numbers_are_read_under_both_names(core):
    content = pickle.dumps({"skip_scale": np.sqrt(0.5)}, 2)
    content = content.replace(b"numpy._core", b"numpy.core").replace(
        b"numpy.core", core
    )
    assert core + b".multiarray\nscalar" in content
    found = safe_unpickle(content, "file")["skip_scale"]
    assert type(found) is np.float64 and found == np.sqrt(0.5)


def test_an_array_named_twice_is_one():
    array = np.arange(3)
    for protocol in (2, 5):
        found = safe_unpickle(pickle.dumps([array, array], protocol), "file")
        assert found[0] is found[1]


def old_array(dtype, shape, content, extra=b""):
    """An array as protocol 2 has it: made, then given type, shape and bytes."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tVb\ntR"
        + extra
        + b"(K\x01"
        + shape
        + dtype
        + b"I00\n"
        + content
        + b"tb."
    )


def dtype_of(name, order=b"<"):
    return b"cnumpy\ndtype\n(V" + name + b"\ntR(K\x03V" + order + b"\nNNNtb"


def number_bytes(content):
    return b"B" + len(content).to_bytes(4, "little") + content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        # Pointers over the file's own bytes: an array of objects.
        (old_array(dtype_of(b"O8"), b"(K\x01t", number_bytes(b"A" * 8)), "type O8"),
        (old_array(dtype_of(b"|O"), b"(K\x01t", b"](K\x01e"), "type |O"),
        # The same by giving ndarray itself the state, or by calling it.
        (
            b"\x80\x02cnumpy\nndarray\n(K\x01K\x01\x85cnumpy\ndtype\n(Vf8\ntRI00\nNtb.",
            "attributes of a Name",
        ),
        (b"\x80\x02cnumpy\nndarray\n(K\x05tR.", "made without its bytes"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "made without its bytes"),
        # Shapes that reach outside the bytes.
        (old_array(dtype_of(b"f8"), b"(K\x02t", number_bytes(b"A" * 8)), "its bytes"),
        (old_array(dtype_of(b"f8"), b"(J\xff\xff\xff\xfft", number_bytes(b"")), "be"),
        (
            old_array(dtype_of(b"f8"), b"(I4294967296\nI4294967296\nt", b"C\x00"),
            "its bytes",
        ),
        (old_array(dtype_of(b"f8"), b"(K\x01t", b"](K\x01e"), "content is a list"),
        (old_array(b"N", b"(K\x01t", number_bytes(b"A")), "array of a NoneType"),
        (b"\x80\x02cnumpy\ndtype\n(Vf8\ntR(K\x03V<\n](K\x01eNNtb.", "records"),
        (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n)Vb\ntR.",
            "w",
        ),
        # Attributes of what the reader itself is made of.
        (b"\x80\x02c_codecs\nencode\n}Vx\nK\x01sb.", "attributes of a Name"),
        (b"\x80\x02](K\x01e}Vx\nK\x01sb.", "attributes of a list"),
        (b"\x80\x02c_codecs\nencode\nK\x00K\x01s.", "items in a Name"),
        (b"\x80\x02K\x01)R.", "a call of a int"),
        (b"\x80\x02}K\x01\x85K\x02s.", "a tuple as a key"),
        (b"\x80\x02Vx\nQ.", "outside the file"),
        (b"\x80\x02(cos\nsystem\no.", "os.system"),
        (b"\x80\x02(ios\nsystem\n.", "operation INST"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
        (b"\x80\x04\x8c\x05a\nb\nc\x8c\x01d\x93.", "a b c.d"),
        # Nests that overrun the stack, or take for ever to compare.
        (b"\x80\x02)" + b"\x85" * 100_000 + b".", "nested"),
        (b"\x80\x02)" + b"2\x86" * 48 + b".", "nested"),
        # A thousand copies of a large value.
        (
            b"\x80\x02X\x40\x42\x0f\x00"
            + b"x" * 1_000_000
            + b"q\x000c_codecs\nencode\n"
            b"q\x010](" + b"h\x01h\x00Vlatin1\n\x86R" * 1000 + b"e.",
            "copies",
        ),
    ],
)
def test_attacks_are_refused(content, reason):
    with pytest.raises(UserError) as error:
        safe_unpickle(content, "file")
    assert str(error.value).startswith("file: refused") and reason in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02(.",
        b"\x80\x02a.",
        b"\x80\x02r\xff\xff\xff\x7f.",  # a place in the memo that would take 16 GB
        b"\x80\x02Nr\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # 8 exabytes
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\x00\x00.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.",  # half a surrogate pair
        b"\x80\x02(K\x01d.",
    ],
)
def test_damage_is_one_line(content):
    with pytest.raises(UserError, match="corrupt or truncated") as error:
        safe_unpickle(content, "file")
    assert "\n" not in str(error.value)


def test_state_reaches_only_what_the_caller_lent():
    class Lent:
        def __init__(self):
            self.state = None

        def __setstate__(self, state):
            self.state = state

    builders = {("m", "Lent"): Lent, ("m", "value"): 7}
    content = b"\x80\x02cm\nLent\n)R}Vx\ncm\nvalue\nsb."
    assert safe_unpickle(content, "file", builders).state == {"x": 7}
    with pytest.raises(UserError, match="attributes of a Name"):
        safe_unpickle(b"\x80\x02cm\nLent\n}Vx\nK\x01sb.", "file", builders)


def test_mutated_pickles_do_no_harm():
    # In a process of its own, so that a crash is seen; the memory it may take is
    # bounded, so that a pickle that asks for much fails.
    program = """
        import pickle, resource, sys
        import numpy as np
        from ddae_jax.errors import UserError
        from ddae_jax.runtime.safe_pickle import safe_unpickle

        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        whole = {
            b"data": np.arange(12, dtype=np.uint8).reshape(3, 4),
            "mu": np.asfortranarray(np.ones((2, 2), ">f8")),
            "labels": [1, 2, (3, 4.5)], "scale": np.float64(0.5), "set": {1, 2},
        }
        whole["again"] = whole["mu"]
        seeds = [pickle.dumps(whole, protocol) for protocol in range(2, 6)]
        opcodes = np.frombuffer(b"(.012FGIJKLMNPQRSTUVX]abcdeghijlopqrstu})\\x81\\x85"
                                b"\\x86\\x87\\x8c\\x93\\x94\\x95\\x96C", np.uint8)
        read = 0
        for number in range(1200):
            rng = np.random.default_rng(number)
            content = bytearray(seeds[number % 4])
            for _ in range(rng.integers(1, 4)):
                place = int(rng.integers(len(content)))
                kind = rng.integers(5)
                if kind == 0:
                    content[place] = rng.integers(256)
                elif kind == 1:
                    content[place] = rng.choice(opcodes)
                elif kind == 2:
                    del content[place : place + int(rng.integers(1, 9))]
                elif kind == 3:
                    start = int(rng.integers(len(content)))
                    content[place:place] = content[start : start + 12]
                else:
                    content[place:place] = bytes(rng.integers(0, 256, 3, np.uint8))
            try:
                found = safe_unpickle(bytes(content), "file")
                read += 1
            except UserError as error:
                assert "\\n" not in str(error)
                continue
            for value in found.values() if isinstance(found, dict) else ():
                if isinstance(value, np.ndarray):
                    assert value.dtype.kind in "biuf"
                    value.sum(), value.tobytes()
        print(read)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert int(found.stdout) > 20  # of pickles that still say something

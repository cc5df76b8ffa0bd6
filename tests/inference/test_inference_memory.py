"""A memory is the same after a file, and anything else in that file is refused."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxcomp.inference.memory import Memory, MemoryFileError


def made(tokens_of_texts, D=3, ratio=4, segment=8, seed=0):
    """A memory of texts whose segments have these numbers of tokens."""
    flat = [t for text in tokens_of_texts for t in text]
    N = sum(-(-t // ratio) for t in flat)
    return Memory(
        np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32),
        *(np.array([k * t for t in flat], np.int32) for k in (1, 2, 3)),
        segments_B=np.array([len(text) for text in tokens_of_texts], np.int32),
        ids=tuple(f"text {i} é" for i in range(len(tokens_of_texts))),
        ratio=ratio,
        segment=segment,
        decoder="d" * 12,
        compressor="c" * 12,
    )


def same(a, b):
    return all(
        np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y
        for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
    )


TEXTS = st.lists(st.lists(st.integers(1, 8), max_size=4), min_size=1, max_size=5)


@given(TEXTS)
def test_slices_and_joins_are_inverse(texts):
    memory = made(texts)
    assert same(Memory.join([memory[i] for i in range(len(memory))]), memory)
    assert same(memory[:1], memory[0])
    assert same(memory[::-1][::-1], memory)
    assert len(memory.vec_ND) == memory.counts_G.sum()


@given(TEXTS, st.integers(1, 3))
def test_windows_hold_every_vector_once_in_order(texts, G):
    memory = made(texts)
    windows = list(memory.windows(G))
    assert all(1 <= len(w.tokens_G) <= G for w in windows)
    parts = [w.vec_ND for w in windows]
    np.testing.assert_array_equal(np.concatenate([np.zeros((0, 3)), *parts]), memory.vec_ND)
    assert [w.ids[0] for w in windows] == [
        name
        for name, text in zip(memory.ids, texts, strict=True)
        for _ in range(-(-len(text) // G))
    ]


def test_a_file_gives_it_back(tmp_path):
    memory = made([[8, 3], [], [5]])
    memory.save(tmp_path / "deep" / "m.safetensors", note={"source": "x"})
    assert same(Memory.load(tmp_path / "deep" / "m.safetensors"), memory)
    assert memory.tokens_per_vector == 2 * 16 / 5
    assert Memory.about(tmp_path / "deep" / "m.safetensors")["source"] == "x"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(("dtype", "relative"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_a_smaller_file_rounds_the_vectors_once(tmp_path, dtype, relative):
    memory = made([[8, 8]])
    memory.save(tmp_path / "m.safetensors", dtype)
    found = Memory.load(tmp_path / "m.safetensors").vec_ND
    assert found.dtype == np.float32
    assert not np.array_equal(found, memory.vec_ND)
    np.testing.assert_allclose(found, memory.vec_ND, rtol=relative)
    with pytest.raises(MemoryFileError, match="expected one of: float32, bfloat16, float16"):
        memory.save(tmp_path / "n.safetensors", "int8")


def test_windows_of_a_long_text_cost_what_they_hold(monkeypatch):
    asked, counts_G = [], vars(Memory)["counts_G"].fget
    monkeypatch.setattr(Memory, "counts_G", property(lambda m: asked.append(m) or counts_G(m)))
    memory = made([[8] * 300])
    windows = list(memory.windows(2))
    assert all(np.shares_memory(w.vec_ND, memory.vec_ND) for w in windows)
    assert all(same(memory[i], memory) for i in [0] * 5)
    # Adding up all segments again for every window would make a long text quadratic.
    assert len([m for m in asked if m is memory]) == 1


def test_what_is_no_whole_memory_file_is_refused(tmp_path):
    file = tmp_path / "m.safetensors"
    with pytest.raises(MemoryFileError, match=r"m\.safetensors: no such file; expected one"):
        Memory.load(file)
    made([[8, 3], [5]]).save(file)
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    cut = [whole[:n] for n in (0, 7, 9, header // 2, header, header + 1, len(whole) - 1)]
    for content in (*cut, b"version https://git-lfs.github.com/spec/v1\n", b"\x80PK" * 50):
        file.write_bytes(content)
        with pytest.raises(MemoryFileError, match=rf"s \({len(content)} bytes\) is not a whole"):
            Memory.load(file)


INT = np.int32
BAD = {
    "another kind of file": ({}, {"format": "x"}, "holds x, version 1; expected jaxcomp-memory"),
    "another version": ({}, {"version": "2"}, "version 2; expected jaxcomp-memory, version 1"),
    "no ratio": ({}, {"ratio": None}, "lacks ratio; make it again"),
    "no lengths": ({"tokens_G": None}, {}, "lacks tokens_G; make it again"),
    "ratio in words": ({}, {"ratio": "four"}, "ratio = 'four': expected a valid integer"),
    "segment -8": ({}, {"segment": "-8"}, "segment = '-8': expected a number greater than"),
    "ids of another kind": ({}, {"ids": "{}"}, "ids: holds an object .*, expected a list"),
    "ids no JSON": ({}, {"ids": "[1"}, "ids: not JSON"),
    "ids of numbers": ({}, {"ids": "[1, 2]"}, "ids = 1: expected a valid string"),
    "an id too few": ({}, {"ids": '["a"]'}, "its lengths imply"),
    "a vector too few": ({"vec_ND": np.ones((3, 3), np.float32)}, {}, r"= \(3, .*imply \(5, "),
    "no vector at all": ({"vec_ND": np.ones((0, 3), np.float32)}, {}, r"= \(0, .*imply \(5, "),
    "vectors in one axis": ({"vec_ND": np.ones(5, np.float32)}, {}, r"vec_ND .*\(5,\), .*2 axes"),
    "vectors of whole numbers": ({"vec_ND": np.ones((5, 3), INT)}, {}, "vec_ND is int32 .*float32"),
    "broken lengths": ({"tokens_G": np.ones(3, np.float32)}, {}, "tokens_G is float32 .*int32"),
    "nan": ({"vec_ND": np.full((5, 3), np.nan, np.float32)}, {}, "5 of 5 vectors hold nan or inf"),
    "no token": ({"tokens_G": np.array([8, 0, 5], INT)}, {}, r"tokens_G\[1\] is 0, expected 1 to"),
    "too many": ({"tokens_G": np.array([8, 3, 9], INT)}, {}, r"tokens_G\[2\] is 9, expected 1 to"),
    "negative": ({"segments_B": np.array([4, -1], INT)}, {}, r"segments_B\[1\] is -1, exp"),
    "absurd segments": ({"segments_B": np.array([2**31 - 1, 1], INT)}, {}, "2147483648.*make it"),
    "negative labels": ({"labels_G": np.array([-7, 6, 9], INT)}, {}, r"labels_G\[0\] is -7"),
    "a label too few": ({"labels_G": np.array([7, 6], INT)}, {}, "its lengths imply"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_file_of_other_values_is_refused(tmp_path, fault):
    arrays, texts, message = BAD[fault]
    file = tmp_path / "m.safetensors"
    made([[8, 3], [5]]).save(file)
    with safe_open(file, "np") as found:
        about = found.metadata() | texts
    tensors = load_file(file) | arrays
    save_file(
        {name: x for name, x in tensors.items() if x is not None},
        file,
        metadata={name: text for name, text in about.items() if text is not None},
    )
    with pytest.raises(MemoryFileError, match=rf"m\.safetensors.*{message}"):
        Memory.load(file)


def test_vectors_that_a_file_cannot_hold_are_not_written(tmp_path):
    memory = made([[8]])
    for value, dtype, message in (
        (7e4, "float16", r"float16 cannot hold 7e\+04; take bfloat16 or"),
        (np.inf, "float32", "diverged"),
    ):
        memory.vec_ND[1, 2] = value
        with pytest.raises(MemoryFileError, match=rf"m\.safetensors: .*{message}"):
            memory.save(tmp_path / "m.safetensors", dtype)
    assert not list(tmp_path.iterdir())


def test_a_memory_of_nothing_goes_through_a_file(tmp_path):
    for memory in (made([[], []]), made([[1]])[:0]):
        memory.save(tmp_path / "m.safetensors")
        found = Memory.load(tmp_path / "m.safetensors")
        assert same(found, memory)
        assert list(found.windows(2)) == []


def test_memories_of_two_kinds_do_not_join():
    with pytest.raises(MemoryFileError, match="2 kinds"):
        Memory.join([made([[3]]), made([[3]], ratio=2)])
    with pytest.raises(MemoryFileError, match="0 kinds"):
        Memory.join([])


# --- fuzz --------------------------------------------------------------------------------------

NASTY = [
    "", "0", "-1", "4" * 5000, "2147483648", "²", "1e3", "nan", "null", "[", "{}", "[1]", "[[]]",
    "[" * 100_000, '["\\ud800"]', '["a"' + ', "a"' * 3 + "]", "\x00", "[" + "9" * 5000 + "]",
]  # fmt: skip


def damaged(rng, raw):
    """`raw`, a memory file, with something of it broken."""
    kind = rng.integers(4)
    if kind == 0:
        return raw[: rng.integers(len(raw))]
    size = int.from_bytes(raw[:8], "little")
    if kind == 1:  # a byte, mostly of the header
        at = int(rng.integers(8 + size if rng.random() < 0.7 else len(raw)))
        return raw[:at] + bytes([int(rng.integers(256))]) + raw[at + 1 :]
    header, content = json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])
    if kind == 2:
        about = header["__metadata__"]
        about[str(rng.choice(sorted(about)))] = NASTY[rng.integers(len(NASTY))]
    else:
        tensor = header[str(rng.choice([name for name in header if name != "__metadata__"]))]
        what = rng.integers(4)
        if what == 0:
            tensor["dtype"] = str(rng.choice(["F32", "F64", "I64", "U8", "BOOL", "F8_E4M3", "X"]))
        elif what == 1:
            tensor["shape"] = [[], [0], [2**31], [2**62, 0], [1, 1, 1]][rng.integers(5)]
        elif what == 2:
            tensor["data_offsets"] = [0, int(rng.integers(2**40))]
        else:  # its values
            start, stop = tensor["data_offsets"]
            content[start:stop] = rng.bytes(stop - start)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(content)


def test_a_damaged_file_is_read_or_refused_in_one_sentence(tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "m.safetensors"
    made([[3, 2], [4]]).save(file)
    whole, said = file.read_bytes(), []
    for _ in range(600):
        file.write_bytes(damaged(rng, whole))
        try:
            Memory.load(file)
            Memory.about(file)
        except MemoryFileError as error:
            said.append(str(error))
    assert len(said) > 400
    assert max(map(len, said)) < 600

"""A memory is the same after a file, and anything else in that file is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from jaxcomp.use.memory import Memory, MemoryFileError


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


def test_the_achieved_ratio_counts_tokens_and_bytes():
    memory = made([[8, 1], []])  # 2 + 1 vectors
    assert memory.counts_G.tolist() == [2, 1]
    assert memory.tokens_per_vector == 2 * 9 / 3
    assert memory.bytes_per_vector == 3 * 9 / 3
    assert np.isnan(made([[]]).tokens_per_vector)


def test_a_file_gives_it_back(tmp_path):
    memory = made([[8, 3], [], [5]])
    memory.save(tmp_path / "deep" / "m.safetensors", note={"source": "x"})
    assert same(Memory.load(tmp_path / "deep" / "m.safetensors"), memory)
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
    with pytest.raises(MemoryFileError, match="expected one of: bfloat16, float16, float32"):
        memory.save(tmp_path / "n.safetensors", "int8")


def test_what_is_no_whole_memory_file_is_refused(tmp_path):
    memory = made([[8, 3], [5]])
    file = tmp_path / "m.safetensors"
    with pytest.raises(MemoryFileError, match="no such file"):
        Memory.load(file)
    memory.save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(MemoryFileError, match="not a whole safetensors file"):
        Memory.load(file)
    file.write_bytes(b"")
    with pytest.raises(MemoryFileError, match="not a whole safetensors file"):
        Memory.load(file)
    save_file({"x": np.zeros(2, np.float32)}, file)
    with pytest.raises(MemoryFileError, match="holds no memory"):
        Memory.load(file)
    dataclasses.replace(memory, vec_ND=memory.vec_ND[:-1]).save(file)
    with pytest.raises(MemoryFileError, match="its lengths imply"):
        Memory.load(file)


def test_memories_of_two_kinds_do_not_join():
    with pytest.raises(MemoryFileError, match="2 kinds"):
        Memory.join([made([[3]]), made([[3]], ratio=2)])
    with pytest.raises(MemoryFileError, match="0 kinds"):
        Memory.join([])

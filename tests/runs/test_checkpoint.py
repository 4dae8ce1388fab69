"""Checkpoints: what is saved comes back, and what was spoilt is refused."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from kythera import errors
from kythera.runs import checkpoint
from kythera.runs.checkpoint import Checkpoints


class State(NamedTuple):
    numbers: np.ndarray
    words: dict
    count: int
    flags: tuple


def state(seed: int = 1) -> State:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(3, 2))
    numbers[0] = np.nan, -np.inf
    words = {"reason": 'déjà vu "quoted"', "none": np.zeros((0, 3), np.float32)}
    flags = (True, jnp.arange(4, dtype=jnp.uint32), np.float32(0.1), 2**62)
    return State(numbers, words, seed, flags)


def same(first, second) -> None:
    first, second = jax.tree.leaves(first), jax.tree.leaves(second)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert np.asarray(a).dtype.kind == np.asarray(b).dtype.kind
        np.testing.assert_array_equal(a, b)
        assert np.shape(a) == np.shape(b)


def test_a_tree_comes_back_bit_for_bit():
    data = checkpoint.encode(state(), {"run": "a/b", "number": 7})
    leaves, about = checkpoint.decode(data, "memory")
    same(leaves, state())
    assert about == {"run": "a/b", "number": 7}


def test_others_can_read_the_file(tmp_path):
    """It is plain safetensors: the numbers by their place in the tree."""
    Checkpoints(tmp_path).save(3, state(), {})
    (path,) = tmp_path.iterdir()
    np.testing.assert_array_equal(load_file(path)["0"], state().numbers)


def test_the_last_two_are_kept_and_leftovers_swept(tmp_path):
    kept = Checkpoints(tmp_path / "run")
    assert kept.load() is None
    for number in (1, 5, 12):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "half.tmp").write_bytes(b"half")
        kept.save(number, state(number), {})
    assert kept.numbers() == [12, 5]
    assert len(list((tmp_path / "run").iterdir())) == 2
    found = kept.load()
    assert found is not None
    leaves, about = found
    assert about["number"] == 12
    same(leaves, state(12))


def test_every_cut_and_every_changed_byte_is_noticed():
    """By its checksum, or because it is no safetensors file any more."""
    data = checkpoint.encode(state(), {"run": "r"})
    for size in range(0, len(data), 7):
        with pytest.raises(errors.StoreError, match="cut short, altered"):
            checkpoint.decode(data[:size], "here")
    rng = np.random.default_rng(3)
    for place in rng.integers(8, len(data), 200):
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        try:
            leaves, about = checkpoint.decode(bytes(changed), "here")
        except errors.StoreError:
            continue
        # a space between two words of the header says nothing
        same(leaves, state())
        assert about == {"run": "r"}


def test_the_one_before_is_used_where_the_last_is_spoilt(tmp_path):
    kept = Checkpoints(tmp_path)
    for number in (1, 2):
        kept.save(number, state(number), {})
    path = tmp_path / "checkpoint-000000002.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    found = kept.load()
    assert found is not None
    assert found[1]["number"] == 1
    (tmp_path / "checkpoint-000000001.safetensors").write_bytes(b"")
    with pytest.raises(errors.StoreError, match="checkpoint-000000002"):
        kept.load()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    from safetensors.numpy import save

    with pytest.raises(errors.StoreError, match="it cannot be read"):
        checkpoint.decode(save({"0": np.zeros(3)}), "foreign")
    with pytest.raises(errors.StoreError, match="of type object"):
        checkpoint.encode({"run": object()}, {})
    newer = checkpoint.encode([1], {}).replace(b'"version":"1"', b'"version":"9"')
    with pytest.raises(errors.StoreError, match="version 9"):
        checkpoint.decode(newer, "newer")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(errors.StoreError, match="cannot be written"):
        Checkpoints(blocked / "run").save(1, [1], {})


def test_nothing_is_unpickled(tmp_path):
    """A header that asks for trouble is text like any other."""
    about = {"__reduce__": ["os.system", "true"], "x": "\x00\u2028"}
    _, found = checkpoint.decode(checkpoint.encode([1.5], about), "memory")
    assert found == json.loads(json.dumps(about))

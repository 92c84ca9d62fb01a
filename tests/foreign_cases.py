"""What the tests of foreign weight files share: drawn arrays, and comparing and refusing files."""

import numpy as np
import pytest
from hypothesis import strategies as st

from minidl.errors import CheckpointError

NUMBERS = "f4 f8 f2 i1 i2 i4 i8 u1 u2 u4 u8 ? c8 c16".split()
names = st.text("abc.:_", min_size=1, max_size=6)


@st.composite
def arrays(draw, dtypes=NUMBERS, most_axes=4):
    """Arrays of any dtype, rank and size (0 too); NaN and infinity among the floating ones."""
    shape = draw(st.lists(st.integers(0, 3), max_size=most_axes))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    values = rng.normal(0, 50, shape)
    values[rng.random(shape) < 0.1] = draw(st.sampled_from([0, np.nan, np.inf, -np.inf]))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    finite = values if dtype.kind in "fc" else np.nan_to_num(values, posinf=100) % 99
    return np.asarray(finite, dtype)


def same(a, b):
    """Whether two nests of arrays are equal in names, dtypes, shapes and values."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    a = np.asarray(a)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def written(folder, content, name="file.bin"):
    """The path of a new file with this content."""
    path = folder / name
    path.write_bytes(content)
    return path


def refused(folder, read, content, words):
    """Assert that a reader refuses this content with these words, naming the file."""
    path = written(folder, content, "refused.bin")
    with pytest.raises(CheckpointError, match=words) as caught:
        read(path)
    assert "refused.bin" in str(caught.value)

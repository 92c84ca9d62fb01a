"""Random streams: known answers, the NumPy reference, laws, states, threads."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import config, random
from minidl.errors import CheckpointError, DTypeError, ShapeError
from minidl.random import STREAMS, Generator

KNOWN = [  # Random123's kat_vectors, philox4x32 10: counter, key, answer
    ("00000000" * 4, "00000000" * 2, "6627e8d5e169c58dbc57ac4c9b00dbd8"),
    ("ffffffff" * 4, "ffffffff" * 2, "408f276d41c83b0ea20bc7c66d5451fd"),
    (
        "243f6a8885a308d313198a2e03707344",
        "a4093822299f31d0",
        "d16cfe0994fdcceb5001e42024126ea1",
    ),
]


def philox_reference(counter, key):
    """Philox4x32-10 in plain NumPy.

    counter (n, 4) words -> (n, 4) uint32 (Salmon et al., SC'11, figure 4).
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c = np.asarray(counter, np.uint64).T
    k0, k1 = key
    for _ in range(10):
        p, q = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        left, right = (q >> half) ^ c[1] ^ np.uint64(k0), (p >> half) ^ c[3] ^ np.uint64(k1)
        c = np.stack([left, q & low, right, p & low])
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c.T.astype(np.uint32)


def words(text):
    return [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]


def reference(n, key, draw):
    """n words as the contract says: word i is lane i % 4 of block i // 4."""
    block = np.arange(-(-n // 4), dtype=np.uint64)
    counter = np.zeros((len(block), 4), np.uint64)
    counter[:, 0], counter[:, 1] = block & np.uint64(2**32 - 1), block >> np.uint64(32)
    counter[:, 2], counter[:, 3] = draw & (2**32 - 1), draw >> 32
    return philox_reference(counter, (key & (2**32 - 1), key >> 32)).reshape(-1)[:n]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_reference_gives_the_published_answers(counter, key, answer):
    k0, k1 = words(key)
    got = philox_reference(np.array([words(counter)]), (k0, k1))
    assert got.tolist() == [words(answer)]


@given(st.integers(0, 2**64 - 1), st.sampled_from([*STREAMS]), st.integers(0, 70))
def test_bits_equal_the_reference(seed, stream, n):
    g = Generator(seed, stream)
    g.bits(1)
    assert np.array_equal(g.bits(n), reference(n, seed ^ STREAMS[stream], 1))


def test_draw_numbers_beyond_32_bits():
    g = Generator(5, "init")
    g.set_state({"seed": 5, "stream": "init", "draw": 2**40 + 3})
    assert np.array_equal(g.bits(9), reference(9, 5 ^ STREAMS["init"], 2**40 + 3))


@given(st.integers(0, 2**64 - 1), st.integers(1, 50))
def test_derived_numbers_follow_from_the_bits(seed, n):
    def generator():
        return Generator(seed, "dropout")

    w = reference(4 * n + 4, seed ^ STREAMS["dropout"], 0).astype(np.uint64)
    w64 = (w[0::2] << np.uint64(32)) | w[1::2]
    single = (w[:n] >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
    assert np.array_equal(generator().uniform(n), single)
    double = (w64[:n] >> np.uint64(11)).astype(np.float64) * 2.0**-53
    assert np.array_equal(generator().uniform(n, np.float64), double)
    assert np.array_equal(generator().bernoulli(0.3, n), w[:n] < round(0.3 * 2**32))
    expected = (w64[:n] % np.uint64(17)).astype(np.int64) - 7
    assert np.array_equal(generator().integers(-7, 10, n), expected)
    assert np.array_equal(generator().permutation(n), np.lexsort((np.arange(n), w64[:n])))


@given(st.integers(0, 2**64 - 1))
def test_normals_are_box_and_muller_of_the_bits(seed):
    w = reference(256, seed ^ STREAMS["init"], 0).astype(np.uint64)
    u = ((w[0::2] >> np.uint64(8)) + np.uint64(1)).astype(np.float64) * 2.0**-24
    radius = np.sqrt(-2 * np.log(u))
    angle = w[1::2].astype(np.float64) * (2 * np.pi / 2**32)
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
    got = Generator(seed).normal(256)
    # 4 ulp of the result, and the reference's own error where it crosses zero.
    np.testing.assert_allclose(got, expected, rtol=4 * 2.0**-23, atol=1e-14)
    w64 = (w[0::2] << np.uint64(32)) | w[1::2]
    u = ((w64[0::2] >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53
    angle = w64[1::2].astype(np.longdouble) * (2 * np.longdouble(np.pi) / 2**64)
    radius = np.sqrt(-2 * np.log(u))
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
    got = Generator(seed).normal(128, np.float64)
    np.testing.assert_allclose(got, expected.astype(np.float64), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_laws(dtype):
    n = 400_000
    g = Generator(7, "dropout")
    u, z = g.uniform(n, dtype), g.normal(n, dtype)
    assert u.dtype == z.dtype == dtype and 0 <= u.min() and u.max() < 1
    # Six standard errors of each sample moment.
    assert abs(u.mean() - 0.5) < 6 * 0.2887 / n**0.5
    for power, moment, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs((z.astype(np.float64) ** power).mean() - moment) < 6 * deviation / n**0.5
    assert abs(np.corrcoef(z[0::2], z[1::2])[0, 1]) < 6 / (n / 2) ** 0.5


def test_permutations_are_uniform():
    g = Generator(1, "loader")
    counts = np.zeros((4, 4))
    for _ in range(2000):
        counts[np.arange(4), g.permutation(4)] += 1
    assert abs(counts - 500).max() < 6 * (2000 * 0.25 * 0.75) ** 0.5


def test_bernoulli_edges_and_channels_last():
    g = Generator(3)
    assert not g.bernoulli(0, 100).any() and g.bernoulli(1, 100).all()
    shape = (2, 5, 3, 7)
    plain = Generator(3).bernoulli(0.5, shape)
    last = Generator(3).bernoulli(0.5, shape, channels_last=True)
    assert np.array_equal(plain, last)
    assert last.transpose(0, 2, 3, 1).flags.c_contiguous


def test_bits_do_not_depend_on_threads():
    before = config.threads()
    drawn = []
    try:
        for n in (1, 2, 5):
            config.set_num_threads(n)
            g = Generator(11, "dropout")
            drawn.append((g.bits(100_003), g.normal(100_003), g.bernoulli(0.1, 100_003)))
    finally:
        config.set_num_threads(before)
    for other in drawn[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(drawn[0], other, strict=True))


def test_keyed_bits_do_not_depend_on_their_neighbours():
    g = Generator(2, "augmentation")
    rows = np.array([5, 0, 123_456_789, 7])
    whole = g.keyed_bits(rows, 7, draw=3)
    assert np.array_equal(g.keyed_bits(rows[[2]], 7, draw=3), whole[[2]])
    assert np.array_equal(g.keyed_bits(rows, 3, draw=3, first=4), whole[:, 4:])
    assert not np.array_equal(g.keyed_bits(rows, 7, draw=4), whole)
    assert g.get_state()["draw"] == 0


def test_choice_follows_the_weights():
    g = Generator(4, "loader")
    drawn = np.bincount(g.choice([1, 0, 3], 40_000), minlength=3) / 40_000
    np.testing.assert_allclose(drawn, [0.25, 0, 0.75], atol=6 * 0.433 / 200)
    assert sorted(g.choice([1, 0, 3, 9], 3, replacement=False).tolist()) == [0, 2, 3]
    firsts = [g.choice([1, 3], 2, replacement=False)[0] for _ in range(2000)]
    assert abs(np.mean(firsts) - 0.75) < 6 * 0.433 / 2000**0.5
    with pytest.raises(ShapeError, match="positive weights"):
        g.choice([1, 0], 2, replacement=False)
    with pytest.raises(ShapeError, match="weights"):
        g.choice([1, -1], 1)


def test_streams_and_states():
    before = random.get_state()
    try:
        assert random.manual_seed(9) is random.default("init")
        assert random.default("loader").initial_seed() == 9
        first = {s: random.default(s).bits(4).tolist() for s in STREAMS}
        assert len({tuple(v) for v in first.values()}) == len(STREAMS)
        state = random.get_state()
        a = random.default("dropout").uniform((2, 3))
        random.set_state(state)
        assert np.array_equal(random.default("dropout").uniform((2, 3)), a)
        random.manual_seed(9)
        assert {s: random.default(s).bits(4).tolist() for s in STREAMS} == first
    finally:
        random.set_state(before)


def test_threads_take_different_draws():
    g, taken = Generator(0), []

    def work():
        taken.extend(int(g.bits(1)[0]) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert g.get_state()["draw"] == 800
    again = Generator(0)
    assert sorted(taken) == sorted(int(again.bits(1)[0]) for _ in range(800))


def test_mistakes_are_explained():
    with pytest.raises(ShapeError, match="stream"):
        Generator(0, "other")
    with pytest.raises(ShapeError, match="sizes"):
        Generator(0).uniform((-1, 2))
    with pytest.raises(DTypeError, match="float32 or float64"):
        Generator(0).uniform(3, np.int32)
    with pytest.raises(ShapeError, match="p must"):
        Generator(0).bernoulli(1.5, 3)
    with pytest.raises(ShapeError, match="low"):
        Generator(0).integers(3, 3, 1)
    with pytest.raises(CheckpointError, match="seed, stream and draw"):
        Generator(0).set_state({"seed": 1})
    with pytest.raises(CheckpointError, match="missing"):
        random.set_state({})

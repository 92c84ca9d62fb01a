"""Counter-based random numbers: seeded streams, drawn from by number, the same on every device.

Philox4x32-10 with key = seed xor stream and counter = (element in logical C order, number of the
draw). A draw is a pure function of the two, so bits, uniforms, masks, integers and permutations
are bit-equal at any thread count and on a GPU, where normals agree to 4 ulp; a generator's whole
state is {seed, stream, draw}. Methods that take a `backend` module make their arrays there.
"""

import math
import threading
from typing import Any, Self

import numpy as np

from minidl.backend import cpu
from minidl.backend.live import live
from minidl.errors import CheckpointError, DTypeError, require, require_one_of

# Fractional parts of square roots of primes: keys of different streams never meet for small seeds.
STREAMS = {
    "init": 0x6A09E667F3BCC908,
    "dropout": 0xBB67AE8584CAA73B,
    "loader": 0x3C6EF372FE94F82B,
    "augmentation": 0xA54FF53A5F1D36F1,
    "data": 0x510E527FADE682D1,
    "tensor": 0x9B05688C2B3E6C1F,
}

Shape = int | tuple[int, ...]


class Generator:
    """One stream of random arrays; each method call takes one draw number (thread-safe).

    seed: any integer, taken modulo 2**64; stream: one of STREAMS; draw: the first draw's number.
    Raises ShapeError otherwise.
    """

    def __init__(self, seed: int = 0, stream: str = "init", draw: int = 0) -> None:
        require_one_of("Generator", STREAMS, stream=stream)
        self.stream, self._lock = stream, threading.Lock()
        self.manual_seed(seed)
        self._draw = draw

    def manual_seed(self, seed: int) -> Self:
        """Start again at draw 0 of another seed."""
        require(isinstance(seed, (int, np.integer)), "manual_seed", "seed must be int", seed=seed)
        self._seed, self._draw = int(seed) % 2**64, 0
        return self

    def initial_seed(self) -> int:
        """The seed in use."""
        return self._seed

    def get_state(self) -> dict[str, Any]:
        """{seed, stream, draw}: plain values, enough to go on from here."""
        return {"seed": self._seed, "stream": self.stream, "draw": self._draw}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that get_state gave. Raises CheckpointError for anything else."""
        ok = isinstance(state, dict) and state.get("stream") in STREAMS
        ok = ok and isinstance(state.get("seed"), int) and isinstance(state.get("draw"), int)
        rule = "the state must hold seed, stream and draw"
        require(ok, "Generator.set_state", rule, error=CheckpointError, state=state)
        self.stream, self._seed, self._draw = state["stream"], state["seed"], state["draw"]

    @property
    def key(self) -> int:
        """Philox's 64-bit key."""
        return self._seed ^ STREAMS[self.stream]

    def take(self) -> int:
        """Take a draw number."""
        with self._lock:
            draw = self._draw
            self._draw += 1
        return draw

    def bits(self, n: int, *, backend: Any = cpu) -> Any:
        """n words of 32 random bits (uint32)."""
        return self._drawn(backend, "bits", n)

    def keyed_bits(self, rows: Any, words: int, draw: int, first: int = 0, *,
                   backend: Any = cpu) -> Any:  # fmt: skip
        """(len(rows), words) uint32 that depend on each row's number and on draw alone.

        Takes no draw number of its own: the caller names one (an epoch, say). first: how many
        words, a multiple of 4, of each row's sequence to skip. Rows are int64 below 2**44, an
        array of the backend's.
        """
        assert first % 4 == 0, first
        return backend.random_rows(rows, words, self.key, draw, first // 4)

    def uniform(self, shape: Shape, dtype: Any = np.float32, *, backend: Any = cpu) -> Any:
        """Uniform in [0, 1): multiples of 2**-24 in float32, of 2**-53 in float64."""
        return self._drawn(backend, "uniform", shape, _real(dtype))

    def normal(self, shape: Shape, dtype: Any = np.float32, *, backend: Any = cpu) -> Any:
        """Standard normals, float32 or float64."""
        return self._drawn(backend, "normal", shape, _real(dtype))

    def bernoulli(self, p: float, shape: Shape, *, channels_last: bool = False,
                  backend: Any = cpu) -> Any:  # fmt: skip
        """Booleans, True with probability p (to 2**-32).

        channels_last gives a 4-axis mask in channels-last memory; its values are the same.
        """
        require(0 <= p <= 1, "bernoulli", "p must lie in [0, 1]", p=p)
        layout = {"channels_last": shape} if channels_last else {}
        return self._drawn(backend, "bernoulli", shape, p, **layout)

    def integers(self, low: int, high: int, shape: Shape) -> np.ndarray:
        """int64 in [low, high); off uniform by at most (high - low) / 2**64."""
        require(low < high, "integers", "low must be below high", low=low, high=high)
        return (self._drawn(cpu, "words64", shape) % np.uint64(high - low)).astype(np.int64) + low

    def permutation(self, n: int) -> np.ndarray:
        """A uniform order of range(n) (int64): 64-bit keys sorted, ties by index."""
        return np.argsort(self._drawn(cpu, "words64", n), kind="stable")

    def choice(self, weights: np.ndarray, n: int, *, replacement: bool = True) -> np.ndarray:
        """n indices (int64) drawn with probability proportional to weights (K,), all >= 0.

        Without replacement by exponential races (Efraimidis and Spirakis 2006).
        """
        w = np.asarray(weights, np.float64)
        edges = np.cumsum(w)
        ok = w.ndim == 1 and w.size > 0 and w.min() >= 0 and 0 < edges[-1] < math.inf
        require(ok, "choice", "weights must be finite, >= 0, one axis, not all 0", weights=weights)
        if replacement or n == 1:
            found = np.searchsorted(edges, self.uniform(n, np.float64) * edges[-1], side="right")
            return np.minimum(found, np.flatnonzero(w)[-1])
        rule = "without replacement n cannot exceed the number of positive weights"
        require(n <= int(np.count_nonzero(w)), "choice", rule, n=n, weights=weights)
        race = -np.log1p(-self.uniform(len(w), np.float64))
        finish = np.divide(race, w, out=np.full(len(w), np.inf), where=w > 0)
        return np.argsort(finish, kind="stable")[:n]

    def _drawn(self, backend: Any, kind: str, shape: Shape, *args: Any, **layout: Any) -> Any:
        """One draw of the backend's random numbers of a kind, in the given shape."""
        sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        ok = all(isinstance(s, (int, np.integer)) and s >= 0 for s in sizes)
        require(ok, "Generator", "sizes must be integers >= 0", shape=shape)
        renewed = None if backend is cpu else lambda: [self.take()]
        (number,) = live([self.take()], renewed, np.uint64)
        draw = getattr(backend, f"random_{kind}")
        return draw(math.prod(sizes), *args, self.key, number, **layout).reshape(sizes)


def _real(dtype: Any) -> np.dtype:
    dtype = np.dtype(dtype)
    rule = "dtype must be float32 or float64"
    require(dtype in (np.float32, np.float64), "Generator", rule, error=DTypeError, dtype=dtype)
    return dtype


_streams = {name: Generator(0, name) for name in STREAMS}


def default(stream: str) -> Generator:
    """The process-wide generator of a stream, one of STREAMS."""
    return _streams[stream]


def manual_seed(seed: int) -> Generator:
    """Seed every stream and start it at draw 0; returns the generator of initialisation."""
    for generator in _streams.values():
        generator.manual_seed(seed)
    return _streams["init"]


def get_state() -> dict[str, dict[str, Any]]:
    """The states of all streams, plain values by stream."""
    return {name: generator.get_state() for name, generator in _streams.items()}


def set_state(state: dict[str, dict[str, Any]]) -> None:
    """Put all streams back where get_state found them. Raises CheckpointError if any is missing."""
    missing = [name for name in STREAMS if name not in state]
    require(not missing, "set_state", "a stream is missing", error=CheckpointError, missing=missing)
    for name, generator in _streams.items():
        generator.set_state(state[name])

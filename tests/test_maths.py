"""The vectorised mathematical functions: error in ulp over the whole float32 range, limits, NaN."""

import math
import re

import llvmlite.binding as llvm
import numpy as np
import pytest

from minidl.backend.cpu import compiler, maths, plans, printer
from minidl.backend.expression import Graph, Program


def expit(x):
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


REFERENCE = {
    "exp": np.exp, "log": np.log, "log2": np.log2, "log1p": np.log1p, "expm1": np.expm1,
    "tanh": np.tanh, "erf": np.vectorize(math.erf, otypes="d"), "sin": np.sin, "cos": np.cos,
    "erfc": np.vectorize(math.erfc, otypes="d"), "tan": np.tan, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "sqrt": np.sqrt,
    "sigmoid": expit, "softplus": lambda x: np.logaddexp(0, x), "atan2": np.arctan2,
    "pow": np.power, "log10": np.log10, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh,
}  # fmt: skip
SPECIAL = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2, -2, 3, 0.5, -0.5, 1e-45, -1e-45,
                    88.72284, 89, -87.3, -103.97, -104, 5e8, 3.4e38, -3.4e38],
                   np.float32)  # fmt: skip


def run(name, *arrays):
    """One function on arrays, through the printed kernel."""
    graph = Graph()
    leaves = [graph.leaf() for _ in arrays]
    program = Program(leaves, [graph.node(name, *leaves)])
    return plans.plan_pointwise(program, arrays, arrays[0].dtype)(arrays)[0]


def ulps(got, want):
    """|got - want| in units of the last place of want in got's type; 0 where both are alike."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        unit = np.spacing(np.abs(rounded)).astype(np.float64)
        unit = np.where(np.isfinite(unit), unit, np.spacing(np.finfo(got.dtype).max))
        error = np.abs(got.astype(np.float64) - want) / unit
    alike = (np.isnan(got) & np.isnan(want)) | (got == rounded)
    return np.where(alike, 0, np.where(np.isnan(error), np.inf, error))


def sweep():
    """Every 20,011th float32 of all there are, a fine grid around 0, and the special values."""
    bits = np.arange(0, 1 << 32, 20_011, dtype=np.uint64).astype(np.uint32)
    grid = np.linspace(-20, 20, 50_021, dtype=np.float32)
    near = np.geomspace(1e-40, 2, 20_011).astype(np.float32)
    return np.concatenate([bits.view(np.float32), grid, near, -near, 1 + near, -1 - near, SPECIAL])


def test_every_function_has_a_reference():
    names = {n.split("_", 1)[1].rsplit("_", 1)[0] for n in maths.symbols()}
    assert names == {*REFERENCE, "larger"}  # of which `largest` is made: test_loss


@pytest.mark.parametrize("name", sorted(set(REFERENCE) - {"atan2", "pow"}))
def test_float32_within_4_ulp_everywhere(name):
    x = sweep()
    with np.errstate(all="ignore"):
        want = REFERENCE[name](x.astype(np.float64))
    error = ulps(run(name, x), want)
    worst = int(np.argmax(error))
    assert error[worst] <= 4, f"{name}({x[worst]!r}): {error[worst]} ulp"


@pytest.mark.parametrize("name", ["atan2", "pow"])
def test_float32_of_two_arguments_within_4_ulp(name):
    x = sweep()
    rng = np.random.default_rng(0)
    half = x.size // 2
    few = rng.uniform(-8, 8, x.size - half).astype(np.float32)
    y = np.concatenate([rng.permutation(x[:half]), few])
    pairs = np.meshgrid(SPECIAL, SPECIAL)
    x = np.concatenate([x, pairs[0].ravel()])
    y = np.concatenate([y, pairs[1].ravel()])
    with np.errstate(all="ignore"):
        want = REFERENCE[name](x.astype(np.float64), y.astype(np.float64))
    error = ulps(run(name, x, y), want)
    worst = int(np.argmax(error))
    assert error[worst] <= 4, f"{name}({x[worst]!r}, {y[worst]!r}): {error[worst]} ulp"


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_float64_agrees_with_the_standard_library(name):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-3, 3, 5000), rng.uniform(-1e-6, 1e-6, 500),
                        SPECIAL[:14].astype(np.float64)])  # fmt: skip
    args = [x, rng.permutation(x)] if name in maths.BINARY else [x]
    with np.errstate(all="ignore"):
        want = REFERENCE[name](*args)
    assert ulps(run(name, *args), want).max() <= 16  # the reference's own error included


def test_the_largest_arguments_of_sine_are_reduced_exactly():
    """sin(3.4e38) needs 2/π to 150 bits; the C library's double sine knows them."""
    x = np.tile(np.array([3.4028235e38, 1e22, 2.0**20, 1048577.5], np.float32), 2000)
    want = np.sin(x.astype(np.float64))
    assert ulps(run("sin", x), want).max() <= 1


def test_float32_library_calls_nothing_and_never_branches():
    for name in maths.F32 | maths.BOTH:
        text, declares = maths.define(f"ml_{name}_f32")
        assert " br " not in text and all("@llvm." in d for d in declares), name


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_float32_loops_vectorise(name):
    """The optimised loop works on vectors: losing that is silent and costs a factor of 4 to 16."""
    llvm = compiler._llvm()
    graph = Graph()
    leaves = [graph.leaf() for _ in range(1 + (name in maths.BINARY))]
    program = Program(leaves, [graph.node(name, *leaves)])
    codes = ("f4",) * len(leaves)
    kernel = printer.Shape("float", codes, ("f4",), 1, (1,) * (len(leaves) + 1))
    module = llvm.parse_assembly(printer.print_loop(program, kernel))
    module.link_in(compiler._maths(), preserve=True)
    machine = compiler._machine()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    text = str(module.get_function("k"))
    assert re.search(r"<\d+ x float>", text), name


def test_only_the_functions_that_are_called_are_linked():
    """So that a kernel is not compiled with the whole library: that takes twice as long."""
    call = "define float @f(float %x) { %y = call float @ml_tanh_f32(float %x) ret float %y }"
    module = llvm.parse_assembly(f"declare float @ml_tanh_f32(float)\n{call}")
    module.link_in(llvm.parse_assembly(maths.library()))
    assert {f.name for f in module.functions if not f.is_declaration} == {"f", "ml_tanh_f32"}

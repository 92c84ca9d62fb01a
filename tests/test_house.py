"""The house rules that a machine can check: imports run downward, files stay small."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    0: "errors config",
    1: "backend",
    2: "tensor tape autograd calculus capturing derivatives dtypes fusion random",
    3: "ops wide functional methods",
    4: "nn optim data io amp",
    5: "models train tools",
    6: "__main__",
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms.split()}
PACKAGE = sorted((ROOT / "minidl").rglob("*.py"))
SOURCES = [
    p for top in ("minidl", "projects", "benchmarks", "tests") for p in (ROOT / top).rglob("*.py")
]
MAXIMUM_LINES = 420  # "about 400"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
NOT_CODE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
)  # fmt: skip


def room(path: Path) -> str:
    """The room a file of minidl/ is in: the first part of its module name."""
    return path.relative_to(ROOT / "minidl").parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Full names of all modules that a file imports anywhere, functions included."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            package = str(node.module)
            names += [f"{package}.{a.name}" if package == "minidl" else package for a in node.names]
    return names


def rooms_below(path: Path) -> set[str]:
    """Rooms of minidl that a file imports from; "" is the package itself."""
    found = set()
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in ("projects", "benchmarks", "tests"), f"{path} imports {name}"
        if top == "minidl":
            found.add(rest.partition(".")[0])
    return found


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward(path):
    """No file imports from a higher floor than its own."""
    here = room(path)
    if here == "__init__":
        return
    for other in rooms_below(path) - {here}:
        assert other in FLOOR, f"imports {other or 'minidl itself'}, which has no floor below"
        assert FLOOR[other] <= FLOOR[here], f"floor {FLOOR[here]} imports {other} above it"


def test_sideways_imports_run_in_one_direction():
    """Rooms of one floor that import each other form no circle."""
    beside = {name: set() for name in FLOOR}
    for path in PACKAGE:
        here = room(path)
        if here != "__init__":
            beside[here] |= {r for r in rooms_below(path) if FLOOR[r] == FLOOR[here]} - {here}
    while beside:
        done = [name for name, others in beside.items() if not others & beside.keys()]
        assert done, f"these rooms import each other: {beside}"
        for name in done:
            del beside[name]


def code_lines(path: Path) -> int:
    """Lines of a file that hold code: no blank lines, comments or docstrings."""
    text = path.read_text()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, docstring.end_lineno + 1))
    return len(lines)


def test_line_counts():
    """Few enough lines of code to be read in a day; no file much over 400 lines in all.

    Apart from the rest: networks, readers of files and the wide names of the API, of which one
    needs to know only those that one uses; the CUDA backend's launchers; its kernels, with their
    comments.
    """
    lines = {p.relative_to(ROOT): len(p.read_text().splitlines()) for p in SOURCES}
    long = {str(p): n for p, n in lines.items() if n > MAXIMUM_LINES}
    assert not long, f"too long: {long}"
    gpu = ROOT / "minidl" / "backend" / "cuda"
    launchers = {p for p in PACKAGE if gpu in p.parents}
    apart = {p for p in PACKAGE if room(p) in ("io", "models")}
    wide = {p for p in PACKAGE if room(p) == "wide" or p.stem in ("wide", "lazy", "lbfgs")}
    assert sum(map(code_lines, set(PACKAGE) - launchers - apart - wide)) <= 12_360
    assert sum(map(code_lines, wide)) <= 2_250
    assert sum(map(code_lines, apart)) <= 2_790
    assert sum(map(code_lines, launchers)) <= 2_150
    kernels = [p for p in gpu.rglob("*.cu*") if p.is_file()]
    assert sum(len(p.read_text().splitlines()) for p in kernels) <= 5_000


def test_torch_is_imported_only_to_compare():
    """Neither the package, the projects nor the tests need PyTorch."""
    makers = (ROOT / "tests" / "golden").glob("make_*.py")
    for path in set(SOURCES) - set(makers):
        if path.relative_to(ROOT).parts[0] != "benchmarks":
            assert not any(n.partition(".")[0] == "torch" for n in imports(path)), path


def test_cupy_is_imported_in_one_place():
    """One file of minidl/ at most knows CuPy."""
    users = [
        p for p in PACKAGE if any(n.partition(".")[0] in ("cupy", "cupyx") for n in imports(p))
    ]
    assert len(users) <= 1, users


def test_heavy_packages_wait_for_their_first_use():
    """`import minidl` brings in neither compilers nor plots."""
    heavy = "numba llvmlite matplotlib cupy PIL scipy torch tqdm".split()
    code = f"import sys, minidl; print(*sorted(set(sys.modules) & set({heavy})))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []


def test_every_file_says_what_it_is():
    """The first statement of every file is a docstring whose first line is a sentence."""
    for path in SOURCES:
        text = path.read_text()
        if text.strip():
            first = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
            assert first, f"{path} has no docstring"


def test_no_machine_paths():
    """No file names a folder of the machine it was written on."""
    folders = ("/ho" + "me/", "/wo" + "rk/", "/ro" + "ot/", "/Us" + "ers/")
    for path in SOURCES:
        text = path.read_text()
        assert not any(folder in text for folder in folders), path

"""The product that kernels call `panel`, with its sums in registers, for any processor.

panel(m, k, a, up, over, b, ldb, c, ldc, add): c (m, BLOCK) = a (m, k) b (k, BLOCK) (+ c), where
a[i, p] lies at a[i * up + p * over], and rows of b and c are contiguous and ldb and ldc apart. It
packs nothing, so that it serves the small products whose operands a kernel lays out itself; every
sum runs over k in sequence, whatever the processor. The machine code is in panel.ll.
"""

import re
from functools import cache
from pathlib import Path

BLOCK = 16  # columns of a panel: in float32, a line of the cache
ROWS = 6  # rows of c in registers: with AVX2, 12 of 16; half as many in float64
WIDE_ROWS = 12  # with AVX-512: a row is a register, and 8 are in the making at any time
ENTRIES = ("ml_panel_f32", "ml_panel_f64")


def _written(text: str, real: str, rows: range) -> str:
    """The template for a precision and for as many rows."""
    for mark, part in re.findall(r"([*+])\{(.*?)\}[*+]", text, re.DOTALL):
        chosen, lines = rows[::3] if mark == "+" else rows, ""
        for i in chosen:
            numbers = {"#": i, "^": i - i % 3, "~": i % 3}
            lines += re.sub("[#~^]", lambda found: str(numbers[found[0]]), part)
        text = text.replace(f"{mark}{{{part}}}{mark}", lines, 1)
    bits = "f32" if real == "float" else "f64"
    words = {"VECTOR": f"<{BLOCK} x {real}>", "NAME": f"ml_panel_{bits}", "REAL": real,
             "SUFFIX": f"v{BLOCK}{bits}", "BLOCK": str(BLOCK)}  # fmt: skip
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


@cache
def library(wide: bool) -> str:
    """LLVM IR of both precisions; wide: for a processor with AVX-512."""
    tile, whole = Path(__file__).with_name("panel.ll").read_text().split(";----")
    text = ""
    most = WIDE_ROWS if wide else ROWS
    for real, most in (("float", most), ("double", most // 2)):
        for rows in range(1, most + 1):
            text += _written(tile.replace("ROWS", str(rows)), real, range(rows))
        text += _written(";" + whole.replace("ROWS", str(most)), real, range(1, most + 1))
    return text

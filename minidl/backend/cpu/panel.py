"""The product that kernels call `panel`, with its sums in registers, for any processor.

panel(m, n, k, a, up, over, b, apart, ldb, c, ldc, add): c (m, n BLOCK) = a (m, k) b (k, n BLOCK)
(+ c), where a[i, p] lies at a[i * up + p * over], rows of b and c are ldb and ldc apart, and b's
panels of BLOCK columns, whose rows are contiguous, so far apart as that says. It packs nothing, so
that it serves products whose operands a kernel lays out itself; every sum runs over k in sequence,
whatever the processor, and is then added to c. Its LLVM IR is made from panel.ll.
"""

import re
from functools import cache
from pathlib import Path

BLOCK = 16  # columns of a panel: in float32, a line of the cache
PAIR = 2  # panels that are best given together
# Rows of c in registers, by the panels side by side: with AVX2 12 of 16 registers. With AVX-512 8
# sums must be in the making at any time, and a pair needs a load for two of them instead of each.
NARROW = {"float": {1: 6}, "double": {1: 3}}
WIDE = {"float": {1: 12, PAIR: 8}, "double": {1: 8}}
ENTRIES = ("ml_panel_f32", "ml_panel_f64")


def _written(text: str, real: str, panels: int, rows: range) -> str:
    """The template for a precision, so many panels side by side, and rows."""
    for mark, part in re.findall(r"([*+])\{(.*?)\}[*+]", text, re.DOTALL):
        chosen, lines = rows[::3] if mark == "+" else rows, ""
        for i in chosen:
            numbers = {"#": str(i), "^": str(i - i % 3), "~": str(i % 3)}
            lines += part.translate(str.maketrans(numbers))
        text = text.replace(f"{mark}{{{part}}}{mark}", lines, 1)
    bits, columns = "f32" if real == "float" else "f64", panels * BLOCK
    words = {"VECTOR": f"<{columns} x {real}>", "PANELS": str(panels), "COLUMNS": str(columns),
             "PANEL": f"<{BLOCK} x {real}>", "SUFFIX": f"v{columns}{bits}", "BLOCK": str(BLOCK),
             "PLACES": ", ".join(f"i32 {i}" for i in range(columns)),
             "NAME": f"ml_panel_{bits}", "REAL": real}  # fmt: skip
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


@cache
def library(wide: bool) -> str:
    """LLVM IR of both precisions; wide: for a processor with AVX-512."""
    tile, tiles, whole = Path(__file__).with_name("panel.ll").read_text().split(";----")
    text = ""
    for real, kinds in (WIDE if wide else NARROW).items():
        for panels, most in kinds.items():
            for rows in range(1, most + 1):
                text += _written(tile.replace("ROWS", str(rows)), real, panels, range(rows))
            text += _written(tiles.replace("ROWS", str(most)), real, panels, range(1, most + 1))
        text += _written(whole, real, max(kinds), range(0))
    return text

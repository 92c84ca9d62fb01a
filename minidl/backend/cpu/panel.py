"""The product that kernels call `panel`, as LLVM IR with its sums in registers, for any processor.

panel(m, k, a, up, over, b, ldb, c, ldc, add): c (m, BLOCK) = a (m, k) b (k, BLOCK) (+ c), where
a[i, p] lies at a[i * up + p * over], and rows of b and c are contiguous and ldb and ldc apart. It
packs nothing, so that it serves the small products whose operands a kernel lays out itself; every
sum runs over k in sequence, whatever the processor.
"""

from functools import cache

BLOCK = 16  # columns of a panel: in float32, a line of the cache
ROWS = 6  # rows of c in registers: with AVX2, 12 of 16; half as many in float64
WIDE_ROWS = 8  # with AVX-512, where it is BLOCK / 2


def _tile(name: str, rows: int, vector: str, real: str) -> str:
    """A function for a fixed number of rows; its pointers point to the first element."""
    each = range(rows)

    def lines(text: str) -> str:
        return "\n".join(text.replace("#", str(i)) for i in each)

    fma = f"call {vector} @llvm.fmuladd.v{BLOCK}{name[-3:]}"
    zeros = f"<{BLOCK} x i32> zeroinitializer"
    into = lines(f""" %oc# = mul i64 %ldc, #
 %c# = getelementptr {real}, ptr %c, i64 %oc#
 %q# = mul i64 %up, #""")
    step = lines(f""" %g# = getelementptr {real}, ptr %pa, i64 %q#
 %e# = load {real}, ptr %g#
 %h# = insertelement {vector} poison, {real} %e#, i64 0
 %w# = shufflevector {vector} %h#, {vector} poison, {zeros}
 %n# = {fma}({vector} %w#, {vector} %v, {vector} %t#)""")
    return f"""
define internal void @{name}_{rows}(i64 %k, ptr noalias %a, i64 %up, i64 %over, ptr noalias %b,
  i64 %ldb, ptr noalias %c, i64 %ldc, i1 %add) noinline nounwind {{
entry:
{into}
 br i1 %add, label %given, label %head
given:
{lines(f" %s# = load {vector}, ptr %c#, align 4")}
 br label %head
head:
{lines(f" %z# = phi {vector} [ zeroinitializer, %entry ], [ %s#, %given ]")}
 %some = icmp sgt i64 %k, 0
 br i1 %some, label %loop, label %done
loop:
 %p = phi i64 [ 0, %head ], [ %p1, %loop ]
 %pa = phi ptr [ %a, %head ], [ %pa1, %loop ]
 %pb = phi ptr [ %b, %head ], [ %pb1, %loop ]
{lines(f" %t# = phi {vector} [ %z#, %head ], [ %n#, %loop ]")}
 %v = load {vector}, ptr %pb, align 4
{step}
 %p1 = add nuw nsw i64 %p, 1
 %pa1 = getelementptr {real}, ptr %pa, i64 %over
 %pb1 = getelementptr {real}, ptr %pb, i64 %ldb
 %more = icmp slt i64 %p1, %k
 br i1 %more, label %loop, label %done
done:
{lines(f" %f# = phi {vector} [ %z#, %head ], [ %n#, %loop ]")}
{lines(f" store {vector} %f#, ptr %c#, align 4")}
 ret void
}}"""


def _panel(real: str, most: int) -> str:
    """`ml_panel_f32` or `ml_panel_f64`: tiles of `most` rows, and one of those that are left."""
    name = f"ml_panel_f{32 if real == 'float' else 64}"
    vector = f"<{BLOCK} x {real}>"
    given = "i64 %k, ptr %pa, i64 %up, i64 %over, ptr %b, i64 %ldb, ptr %pc, i64 %ldc, i1 %add"
    labels = "\n".join(f"  i64 {r}, label %rows{r}" for r in range(1, most))
    calls = "\n".join(
        f"rows{r}:\n call void @{name}_{r}({given})\n br label %next" for r in range(1, most + 1)
    )
    return f"""
declare {vector} @llvm.fmuladd.v{BLOCK}{name[-3:]}({vector}, {vector}, {vector})
{"".join(_tile(name, r, vector, real) for r in range(1, most + 1))}
define void @{name}(i64 %m, i64 %k, ptr %a, i64 %up, i64 %over, ptr %b, i64 %ldb,
  ptr %c, i64 %ldc, i1 %add) nounwind {{
entry:
 %some = icmp sgt i64 %m, 0
 br i1 %some, label %loop, label %out
loop:
 %i = phi i64 [ 0, %entry ], [ %i1, %next ]
 %left = sub i64 %m, %i
 %oa = mul i64 %i, %up
 %pa = getelementptr {real}, ptr %a, i64 %oa
 %oc = mul i64 %i, %ldc
 %pc = getelementptr {real}, ptr %c, i64 %oc
 switch i64 %left, label %rows{most} [
{labels}
 ]
{calls}
next:
 %i1 = add i64 %i, {most}
 %more = icmp slt i64 %i1, %m
 br i1 %more, label %loop, label %out
out:
 ret void
}}
"""


@cache
def library(wide: bool) -> str:
    """LLVM IR of both precisions; wide: for a processor with AVX-512."""
    rows = WIDE_ROWS if wide else ROWS
    return _panel("float", rows) + _panel("double", rows // 2)

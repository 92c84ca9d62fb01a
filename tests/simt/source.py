"""The preprocessed text of CUDA kernels: shared memory rewritten, kernels found."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PARENTHESES = r"\([^()]*(?:\([^()]*\)[^()]*)*\)"  # with one level inside
_ATTRIBUTES = rf"(?:(?:static|volatile|(?:alignas|__align__)\s*{_PARENTHESES})\s+)*"
_DYNAMIC = re.compile(
    rf"{_ATTRIBUTES}extern\s+{_ATTRIBUTES}__shared__\s+{_ATTRIBUTES}"
    r"([\w:<>,\s]+?)\s*\b(\w+)\s*\[\s*\]\s*;"
)
_STATIC = re.compile(rf"\b({_ATTRIBUTES})__shared__\s+")
_NAME = re.compile(r"(\w+)\s*(?:\[.*\])?\s*$", re.DOTALL)
_KERNEL = re.compile(
    rf"__global__\s+(?:(?:void\b|static\b|inline\b|__launch_bounds__\s*(?P<bound>{_PARENTHESES}))"
    r"\s*)+(?P<name>\w+)\s*\("
)
_MARKER = re.compile(r'^# (\d+) "(?:[^"]*/)?([^"/]*)".*$', re.MULTILINE)


@dataclass(frozen=True)
class KernelText:
    """A kernel as its text declares it.

    launch_bound: an expression, or "0" without one. template: `template <…>`, or "".
    """

    name: str
    parameters: tuple[str, ...]
    launch_bound: str
    template: str


def name_lines(text: str) -> str:
    """Turn the preprocessor's markers into #line with the names of files, without their folders."""
    return _MARKER.sub(r'#line \1 "\2"', text)


def split_commas(text: str) -> Iterator[str]:
    """Split at the commas outside all brackets."""
    depth, start = 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and depth == 0:
            yield text[start:i]
            start = i + 1
    yield text[start:]


def _end(text: str, start: int, mark: str) -> int:
    """Index of the first mark from start on that is inside no brackets opened since."""
    depth = 0
    for i in range(start, len(text)):
        if depth == 0 and text[i] == mark:
            return i
        depth += (text[i] in "([{") - (text[i] in ")]}")
    raise ValueError(f"{text[start : start + 40]!r} does not end")


def _static_variables(attributes: str, declaration: str, number: Iterator[int]) -> str:
    """Declare each variable as the first member of a struct with a red zone behind it."""
    attributes = attributes.replace("static", "")
    first, *others = split_commas(declaration)
    name = _NAME.search(first)
    assert name is not None, declaration
    kind, out = first[: name.start()], []
    for declarator in (first[name.start() :], *others):
        found = _NAME.search(declarator)
        assert found is not None, declaration
        n, s = found[1], f"simt_shared_{next(number)}"
        out.append(
            f"struct {s} {{ {attributes}{kind} {declarator}; char simt_red_zone[64]; }}; "
            f'auto& {n} = simt::shared<{s}>("{n}", sizeof({s}::{n})).{n};'
        )
    return " ".join(out)


def rewrite_shared(text: str) -> str:
    """Give __shared__ variables an address in the emulator's shared memory; lines stay in place."""
    text = _DYNAMIC.sub(
        lambda m: f"{m[1]}* {m[2]} = ({m[1]}*)simt::dynamic_shared();" + "\n" * m[0].count("\n"),
        text,
    )
    number, out, done = iter(range(1 << 20)), [], 0
    for match in _STATIC.finditer(text):
        end = _end(text, match.end(), ";")
        new = _static_variables(match[1], text[match.end() : end], number).replace("\n", " ")
        out += [text[done : match.start()], new, "\n" * text.count("\n", match.start(), end)]
        done = end + 1
    return "".join([*out, text[done:]])


def find_kernels(text: str) -> dict[str, KernelText]:
    """All kernels that the text defines or declares, by name, in its order."""
    found = {}
    for match in _KERNEL.finditer(text):
        end = _end(text, match.end(), ")")
        names = [re.findall(r"\w+", p) for p in split_commas(text[match.end() : end])]
        before = text[: match.start()].rstrip().removesuffix('extern "C"').rstrip()
        template = before[before.rfind("template") :] if before.endswith(">") else ""
        bound = next(split_commas(match["bound"][1:-1])) if match["bound"] else "0"
        found[match["name"]] = KernelText(
            match["name"], tuple(n[-1] for n in names if n), bound, template
        )
    return found

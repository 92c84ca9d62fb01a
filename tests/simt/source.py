"""The text of CUDA kernels: includes put in place, shared memory rewritten, kernels found."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[^\n]*$', re.MULTILINE)
_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_ATTRIBUTES = r"(?:(?:static|volatile|(?:alignas|__align__)\s*\([^()]*(?:\([^()]*\)[^()]*)*\))\s+)*"
_DYNAMIC = re.compile(
    rf"(?:{_ATTRIBUTES})extern\s+{_ATTRIBUTES}__shared__\s+{_ATTRIBUTES}"
    r"([\w:<>,\s]+?)\s*\b(\w+)\s*\[\s*\]\s*;"
)
_STATIC = re.compile(rf"(?<![\w])({_ATTRIBUTES})__shared__\s+([^;{{}}=]+);")
_NAME = re.compile(r"(\w+)\s*(?:\[.*\])?\s*$", re.DOTALL)
_KERNEL = re.compile(
    r"__global__\s+(?:(?:void|static|inline|__launch_bounds__\s*\((?P<bound>[^()]*(?:\([^()]*\)"
    r"[^()]*)*)\))\s+)+(?P<name>\w+)\s*\("
)


@dataclass(frozen=True)
class KernelText:
    """A kernel as its text declares it; launch_bound is an expression, or "0" without one."""

    name: str
    parameters: tuple[str, ...]
    launch_bound: str
    template: bool


def inline_includes(text: str, folders: Iterable[Path], name: str) -> str:
    """Put every included file that lies in one of the folders in the place of its #include.

    Each file is taken once. So the text is complete: its hash is the key of compiled kernels.
    """
    folders, taken = list(folders), set()

    def expand(text: str, name: str) -> str:
        def put(match: re.Match[str]) -> str:
            path = next((f / match[1] for f in folders if (f / match[1]).is_file()), None)
            if path is None:
                return match[0]
            line = text.count("\n", 0, match.start()) + 2
            if path in taken:
                return ""
            taken.add(path)
            return f'{expand(path.read_text(), path.name)}\n#line {line} "{name}"'

        return f'#line 1 "{name}"\n' + _INCLUDE.sub(put, text.replace("#pragma once", ""))

    return expand(text, name)


def _blank_comments(text: str) -> str:
    """Replace comments by spaces and keep the lines: words in them are not declarations."""

    def blank(match: re.Match[str]) -> str:
        return match[0] if match[0][0] == '"' else re.sub(r"[^\n]", " ", match[0])

    return _COMMENT.sub(blank, text)


def split_commas(text: str) -> Iterator[str]:
    """Split at the commas outside all brackets."""
    depth, start = 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and depth == 0:
            yield text[start:i]
            start = i + 1
    yield text[start:]


def _static_variable(match: re.Match[str], number: Iterator[int]) -> str:
    """Declare each variable as the first member of a struct with a red zone behind it."""
    attributes = match[1].replace("static", "")
    first, *others = split_commas(match[2])
    name = _NAME.search(first)
    assert name is not None, match[0]
    kind, out = first[: name.start()], []
    for declarator in (first[name.start() :], *others):
        found = _NAME.search(declarator)
        assert found is not None, match[0]
        n, s = found[1], f"simt_shared_{next(number)}"
        out.append(
            f"struct {s} {{ {attributes}{kind} {declarator}; char simt_red_zone[64]; }}; "
            f'auto& {n} = simt::shared<{s}>("{n}", sizeof({s}::{n})).{n};'
        )
    return " ".join(" ".join(out).split("\n")) + "\n" * match[0].count("\n")


def rewrite_shared(text: str) -> str:
    """Give __shared__ variables an address in the emulator's shared memory; lines stay in place."""
    text = _DYNAMIC.sub(
        lambda m: f"{m[1]}* {m[2]} = ({m[1]}*)simt::dynamic_shared();" + "\n" * m[0].count("\n"),
        _blank_comments(text),
    )
    number = iter(range(1 << 20))
    return _STATIC.sub(lambda m: _static_variable(m, number), text)


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one opened just before start."""
    depth = 1
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError("a parameter list does not end")


def find_kernels(text: str) -> list[KernelText]:
    """All kernels that the text defines, in its order."""
    text, found = _blank_comments(text), {}
    for match in _KERNEL.finditer(text):
        end = _closing(text, match.end())
        names = [re.findall(r"\w+", p) for p in split_commas(text[match.end() : end])]
        before = text[: match.start()].rstrip().removesuffix('extern "C"').rstrip()
        bound = next(split_commas(match["bound"])) if match["bound"] else "0"
        found[match["name"]] = KernelText(
            match["name"], tuple(n[-1] for n in names if n), bound, before.endswith(">")
        )
    return list(found.values())

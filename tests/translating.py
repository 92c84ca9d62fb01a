"""A toy language to translate into, for the tests of translation."""

import itertools
from pathlib import Path

KIND = {"model": "seq2seq", "dataset": "english-french", "tokens": "words"}


def written(root: Path, text: str | bytes, name: str = "fra.txt") -> Path:
    """A root of data with a file of pairs."""
    path = root / "text" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def toy() -> str:
    """A language in which the adjective comes last, and every fifth sentence has two versions."""
    nouns = {"cat": "chat", "dog": "chien", "king": "roi", "bed": "lit", "hat": "chapeau",
             "wall": "mur", "wine": "vin", "bread": "pain"}  # fmt: skip
    kinds = {"big": "grand", "red": "rouge", "old": "vieux", "black": "noir", "white": "blanc",
             "good": "bon", "new": "neuf", "sad": "triste"}  # fmt: skip
    ends = {"": ".", " now": " maintenant."}
    lines = []
    for k, ((a, x), (b, y), (c, z)) in enumerate(
        itertools.product(nouns.items(), kinds.items(), ends.items())
    ):
        lines.append(f"The {b} {a}{c}.\tLe {x} {y}{z}\tCC-BY 2.0")
        lines += [f"The {b} {a}{c}.\tUn {x} {y}{z}"] if k % 5 == 0 else []
    return "\n".join(lines) + "\n"

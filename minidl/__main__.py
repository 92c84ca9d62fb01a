"""The command line: `python -m minidl info | inspect FILE | convert IN OUT`."""

import argparse
import sys
from collections.abc import Sequence

from minidl.errors import MinidlError
from minidl.tools import info
from minidl.tools.converting import convert, inspect


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 after an error that was printed (argparse itself leaves with 2)."""
    parser = argparse.ArgumentParser(prog="python -m minidl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("info", help="print versions, processor, threads, BLAS, cache, GPU")
    look = commands.add_parser("inspect", help="list the arrays in a file of weights")
    look.add_argument("file", metavar="FILE", help="of PyTorch, Keras, TFLite, ONNX, Flax and more")
    turn = commands.add_parser("convert", help="write a file of weights as safetensors")
    turn.add_argument("source", metavar="IN")
    turn.add_argument("out", metavar="OUT.safetensors")
    turn.add_argument("--model", metavar="NAME", help="give them this network's names")
    turn.add_argument("--classes", type=int, metavar="N", help="of the network's head")
    args = parser.parse_args(arguments)
    try:
        print(_run(args), flush=True)
    except (MinidlError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> str:
    """What a command prints."""
    if args.command == "inspect":
        return inspect(args.file)
    if args.command == "convert":
        return f"{args.out}: {convert(args.source, args.out, args.model, args.classes):,} arrays"
    facts = info()
    return "\n".join(f"{name:<{max(map(len, facts))}}  {fact}" for name, fact in facts.items())


if __name__ == "__main__":
    if sys.stdout:  # it may be closed; names in a file may have characters that it lacks
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main())

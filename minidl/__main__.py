"""The command line: `python -m minidl info`."""

import argparse
import sys
from collections.abc import Sequence

from minidl.errors import MinidlError
from minidl.tools import info


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 after an error that was printed (argparse itself leaves with 2)."""
    parser = argparse.ArgumentParser(prog="python -m minidl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("info", help="print versions, processor, threads, BLAS, cache, GPU")
    parser.parse_args(arguments)
    try:
        facts = info()
    except MinidlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:<{width}}  {fact}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

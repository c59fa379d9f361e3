"""`python -m image build`: the image from the command line; `--help` says more."""

from __future__ import annotations

import argparse
import json
import sys

from image import build
from image.tools import ImageError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m image", description="The operating image of the box.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("build", help="build build/image/xacbe.raw")
    make.add_argument("--clean", action="store_true", help="also the layer of Debian packages")
    make.add_argument("--json", action="store_true", help="print what was built")
    arguments = parser.parse_args()
    try:
        facts = build.build(clean=arguments.clean)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(facts, indent=1) if arguments.json else f"  {build.DISK}  root {facts['root_hash']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m appliance PROCESS --state DIR`: starts one process of the box; `check-settings FILE` only checks. No logic."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from appliance import settings, topology
from appliance.errors import SettingsError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m appliance")
    parser.add_argument("process", choices=[*topology.USER_OFFSETS, "check-settings"])
    parser.add_argument("file", nargs="?", type=Path, help="check-settings: the file")
    parser.add_argument("--state", type=Path, default=Path("/var/lib/xacbe"))
    arguments = parser.parse_args()
    try:
        if arguments.process == "check-settings":
            settings.load_all(arguments.file or arguments.state / settings.SETTINGS_FILE)
            return 0
        module = importlib.import_module(f"appliance.processes.{arguments.process}")
        return int(module.main(arguments.state))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 78  # EX_CONFIG: a restart will not help


if __name__ == "__main__":
    sys.exit(main())

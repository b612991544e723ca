"""The command line: python -m ovenet_core train|report ..."""

import sys

from ovenet_core.study import report
from ovenet_core.training import launch

if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or ["--help"]
    {"train": launch.main, "report": report.main}[command](arguments)

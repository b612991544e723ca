"""usage: python -m ovenet_core COMMAND ...

OVeNet, the Offset Vector Network for semantic segmentation.

commands:
  train     train one experiment with one seed, or go on with it
  validate  check a dataset's folder before training, and list what is wrong
  report    turn finished runs into tables, figures and claims

example, one to three minutes on a CPU with nothing downloaded:
  python -m ovenet_core train synthetic/ovenet

Options of a command: python -m ovenet_core COMMAND --help
"""

import importlib
import sys
from collections.abc import Sequence

from ovenet_core.utils.suggest import did_you_mean

COMMANDS = {"train": "training.launch", "validate": "data.validation", "report": "study.report"}  # each has a main


def main(argv: Sequence[str]) -> None:
    """Run the command that the first argument names, with the other arguments."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    command, *arguments = argv
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        print(f"python -m ovenet_core: no command {command!r}; {hint}\n\n{__doc__}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(f"ovenet_core.{COMMANDS[command]}")  # nothing that the command does not need
    sys.exit(module.main(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The command line: python -m ovenet_core train|validate|report ..."""

import importlib
import sys
from collections.abc import Sequence

from ovenet_core.utils.suggest import did_you_mean

COMMANDS = {  # the module whose main(argv) it is, and what it does
    "train": ("ovenet_core.training.launch", "train one experiment with one seed, or go on with it"),
    "validate": ("ovenet_core.data.validation", "check a dataset's folder before training, and list what is wrong"),
    "report": ("ovenet_core.study.report", "turn finished runs into tables, figures and claims"),
}
USAGE = """usage: python -m ovenet_core COMMAND ...

OVeNet, the Offset Vector Network for semantic segmentation.

commands:
{commands}

example, one to three minutes on a CPU with nothing downloaded:
  python -m ovenet_core train synthetic/ovenet

Options of a command: python -m ovenet_core COMMAND --help
"""


def main(argv: Sequence[str]) -> None:
    """Run the command that the first argument names, with the other arguments."""
    usage = USAGE.format(commands="\n".join(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items()))
    if not argv or argv[0] in ("-h", "--help"):
        print(usage)
        return
    command, *arguments = argv
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        print(f"python -m ovenet_core: no command {command!r}; {hint}\n\n{usage}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(COMMANDS[command][0])  # nothing that the command does not need
    sys.exit(module.main(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])

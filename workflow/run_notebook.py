"""papermill, as `python -m papermill`, for many at once on one machine.

Kernels choose their ports before they open them, so that of several which start at once two can choose the same: one
papermill then talks to another's kernel. Here a papermill and its kernel meet in a folder of their own instead.
"""

from tempfile import TemporaryDirectory

from papermill.__main__ import papermill
from papermill.engines import NBClientEngine, papermill_engines
from traitlets.config import Config


class OverSockets(NBClientEngine):
    """Papermill's own engine, its kernel on Unix domain sockets in a temporary folder."""

    @classmethod
    def execute_managed_notebook(cls, *args, **kwargs):
        with TemporaryDirectory(prefix="kernel-") as folder:
            manager = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
            return super().execute_managed_notebook(*args, config=Config(KernelManager=manager), **kwargs)


if __name__ == "__main__":
    papermill_engines.register(None, OverSockets)
    papermill()

"""`papermill --engine ipc`: papermill for many notebooks at once on one machine.

Kernels choose their ports before they open them, so two that start at once can choose the same; one papermill then
talks to another's kernel. With this engine papermill and its kernel meet in a temporary folder instead.
"""

from tempfile import TemporaryDirectory
from typing import Any

from papermill.engines import NBClientEngine
from traitlets.config import Config


class SocketEngine(NBClientEngine):
    """Papermill's own engine, its kernel on Unix domain sockets."""

    @classmethod
    def execute_managed_notebook(cls, *args: Any, **kwargs: Any) -> Any:
        with TemporaryDirectory(prefix="kernel-") as folder:
            manager = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
            return super().execute_managed_notebook(*args, config=Config(KernelManager=manager), **kwargs)

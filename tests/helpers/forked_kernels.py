"""Kernels for the tests, forked from one process that has imported the large packages, which else takes each seconds.

    python forked_kernels.py LISTENING                  serves at that open socket until it is told to end
    python forked_kernels.py ADDRESS ARGUMENTS …        is a kernel; `install` makes it the one named python3

A kernel is forked with the place, environment and files of the process that asked for it, which stays for as long as
the kernel lives: it passes interrupts on, and when it is killed the kernel ends.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread

LARGE = (
    "torch",
    "torch._dynamo",
    "torchvision",
    "matplotlib.pyplot",
    "seaborn",
    "pandas",
    "cv2",
    "IPython",
    "ipykernel.kernelapp",
)


def install(folder: Path) -> subprocess.Popen:
    """Start serving, and have every process from now on, children included, find its kernels here."""
    from ipykernel.kernelspec import get_kernel_dict

    address, spec = str(folder / "kernels.socket"), folder / "kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-I", "-S", __file__, address, "-f", "{connection_file}"]
    spec.write_text(json.dumps(get_kernel_dict() | {"argv": argv}))
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("JUPYTER_PATH")])])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        number = server.fileno()
        environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # as ipykernel sets it
        return subprocess.Popen([sys.executable, __file__, str(number)], pass_fds=[number], env=environment)


def serve(number: int) -> None:
    parent = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that end leave nothing behind
    with socket.socket(fileno=number) as server:
        server.settimeout(5)
        while os.getppid() == parent:
            with suppress(TimeoutError):
                connection, _ = server.accept()
                for name in LARGE:  # the first one waits for that
                    import_module(name)
                sys.modules["pandas"].set_option("display.max_columns", 20)  # as it is where pandas finds a kernel
                text, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                if os.fork() == 0:
                    server.close()
                    be_kernel(connection, json.loads(text), files)
                connection.close()
                for file in files:
                    os.close(file)


def be_kernel(connection: socket.socket, asked: dict, files: list[int]) -> None:
    from ipykernel.kernelapp import launch_new_instance

    def end_with_it() -> None:
        while connection.recv(1):
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(1)

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for to, file in enumerate(files):
        os.dup2(file, to)
        os.close(file)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["ipykernel_launcher", *asked["arguments"], "--IPKernelApp.parent_handle=1"]  # 1: nobody to wait for
    sys.path[0:1] = filter(None, asked["environment"].get("PYTHONPATH", "").split(os.pathsep))
    connection.send(str(os.getpid()).encode())
    Thread(target=end_with_it, daemon=True).start()
    launch_new_instance()
    sys.exit()


def ask(address: str, *arguments: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        asked = {"folder": os.getcwd(), "environment": dict(os.environ), "arguments": arguments}
        socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
        connection.recv(20)
        signal.signal(signal.SIGINT, lambda *_: connection.send(b"i"))
        while connection.recv(1):  # until the kernel has ended
            pass


if __name__ == "__main__":
    serve(int(sys.argv[1])) if len(sys.argv) == 2 else ask(*sys.argv[1:])

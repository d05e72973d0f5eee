"""Modules in several processes under accelerate's launcher."""

import os
import socket
import subprocess
import sys

from tests.support.repository import ROOT


def launching(n_processes: int, module: str, flags: list[str]) -> list[str]:
    """The command that starts a module in several processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    command += ["--num_processes", str(n_processes), "--main_process_port", str(port), "--mixed_precision", "no"]
    return [*command, "--dynamo_backend", "no", "-m", module, *flags]


def launch(n_processes: int, module: str, flags: list[str]) -> subprocess.Popen:
    command = launching(n_processes, module, flags)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, output
    return output

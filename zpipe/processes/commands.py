"""The command lines and environments of the processes that a launcher or a thin parent starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zpipe.core.members import worker_name
from zpipe.processes.access import Access
from zpipe.processes.chaos import REGISTRY
from zpipe.processes.environment import environment
from zpipe.processes.runfolder import RunFolder
from zpipe.processes.supervisor import Program
from zpipe.values.plan import StagePlan


def registry(
    folder: RunFolder, address_file: Path, sockets_dir: Path, transport: str, access: Access, *, starts_workers: bool
) -> Callable[[str], Program]:
    """Return what makes the registry's program for the address it is to bind."""
    more = (*access.argv(), "--starts-workers") if starts_workers else access.argv()

    def program(bind: str) -> Program:
        argv = (
            sys.executable, "-m", "zpipe.processes.registry", "--run-folder", str(folder.path),
            "--bind", bind, "--address-file", str(address_file), "--sockets-dir", str(sockets_dir),
            "--transport", transport, "--parent", str(os.getpid()), *more,
        )  # fmt: skip
        return Program(REGISTRY, argv, environment({}), folder.log(REGISTRY))

    return program


def service(folder: RunFolder, lock: int, options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the command line and environment of the process that a service is; it is handed on `lock`."""
    argv = [sys.executable, "-m", "zpipe.processes.service", "--run-folder", str(folder.path), "--lock", str(lock)]
    return [*argv, *options], environment({})


def worker(stage: StagePlan, number: int, address: str, folder: RunFolder, access: Access) -> Program:
    """Return the program of a stage's worker; its output goes into the run folder."""
    name = worker_name(stage, number)
    argv = worker_argv(stage.name, address, folder.blame_file(name), access, slot=number)
    env, log, blame = worker_environment(stage.name, stage.env), folder.log(name), folder.blame_file(name)
    return Program(name, argv, env, log, blame, stage.timeout)


def worker_argv(
    stage: str, address: str, blame: Path, access: Access, *, slot: int | None = None, any_code: bool = False,
    host: str = "",
) -> tuple[str, ...]:  # fmt: skip
    """Return a worker's command line, which names its stage; without a slot the registry gives it one."""
    slot_argv = () if slot is None else ("--slot", str(slot))
    return (
        sys.executable, "-m", "zpipe.processes.worker", stage, "--registry", address, *slot_argv,
        "--blame", str(blame), "--parent", str(os.getpid()), *(("--any-code",) if any_code else ()),
        *(("--host", host) if host else ()), *access.argv(),
    )  # fmt: skip


def worker_environment(stage: str, env: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with the stage's on top."""
    return environment({**env, "ZPIPE_WORKER": stage})

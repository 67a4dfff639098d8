"""A Slurm of one node in a folder, for tests: on free ports, nothing of the system's is touched, and it is stopped by pid."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
MaxArraySize={max_array_size}
KillWait=5
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """The programs of Slurm and munge that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def start(folder: Path, max_array_size: int = 1001, cpus: int = 2) -> dict[str, str]:
    """Start munged, slurmctld and slurmd. Returns the environment in which Slurm's programs find them."""
    for name in ("state", "spool", "log"):
        (folder / name).mkdir(parents=True)
    for path in (folder, *folder.parents[:-2]):  # munged refuses a key in a folder that others may write to
        if path.stat().st_uid == os.getuid() and path != Path("/tmp"):
            path.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    host = socket.gethostname().split(".")[0]
    controller, node = _free_ports(2)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**locals()))
    options = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
    munged = ["munged", *(f"--{name}={folder / file}" for name, file in options.items()), f"--log-file={folder}/log/munged.log"]
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    for command in (munged, ["slurmctld", "-c", "-f", str(configuration)], ["slurmd", "-f", str(configuration), "-N", host]):
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=20)
    deadline = time.monotonic() + 20
    while "idle" not in _listing(environment):
        if time.monotonic() > deadline:
            raise RuntimeError("the node does not get idle:\n" + (folder / "log" / "slurmctld.log").read_text()[-2000:])
        time.sleep(0.1)
    return environment


def stop(folder: Path) -> None:
    """Cancel what still runs, and stop what :func:`start` started, the node first."""
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    for command in (["scancel", "-u", str(os.getuid())], ["squeue", "-h"]):  # a job outlives its node's daemon
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
            if not done.stdout:
                break
            time.sleep(0.2)
    for daemon in ("slurmd", "slurmctld", "munged"):
        try:
            pid = int((folder / f"{daemon}.pid").read_text())
            os.kill(pid, signal.SIGTERM)
        except (OSError, ValueError):
            continue
        for _ in range(100):
            try:
                os.kill(pid, 0)
            except OSError:
                break
            time.sleep(0.1)
        else:
            os.kill(pid, signal.SIGKILL)


def _listing(environment: dict[str, str]) -> str:
    command = ["sinfo", "-h", "-o", "%T"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20).stdout


def _free_ports(how_many: int) -> list[int]:
    sockets = [socket.socket() for _ in range(how_many)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()

"""A real Slurm on this machine: a controller and three nodes, from Debian's packages, ended by process id."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
NODES = ("n1", "n2", "n3")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdTimeout=10
KillWait=30
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
NodeName=n[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=4 RealMemory=6000 Gres=gpu:1
PartitionName=main Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=200 PriorityTier=1
PartitionName=urgent Nodes=n[1-3] MaxTime=INFINITE State=UP DefMemPerCPU=200 PriorityTier=9
"""


def missing() -> str:
    """Return why there can be no Slurm here; empty if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "its daemons are started as root only"


@dataclass
class Slurm:
    """A running Slurm; its commands find it through ``SLURM_CONF``."""

    folder: Path
    port: int
    pids: dict[str, int] = field(default_factory=dict)

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    def run(self, *command: str) -> str:
        environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        ended = subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, check=True
        )
        return ended.stdout

    def start(self) -> None:
        for name in ("munge", "state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        munge = self.folder / "munge"
        munge.chmod(0o700)
        key = munge / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        munge.chmod(0o711)
        self.configuration.write_text(
            CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                port=self.port,
                folder=self.folder,
                first=self.port + 1,
                last=self.port + len(NODES),
            ).lstrip()
        )
        (self.folder / "gres.conf").write_text("")
        (self.folder / "gpu").touch()
        (self.folder / "gres.conf").write_text(f"NodeName=n[1-3] Name=gpu File={self.folder}/gpu\n")
        self._daemon(
            "munged", "--force", f"--key-file={key}", f"--socket={munge}/socket", f"--pid-file={self.folder}/munged.pid",
            f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        self._daemon("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)
        self.wait_for(
            lambda: self.run("sinfo", "-hNp", "main", "-o", "%N %t").count(" idle") == len(NODES),
            "idle nodes",
        )

    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-N", node, pid_file=f"slurmd.{node}.pid")

    def _daemon(self, name: str, *arguments: str, pid_file: str = "") -> None:
        self.run(name, *arguments)
        path = self.folder / (pid_file or f"{name}.pid")
        self.wait_for(lambda: path.exists() and bool(path.read_text().strip()), f"{name}'s process id")
        self.pids[pid_file or name] = int(path.read_text())

    @staticmethod
    def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"no {what} after {seconds} s"
            time.sleep(0.05)

    def end(self, name: str) -> None:
        """Kill a daemon."""
        with suppress(ProcessLookupError):
            os.kill(self.pids.pop(name), signal.SIGKILL)
        (self.folder / (name if name.endswith(".pid") else f"{name}.pid")).unlink(missing_ok=True)

    def stop(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self.run("scancel", "--user=root")
            self.wait_for(lambda: not self.run("squeue", "-h"), "end of all jobs", 15)
        for name in list(self.pids):
            self.end(name)

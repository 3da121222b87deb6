"""A Slurm of its own on this machine: munged, slurmctld and two slurmd in a private folder, without systemd.

    python tests/cluster/slurm.py FOLDER          starts it and prints the variable that the commands need
    python tests/cluster/slurm.py FOLDER --stop   ends it

Needs root, and the Debian packages: apt-get install --no-install-recommends slurm-wlm munge
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
NODES = ("node1", "node2")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def missing() -> str:
    """Return why no Slurm can be started here, an empty string if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"{', '.join(absent)} not found (apt-get install --no-install-recommends slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd runs as root only"


class Slurm:
    """A controller and two nodes.

    Parameters
    ----------
    folder
        Everything is in it.
    cpus, memory
        Of each node; memory in MB.
    """

    def __init__(self, folder: Path, cpus: int = 2, memory: int = 2000) -> None:
        self.folder = folder.resolve()
        self.cpus, self.memory = cpus, memory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What the commands need."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self, timeout: float = 30.0) -> None:
        """Start everything and wait until the nodes are idle."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self._configure()
        self._start_munge()
        self._start("slurmctld", ["slurmctld", "-D", "-c", "-f", str(self.folder / "slurm.conf")])
        for node in NODES:
            self.start_node(node)
        end = time.monotonic() + timeout
        while self.command("sinfo", "-h", "-o", "%T").strip() != "idle":
            if time.monotonic() > end or any(p.poll() is not None for p in self.processes.values()):
                raise RuntimeError(f"Slurm did not start; see {self.folder}/*.log")
            time.sleep(0.2)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start(f"slurmd.{node}", ["slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf")])

    def fail_node(self, node: str) -> None:
        """End a node as if its power were cut: its daemon and all it has started."""
        daemon = self.processes.pop(f"slurmd.{node}")
        daemon.kill()
        daemon.wait()
        self._end_steps(node)
        self.command("scontrol", "update", f"nodename={node}", "state=down", "reason=failed")

    def repair_node(self, node: str) -> None:
        """Bring a node back."""
        self.start_node(node)
        time.sleep(0.5)
        self.command("scontrol", "update", f"nodename={node}", "state=resume")
        end = time.monotonic() + 20
        while "idle" not in self.command("sinfo", "-h", "-n", node, "-o", "%T"):
            if time.monotonic() > end:
                raise RuntimeError(f"{node} does not come back: {self.command('scontrol', 'show', 'node', node)}")
            time.sleep(0.2)

    def command(self, *words: str) -> str:
        """Run a command of Slurm and return what it prints."""
        environment = {**os.environ, **self.environment, "PATH": _PATH}
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60).stdout

    def stop(self) -> None:
        """End all jobs and daemons."""
        self.command("scancel", "--user=root")
        for name in sorted(self.processes, reverse=True):
            process = self.processes[name]
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for node in NODES:
            self._end_steps(node)

    def _end_steps(self, node: str) -> None:
        """End the daemons of steps on a node, which outlive that of the node, with all they have started."""
        log = str(self.folder / f"slurmd.{node}.log")
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_step = (path / "cmdline").read_bytes().startswith(b"slurmstepd: [")
                if is_step and any(os.readlink(fd) == log for fd in (path / "fd").iterdir()):
                    _kill_tree(int(path.name))

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        ports = _free_ports(3)
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} "
            f"RealMemory={self.memory} State=UNKNOWN"
            for name, port in zip(NODES, ports[1:], strict=True)
        )
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        (self.folder / "slurm.conf").write_text(f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={state}
SlurmdSpoolDir={self.folder}/spool.%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.%n.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
EnforcePartLimits=ALL
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,bf_interval=1
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=10
MinJobAge=300
{nodes}
PartitionName=main Nodes={",".join(NODES)} Default=YES MaxTime=60 State=UP
PartitionName=small Nodes={NODES[0]} MaxNodes=1 MaxTime=1 State=UP
""")

    def _start_munge(self) -> None:
        names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        words = [f"--{option}={self.folder / name}" for option, name in names.items()]
        log = f"--log-file={self.folder}/munge.log"
        self._start("munged", ["munged", "--foreground", "--force", log, *words])
        end = time.monotonic() + 10
        while not (self.folder / "munge.socket").exists():
            if time.monotonic() > end:
                raise RuntimeError(f"munged did not start; see {self.folder}/munged.log")
            time.sleep(0.05)

    def _start(self, name: str, words: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self.environment, "PATH": _PATH},
                start_new_session=True,
            )


def _kill_tree(pid: int) -> None:
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):  # those above first: nobody tells how another ended
            with contextlib.suppress(psutil.Error):
                one.kill()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main() -> None:
    """Start or stop it by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop", action="store_true")
    options = parser.parse_args()
    pids = options.folder / "pids"
    if options.stop:
        for pid in pids.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGTERM)
        return
    if reason := missing():
        raise SystemExit(reason)
    slurm = Slurm(options.folder)
    slurm.start()
    pids.write_text(" ".join(str(process.pid) for process in reversed(slurm.processes.values())))
    print(f"export SLURM_CONF={slurm.environment['SLURM_CONF']}")


if __name__ == "__main__":
    main()

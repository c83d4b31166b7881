"""``studyctl worker``: a process of a cluster's allocation that waits for a study's runner and runs its trials.

It outlives its runner: when the runner is gone it waits for the next one, so that the place in the scheduler's queue is kept. It
leaves when the runner lets it go, when there was no runner for a while, and when it is told to end (SIGTERM; USR2, which Slurm
sends ahead of a time limit): the attempt then stops at the next safe point.
"""

import asyncio
import contextlib
import logging
import signal
import tempfile
import time

import dask
from distributed import Worker as DaskWorker
from distributed.core import Status

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.workers.agent import Agent, AgentPlugin
from studyctl.workers.contact import Contact, read_contact

LOG = logging.getLogger("studyctl.worker")
LOOK_SECONDS = 1.0
"""How often the agent looks for a runner, and whether it is to leave."""
CONNECT_SECONDS = 5.0
"""How long a runner may take to answer; one that was killed leaves its address behind, and the next one another."""
END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def serve(paths: StudyPaths, name: str, idle: float) -> None:
    """Be a worker of a study until there is nothing more to do.

    Args:
        paths: the study.
        name: of the worker, unique in the study.
        idle: seconds after which it leaves without a runner.

    Raises:
        StudyError: the study's folder is not here.
    """
    if not paths.root.is_dir():
        raise StudyError(
            f"there is no folder {paths.root} on this machine",
            hint="the folder of the study must be one that the runner and all nodes share",
        )
    logging.basicConfig(format=f"%(asctime)s worker {name}: %(message)s", level=logging.WARNING)
    logging.getLogger("distributed").setLevel(logging.ERROR)
    LOG.setLevel(logging.INFO)
    dask.config.set(
        {
            "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS:g}s",
            "distributed.worker.profile.enabled": False,
        }
    )
    asyncio.run(_Node(paths, name, idle).serve())


class _Node:
    """The agent, and its connection to one runner after another."""

    def __init__(self, paths: StudyPaths, name: str, idle: float) -> None:
        self._paths, self._name, self._idle = paths, name, idle
        self._agent = Agent()
        self._alone_since = time.monotonic()
        self._last_line = ""

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            loop.add_signal_handler(number, self._end)
        try:
            while not self._agent.leaves and time.monotonic() - self._alone_since < self._idle:
                contact = read_contact(self._paths.contact)
                if contact is None:
                    self._say(f"no runner: there is no {self._paths.contact}")
                if contact is None or not await self._work_for(contact):
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._agent.close()

    def _end(self) -> None:
        """End soon, on a signal; whoever sends it kills a little later."""
        LOG.info("asked to end")
        self._agent.leaves = True
        self._agent.stop("now")

    def _say(self, text: str) -> None:
        """Log something, unless it was the last."""
        if text != self._last_line:
            LOG.info("%s", text)
        self._last_line = text

    async def _work_for(self, contact: Contact) -> bool:
        """Work for a runner until it is gone or lets the worker go; return whether it could be reached."""
        with tempfile.TemporaryDirectory(prefix="studyctl-") as scratch:
            worker = DaskWorker(
                contact.address,
                name=self._name,
                nthreads=1,
                security=contact.security,
                memory_limit=0,
                local_directory=scratch,
                death_timeout=CONNECT_SECONDS,
                plugins=(AgentPlugin(self._agent),),
            )
            try:
                await worker
            except (OSError, TimeoutError, ValueError) as error:
                with contextlib.suppress(Exception):  # half open
                    await worker.close()
                self._say(f"no runner answers at {contact.address}: {error or type(error).__name__}")
                return False
            self._say(f"works for the runner at {contact.address}")
            while worker.status in (Status.running, Status.paused):
                await asyncio.sleep(LOOK_SECONDS)
                if self._agent.leaves and not self._agent.attempt:
                    await worker.close(executor_wait=False)
            await worker.finished()
        self._alone_since = time.monotonic()
        return True

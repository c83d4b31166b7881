"""The worker's end of the pipes to its runner."""

import json
import os
import queue
import threading
from typing import Any

from studyctl.contract.job import Job, StopRequest
from studyctl.contract.records import Record, encode

ORPHANED = 70
"""Exit code of a worker whose runner is gone."""


class Channel:
    """The worker's end of the pipes."""

    def __init__(self, requests: int, records: int) -> None:
        self.jobs: queue.Queue[Job] = queue.Queue()
        self.stop: str | None = None
        """None, ``after_step`` or ``now``."""
        self._requests = requests
        self._records = records
        threading.Thread(target=self._listen, name="requests", daemon=True).start()

    def tell(self, record: Record) -> None:
        """Send one record to the runner."""
        try:
            line = encode(record)
            while line:
                line = line[os.write(self._records, line) :]
        except BrokenPipeError:
            os._exit(ORPHANED)

    def _listen(self) -> None:
        with os.fdopen(self._requests, encoding="utf-8") as lines:
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                if "stop" in message:
                    self.stop = StopRequest.model_validate(message).stop
                else:
                    self.jobs.put(Job.model_validate(message))
        # The runner is gone: whatever is not acknowledged will be run again, so leave at once.
        os._exit(ORPHANED)

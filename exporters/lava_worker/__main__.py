"""``python -m nsllm_nir.exporters.lava_worker FOLDER``: run the job in FOLDER, step by step on request.

Replies ``r`` once Lava is up. Each request ``s`` on stdin runs ``job["steps"]`` Lava steps and is
answered with ``d``; ``q`` stops Lava and ends. Data passes through the memory-mapped files of the job.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from nsllm_nir.exporters.lava_worker import compat, guard, job


def main(folder: Path) -> None:
    """Serve one job until the caller asks to quit or disappears."""
    reply = guard.private_stdout()
    requests = guard.requests(folder)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Lava takes about 10 descriptors per process
    settings, arrays = job.read(folder)
    process, run = _start(folder, settings, arrays)
    stopping = threading.Event()
    guard.watch_children(stopping)
    os.write(reply, b"r")
    while requests.get() == b"s":
        run(settings["steps"])
        os.write(reply, b"d")
    stopping.set()
    process.stop()


def _start(folder: Path, settings: dict[str, Any], arrays: job.Arrays) -> tuple[Any, Any]:
    compat.enable()
    from lava.magma.core.model.py.model import PyLoihiProcessModel
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from nsllm_nir.exporters.lava_worker.build import build

    guard.report_model_errors(PyLoihiProcessModel)
    process = build(folder, settings, arrays)
    config = Loihi2SimCfg(select_tag="fixed_pt")
    process.create_runtime(config, compile_config={"pypy_channel_size": job.CHANNEL_SLOTS})
    return process, lambda steps: process.run(RunSteps(num_steps=steps), config)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BaseException:
        guard.terminate(traceback.format_exc())
    os._exit(0)  # nothing of Lava may block the interpreter's exit

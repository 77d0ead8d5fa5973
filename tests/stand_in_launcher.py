"""A launcher over stand-in nodes, in a process of its own: to be signalled and killed.

usage: python -m tests.stand_in_launcher DIRECTORY FOLDER COUNT

FOLDER has the scripts of the nodes (see stand_in_node); a node whose FOLDER/NODE_ID.poor exists never gets
its share of the shards.
"""

import os
import sys
from pathlib import Path
from typing import TextIO, cast

import trio

from server.config import Settings
from server.launch import leash
from server.launch.child import Spawn
from server.launch.launcher import Launcher, LauncherLock
from server.launch.log_stream import LogFile, LogStream, render_json
from server.launch.plan import FirstPorts, NodePlan, NodePlans, find_free_ports
from server.launch.roll import Share
from server.log_setup import set_up_logging
from storage.locks import write_lock_holder


def main(directory: str, folder: str, count: str) -> int:
    def command(plan: NodePlan) -> Spawn:
        words = [sys.executable, "-m", "tests.stand_in_node", plan.node_id, str(plan.port), folder]
        return Spawn(words, {**os.environ, leash.VARIABLE: str(os.getpid())})

    async def read_share(node_id: str) -> Share:
        return Share(not (Path(folder) / f"{node_id}.poor").exists(), 85, 85, 0)

    lock = LauncherLock(Path(directory))
    logs = LogStream(2, render_json)
    set_up_logging(log_format="json", stream=cast("TextIO", LogFile(logs, "launcher")))
    launcher = Launcher(
        Path(directory),
        NodePlans(Settings(), FirstPorts(0, 0, 0), find_free=find_free_ports),
        int(count),
        command=command,
        logs=logs,
        read_share=read_share,
        read_holder=write_lock_holder,
        drain_s=1.0,
        kill_after_s=1.0,
        on_ready=lambda pages: print(f"hubbub is at {', '.join(pages)}", flush=True),
    )
    try:
        return trio.run(launcher.run)
    finally:
        logs.close()
        lock.close()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Stands in for `server serve` where a test is about the launcher: started like it, and told what to do.

usage: python -m tests.stand_in_node NODE_ID PORT FOLDER

It does what FOLDER/NODE_ID.script says, a line of JSON each, at its start; then it says that it is up, and
ends on SIGTERM after having said so. FOLDER/NODE_ID.script may hold:
    {"exit": 3}               end at once with that code, before being up
    {"print": "…"}            a line on standard error
    {"flood": 100000}         so many lines on standard error
    {"deaf": true}            SIGTERM is not heard
    {"hold": "DIRECTORY"}     take the store's write lock there, and keep it
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from server.launch.leash import tie_to_launcher
from storage.locks import WriteLock


def main(node_id: str, port: str, folder: str) -> None:
    tie_to_launcher(os.environ)
    told_to_end = threading.Event()
    is_deaf = False

    def hear(number: int, _: object) -> None:
        say(event="signal_heard", signal=signal.Signals(number).name)
        if not is_deaf and number == signal.SIGTERM:
            told_to_end.set()

    signal.signal(signal.SIGTERM, hear)
    signal.signal(signal.SIGHUP, hear)
    signal.signal(signal.SIGINT, hear)
    script = Path(folder) / f"{node_id}.script"
    for line in script.read_text().splitlines() if script.exists() else []:
        step = json.loads(line)
        is_deaf = is_deaf or "deaf" in step
        if "print" in step:
            os.write(2, step["print"].encode("latin-1") + b"\n")
        for number in range(step.get("flood", 0)):
            os.write(2, b'{"event":"flooded","level":"info","number":%d}\n' % number)
        if "hold" in step:
            WriteLock(Path(step["hold"])).acquire()
            say(event="lock_taken")
        if "exit" in step:
            sys.exit(step["exit"])
    say(event="node_started", secret=os.environ.get("HUBBUB_CLUSTER_SECRET", ""), pid=os.getpid())
    print(f"hubbub is at http://127.0.0.1:{port}", flush=True)
    while not told_to_end.wait(0.05):  # so that signals are handled
        pass
    say(event="node_stopped")


def say(**facts: object) -> None:
    os.write(2, json.dumps({"level": "info", **facts}).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

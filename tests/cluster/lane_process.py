"""A node that is nothing but its lanes, in a process of its own: to be frozen and killed.

`python -m tests.cluster.lane_process NODE_ID BOOT PORT DATA_PORT ADDRESS` connects to one peer and prints
one JSON line for its own address, and one for each thing that happens. It sends back the control items that
it gets.
"""

import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import trio

from cluster.lanes import Lane, PeerAddress
from tests.cluster.lane_nodes import LaneNode, decoded, encoded
from tests.nodes import ROOT


def _print(*values: object) -> None:
    print(json.dumps(values), flush=True)


async def _main(*arguments: str) -> None:
    node_id, boot, port, data_port, peer = arguments
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    node = LaneNode(node_id, boot=int(boot), port=int(port), data_port=int(data_port))
    node.keeps = False
    told_gaps = 0

    def note(lane: Lane, item: bytes) -> None:
        nonlocal told_gaps
        for _ in node.gaps[told_gaps:]:
            _print("gap")
        told_gaps = len(node.gaps)
        if lane is Lane.CONTROL:
            node.lanes.send_nowait(decoded(peer).node_id, Lane.CONTROL, item)
        else:
            _print("item", item[:20].decode())

    node.on_item = note
    async with trio.open_nursery() as nursery:
        await nursery.start(node.lanes.run)
        _print("address", encoded(node.address))
        node.lanes.connect(decoded(peer))


class LaneProcess:
    """Such a process, and what it has printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.items: deque[str] = deque()
        self.gap_count = 0
        self.gaps_before: dict[str, int] = {}  # item -> gaps that were told until then
        assert process.stdout is not None
        self.address: PeerAddress = decoded(json.loads(process.stdout.readline())[1])
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, *values = json.loads(line)
            if what == "gap":
                self.gap_count += 1
            else:
                self.items.append(values[0])
                self.gaps_before[values[0]] = self.gap_count

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def lane_process(
    node_id: str, peer: PeerAddress, *, boot: int = 1, port: int = 0, data_port: int = 0
) -> Iterator[LaneProcess]:
    """Run such a process; it is killed in the end."""
    command = [sys.executable, "-m", "tests.cluster.lane_process", node_id]
    command += [str(number) for number in (boot, port, data_port)] + [encoded(peer)]
    child = LaneProcess(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    try:
        yield child
    finally:
        child.stop()


if __name__ == "__main__":
    trio.run(_main, *sys.argv[1:])

"""How many notifications per second does one core hand to APNs?

Question: requests per second of ApnsProvider, from an Outgoing to its Outcome, and the CPU time of each.
Load: `--requests` notifications of some 200 bytes to as many device tokens, `--in-flight` tasks that send one
after the other, over TLS on the loopback, against Node's own HTTP/2 server in a process of its own, which
reads each request and answers 200. After a warm-up of a tenth. `--connections` at most.
Units: requests per second of wall time; ms of this process's CPU time per request; latency in ms as each
task saw it (closed loop: a stall holds up the task, so p99 says little about an open load).
`per_core`: requests per second of this process's CPU time, which is what other work on the machine leaves
alone. `plain_*`: the same count of requests by the library h2 as it comes, over the same TLS to the same kind
of peer, with a ready-made body and no provider above it. `gain` is the ratio of CPU times, and the figure to
go by: rates change with the machine and with what else it does. Prints one JSON line.

Run it with `python -m bench.push_providers`.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from statistics import quantiles

import trio
from cryptography.hazmat.primitives.asymmetric import ec
from h2.connection import H2Connection
from h2.events import StreamEnded

from actors.notify.delivery import Outgoing
from protocol.provider_configs import ApnsConfig
from server.clock import wall_clock_ms
from server.providers.apns import ApnsProvider
from server.providers.dialing import dial, split_url, tls_context
from server.providers.limits import Limits
from server.providers.push_pools import open_push_pools
from server.providers.reach import ANYWHERE
from tests.providers.peers import certificates, open_node, outgoing, pem_of


def notifications(count: int) -> list[Outgoing]:
    """Make as many different ones, for different devices."""
    return [
        outgoing(
            "apns",
            f"{number:064x}",
            delivery_id=f"n{number}-1",
            notification_id=number,
            data={"order": str(number)},
        )
        for number in range(count)
    ]


async def run(request_count: int, in_flight: int, connections: int) -> dict[str, float]:
    """Send them all, and tell how that went."""
    key = pem_of(ec.generate_private_key(ec.SECP256R1()))
    limits = Limits(max_streams=max(1, in_flight // connections), max_connections=connections)
    async with (
        open_node(settings={"maxConcurrentStreams": 1_000}) as node,
        open_push_pools(limits, ANYWHERE) as pools,
    ):
        config = ApnsConfig(
            team_id="TEAM123456",
            key_id="KEY1234567",
            private_key=key,
            topic="org.example.shop",
            base_url=node.url,
            ca_pem=certificates().ca,
        )
        provider = ApnsProvider(config, pools=pools, now_ms=wall_clock_ms)
        latencies_ms: list[float] = []
        failed_count = 0

        async def send(of: list[Outgoing]) -> None:
            nonlocal failed_count
            for one in of:
                started_at = time.perf_counter()
                outcome = await provider.send(one)
                latencies_ms.append((time.perf_counter() - started_at) * 1e3)
                failed_count += outcome.kind != "accepted"

        async def send_all(made: list[Outgoing]) -> None:
            async with trio.open_nursery() as nursery:
                for task in range(in_flight):
                    nursery.start_soon(send, made[task::in_flight])

        await send_all(notifications(request_count // 10))
        latencies_ms.clear()
        made = notifications(request_count)
        started_at, cpu_at = time.perf_counter(), time.process_time()
        await send_all(made)
        wall_s, cpu_s = time.perf_counter() - started_at, time.process_time() - cpu_at
        await provider.aclose()
    cuts = quantiles(latencies_ms, n=1_000)
    return {
        "requests": request_count,
        "in_flight": in_flight,
        "connections": connections,
        "failed": failed_count,
        "per_s": round(request_count / wall_s),
        "per_core": round(request_count / cpu_s),
        "cpu_ms_each": round(cpu_s / request_count * 1e3, 3),
        "p50_ms": round(cuts[499], 2),
        "p99_ms": round(cuts[989], 2),
        "p999_ms": round(cuts[998], 2),
    }


async def run_plain(request_count: int, in_flight: int) -> dict[str, float]:
    """Send as many by h2 alone: its own header encoder, a write for each request, no timeouts."""
    body = b'{"aps":{"alert":"Shipped"}}'.ljust(171)
    static = [("authorization", "bearer " + "a" * 220), ("apns-topic", "org.example.shop")]
    static += [("apns-push-type", "alert"), ("apns-priority", "10"), ("content-length", str(len(body)))]
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "127.0.0.1")]
    protocol = H2Connection()
    done: dict[int, trio.Event] = {}
    async with open_node(settings={"maxConcurrentStreams": 1_000}) as node:
        dialed = await dial(split_url(node.url)[0], tls_context(certificates().ca, ("h2",)), reach=ANYWHERE)
        lock = trio.Lock()

        async def flush() -> None:
            async with lock:
                if data := protocol.data_to_send():
                    await dialed.stream.send_all(data)

        async def read() -> None:
            while True:
                for event in protocol.receive_data(await dialed.stream.receive_some(65_536)):
                    if isinstance(event, StreamEnded):
                        done.pop(event.stream_id).set()
                await flush()

        async def send(numbers: range) -> None:
            for number in numbers:
                own = [(":path", f"/3/device/{number:064x}"), ("apns-id", f"{number:032x}")]
                stream_id = protocol.get_next_available_stream_id()
                answered = done[stream_id] = trio.Event()
                protocol.send_headers(stream_id, [*pseudo, own[0], *static, own[1]])
                protocol.send_data(stream_id, body, end_stream=True)
                await flush()
                await answered.wait()

        protocol.initiate_connection()
        await flush()
        started_at, cpu_at = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async with trio.open_nursery() as senders:
                for task in range(in_flight):
                    senders.start_soon(send, range(task, request_count, in_flight))
            wall_s, cpu_s = time.perf_counter() - started_at, time.process_time() - cpu_at
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(dialed.stream)
    return {
        "plain_per_s": round(request_count / wall_s),
        "plain_cpu_ms_each": round(cpu_s / request_count * 1e3, 3),
    }


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure the APNs provider against Node's HTTP/2 server.")
    parser.add_argument("--requests", type=int, default=20_000, help="notifications (default: 20000)")
    parser.add_argument("--in-flight", type=int, default=100, help="at the same time (default: 100)")
    parser.add_argument("--connections", type=int, default=1, help="at most (default: 1)")
    options = parser.parse_args()
    if shutil.which("node") is None:
        sys.exit("This needs node, whose HTTP/2 server is the peer.")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    result = trio.run(run, options.requests, options.in_flight, options.connections)
    result |= trio.run(run_plain, options.requests, min(options.in_flight, 100))
    result["gain"] = round(result["plain_cpu_ms_each"] / result["cpu_ms_each"], 2)
    print(json.dumps({"bench": "push_providers", "commit": _commit(), "machine": machine} | result))


if __name__ == "__main__":
    main()

"""W9: what does it bring to run several nodes, and what does a hop between them cost?

"1:1 over the nodes" is W1 with window 10, sender and receiver of each pair on different nodes; "fan-out over
the nodes" is W2 with 5 senders x 5, the 500 members spread evenly. Run with 1, 2 and 3 nodes, the figures of
a variant show how a cluster scales, where each node has a core of its own. Where nodes share one, they show
what a cluster costs, and the notes say so.

"hop, 100 a second": 10 pairs of users send so many messages together, by a timetable, so nothing queues.
"hop, window 10": each of them keeps 10 sends unacked. In short turns, so that whatever else slows the machine
slows all of them:
- near: sender, receiver and the conversation's owner are one node.
- owner away: the owner is another node. The send crosses to it; the ack and the message cross back.
- receiver away: the receiver is on another node. The message crosses to it.
What is more than `near` are a hop's milliseconds and its CPU, that of all nodes together.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bench import fan_out, one_to_one
from bench.load.client import Connection, ask_all, open_all
from bench.load.cluster_target import HubbubCluster
from bench.load.loop import Loop, now
from bench.load.meter import Meter, calm, is_bound
from bench.load.trial import (
    LATE_S,
    SETTLE_TIMEOUT_S,
    WARM_UP_S,
    Samples,
    Setting,
    Trial,
    Workload,
    close_all,
    measured,
)
from bench.one_to_one import Receiver, Sender, Tally
from bench.report.results import Figure
from bench.report.statistics import percentiles
from protocol.commands import OpenDirect

PAIR_COUNT: Final = 10
PER_S: Final = 100.0  # messages of all pairs together
WINDOW: Final = 10
TURN_S: Final = 0.5
NEAR, OWNER_AWAY, RECEIVER_AWAY = CASES = ("near", "owner away", "receiver away")
# Conversations are given to nodes by hash: with three nodes a third of the pairs on one node is owned there,
# of the pairs on two nodes a third by the sender's. So many of each kind leave no case empty in a lifetime.
CANDIDATES_FOR_ONE: Final = 9
FEWEST_CANDIDATES: Final = 30
HOP, BUSY_HOP = HOPS = ("hop, 100 a second", "hop, window 10")
_REUSED: Final[dict[str, tuple[Callable[[Setting, str], Trial], str]]] = {
    "1:1 over the nodes": (one_to_one.run, "window 10"),
    "fan-out over the nodes": (fan_out.run, "5 senders x 5"),
}


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant."""
    if variant in HOPS:
        return _run_hop(setting, variant)
    workload, name = _REUSED[variant]
    trial = workload(setting, name)
    nodes = Figure(name="nodes", value=setting.target.node_count, unit="")
    return msgspec.structs.replace(
        trial, variant=variant, figures=[*trial.figures, nodes], notes=[*trial.notes, *_notes(setting)]
    )


def _notes(setting: Setting) -> list[str]:
    target = setting.target
    sharing = target.sharing() if isinstance(target, HubbubCluster) else ""
    return [sharing] if sharing else []


# -- the cost of a hop ------------------------------------------------------------------------------


class _Case:
    """Pairs whose messages go one way through the cluster, and how long they took."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tally = Tally()
        self.tally.is_sending = False  # an ack sends the next one only while a window is kept full
        self.pairs: list[tuple[Sender, Receiver]] = []
        self.server_cpu_s = 0.0
        self.client_cpu_s = 0.0
        self.seconds = 0.0

    def cpu_ms(self) -> float:
        """CPU of all nodes for each message, what they do anyway included."""
        return self.server_cpu_s * 1000 / max(1, len(self.tally.deliveries))


def _run_hop(setting: Setting, variant: str) -> Trial:
    target, loop = setting.target, Loop()
    pair_count = setting.scaled(PAIR_COUNT, least=1)
    cases = [_Case(name) for name in (CASES if target.node_count > 1 else CASES[:1])]
    connections = _open_pairs(setting, loop, cases, pair_count)
    send = _send_by_timetable if variant == HOP else _send_in_windows
    turn_count = max(1, round(setting.seconds / TURN_S))
    meter = Meter(target)
    started_at = 0.0
    with calm():
        for case in cases:
            send(loop, case, WARM_UP_S)
        for _ in range(turn_count):
            for case in cases:
                case.tally.is_counting = True
                meter.start()
                started_at = started_at or meter.started_at
                send(loop, case, setting.seconds / turn_count)
                meter.stop()
                case.tally.is_counting = False
                case.seconds += meter.seconds
                case.server_cpu_s += meter.server_cpu_s
                case.client_cpu_s += meter.client_cpu_s
        loop.run_for(LATE_S)
    errors = [error for case in cases for error in case.tally.errors]
    errors += [f"closed: {c.error}" for c in connections if c.is_closed]
    close_all(loop, connections)
    acked_count = sum(case.tally.acked_count for case in cases)
    trial = measured(
        meter,
        variant=variant,
        figures=[
            *_figures(cases, variant, meter.knows_costs),
            Figure(name="nodes", value=target.node_count, unit=""),
        ],
        samples=_samples(cases),
        errors=errors,
        findings=[
            f"{acked_count:,} sends acked, each delivered once and in order"
            if not errors
            else f"errors: {dict(Counter(errors))}"
        ],
        is_sound=not errors,
        notes=_notes(setting),
    )
    return _summed(msgspec.structs.replace(trial, started_at=started_at), cases)


def _summed(trial: Trial, cases: Sequence[_Case]) -> Trial:
    """Give the trial what all turns have cost. A client at its limit in one case is a mark for all."""
    return msgspec.structs.replace(
        trial,
        seconds=sum(case.seconds for case in cases),
        server_cpu_s=sum(case.server_cpu_s for case in cases),
        client_cpu_s=sum(case.client_cpu_s for case in cases),
        is_client_bound=any(is_bound(case.client_cpu_s, case.seconds) for case in cases),
    )


def _open_pairs(setting: Setting, loop: Loop, cases: list[_Case], pair_count: int) -> list[Connection]:
    """Find for each case pairs whose conversation's owner is where the case wants it; the others leave."""
    target, node_count = setting.target, setting.target.node_count
    found: dict[str, _Case] = {case.name: case for case in cases}
    candidates: list[tuple[Sender, Receiver]] = []
    candidate_count = 2 * max(CANDIDATES_FOR_ONE * pair_count, FEWEST_CANDIDATES)
    for number in range(candidate_count if node_count > 1 else pair_count):
        at, is_apart = number % node_count, number // node_count % 2 == 1 and node_count > 1
        # The tally is that of the pair's case, which its conversation's owner decides.
        sender = Sender(
            loop, setting.wire, setting.address(at), target.account(f"sender{number}"), cases[0].tally
        )
        receiver = Receiver(
            loop, setting.wire, setting.address(at + is_apart), target.account(f"receiver{number}")
        )
        receiver.sender = sender
        candidates.append((sender, receiver))
    open_all(loop, [connection for pair in candidates for connection in pair])
    questions: list[tuple[Connection, OpenDirect]] = [
        (sender, OpenDirect(user_id=receiver.user_id)) for sender, receiver in candidates
    ]
    for (sender, _), answer in zip(candidates, ask_all(loop, questions), strict=True):
        sender.conversation_id = answer["conversation"]["conversation_id"]
    for (sender, receiver), name in zip(candidates, _cases_of(setting, candidates), strict=True):
        case = found.get(name)
        if case is None or len(case.pairs) >= pair_count:
            sender.close()
            receiver.close()
        else:
            sender.tally = case.tally
            case.pairs.append((sender, receiver))
    loop.run_for(0.5)  # the others hear who has left
    missing = [case.name for case in cases if not case.pairs]
    if missing:
        raise RuntimeError(f"no pair has its conversation where it should be: {missing}")
    return [connection for case in cases for pair in case.pairs for connection in pair]


def _cases_of(setting: Setting, pairs: Sequence[tuple[Sender, Receiver]]) -> list[str]:
    target = setting.target
    if not isinstance(target, HubbubCluster):
        return [NEAR] * len(pairs)
    at = {address: number for number, address in enumerate(target.addresses(setting.wire_name))}
    owners = target.owners_of(sender.conversation_id for sender, _ in pairs)
    return [
        case_of(at[sender.address], at[receiver.address], owner)
        for (sender, receiver), owner in zip(pairs, owners, strict=True)
    ]


def case_of(sender_at: int, receiver_at: int, owner_at: int) -> str:
    """Name the case by where the three are; "": two hops, which no figure is made of."""
    if sender_at == receiver_at:
        return NEAR if owner_at == sender_at else OWNER_AWAY
    return RECEIVER_AWAY if owner_at == sender_at else ""


def _send_by_timetable(loop: Loop, case: _Case, seconds: float) -> None:
    """Send PER_S, each pair in turn; return when all is acked and delivered.

    A send that is late counts from when it was due.
    """
    started_at = now()
    count = max(1, round(PER_S * seconds))

    def send(number: int) -> None:
        due = started_at + number / PER_S
        sender, _ = case.pairs[number % len(case.pairs)]
        sender.send_next()
        sender.sent_at[sender.number] = due
        if number + 1 < count:
            loop.at(due + 1 / PER_S, lambda: send(number + 1))

    loop.at(started_at, lambda: send(0))
    loop.run_for(seconds)
    _settle(loop, case)


def _send_in_windows(loop: Loop, case: _Case, seconds: float) -> None:
    """Keep each pair's window full; return when all is acked and delivered."""
    case.tally.is_sending = True
    for sender, _ in case.pairs:
        for _ in range(WINDOW):
            sender.send_next()
    loop.run_for(seconds)
    case.tally.is_sending = False
    _settle(loop, case)


def _settle(loop: Loop, case: _Case) -> None:
    tally = case.tally
    loop.run_until(
        lambda: (
            not any(sender.open_count for sender, _ in case.pairs)
            and tally.delivered_count >= tally.acked_count
        ),
        timeout_s=SETTLE_TIMEOUT_S,
        what=f"every send is acked and delivered ({case.name})",
    )


def _samples(cases: list[_Case]) -> dict[str, Samples]:
    samples = {f"delivery, {case.name}": case.tally.deliveries for case in cases}
    return samples | {f"ack, {case.name}": case.tally.acks for case in cases}


def _figures(cases: list[_Case], variant: str, knows_costs: bool) -> list[Figure]:
    """What each case takes, and what the others add to `near`; CPU, where that is known."""
    near = cases[0]
    figures = []
    if knows_costs:
        figures += [_cost(f"{case.name}: CPU per message", case.cpu_ms()) for case in cases]
    if variant == BUSY_HOP:
        for case in cases:
            per_s = len(case.tally.deliveries) / case.seconds
            figures.append(Figure(name=f"{case.name}: delivered", value=per_s, unit="/s", is_headline=True))
    for case in cases[1:]:
        more_ms = _median_ms(case) - _median_ms(near)
        if variant == HOP:
            figures.append(_cost(f"{case.name} adds", more_ms, is_headline=True))
        if knows_costs:
            figures.append(_cost(f"{case.name} adds CPU", case.cpu_ms() - near.cpu_ms(), is_headline=True))
    return figures


def _median_ms(case: _Case) -> float:
    return percentiles(case.tally.deliveries.values[1::2]).p50_ms


def _cost(name: str, value: float, *, is_headline: bool = False) -> Figure:
    return Figure(name=name, value=value, unit="ms", is_higher_better=False, is_headline=is_headline)


WORKLOAD: Final = Workload(
    name="W9",
    title="cluster: W1 and W2 with users spread over nodes, and the cost of a hop",
    variants=(*_REUSED, *HOPS),
    run=run,
    has_peer=False,
    node_counts=(1, 2, 3),
)

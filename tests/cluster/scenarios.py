"""What happens to a simulated cluster: each scenario is one seed's life, and raises when a promise is broken.

The bounds follow from the formulas of engine.md section B; they are stated where they are computed.
"""

from cluster.gossip_messages import Claim, Gossip
from cluster.member import Member, Status
from cluster.membership_events import Lagged, MetaChanged, Received
from cluster.membership_settings import MembershipSettings
from cluster.suspicion import min_suspicion_s
from tests.cluster.simulation import Network, World

# How exactly `run_until` looks.
LOOK_S = 0.25


def detection_bound_s(node_count: int, settings: MembershipSettings, *, slowdown: int = 1) -> float:
    """Return how long a crash can go unnoticed by a survivor that gets no help by gossip at all.

    A survivor probes the others in shuffled rounds of n - 1. First in one round and last in the next lie
    2 (n - 1) - 1 intervals apart, and the probe takes one more. Then the suspicion runs its longest time: the
    least one where fewer than `suspicion_mult` nodes leave nobody to confirm. `slowdown` is 1 + the worst
    health score.
    """
    confirmable = node_count >= settings.suspicion_mult
    suspicion_s = min_suspicion_s(node_count, settings) * (settings.suspicion_max_mult if confirmable else 1)
    return 2 * (node_count - 1) * settings.probe_interval_s * slowdown + suspicion_s + LOOK_S


def convergence_bound_s(node_count: int, settings: MembershipSettings) -> float:
    """Return how long after healing all must agree, from whatever state: the sum of the slow things in a row.

    Everybody's health may be at its worst, so a dead one nobody suspected yet takes a slowed detection;
    before that a call to a dead or unmet member may have to find one out of n, each sync interval one, and at
    both ends.
    """
    slow = detection_bound_s(node_count, settings, slowdown=settings.max_health_score + 1)
    return slow + 2 * node_count * settings.sync_interval_s


def grow(world: World) -> None:
    """Start all nodes within two seconds, and wait until they agree."""
    for node_id in world.node_ids:
        world.start(node_id)
        world.run(world.random.random() * 2.0 / len(world.node_ids))
    joined_after_s = world.run_until(world.agrees, within_s=30.0, look_each_s=LOOK_S)
    assert joined_after_s <= 30.0, f"they never met:\n{world.describe()}"


def storm(seed: int) -> float:
    """Everything goes wrong at once for a while, then nothing more. Returns after how long they agreed again.

    Promises (1), (3) and (4): all agree in the end on exactly those who live, and stay so; accused ones are
    among them.
    """
    dice = _dice(seed)
    node_count = 2 + dice.random.randrange(8)
    reads_table = dice.random.random() < 0.5
    world = World(
        seed,
        node_count,
        network=Network(
            loss=dice.random.choice([0.0, 0.02, 0.1, 0.3]),
            max_delay_s=dice.random.choice([0.002, 0.05, 0.3, 1.0]),
            duplication=dice.random.choice([0.0, 0.05, 0.3]),
            reorders=dice.random.random() < 0.7,
        ),
        seeds_for_all=not reads_table,
    )
    for node_id in world.node_ids:
        if dice.random.random() < 0.9:
            world.start(node_id)
            world.run(dice.random.random())
    world.run(dice.random.choice([0.5, 5.0, 15.0]))
    for _ in range(dice.random.randrange(3, 25)):
        _misfortune(world)
        if reads_table and world.processes:
            world.read_table(world.random.choice(sorted(world.processes)))
        world.run(world.random.expovariate(1 / 4.0))
    _heal(world)
    settings = world.settings
    bound_s = convergence_bound_s(node_count, settings)
    if reads_table:
        _read_table_every_3_s(world, until=world.now + bound_s)
    took_s = world.run_until(world.agrees, within_s=bound_s, look_each_s=LOOK_S)
    assert took_s <= bound_s, f"no agreement within {bound_s:.1f} s:\n{world.describe()}"
    # Old messages and suspicions may still be about; what they bring must pass.
    world.run(settings.suspicion_max_mult * settings.suspicion_mult * settings.probe_interval_s)
    assert world.agrees(), f"they no longer agree:\n{world.describe()}"
    return took_s


def crash(seed: int) -> float:
    """One node of a healthy cluster dies. Returns after how long the last survivor knows it.

    Promise (2).
    """
    dice = _dice(seed)
    node_count = 2 + dice.random.randrange(8)
    loss = dice.random.choice([0.0, 0.0, 0.01, 0.05])
    world = World(seed, node_count, network=Network(loss=loss, max_delay_s=dice.random.choice([0.002, 0.05])))
    grow(world)
    world.run(dice.random.random() * 20)
    world.run_until(world.agrees, within_s=30.0)
    victim = world.random.choice(world.node_ids)
    is_noticed = dice.random.random() < 0.3
    world.crash(victim, is_noticed=is_noticed)
    if loss:
        # Lost Nacks and refutations may have made the survivors doubt themselves.
        bound_s = detection_bound_s(node_count, world.settings, slowdown=world.settings.max_health_score + 1)
    else:
        # Mostly all survivors accuse it, and it is over after `min_suspicion_s`. But who has heard of fewer
        # accusations waits longer (seed 2002640191: 12.75 s among four, for want of one): so this.
        bound_s = detection_bound_s(node_count, world.settings)
    took_s = world.run_until(world.agrees, within_s=bound_s, look_each_s=LOOK_S)
    assert took_s <= bound_s, f"{victim} not noticed within {bound_s:.1f} s:\n{world.describe()}"
    return took_s


def accusation(seed: int) -> float:
    """A live, reachable node is accused before some of the others. Returns when it is cleared everywhere.

    Promise (3). The bound: whoever believes it tells the accused at once, with each probe of it (a round of n
    - 1, and the next one if a message is lost) and when it hears it; the refutation spreads by gossip, and by
    a sync at the latest.
    """
    dice = _dice(seed)
    node_count = 2 + dice.random.randrange(5)
    loss = dice.random.choice([0.0, 0.05, 0.1])
    world = World(seed, node_count, network=Network(loss=loss, max_delay_s=0.05))
    grow(world)
    world.run(dice.random.random() * 5)
    accused = world.random.choice(world.node_ids)
    others = [node_id for node_id in world.node_ids if node_id != accused]
    status = world.random.choice([Status.SUSPECT, Status.DEAD, Status.LEFT])
    before = world.processes[accused].state.me
    claim = Claim(before.as_status(status), world.random.choice(others))
    for listener in world.random.sample(others, world.random.randint(1, len(others))):
        # The sender need not be anybody in particular; whom it comes from is no part of the lie.
        sender = world.random.choice(world.node_ids)
        if sender != listener:
            world.feed(listener, Received(sender, world.boots[sender], Gossip((claim,))))
        else:
            world.feed(listener, Received(accused, world.boots[accused], Gossip((claim,))))

    def is_cleared() -> bool:
        beliefs = [world.believes(node_id, accused) for node_id in world.node_ids]
        return all(
            belief is not None and belief.status is Status.ALIVE and belief.incarnation > before.incarnation
            for belief in beliefs
        )

    settings = world.settings
    bound_s = 2 * (node_count - 1) * settings.probe_interval_s + 3 * settings.sync_interval_s
    took_s = world.run_until(is_cleared, within_s=bound_s, look_each_s=LOOK_S)
    assert took_s <= bound_s, f"{accused} was not cleared within {bound_s:.1f} s:\n{world.describe()}"
    assert world.agrees()
    return took_s


def quiet(seed: int) -> float:
    """Two minutes in which nobody dies, over a network that is not good. Nobody may be believed dead.

    Promise (5).
    """
    dice = _dice(seed)
    node_count = 2 + dice.random.randrange(6)
    world = World(
        seed,
        node_count,
        network=Network(
            loss=dice.random.choice([0.01, 0.05, 0.1]),
            max_delay_s=dice.random.choice([0.002, 0.1, 0.2]),
            duplication=0.02,
        ),
    )
    grow(world)
    world.run(120.0)
    for at, observer, change in world.changes:
        assert change.member.is_live, f"at {at:.1f} {observer} believed {change.member}:\n{world.describe()}"
    return 120.0


def standstill(seed: int) -> float:
    """A node stands still, as in SIGSTOP, and comes back to its backlog. It may accuse nobody to death.

    So a frozen node cannot take down those whom it only failed to listen to.
    """
    dice = _dice(seed)
    node_count = 2 + dice.random.randrange(5)
    world = World(seed, node_count, network=Network(loss=dice.random.choice([0.0, 0.02]), max_delay_s=0.05))
    grow(world)
    world.run(dice.random.random() * 10)
    sleeper = world.random.choice(world.node_ids)
    others = [node_id for node_id in world.node_ids if node_id != sleeper]
    if world.random.random() < 0.5:
        # It falls asleep over a suspicion, whose refutation is then in its backlog, or lost with it.
        me = world.processes[world.random.choice(others)].state.me
        lie = Gossip((Claim(me.as_status(Status.SUSPECT), me.node_id),))
        world.feed(sleeper, Received(me.node_id, me.boot, lie))
    for_s = world.random.choice([1.0, 6.0, 30.0, 120.0])
    world.pause(sleeper, for_s, loses_backlog=world.random.random() < 0.5)
    world.run(for_s)
    bound_s = convergence_bound_s(node_count, world.settings)
    took_s = world.run_until(world.agrees, within_s=bound_s, look_each_s=LOOK_S)
    assert took_s <= bound_s, f"{sleeper} did not come back within {bound_s:.1f} s:\n{world.describe()}"
    world.run(30.0)
    assert world.agrees()
    for at, observer, change in world.changes:
        is_false = change.member.node_id != sleeper and not change.member.is_live
        assert not is_false, f"at {at:.1f} {observer} believed {change.member} after {sleeper} stood still"
    return took_s


def halves(seed: int) -> float:
    """Two halves cannot reach each other for minutes, in which some are restarted and some first started.

    Promise (1) where it is hardest: the dead are long off the wire, and newcomers never heard of the other
    half. No store helps.
    """
    dice = _dice(seed)
    node_count = 2 + dice.random.randrange(6)
    world = World(seed, node_count, network=Network(loss=dice.random.choice([0.0, 0.05])))
    met_before = dice.random.random() < 0.7
    if met_before:
        grow(world)
    place = world.random.randint(1, node_count - 1)
    world.cut([world.node_ids[:place], world.node_ids[place:]])
    world.run(world.random.choice([1.0, 20.0, 120.0]))
    for node_id in world.node_ids:
        if not met_before or world.random.random() < 0.4:
            world.start(node_id)
    world.run(world.random.choice([1.0, 20.0, 120.0]))
    world.network.cuts.clear()
    bound_s = convergence_bound_s(node_count, world.settings)
    took_s = world.run_until(world.agrees, within_s=bound_s, look_each_s=LOOK_S)
    assert took_s <= bound_s, f"no agreement within {bound_s:.1f} s:\n{world.describe()}"
    world.run(30.0)
    assert world.agrees(), f"they no longer agree:\n{world.describe()}"
    return took_s


def _misfortune(world: World) -> None:
    """Let one thing go wrong."""
    dice = world.random
    running = sorted(world.live)
    awake = [node_id for node_id in running if world.processes[node_id].resumes_at <= world.now]
    stopped = [node_id for node_id in world.node_ids if node_id not in world.processes]
    kind = dice.choice(
        [
            "crash",
            "restart",
            "restart",
            "pause",
            "leave",
            "cut",
            "partition",
            "lossy",
            "mend",
            "lie",
            "lag",
            "meta",
        ]
    )
    if kind == "crash" and running:
        victim = dice.choice(running)
        boot = world.boots[victim]
        world.crash(victim, is_noticed=dice.random() < 0.3)
        if dice.random() < 0.3:
            for observer in dice.sample(running, dice.randint(1, len(running))):
                world.later(dice.random() * 15, _Burial(world, observer, victim, boot))
    elif kind == "restart" and (stopped or running):
        # Of one that runs too: kill -9 and a start at once, which nobody had time to notice.
        world.start(dice.choice(stopped or running), known=running if dice.random() < 0.5 else ())
    elif kind == "pause" and awake:
        world.pause(
            dice.choice(awake), dice.choice([0.7, 3.0, 12.0, 40.0]), loses_backlog=dice.random() < 0.5
        )
    elif kind == "leave" and awake:
        world.leave(dice.choice(awake), gone_after_s=dice.random() * 3)
    elif kind == "cut":
        world.network.cuts.add((dice.choice(world.node_ids), dice.choice(world.node_ids)))
    elif kind == "partition":
        sides = dice.sample(world.node_ids, len(world.node_ids))
        place = dice.randint(0, len(sides))
        world.cut([sides[:place], sides[place:]])
    elif kind == "lossy":
        world.network.lossy[dice.choice(world.node_ids), dice.choice(world.node_ids)] = dice.choice(
            [0.5, 0.9]
        )
    elif kind == "mend":
        world.network.cuts.clear()
    elif kind == "lie" and len(running) >= 2:
        liar, accused = dice.sample(running, 2)
        me = world.processes[accused].state.me
        status = dice.choice([Status.SUSPECT, Status.DEAD])
        lie = Gossip((Claim(Member(accused, me.boot, me.incarnation, status, me.meta), liar),))
        for listener in dice.sample(running, dice.randint(1, len(running))):
            world.feed(listener, Received(liar, world.boots[liar], lie))
    elif kind == "lag" and running:
        world.feed(dice.choice(running), Lagged(dice.random() * 2))
    elif kind == "meta" and running:
        teller = dice.choice(running)
        meta = world.processes[teller].state.me.meta
        changed = MetaChanged(type(meta)(host=meta.host, port=meta.port, is_draining=not meta.is_draining))
        world.feed(teller, changed)


class _Burial:
    """The store's proof reaches one observer, if it still is one."""

    def __init__(self, world: World, observer: str, node_id: str, boot: int) -> None:
        self._arguments = (observer, node_id, boot)
        self._world = world

    def __call__(self) -> None:
        self._world.bury(*self._arguments)


def _heal(world: World) -> None:
    """End what goes wrong, and let who stands still go on; who is dead stays dead."""
    network = world.network
    network.cuts.clear()
    network.lossy.clear()
    network.loss = min(network.loss, 0.02)
    network.max_delay_s = min(network.max_delay_s, 0.05)
    for node_id in sorted(world.processes):
        world.wake(node_id)


def _read_table_every_3_s(world: World, until: float) -> None:
    """Each node reads the store's node table when it renews its lease."""

    def read() -> None:
        for node_id in sorted(world.live):
            world.read_table(node_id)
        if world.now < until:
            world.later(3.0, read)

    read()


def _dice(seed: int) -> World:
    """Return dice for a scenario's shape, apart from those that shape its course."""
    return World(seed ^ 0x5EED, 0)

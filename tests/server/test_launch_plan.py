"""Which node gets which ports, and whether a node understands the words that start it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import cli, config
from server.config import ConfigError, Settings
from server.launch.plan import (
    FirstPorts,
    NodePlans,
    find_free_ports,
    first_ports,
    node_flags,
    serve_words,
)


def plans(first: FirstPorts, settings: Settings | None = None) -> NodePlans:
    return NodePlans(settings or Settings(), first, find_free=find_free_ports)


def test_each_node_is_ten_ports_higher() -> None:
    """People who tell a node by its port, and firewalls."""
    made = plans(first_ports(Settings(), {}))
    assert [made.plan(number).port for number in (1, 2, 3)] == [8080, 8090, 8100]
    third = made.plan(3)
    assert (third.node_id, third.bot_port, third.cluster_port) == ("n3", 8101, 8102)
    assert [port for _, port in third.ports.values()] == [8100, 8101, 8102, 8103]


def test_ports_that_nobody_set_follow_the_first_one() -> None:
    """`--port 9000` alone must not leave the bots at 8081, beside another cluster."""
    loaded = config.load({"port": "9000"}, {}, is_checked=False)
    assert first_ports(loaded.settings, loaded.sources) == FirstPorts(9000, 9001, 9002)
    loaded = config.load({"port": "9000"}, {"HUBBUB_BOT_PORT": "7000"}, is_checked=False)
    assert first_ports(loaded.settings, loaded.sources) == FirstPorts(9000, 7000, 9002)


def test_port_0_finds_free_ports_that_stay() -> None:
    """A restarted node must come back where its clients look for it, and no node in another's place."""
    made = plans(FirstPorts(0, 0, 0))
    before = [made.plan(number) for number in range(1, 9)]
    ports = [port for plan in before for _, port in plan.ports.values()]
    assert len(set(ports)) == len(ports) == 32
    assert all(10_240 <= port < 32_768 for port in ports)  # no outgoing connection takes one
    assert [made.plan(number) for number in range(1, 9)] == before


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (FirstPorts(8080, 8090, 8082), "which n1 has"),
        (FirstPorts(8080, 8080, 8082), "which n1 has"),
        (FirstPorts(8080, 8081, 8080), "which n1 has"),
        (FirstPorts(65530, 65531, 65532), "would get port 655"),
    ],
)
def test_ports_that_cannot_be_are_a_sentence(first: FirstPorts, words: str) -> None:
    """An operator hears it before anything is started."""
    made = plans(first)
    with pytest.raises(ConfigError, match=words):
        [made.plan(number) for number in (1, 2)]


def understood(words: list[str]) -> Settings:
    """What a node makes of its command line."""
    args = cli.make_parser(words).parse_args(words)
    flags = {name: getattr(args, name) for name in config.FIELDS if hasattr(args, name)}
    return config.load(flags, {}, config_file=args.config).settings


GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "zone": st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=20),
        "sign_up_open": st.booleans(),
        "max_file_bytes": st.sampled_from(["50M", "2048"]),
        "drain_s": st.floats(0, 300).map(str),
        "unlimited": st.sampled_from(["", "10.0.0.0/8", "10.0.0.0/8,::1/128"]),
        "join": st.just("127.0.0.1:9082"),
        "port": st.just("1"),  # its own to a node: not passed on
        "log_format": st.just("console"),
    },
)


@given(given=GIVEN, number=st.integers(1, 5))
def test_a_node_understands_what_the_launcher_was_given(given: dict[str, Any], number: int) -> None:
    """Settings given to `hubbub cluster` reach every node as they were meant."""
    plan = plans(FirstPorts(8080, 8081, 8082)).plan(number)
    settings = understood(serve_words(node_flags(plan, given, "/data"), ""))
    wanted = config.load({k: v for k, v in given.items() if k not in ("port", "log_format")}, {}).settings
    assert settings.is_clustered
    assert settings.node_id == plan.node_id
    assert settings.log_format == "json"
    assert (settings.port, settings.bot_port) == (plan.port, plan.bot_port)
    assert settings.cluster_port == plan.cluster_port
    for name in ("zone", "sign_up_open", "max_file_bytes", "drain_s", "unlimited", "join"):
        assert getattr(settings, name) == getattr(wanted, name), name


def test_no_secret_is_ever_on_a_command_line() -> None:
    """Every user of the machine can read it there."""
    plan = plans(FirstPorts(8080, 8081, 8082)).plan(1)
    with pytest.raises(AssertionError):
        serve_words(node_flags(plan, {"cluster_secret": "x" * 16}, "/data"), "")

"""What an operator's Prometheus reads, and how the loop's lag is known."""

import io
import json
import logging
import time

import structlog
import trio
from prometheus_client.parser import text_string_to_metric_families

from protocol.commands import Send
from protocol.errors import CloseCode
from server.lag import LagWatch
from server.log_setup import set_up_logging
from server.metrics import Metrics
from tests.server.edge import TYPING, open_bot, open_edge


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """All samples by name and label values, as Prometheus itself would read them."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


async def test_what_happens_at_the_edge_is_counted() -> None:
    """Dashboards and alarms are made of these names."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            await bot.send(TYPING, TYPING, Send(id=1, conversation_id="nowhere", client_id="m", text="x"))
            for _ in range(3):
                await bot.receive()
            found = samples(edge.metrics)
            assert found["hubbub_commands_total", "set_typing"] == 2
            assert found["hubbub_commands_total", "send"] == 1
            assert found["hubbub_errors_total", "conversation_not_found"] == 1
            assert found["hubbub_connections_open", "tcp"] == 1
            assert found["hubbub_connections_accepted_total", "tcp"] == 1
            assert found["hubbub_edge_sessions",] == 1
            assert found["hubbub_sessions_opened_total",] == 1
            assert found["hubbub_events_dropped_total",] == 0
            for session in edge.gateway.sessions_of("ann"):
                session.close(CloseCode.SESSION_REVOKED)
            await edge.gateway.until_empty()
            found = samples(edge.metrics)
            assert found["hubbub_closes_total", "4504"] == 1
            assert found["hubbub_connections_open", "tcp"] == 0


def test_other_parts_of_the_node_hand_in_their_numbers() -> None:
    """Actors and the store know nothing of Prometheus."""
    metrics = Metrics()
    depths = {"user": 3, "conversation": 4}
    metrics.add_gauges(
        "mailbox", "Mailboxes.", lambda: {f'depth{{kind="{kind}"}}': value for kind, value in depths.items()}
    )
    metrics.add_gauges("store", "The store.", lambda: {"queue_bytes": 12.5, "commits": 1})
    found = samples(metrics)
    assert found["hubbub_mailbox_depth", "user"] == 3
    assert found["hubbub_mailbox_depth", "conversation"] == 4
    assert found["hubbub_store_queue_bytes",] == 12.5
    depths["user"] = 5
    assert samples(metrics)["hubbub_mailbox_depth", "user"] == 5


async def test_a_blocked_loop_is_noticed_while_and_after_it_is_blocked() -> None:
    """New connections are turned away by this number."""
    metrics = Metrics()
    watch = LagWatch(metrics.observe_lag)
    assert watch.lag_s(trio.current_time()) == 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        assert watch.lag_s(trio.current_time()) < 0.1
        time.sleep(0.7)  # noqa: ASYNC251 - the very thing that is measured
        assert watch.lag_s(trio.current_time()) > 0.5
        while metrics._lag_sum_s == 0.0:
            await trio.lowlevel.checkpoint()
        assert watch.lag_s(trio.current_time()) > 0.5
        while watch.lag_s(trio.current_time()) > 0.1:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    found = samples(metrics)
    assert found["hubbub_loop_lag_seconds_bucket", "0.25"] >= 1
    assert found["hubbub_loop_lag_seconds_count",] > found["hubbub_loop_lag_seconds_bucket", "0.25"]


def test_a_log_line_is_one_json_record_with_the_nodes_name() -> None:
    """Log collectors read lines; libraries that use the standard library's logging come out the same way."""
    out = io.StringIO()
    set_up_logging(log_format="json", level="info", stream=out, node_id="n1")
    structlog.get_logger("x").info("thing_done", size_bytes=3)
    structlog.get_logger("x").debug("detail_noted")
    logging.getLogger("some.library").warning("said %s", "this")
    logging.getLogger("hypercorn.error").info("chatter")
    try:
        int("boom")
    except ValueError:
        structlog.get_logger("x").exception("thing_failed")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["thing_done", "said this", "thing_failed"]
    assert all(line["node_id"] == "n1" and line["timestamp"] for line in lines)
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert lines[0]["size_bytes"] == 3
    assert "boom" in json.dumps(lines[2]["exception"])


def test_a_terminal_gets_lines_for_people() -> None:
    """`hubbub serve` in a terminal is read by a person."""
    out = io.StringIO()
    set_up_logging(log_format="console", stream=out)
    structlog.get_logger("x").info("thing_done", size_bytes=3)
    assert "thing_done" in out.getvalue()
    assert "size_bytes=3" in out.getvalue()

"""Below a table stand hubbub's ratio to the expert's peer, and a stall beside the run without one."""

import io

from rich.console import Console

from bench.report import Measurement, percentiles, to_html, to_markdown, to_table
from bench.report.beside import beside
from tests.bench.measured import MACHINE, measured


def rounds() -> list[Measurement]:
    """Two rounds of everybody."""
    return [
        measured(value, target=target, wire=wire, round=n)
        for n in (1, 2)
        for target, wire, value in (
            ("hubbub", "bot", 300.0),
            ("hubbub", "json", 100.0 + 100 * n),
            ("uvicorn", "json", 50.0),
            ("uvicorn-tuned", "json", 100.0),
        )
    ]


LINE = "delivered, × uvicorn-tuned: hubbub json 2.50× (2.00–3.00); hubbub bot 3.00× (3.00–3.00)"


def test_the_ratio_to_the_second_peer_is_told_in_every_shape() -> None:
    """A reader who would hire the expert divides nothing by hand."""
    assert list(beside(rounds()).values()) == [[LINE]]
    file = io.StringIO()
    Console(file=file, width=100).print(to_table(MACHINE, rounds()))
    for told in (file.getvalue(), to_html(MACHINE, rounds()), to_markdown(MACHINE, rounds())):
        assert LINE in told


def test_each_further_peer_has_a_line_of_its_own() -> None:
    """A feed is measured beside Redis, by its default and as durable as hubbub."""
    runs = [measured(200.0)]
    runs += [measured(value, target=name) for name, value in (("redis", 400.0), ("redis-always", 100.0))]
    assert list(beside(runs).values()) == [
        ["delivered, × redis: hubbub json 0.50×", "delivered, × redis-always: hubbub json 2.00×"]
    ]


def test_without_the_second_peer_there_is_nothing_to_say() -> None:
    """An old file, or a run beside the usual peer alone, is told as it was."""
    assert beside([each for each in rounds() if each.target != "uvicorn-tuned"]) == {}


def test_a_round_that_is_not_sound_has_no_ratio() -> None:
    """A fast server that loses messages is none to compare with."""
    assert beside([measured(), measured(target="uvicorn-tuned", is_sound=False)]) == {}


def test_a_stall_stands_beside_the_run_without_one() -> None:
    """Whether one stalled phone holds up a room is seen in the others' latency, with and without it."""
    calm, stalled = ([percentiles([0.001, at_s])] for at_s in (0.020, 0.025))
    runs = [
        measured(workload="W2", variant="5 senders x 5", latencies=calm),
        measured(workload="W2", variant="5 senders x 5, one stalls", latencies=stalled),
        measured(workload="W2", variant="5 senders x 5, one stalls", latencies=stalled, target="uvicorn"),
    ]
    ((case, lines),) = beside(runs).items()
    assert case.variant == "5 senders x 5, one stalls"
    assert lines == ["p99 in ms with one that stalls: hubbub json 25, without 20"]

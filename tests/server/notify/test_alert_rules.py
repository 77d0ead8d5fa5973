"""The Prometheus rules that operators load: they name what a node really exports, and say what to do."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package of their own
from prometheus_client.parser import text_string_to_metric_families

from tests.nodes import NodeProcess

ROOT: Final = Path(__file__).resolve().parents[3]
FOLDER: Final = ROOT / "docs" / "alerts"
PROMTOOL: Final = shutil.which("promtool", path=f"{ROOT / '.peers'}:{os.environ.get('PATH', '')}")
METRIC: Final = re.compile(r"hubbub_[a-z_]+")
GROUPED: Final = re.compile(r"\bby \(([a-z_, ]+)\)")
MATCHED: Final = re.compile(r"(hubbub_[a-z_]+)\{([a-z_]+)=\"([a-z_]+)\"")
OF_PROMETHEUS: Final = {"instance", "le"}  # labels that it adds, or that histograms have


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "hubbub-notify.rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def anchor(heading: str) -> str:
    """As pages of Markdown make it from a heading."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """What a node that was just started exports: name -> labels of each sample."""
    node = NodeProcess(tmp_path_factory.mktemp("node"))
    node.start()
    try:
        text = httpx.get(f"{node.url}/metrics", trust_env=False).raise_for_status().text
    finally:
        node.kill()
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


@pytest.mark.slow
def test_every_metric_of_the_rules_is_exported(samples: dict[str, list[dict[str, str]]]) -> None:
    """A rule about a name that does not exist stays silent for ever."""
    named = {name for rule in rules() for name in METRIC.findall(rule["expr"])}
    assert len(named) >= 9
    assert named - set(samples) == set()


@pytest.mark.slow
def test_every_label_of_the_rules_is_exported(samples: dict[str, list[dict[str, str]]]) -> None:
    """The same goes for a label, and for a value that is asked for."""
    for rule in rules():
        names = METRIC.findall(rule["expr"])
        for labels in GROUPED.findall(rule["expr"]):
            for label in set(labels.split(", ")) - OF_PROMETHEUS:
                assert all(label in samples[name][0] for name in names), (rule["alert"], label)
        for name, label, value in MATCHED.findall(rule["expr"]):
            assert value in {found[label] for found in samples[name]}, (rule["alert"], value)
    bounds = {float(found["le"]) for found in samples["hubbub_notify_high_seconds_bucket"]}
    assert 1.0 in bounds  # so the quantile is exact where the rule looks


@pytest.mark.slow
def test_the_documents_table_is_of_what_is_exported(samples: dict[str, list[dict[str, str]]]) -> None:
    """Every metric has a line, and every line a metric."""
    text = (ROOT / "docs" / "NOTIFICATIONS-OPERATING.md").read_text()
    table = text.partition("## Metrics")[2].partition("## Alerts")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    told = {name.partition("{")[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    parts = ("_bucket", "_count", "_sum", "_created")
    exported = {
        name.removeprefix("hubbub_notify_")
        for name in samples
        if name.startswith("hubbub_notify_") and not name.endswith(parts)
    }
    histograms = {
        name.removeprefix("hubbub_notify_").removesuffix("_bucket")
        for name in samples
        if name.startswith("hubbub_notify_") and name.endswith("_bucket")
    }
    assert told == exported | histograms


def test_every_rule_says_what_to_do_and_where_it_is_written() -> None:
    """Whoever is woken by it at night."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "NOTIFICATIONS-OPERATING.md").read_text(), re.M)
    anchors = {anchor(heading) for heading in headings}
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "action", "runbook"}, rule["alert"]
        assert all(len(text) > 10 for text in notes.values()), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        document, _, place = notes["runbook"].partition("#")
        assert document == "docs/NOTIFICATIONS-OPERATING.md"
        assert place in anchors, rule["alert"]


@pytest.mark.skipif(not PROMTOOL, reason="there is no promtool (.ci/peers gets it)")
def test_the_rules_fire_when_they_should_and_only_then() -> None:
    """By Prometheus' own tool: a good day, a quiet one, and a bad one."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "hubbub-notify.test.yml"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

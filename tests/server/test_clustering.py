"""Who is let into a cluster: nodes that know its secret and share its store."""

from pathlib import Path

import pytest

from cluster.envelope import FORMAT, Hello, Refusal, Refused, Seal
from server.clustering import cluster_settings
from server.config import load

SECRET = {"HUBBUB_CLUSTER_SECRET": "the same for all of this test"}


def seal_of(directory: Path, environ: dict[str, str]) -> Seal:
    settings = load({"data_dir": str(directory), "cluster": "yes"}, environ).settings
    return Seal(cluster_settings(settings, "n1").secret)


def hello() -> Hello:
    return Hello(FORMAT, "n2", 1, 7, "n1", 1, 0, "127.0.0.1", 8082, 8083)


@pytest.mark.parametrize("environ", [SECRET, {}])
def test_nodes_of_one_directory_understand_each_other(tmp_path: Path, environ: dict[str, str]) -> None:
    """Whoever starts nodes by hand."""
    sealed = seal_of(tmp_path, environ).close(hello())
    assert seal_of(tmp_path, environ).open(sealed) == hello()


@pytest.mark.parametrize(
    ("directory", "environ"),
    [
        ("other", SECRET),
        ("other", {}),
        ("own", {}),
        ("own", {"HUBBUB_CLUSTER_SECRET": "another one, and long"}),
    ],
)
def test_another_store_or_secret_is_refused(tmp_path: Path, directory: str, environ: dict[str, str]) -> None:
    """A node of another store would ack what this cluster never sees, and draw its clients there."""
    sealed = seal_of(tmp_path / directory, environ).close(hello())
    with pytest.raises(Refused) as refused:
        seal_of(tmp_path / "own", SECRET).open(sealed)
    assert refused.value.reason is Refusal.TAG

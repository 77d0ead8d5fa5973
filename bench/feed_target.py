"""The servers of `hubbub bench feed`: a hubbub whose store has a graph's people, or Redis with the same."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.feed_graph import HOT_FOLLOWERS, Graph, statistics
from bench.feed_rows import HISTORY, Loaded, prepare, write
from bench.load.target import Cores, Hubbub, Target, make_app_key


class FeedWorld:
    """A graph, and a data directory that was filled from it once: each run gets a copy."""

    def __init__(self, graph: Graph, *, hot_from: int = HOT_FOLLOWERS, history: int = HISTORY) -> None:
        self.graph = graph
        self.hot_from = hot_from
        self.history = history
        self.statistics = statistics(graph, hot_from=hot_from)
        self.loaded: Loaded | None = None
        self.app_key = self.app_secret = ""
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def copy_to(self, data: Path) -> None:
        """Make a data directory; the first call fills the one that is copied. Raises: CannotRun."""
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="hubbub-bench-world-")
            self._fill(Path(self._directory.name, "data"))
        shutil.copytree(Path(self._directory.name, "data"), data)

    def _fill(self, data: Path) -> None:
        prepare(data)
        self.app_key, self.app_secret = make_app_key(str(data))
        self.loaded = write(data, self.graph, hot_from=self.hot_from, history=self.history)


class FeedTarget(Target):
    """A server that has the people of a graph."""

    def __init__(self, directory: Path, cores: Cores, *, world: FeedWorld) -> None:
        super().__init__(directory, cores)
        self.world = world

    @property
    def graph(self) -> Graph:
        return self.world.graph

    @property
    def hot_from(self) -> int:
        return self.world.hot_from

    @property
    def about(self) -> str:
        """For people: whose feeds these are."""
        loaded = f"; written: {self.world.loaded}" if self.world.loaded else ""
        return f"{self.graph.origin}: {self.world.statistics}{loaded}"

    def data_bytes(self) -> int:
        """What lies in the server's directory, in bytes."""
        return sum(
            path.stat().st_size
            for path in self.directory.rglob("*")
            if path.is_file() and path.suffix != ".log"
        )


class FeedHubbub(FeedTarget, Hubbub):
    """A hubbub whose store has the graph's people before it starts."""

    wires = Hubbub.wires

    def __init__(self, directory: Path, cores: Cores, *, world: FeedWorld, flags: Sequence[str] = ()) -> None:
        Hubbub.__init__(self, directory, cores, flags=flags)
        self.world = world

    def start(self) -> None:
        data = self.directory / "data"
        if not data.exists():
            self.world.copy_to(data)
            self._app_key, self._app_secret = self.world.app_key, self.world.app_secret
        super().start()

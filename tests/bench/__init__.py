"""Tests of the benchmark itself: its arithmetic, its report, and what it says of a run."""

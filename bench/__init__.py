"""The load benchmark: one file per question, each run one line of JSON. Imports whatever it measures."""

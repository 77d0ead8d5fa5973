"""Tests of the wire language: codecs, framing, and the documents generated from the schema."""

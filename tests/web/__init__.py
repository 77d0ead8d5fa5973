"""Tests of web/: the page in a real Chromium against a real node."""

"""Faithful fakes of the providers, with fault injection: `hubbub sandbox`, and our own tests."""

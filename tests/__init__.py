"""The tests. Each folder mirrors a source folder; test_<module>.py tests <module>.py."""

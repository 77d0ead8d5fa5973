"""`python -m server` is the `hubbub` command, for where the package is not installed."""

from server.cli import main

raise SystemExit(main())

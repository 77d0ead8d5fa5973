"""A real node, and real clients over real sockets."""

"""`hubbub cluster`: several nodes on this machine over one data directory, started and kept running.

plan         which node has which ports, and the words that start it; pure
child        one node's process: started, heard, ended, started again
log_stream   the log lines of all of them as one stream
frozen       who has held the store's write lock for too long; pure
launcher     all children, signals, the lock watch, and the orders that come through the door
roll         one node after the other: drained, started, waited for
door         the socket in the data directory through which `hubbub cluster restart` and others ask
status       what the store, the launcher and the nodes themselves say, put together
leash        run by a node: it ends when its launcher does
command      the words of the command line

It knows nothing of what a node does inside; a node knows nothing of it but the leash.
"""

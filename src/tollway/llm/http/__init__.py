"""HTTP/1.1 for provider calls: one request a call, connections kept and bounded, aborted the moment nobody waits."""

"""The processes that run attempts: on this machine, or on the nodes of a cluster."""

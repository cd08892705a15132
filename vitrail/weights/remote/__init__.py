"""Files of the web on this machine: the protocol, the hub's cache, folders for machines without a network."""

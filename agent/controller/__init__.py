"""The controller: carries out signed jobs on this host, within what the host's owner allows."""

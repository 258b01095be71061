"""Sigma over files, without a cluster: readers, the same detector core, JSON lines out."""

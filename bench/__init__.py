"""Measured figures: one command each, a table on the terminal, JSON under bench/results/. Nothing here is a test."""

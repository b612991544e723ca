"""Synthetic datasets: scenes with exact labels, drawn from a seed."""

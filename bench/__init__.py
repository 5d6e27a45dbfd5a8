"""Measures the pool against nginx: see docs/how-to/measure.md."""

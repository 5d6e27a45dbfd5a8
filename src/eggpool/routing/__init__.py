"""Decisions: which accounts can serve, in what order, and what to do when one fails. Pure; knows no messages."""

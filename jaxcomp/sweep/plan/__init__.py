"""Ahead-of-time planning for a slice: memory, speed and cost of every setup."""

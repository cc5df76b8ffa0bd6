"""One transformer, and nothing about compression."""

"""Measurements of one trained pair, which they never change."""

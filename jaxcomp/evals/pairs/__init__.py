"""Minimal pairs: does a memory prefer its own text to a counterfactual edit of it?"""

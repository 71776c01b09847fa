"""Weights of layers in a new form, fitted to what the original network computes."""

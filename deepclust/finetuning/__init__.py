"""Encoders trained further: with labels, or together with TSP's head."""

"""Operator norms of single layers, proved from above."""

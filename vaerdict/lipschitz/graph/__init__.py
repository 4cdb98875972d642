"""Modules read as graphs of layers."""

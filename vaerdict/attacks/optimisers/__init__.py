"""How an attack searches in a ball: options that are frozen dataclasses, each with a method `search`."""

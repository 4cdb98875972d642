"""How an attack searches for the smallest radius, and how its candidate becomes a verified margin."""

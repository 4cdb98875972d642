"""The judge, the only one to say "success"; what it looks at besides; and the rows that keep it."""

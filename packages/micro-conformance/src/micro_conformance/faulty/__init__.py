"""Plugins with one fault each. Importing a module makes those of its kind known."""

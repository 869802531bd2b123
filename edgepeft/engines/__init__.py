"""Engines: ways to run a bundle. One contract (`base`), a module each."""

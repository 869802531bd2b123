"""Engines: ways to run a bundle. One contract (`base`), a module each."""

from edgepeft import ort_package

ort_package.installed()  # no ONNX Runtime, or two in one place, is told as such before a module imports it

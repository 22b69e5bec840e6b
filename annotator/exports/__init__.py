"""Frozen preference data: what is read, what is left out, the shapes and formats it leaves in.

`annotator.exporting` freezes; here is what it is made of.
"""

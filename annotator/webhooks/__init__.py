"""Telling other programs what happens in a project, by signed requests to addresses that its admins enter.

What is to be told is a row, written in the transaction of what it tells of; the worker sends it.
"""

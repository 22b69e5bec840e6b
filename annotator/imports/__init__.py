"""Import in the browser: a file is taken in, looked at, mapped, and imported by the worker.

`models` has the row of each file, `uploads` the way to the disk, `preview` what its first rows say,
`jobs` all that moves its state.
"""

"""The API: addresses under /api/v1/ that do what the pages do, for programs.

Views here are thin: who may, what the request says, the function that the pages call too, the
answer. `docs/api.md` is for those who use it.
"""

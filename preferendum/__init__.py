"""The Python client of Preferendum: data in, votes, data out, runs, models, over its REST API."""

from preferendum.client import (
    ApiError,
    Assignment,
    Client,
    Export,
    ExportEnded,
    ExportJob,
    Gate,
    Import,
    ImportEnded,
    ImportReport,
    Model,
    NotReachable,
    PreferendumError,
    Project,
    Run,
    RunEnded,
)

__all__ = [
    "ApiError",
    "Assignment",
    "Client",
    "Export",
    "ExportEnded",
    "ExportJob",
    "Gate",
    "Import",
    "ImportEnded",
    "ImportReport",
    "Model",
    "NotReachable",
    "PreferendumError",
    "Project",
    "Run",
    "RunEnded",
]

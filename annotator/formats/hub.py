"""A dataset on the Hugging Face hub, streamed. Never imported by the web process: `datasets` is large.

Whoever wrote the dataset is unknown. `datasets` runs no code of it and refuses data files outside of its
repository; here neither a folder of that name on this machine is read, nor what the rows name as pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from annotator.formats.reading import HUB, Row, Rows, Unreadable

ADDRESS = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")


def open_hub(address: str) -> Rows:
    """The rows of OWNER/NAME, OWNER/NAME@SPLIT or OWNER/NAME/CONFIGURATION@SPLIT; `train` is the
    split that is meant if none is named. Raises Unreadable with a sentence, offline too."""
    found = ADDRESS.fullmatch(address)
    if not found:
        raise Unreadable(f"{HUB}{address} must look like {HUB}OWNER/NAME or {HUB}OWNER/NAME@test")
    name, config, split = found["name"], found["config"], found["split"] or "train"
    from datasets import load_dataset

    try:
        # Without the prefix a folder OWNER/NAME below the working directory would come first.
        dataset = load_dataset(f"hf://datasets/{name}", config, split=split, streaming=True)
        dataset = dataset.decode(False)  # a picture's path may be any file of this machine
    except Exception as error:  # the hub's client raises errors of a dozen libraries
        raise _unreachable(name, error) from error
    columns = tuple(dataset.column_names or ())
    return Rows("datasets", _read(name, dataset), name=name, columns=columns)


def _read(name: str, dataset: Any) -> Iterator[Row]:
    number = 0
    try:
        for record in dataset:
            number += 1
            fields = {key: value for key, value in record.items() if value is not None}
            yield Row(f"row {number}", number, fields)
    except Exception as error:
        raise _unreachable(name, error, f"row {number + 1}", number + 1) from error


def _unreachable(name: str, error: Exception, place: str = "", number: int = 0) -> Unreadable:
    why = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return Unreadable(
        f"the dataset {name} cannot be read from the hub: {why}. Without a way to the hub, save it "
        "elsewhere with save_to_disk and import the folder",
        place,
        number,
    )

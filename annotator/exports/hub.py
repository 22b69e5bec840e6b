"""Giving an export to the Hugging Face Hub, as a dataset repository with Parquet files."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.audit import Action, record
from annotator.exports.derived import derive
from annotator.exports.files import write_parquet_splits
from annotator.exports.shapes import SHAPES
from annotator.hashes import MANIFEST, FileChanged, check_file
from annotator.models import Export

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


class NotPushed(Exception):
    """The message is a sentence for whoever pushed."""


def push(
    export: Export,
    repository: str,
    shape: str = "reward",
    *,
    private: bool = True,
    endpoint: str | None = None,
) -> str:
    """The address of the dataset. Raises NotPushed, and NotDerived.

    Who pushes is whom `hf auth login` or HF_TOKEN says; `endpoint` is another hub than the usual.
    In the audit log it is a download by the system, for no account here is asked.
    """
    # Imported late: only the command pushes, and no page needs it.
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub import errors as of_hub  # noqa: PLC0415

    hub = HfApi(endpoint=endpoint, library_name="preferendum")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_repository(export, shape, folder)
        try:
            url = hub.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=url.repo_id,
                repo_type="dataset",
                folder_path=folder,
                commit_message=f"Export {export.pk} of {export.project.slug}",
            )
        except of_hub.HFValidationError as error:
            raise NotPushed(
                f"{repository} is no name of a repository; write it like someone/preferences."
            ) from error
        except of_hub.HfHubHTTPError as error:
            raise NotPushed(_sentence(error, hub.endpoint, repository)) from error
        except (of_hub.HTTPError, of_hub.OfflineModeIsEnabled) as error:
            raise NotPushed(
                f"There is no way to {hub.endpoint} from here: check the network or HTTPS_PROXY, "
                "and repeat the command."
            ) from error
    record(
        None, Action.DOWNLOADED, export, project=export.project,
        shape=shape, pushed_to=str(url), private=private,
    )  # fmt: skip
    return str(url)


def _sentence(error: HfHubHTTPError, endpoint: str, repository: str) -> str:
    said = (error.server_message or str(error)).splitlines()[0].rstrip(".")
    if error.response.status_code >= 500:
        return f"{endpoint} is out of order just now ({said}): repeat the command later."
    return f"{endpoint} refused {repository}: {said}. Who pushes is whom `hf auth login` or HF_TOKEN says."


def write_repository(export: Export, shape: str, folder: Path) -> None:
    """What the repository holds: a card, the manifest, and a Parquet file for each split. Raises
    NotPushed, and NotDerived."""
    try:
        check_file(export, MANIFEST)
    except FileChanged as changed:
        raise NotPushed(str(changed)) from changed
    except FileNotFoundError as error:
        raise NotPushed(f"{MANIFEST} of export {export.pk} is missing.") from error
    lines = derive(export, shape, "jsonl")
    (folder / "data").mkdir()
    splits = write_parquet_splits(lines, SHAPES[shape].columns, folder / "data")
    (folder / "README.md").write_text(card(export, shape, splits), encoding="utf-8")
    shutil.copyfile(export.folder / MANIFEST, folder / MANIFEST)


def card(export: Export, shape: str, splits: list[str]) -> str:
    counts = export.manifest["counts"]
    files = "".join(f"  - split: {split}\n    path: data/{split}.parquet\n" for split in splits)
    return (
        f"---\nlicense: other\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n"
        f"# {export.project.name}: {SHAPES[shape].title}\n\n"
        f"{counts['judgments']:,} judgments by {counts['annotators']:,} annotators on "
        f"{counts['comparisons']:,} comparisons, frozen {export.manifest['created']} by Preferendum "
        f"as export {export.pk} (SHA-256 of data.jsonl: {export.sha256}). What each column means is in "
        "manifest.json.\n\n"
        f"Licence: {export.manifest.get('licence', 'none was stated.')}\n"
    )

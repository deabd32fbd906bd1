"""Pushing a result: its files become one commit of a repository that is new, or that holds results of Pare already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from webapp.engine.errors import quoted
from webapp.engine.progress import Report

from .errors import HubRefused

RECEIPT = "receipt.json"  # by which a repository is known to hold a result
NO_MODEL = (".gitattributes", "README.md", ".gitignore")  # what a repository has that was made by hand


def publish(
    endpoint: str, token: str, repo_id: str, folder: Path, private: bool, message: str, report: Report
) -> dict[str, Any]:
    """Pushes what is in the folder. Returns {"url": of the commit, "revision": its hash}.

    Large files are sent first, one after the other, and skipped where the hub has them. Raises HubRefused for a
    repository that holds something else, HubUnreachable.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint, token=token)
    report.progress(0.01, "Asking the hub")
    api.create_repo(repo_id, private=private, exist_ok=True)
    there = [entry.rfilename for entry in api.model_info(repo_id).siblings or ()]
    if RECEIPT not in there and (others := [name for name in there if name not in NO_MODEL]):
        raise HubRefused(
            f"{quoted(repo_id)} holds {others[0]} and no receipt of Pare: it is another model. Name a new repository."
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    total, done = sum(path.stat().st_size for path in files) or 1, 0
    operations = []
    for path in files:
        name = path.relative_to(folder).as_posix()
        report.progress(0.02 + 0.93 * done / total, f"Pushing {name}")
        operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
        api.preupload_lfs_files(repo_id, additions=[operation], free_memory=False)
        operations.append(operation)
        done += path.stat().st_size
    report.progress(0.96, "Committing")
    found = api.create_commit(repo_id, operations=operations, commit_message=message)
    return {"url": found.commit_url, "revision": found.oid}

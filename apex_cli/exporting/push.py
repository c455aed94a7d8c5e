"""To the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from apex_cli.errors import SetupError, UsageError


def check(repo: str) -> None:
    """Raise before any work is done where `repo` is no name, or the network is switched off."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"'{repo}' is no repository of the hub.", "Write it as OWNER/NAME.") from error
    if "/" not in repo:
        raise UsageError(f"'{repo}' has no owner.", "Write it as OWNER/NAME.")
    if constants.HF_HUB_OFFLINE:
        raise SetupError("HF_HUB_OFFLINE=1 forbids to push.", "Unset it, or leave out --push.")


def push(folder: Path, repo: str) -> str:
    """Create the repository if needed and upload `folder`; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export of apex")
    except Exception as error:  # the client's HTTP library, and so its errors, changed from version to version
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = f"The export is whole. Check the network and `hf auth login`, then: hf upload {repo} {folder}"
        raise SetupError(f"'{repo}' could not be pushed: {reason}", remedy) from error
    return str(address)

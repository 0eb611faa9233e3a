"""Send a model's folder to the Hub."""

from pathlib import Path

from huggingface_hub import HfApi


class PublishError(Exception):
    """A folder could not be sent; it is unchanged, and the message says how to try again."""


def push(folder: Path, repository: str, private: bool) -> str:
    """
    Make the repository if there is none, and upload all files of the folder.

    Returns:
        Where it can be seen.

    Raises:
        PublishError: the Hub cannot be reached, or refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Model, processor and card")
    except Exception as error:  # No network, no login and a refusal are errors of many types.
        raise PublishError(
            f"Could not send {folder} to {repository} ({' '.join(str(error).split())}); the folder is complete: log "
            f"in with `hf auth login` and try again with `hf upload {repository} {folder}`."
        ) from error
    return f"https://huggingface.co/{repository}"


__all__ = ["PublishError", "push"]

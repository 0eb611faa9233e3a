"""Models for the Hugging Face Hub: their cards, their folders, and sending them there."""

from huggingface_hub import constants, errors

from ..errors import FULL, advice_for, causes, errno_of


def reason(error: Exception, repo_id: str, to_do: str = "read") -> str:
    """Why the Hub did not do what it was asked to, and what to do about it."""
    chain = list(causes(error))
    responses = (getattr(cause, "response", None) for cause in chain)
    status = next((response.status_code for response in responses if response is not None), None)

    def is_any(*kinds: type) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    if is_any(errors.OfflineModeIsEnabled) or (constants.HF_HUB_OFFLINE and is_any(errors.LocalEntryNotFoundError)):
        return "the Hub is switched off by HF_HUB_OFFLINE; unset it"
    if is_any(errors.GatedRepoError):
        return f"access to it is restricted; ask for it at {constants.ENDPOINT}/{repo_id} and run `hf auth login`"
    if is_any(errors.RemoteEntryNotFoundError):
        return f"it has no such file; choose one of {constants.ENDPOINT}/{repo_id}/tree/main"
    if is_any(errors.RepositoryNotFoundError):
        return "there is no such repository that you may read; check the name, or run `hf auth login` if it is private"
    if is_any(errors.LocalTokenNotFoundError) or status == 401:
        return "log in with `hf auth login`"
    if status == 403:
        return f"this login may not {to_do} {repo_id}; take a token that may, or another repository"
    if errno_of(error) in FULL:
        return f"no space is left in {constants.HF_HUB_CACHE}; {advice_for(error, '')}"
    if status is None and (isinstance(error, OSError) or type(error).__module__.startswith("httpx")):
        return "the Hub cannot be reached; check the network"
    return f"the Hub says: {' '.join(str(error).split())}"
